//! How a subscription begins, goes live and ends, as far as the session knows of it.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::channels::{
    Epoch, Publication,
    centrifuge::{Disconnect, Unsubscribe, UnsubscribePush},
};

use super::{
    Inner, Seat, Session, Subscribed, Subscription,
    live::{Place, Stop, Terms, View},
};
use crate::{
    channels::Delivery,
    platform::ports::{ServerSubscription, TokenMark},
};

/// A subscription that goes live.
pub(super) struct Going {
    pub(super) channel: Arc<str>,
    pub(super) epoch: Epoch,
    /// The client has everything up to here.
    pub(super) from: u64,
    /// The publication that it is shown last with the reply; 0 for none.
    pub(super) seen: u64,
    /// Of a watchlist: whether the client is told with the reply that the user is online; `None` when that is not known yet.
    pub(super) online: Option<bool>,
}

/// Subscriptions that are over, each with the seat that the shard must forget.
pub(super) type Over = Vec<(Arc<str>, Option<Seat>)>;

impl Session {
    /// Starts a subscription that buffers until it is settled. False when it stands already.
    pub(super) fn begin(&self, channel: &Arc<str>, terms: Terms) -> bool {
        let mut inner = self.lock();
        if inner.find(channel).is_some() {
            return false;
        }
        let state = Subscription::Recovering { live: Vec::new(), bytes: 0 };
        // One subscription is the rule, and a vector that grows by itself begins with four.
        inner.subscriptions.reserve_exact(1);
        inner.subscriptions.push(Subscribed { channel: Arc::clone(channel), seat: None, terms, state });
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

    /// Whether the shard has.
    pub(super) fn is_seated(&self, channel: &str) -> bool {
        let inner = self.lock();
        inner.find(channel).is_some_and(|at| inner.subscriptions[at].seat.is_some())
    }

    /// Queues the reply, then what came meanwhile and follows each one's `from`, and goes live. All under one lock, so that
    /// the shard cannot come between. Answers those that are over at once, with the seat that the shard must forget; of a
    /// session that closes, or when none is left, nothing is queued.
    ///
    /// What a session that closes still has is freed at its end, when its task may be gone already.
    pub(super) fn settle(&self, going: Vec<Going>, replies: &[&[u8]]) -> (bool, Over) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut over = Vec::new();
        if inner.closing.is_some() {
            return (false, over);
        }
        let alone = going.len() == 1;
        let mut live = Vec::with_capacity(going.len());
        for going in going {
            match inner.go_live(&going) {
                Some(waited) => live.push((going.channel, waited)),
                None => over.push((going.channel, None)),
            }
        }
        if alone && live.is_empty() {
            return (false, over);
        }
        for reply in replies {
            self.wire.add(&mut inner.replies, reply);
        }
        self.queue_replies(inner);
        for (channel, waited) in live {
            self.tell_live(inner, &channel);
            if let Err(seat) = self.catch_up(inner, &channel, &waited) {
                over.push((channel, seat));
            }
        }
        (true, over)
    }

    /// Shows what came while the past was read.
    fn catch_up(&self, inner: &mut Inner, channel: &Arc<str>, waited: &[Delivery]) -> Result<(), Option<Seat>> {
        if inner.closing.is_some() {
            return Ok(());
        }
        let Some(at) = inner.find(channel) else { return Err(None) };
        let Subscribed { seat, terms, state, .. } = &mut inner.subscriptions[at];
        let Subscription::Live(place) = state else { return Err(*seat) };
        let seat = *seat;
        let mut result = Ok(());
        for delivery in waited {
            let notes = self.notes();
            let view = View { notes: notes.as_ref(), ..self.view(terms) };
            result = result.and_then(|()| self.write_and_follow(place, delivery, &mut inner.outbox, view).map(drop));
            if let Some(notes) = notes.filter(|_| result != Err(Stop::Slow)) {
                self.tell_shown(&delivery.channel, &terms.epoch_as_told(&place.epoch), notes);
            }
        }
        match result {
            Ok(()) => return Ok(()),
            Err(Stop::Slow) => {
                self.close_locked(inner, Disconnect::Slow);
                return Ok(());
            }
            Err(Stop::Insufficient) => self.unsubscribe_locked(inner, channel, Unsubscribe::InsufficientState),
        }
        Err(seat)
    }

    /// Ends a subscription that the user may no longer have, and says so. Answers its seat.
    pub(super) fn revoke(&self, channel: &Arc<str>, why: UnsubscribePush<'_>) -> Option<Seat> {
        let mut inner = self.lock();
        let at = inner.find(channel)?;
        if inner.subscriptions[at].terms.watching {
            // It is no channel of the client's.
            return None;
        }
        let ended = inner.take(channel)?;
        self.tell_over(channel, &ended.terms, why.code);
        self.tell_unsubscribed(&mut inner, channel, ended.terms.alias, why);
        ended.seat
    }

