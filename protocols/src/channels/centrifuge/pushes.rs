//! What the server says unasked.

use super::{
    codes::{Disconnect, Unsubscribe},
    fields::{Field, Object, Sink, always, field},
    info::ClientInfo,
    results::ConnectResult,
};

/// The content of a push. [`Form::push`](super::Form::push) writes it.
pub trait Event: Object {
    /// Where it stands in the push.
    const FIELD: Field;
}

/// What a push is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About<'a> {
    /// A channel by its name.
    Channel(&'a str),
    /// A channel by the number that the answer to `subscribe` gave it.
    Number(u64),
    /// The connection as a whole.
    Connection,
}

/// The frame around an event.
pub(super) struct Push<'a, E> {
    pub(super) about: About<'a>,
    pub(super) event: &'a E,
}

impl<E: Event> Object for Push<'_, E> {
    fn fields(&self, to: &mut impl Sink) {
        match self.about {
            About::Channel(name) => to.text(field(2, "channel"), name),
            About::Number(id) => to.number(field(1, "id"), id),
            About::Connection => {}
        }
        to.object(E::FIELD, self.event);
    }
}

/// Somebody has come to the channel.
#[derive(Debug, Clone, Copy)]
pub struct Join<'a> {
    /// Who.
    pub info: &'a ClientInfo,
}

/// Somebody has left the channel.
#[derive(Debug, Clone, Copy)]
pub struct Leave<'a> {
    /// Who.
    pub info: &'a ClientInfo,
}

/// The server has ended the subscription.
#[derive(Debug, Clone, Copy)]
pub struct UnsubscribePush<'a> {
    /// From 2500 on the client subscribes again.
    pub code: u16,
    /// In words.
    pub reason: &'a str,
}

impl From<Unsubscribe> for UnsubscribePush<'static> {
    fn from(why: Unsubscribe) -> Self {
        Self { code: why.code(), reason: why.reason() }
    }
}

/// A message to this connection alone.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// JSON as text, or bytes.
    pub data: &'a [u8],
}

/// The server has subscribed the client.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubscribePush<'a> {
    /// The client may recover from a position.
    pub recoverable: bool,
    /// The stream's epoch.
    pub epoch: &'a str,
    /// The stream's top.
    pub offset: u64,
    /// Publications carry offsets that are checked.
    pub positioned: bool,
    /// For the application; empty when there is none.
    pub data: &'a [u8],
}

/// The connection has begun, on transports of one direction: what the answer to `connect` says, under other numbers.
#[derive(Debug, Clone, Copy)]
pub struct ConnectPush<'a>(pub &'a ConnectResult<'a>);

/// The connection ends, on transports that have no close frame.
#[derive(Debug, Clone, Copy)]
pub struct DisconnectPush<'a> {
    /// The close code.
    pub code: u16,
    /// In words.
    pub reason: &'a str,
    /// The client comes back by itself.
    pub reconnect: bool,
}

impl From<Disconnect> for DisconnectPush<'static> {
    fn from(why: Disconnect) -> Self {
        Self { code: why.code(), reason: why.reason(), reconnect: why.reconnect() }
    }
}

/// The connection's end has been moved.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefreshPush {
    /// Whether it still ends.
    pub expires: bool,
    /// In how many seconds.
    pub ttl: u32,
}

impl Object for Join<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.object(field(1, "info"), self.info);
    }
}

impl Object for Leave<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.object(field(1, "info"), self.info);
    }
}

impl Object for UnsubscribePush<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.number(always(2, "code"), u64::from(self.code));
        to.text(always(3, "reason"), self.reason);
    }
}

impl Object for Message<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.data(field(1, "data"), self.data);
    }

    fn size(&self) -> usize {
        self.data.len() + 64
    }
}

impl Object for SubscribePush<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.flag(field(1, "recoverable"), self.recoverable);
        to.text(field(4, "epoch"), self.epoch);
        to.number(field(5, "offset"), self.offset);
        to.flag(field(6, "positioned"), self.positioned);
        to.data(field(7, "data"), self.data);
    }
}

impl Object for ConnectPush<'_> {
    fn fields(&self, to: &mut impl Sink) {
        let Self(it) = self;
        to.text(always(1, "client"), it.client);
        to.text(field(2, "version"), it.version);
        to.data(field(3, "data"), it.data);
        to.map(field(4, "subs"), it.subs.iter().map(|(channel, result)| (*channel, result)));
        to.flag(field(5, "expires"), it.expires);
        to.number(field(6, "ttl"), u64::from(it.ttl));
        to.number(field(7, "ping"), u64::from(it.ping));
        to.flag(field(8, "pong"), it.pong);
        to.text(field(9, "session"), it.session);
        to.text(field(10, "node"), it.node);
        to.number(field(11, "time"), it.time);
    }
}

impl Object for DisconnectPush<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.number(always(1, "code"), u64::from(self.code));
        to.text(always(2, "reason"), self.reason);
        to.flag(field(3, "reconnect"), self.reconnect);
    }
}

impl Object for RefreshPush {
    fn fields(&self, to: &mut impl Sink) {
        to.flag(field(1, "expires"), self.expires);
        to.number(field(2, "ttl"), u64::from(self.ttl));
    }
}

/// Where each stands in a push.
macro_rules! events {
    ($($event:ty = $tag:literal $name:literal),+ $(,)?) => {
        $(impl Event for $event { const FIELD: Field = field($tag, $name); })+
    };
}

events! {
    Join<'_> = 5 "join", Leave<'_> = 6 "leave", UnsubscribePush<'_> = 7 "unsubscribe", Message<'_> = 8 "message",
    SubscribePush<'_> = 9 "subscribe", ConnectPush<'_> = 10 "connect", DisconnectPush<'_> = 11 "disconnect",
    RefreshPush = 12 "refresh",
}
