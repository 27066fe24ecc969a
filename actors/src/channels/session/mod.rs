//! One client connection: the part that shards touch, and the task that reads and answers.
//!
//! Invariants: the lock is held for a few pushes or one system call, never across an await; per subscription offsets go
//! out in order, each once; after `close` nothing but the close frame goes out. Rights, recovery and the rest of the
//! protocol are in `commands`, time is in `task`.

mod commands;
mod subscribe;
mod task;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Epoch,
    centrifuge::{Disconnect, Unsubscribe, encode_unsubscribe_push},
    websocket::{close_frame, text_frame},
};
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{Interest, Ready},
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit},
};

use super::{Delivery, Limits, Metrics, What, outbox::Outbox, shard::Shards, topics::TopicsMessage};
use crate::{platform::ports::Authenticator, supervise::Slot};

pub(super) use task::run;

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
    /// The node's shards.
    pub shards: Shards,
    /// What a client may cost.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    /// Name and version told to clients.
    pub version: String,
}

/// A socket after its upgrade.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub socket: TcpStream,
    /// What was read behind the upgrade request.
    pub leftover: Bytes,
    /// The session's place within the node's limit.
    pub permit: OwnedSemaphorePermit,
}

/// Unique within the process.
pub(super) type SessionId = u64;

/// The part of a session that its task and its shard share.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) client: String,
    user: OnceLock<Arc<str>>,
    socket: TcpStream,
    inner: Mutex<Inner>,
    /// Wakes the task: the socket was full, or the session is to be closed.
    wake: Notify,
    queue_bytes: usize,
    waiting: Gauge,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Inner {
    outbox: Outbox,
    subscriptions: HashMap<Arc<str>, Subscription>,
    closing: Option<u16>,
    blocked: bool,
    dirty: bool,
    /// What the gauge of waiting bytes knows of this session.
    reported: usize,
}

