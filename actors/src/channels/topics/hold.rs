//! Holding back what is published on a stream: so that more leaves together, or so that of what changes often only the latest
//! leaves.
//!
//! Invariants: what is left out is told as skipped, so that subscribers stand where the stream stands. Of a kind nothing is left out that
//! a later change does not bring with it: changes of one entity are told as one (`Conflated`). What is held back is bounded in bytes.

use std::{
    collections::{BTreeMap, HashMap},
    mem::replace,
    sync::Arc,
    time::Duration,
};

use dzvin_protocols::{channels::Publication, entities::Conflated};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::channels::delivery::Item;

/// Bytes that may be held back of one stream; then they go at once.
const MAX_HELD: usize = 256 * 1024;

/// What of a stream's publications goes out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Conflate {
    /// All of them.
    #[default]
    Nothing,
    /// The latest.
    Channel,
    /// The latest of each value of a tag, and whatever has none.
    Tag(Arc<str>),
    /// Of a kind: those of each entity, as one.
    Entity,
}

/// For how long, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRules {
    /// At most so often something goes out.
    pub every: Duration,
    /// What goes out then.
    pub conflate: Conflate,
}

/// What goes out of one stream.
#[derive(Debug)]
pub(super) struct Released {
    /// Up to here everything had gone out before.
    pub(super) before: u64,
    /// In offset order.
    pub(super) publications: Vec<Publication>,
    /// What they stand for.
    pub(super) standing: Standing,
    /// What nothing keeps, each with the offset behind which it goes out, in that order.
    pub(super) passing: Vec<(u64, Arc<Item>)>,
}

/// What a publication stands for beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StandsFor {
    /// Offsets of the stream right before it that were left out.
    pub(super) skips: u64,
    /// Revisions right before it of its entity that it tells of as well.
    pub(super) earlier: u64,
    /// The offset of the first that it tells of: its own, if that is itself.
    pub(super) first: u64,
}

/// What publications stand for, by their offset; of those that stand for themselves alone nothing.
#[derive(Debug, Default)]
pub(super) struct Standing(HashMap<u64, StandsFor>);

impl Standing {
    /// What the publication at this offset stands for.
    pub(super) fn of(&self, offset: u64) -> StandsFor {
        self.0.get(&offset).copied().unwrap_or(StandsFor { skips: 0, earlier: 0, first: offset })
    }

    /// Of those that go out in this order whether each is open: something behind it stands for a change before it. Empty: none is.
    pub(super) fn open(&self, told: impl DoubleEndedIterator<Item = u64>) -> Vec<bool> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut behind = u64::MAX;
        let each = told.rev().map(|offset| {
            let first = self.of(offset).first.min(behind);
            replace(&mut behind, first) <= offset
        });
        let mut open: Vec<bool> = each.collect();
        open.reverse();
        open
    }
}

/// What is held back of one stream.
#[derive(Debug)]
pub(super) struct Hold {
    rules: HoldRules,
    /// Bytes beyond which it goes at once.
    most: usize,
    /// By the offset.
    waiting: BTreeMap<u64, Conflated>,
    /// Which of them a later one of the same replaces.
    latest: HashMap<Arc<str>, u64>,
    /// What nothing keeps, by arrival, each with the offset behind which it came.
    passing: BTreeMap<u64, (u64, Arc<Item>)>,
    /// Which of that something later of the same replaces.
    latest_passing: HashMap<Arc<str>, u64>,
    arrivals: u64,
    bytes: usize,
    /// Up to here everything has gone out or was left out.
    passed: u64,
    released: Option<Instant>,
    /// Somebody will come to release it.
    timed: bool,
    conflated: Counter,
}

impl Hold {
    /// Holds what follows the beginning of a stream; what is `conflated` is counted. What leaves together has to be well below what may
    /// wait for one session (`queue` bytes), or those who are not slow would be closed.
    pub(super) fn new(rules: HoldRules, queue: usize, conflated: Counter) -> Self {
        Self {
            rules,
            most: MAX_HELD.min(queue / 4),
            waiting: BTreeMap::new(),
            latest: HashMap::new(),
            passing: BTreeMap::new(),
            latest_passing: HashMap::new(),
            arrivals: 0,
            bytes: 0,
            passed: 0,
            released: None,
            timed: false,
            conflated,
        }
    }

    /// Up to which offset everything has gone out.
    pub(super) const fn passed(&self) -> u64 {
        self.passed
    }

