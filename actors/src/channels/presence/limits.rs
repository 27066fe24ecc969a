//! How presence keeps time, and how much of it waits.

use std::time::Duration;

/// Times of the actor. Everything that is not bounded by what sessions have entered is bounded by the constants below.
#[derive(Debug, Clone)]
pub struct PresenceLimits {
    /// How soon after anything has happened the actor looks at what is due, and how exactly it keeps the times below; where all is quiet it
    /// looks when the first of them is due.
    pub step: Duration,
    /// How often the store is told that this node lives: several times within its lease.
    pub renew: Duration,
    /// How long a channel has to be empty on this node before that is said, and a client away before servers of applications hear
    /// that its user is gone: a page that is loaded anew leaves and comes back.
    pub hold: Duration,
    /// How often the number of subscribers of a large channel is told, over all nodes.
    pub count_every: Duration,
    /// How long the store may take.
    pub command: Duration,
    /// How long a word may take: as long as the bus may have to wait until all who listen can hear it.
    pub say: Duration,
    /// How long after the store has lost everything it is not believed that somebody is away: the nodes enter again whom they have,
    /// without a word. As long as a life goes on unrenewed, for whoever has not come back by then is gone.
    pub settle: Duration,
}

impl Default for PresenceLimits {
    fn default() -> Self {
        Self {
            step: Duration::from_millis(250),
            renew: Duration::from_secs(3),
            hold: Duration::from_secs(3),
            count_every: Duration::from_secs(5),
            command: Duration::from_secs(5),
            say: Duration::from_millis(10_200),
            settle: Duration::from_secs(15),
        }
    }
}

/// Calls to the store at the same time, one for each channel at most: what one connection takes without a queue of its own.
pub(super) const WRITERS: usize = 64;
/// Clients in one call: a script of a few hundred microseconds.
pub(super) const BATCH: usize = 64;
/// Questions that are with the store at the same time.
pub(super) const READERS: usize = 64;
/// Questions that wait; whoever asks above it is told to come again.
pub(super) const MAX_QUESTIONS: usize = 4_096;
/// Calls that fail one after the other before the store counts as away, and is only asked whether it is back.
pub(super) const AWAY_AFTER: usize = 16;
/// Channels of which it is not known what the last call came to. Above it everything is entered again in a new life, and what
/// they may have left is buried with the last one.
pub(super) const MAX_DOUBTS: usize = 10_000;
/// Attempts at a word: nothing keeps words, and one that nobody can say must not hold up the channel.
pub(super) const WORD_TRIES: u32 = 5;
/// How long a node that stops waits for what it has begun with the store and the bus: many times what that takes where both are well, and
/// a small part of a shutdown's grace where they are not.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// Clients that one burial removes...
pub(super) const BURY: usize = 512;
/// ...unless so many words still wait to be said.
pub(super) const MAX_UNSAID: usize = 8_192;
/// How long a burial may take: many calls of the store's own limit each. What it removed and does not answer is found again, later.
pub(super) const BURIAL: Duration = Duration::from_secs(60);
/// Up to so many subscribers each change of their number is told at once, as clients of the Pusher protocol know it.
pub(super) const TOLD_AT_ONCE: u64 = 100;
/// When a crowd has ended those who hear of its members begin anew, in so many parts...
pub(super) const ANEW_TURNS: u32 = 20;
/// ...each so long after the one before it: up to 900 fetch a list of 900, a twentieth of them at once.
pub(super) const ANEW_EVERY: Duration = Duration::from_millis(500);
/// Members of a page that a roster is gathered from.
pub(super) const PAGE: usize = 512;
/// Pages that a roster is gathered from: many clients of few users must not make one question last.
pub(super) const ROSTER_PAGES: usize = 64;
/// How long a look at many channels may take, in times of the store's own limit.
pub(super) const LOOK: u32 = 2;
