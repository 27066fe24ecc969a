//! One client connection: the part that shards touch, and the task that reads and answers.
//!
//! Invariants: the lock is held for a few pushes or one system call, never across an await; per subscription offsets go
//! out in order, each once; after `close` nothing but the close frame goes out. Rights, recovery and the rest of the
//! protocol are in `commands`, time is in `task`.

mod clock;
mod commands;
mod connect;
mod history;
mod live;
mod orders;
mod pace;
mod presence;
mod pusher;
mod recover;
mod sight;
mod start;
mod subscribe;
mod subscriptions;
mod task;
#[cfg(test)]
mod tests;
mod traced;
mod wake;
mod writing;

use std::{
    fmt,
    hint::black_box,
    mem::offset_of,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Control,
    centrifuge::{Disconnect, Unsubscribe},
    pusher::SocketId,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    AppObserver, Apps, Delivery, Handlers, Limits, Mailbox, Mailboxes, Metrics, Namespaces, Numbers, Socket, Tracer,
    Users, Wire, outbox::Outbox, presence::PresenceMessage, shards::Shards, socket::Writer, topics::TopicsMessage,
};
use crate::{
    platform::ports::{Auditor, Authenticator, Member, Queries},
    supervise::Slot,
};

use clock::Clock;
pub(super) use clock::{millis, now};
use live::{Insufficient, Place, Stop, Terms, View, buffer, follow, only};
use orders::Order;
pub use pusher::Admission;
pub(super) use task::{Connection, run};
use traced::Notes;
use wake::Wake;
use writing::difference;

/// What every session of a node needs.
pub struct Hub<B, L> {
    /// The bus, for recent history.
    pub bus: Arc<B>,
    /// The change log, for everything else.
    pub log: Arc<L>,
    /// Who somebody is.
    pub auth: Arc<dyn Authenticator>,
    /// Who hears what clients are refused.
    pub audit: Arc<dyn Auditor>,
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
    /// Who follows what sessions do.
    pub tracer: Tracer,
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
    /// Who follows what sessions do.
    pub(super) tracer: &'a Tracer,
}

/// A socket after its upgrade.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub socket: Socket,
    /// What was read behind the upgrade request.
    pub leftover: Bytes,
    /// What leaves before all else: the answer to the upgrade. Empty: it has left.
    pub greeting: Bytes,
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
    /// From where the client comes, where that is known.
    address: Option<IpAddr>,
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

    /// The same, for a client from there.
    #[must_use]
    pub fn of_address(self, address: Option<IpAddr>) -> Self {
        Self { address, ..self }
    }
}

impl From<OwnedSemaphorePermit> for Permit {
    fn from(place: OwnedSemaphorePermit) -> Self {
        Self { _place: place, address: None, more: None }
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
///
/// In this order in memory: a silent session is touched once from ping to ping, and what that takes lies in its first three cache lines.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Session {
    pub(super) id: SessionId,
    socket: Writer,
    pub(super) wire: Wire,
    /// Wakes the task: the socket was full, or the session is to be closed.
    wake: Wake,
    inner: Mutex<Inner>,
    pub(super) client: ClientId,
    user: OnceLock<Arc<str>>,
    /// Where it is told that its user is online, once it is: boxed, for few sessions have it.
    online: OnceLock<Box<Online>>,
    /// When it began, in milliseconds of the clock.
    began: u64,
    queue_bytes: usize,
    /// Milliseconds after a token's end to fetch another.
    grace: u64,
    waiting: Gauge,
    tracer: Tracer,
    mailbox: Option<Box<Mailbox>>,
    permit: Permit,
}

/// Where it is told that a session's user is online, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Online {
    pub(super) channel: Arc<str>,
    pub(super) member: Arc<Member>,
}

/// What clients and logs know a session by: unguessable. Ids have one order, whichever protocol spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(u128);

impl ClientId {
    /// Reads an id as either protocol spells it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let plain = (text.len() == 32 && digits(text)).then(|| u128::from_str_radix(text, 16).ok());
        plain.flatten().or_else(|| super::delivery::socket(text)).map(Self)
    }

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

