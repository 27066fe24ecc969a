//! The bus: what carries publications between nodes and keeps their recent history. In memory for one node, Redis for many.
//!
//! Invariants of both, held by one conformance suite (`tests/it/bus`): a stream accepts only the run that starts at
//! top + 1 in its epoch; history is bounded by count, bytes and age; events arrive in order or are replaced by `Lost`.
//!
//! Not here: who may publish, what a gap means for a subscriber, when to refill. The relay and `topics` decide that.

mod either;
mod keys;
pub mod memory;
mod metrics;
mod paces;
pub mod redis;
mod ring;

use dzvin_actors::platform::ports::BusError;
pub use dzvin_actors::platform::ports::HistoryLimits;
use dzvin_protocols::channels::{Epoch, Publication};

pub use either::AnyBus;
pub use keys::MAX_KEYS;
pub use memory::MemoryBus;
pub use metrics::BusMetrics;
pub use redis::{RedisBus, RedisConfig, RedisConfigError};

/// Longest word between nodes: a frame of a client and what names it. Above it the word is to say where to find the rest.
pub const MAX_WORD: usize = 64 * 1024;

/// Longest word to one node: it may be a whole message of a client for a session there. How large that is, is for
/// `channels.max_message` to say; no session takes more than a MiB at once, which quotes and backslashes make two.
pub const MAX_LETTER: usize = 2 * 1024 * 1024 + 1024;

/// A word longer than it may be.
#[derive(Debug, thiserror::Error)]
#[error("a word of more than {0} bytes")]
struct WordTooLong(usize);

/// A run that no bus may take.
#[derive(Debug, thiserror::Error)]
#[error("the run's offsets are not consecutive")]
struct BrokenRun;

/// A stream whose name is no name.
#[derive(Debug, thiserror::Error)]
#[error("the stream has no name that a publication could carry")]
struct Unnamed;

/// The name of a new life of an application's stream: never used before, whoever chooses it.
fn new_epoch() -> Epoch {
    Epoch::new(&format!("{:016x}", rand::random::<u64>()))
}

/// The name of this life of the process among the nodes of a cluster.
fn new_node() -> std::sync::Arc<str> {
    format!("{:032x}", rand::random::<u128>()).into()
}

/// Refuses a run with a hole: ours to mend, and never half-appended.
fn check_run(run: &[Publication]) -> Result<(), BusError> {
    if run.windows(2).all(|pair| pair[0].offset.checked_add(1) == Some(pair[1].offset)) {
        return Ok(());
    }
    Err(BusError { doing: "append", source: Box::new(BrokenRun) })
}

fn check_word(doing: &'static str, word: &[u8]) -> Result<(), BusError> {
    check_length(doing, word, MAX_WORD)
}

/// The same of a word to one node, or to every one.
fn check_told(node: Option<&str>, word: &[u8]) -> Result<(), BusError> {
    check_length("tell", word, if node.is_some() { MAX_LETTER } else { MAX_WORD })
}

fn check_length(doing: &'static str, word: &[u8], most: usize) -> Result<(), BusError> {
    if word.len() <= most {
        return Ok(());
    }
    Err(BusError { doing, source: Box::new(WordTooLong(most)) })
}
