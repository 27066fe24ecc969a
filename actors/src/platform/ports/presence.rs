//! Who is on a channel, over all nodes.

use std::sync::Arc;

use dzvin_protocols::{channels::centrifuge::ClientInfo, platform::StreamName};

use super::{Answer, BusError};

/// One client on a channel. Clients of one user are one member in Pusher's sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What others may see.
    pub info: ClientInfo,
}

/// What an entry came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// No other client of this user was there.
    pub first_of_user: bool,
    /// The client was not there before.
    pub new: bool,
    /// How many there are now.
    pub counts: Counts,
}

/// What an exit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// The client was there, and is no longer; false for all but the first who says so.
    pub gone: bool,
    /// No other client of this user is there.
    pub last_of_user: bool,
    /// How many there are now.
    pub counts: Counts,
}

/// How many are on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Clients.
    pub clients: u64,
    /// Users.
    pub users: u64,
}

/// A part of a channel's members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberPage {
    /// In no order.
    pub members: Vec<Member>,
    /// Where the next part begins; `None` when this was the last.
    pub next: Option<u64>,
}

/// How many subscribers a channel has on all nodes, and what has just become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupied {
    /// Before.
    pub before: u64,
    /// Now.
    pub now: u64,
}

/// Who is on which channel, over all nodes.
///
/// Contract (one conformance suite holds every implementation to it): whatever a node entered is gone within that node's
/// lease after its death, and is told as gone exactly once over all nodes.
pub trait Presence: Send + Sync + 'static {
    /// A client of this node is on the channel. Said again it changes nothing but what others may see.
    fn enter(&self, channel: &StreamName, member: &Member) -> impl Answer<Result<Entered, BusError>>;
    /// It is no longer.
    fn exit(&self, channel: &StreamName, client: &str) -> impl Answer<Result<Exited, BusError>>;
    /// How many are there.
    fn counts(&self, channel: &StreamName) -> impl Answer<Result<Counts, BusError>>;
    /// Who is there, at most about `limit` of them, from where the last part ended.
    fn members(&self, channel: &StreamName, from: u64, limit: usize) -> impl Answer<Result<MemberPage, BusError>>;
    /// This node has so many subscribers of the channel.
    fn occupy(&self, channel: &StreamName, subscribers: u64) -> impl Answer<Result<Occupied, BusError>>;
    /// Channels that have subscribers and begin so, with how many, in the order of their names, after one of them.
    fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Answer<Result<Vec<(Arc<str>, u64)>, BusError>>;
    /// This node is alive. False when what it entered is not known any more and has to be entered again.
    fn renew(&self) -> impl Answer<Result<bool, BusError>>;
    /// What dead nodes left behind, removed by this call, and told to no other: at most about `limit` clients.
    fn bury(&self, limit: usize) -> impl Answer<Result<Vec<(StreamName, Member, Exited)>, BusError>>;
}
