//! One governor for each egress address: every request and every Mirror handshake passes here.
//!
//! The upstream counts requests a second, requests a minute and open connections *per address*, so one governor is shared by
//! all clients behind an address. Rates are leaky buckets (GCRA), as the upstream's are. A refusal that was seen by one
//! client slows all of them down. It deliberately does not retry anything.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};

use super::metrics::{EgressMetrics, Held};

/// What one address may do. The upstream's numbers are not public: these follow the habit of serial requests with a
/// pause of 200 ms, and are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressLimits {
    /// Requests a second.
    pub per_second: u32,
    /// Requests a minute.
    pub per_minute: u32,
    /// Requests that may start at once after a rest.
    pub burst: u32,
    /// Requests and Mirror connections at the same time. Must be above the number of Mirrors.
    pub connections: usize,
    /// Longest wait for a turn.
    pub max_wait: Duration,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self { per_second: 5, per_minute: 240, burst: 5, connections: 10, max_wait: Duration::from_secs(60) }
    }
}

/// The turn would come too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of ours are waiting for the upstream")]
pub struct Crowded;

/// A connection slot; given back when dropped.
#[derive(Debug)]
pub struct Pass {
    _taken: Held,
    _slot: OwnedSemaphorePermit,
}

/// A leaky bucket: when the next request would conform if all before it had been evenly spaced.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    next: Instant,
    step: Duration,
    tolerance: Duration,
}

impl Bucket {
    fn new(count: u32, per: Duration, burst: u32, now: Instant) -> Self {
        let step = per / count.max(1);
        Self { next: now, step, tolerance: step * burst.max(1).saturating_sub(1) }
    }

    fn earliest(&self, now: Instant) -> Instant {
        (self.next.checked_sub(self.tolerance).unwrap_or(now)).max(now)
    }

    fn take(&mut self, at: Instant) {
        self.next = self.next.max(at) + self.step;
    }
}

/// The governor of one egress address.
#[derive(Debug)]
pub struct Governor {
    buckets: Mutex<[Bucket; 2]>,
    slots: Arc<Semaphore>,
    max_wait: Duration,
    metrics: EgressMetrics,
}

impl Governor {
    /// Starts with empty buckets.
    #[must_use]
    pub fn new(limits: EgressLimits) -> Self {
        let (now, metrics) = (Instant::now(), EgressMetrics::default());
        let connections = limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        metrics.free.set(i64::try_from(connections).unwrap_or(i64::MAX));
        let second = Bucket::new(limits.per_second, Duration::from_secs(1), limits.burst, now);
        let minute = Bucket::new(limits.per_minute, Duration::from_secs(60), limits.per_minute / 4, now);
        Self {
            buckets: Mutex::new([second, minute]),
            slots: Arc::new(Semaphore::new(connections)),
            max_wait: limits.max_wait,
            metrics,
        }
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &EgressMetrics {
        &self.metrics
    }

    /// Waits for a connection slot and then for the turn.
    ///
    /// # Errors
    /// [`Crowded`] when that would take longer than the longest wait.
    pub async fn admit(&self) -> Result<Pass, Crowded> {
        let _waiting = Held::new(&self.metrics.waiting, 1);
        let slot = timeout(self.max_wait, Arc::clone(&self.slots).acquire_owned()).await;
        let slot = slot.ok().and_then(Result::ok).ok_or(Crowded)?;
        let taken = Held::new(&self.metrics.free, -1);
        let at = self.reserve(Instant::now()).ok_or(Crowded)?;
        sleep_until(at).await;
        Ok(Pass { _taken: taken, _slot: slot })
    }

    /// The upstream said that it is too much: nobody asks again before this has passed.
    pub fn hold(&self, pause: Duration) {
        let until = Instant::now() + pause.min(self.max_wait);
        for bucket in self.lock().iter_mut() {
            bucket.next = bucket.next.max(until + bucket.tolerance);
        }
    }

    /// Connection slots that are free now.
    #[must_use]
    pub fn free_connections(&self) -> usize {
        self.slots.available_permits()
    }

    fn reserve(&self, now: Instant) -> Option<Instant> {
        let mut buckets = self.lock();
        let at = buckets.iter().map(|bucket| bucket.earliest(now)).max().unwrap_or(now);
        if at > now + self.max_wait {
            return None;
        }
        buckets.iter_mut().for_each(|bucket| bucket.take(at));
        Some(at)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Bucket; 2]> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits() -> EgressLimits {
        EgressLimits { per_second: 10, per_minute: 600, burst: 3, connections: 2, max_wait: Duration::from_secs(5) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_at_a_time() {
        let governor = Governor::new(limits());
        let start = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..5 {
            drop(governor.admit().await.expect("admitted"));
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 100, 200]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_everybody() {
        let governor = Governor::new(limits());
        governor.hold(Duration::from_secs(2));
        let start = Instant::now();
        drop(governor.admit().await.expect("admitted"));
        assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_bounded() {
        let governor = Governor::new(limits());
        let (_one, two) = (governor.admit().await.expect("first"), governor.admit().await.expect("second"));
        let counted = || (governor.metrics().waiting.get(), governor.metrics().free.get());
        assert_eq!(counted(), (0, 0));
        let mut third = std::pin::pin!(governor.admit());
        assert!(timeout(Duration::from_secs(1), third.as_mut()).await.is_err());
        assert_eq!(counted(), (1, 0), "one waits");
        assert_eq!(third.await.err(), Some(Crowded));
        drop(two);
        assert_eq!(counted(), (0, 1));
        assert!(governor.admit().await.is_ok());
    }

    proptest! {
        /// However the requests come, no window of a second holds more than the rate and the burst.
        #[test]
        fn the_rate_is_never_passed(gaps in proptest::collection::vec(0u64..300, 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let governor = Governor::new(limits());
                let mut now = Instant::now();
                let mut starts = Vec::new();
                for gap in gaps {
                    now += Duration::from_millis(gap);
                    starts.extend(governor.reserve(now));
                }
                for window in starts.windows(14) {
                    assert!(window[13] - window[0] > Duration::from_secs(1), "14 starts within a second");
                }
            });
        }
    }
}
