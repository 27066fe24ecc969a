//! Who is on a channel, over all nodes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use dzvin_protocols::{channels::centrifuge::ClientInfo, platform::StreamName};
use tokio::time::Instant;

use super::{Answer, BusError};

/// One client on a channel. Clients of one user are one member in Pusher's sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What others may see.
    pub info: ClientInfo,
    /// Whether others are told when it comes and goes.
    pub told: bool,
    /// Whether others find it when they ask who is there. It is counted all the same.
    pub shown: bool,
}

/// What is to become of one client on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// It is on the channel. Said again it changes nothing but what others may see.
    Enter(Arc<Member>),
    /// It is no longer.
    Exit {
        /// The client.
        client: Arc<str>,
        /// Its user.
        user: Arc<str>,
    },
}

impl MemberChange {
    /// Whether it is a goodbye.
    #[must_use]
    pub fn is_exit(&self) -> bool {
        matches!(self, Self::Exit { .. })
    }

    /// Of whom.
    #[must_use]
    pub fn client(&self) -> &Arc<str> {
        match self {
            Self::Enter(member) => &member.info.client,
            Self::Exit { client, .. } => client,
        }
    }
}

/// What one change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Of an entry.
    Entered(Entered),
    /// Of an exit.
    Exited(Exited),
}

/// What an entry came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// No other client of this user is there.
    pub first_of_user: bool,
    /// The client was not there before.
    pub new: bool,
}

/// What an exit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// The client was there, and is no longer; false for all but the first who says so.
    pub gone: bool,
    /// No other client of this user is there.
    pub last_of_user: bool,
}

/// What changes of one channel came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Of each change, in their order.
    pub outcomes: Vec<Outcome>,
    /// How many there are after all of them.
    pub counts: Counts,
}

/// How many are on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Clients.
    pub clients: u64,
    /// Users.
    pub users: u64,
    /// There have been too many to tell of each who comes and goes, and there still are.
    pub crowded: bool,
    /// There have been, and the change that is answered was the first after which there are not: one call is answered so.
    pub ended: bool,
}

/// When a channel is crowded. Two numbers, so that it does not go to and fro with every client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// More clients than this are a crowd...
    pub above: u64,
    /// ...until there are fewer than this.
    pub below: u64,
}

impl Default for Crowd {
    /// A thousand clients that come one after the other cause half a million words.
    fn default() -> Self {
        Self { above: 1_000, below: 900 }
    }
}

/// A part of a channel's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberPage {
    /// In no order. Whoever is there from the first part to the last is in one of them, rarely in two.
    pub members: Vec<Arc<Member>>,
    /// How many there were of all when this part was read.
    pub counts: Counts,
    /// Where the next part begins; `None` when this was the last.
    pub next: Option<u64>,
}

impl MemberPage {
    /// One client of each user: members in Pusher's sense.
    pub fn by_user(&self) -> impl Iterator<Item = &Arc<Member>> {
        let mut seen = HashSet::new();
        self.members.iter().filter(move |member| seen.insert(&*member.info.user))
    }
}

/// How many subscribers a channel has on all nodes, and what has just become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupied {
    /// Before.
    pub before: u64,
    /// Now.
    pub now: u64,
}

/// What is known of this node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It goes on: what was entered is there.
    Same,
    /// Another has begun: everything is to be entered again.
    Anew {
        /// What was entered in the last one is told as gone by whoever buries it. Otherwise it is lost without a word.
        told: bool,
    },
}

/// What a burial removed and nobody has told yet: whoever was answered it tells it, and closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grave {
    /// Whose it was.
    pub life: Arc<str>,
    /// What the store knows it by.
    pub name: Arc<str>,
    /// Who has not begun to tell it by then leaves it: another may be answered the same.
    pub until: Instant,
    /// More of that life is left on the channel, and found once this one is closed.
    pub more: bool,
}

/// What a dead node left on one channel and a burial removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// The channel.
    pub channel: StreamName,
    /// Who is gone by it, with whether it was the last client of its user.
    pub left: Vec<(Arc<Member>, bool)>,
    /// How many members are left.
    pub counts: Counts,
    /// What became of the subscribers.
    pub occupied: Occupied,
    /// What is to be closed when all of this has been told, be it nothing.
    pub grave: Grave,
}

/// Who is on which channel, over all nodes.
///
/// Contract (one conformance suite holds every implementation to it): whatever a node entered is gone within its lease
/// after its death, and is told as gone over all nodes: once, or perhaps once more if who told it died before it could close the
/// grave. A node has lives, one after the other; what was
/// entered in one ends with it, unless it is entered again in the next.
///
/// Calls of one node for one channel must not race each other, and carry tickets that grow with each. One whose answer was lost is
/// repeated with its ticket, and answers what it would have answered: whoever makes an edge hears of it.
pub trait Presence: Send + Sync + 'static {
    /// Ends this life without a word: what it entered is buried when its lease has ended, or sooner if the node is not to go
    /// on ([`Self::resign`]). The next [`Self::renew`] begins another.
    fn begin(&self);
    /// This node is alive. To be said several times within a lease; nothing can be entered before it is said first.
    fn renew(&self) -> impl Answer<Result<Life, BusError>>;
    /// Whether another node tells of what this one leaves behind.
    fn is_shared(&self) -> bool;
    /// This node goes: what it left is to be buried when it has been held for so long, or for a lease if that is shorter.
    fn resign(&self, hold: Duration) -> impl Answer<Result<(), BusError>>;
    /// Clients of this node come and go, in this order; all of it or nothing.
    fn change(
        &self,
        channel: &StreamName,
        ticket: u64,
        changes: &[MemberChange],
    ) -> impl Answer<Result<Changed, BusError>>;
    /// This node has so many subscribers of the channel.
    fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> impl Answer<Result<Occupied, BusError>>;
    /// How many members are there.
    fn counts(&self, channel: &StreamName) -> impl Answer<Result<Counts, BusError>>;
    /// Who is there, at most about `limit` of them, from where the last part ended (first: 0).
    fn members(&self, channel: &StreamName, from: u64, limit: usize) -> impl Answer<Result<MemberPage, BusError>>;
    /// The number of subscribers, for the one node whose turn it is to tell it: one in this time.
    fn turn(&self, channel: &StreamName, every: Duration) -> impl Answer<Result<Option<u64>, BusError>>;
    /// Channels that have subscribers and begin so, with how many, in the order of their names' bytes, after one of them. Those that say
    /// whether a user is online are none, and however many there are they do not make it slower.
    fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Answer<Result<Vec<(Arc<str>, u64)>, BusError>>;
    /// What dead nodes left behind, removed by this call, or by one whose caller has not told it in its time: at most about `limit`
    /// clients and channels. Until it is closed or its time is over it is answered to no other.
    fn bury(&self, limit: usize) -> impl Answer<Result<Vec<Buried>, BusError>>;
    /// All that was in this grave on this channel has been told: it is answered to nobody any more.
    fn close(&self, channel: &StreamName, grave: &Grave) -> impl Answer<Result<(), BusError>>;
}
