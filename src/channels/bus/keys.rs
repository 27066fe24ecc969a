//! Publishers' keys: what was published under one is not published again while it is remembered.
//!
//! Invariants: a node remembers at most so many, and above that refuses what brings another, for to forget one early would let
//! something through twice. The bus in memory remembers the answers here; of Redis, where they are, this counts those that this
//! node has put there, which bounds their number and their bytes: each takes about two hundred.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use dzvin_actors::platform::ports::Once;
use dzvin_protocols::{channels::Position, platform::StreamName};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

/// Keys that a node has remembered at once, unless the configuration says otherwise: five minutes of six hundred a second, forty
/// megabytes.
pub const MAX_KEYS: usize = 200_000;
/// How long whoever is refused should wait: keys end one after the other.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Keys that end within so long of each other are counted together.
const GRAIN: Duration = Duration::from_millis(500);

/// How many keys are alive.
#[derive(Debug)]
pub(super) struct Counted {
    most: usize,
    /// When they end, and how many.
    ends: VecDeque<(Instant, usize)>,
    total: usize,
    gauge: Gauge,
}

impl Counted {
    pub(super) fn new(most: usize, gauge: Gauge) -> Self {
        Self { most, ends: VecDeque::new(), total: 0, gauge }
    }

    /// Whether there is room for one more. Of those that are asked for at once each has it.
    pub(super) fn has_room(&mut self) -> bool {
        self.has_room_at(Instant::now())
    }

    fn has_room_at(&mut self, now: Instant) -> bool {
        self.drop_old(now);
        self.total < self.most
    }

    /// Counts one more.
    pub(super) fn take(&mut self, window: Duration) {
        self.take_at(window, Instant::now());
    }

    fn take_at(&mut self, window: Duration, now: Instant) {
        self.total += 1;
        let end = now + window;
        match self.ends.back_mut() {
            Some((last, count)) if *last + GRAIN > end => {
                *last = end.max(*last);
                *count += 1;
            }
            _ => self.ends.push_back((end, 1)),
        }
        self.drop_old(now);
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some((ends, count)) = self.ends.front().copied()
            && ends <= now
        {
            self.ends.pop_front();
            self.total -= count;
        }
        self.gauge.set(i64::try_from(self.total).unwrap_or(i64::MAX));
    }
}

/// The answers, of a node that is alone.
#[derive(Debug)]
pub(super) struct Answers {
    most: usize,
    known: HashMap<(StreamName, [u8; 16]), (Option<Position>, Instant)>,
    /// In the order in which they were given.
    order: VecDeque<(StreamName, [u8; 16])>,
    gauge: Gauge,
}

impl Answers {
    pub(super) fn new(most: usize, gauge: Gauge) -> Self {
        Self { most, known: HashMap::new(), order: VecDeque::new(), gauge }
    }

    /// What was answered under this key, if that is remembered.
    pub(super) fn find(&mut self, stream: &StreamName, once: &Once) -> Option<Option<Position>> {
        self.drop_old();
        let (answer, ends) = self.known.get(&(stream.clone(), once.key))?;
        (*ends > Instant::now()).then(|| answer.clone())
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.order.len() < self.most
    }

    pub(super) fn remember(&mut self, stream: &StreamName, once: &Once, answer: Option<Position>) {
        let name = (stream.clone(), once.key);
        self.known.insert(name.clone(), (answer, Instant::now() + once.window));
        self.order.push_back(name);
        self.count();
    }

    /// They end in the order in which they came, for all have one window; should that ever differ, one that lives longer holds
    /// those behind it for as long.
    fn drop_old(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.order.front() {
            if self.known.get(oldest).is_some_and(|(_, ends)| *ends > now) {
                break;
            }
            self.known.remove(oldest);
            self.order.pop_front();
        }
        self.count();
    }

    fn count(&self) {
        self.gauge.set(i64::try_from(self.order.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_for_as_long_as_they_are_remembered() {
        let gauge = Gauge::default();
        let mut counted = Counted::new(3, gauge.clone());
        let (window, begun) = (Duration::from_secs(10), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        counted.take_at(window, at(0));
        counted.take_at(window, at(0));
        assert!(counted.has_room_at(at(5)));
        counted.take_at(window, at(5));
        assert!(!counted.has_room_at(at(5)));
        assert_eq!((gauge.get(), counted.ends.len()), (3, 2), "those that end together are one entry");
        assert!(counted.has_room_at(at(10)));
        assert_eq!(gauge.get(), 1);
        assert!(counted.has_room_at(at(20)));
        assert_eq!((gauge.get(), counted.ends.len()), (0, 0));
    }
}
