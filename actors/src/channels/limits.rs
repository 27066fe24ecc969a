//! What one client may cost. The defaults are those that clients of the protocol know.

use std::time::Duration;

use dzvin_protocols::channels::MAX_CHANNEL;

use crate::{
    entities::concerns::Reach,
    platform::ports::{ReadLimit, UserPace},
};

/// Limits of sessions and channels.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that may wait for one session before it is closed as slow.
    pub queue_bytes: usize,
    /// Subscriptions of one session.
    pub channels: usize,
    /// The largest message of a client, in bytes.
    pub message: usize,
    /// Between two pings of ours.
    pub ping: Duration,
    /// How long we wait for the pong.
    pub pong: Duration,
    /// How long a connection may stay without a `connect`.
    pub connect: Duration,
    /// How long a client may stay after its token has ended.
    pub expiry_grace: Duration,
    /// How long a connection lives, more or less a fifth, before the client is told to begin another: so that a load that has
    /// gathered on one node spreads again. `None` for ever.
    pub max_age: Option<Duration>,
    /// Whether it is kept how many subscribers each channel of the application has on all nodes: a call to the store for each that
    /// begins or ends, which is only worth it where somebody asks.
    pub occupancy: bool,
    /// Connections of one user to this node.
    pub of_user: Option<u32>,
    /// How often one user may publish, send events to other clients, and call, whatever the connection and the channel.
    pub user_pace: Option<UserPace>,
    /// Commands that a client may give in a second, on average; beyond it they are refused as too many.
    pub commands_per_second: Option<u32>,
    /// Refusals in a row of that kind after which the connection ends.
    pub too_many: u32,
    /// How long a command may take inside before the client is told to try again.
    pub command: Duration,
    /// What one recovery may bring. Its bytes must stay below `queue_bytes`, or the reply itself would close the client.
    pub recovery: ReadLimit,
    /// Changes that a recovery looks through, if that is more than it may bring, for those whom not all of them concern: who sees only some
    /// rows, and who listens to a query.
    pub depth: u64,
    /// What one page of `history` may bring.
    pub history: ReadLimit,
    /// Clients of one answer to `presence`; a client is refused where there are more, for it could not go on from there.
    pub presence: usize,
    /// Longest name of a channel of the application, in bytes; those of the hub's own are as long as they are.
    pub name: usize,
    /// How often each followed stream is compared with the bus and the log.
    pub check: Duration,
}

impl Limits {
    /// How far one recovery looks, where not everything concerns who asks. What comes of it must come before a command's time is over, or
    /// the client would be told to ask the same again.
    pub(super) fn reach(&self) -> Reach {
        Reach { limit: self.recovery, depth: self.depth, within: self.command / 2 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes: 1024 * 1024,
            channels: 128,
            message: 64 * 1024,
            ping: Duration::from_secs(25),
            pong: Duration::from_secs(8),
            connect: Duration::from_secs(10),
            expiry_grace: Duration::from_secs(25),
            max_age: None,
            occupancy: false,
            of_user: None,
            user_pace: None,
            commands_per_second: None,
            too_many: 100,
            command: Duration::from_secs(5),
            recovery: ReadLimit { count: 5_000, bytes: 920 * 1024 },
            depth: 20_000,
            history: ReadLimit { count: 300, bytes: 512 * 1024 },
            presence: 1_000,
            name: MAX_CHANNEL,
            check: Duration::from_secs(3),
        }
    }
}