    /// Moves the end of a subscription, which lives on another token from now on. False when there is none.
    pub(super) fn prolong(&self, channel: &str, expires_at: Option<u64>, mark: Option<TokenMark>) -> bool {
        let mut inner = self.lock();
        let Some(at) = inner.find(channel) else { return false };
        let terms = &mut inner.subscriptions[at].terms;
        (terms.expires_at, terms.mark, terms.claimed) = (expires_at, mark.map(Box::new), false);
        true
    }

    /// Of the subscriptions that live on a token of their own those whose token is such.
    pub(super) fn marked(&self, such: impl Fn(&TokenMark) -> bool) -> Vec<Arc<str>> {
        let inner = self.lock();
        let marked = inner.subscriptions.iter().filter(|it| it.terms.mark.as_deref().is_some_and(&such));
        marked.map(|it| Arc::clone(&it.channel)).collect()
    }

    /// Ends the subscriptions whose time is over; answers their seats, and when the next one ends.
    pub(super) fn expire(&self, inner: &mut Inner, now: u64) -> (Vec<Seat>, Option<u64>) {
        let mut seats = Vec::new();
        while let Some(over) = inner.subscriptions.iter().find(|it| it.terms.expires_at.is_some_and(|at| at <= now)) {
            let channel = Arc::clone(&over.channel);
            seats.extend(over.seat);
            self.unsubscribe_locked(inner, &channel, Unsubscribe::Expired);
        }
        (seats, inner.subscriptions.iter().filter_map(|it| it.terms.expires_at).min())
    }

    /// Ends a subscription. Answers its seat, if there was one.
    pub(super) fn end(&self, channel: &str) -> Option<Seat> {
        self.lock().take(channel)?.seat
    }

    /// Whether there is one.
    pub(super) fn has(&self, channel: &str) -> bool {
        self.lock().find(channel).is_some()
    }

    /// Whether a token opened it, or the server itself; `named` by the connection's token as it is now.
    pub(super) fn is_granted(&self, channel: &str, named: &[ServerSubscription]) -> bool {
        let inner = self.lock();
        inner.find(channel).is_some_and(|at| {
            let terms = &inner.subscriptions[at].terms;
            terms.granted && (!terms.claimed || named.iter().any(|it| *it.channel == *channel))
        })
    }

    /// What others may see of this subscriber there, if anything was granted with the subscription.
    pub(super) fn info_of(&self, channel: &str) -> Option<Bytes> {
        let inner = self.lock();
        inner.subscriptions[inner.find(channel)?].terms.info.as_deref().cloned()
    }

    /// Agrees on the number that stands for a channel.
    pub(super) fn number(&self, channel: &str, number: u32) -> u32 {
        let mut inner = self.lock();
        let Some(at) = inner.find(channel) else { return 0 };
        inner.subscriptions[at].terms.number = number;
        number
    }

    /// Of these publications those that the subscriber wants.
    pub(super) fn admitted(&self, channel: &str, publications: Vec<Publication>) -> Vec<Publication> {
        let inner = self.lock();
        let Some(at) = inner.find(channel) else { return publications };
        let terms = &inner.subscriptions[at].terms;
        publications.into_iter().filter(|it| terms.admits(it)).collect()
    }

    /// How many there are, those of a watchlist aside.
    pub(super) fn subscription_count(&self) -> usize {
        self.lock().subscriptions.iter().filter(|it| !it.terms.watching).count()
    }

    /// How many there are of a watchlist.
    pub(super) fn watched(&self) -> usize {
        self.lock().subscriptions.iter().filter(|it| it.terms.watching).count()
    }

    /// Their names, those of a watchlist aside.
    pub(super) fn channels(&self) -> Vec<Arc<str>> {
        self.lock().channels().collect()
    }

    /// Its seat on a channel, while it has one.
    pub(in crate::channels) fn seat_of(&self, channel: &str) -> Option<Seat> {
        self.lock().subscriptions.iter().find(|it| *it.channel == *channel)?.seat
    }

    /// The seats of the session, for the shard to forget.
    pub(in crate::channels) fn seats(&self) -> Vec<Seat> {
        self.lock().subscriptions.iter().filter_map(|it| it.seat).collect()
    }
}

impl Inner {
    /// The names of subscriptions that somebody has asked for.
    pub(super) fn channels(&self) -> impl Iterator<Item = Arc<str>> {
        self.subscriptions.iter().filter(|it| !it.terms.watching).map(|it| Arc::clone(&it.channel))
    }

    /// What came while the past was read; `None` when the subscription is over.
    fn go_live(&mut self, going: &Going) -> Option<Vec<Delivery>> {
        let at = self.find(&going.channel)?;
        let place = Place {
            epoch: going.epoch.clone(),
            next: going.from.saturating_add(1),
            seen: going.seen,
            online: going.online,
        };
        match std::mem::replace(&mut self.subscriptions[at].state, Subscription::Live(place)) {
            Subscription::Recovering { live, .. } => Some(live),
            Subscription::Live(_) => None,
        }
    }
}
