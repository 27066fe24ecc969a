//! What servers of applications may be told of their channels: from sessions and presence to whoever sends it on.
//!
//! Invariants: telling never waits, and costs nothing while nobody listens; what does not fit is lost and counted. Channels
//! are named as they are inside the hub; how an application spells them is for the receiver.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use dzvin_protocols::channels::pusher::WebhookEvent;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;

use super::{App, AppObserver, presence::PresenceEvent};

/// Notices that may wait for the receiver, which only sorts them: more than a second of a node's busiest channels.
const BACKLOG: usize = 8 * 1024;

/// Where notices are handed in. Cheap to clone; by default nobody hears them.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    sender: Option<mpsc::Sender<WebhookEvent>>,
    listening: Arc<AtomicBool>,
    lost: Counter,
}

impl Notices {
    /// With their receiver, who does not listen yet.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<WebhookEvent>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self { sender: Some(sender), ..Self::default() }, receiver)
    }

    /// Whether anybody hears: for those to whom the event itself is work.
    #[must_use]
    pub fn are_heard(&self) -> bool {
        self.listening.load(Relaxed)
    }

    /// The receiver says whether there is anybody whom it would tell.
    pub fn listen(&self, listening: bool) {
        self.listening.store(listening, Relaxed);
    }

    /// Something has happened on a channel.
    pub fn tell(&self, event: WebhookEvent) {
        let Some(sender) = self.sender.as_ref().filter(|_| self.are_heard()) else { return };
        if sender.try_send(event).is_err() {
            self.lost.inc();
        }
    }

    /// Hands in what presence tells, for as long as it does.
    pub async fn follow(self, mut presence: mpsc::Receiver<PresenceEvent>) {
        while let Some(event) = presence.recv().await {
            if self.are_heard() {
                self.tell(event.into());
            }
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

impl From<PresenceEvent> for WebhookEvent {
    fn from(event: PresenceEvent) -> Self {
        let text = |text: Arc<str>| text.as_ref().to_owned();
        match event {
            PresenceEvent::Occupied { channel } => Self::ChannelOccupied { channel: text(channel) },
            PresenceEvent::Vacated { channel } => Self::ChannelVacated { channel: text(channel) },
            PresenceEvent::Count { channel, subscribers } => {
                Self::SubscriptionCount { channel: text(channel), subscription_count: subscribers }
            }
            PresenceEvent::MemberAdded { channel, user } => {
                Self::MemberAdded { channel: text(channel), user_id: text(user) }
            }
            PresenceEvent::MemberRemoved { channel, user } => {
                Self::MemberRemoved { channel: text(channel), user_id: text(user) }
            }
        }
    }
}

/// Sessions name channels as their application spells them.
impl AppObserver for Notices {
    fn observe(&self, app: &Arc<App>, event: WebhookEvent) {
        if !self.are_heard() {
            return;
        }
        let inside = [&app.prefix(), event.channel()].concat();
        self.tell(event.on(&inside));
    }
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::channels::pusher::Credentials;

    use super::*;

    fn miss() -> WebhookEvent {
        WebhookEvent::CacheMiss { channel: "cache-x".into() }
    }

    #[tokio::test]
    async fn what_nobody_hears_costs_nothing_and_what_does_not_fit_is_counted() {
        let (notices, mut heard) = Notices::new();
        notices.tell(miss());
        assert_eq!((notices.are_heard(), notices.waiting(), notices.lost().get()), (false, 0, 0));
        notices.listen(true);
        notices.clone().tell(miss());
        assert_eq!((heard.recv().await, notices.waiting()), (Some(miss()), 0));
        for _ in 0..BACKLOG + 3 {
            notices.tell(miss());
        }
        assert_eq!((notices.waiting(), notices.lost().get()), (BACKLOG, 3));
        let mut own = App::new("b", vec![Credentials::new("k", "a secret").expect("key")]).expect("app");
        own.isolated = true;
        let (notices, mut heard) = Notices::new();
        notices.listen(true);
        notices.observe(&Arc::new(own), miss());
        assert_eq!(heard.recv().await.as_ref().map(WebhookEvent::channel), Some("/b/cache-x"));
        let nobody = Notices::default();
        nobody.listen(true);
        nobody.tell(miss());
        assert_eq!((nobody.waiting(), nobody.lost().get()), (0, 0));
    }
}
