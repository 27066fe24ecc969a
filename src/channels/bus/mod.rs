//! The bus: what carries publications between nodes and keeps their recent history. In memory for one node, Redis for many.
//!
//! Invariants of both, held by one conformance suite (`tests/it/bus`): a stream accepts only the run that starts at
//! top + 1 in its epoch; history is bounded by count, bytes and age; events arrive in order or are replaced by `Lost`.
//!
//! Not here: who may publish, what a gap means for a subscriber, when to refill. The relay and `topics` decide that.

mod either;
pub mod memory;
mod metrics;
pub mod redis;

use std::time::Duration;

use dzvin_actors::platform::ports::BusError;
use dzvin_protocols::channels::Publication;

pub use either::AnyBus;
pub use memory::MemoryBus;
pub use metrics::BusMetrics;
pub use redis::{RedisBus, RedisConfig, RedisConfigError};

/// How much of a stream's past is kept: whichever is reached first cuts the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Publications.
    pub count: usize,
    /// Bytes of publications as the bus keeps them.
    pub bytes: usize,
    /// Time since the append.
    pub age: Duration,
}

impl Default for HistoryLimits {
    /// Thirty recoveries of the usual cap of 300 deep; eight megabytes times a few kinds stay far below the hub's
    /// 256 MB; five minutes outlive a restart of browser or node. Older positions recover from the change log.
    fn default() -> Self {
        Self { count: 10_000, bytes: 8 * 1024 * 1024, age: Duration::from_secs(300) }
    }
}

/// A run that no bus may take.
#[derive(Debug, thiserror::Error)]
#[error("the run's offsets are not consecutive")]
struct BrokenRun;

/// Refuses a run with a hole: ours to mend, and never half-appended.
fn check_run(run: &[Publication]) -> Result<(), BusError> {
    if run.windows(2).all(|pair| pair[0].offset.checked_add(1) == Some(pair[1].offset)) {
        return Ok(());
    }
    Err(BusError { doing: "append", source: Box::new(BrokenRun) })
}
