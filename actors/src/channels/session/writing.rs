//! What a session writes: answers, frames that wait, and the end.
//!
//! Invariant: after the close nothing but its frame goes out.

use bytes::Bytes;
use dzvin_protocols::channels::{
    Happening,
    centrifuge::{About, Disconnect, Unsubscribe, UnsubscribePush},
    pusher as wire,
};
use futures_util::FutureExt;
use tokio::io::{Interest, Ready};

use std::sync::Arc;

use super::{Inner, Offered, Session};
use crate::channels::{Alias, Wire, outbox::Outbox};

/// Bytes of answers that wait for one frame: what a session's queue has room for several times.
const MAX_REPLIES: usize = 64 * 1024;

impl Session {
    /// Writes a frame on a socket for which nothing waits.
    pub(super) fn write(&self, inner: &mut Inner, frame: &Bytes) -> Offered {
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
    pub(super) fn report(&self, inner: &mut Inner) {
        let (now, before) = (inner.outbox.bytes(), inner.reported);
        if now != before {
            inner.reported = now;
            self.waiting.inc_by(difference(now, before));
        }
    }

    /// True when the socket took something.
    pub(super) fn relieve(&self, outbox: &mut Outbox) -> bool {
        let before = outbox.bytes();
        outbox.flush(&self.socket).is_ok() && outbox.bytes() < before
    }

    /// Whether a reply of so many bytes may be queued now.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let mut inner = self.lock();
        let bytes = bytes + inner.replies.len();
        let full = |outbox: &Outbox| !outbox.is_empty() && outbox.bytes() + bytes > self.queue_bytes;
        !full(&inner.outbox) || (self.relieve(&mut inner.outbox) && !full(&inner.outbox))
    }

    /// Whether the client has closed its side, as far as the kernel has told.
    pub(super) fn left(&self) -> bool {
        let ready = self.socket.ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
    }

    /// Writes what the socket takes; the task goes on when it would block.
    pub(in crate::channels) fn flush(&self) {
        self.flush_locked(&mut self.lock());
    }

    pub(super) fn flush_locked(&self, inner: &mut Inner) {
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
    pub(in crate::channels) fn close(&self, why: Disconnect) {
        self.close_locked(&mut self.lock(), why);
    }

    /// Closes with a code that is not of the protocol's own: the client's, one of the framing, or one of the application.
    pub(super) fn close_with(&self, code: u16, reason: &str) {
        self.finish(&mut self.lock(), code, reason);
    }

    pub(super) fn close_locked(&self, inner: &mut Inner, why: Disconnect) {
        let (code, reason) = self.wire.close_code(why);
        if why == Disconnect::Slow && inner.closing.is_none() {
            self.tell_trace(None, Happening::Slow { queue_bytes: inner.outbox.bytes() as u64 });
            inner.replies = Vec::new();
            inner.outbox.clear();
        }
        self.finish(inner, code, reason);
    }

    /// Closes a session whose rights are no longer what they were. What waits was made by those that were: it does not leave,
    /// but for a frame that has begun to. The client comes back, and recovers what it may still have.
    pub(in crate::channels) fn close_unsaid(&self, why: Disconnect) {
        self.close_unsaid_locked(&mut self.lock(), why);
    }

    pub(super) fn close_unsaid_locked(&self, inner: &mut Inner, why: Disconnect) {
        if inner.closing.is_some() {
            // The farewell waits behind the rest.
            inner.outbox.keep_last();
        } else {
            inner.replies = Vec::new();
            inner.outbox.clear();
            let (code, reason) = self.wire.close_code(why);
            self.finish(inner, code, reason);
        }
        self.report(inner);
    }

    pub(super) fn finish(&self, inner: &mut Inner, code: u16, reason: &str) {
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
    pub(super) fn unsubscribe_locked(&self, inner: &mut Inner, channel: &Arc<str>, why: Unsubscribe) {
        let Some(ended) = inner.take(channel) else { return };
        self.tell_over(channel, &ended.terms, UnsubscribePush::from(why).code);
        let stays = self.wire != Wire::Pusher && !ended.terms.of_server;
        match why {
            // 3014 would void every position of the connection, and one subscription's is void.
            Unsubscribe::InsufficientState | Unsubscribe::StateInvalidated if !stays => {
                self.close_locked(inner, Disconnect::InsufficientState);
            }
            Unsubscribe::Expired if !stays => self.close_locked(inner, Disconnect::SubscriptionExpired),
            _ => self.tell_unsubscribed(inner, channel, ended.terms.alias, UnsubscribePush::from(why)),
        }
    }

    /// On the Pusher wire there is no such word: who loses a channel there is told by an error.
    pub(super) fn tell_unsubscribed(
        &self,
        inner: &mut Inner,
        channel: &Arc<str>,
        alias: Alias,
        push: UnsubscribePush<'_>,
    ) {
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
    pub(super) fn reply(&self, encoded: &[u8]) {
        let mut inner = self.lock();
        self.wire.add(&mut inner.replies, encoded);
        if inner.replies.len() > MAX_REPLIES {
            self.queue_replies(&mut inner);
        }
    }

    /// Queues the answers so far, as one frame.
    pub(super) fn queue_replies(&self, inner: &mut Inner) {
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
    pub(super) fn send_replies(&self) {
        self.queue_replies(&mut self.lock());
        self.flush();
    }

    /// The code with which we closed, if we did.
    pub(super) fn closing(&self) -> Option<u16> {
        self.lock().closing
    }

    pub(super) fn blocked(&self) -> bool {
        self.lock().blocked
    }

    pub(super) fn drained(&self) -> bool {
        self.lock().outbox.is_empty()
    }

    /// The socket takes bytes again.
    pub(super) fn unblock(&self) {
        self.lock().blocked = false;
        self.flush();
    }

    pub(super) fn send_frame(&self, frame: Bytes) {
        let mut inner = self.lock();
        if inner.closing.is_none() && inner.outbox.push(frame, self.queue_bytes).is_err() {
            self.close_locked(&mut inner, Disconnect::Slow);
        }
        drop(inner);
        self.flush();
    }

    /// Nothing more will be written.
    pub(super) fn shut_down(&self) {
        // The other side may be gone already, which is as good.
        let _ = self.socket.shut_down();
    }
}

pub(super) fn difference(now: usize, before: usize) -> i64 {
    i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX)
}
