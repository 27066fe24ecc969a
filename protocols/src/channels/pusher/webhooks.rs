//! Webhooks: what the application's server is told of its channels, in signed batches.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{auth::Credentials, json, text_of};

/// The header that names the key whose secret signed.
pub const KEY_HEADER: &str = "X-Pusher-Key";
/// The header with HMAC-SHA256 of the raw body, in lower-case hexadecimal.
pub const SIGNATURE_HEADER: &str = "X-Pusher-Signature";

/// One event of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each name is the protocol's own; the variants say it in words")]
pub enum WebhookEvent {
    /// The first subscriber came.
    ChannelOccupied { channel: String },
    /// The last subscriber is gone, and did not come back within the grace period.
    ChannelVacated { channel: String },
    /// A user is present, and was not told as present before: nothing is told of one who came back within the grace period.
    MemberAdded { channel: String, user_id: String },
    /// A user is not present any more, and did not come back within the grace period.
    MemberRemoved { channel: String, user_id: String },
    /// A client sent an event; `data` is always text, see [`WebhookEvent::client_event`].
    ClientEvent {
        channel: String,
        event: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<String>,
        socket_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user_id: Option<String>,
    },
    /// Somebody subscribed to a cache channel that has no last event.
    CacheMiss { channel: String },
    /// The number of subscribers changed.
    SubscriptionCount { channel: String, subscription_count: u64 },
}

impl WebhookEvent {
    /// A client's event. Libraries read its data as text: a string is its own text, anything else its JSON as written.
    #[must_use]
    pub fn client_event(
        channel: &str,
        event: &str,
        data: Option<&RawValue>,
        socket_id: &str,
        user_id: Option<&str>,
    ) -> Self {
        Self::ClientEvent {
            channel: channel.to_owned(),
            event: event.to_owned(),
            data: data.map(|data| text_of(data).into_owned()),
            socket_id: socket_id.to_owned(),
            user_id: user_id.map(ToOwned::to_owned),
        }
    }

    /// The channel that it is about.
    #[must_use]
    pub fn channel(&self) -> &str {
        let (Self::ChannelOccupied { channel }
        | Self::ChannelVacated { channel }
        | Self::MemberAdded { channel, .. }
        | Self::MemberRemoved { channel, .. }
        | Self::ClientEvent { channel, .. }
        | Self::CacheMiss { channel }
        | Self::SubscriptionCount { channel, .. }) = self;
        channel
    }

    /// The same about a channel of this name.
    #[must_use]
    pub fn on(mut self, name: &str) -> Self {
        let (Self::ChannelOccupied { channel }
        | Self::ChannelVacated { channel }
        | Self::MemberAdded { channel, .. }
        | Self::MemberRemoved { channel, .. }
        | Self::ClientEvent { channel, .. }
        | Self::CacheMiss { channel }
        | Self::SubscriptionCount { channel, .. }) = &mut self;
        if *channel != name {
            name.clone_into(channel);
        }
        self
    }

    /// How many bytes it takes of a body.
    #[must_use]
    pub fn size(&self) -> usize {
        json(self).len()
    }
}

/// A webhook ready to be sent: `POST`, `Content-Type: application/json`, the two headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The body, exactly as it was signed.
    pub body: String,
    /// The value of [`KEY_HEADER`].
    pub key: String,
    /// The value of [`SIGNATURE_HEADER`].
    pub signature: String,
}

impl Webhook {
    /// Writes and signs. `time_ms` is when the batch was made, in milliseconds since 1970.
    #[must_use]
    pub fn new(time_ms: u64, events: &[WebhookEvent], credentials: &Credentials) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            time_ms: u64,
            events: &'a [WebhookEvent],
        }
        let body = json(&Body { time_ms, events });
        let signature = credentials.sign(&[body.as_bytes()]);
        Self { body, key: credentials.key().to_owned(), signature }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Vec<WebhookEvent> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let channel = || "presence-x".to_owned();
        vec![
            WebhookEvent::ChannelOccupied { channel: channel() },
            WebhookEvent::ChannelVacated { channel: channel() },
            WebhookEvent::MemberAdded { channel: channel(), user_id: "10".to_owned() },
            WebhookEvent::MemberRemoved { channel: channel(), user_id: "оля".to_owned() },
            WebhookEvent::client_event("private-x", "client-a", Some(&raw(r#"{"n": 1.50}"#)), "1.2", None),
            WebhookEvent::client_event("presence-x", "client-a", Some(&raw(r#""text""#)), "1.2", Some("10")),
            WebhookEvent::client_event("private-x", "client-a", None, "1.2", None),
            WebhookEvent::CacheMiss { channel: channel() },
            WebhookEvent::SubscriptionCount { channel: channel(), subscription_count: 7 },
        ]
    }

    /// The wire form is a contract: the files under `tests/fixtures/pusher` stay as they are for ever.
    #[test]
    fn bodies_equal_their_golden_files() {
        let credentials = Credentials::new("k", "secret").expect("credentials");
        let mut got: Vec<String> =
            sample().into_iter().map(|event| Webhook::new(1_700_000_000_000, &[event], &credentials).body).collect();
        let hook = Webhook::new(1_700_000_000_000, &sample(), &credentials);
        got.push(format!("{{\"key\":\"{}\",\"signature\":\"{}\"}}", hook.key, hook.signature));
        assert_eq!(got.join("\n"), include_str!("../../../../tests/fixtures/pusher/webhooks.jsonl").trim_end());
    }

    #[test]
    fn every_event_can_be_about_another_channel() {
        for event in sample() {
            let size = event.size();
            let moved = event.clone().on("presence-xyz");
            assert_eq!(moved.channel(), "presence-xyz");
            assert_eq!(moved.size(), size + "presence-xyz".len() - event.channel().len());
            assert_eq!(moved.on(event.channel()), event);
        }
    }

    proptest! {
        #[test]
        fn events_read_back(channel in "\\PC{0,9}", event in "\\PC{0,9}", data in proptest::option::of("\\PC{0,9}"), user in proptest::option::of("\\PC{0,9}"), n: u64) {
            let data = data.map(|text| serde_json::value::to_raw_value(&text).unwrap());
            let events = vec![
                WebhookEvent::client_event(&channel, &event, data.as_deref(), "1.2", user.as_deref()),
                WebhookEvent::SubscriptionCount { channel, subscription_count: n },
            ];
            prop_assert_eq!(serde_json::from_str::<Vec<WebhookEvent>>(&json(&events)).unwrap(), events);
        }
    }
}
