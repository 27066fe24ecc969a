//! How long to wait before the next try.

use std::time::Duration;

/// Full jitter: uniform between nothing and a bound that doubles with each attempt up to a cap, so that those who failed
/// together do not return together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound that is never exceeded.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 200 ms doubling to 10 s: the first restart is not noticed, a lasting fault costs a try every five seconds or so.
    fn default() -> Self {
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The longest wait before attempt `attempt` (0 is the first).
    #[must_use]
    pub fn bound(&self, attempt: u32) -> Duration {
        self.base.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.cap)
    }

    /// A random wait before attempt `attempt`.
    #[must_use]
    pub fn delay(&self, attempt: u32) -> Duration {
        self.bound(attempt).mul_f64(rand::random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_double_up_to_the_cap() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(5) };
        let bounds: Vec<u64> = (0..5).map(|n| backoff.bound(n).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 5, 5]);
    }

    proptest! {
        #[test]
        fn delays_stay_within_the_bound(attempt in any::<u32>(), base in 0_u64..1_000_000, cap in 0_u64..1_000_000) {
            let backoff = Backoff { base: Duration::from_millis(base), cap: Duration::from_millis(cap) };
            let (delay, bound) = (backoff.delay(attempt), backoff.bound(attempt));
            prop_assert!(delay <= bound && bound <= backoff.cap);
        }
    }

    #[test]
    fn delays_differ() {
        let backoff = Backoff::default();
        let delays: std::collections::BTreeSet<Duration> = (0..32).map(|_| backoff.delay(5)).collect();
        assert!(delays.len() > 16, "{delays:?}");
    }
}
