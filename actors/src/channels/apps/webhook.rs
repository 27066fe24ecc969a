//! Where a server of an application hears what happens on its channels, and of what. Who tells it is not here.

use std::{fmt, sync::Arc};

use dzvin_protocols::channels::pusher::WebhookEvent;

/// Where an application hears of its channels.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The address. It may carry a secret.
    pub url: Arc<str>,
    /// Names of the events that are told; empty: all.
    pub events: Vec<&'static str>,
}

impl Webhook {
    /// Whether the event is told there.
    #[must_use]
    pub fn wants(&self, event: &WebhookEvent) -> bool {
        self.events.is_empty() || self.events.contains(&name(event))
    }

    /// Whether it is told of members.
    pub(super) fn hears_members(&self) -> bool {
        self.events.is_empty() || self.events.iter().any(|event| matches!(*event, "member_added" | "member_removed"))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("events", &self.events).finish_non_exhaustive()
    }
}

/// The event's name on the wire.
const fn name(event: &WebhookEvent) -> &'static str {
    match event {
        WebhookEvent::ChannelOccupied { .. } => "channel_occupied",
        WebhookEvent::ChannelVacated { .. } => "channel_vacated",
        WebhookEvent::MemberAdded { .. } => "member_added",
        WebhookEvent::MemberRemoved { .. } => "member_removed",
        WebhookEvent::ClientEvent { .. } => "client_event",
        WebhookEvent::CacheMiss { .. } => "cache_miss",
        WebhookEvent::SubscriptionCount { .. } => "subscription_count",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_wants_what_it_names() {
        let miss = WebhookEvent::CacheMiss { channel: "x".into() };
        let hook = |events| Webhook { url: "https://hooks.example".into(), events };
        assert!(
            hook(vec![]).wants(&miss)
                && hook(vec!["cache_miss"]).wants(&miss)
                && !hook(vec!["client_event"]).wants(&miss)
        );
        let written = serde_json::to_value(&miss).expect("json");
        assert_eq!(written["name"], name(&miss), "the name is that of the wire");
    }
}
