//! Recovery for those whom not everything concerns: who listens to a query, or does not see all of a kind. What concerned them after a
//! position, gap-free or not at all.
//!
//! Everything that the kind said since is read, from the bus or else from the log, and what does not concern them is dropped on the way.
//! What is kept is bounded as every recovery is. What is looked through for it has a limit of its own, for a viewer of few rows must
//! not load anew because of what others see; and since a filter that hardly anything meets must not walk the whole log for one
//! answer, whatever is more than a recovery may bring is looked through by few at a time, and for a part of the time that a
//! command has: who comes too late loads anew, and does not ask for the same again.
//!
//! Invariants: as those of `gap`; publications are those that were told, or would have been, to whoever was there.

use std::time::Duration;

use dzvin_protocols::{
    channels::{Position, Publication},
    entities::{Change, Concern, FieldChange, Sight, lean, told_by_query},
    platform::Kind,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

use super::gap::{Cause, Fold, HistoryError, Recovered};
use crate::platform::ports::{Bus, ChangeLog, Query, ReadLimit, Slice};

/// Publications read at a time: what is dropped should not stand in memory together.
const PAGE: usize = 500;
/// Bytes read at a time.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Who may look through more than a recovery may bring at the same time: each has a page in memory, and keeps the database busy. They are
/// few of those who come back, and after an outage all come at once.
const DEEP_LOOKS: usize = 4;
static DEEP: Semaphore = Semaphore::const_new(DEEP_LOOKS);

/// How much a recovery may bring, and look through for it.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// What it brings.
    pub limit: ReadLimit,
    /// Changes that it looks through, if that is more.
    pub depth: u64,
    /// How long it may look through more than it may bring.
    pub within: Duration,
}

/// What concerned the query after `after`, as much of it as is seen.
///
/// # Errors
/// [`HistoryError`] when the question cannot be answered now.
pub async fn query_since<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    query: &Query,
    after: &Position,
    reach: Reach,
    sight: Option<&Sight>,
) -> Result<Recovered, HistoryError> {
    walk(bus, log, &query.kind, after, reach, Eye { query: Some(query), sight }).await
}

/// What somebody who does not see everything is shown of what the kind said after `after`; `position` is the stream's all the same.
///
/// # Errors
/// [`HistoryError`] when the question cannot be answered now.
pub async fn seen_since<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    kind: &Kind,
    after: &Position,
    reach: Reach,
    sight: &Sight,
) -> Result<Recovered, HistoryError> {
    walk(bus, log, kind, after, reach, Eye { query: None, sight: Some(sight) }).await
}

async fn walk<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    kind: &Kind,
    after: &Position,
    reach: Reach,
    eye: Eye<'_>,
) -> Result<Recovered, HistoryError> {
    let (stream, mut pass) = (kind.stream(), Pass { until: Instant::now() + reach.within, place: None });
    let too_many = |position| Ok(Recovered::Unrecoverable { position, cause: Cause::Count });
    // Whatever the bus is not sure of is asked of the log from the beginning.
    let mut walk = Walk::new(eye, after, reach);
    while let Ok(Some(slice)) = bus.read(&stream, walk.at, walk.page()).await {
        match walk.take(slice) {
            Step::More(position) => {
                if walk.is_deep() && !pass.holds().await {
                    return too_many(position);
                }
            }
            Step::Done(position) => return Ok(walk.finish(position)),
            Step::Cut(position, Cause::Count) => return too_many(position),
            Step::Cut(..) => break,
        }
    }
    let mut walk = Walk::new(eye, after, reach);
    loop {
        let read = log.read(kind, walk.at, walk.page()).await.map_err(HistoryError::Log)?;
        let slice = read.ok_or(HistoryError::Unknown)?;
        let publications = slice.changes.iter().map(Change::publication).collect();
        match walk.take(Slice { position: slice.position, publications, complete: slice.complete }) {
            Step::More(position) => {
                if walk.is_deep() && !pass.holds().await {
                    return too_many(position);
                }
            }
            Step::Done(position) => return Ok(walk.finish(position)),
            Step::Cut(position, cause) => return Ok(Recovered::Unrecoverable { position, cause }),
        }
    }
}

