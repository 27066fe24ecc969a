//! One client connection: the part that shards touch, and the task that reads and answers.
//!
//! Invariants: the lock is held for a few pushes or one system call, never across an await; per subscription offsets go
//! out in order, each once; after `close` nothing but the close frame goes out. Rights, recovery and the rest of the
//! protocol are in `commands`, time is in `task`.

mod clock;
mod commands;
mod history;
mod live;
mod orders;
mod pace;
mod presence;
mod pusher;
mod sight;
mod start;
mod subscribe;
mod subscriptions;
mod task;
#[cfg(test)]
mod tests;
mod wake;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Control,
    centrifuge::{About, Disconnect, Unsubscribe, UnsubscribePush},
    pusher::{self as wire, SocketId},
};
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{Interest, Ready},
    sync::{OwnedSemaphorePermit, mpsc},
};

use super::{
    Alias, AppObserver, Apps, Delivery, Handlers, Limits, Mailbox, Mailboxes, Metrics, Namespaces, Numbers, Socket,
    Users, Wire, outbox::Outbox, presence::PresenceMessage, shards::Shards, socket::Writer, topics::TopicsMessage,
};
use crate::{
    platform::ports::{Authenticator, Queries},
    supervise::Slot,
};

use clock::Clock;
pub(super) use clock::{millis, now};
use live::{Insufficient, Place, Stop, Terms, View, buffer, follow, only};
use orders::Order;
pub use pusher::Admission;
pub(super) use task::{Connection, run};
use wake::Wake;

/// Bytes of answers that wait for one frame: what a session's queue has room for several times.
const MAX_REPLIES: usize = 64 * 1024;

/// What every session of a node needs.
pub struct Hub<B, L> {
    /// The bus, for recent history.
    pub bus: Arc<B>,
    /// The change log, for everything else.
    pub log: Arc<L>,
    /// Who somebody is.
    pub auth: Arc<dyn Authenticator>,
    /// The node's topics.
    pub topics: Slot<TopicsMessage>,
    /// The node's presence.
    pub presence: Slot<PresenceMessage>,
    /// The node's shards.
    pub shards: Shards,
    /// What stands for names of channels.
    pub numbers: Numbers,
    /// How many connections each user has.
    pub users: Users,
    /// What a client may cost.
    pub limits: Limits,
    /// What holds for channels of the application.
    pub namespaces: Arc<Namespaces>,
    /// Who answers calls of clients.
    pub handlers: Handlers,
    /// Applications of the Pusher protocol.
    pub apps: Apps,
    /// Who hears what happens on their channels.
    pub observer: Arc<dyn AppObserver>,
    /// Commands for sessions on transports of one direction.
    pub mailboxes: Mailboxes,
    /// Which queries there are, and whose.
    pub queries: Arc<dyn Queries>,
    /// Where questions and answers of other nodes go. Bounded: what does not fit is asked again.
    pub letters: mpsc::Sender<Control>,
    /// What is counted.
    pub metrics: Metrics,
    /// Name and version told to clients.
    pub version: String,
}

/// What a session takes of its node.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) limits: &'a Limits,
    /// Bytes that wait for sockets that are full.
    pub(super) waiting: &'a Gauge,
}

/// A socket after its upgrade.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub socket: Socket,
    /// What was read behind the upgrade request.
    pub leftover: Bytes,
    /// What was agreed on at the upgrade.
    pub wire: Wire,
    /// The session's place within the node's limits.
    pub permit: Permit,
    /// Where commands arrive that come by other requests; they are read from the socket all the same.
    pub mailbox: Option<Mailbox>,
    /// Of a client of the Pusher protocol: whose it is.
    pub admission: Option<Admission>,
}

/// A session's place within the limits of its node, and whatever else has to be given back when it ends.
pub struct Permit {
    _place: OwnedSemaphorePermit,
    /// Boxed only where there is something: most sessions have a place and no more.
    more: Option<Box<dyn Send + Sync>>,
}

impl Permit {
    /// The same; `more` is dropped with it.
    #[must_use]
    pub fn with(mut self, more: impl Send + Sync + 'static) -> Self {
        self.more = Some(match self.more.take() {
            Some(before) => Box::new((before, more)),
            None => Box::new(more),
        });
        self
    }
}

impl From<OwnedSemaphorePermit> for Permit {
    fn from(place: OwnedSemaphorePermit) -> Self {
        Self { _place: place, more: None }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("more", &self.more.is_some()).finish_non_exhaustive()
    }
}

/// Unique within the process.
pub(super) type SessionId = u64;