    /// Bytes that are held back.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes publications that follow those before: as they came, or `read_back`, since one of them had been missed.
    pub(super) fn take<'a>(&mut self, fresh: impl IntoIterator<Item = &'a Publication>, read_back: bool) {
        for publication in fresh {
            let offset = publication.offset;
            let earlier = self.replaced(publication).and_then(|earlier| self.waiting.remove(&earlier));
            // Shown behind it, what is older would stand. What was read back may be older itself: then clocks have to tell.
            self.replace_passing(publication, |passing| !read_back || passing.at <= publication.at);
            if let Some(earlier) = &earlier {
                self.bytes -= earlier.size();
                self.conflated.inc();
            }
            let waits = match earlier {
                Some(mut all) if self.rules.conflate == Conflate::Entity => {
                    all.push(publication.clone());
                    all
                }
                _ => Conflated::new(publication.clone()),
            };
            self.bytes += waits.size();
            self.waiting.insert(offset, waits);
        }
    }

    /// Takes what nothing keeps. It has no offset, but its place among those that have one: of what is left out for it nobody has to be told.
    pub(super) fn pass(&mut self, item: Arc<Item>) {
        self.replace_passing(&item.publication, |_| true);
        self.arrivals += 1;
        if let Some(key) = key(&self.rules.conflate, &item.publication) {
            self.latest_passing.insert(key.into(), self.arrivals);
        }
        self.bytes += item.size();
        let behind = self.waiting.last_key_value().map_or(self.passed, |(offset, _)| *offset);
        self.passing.insert(self.arrivals, (behind, item));
    }

    /// What nothing keeps and this is later than goes out no more; what is later than this goes out behind it.
    fn replace_passing(&mut self, by: &Publication, is_later: impl Fn(&Publication) -> bool) {
        let Some(key) = key(&self.rules.conflate, by) else { return };
        let Some(at) = self.latest_passing.get(key).copied() else { return };
        let Some((behind, earlier)) = self.passing.get_mut(&at) else { return };
        if is_later(&earlier.publication) {
            self.bytes -= earlier.size();
            self.conflated.inc();
            self.passing.remove(&at);
            self.latest_passing.remove(key);
        } else {
            *behind = by.offset;
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.passing.is_empty()
    }

    /// Makes it the latest of its sort; answers the offset of the one before it, if one has been.
    fn replaced(&mut self, publication: &Publication) -> Option<u64> {
        let key = key(&self.rules.conflate, publication)?;
        if let Some(latest) = self.latest.get_mut(key) {
            return Some(replace(latest, publication.offset));
        }
        self.latest.insert(key.into(), publication.offset);
        None
    }

    /// Whether it goes out now. What changes often goes at once after a pause: the first of it should not be late.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let conflates = self.rules.conflate != Conflate::Nothing;
        !self.is_empty() && (self.bytes > self.most || (conflates && self.has_rested(now)))
    }

    fn has_rested(&self, now: Instant) -> bool {
        self.released.is_none_or(|at| now.saturating_duration_since(at) >= self.rules.every)
    }

    /// When somebody has to come and release it; asked once for each wait.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.is_empty() || replace(&mut self.timed, true) {
            return None;
        }
        let since = self.released.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Some(match self.rules.conflate {
            Conflate::Nothing => self.rules.every,
            Conflate::Channel | Conflate::Tag(_) | Conflate::Entity => self.rules.every.saturating_sub(since),
        })
    }

    /// The time is over; whether it goes out now. It may have been the time of what has left before, because it was too much: then the
    /// rest is asked for anew.
    pub(super) fn came(&mut self, now: Instant) -> bool {
        self.timed = false;
        !self.is_empty() && (self.rules.conflate == Conflate::Nothing || self.has_rested(now))
    }

    /// What goes out.
    pub(super) fn release(&mut self, now: Instant) -> Released {
        self.released = Some(now);
        self.latest.clear();
        let mut passing = self.take_passing();
        passing.sort_by_key(|(behind, _)| *behind);
        self.bytes = 0;
        let before = self.passed;
        let waiting = std::mem::take(&mut self.waiting);
        let (mut publications, mut standing) = (Vec::with_capacity(waiting.len()), Standing::default());
        for (offset, waits) in waiting {
            let skips = offset.saturating_sub(self.passed + 1);
            let of = StandsFor { skips, earlier: waits.earlier(), first: waits.first() };
            if of != standing.of(offset) {
                standing.0.insert(offset, of);
            }
            self.passed = offset;
            publications.push(waits.into_publication());
        }
        Released { before, publications, standing, passing }
    }

    /// What nothing keeps, by arrival, before its time.
    pub(super) fn let_pass(&mut self) -> Vec<Arc<Item>> {
        let passing: Vec<_> = self.take_passing().into_iter().map(|(_, item)| item).collect();
        self.bytes -= passing.iter().map(|it| it.size()).sum::<usize>();
        passing
    }

    fn take_passing(&mut self) -> Vec<(u64, Arc<Item>)> {
        self.latest_passing.clear();
        std::mem::take(&mut self.passing).into_values().collect()
    }

    /// The stream stands elsewhere: what waited is of the past.
    pub(super) fn reset(&mut self, passed: u64) {
        self.waiting = BTreeMap::new();
        self.latest = HashMap::new();
        (self.passing, self.latest_passing) = (BTreeMap::new(), HashMap::new());
        (self.bytes, self.passed) = (0, passed);
    }
}

