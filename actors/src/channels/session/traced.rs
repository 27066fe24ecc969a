//! What a session tells of itself where its user or one of its channels is traced.

use dzvin_protocols::channels::Happening;

use super::{
    Inner, Offered, Session, Subscription,
    live::{Place, View},
};
use crate::channels::{Delivery, What, trace::Doer};

/// A publication that a subscriber is to be shown: its offset, and bytes of its data.
pub(super) type Shown = (u64, u64);

impl Session {
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
        let Some(Subscription::Live(place)) = found.map(|it| &it.state) else { return };
        let (epoch, offset) = (place.epoch.as_str(), place.next.saturating_sub(1));
        self.tell_trace(Some(channel), Happening::Subscribe { epoch, offset });
    }

    /// Tells which publications were handed to its socket.
    pub(super) fn tell_shown(&self, delivery: &Delivery, shown: &[Shown]) {
        let client = self.client_name();
        for &(offset, bytes) in shown {
            let what = Happening::Publication { epoch: delivery.epoch.as_str(), offset, bytes, sessions: None };
            self.tracer.tell_of_user(Doer { client: Some(&client), user: self.user() }, &delivery.channel, what);
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
        let expected = self.expected(channel, delivery);
        let offered = self.offer(channel, hint, delivery, alone);
        if let Offered::Queued(frames) = offered.0 {
            let frames = usize::try_from(frames).unwrap_or(usize::MAX).min(expected.len());
            self.tell_shown(delivery, &expected[..frames]);
        }
        offered
    }

    /// What a live subscription will show of a delivery, if it is in order.
    fn expected(&self, channel: u32, delivery: &Delivery) -> Vec<Shown> {
        let inner = self.lock();
        let seated = inner.subscriptions.iter().find(|it| it.seat.is_some_and(|seat| seat.channel == channel));
        match seated.map(|it| (&it.state, &it.terms)) {
            Some((Subscription::Live(place), terms)) => shown(place, delivery, self.view(terms)),
            _ => Vec::new(),
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

/// What a subscriber at this place is shown of a delivery.
pub(super) fn shown(place: &Place, delivery: &Delivery, view: View<'_>) -> Vec<Shown> {
    let What::Items(items) = &delivery.what else { return Vec::new() };
    let concerns = items.iter().filter(|item| item.offset >= place.next && !item.spares(view.client));
    let wanted = concerns.filter(|item| view.terms.admits(&item.publication));
    wanted.map(|item| (item.offset, item.publication.data.len() as u64)).collect()
}