/// The right to look further than a recovery may bring.
struct Pass {
    until: Instant,
    place: Option<SemaphorePermit<'static>>,
}

impl Pass {
    /// Whether there is time and room for another page.
    async fn holds(&mut self) -> bool {
        if self.place.is_none() {
            self.place = timeout_at(self.until, DEEP.acquire()).await.ok().and_then(Result::ok);
        }
        self.place.is_some() && Instant::now() < self.until
    }
}

/// For whom it is looked.
#[derive(Clone, Copy)]
struct Eye<'a> {
    query: Option<&'a Query>,
    sight: Option<&'a Sight>,
}

/// A publication does not say enough to tell whom it concerns.
struct Untold;

impl Eye<'_> {
    /// What is told of a publication, whole and as a reference; `None`: nothing.
    fn told(self, publication: &Publication) -> Result<Option<(Publication, Publication)>, Untold> {
        let Some(query) = self.query else {
            return Ok(self.seen(publication)?.map(|told| (told.clone(), lean(&told))));
        };
        let fields = publication.extra.as_deref().and_then(|extra| extra.fields.as_deref());
        let change = fields.and_then(FieldChange::parse).ok_or(Untold)?;
        let Some(concern) = query.filter.concern(&change).map_err(|_| Untold)? else { return Ok(None) };
        let told = self.seen(&told_by_query(publication, concern))?;
        // Who leaves has no document to begin with.
        Ok(told.map(|told| (told.clone(), if concern == Concern::Leave { told } else { lean(&told) })))
    }

    fn seen(self, publication: &Publication) -> Result<Option<Publication>, Untold> {
        match self.sight {
            Some(sight) => sight.tell(publication).map_err(|_| Untold),
            None => Ok(Some(publication.clone())),
        }
    }
}

enum Step {
    /// Read on; with where the stream was when the first page was read.
    More(Position),
    Done(Position),
    Cut(Position, Cause),
}

struct Walk<'a> {
    eye: Eye<'a>,
    after: &'a Position,
    reach: Reach,
    at: u64,
    /// The first page's top: what is committed meanwhile comes live.
    target: Option<Position>,
    kept: usize,
    fold: Fold,
}

impl<'a> Walk<'a> {
    fn new(eye: Eye<'a>, after: &'a Position, reach: Reach) -> Self {
        Self { eye, after, reach, at: after.offset, target: None, kept: 0, fold: Fold::new(reach.limit.bytes) }
    }

    fn page(&self) -> ReadLimit {
        let left = self.target.as_ref().map_or(self.reach.limit.count as u64, |target| target.offset - self.at);
        ReadLimit { count: usize::try_from(left).unwrap_or(PAGE).clamp(1, PAGE), bytes: PAGE_BYTES }
    }

    fn distance(&self) -> Option<u64> {
        self.target.as_ref()?.offset.checked_sub(self.after.offset)
    }

    /// Whether it looks through more than it may bring.
    fn is_deep(&self) -> bool {
        self.distance().is_some_and(|distance| distance > self.reach.limit.count as u64)
    }

    fn take(&mut self, slice: Slice) -> Step {
        let Slice { position, publications, complete } = slice;
        let cut = |cause| Step::Cut(position.clone(), cause);
        if position.epoch != self.after.epoch {
            return cut(Cause::Epoch);
        }
        let target = self.target.get_or_insert_with(|| position.clone()).clone();
        let Some(distance) = self.distance() else { return cut(Cause::Ahead) };
        if distance > self.reach.depth.max(self.reach.limit.count as u64) {
            return cut(Cause::Count);
        }
        let from = self.at;
        for publication in publications.iter().take_while(|it| it.offset <= target.offset) {
            if publication.offset != self.at + 1 {
                return cut(Cause::Retention);
            }
            self.at += 1;
            match self.eye.told(publication) {
                Ok(None) => {}
                Ok(Some((whole, reference))) => {
                    self.kept += 1;
                    if self.kept > self.reach.limit.count {
                        return cut(Cause::Count);
                    }
                    if !self.fold.push_both(whole, reference) {
                        return cut(Cause::Bytes);
                    }
                }
                Err(Untold) => return cut(Cause::Untold),
            }
        }
        if self.at == target.offset {
            return Step::Done(target);
        }
        if complete && self.at > from { Step::More(target) } else { cut(Cause::Retention) }
    }