/// Of what it is the latest; where nothing is left out, or the tag is missing, of nothing.
fn key<'a>(conflate: &Conflate, publication: &'a Publication) -> Option<&'a str> {
    Some(match conflate {
        Conflate::Nothing => return None,
        Conflate::Channel => "",
        Conflate::Tag(name) => publication.extra.as_ref().and_then(|extra| extra.tags.get(name))?,
        Conflate::Entity => publication.id.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use dzvin_protocols::{channels::Extra, platform::EntityId};
    use proptest::prelude::*;

    use super::*;

    fn publication(offset: u64, key: &str) -> Publication {
        let tags = BTreeMap::from([("lot".to_owned(), key.to_owned())]).try_into().expect("tags");
        let extra = Some(Arc::new(Extra { tags, ..Extra::default() }));
        let (id, data) = (EntityId::new("c").expect("id"), Bytes::from_static(b"{}"));
        Publication { offset, id, revision: offset, at: 0, data, trace: None, extra }
    }

    /// What goes out, each with how many before it were left out.
    fn told(released: &Released) -> Vec<(u64, u64)> {
        released.publications.iter().map(|told| (released.standing.of(told.offset).skips, told.offset)).collect()
    }

    /// As by default.
    const QUEUE: usize = 1024 * 1024;

    fn rules(conflate: Conflate) -> HoldRules {
        HoldRules { every: Duration::from_millis(100), conflate }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_what_changes_often_goes_at_once_and_then_the_latest_in_turn() {
        let (mut hold, began) = (Hold::new(rules(Conflate::Channel), QUEUE, Counter::default()), Instant::now());
        let after = |millis| began + Duration::from_millis(millis);
        hold.take([&publication(1, "")], false);
        assert!(hold.is_due(began) && hold.release(began).publications.len() == 1);
        hold.take([&publication(2, ""), &publication(3, "")], false);
        assert!(!hold.is_due(after(40)));
        assert_eq!(hold.wait(after(40)), Some(Duration::from_millis(60)));
        hold.take([&publication(4, "")], false);
        assert_eq!(hold.wait(after(50)), None, "asked already");
        assert!(hold.came(after(100)));
        assert_eq!((told(&hold.release(after(100))), hold.passed()), (vec![(2, 4)], 4));
        assert_eq!((hold.conflated.get(), hold.bytes()), (2, 0));
        assert_eq!(hold.wait(after(100)), None, "nothing waits");
    }

    /// What is replaced takes no room, what is told with it does, and what does not fit goes at once.
    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_by_what_would_leave() {
        let large = |offset: u64, key: &str| {
            let data = format!(r#"{{"op":"update","changed":["n"],"doc":"{}"}}"#, "x".repeat(MAX_HELD / 3));
            Publication { id: EntityId::new(key).expect("id"), data: data.into(), ..publication(offset, key) }
        };
        for conflate in [Conflate::Entity, Conflate::Tag("lot".into())] {
            let (mut hold, now) = (Hold::new(rules(conflate), QUEUE, Counter::default()), Instant::now());
            hold.release(now);
            (1..20).for_each(|n| hold.take([&large(n, ["a", "b"][n as usize % 2])], false));
            assert!(!hold.is_due(now) && hold.bytes() > MAX_HELD / 3 * 2, "{}", hold.bytes());
            hold.take([&large(20, "c")], false);
            assert!(hold.is_due(now));
            assert_eq!((told(&hold.release(now)), hold.bytes()), (vec![(17, 18), (0, 19), (0, 20)], 0));
        }
        let fields = |offset: u64| {
            let fields = Some(format!(r#"{{"is":{{"f":"{}"}}}}"#, "x".repeat(1_000)).into());
            Publication { extra: Some(Arc::new(Extra { fields, ..Extra::default() })), ..publication(offset, "") }
        };
        let (mut hold, now) = (Hold::new(rules(Conflate::Entity), QUEUE, Counter::default()), Instant::now());
        hold.release(now);
        (1..300).for_each(|n| hold.take([&fields(n)], false));
        assert!(hold.is_due(now), "one entity that changes as fast as it can: {}", hold.bytes());
    }

    /// What nothing keeps waits with the rest in the order in which both came, and of one thing the latest comes last, whichever sort it is of.
    #[tokio::test(start_paused = true)]
    async fn what_nothing_keeps_waits_as_well() {
        let passing = |n: u64, key: &str| Arc::new(Item::new(0, Publication { revision: n, ..publication(0, key) }));
        let shown = |released: Released| {
            let passing =
                released.passing.iter().map(|(behind, it)| (*behind, it.publication.revision)).collect::<Vec<_>>();
            (told(&released).into_iter().map(|(_, offset)| offset).collect::<Vec<_>>(), passing)
        };
        let all = vec![(0, 10), (1, 11), (2, 12), (2, 13)];
        for (conflate, kept, passed, last) in [
            (Conflate::Nothing, vec![1, 2], all.clone(), 7),
            (Conflate::Channel, vec![2], vec![(2, 13)], 8),
            (Conflate::Tag("lot".into()), vec![1, 2], vec![(2, 12), (2, 13)], 8),
            (Conflate::Tag("of none".into()), vec![1, 2], all, 7),
        ] {
            let (mut hold, now) = (Hold::new(rules(conflate.clone()), QUEUE, Counter::default()), Instant::now());
            hold.release(now);
            hold.pass(passing(10, "a"));
            assert!(!hold.is_due(now) && hold.wait(now).is_some() && hold.bytes() > 0);
            hold.take([&publication(1, "a")], false);
            hold.pass(passing(11, "b"));
            hold.take([&publication(2, "b")], false);
            hold.pass(passing(12, "a"));
            hold.pass(passing(13, "b"));
            assert!(hold.came(now + Duration::from_secs(1)));
            assert_eq!(shown(hold.release(now)), (kept, passed), "{conflate:?}");
            assert_eq!((hold.bytes(), hold.passed(), hold.wait(now)), (0, 2, None));
            hold.pass(passing(14, "a"));
            assert_eq!(hold.let_pass().len(), 1);
            hold.reset(7);
            assert!(hold.bytes() == 0 && shown(hold.release(now)) == (vec![], vec![]));
            // Read behind it, though published before it: of one thing the latest comes last, of others what was missed.
            hold.pass(Arc::new(Item::new(0, Publication { at: 9, revision: 15, ..publication(0, "a") })));
            hold.take([&Publication { at: 8, ..publication(8, "a") }], true);
            assert_eq!(shown(hold.release(now)), (vec![8], vec![(last, 15)]));
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_what_something_later_replaces(keys in proptest::collection::vec(0..4u8, 1..60), cuts in proptest::collection::vec(any::<bool>(), 60), by in 0..3u8) {
            let conflate = [Conflate::Nothing, Conflate::Channel, Conflate::Tag("lot".into())][usize::from(by)].clone();
            let (mut hold, now) = (Hold::new(rules(conflate.clone()), QUEUE, Counter::default()), Instant::now());
            let (mut next, mut shown) = (1, Vec::new());
            for (n, key) in keys.iter().enumerate() {
                hold.take([&publication(n as u64 + 1, &key.to_string())], false);
                if cuts[n] || n + 1 == keys.len() {
                    for (skips, offset) in told(&hold.release(now)) {
                        prop_assert_eq!(offset - skips, next, "no gap");
                        next = offset + 1;
                        shown.push(offset);
                    }
                    prop_assert_eq!(next, n as u64 + 2, "stands where the stream stands");
                }
            }
            // The latest of each key has been shown, and with nothing left out all of them.
            for key in 0..4u8 {
                let of_key = |n: &usize| keys[*n] == key;
                if let Some(latest) = (0..keys.len()).rev().find(of_key)
                    && conflate != Conflate::Channel
                {
                    prop_assert!(shown.contains(&(latest as u64 + 1)));
                }
            }
            if conflate == Conflate::Nothing { prop_assert_eq!(shown.len(), keys.len()); }
        }
    }
}
