//! When a failed call may be repeated: 403 and 400 never, 429 after at least a second, 5xx a few times.

use std::{future::Future, time::Duration};

use tokio::time::sleep;

use crate::{platform::ports::CdbError, supervise};

/// Most repeats after 5xx, as the upstream recommends.
pub const MAX_REPEATS: u32 = 5;
/// Most repeats after 429. It is no failure, so there are more of them; they only get slower.
const MAX_WAITS: u32 = 12;
/// Least wait after 429.
const TOO_MANY_FLOOR: Duration = Duration::from_secs(1);

/// Exponential back-off with full jitter: a wait is anything from the floor to a ceiling that doubles.
#[derive(Debug, Clone)]
pub struct Backoff {
    shape: supervise::Backoff,
    failures: u32,
}

impl Backoff {
    /// Ceilings of `base`, twice that, four times that... up to `cap`.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { shape: supervise::Backoff { base, cap }, failures: 0 }
    }

    /// The wait after one more failure, never below the floor.
    pub fn next(&mut self, floor: Duration) -> Duration {
        let ceiling = self.ceiling().max(floor);
        self.failures = self.failures.saturating_add(1);
        floor + (ceiling - floor).mul_f64(rand::random::<f64>())
    }

    /// The largest wait that [`Backoff::next`] would give now.
    #[must_use]
    pub fn ceiling(&self) -> Duration {
        self.shape.bound(self.failures)
    }

    /// All is well again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last reset.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

/// Calls until it succeeds or must not be repeated.
///
/// # Errors
/// The last error.
pub async fn with_retries<T, F: Future<Output = Result<T, CdbError>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, CdbError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    let (mut failed, mut waited) = (0, 0);
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let floor = match &error {
            CdbError::TooMany if waited < MAX_WAITS => {
                waited += 1;
                TOO_MANY_FLOOR
            }
            CdbError::Failed(_) if failed < MAX_REPEATS => {
                failed += 1;
                Duration::ZERO
            }
            _ => return Err(error),
        };
        sleep(backoff.next(floor)).await;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    async fn calls(error: fn() -> CdbError) -> (u32, Duration) {
        let (mut count, start) = (0, Instant::now());
        let _ = with_retries(|| {
            count += 1;
            async move { Err::<(), _>(error()) }
        })
        .await;
        (count, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn each_error_has_its_rule() {
        assert_eq!(calls(|| CdbError::Forbidden(String::new())).await.0, 1);
        assert_eq!(calls(|| CdbError::Refused { status: 400, message: String::new() }).await.0, 1);
        assert_eq!(calls(|| CdbError::Failed(String::new())).await.0, 1 + MAX_REPEATS);
        let (count, time) = calls(|| CdbError::TooMany).await;
        assert_eq!(count, 1 + MAX_WAITS);
        assert!(time >= TOO_MANY_FLOOR * MAX_WAITS);
    }

    proptest! {
        #[test]
        fn waits_stay_between_floor_and_ceiling(base in 1u64..2000, cap in 1u64..100_000, floor in 0u64..2000, failures in 0u32..40) {
            let (base, cap, floor) = (Duration::from_millis(base), Duration::from_millis(cap), Duration::from_millis(floor));
            let mut backoff = Backoff::new(base, cap);
            let mut last = Duration::ZERO;
            for _ in 0..failures {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling >= last && ceiling <= cap);
                let wait = backoff.next(floor);
                prop_assert!(wait >= floor && wait <= ceiling.max(floor));
                last = ceiling;
            }
            backoff.reset();
            prop_assert_eq!(backoff.ceiling(), base.min(cap));
        }
    }
}
