//! What servers of applications may be told of their channels: from sessions and presence to whoever sends it on.
//!
//! Invariants: telling never waits, and costs a look at one number where nobody wants to hear; what does not fit is lost and
//! counted. Channels are named as their streams are; how an application spells them is for the receiver.

use std::sync::Arc;

use dzvin_protocols::channels::pusher::WebhookEvent;
use prometheus_client::metrics::counter::Counter;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// Notices that may wait for the receiver, which only sorts them: more than a second of a node's busiest channels.
const BACKLOG: usize = 8 * 1024;

/// What a notice is about, by the names that webhooks give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A channel has its first subscriber.
    ChannelOccupied,
    /// It has lost its last.
    ChannelVacated,
    /// A user is present.
    MemberAdded,
    /// A user is no longer.
    MemberRemoved,
    /// A client said something to the others.
    ClientEvent,
    /// Somebody came to a cache channel that has no last event.
    CacheMiss,
    /// The number of subscribers is another.
    SubscriptionCount,
}

impl NoticeKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::ClientEvent,
        Self::CacheMiss,
        Self::SubscriptionCount,
    ];

    /// What an event is about.
    #[must_use]
    pub const fn of(event: &WebhookEvent) -> Self {
        match event {
            WebhookEvent::ChannelOccupied { .. } => Self::ChannelOccupied,
            WebhookEvent::ChannelVacated { .. } => Self::ChannelVacated,
            WebhookEvent::MemberAdded { .. } => Self::MemberAdded,
            WebhookEvent::MemberRemoved { .. } => Self::MemberRemoved,
            WebhookEvent::ClientEvent { .. } => Self::ClientEvent,
            WebhookEvent::CacheMiss { .. } => Self::CacheMiss,
            WebhookEvent::SubscriptionCount { .. } => Self::SubscriptionCount,
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoticeKinds(u8);

impl NoticeKinds {
    /// Every kind.
    pub const ALL: Self = Self((1 << NoticeKind::ALL.len()) - 1);

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, kind: NoticeKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl FromIterator<NoticeKind> for NoticeKinds {
    fn from_iter<I: IntoIterator<Item = NoticeKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |all, kind| all | 1 << kind as u8))
    }
}

/// Where notices are handed in. Cheap to clone; by default nobody hears them.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    sender: Option<mpsc::Sender<WebhookEvent>>,
    wanted: NoticeKinds,
    lost: Counter,
}

impl Notices {
    /// For a receiver that wants to hear these kinds.
    #[must_use]
    pub fn new(wanted: NoticeKinds) -> (Self, mpsc::Receiver<WebhookEvent>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self { sender: Some(sender), wanted, lost: Counter::default() }, receiver)
    }

    /// Whether anybody wants to hear this kind: for those to whom the event itself is work.
    #[must_use]
    pub fn want(&self, kind: NoticeKind) -> bool {
        self.sender.is_some() && self.wanted.has(kind)
    }

    /// A client said something to the others; `user` is who it is on a presence channel.
    pub fn client_event(&self, channel: &str, event: &str, data: Option<&RawValue>, socket: &str, user: Option<&str>) {
        if self.want(NoticeKind::ClientEvent) {
            self.tell(WebhookEvent::client_event(channel, event, data, socket, user));
        }
    }

    /// Somebody came to a cache channel that has no last event.
    pub fn cache_miss(&self, channel: &Arc<str>) {
        if self.want(NoticeKind::CacheMiss) {
            self.tell(WebhookEvent::CacheMiss { channel: channel.as_ref().to_owned() });
        }
    }

    /// Anything else.
    pub fn tell(&self, event: WebhookEvent) {
        let Some(sender) = self.sender.as_ref().filter(|_| self.wanted.has(NoticeKind::of(&event))) else { return };
        if sender.try_send(event).is_err() {
            self.lost.inc();
        }
    }

    /// How many were lost because the receiver did not keep up.
    #[must_use]
    pub fn lost(&self) -> &Counter {
        &self.lost
    }

    /// How many wait for the receiver.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sender.as_ref().map_or(0, |sender| sender.max_capacity() - sender.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_wanted_is_told_and_what_does_not_fit_is_counted() {
        let (notices, mut heard) = Notices::new(NoticeKinds::from_iter([NoticeKind::CacheMiss]));
        notices.client_event("private-x", "client-a", None, "1.2", None);
        notices.tell(WebhookEvent::ChannelOccupied { channel: "x".into() });
        notices.cache_miss(&"cache-x".into());
        assert_eq!(heard.recv().await, Some(WebhookEvent::CacheMiss { channel: "cache-x".into() }));
        assert_eq!((notices.waiting(), notices.lost().get()), (0, 0));
        for _ in 0..BACKLOG + 3 {
            notices.cache_miss(&"cache-x".into());
        }
        assert_eq!((notices.waiting(), notices.lost().get()), (BACKLOG, 3));
        let nobody = Notices::default();
        nobody.cache_miss(&"cache-x".into());
        assert!(!nobody.want(NoticeKind::CacheMiss) && nobody.lost().get() == 0);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        assert!(NoticeKind::ALL.iter().all(|kind| NoticeKinds::ALL.has(*kind) && !NoticeKinds::default().has(*kind)));
        let both =
            NoticeKinds::from_iter([NoticeKind::CacheMiss]).and(NoticeKinds::from_iter([NoticeKind::MemberAdded]));
        let held = NoticeKind::ALL.into_iter().filter(|kind| both.has(*kind)).collect::<Vec<_>>();
        assert_eq!(held, [NoticeKind::MemberAdded, NoticeKind::CacheMiss]);
    }
}
