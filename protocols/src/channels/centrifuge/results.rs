//! What commands are answered with.

use super::{
    codes::ErrorCode,
    fields::{Field, Object, Sink, always, field},
    info::ClientInfo,
    publication::Pub,
};

/// The result of a command. [`Form::reply`](super::Form::reply) writes it.
pub trait Reply: Object {
    /// Where it stands in the reply.
    const FIELD: Field;
}

/// A refusal: one of the protocol's or of the application's own (400-1999).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyError<'a> {
    /// The number.
    pub code: u16,
    /// In words.
    pub message: &'a str,
    /// The client tries again by itself.
    pub temporary: bool,
}

impl From<ErrorCode> for ReplyError<'static> {
    fn from(error: ErrorCode) -> Self {
        Self { code: error.code(), message: error.message(), temporary: error.temporary() }
    }
}

impl Object for ReplyError<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.number(always(1, "code"), u64::from(self.code));
        to.text(always(2, "message"), self.message);
        to.flag(field(3, "temporary"), self.temporary);
    }
}

/// The answer to `connect`.
#[derive(Debug, Clone, Default)]
pub struct ConnectResult<'a> {
    /// The session's id, unguessable.
    pub client: &'a str,
    /// Name and version of the server.
    pub version: &'a str,
    /// Whether the token ends.
    pub expires: bool,
    /// In how many seconds.
    pub ttl: u32,
    /// For the application: JSON as text, or bytes; empty when there is none.
    pub data: &'a [u8],
    /// The subscriptions that the server has made, by channel.
    pub subs: Vec<(&'a str, SubscribeResult<'a>)>,
    /// Seconds between the server's pings.
    pub ping: u32,
    /// The server waits for an answer to each.
    pub pong: bool,
    /// On transports whose commands come by other requests: the secret that joins them to this connection.
    pub session: &'a str,
    /// And the node that has it.
    pub node: &'a str,
    /// The server's clock, in milliseconds since 1970; 0 is not said.
    pub time: u64,
}

impl Object for ConnectResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.text(always(1, "client"), self.client);
        to.text(field(2, "version"), self.version);
        to.flag(field(3, "expires"), self.expires);
        to.number(field(4, "ttl"), u64::from(self.ttl));
        to.data(field(5, "data"), self.data);
        to.map(field(6, "subs"), self.subs.iter().map(|(channel, result)| (*channel, result)));
        to.number(field(7, "ping"), u64::from(self.ping));
        to.flag(field(8, "pong"), self.pong);
        to.text(field(9, "session"), self.session);
        to.text(field(10, "node"), self.node);
        to.number(field(11, "time"), self.time);
    }
}

/// The answer to `subscribe`.
#[derive(Debug, Clone, Default)]
pub struct SubscribeResult<'a> {
    /// Whether the subscription's token ends.
    pub expires: bool,
    /// In how many seconds.
    pub ttl: u32,
    /// The client may recover from a position.
    pub recoverable: bool,
    /// Publications carry offsets that are checked.
    pub positioned: bool,
    /// The stream's epoch; empty when the channel keeps none.
    pub epoch: &'a str,
    /// The top; the client's own offset when recovered, for the publications lead on from it.
    pub offset: u64,
    /// What was missed. With deltas the first is full, the others may be patches of the one before.
    pub publications: Vec<Pub<'a>>,
    /// Nothing was missed, or all of it is in `publications`.
    pub recovered: bool,
    /// The request asked to recover.
    pub was_recovering: bool,
    /// For the application: JSON as text, or bytes; empty when there is none.
    pub data: &'a [u8],
    /// Publications come as texts and patches from now on.
    pub delta: bool,
    /// Stands for the channel in pushes from now on; 0 when the name does.
    pub id: u64,
}

impl Object for SubscribeResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.flag(field(1, "expires"), self.expires);
        to.number(field(2, "ttl"), u64::from(self.ttl));
        to.flag(field(3, "recoverable"), self.recoverable);
        to.flag(field(10, "positioned"), self.positioned);
        to.text(field(6, "epoch"), self.epoch);
        to.number(field(9, "offset"), self.offset);
        to.list(field(7, "publications"), &self.publications);
        to.flag(field(8, "recovered"), self.recovered);
        to.flag(field(12, "was_recovering"), self.was_recovering);
        to.data(field(11, "data"), self.data);
        to.flag(field(13, "delta"), self.delta);
        to.number(field(14, "id"), self.id);
    }

    fn size(&self) -> usize {
        self.publications.iter().map(Object::size).sum::<usize>() + 256
    }
}

