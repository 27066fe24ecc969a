//! Who is on which channel: in memory for one node, Redis for many.
//!
//! Invariants of both, held by one conformance suite (`tests/it/presence`): of two clients of a user the first and the last are
//! known as such; whatever a life of a node left behind is removed once, by one burial, and is found by others until it has been
//! told; an answer that was lost is given again; edges of occupancy are seen by one node each; users who are watched are members as all are, and in no list of channels.
//!
//! Not here: what is told to whom, and when it is tried again. The actor `presence` decides that.

mod either;
mod memory;
mod redis;

pub use either::AnyPresence;
pub use memory::MemoryPresence;
pub use redis::RedisPresence;

use std::time::Duration;

use dzvin_actors::platform::ports::Crowd;
#[cfg(doc)]
use dzvin_protocols::channels::ONLINE_PREFIX;

/// The first name behind those of users who are watched ([`ONLINE_PREFIX`]): channels are listed in the order of their names, and
/// whether users are online is nobody's channel. There may be more of those than of all others.
const BEHIND_ONLINE: &str = "#online.";

/// How a store judges.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// How long a life goes on after it was last renewed. The default is five renewals of the actor: two may be lost and a
    /// restart of Redis outlived.
    pub lease: Duration,
    /// When there are too many to tell of each.
    pub crowd: Crowd,
    /// How long what a burial removed is its caller's to tell, before another is answered it. The default is many times what telling
    /// takes: who is only slow is not overtaken, and who has died leaves ghosts for no longer than a lease.
    pub telling: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), crowd: Crowd::default(), telling: Duration::from_secs(15) }
    }
}

/// Written in a life that has ended, or has not begun.
#[derive(Debug, thiserror::Error)]
#[error("this node's life has not been renewed in time")]
struct Lapsed;

/// A ticket below that of a later call.
#[derive(Debug, thiserror::Error)]
#[error("a later call was made meanwhile")]
struct Overtaken;

#[cfg(test)]
mod tests {
    use dzvin_protocols::channels::ONLINE_PREFIX;

    use super::*;

    #[test]
    fn nothing_lies_between_the_watched_and_what_is_behind_them() {
        let (shared, last) = ONLINE_PREFIX.split_at(ONLINE_PREFIX.len() - 1);
        let behind = BEHIND_ONLINE.strip_prefix(shared).expect("the same but for the last byte");
        assert_eq!(behind.as_bytes(), [last.as_bytes()[0] + 1]);
    }
}