/// The part of a session that its task and its shard share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) client: ClientId,
    user: OnceLock<Arc<str>>,
    pub(super) wire: Wire,
    /// When it began, in milliseconds of the clock.
    began: u64,
    socket: Writer,
    inner: Mutex<Inner>,
    /// Wakes the task: the socket was full, or the session is to be closed.
    wake: Wake,
    queue_bytes: usize,
    waiting: Gauge,
    mailbox: Option<Box<Mailbox>>,
    _permit: Permit,
}

/// What clients and logs know a session by: unguessable.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientId(u128);

impl ClientId {
    /// The same as the Pusher protocol spells it.
    pub(super) fn socket(self) -> SocketId {
        let [first, second] =
            [self.0 >> 64, self.0].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or(0));
        SocketId::from_random(first, second)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Debug)]
struct Inner {
    outbox: Outbox,
    subscriptions: Vec<Subscribed>,
    /// Answers of one reading, which leave in one frame.
    replies: Vec<u8>,
    clock: Clock,
    /// What the task has been told to do.
    orders: Vec<Order>,
    closing: Option<u16>,
    blocked: bool,
    dirty: bool,
    /// What the gauge of waiting bytes knows of this session.
    reported: usize,
}

/// Where the shard keeps a subscriber: the channel's number, and the member's within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) channel: u32,
    pub(super) member: u32,
}

/// One subscription. There are few of them, and deliveries come with a hint to the place.
#[derive(Debug)]
struct Subscribed {
    channel: Arc<str>,
    /// `None` until the shard has taken the session in.
    seat: Option<Seat>,
    terms: Terms,
    state: Subscription,
}

#[derive(Debug)]
enum Subscription {
    /// The past is being read; what comes meanwhile waits here.
    Recovering { live: Vec<Delivery>, bytes: usize },
    /// Everything below its place has been delivered.
    Live(Place),
}

impl Inner {
    fn find(&self, channel: &str) -> Option<usize> {
        self.subscriptions.iter().position(|it| *it.channel == *channel)
    }

    fn take(&mut self, channel: &str) -> Option<Subscribed> {
        let at = self.find(channel)?;
        let taken = self.subscriptions.swap_remove(at);
        if self.subscriptions.is_empty() {
            self.subscriptions = Vec::new();
        }
        Some(taken)
    }
}

/// What became of a delivery at one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    /// Frames were queued: flush the session once the batch is through.
    Queued(u64),
    /// Nothing to do.
    Skipped,
    /// The subscriber was told to recover: forget it, and flush the session.
    Ended,
    /// There is no such subscription any more: forget it.
    Gone,
}

impl Session {
    pub(super) fn new(id: SessionId, connection: Connection, hub: Shared<'_>) -> Arc<Self> {
        let clock = Clock::new(hub.limits, clock::now());
        let inner = Inner {
            outbox: Outbox::default(),
            subscriptions: Vec::new(),
            replies: Vec::new(),
            clock,
            orders: Vec::new(),
            closing: None,
            blocked: false,
            dirty: false,
            reported: 0,
        };
        Arc::new(Self {
            id,
            client: ClientId(rand::random()),
            user: OnceLock::new(),
            wire: connection.wire,
            began: clock::now(),
            socket: connection.socket,
            inner: Mutex::new(inner),
            wake: Wake::default(),
            queue_bytes: hub.limits.queue_bytes,
            waiting: hub.waiting.clone(),
            mailbox: connection.mailbox.map(Box::new),
            _permit: connection.permit,
        })
    }