/// The answer to `presence`: who is there, each under its own `client`.
#[derive(Debug, Clone, Default)]
pub struct PresenceResult<'a> {
    /// The connections.
    pub clients: Vec<&'a ClientInfo>,
}

impl Object for PresenceResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.map(always(1, "presence"), self.clients.iter().map(|info| (&*info.client, *info)));
    }
}

/// The answer to `presence_stats`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PresenceStatsResult {
    /// Connections in the channel.
    pub num_clients: u32,
    /// Users, each of them once.
    pub num_users: u32,
}

impl Object for PresenceStatsResult {
    fn fields(&self, to: &mut impl Sink) {
        to.number(always(1, "num_clients"), u64::from(self.num_clients));
        to.number(always(2, "num_users"), u64::from(self.num_users));
    }
}

/// The answer to `history`. Its publications are never deltas.
#[derive(Debug, Clone, Default)]
pub struct HistoryResult<'a> {
    /// The page.
    pub publications: Vec<Pub<'a>>,
    /// The stream's epoch.
    pub epoch: &'a str,
    /// The stream's top.
    pub offset: u64,
}

impl Object for HistoryResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.list(always(1, "publications"), &self.publications);
        to.text(always(2, "epoch"), self.epoch);
        to.number(always(3, "offset"), self.offset);
    }

    fn size(&self) -> usize {
        self.publications.iter().map(Object::size).sum::<usize>() + 128
    }
}

/// The answer to `rpc`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RpcResult<'a> {
    /// JSON as text, or bytes; empty when there is none.
    pub data: &'a [u8],
}

impl Object for RpcResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.data(field(1, "data"), self.data);
    }

    fn size(&self) -> usize {
        self.data.len() + 64
    }
}

/// The answer to `refresh`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefreshResult<'a> {
    /// The session's id.
    pub client: &'a str,
    /// Name and version of the server.
    pub version: &'a str,
    /// Whether the new token ends.
    pub expires: bool,
    /// In how many seconds.
    pub ttl: u32,
}

impl Object for RefreshResult<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.text(always(1, "client"), self.client);
        to.text(field(2, "version"), self.version);
        to.flag(field(3, "expires"), self.expires);
        to.number(field(4, "ttl"), u64::from(self.ttl));
    }
}

/// The answer to `sub_refresh`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubRefreshResult {
    /// Whether the new token ends.
    pub expires: bool,
    /// In how many seconds.
    pub ttl: u32,
}

impl Object for SubRefreshResult {
    fn fields(&self, to: &mut impl Sink) {
        to.flag(field(1, "expires"), self.expires);
        to.number(field(2, "ttl"), u64::from(self.ttl));
    }
}

/// The answer to `unsubscribe`.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnsubscribeResult;

/// The answer to `publish`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PublishResult;

/// The answer to the client's own `ping`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PingResult;

/// Where each stands in a reply; those without members are written all the same.
macro_rules! replies {
    ($($result:ty = $tag:literal $name:literal),+ $(,)?) => {
        $(impl Reply for $result { const FIELD: Field = field($tag, $name); })+
    };
}

replies! {
    ConnectResult<'_> = 5 "connect", SubscribeResult<'_> = 6 "subscribe", UnsubscribeResult = 7 "unsubscribe",
    PublishResult = 8 "publish", PresenceResult<'_> = 9 "presence", PresenceStatsResult = 10 "presence_stats",
    HistoryResult<'_> = 11 "history", PingResult = 12 "ping", RpcResult<'_> = 13 "rpc", RefreshResult<'_> = 14 "refresh",
    SubRefreshResult = 15 "sub_refresh",
}

/// Messages without members.
macro_rules! empty {
    ($($result:ty),+) => { $(impl Object for $result { fn fields(&self, _: &mut impl Sink) {} })+ };
}

empty!(UnsubscribeResult, PublishResult, PingResult);
