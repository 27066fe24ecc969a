//! What a session tells of itself where its user or one of its channels is traced.
//!
//! Invariants: of publications exactly those are told that the client was shown, as it was shown them: what a view hides is hidden here as
//! well. What is watched is no channel, and is told of nobody.

use std::{borrow::Cow, cell::RefCell, sync::Arc};

use dzvin_protocols::channels::{Epoch, Happening};

use super::{Inner, Offered, Session, Subscription, live::Terms};
use crate::channels::{Delivery, trace::Doer};

/// What was shown of one delivery: offsets, and bytes of their frames.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<(u64, usize)>>);

impl Notes {
    pub(super) fn take_down(&self, offset: u64, bytes: usize) {
        self.0.borrow_mut().push((offset, bytes));
    }
}

impl Terms {
    /// The epoch as the subscriber is told it.
    pub(super) fn epoch_as_told<'a>(&self, epoch: &'a Epoch) -> Cow<'a, Epoch> {
        match &self.viewer {
            Some(viewer) => Cow::Owned(viewer.sight.epoch(epoch)),
            None => Cow::Borrowed(epoch),
        }
    }
}

impl Session {
    /// Where to note what is shown, while anything is traced.
    pub(super) fn notes(&self) -> Option<Notes> {
        self.tracer.is_on().then(Notes::default)
    }

    /// Tells what happened to whoever follows its user, or this channel.
    pub(super) fn tell_trace(&self, channel: Option<&str>, what: Happening<'_>) {
        if self.tracer.is_on() {
            let client = self.client_name();
            self.tracer.tell(Doer { client: Some(&client), user: self.user() }, channel, what);
        }
    }

    /// Tells that a subscription has gone live.
    pub(super) fn tell_live(&self, inner: &Inner, channel: &str) {
        if !self.tracer.is_on() {
            return;
        }
        let found = inner.find(channel).map(|at| &inner.subscriptions[at]).filter(|it| !it.terms.watching);
        let Some((Subscription::Live(place), terms)) = found.map(|it| (&it.state, &it.terms)) else { return };
        let (epoch, offset) = (terms.epoch_as_told(&place.epoch), place.next.saturating_sub(1));
        self.tell_trace(Some(channel), Happening::Subscribe { epoch: epoch.as_str(), offset });
    }

    /// Tells which publications were handed to its socket.
    pub(super) fn tell_shown(&self, channel: &str, epoch: &Epoch, notes: Notes) {
        let client = self.client_name();
        for (offset, bytes) in notes.0.into_inner() {
            let what = Happening::Publication { epoch: epoch.as_str(), offset, bytes: bytes as u64, sessions: None };
            self.tracer.tell_of_user(Doer { client: Some(&client), user: self.user() }, channel, what);
        }
    }

    /// [`Session::offer`] for a session whose user is traced.
    pub(in crate::channels) fn offer_traced(
        &self,
        channel: u32,
        hint: &mut u32,
        delivery: &Delivery,
        alone: bool,
    ) -> (Offered, bool) {
        let (notes, epoch) = (Notes::default(), self.told_epoch(channel, &delivery.epoch));
        let offered = self.offer_noted(channel, hint, delivery, alone, Some(&notes));
        // Of one that was too slow nobody knows what still left.
        if matches!(offered.0, Offered::Queued(_) | Offered::Ended) {
            self.tell_shown(&delivery.channel, &epoch, notes);
        }
        offered
    }

    /// The epoch of a channel as the client was told it.
    fn told_epoch(&self, channel: u32, epoch: &Epoch) -> Epoch {
        let inner = self.lock();
        let seated = inner.subscriptions.iter().find(|it| it.seat.is_some_and(|seat| seat.channel == channel));
        seated.map_or_else(|| epoch.clone(), |it| it.terms.epoch_as_told(epoch).into_owned())
    }

    /// Tells that a subscription is over.
    pub(super) fn tell_over(&self, channel: &Arc<str>, terms: &Terms, code: u16) {
        if !terms.watching {
            self.tell_trace(Some(channel), Happening::Unsubscribe { code });
        }
    }

    /// The session is over, and with it what it still has.
    pub(in crate::channels) fn tell_end(&self) {
        if !self.tracer.is_on() {
            return;
        }
        let code = self.closing().unwrap_or_default();
        for channel in self.channels() {
            self.tell_trace(Some(&channel), Happening::Unsubscribe { code });
        }
        self.tell_trace(None, Happening::Disconnect { code });
    }
}
