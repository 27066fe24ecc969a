//! How a subscription begins, goes live and ends, as far as the session knows of it.

use std::sync::Arc;

use dzvin_protocols::channels::{
    Epoch,
    centrifuge::{Disconnect, Unsubscribe},
};

use super::{Seat, Session, Subscribed, Subscription, live::Stop};

impl Session {
    /// Starts a subscription that buffers until it is settled. False when it stands already.
    pub(super) fn begin(&self, channel: &Arc<str>) -> bool {
        let mut inner = self.lock();
        if inner.find(channel).is_some() {
            return false;
        }
        let state = Subscription::Recovering { live: Vec::new(), bytes: 0 };
        // One subscription is the rule, and a vector that grows by itself begins with four.
        inner.subscriptions.reserve_exact(1);
        inner.subscriptions.push(Subscribed { channel: Arc::clone(channel), seat: None, state });
        true
    }

    /// The shard has taken the session in. False when the subscription is over already.
    pub(in crate::channels) fn seat(&self, channel: &str, seat: Seat) -> bool {
        let mut inner = self.lock();
        let Some(at) = inner.find(channel) else { return false };
        let subscribed = &mut inner.subscriptions[at];
        let first = subscribed.seat.is_none();
        if first {
            subscribed.seat = Some(seat);
        }
        first
    }

    /// Queues the reply, then what came meanwhile and follows `from`, and goes live. Both under one lock, so that the
    /// shard cannot come between.
    ///
    /// # Errors
    /// The subscription is over at once: the shard must forget its seat.
    pub(super) fn settle(
        &self,
        channel: &Arc<str>,
        epoch: &Epoch,
        from: u64,
        reply: &[u8],
    ) -> Result<(), Option<Seat>> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(at) = inner.find(channel) else { return Err(None) };
        let seat = inner.subscriptions[at].seat;
        let going_live = Subscription::Live { epoch: epoch.clone(), next: from.saturating_add(1) };
        let before = std::mem::replace(&mut inner.subscriptions[at].state, going_live);
        let (Subscription::Recovering { live, .. }, None) = (before, inner.closing) else {
            inner.take(channel);
            return Err(seat);
        };
        let mut next = from.saturating_add(1);
        let mut replies = std::mem::take(&mut inner.replies);
        self.wire.form().join(&mut replies, reply);
        let mut result = inner.outbox.push(self.wire.frame(&replies), self.queue_bytes).map_err(|_| Stop::Slow);
        for delivery in &live {
            result =
                result.and_then(|()| self.write_and_follow(epoch, &mut next, delivery, &mut inner.outbox).map(drop));
        }
        match result {
            Ok(()) => {
                inner.subscriptions[at].state = Subscription::Live { epoch: epoch.clone(), next };
                return Ok(());
            }
            Err(Stop::Slow) => {
                inner.take(channel);
                self.close_locked(inner, Disconnect::Slow.code(), Disconnect::Slow.reason());
            }
            Err(Stop::Insufficient) => self.unsubscribe_locked(inner, channel, Unsubscribe::InsufficientState),
        }
        Err(seat)
    }

    /// Ends a subscription that the user may no longer have, and says so. Answers its seat.
    pub(super) fn revoke(&self, channel: &Arc<str>) -> Option<Seat> {
        let mut inner = self.lock();
        let seat = inner.find(channel).and_then(|at| inner.subscriptions[at].seat);
        self.unsubscribe_locked(&mut inner, channel, Unsubscribe::Server);
        seat
    }

    /// Ends a subscription. Answers its seat, if there was one.
    pub(super) fn end(&self, channel: &str) -> Option<Seat> {
        self.lock().take(channel)?.seat
    }

    pub(super) fn subscription_count(&self) -> usize {
        self.lock().subscriptions.len()
    }

    pub(super) fn channels(&self) -> Vec<Arc<str>> {
        self.lock().subscriptions.iter().map(|it| Arc::clone(&it.channel)).collect()
    }

    /// The seats of the session, for the shard to forget.
    pub(in crate::channels) fn seats(&self) -> Vec<Seat> {
        self.lock().subscriptions.iter().filter_map(|it| it.seat).collect()
    }
}
