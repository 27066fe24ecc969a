//! Recovery of a query: what concerned it after a position, gap-free or not at all.
//!
//! Everything that the kind said since is read, from the bus or else from the log, and what does not concern the query is
//! dropped on the way. The limits hold for what is read (how many) and for what is kept (bytes): a filter that hardly
//! anything meets must not walk the whole log for one answer.
//!
//! Invariants: as those of `gap`; publications are those that `topics` would have told.

use dzvin_protocols::{
    channels::Position,
    entities::{Change, Concern, FieldChange, Sight, Undeclared, lean, told_by_query},
};

use super::gap::{Cause, Fold, HistoryError, Recovered};
use crate::platform::ports::{Bus, ChangeLog, Query, ReadLimit, Slice};

/// Publications read at a time: what is dropped should not stand in memory together.
const PAGE: usize = 500;
/// Bytes read at a time.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What concerned the query after `after`, within the limit, as much of it as is seen.
///
/// # Errors
/// [`HistoryError`] when the question cannot be answered now.
pub async fn query_since<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    query: &Query,
    after: &Position,
    limit: ReadLimit,
    sight: Option<&Sight>,
) -> Result<Recovered, HistoryError> {
    let stream = query.kind.stream();
    let mut walk = Walk::new(query, after, limit, sight);
    // Whatever the bus is not sure of is asked of the log from the beginning.
    while let Ok(Some(slice)) = bus.read(&stream, walk.at, walk.page()).await {
        match walk.take(slice) {
            Step::More => {}
            Step::Done(position) => return Ok(walk.finish(position)),
            Step::Cut(..) => break,
        }
    }
    let mut walk = Walk::new(query, after, limit, sight);
    loop {
        let read = log.read(&query.kind, walk.at, walk.page()).await.map_err(HistoryError::Log)?;
        let slice = read.ok_or(HistoryError::Unknown)?;
        let publications = slice.changes.iter().map(Change::publication).collect();
        match walk.take(Slice { position: slice.position, publications, complete: slice.complete }) {
            Step::More => {}
            Step::Done(position) => return Ok(walk.finish(position)),
            Step::Cut(position, cause) => return Ok(Recovered::Unrecoverable { position, cause }),
        }
    }
}

enum Step {
    More,
    Done(Position),
    Cut(Position, Cause),
}

struct Walk<'a> {
    query: &'a Query,
    after: &'a Position,
    limit: ReadLimit,
    sight: Option<&'a Sight>,
    at: u64,
    /// The first page's top: what is committed meanwhile comes live.
    target: Option<Position>,
    fold: Fold,
}

impl<'a> Walk<'a> {
    fn new(query: &'a Query, after: &'a Position, limit: ReadLimit, sight: Option<&'a Sight>) -> Self {
        Self { query, after, limit, sight, at: after.offset, target: None, fold: Fold::new(limit.bytes) }
    }

    fn page(&self) -> ReadLimit {
        let left = self.target.as_ref().map_or(self.limit.count as u64, |target| target.offset - self.at);
        ReadLimit { count: usize::try_from(left).unwrap_or(PAGE).clamp(1, PAGE), bytes: PAGE_BYTES }
    }

    fn take(&mut self, slice: Slice) -> Step {
        let Slice { position, publications, complete } = slice;
        let cut = |cause| Step::Cut(position.clone(), cause);
        if position.epoch != self.after.epoch {
            return cut(Cause::Epoch);
        }
        let target = self.target.get_or_insert_with(|| position.clone());
        let Some(distance) = target.offset.checked_sub(self.after.offset) else { return cut(Cause::Ahead) };
        if distance > self.limit.count as u64 {
            return cut(Cause::Count);
        }
        let from = self.at;
        for publication in publications.iter().take_while(|it| it.offset <= target.offset) {
            if publication.offset != self.at + 1 {
                return cut(Cause::Retention);
            }
            self.at += 1;
            let fields = publication.extra.as_deref().and_then(|extra| extra.fields.as_deref());
            let concern = fields.and_then(FieldChange::parse).map(|change| self.query.filter.concern(&change));
            let fits = match concern {
                Some(Ok(None)) => true,
                Some(Ok(Some(concern))) => {
                    let whole = told_by_query(publication, concern);
                    let seen = match self.sight {
                        Some(sight) => sight.tell(&whole),
                        None => Ok(Some(whole)),
                    };
                    match seen {
                        Ok(Some(whole)) => {
                            let reference = if concern == Concern::Leave { whole.clone() } else { lean(&whole) };
                            self.fold.push_both(whole, reference)
                        }
                        Ok(None) => true,
                        Err(Undeclared) => return cut(Cause::Untold),
                    }
                }
                Some(Err(_)) | None => return cut(Cause::Untold),
            };
            if !fits {
                return cut(Cause::Bytes);
            }
        }
        if self.at == target.offset {
            return Step::Done(target.clone());
        }
        if complete && self.at > from { Step::More } else { cut(Cause::Retention) }
    }

    fn finish(self, position: Position) -> Recovered {
        Recovered::Complete { position, publications: self.fold.finish() }
    }
}