#[derive(Debug)]
enum Subscription {
    /// The past is being read; what comes meanwhile waits here.
    Recovering { live: Vec<Delivery>, bytes: usize },
    /// Everything below `next` has been delivered.
    Live { epoch: Epoch, next: u64 },
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
    pub(super) fn new(id: SessionId, incoming: Incoming, queue_bytes: usize, waiting: Gauge) -> (Arc<Self>, Bytes) {
        let client = format!("{:032x}", rand::random::<u128>());
        let session = Self {
            id,
            client,
            user: OnceLock::new(),
            socket: incoming.socket,
            inner: Mutex::default(),
            wake: Notify::new(),
            queue_bytes,
            waiting,
            _permit: incoming.permit,
        };
        (Arc::new(session), incoming.leftover)
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

    /// Takes what the shard brings for one channel. Flushing is left to the shard, once per batch.
    pub(super) fn offer(&self, delivery: &Delivery) -> (Offered, bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(subscription) = inner.subscriptions.get_mut(&delivery.channel) else { return (Offered::Gone, false) };
        if inner.closing.is_some() {
            return (Offered::Skipped, false);
        }
        let offered = match subscription {
            Subscription::Recovering { live, bytes } => {
                buffer(live, bytes, delivery, self.queue_bytes);
                Offered::Skipped
            }
            Subscription::Live { epoch, next } => {
                match self.write_and_follow(epoch, next, delivery, &mut inner.outbox) {
                    Ok(0) => Offered::Skipped,
                    Ok(queued) => Offered::Queued(queued),
                    Err(Stop::Slow) => {
                        self.close_locked(inner, Disconnect::Slow.code(), Disconnect::Slow.reason());
                        Offered::Skipped
                    }
                    Err(Stop::Insufficient) => {
                        self.unsubscribe_locked(inner, &delivery.channel, Unsubscribe::InsufficientState);
                        Offered::Ended
                    }
                }
            }
        };
        let touched = offered != Offered::Skipped && !std::mem::replace(&mut inner.dirty, true);
        (offered, touched)
    }

    /// A queue that is full because nobody has written yet is written first: only a full socket is a slow client.
    fn write_and_follow(
        &self,
        epoch: &Epoch,
        next: &mut u64,
        delivery: &Delivery,
        outbox: &mut Outbox,
    ) -> Result<u64, Stop> {
        let first = *next;
        loop {
            match follow(epoch, next, delivery, outbox, self.queue_bytes) {
                Err(Stop::Slow) if self.relieve(outbox) => {}
                result => return result.map(|_| *next - first),
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
        let mut inner = self.lock();
        inner.dirty = false;
        if inner.blocked {
            return;
        }
        match inner.outbox.flush(&self.socket) {
            Ok(true) => {}
            Ok(false) => {
                inner.blocked = true;
                self.wake.notify_one();
            }
            // The socket is gone: the reader notices and ends the session.
            Err(_) => inner.outbox = Outbox::default(),
        }
        let (now, before) = (inner.outbox.bytes(), inner.reported);
        if now != before {
            inner.reported = now;
            self.waiting.inc_by(difference(now, before));
        }
    }

    /// Closes with a code of the protocol; the first reason wins.
    pub(super) fn close(&self, why: Disconnect) {
        self.close_with(why.code(), why.reason());
    }

    fn close_with(&self, code: u16, reason: &str) {
        self.close_locked(&mut self.lock(), code, reason);
    }

    fn close_locked(&self, inner: &mut Inner, code: u16, reason: &str) {
        if inner.closing.is_some() {
            return;
        }
        inner.closing = Some(code);
        if code == Disconnect::Slow.code() {
            inner.outbox.clear();
        }
        let _ = inner.outbox.push(close_frame(code, reason), usize::MAX);
        self.wake.notify_one();
    }

    fn unsubscribe_locked(&self, inner: &mut Inner, channel: &Arc<str>, why: Unsubscribe) {
        inner.subscriptions.remove(channel);
        let push = text_frame(encode_unsubscribe_push(channel, why).as_bytes());
        if inner.outbox.push(push, self.queue_bytes).is_err() {
            self.close_locked(inner, Disconnect::Slow.code(), Disconnect::Slow.reason());
        }
    }

    /// Queues a reply and writes it.
    fn send(&self, text: &str) {
        self.send_frame(text_frame(text.as_bytes()));
    }

    /// Starts a subscription that buffers until it is settled. False when it stands already.
    fn begin(&self, channel: &Arc<str>) -> bool {
        let mut inner = self.lock();
        if inner.subscriptions.contains_key(channel) {
            return false;
        }
        inner.subscriptions.insert(Arc::clone(channel), Subscription::Recovering { live: Vec::new(), bytes: 0 });
        true
    }

    /// Queues the reply, then what came meanwhile and follows `from`, and goes live. Both under one lock, so that the
    /// shard cannot come between. False when the subscription is over at once: the shard must forget it.
    #[must_use]
    fn settle(&self, channel: &Arc<str>, epoch: &Epoch, from: u64, reply: &str) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(Subscription::Recovering { live, .. }) = inner.subscriptions.remove(channel) else { return false };
        if inner.closing.is_some() {
            return false;
        }
        let mut next = from.saturating_add(1);
        let mut result = inner.outbox.push(text_frame(reply.as_bytes()), self.queue_bytes).map_err(|_| Stop::Slow);
        for delivery in &live {
            result =
                result.and_then(|()| self.write_and_follow(epoch, &mut next, delivery, &mut inner.outbox).map(drop));
        }
        let live = result.is_ok();
        match result {
            Ok(()) => {
                inner.subscriptions.insert(Arc::clone(channel), Subscription::Live { epoch: epoch.clone(), next });
            }
            Err(Stop::Slow) => self.close_locked(inner, Disconnect::Slow.code(), Disconnect::Slow.reason()),
            Err(Stop::Insufficient) => self.unsubscribe_locked(inner, channel, Unsubscribe::InsufficientState),
        }
        live
    }

    /// Ends a subscription that the user may no longer have, and says so.
    fn revoke(&self, channel: &Arc<str>) {
        self.unsubscribe_locked(&mut self.lock(), channel, Unsubscribe::Server);
    }

    fn end(&self, channel: &str) -> bool {
        self.lock().subscriptions.remove(channel).is_some()
    }

    fn subscription_count(&self) -> usize {
        self.lock().subscriptions.len()
    }

    /// The channels of the session, for the shard to forget.
    pub(super) fn channels(&self) -> Vec<Arc<str>> {
        self.lock().subscriptions.keys().cloned().collect()
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
            self.close_locked(&mut inner, Disconnect::Slow.code(), Disconnect::Slow.reason());
        }
        drop(inner);
        self.flush();
    }

    /// Nothing more will be written.
    fn shut_down(&self) {
        // The other side may be gone already, which is as good.
        let _ = socket2::SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write);
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.try_read(buffer)
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Slow,
    Insufficient,
}

/// A recovering subscription keeps at most a queue's worth. Of what is beyond only the top is kept: whoever has not read
/// the past up to there is told when it settles, though nothing may follow.
fn buffer(live: &mut Vec<Delivery>, bytes: &mut usize, delivery: &Delivery, limit: usize) {
    if live.last().is_some_and(|last| matches!(last.what, What::Reset)) {
        // The subscriber will be told, whatever comes behind; a stream may be reset any number of times meanwhile.
        return;
    }
    let top = match &delivery.what {
        What::Items(items) => {
            let size: usize = items.iter().map(|item| item.frame.len()).sum();
            if *bytes + size <= limit {
                *bytes += size;
                return live.push(delivery.clone());
            }
            items.iter().map(|item| item.offset).max().unwrap_or(0)
        }
        What::Top(top) => *top,
        What::Reset => return live.push(delivery.clone()),
    };
    match live.last_mut() {
        Some(Delivery { what: What::Top(known), epoch, .. }) if *epoch == delivery.epoch => *known = top.max(*known),
        _ => live.push(Delivery { what: What::Top(top), ..delivery.clone() }),
    }
}

/// The live rule: at the expected offset deliver, below it drop, above it or in another epoch the subscriber must recover.
fn follow(epoch: &Epoch, next: &mut u64, delivery: &Delivery, outbox: &mut Outbox, limit: usize) -> Result<u64, Stop> {
    if delivery.epoch != *epoch {
        return Err(Stop::Insufficient);
    }
    let items = match &delivery.what {
        What::Items(items) => items,
        What::Top(top) if *top < *next => return Ok(0),
        What::Top(_) | What::Reset => return Err(Stop::Insufficient),
    };
    let mut queued = 0;
    let fresh = items.partition_point(|item| item.offset < *next);
    for item in items.get(fresh..).unwrap_or_default() {
        if item.offset != *next {
            return Err(Stop::Insufficient);
        }
        outbox.push(item.frame.clone(), limit).map_err(|_| Stop::Slow)?;
        *next += 1;
        queued += 1;
    }
    Ok(queued)
}
