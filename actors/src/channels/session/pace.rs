//! How often one client may ask: a bucket that refills with time.

use std::time::Instant;

/// The pace of one client. Without a limit it costs nothing.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<Bucket>,
    refused: u32,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    at_once: f64,
    left: f64,
    at: Instant,
}

impl Pace {
    /// So many a second on average, and as many at once.
    pub(super) fn new(per_second: Option<u32>) -> Self {
        let bucket = |n: u32| Bucket { per_second: n.into(), at_once: n.into(), left: n.into(), at: Instant::now() };
        Self { limit: per_second.map(bucket), refused: 0 }
    }

    /// So many a second on average, and so many at once.
    pub(super) fn bursting(per_second: u32, at_once: u32) -> Self {
        let bucket =
            Bucket { per_second: per_second.into(), at_once: at_once.into(), left: at_once.into(), at: Instant::now() };
        Self { limit: Some(bucket), refused: 0 }
    }

    /// Whether one more is within the limit; then it is counted.
    pub(super) fn admits(&mut self) -> bool {
        self.admits_at(Instant::now)
    }

    fn admits_at(&mut self, now: impl Fn() -> Instant) -> bool {
        let Some(bucket) = &mut self.limit else { return true };
        let now = now();
        let refill = now.saturating_duration_since(bucket.at).as_secs_f64() * bucket.per_second;
        bucket.left = (bucket.left + refill).min(bucket.at_once.max(1.0));
        bucket.at = now;
        let admitted = bucket.left >= 1.0;
        if admitted {
            bucket.left -= 1.0;
            self.refused = 0;
        } else {
            self.refused = self.refused.saturating_add(1);
        }
        admitted
    }

    /// How many in a row were refused.
    pub(super) const fn refused(&self) -> u32 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_a_second_of_the_pace_and_time_gives_it_back() {
        let (mut pace, began) = (Pace::new(Some(10)), Instant::now());
        let after = |pace: &mut Pace, millis| pace.admits_at(|| began + Duration::from_millis(millis));
        let first = (0..20).filter(|_| after(&mut pace, 1)).count();
        assert_eq!((first, pace.refused()), (10, 10));
        assert!(after(&mut pace, 102) && !after(&mut pace, 103));
        assert_eq!((0..20).filter(|_| after(&mut pace, 60_000)).count(), 10, "no more than a second's worth is saved");
        let mut free = Pace::new(None);
        assert!((0..1000).all(|_| free.admits()));
    }
}
