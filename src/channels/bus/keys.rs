//! Publishers' keys: what was published under one is not published again while it is remembered.
//!
//! Invariants: a node remembers at most so many, and above that refuses what brings another, for to forget one early would let
//! something through twice; each is counted once, however often it is offered; no publisher has so many that there is no room for
//! another. The bus in memory remembers the answers here; of Redis, where they are, this counts those that this node has put
//! there or may have, which bounds their number and their bytes: each takes about two hundred.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

/// Keys that a node has remembered at once, unless the configuration says otherwise: five minutes of six hundred a second, forty
/// megabytes.
pub const MAX_KEYS: usize = 200_000;
/// How long whoever is refused should wait: keys end one after the other.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// A publisher may have so many times as many as are still free: alone three of four, and whoever comes then three of four of the
/// rest. One that publishes on tens of thousands of channels at once, with a key on each, leaves room for all others.
const SHARE: usize = 3;

/// What is remembered, by name: of one bus.
#[derive(Debug)]
pub(super) struct Keys<N, V> {
    most: usize,
    known: HashMap<N, Known<V>>,
    /// Each of them once, with the moment at which to look whether it has ended.
    order: VecDeque<(Instant, N)>,
    /// How many each publisher has, those that are promised a place included.
    shares: HashMap<u64, usize>,
    promised: usize,
    gauge: Gauge,
}

#[derive(Debug)]
struct Known<V> {
    value: V,
    publisher: u64,
    ends: Instant,
}

impl<N: Clone + Eq + Hash, V> Keys<N, V> {
    pub(super) fn new(most: usize, gauge: Gauge) -> Self {
        Self { most, known: HashMap::new(), order: VecDeque::new(), shares: HashMap::new(), promised: 0, gauge }
    }

    /// What is remembered under this name.
    pub(super) fn find(&mut self, name: &N, now: Instant) -> Option<&V> {
        self.drop_old(now);
        self.known.get(name).filter(|known| known.ends > now).map(|known| &known.value)
    }

    /// Whether this publisher may have one more.
    pub(super) fn has_room(&mut self, publisher: u64, now: Instant) -> bool {
        self.drop_old(now);
        let free = self.most.saturating_sub(self.known.len() + self.promised);
        self.shares.get(&publisher).copied().unwrap_or_default() < free.saturating_mul(SHARE)
    }

    /// Keeps a place free for one, if there is room.
    pub(super) fn promise(&mut self, publisher: u64, now: Instant) -> bool {
        let room = self.has_room(publisher, now);
        if room {
            self.promised += 1;
            *self.shares.entry(publisher).or_default() += 1;
        }
        room
    }

    /// A place that was promised is free again.
    pub(super) fn release(&mut self, publisher: u64) {
        self.promised -= 1;
        self.give_back(publisher);
    }

    /// Remembers it from now on. It takes a place whether or not there is one: it has happened.
    pub(super) fn keep(&mut self, name: N, value: V, publisher: u64, window: Duration, now: Instant) {
        *self.shares.entry(publisher).or_default() += 1;
        let ends = now + window;
        match self.known.insert(name.clone(), Known { value, publisher, ends }) {
            Some(before) => self.give_back(before.publisher),
            None => self.order.push_back((ends, name)),
        }
        self.drop_old(now);
    }

    fn give_back(&mut self, publisher: u64) {
        if let Some(share) = self.shares.get_mut(&publisher) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&publisher);
            }
        }
    }

    /// They end in the order in which they came, for all have one window; should that ever differ, one that lives longer holds the
    /// places of those behind it for as long.
    fn drop_old(&mut self, now: Instant) {
        while let Some((at, name)) = self.order.front()
            && *at <= now
        {
            match self.known.get(name) {
                // Kept again meanwhile.
                Some(known) if known.ends > now => {
                    let later = (known.ends, name.clone());
                    self.order.push_back(later);
                }
                _ => {
                    if let Some(ended) = self.known.remove(name) {
                        self.give_back(ended.publisher);
                    }
                }
            }
            self.order.pop_front();
        }
        self.gauge.set(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn keys(most: usize) -> (Keys<u32, ()>, Gauge, impl Fn(u64) -> Instant) {
        let (gauge, begun) = (Gauge::default(), Instant::now());
        (Keys::new(most, gauge.clone()), gauge, move |seconds| begun + Duration::from_secs(seconds))
    }

    #[test]
    fn keys_are_counted_once_and_for_as_long_as_they_are_remembered() {
        let (mut keys, gauge, at) = keys(3);
        keys.keep(1, (), 1, WINDOW, at(0));
        keys.keep(2, (), 2, WINDOW, at(0));
        assert!(keys.has_room(3, at(5)));
        for second in 0..5 {
            keys.keep(1, (), 1, WINDOW, at(second));
        }
        keys.keep(3, (), 3, WINDOW, at(5));
        assert_eq!((gauge.get(), keys.order.len(), keys.shares.len()), (3, 3, 3));
        assert!(!keys.has_room(4, at(5)));
        assert!(keys.has_room(4, at(10)), "the second has ended");
        assert!(keys.find(&1, at(13)).is_some(), "the first was kept again");
        assert!(keys.find(&1, at(14)).is_none() && keys.find(&3, at(14)).is_some());
        assert_eq!(gauge.get(), 2, "its place is held by the third, which was there before it came again");
        assert!(keys.has_room(4, at(15)));
        assert_eq!((gauge.get(), keys.order.len(), keys.known.len(), keys.shares.len()), (0, 0, 0, 0));
    }

    #[test]
    fn one_that_lives_shorter_is_forgotten_in_time_behind_one_that_lives_longer() {
        let (mut keys, _, at) = keys(10);
        keys.keep(1, (), 1, WINDOW, at(0));
        keys.keep(2, (), 1, WINDOW / 5, at(0));
        assert!(keys.find(&2, at(1)).is_some() && keys.find(&2, at(2)).is_none() && keys.find(&1, at(2)).is_some());
        keys.keep(2, (), 1, WINDOW / 5, at(2));
        assert_eq!((keys.order.len(), keys.shares.get(&1)), (2, Some(&2)));
    }

    #[test]
    fn a_place_that_is_promised_is_nobody_elses() {
        let (mut keys, gauge, at) = keys(2);
        assert!(keys.promise(1, at(0)) && keys.promise(2, at(0)) && !keys.promise(3, at(0)));
        keys.release(1);
        assert!(keys.promise(3, at(0)));
        keys.release(2);
        keys.keep(1, (), 2, WINDOW, at(0));
        assert_eq!((gauge.get(), keys.promised), (1, 1));
        assert!(!keys.has_room(4, at(0)));
    }

    #[test]
    fn one_publisher_leaves_room_for_others() {
        let (mut keys, _, at) = keys(1_000);
        let mut taken = |publisher: u64, from: u32| {
            let admitted = (from..from + 1_000).take_while(|name| {
                let room = keys.has_room(publisher, at(0));
                if room {
                    keys.keep(*name, (), publisher, WINDOW, at(0));
                }
                room
            });
            admitted.count()
        };
        assert_eq!([taken(1, 0), taken(2, 1_000), taken(3, 2_000), taken(1, 0)], [750, 188, 47, 0]);
    }
}
