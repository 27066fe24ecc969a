//! Holding back what is published on a channel of the application: so that more leaves together, or so that of what changes
//! often only the latest leaves.
//!
//! Invariant: what is left out is told as skipped, so that subscribers stand where the stream stands.

use std::{collections::HashMap, sync::Arc, time::Duration};

use dzvin_protocols::channels::Publication;
use tokio::time::Instant;

/// Bytes that may be held back of one channel; then they go at once.
const MAX_HELD: usize = 256 * 1024;

/// What of a channel's publications goes out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Conflate {
    /// All of them.
    #[default]
    Nothing,
    /// The latest.
    Channel,
    /// The latest of each value of a tag.
    Tag(Arc<str>),
}

/// For how long, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRules {
    /// At most so often something goes out.
    pub every: Duration,
    /// What goes out then.
    pub conflate: Conflate,
}

/// What is held back of one channel.
#[derive(Debug)]
pub(super) struct Hold {
    rules: HoldRules,
    waiting: Vec<Publication>,
    bytes: usize,
    /// Up to here everything has gone out or was left out.
    passed: u64,
    released: Option<Instant>,
    /// Somebody will come to release it.
    timed: bool,
}

impl Hold {
    /// Holds what follows this offset.
    pub(super) fn new(rules: HoldRules, passed: u64) -> Self {
        Self { rules, waiting: Vec::new(), bytes: 0, passed, released: None, timed: false }
    }

    /// Up to which offset everything has gone out.
    pub(super) const fn passed(&self) -> u64 {
        self.passed
    }

    /// Takes publications that follow those before.
    pub(super) fn take(&mut self, fresh: impl IntoIterator<Item = Publication>) {
        for publication in fresh {
            self.bytes += publication.size();
            self.waiting.push(publication);
        }
    }

    /// Whether it goes out now. What changes often goes at once after a pause: the first of it should not be late.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let rested = || self.released.is_none_or(|at| now.saturating_duration_since(at) >= self.rules.every);
        !self.waiting.is_empty() && (self.bytes > MAX_HELD || (self.rules.conflate != Conflate::Nothing && rested()))
    }

    /// When somebody has to come and release it; asked once for each wait.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.waiting.is_empty() || std::mem::replace(&mut self.timed, true) {
            return None;
        }
        let since = self.released.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Some(match self.rules.conflate {
            Conflate::Nothing => self.rules.every,
            Conflate::Channel | Conflate::Tag(_) => self.rules.every.saturating_sub(since),
        })
    }

    /// The time is over.
    pub(super) const fn came(&mut self) {
        self.timed = false;
    }

    /// What goes out, each with how many before it were left out.
    pub(super) fn release(&mut self, now: Instant) -> Vec<(u64, Publication)> {
        self.released = Some(now);
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let kept: Vec<Publication> = match &self.rules.conflate {
            Conflate::Nothing => waiting,
            Conflate::Channel => waiting.into_iter().next_back().into_iter().collect(),
            Conflate::Tag(name) => {
                let last: HashMap<String, u64> =
                    waiting.iter().map(|it| (key(it, name).to_owned(), it.offset)).collect();
                waiting.into_iter().filter(|it| last.get(key(it, name)) == Some(&it.offset)).collect()
            }
        };
        let mut passed = self.passed;
        let told = kept.into_iter().map(|it| {
            let skips = it.offset.saturating_sub(passed + 1);
            passed = it.offset;
            (skips, it)
        });
        let told = told.collect();
        self.passed = passed;
        told
    }

    /// The stream stands elsewhere: what waited is of the past.
    pub(super) fn reset(&mut self, passed: u64) {
        self.waiting = Vec::new();
        (self.bytes, self.passed) = (0, passed);
    }
}

fn key<'a>(publication: &'a Publication, tag: &str) -> &'a str {
    publication.extra.as_ref().and_then(|extra| extra.tags.get(tag)).unwrap_or_default()
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

    fn rules(conflate: Conflate) -> HoldRules {
        HoldRules { every: Duration::from_millis(100), conflate }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_what_changes_often_goes_at_once_and_then_the_latest_in_turn() {
        let (mut hold, began) = (Hold::new(rules(Conflate::Channel), 0), Instant::now());
        let after = |millis| began + Duration::from_millis(millis);
        hold.take([publication(1, "")]);
        assert!(hold.is_due(began) && hold.release(began).len() == 1);
        hold.take([publication(2, ""), publication(3, "")]);
        assert!(!hold.is_due(after(40)));
        assert_eq!(hold.wait(after(40)), Some(Duration::from_millis(60)));
        hold.take([publication(4, "")]);
        assert_eq!(hold.wait(after(50)), None, "asked already");
        hold.came();
        let told: Vec<(u64, u64)> = hold.release(after(100)).iter().map(|(skips, it)| (*skips, it.offset)).collect();
        assert_eq!((told, hold.passed()), (vec![(2, 4)], 4));
        assert_eq!(hold.wait(after(100)), None, "nothing waits");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_what_something_later_replaces(keys in proptest::collection::vec(0..4u8, 1..60), cuts in proptest::collection::vec(any::<bool>(), 60), by in 0..3u8) {
            let conflate = [Conflate::Nothing, Conflate::Channel, Conflate::Tag("lot".into())][usize::from(by)].clone();
            let (mut hold, now) = (Hold::new(rules(conflate.clone()), 0), Instant::now());
            let (mut next, mut shown) = (1, Vec::new());
            for (n, key) in keys.iter().enumerate() {
                hold.take([publication(n as u64 + 1, &key.to_string())]);
                if cuts[n] || n + 1 == keys.len() {
                    for (skips, it) in hold.release(now) {
                        prop_assert_eq!(it.offset - skips, next, "no gap");
                        next = it.offset + 1;
                        shown.push(it.offset);
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