    /// Who it is, for log lines; `None` before it has said so.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user)
    }

    /// A session is of one user for good: another's token is refused.
    fn signed_in(&self, user: &Arc<str>) {
        let _ = self.user.set(Arc::clone(user));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere ends its own session; the data behind the lock is consistent between pushes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the shard brings for one channel; `hint` is where the subscription was found last. A single frame is written
    /// at once (`alone`), otherwise flushing is left to the shard, once per batch: true when the session wants that.
    pub(super) fn offer(&self, channel: u32, hint: &mut u32, delivery: &Delivery, alone: bool) -> (Offered, bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let seated = |it: &Subscribed| it.seat.is_some_and(|seat| seat.channel == channel);
        if !inner.subscriptions.get(*hint as usize).is_some_and(seated) {
            let Some(at) = inner.subscriptions.iter().position(seated) else { return (Offered::Gone, false) };
            *hint = u32::try_from(at).unwrap_or(0);
        }
        if inner.closing.is_some() {
            return (Offered::Skipped, false);
        }
        let Some(subscribed) = inner.subscriptions.get_mut(*hint as usize) else { return (Offered::Gone, false) };
        let view = self.view(&subscribed.terms);
        let offered = match &mut subscribed.state {
            Subscription::Recovering { live, bytes } => {
                buffer(live, bytes, delivery, self.queue_bytes);
                Offered::Skipped
            }
            Subscription::Live(place) if alone && inner.outbox.is_empty() && !inner.blocked => {
                return match only(place, delivery, view) {
                    Ok(Some(frame)) => (self.write(inner, frame), false),
                    Ok(None) => (Offered::Skipped, false),
                    Err(Insufficient) => self.insufficient(inner, &delivery.channel),
                };
            }
            Subscription::Live(place) => match self.write_and_follow(place, delivery, &mut inner.outbox, view) {
                Ok(0) => Offered::Skipped,
                Ok(queued) => Offered::Queued(queued),
                Err(Stop::Slow) => {
                    self.close_locked(inner, Disconnect::Slow);
                    Offered::Skipped
                }
                Err(Stop::Insufficient) => return self.insufficient(inner, &delivery.channel),
            },
        };
        let touched = offered != Offered::Skipped && !std::mem::replace(&mut inner.dirty, true);
        (offered, touched)
    }

    fn view<'a>(&self, terms: &'a Terms) -> View<'a> {
        View { wire: self.wire, limit: self.queue_bytes, client: self.client.0, terms }
    }

    /// The subscriber is told to recover.
    fn insufficient(&self, inner: &mut Inner, channel: &Arc<str>) -> (Offered, bool) {
        self.unsubscribe_locked(inner, channel, Unsubscribe::InsufficientState);
        (Offered::Ended, !std::mem::replace(&mut inner.dirty, true))
    }

    /// Writes a frame on a socket for which nothing waits.
    fn write(&self, inner: &mut Inner, frame: &Bytes) -> Offered {
        match inner.outbox.write(&self.socket, frame) {
            Ok(true) => {}
            Ok(false) => {
                inner.blocked = true;
                self.report(inner);
                self.wake.set();
            }
            // The socket is gone: the reader notices and ends the session.
            Err(_) => inner.outbox = Outbox::default(),
        }
        Offered::Queued(1)
    }

    /// Tells the gauge how much waits.
    fn report(&self, inner: &mut Inner) {
        let (now, before) = (inner.outbox.bytes(), inner.reported);
        if now != before {
            inner.reported = now;
            self.waiting.inc_by(difference(now, before));
        }
    }

    /// A queue that is full because nobody has written yet is written first: only a full socket is a slow client.
    fn write_and_follow(
        &self,
        place: &mut Place,
        delivery: &Delivery,
        outbox: &mut Outbox,
        view: View<'_>,
    ) -> Result<u64, Stop> {
        loop {
            match follow(place, delivery, outbox, view) {
                Err(Stop::Slow) if self.relieve(outbox) => {}
                result => return result,
            }
        }
    }

    /// True when the socket took something.
    fn relieve(&self, outbox: &mut Outbox) -> bool {
        let before = outbox.bytes();
        outbox.flush(&self.socket).is_ok() && outbox.bytes() < before
    }

    /// Whether a reply of so many bytes may be queued now.
    fn has_room(&self, bytes: usize) -> bool {
        let mut inner = self.lock();
        let bytes = bytes + inner.replies.len();
        let full = |outbox: &Outbox| !outbox.is_empty() && outbox.bytes() + bytes > self.queue_bytes;
        !full(&inner.outbox) || (self.relieve(&mut inner.outbox) && !full(&inner.outbox))
    }

    /// Whether the client has closed its side, as far as the kernel has told.
    fn left(&self) -> bool {
        let ready = self.socket.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
    }

    /// Writes what the socket takes; the task goes on when it would block.
    pub(super) fn flush(&self) {
        self.flush_locked(&mut self.lock());
    }

    fn flush_locked(&self, inner: &mut Inner) {
        inner.dirty = false;
        if inner.blocked {
            return;
        }
        match inner.outbox.flush(&self.socket) {
            Ok(true) => {}
            Ok(false) => {
                inner.blocked = true;
                self.wake.set();
            }
            // The socket is gone: the reader notices and ends the session.
            Err(_) => inner.outbox = Outbox::default(),
        }
        self.report(inner);
    }

    /// Closes with a code of the protocol; the first reason wins.
    pub(super) fn close(&self, why: Disconnect) {
        self.close_locked(&mut self.lock(), why);
    }

    /// Closes with a code that is not of the protocol's own: the client's, one of the framing, or one of the application.
    pub(super) fn close_with(&self, code: u16, reason: &str) {
        self.finish(&mut self.lock(), code, reason);
    }

    fn close_locked(&self, inner: &mut Inner, why: Disconnect) {
        let (code, reason) = self.wire.close_code(why);
        if why == Disconnect::Slow && inner.closing.is_none() {
            inner.replies = Vec::new();
            inner.outbox.clear();
        }
        self.finish(inner, code, reason);
    }

    fn finish(&self, inner: &mut Inner, code: u16, reason: &str) {
        if inner.closing.is_some() {
            return;
        }
        self.queue_replies(inner);
        if inner.closing.is_some() {
            return;
        }
        inner.closing = Some(code);
        let _ = inner.outbox.push(self.wire.farewell(code, reason), usize::MAX);
        self.wake.set();
    }

    /// Ends a subscription and says so. Where the client would not subscribe again by itself the connection ends, which it
    /// begins anew.
    fn unsubscribe_locked(&self, inner: &mut Inner, channel: &Arc<str>, why: Unsubscribe) {
        let Some(ended) = inner.take(channel) else { return };
        let stays = self.wire != Wire::Pusher && !ended.terms.of_server;
        match why {
            Unsubscribe::InsufficientState if !stays => self.close_locked(inner, Disconnect::InsufficientState),
            Unsubscribe::StateInvalidated if !stays => self.close_locked(inner, Disconnect::StateInvalidated),
            Unsubscribe::Expired if !stays => self.close_locked(inner, Disconnect::SubscriptionExpired),
            _ => self.tell_unsubscribed(inner, channel, ended.terms.alias, UnsubscribePush::from(why)),
        }
    }

    /// On the Pusher wire there is no such word: who loses a channel there is told by an error.
    fn tell_unsubscribed(&self, inner: &mut Inner, channel: &Arc<str>, alias: Alias, push: UnsubscribePush<'_>) {
        if inner.closing.is_some() {
            return;
        }
        let push = if self.wire == Wire::Pusher {
            let name = alias.name(channel);
            let error = wire::encode_subscription_error(&name, wire::Refusal::Forbidden, push.reason);
            self.wire.frame(error.as_bytes())
        } else {
            self.wire.push(About::Channel(channel), &push)
        };
        if inner.outbox.push(push, self.queue_bytes).is_err() {
            self.close_locked(inner, Disconnect::Slow);
        }
    }

    /// Adds an answer to those of this reading.
    fn reply(&self, encoded: &[u8]) {
        let mut inner = self.lock();
        self.wire.add(&mut inner.replies, encoded);
        if inner.replies.len() > MAX_REPLIES {
            self.queue_replies(&mut inner);
        }
    }

    /// Queues the answers so far, as one frame.
    fn queue_replies(&self, inner: &mut Inner) {
        if inner.replies.is_empty() || inner.closing.is_some() {
            return;
        }
        let frame = self.wire.seal(std::mem::take(&mut inner.replies));
        // Only a full socket is a slow client, not a queue that nobody has written yet.
        let room = inner.outbox.is_empty() || inner.outbox.bytes() + frame.len() <= self.queue_bytes;
        if !room {
            self.relieve(&mut inner.outbox);
        }
        if inner.outbox.push(frame, self.queue_bytes).is_err() {
            self.close_locked(inner, Disconnect::Slow);
        }
    }

    /// Writes the answers so far.
    fn send_replies(&self) {
        self.queue_replies(&mut self.lock());
        self.flush();
    }

    /// The code with which we closed, if we did.
    fn closing(&self) -> Option<u16> {
        self.lock().closing
    }

    fn blocked(&self) -> bool {
        self.lock().blocked
    }

    fn drained(&self) -> bool {
        self.lock().outbox.is_empty()
    }

    /// The socket takes bytes again.
    fn unblock(&self) {
        self.lock().blocked = false;
        self.flush();
    }

    fn send_frame(&self, frame: Bytes) {
        let mut inner = self.lock();
        if inner.closing.is_none() && inner.outbox.push(frame, self.queue_bytes).is_err() {
            self.close_locked(&mut inner, Disconnect::Slow);
        }
        drop(inner);
        self.flush();
    }

    /// Nothing more will be written.
    fn shut_down(&self) {
        // The other side may be gone already, which is as good.
        let _ = self.socket.shut_down();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let reported = self.lock().reported;
        self.waiting.inc_by(difference(0, reported));
    }
}

fn difference(now: usize, before: usize) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX)
}