    fn finish(self, position: Position) -> Recovered {
        Recovered::Complete { position, publications: self.fold.finish() }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dzvin_protocols::{
        channels::{Epoch, Extra},
        entities::{Filter, Values},
        platform::EntityId,
    };

    use super::*;

    const COUNT: usize = 3;

    /// One of a thousand rows is seen, and of `seen` others each.
    fn walk_over(top: u64, depth: u64, seen: impl Fn(u64) -> bool) -> (Vec<u64>, Option<Cause>) {
        let declared = ["owner".to_owned()];
        let change = |offset: u64| {
            let doc = if seen(offset) { r#"{"owner":"me"}"# } else { r#"{"owner":"other"}"# };
            let fields =
                FieldChange::new(Some(Values::of_stored(doc, &declared)), Some(Values::of_stored(doc, &declared)));
            let extra = Some(std::sync::Arc::new(Extra { fields: Some(fields.encode().into()), ..Extra::default() }));
            let data = Bytes::from_static(br#"{"op":"update","changed":["a"],"doc":{"a":1}}"#);
            Publication {
                offset,
                id: EntityId::new("a").expect("id"),
                revision: offset,
                at: 0,
                data,
                trace: None,
                extra,
            }
        };
        let sight = Sight::new(None, Some(Filter::parse(r#"{"owner":"me"}"#).expect("a filter")));
        let (epoch, eye) = (Epoch::new("e"), Eye { query: None, sight: Some(&sight) });
        let after = Position { epoch: epoch.clone(), offset: 0 };
        let reach = Reach { limit: ReadLimit { count: COUNT, bytes: 1 << 20 }, depth, within: Duration::from_secs(1) };
        let mut walk = Walk::new(eye, &after, reach);
        loop {
            let (from, page) = (walk.at, walk.page());
            let publications: Vec<_> = (from + 1..=top).take(page.count).map(change).collect();
            let position = Position { epoch: epoch.clone(), offset: top };
            match walk.take(Slice { position, publications, complete: true }) {
                Step::More(target) => assert_eq!((target.offset, walk.is_deep()), (top, top > COUNT as u64)),
                Step::Done(_) => {
                    let Recovered::Complete { position, publications } = walk.finish(after.clone()) else {
                        panic!("complete")
                    };
                    assert_eq!(position, after);
                    return (publications.iter().map(|it| it.offset).collect(), None);
                }
                Step::Cut(_, cause) => return (Vec::new(), Some(cause)),
            }
        }
    }

    #[test]
    fn only_what_is_seen_counts_among_what_may_be_brought() {
        assert_eq!(walk_over(3, 0, |_| true), (vec![1, 2, 3], None));
        assert_eq!(walk_over(4, 0, |_| true), (vec![], Some(Cause::Count)), "no depth is what may be brought");
        assert_eq!(walk_over(2_000, 2_000, |n| n % 1_000 == 7), (vec![7, 1_007], None));
        assert_eq!(walk_over(2_000, 2_000, |_| false), (vec![], None));
        assert_eq!(walk_over(2_000, 2_000, |n| n % 500 == 7), (vec![], Some(Cause::Count)), "four");
        assert_eq!(walk_over(2_001, 2_000, |_| false), (vec![], Some(Cause::Count)), "too far back");
    }

    #[tokio::test(start_paused = true)]
    async fn few_look_far_at_a_time_and_none_for_long() {
        let pass = || Pass { until: Instant::now() + Duration::from_secs(2), place: None };
        let mut held: Vec<Pass> = (0..DEEP_LOOKS).map(|_| pass()).collect();
        for one in &mut held {
            assert!(one.holds().await);
        }
        let (mut late, began) = (pass(), Instant::now());
        assert!(!late.holds().await && began.elapsed() == Duration::from_secs(2));
        assert!(!held[0].holds().await, "its time is over");
        held.pop();
        let mut next = pass();
        assert!(next.holds().await);
    }
}
