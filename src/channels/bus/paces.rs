//! How often something may be published on a channel, or by a user, as this node counts it by itself.
//!
//! A channel or user is known for as long as it is not yet back at its full pace, so there are as many as have published, or been
//! published on, within the last second. Above the limit a new one is refused: to let it through uncounted would open the door to
//! whoever uses many.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// Channels, or users, that are counted at once: more than a node publishes on in a second, ten megabytes.
const MAX_COUNTED: usize = 100_000;
/// Between two looks for those that are back at their full pace, while there is no room.
const SWEEP: Duration = Duration::from_millis(100);
/// From this size on it is looked from time to time whether less will do.
const SWEEP_FROM: usize = 1024;

/// Stands for a user: half a hash of the name, which is as long as it likes and nobody's business in a key of Redis.
pub(super) type Person = [u8; 16];

pub(super) fn person(user: &str) -> Person {
    let mut person = [0; 16];
    person.copy_from_slice(&Sha256::digest(user.as_bytes())[..16]);
    person
}

/// Buckets that refill with time.
#[derive(Debug)]
pub(super) struct Paces<K> {
    state: Mutex<State<K>>,
    gauge: Gauge,
}

#[derive(Debug)]
struct State<K> {
    buckets: HashMap<K, Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refilled(&self, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * self.per_second).min(self.per_second)
    }
}

impl<K: Clone + Eq + Hash> Paces<K> {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { state: Mutex::new(State { buckets: HashMap::new(), swept: None }), gauge }
    }

    /// Counts one more; how long to wait when that is one too many.
    pub(super) fn wait(&self, of: &K, per_second: u32) -> Option<Duration> {
        self.wait_at(of, per_second, Instant::now())
    }

    /// One that was counted did not happen.
    pub(super) fn give_back(&self, of: &K) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = state.buckets.get_mut(of) {
            bucket.left = (bucket.left + 1.0).min(bucket.per_second);
        }
    }

    fn wait_at(&self, of: &K, per_second: u32, now: Instant) -> Option<Duration> {
        let per_second = f64::from(per_second.max(1));
        // Nothing panics while it is held.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { buckets, swept } = &mut *state;
        if buckets.len() >= SWEEP_FROM {
            let full = buckets.len() >= MAX_COUNTED && !buckets.contains_key(of);
            let every = if full { SWEEP } else { SWEEP * 10 };
            if swept.is_none_or(|at| now.saturating_duration_since(at) >= every) {
                *swept = Some(now);
                buckets.retain(|_, bucket| bucket.refilled(now) < bucket.per_second);
            }
            if full && buckets.len() >= MAX_COUNTED {
                return Some(SWEEP);
            }
        }
        let fresh = Bucket { per_second, left: per_second, at: now };
        let bucket = buckets.entry(of.clone()).or_insert(fresh);
        bucket.per_second = per_second;
        // Of two that come at once the later may have been counted first.
        (bucket.left, bucket.at) = (bucket.refilled(now), now.max(bucket.at));
        let wait = if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            None
        } else {
            Some(Duration::from_secs_f64((1.0 - bucket.left) / per_second))
        };
        self.gauge.set(i64::try_from(buckets.len()).unwrap_or(i64::MAX));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_the_pace_comes_at_once_and_time_gives_it_back() {
        let (paces, begun) = (Paces::new(Gauge::default()), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        let admitted = |n: usize, millis| (0..20).filter(|_| paces.wait_at(&n, 10, at(millis)).is_none()).count();
        assert_eq!((admitted(1, 0), admitted(2, 0), admitted(1, 0)), (10, 10, 0));
        let wait = paces.wait_at(&1, 10, at(0)).expect("one too many");
        assert_eq!(wait, Duration::from_millis(100), "until the next has grown");
        assert_eq!(admitted(1, 100), 1);
        assert_eq!(admitted(1, 60_000), 10, "no more than a second's worth is saved");
        assert_eq!(admitted(1, 0), 0, "a clock that stands still gives nothing");
        paces.give_back(&1);
        assert_eq!(admitted(1, 60_000), 1, "what did not happen is not counted");
        for _ in 0..20 {
            paces.give_back(&1);
        }
        paces.give_back(&3);
        assert_eq!(admitted(1, 60_000), 10, "nobody has more than all of it");
    }

    #[test]
    fn channels_are_forgotten_when_they_are_rested_and_never_let_through_uncounted() {
        let (gauge, begun) = (Gauge::default(), Instant::now());
        let paces = Paces::new(gauge.clone());
        for n in 0..MAX_COUNTED {
            assert_eq!(paces.wait_at(&n, 1, begun), None);
        }
        assert!(paces.wait_at(&MAX_COUNTED, 1, begun).is_some(), "there is no room for another");
        assert!(paces.wait_at(&0, 1, begun).is_some(), "who is known is still counted");
        assert_eq!(paces.wait_at(&MAX_COUNTED, 1, begun + Duration::from_secs(2)), None);
        assert_eq!(gauge.get(), 1);
    }
}