/// In this order in memory, as [`Session`].
#[derive(Debug)]
#[repr(C)]
struct Inner {
    closing: Option<u16>,
    blocked: bool,
    dirty: bool,
    /// Nothing of the hub's own channels is shown any more, until the session ends, which is soon.
    hushed: bool,
    clock: Clock,
    outbox: Outbox,
    subscriptions: Vec<Subscribed>,
    /// Answers of one reading, which leave in one frame.
    replies: Vec<u8>,
    /// What the task has been told to do.
    orders: Vec<Order>,
    /// What the gauge of waiting bytes knows of this session.
    reported: usize,
}

// Before it come the counts of its `Arc`, and before what is locked the lock.
const _: () = {
    let inner = 2 * size_of::<usize>() + offset_of!(Session, inner) + size_of::<Mutex<Inner>>() - size_of::<Inner>();
    assert!(inner + offset_of!(Inner, outbox) < 3 * 64, "three cache lines");
};

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
            outbox: Outbox::beginning_with(&connection.greeting),
            subscriptions: Vec::new(),
            replies: Vec::new(),
            clock,
            orders: Vec::new(),
            closing: None,
            blocked: false,
            dirty: false,
            hushed: false,
            reported: 0,
        };
        Arc::new(Self {
            id,
            client: ClientId(rand::random()),
            user: OnceLock::new(),
            online: OnceLock::new(),
            wire: connection.wire,
            began: clock::now(),
            socket: connection.socket,
            inner: Mutex::new(inner),
            wake: Wake::default(),
            queue_bytes: hub.limits.queue_bytes,
            grace: clock::millis(hub.limits.expiry_grace),
            waiting: hub.waiting.clone(),
            tracer: hub.tracer.clone(),
            mailbox: connection.mailbox.map(Box::new),
            permit: connection.permit,
        })
    }

    /// From where the client comes, where that is known.
    fn address(&self) -> Option<IpAddr> {
        self.permit.address
    }

    /// Who it is, for log lines; `None` before it has said so.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.get().map(|user| &**user)
    }

    /// The same, to be kept.
    pub(super) fn user_name(&self) -> Option<Arc<str>> {
        self.user.get().cloned()
    }

    /// Where it is told that its user is online, if it is.
    pub(super) fn online(&self) -> Option<&Online> {
        self.online.get().map(|online| &**online)
    }

    /// Its user is online: for good, as the user is.
    fn goes_online(&self, online: Online) {
        let _ = self.online.set(Box::new(online));
    }

    /// A session is of one user for good: another's token is refused.
    fn signed_in(&self, user: &Arc<str>) {
        let _ = self.user.set(Arc::clone(user));
    }

    /// Has the processor fetch what a look at this session reads, as far as it lies before the lock, without waiting for it. Nothing here
    /// may be a write or an atomic exchange: those wait for each other.
    pub(super) fn fetch(&self) {
        black_box((self.id, self.inner.is_poisoned()));
        self.socket.fetch();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere ends its own session; the data behind the lock is consistent between pushes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the shard brings for one channel; `hint` is where the subscription was found last. A single frame is written
    /// at once (`alone`), otherwise flushing is left to the shard, once per batch: true when the session wants that.
    pub(super) fn offer(&self, channel: u32, hint: &mut u32, delivery: &Delivery, alone: bool) -> (Offered, bool) {
        self.offer_noted(channel, hint, delivery, alone, None)
    }

    /// The same; what the client is shown of it is noted.
    fn offer_noted(
        &self,
        channel: u32,
        hint: &mut u32,
        delivery: &Delivery,
        alone: bool,
        notes: Option<&Notes>,
    ) -> (Offered, bool) {
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
        let view = View { notes, ..self.view(&subscribed.terms) };
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
        View { wire: self.wire, limit: self.queue_bytes, client: self.client.0, began: self.began, terms, notes: None }
    }

    /// The subscriber is told to recover.
    fn insufficient(&self, inner: &mut Inner, channel: &Arc<str>) -> (Offered, bool) {
        self.unsubscribe_locked(inner, channel, Unsubscribe::InsufficientState);
        (Offered::Ended, !std::mem::replace(&mut inner.dirty, true))
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
}

impl Drop for Session {
    fn drop(&mut self) {
        let reported = self.lock().reported;
        self.waiting.inc_by(difference(0, reported));
    }
}
