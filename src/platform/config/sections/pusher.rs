//! `[pusher]`: applications that speak the Pusher protocol.

use std::{path::PathBuf, time::Duration};

use dzvin_protocols::platform::units::{duration, size};
use serde::{Deserialize, Serialize};

use super::super::values::{Secret, SecretUrl};

/// `[pusher]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pusher {
    /// Credentials to the one set of channels, each with rules of its own. Without any nobody speaks the protocol here.
    pub apps: Vec<PusherApp>,
    /// The silence after which clients are told to ping.
    #[serde(with = "duration")]
    pub activity_timeout: Duration,
    /// Events of one client to others, in a second.
    pub client_events_per_second: u32,
    /// Largest data of such an event.
    #[serde(with = "size")]
    pub max_client_event: usize,
    /// Largest `user_info` of a member.
    #[serde(with = "size")]
    pub max_user_info: usize,
    /// How long a cache channel keeps its last event.
    #[serde(with = "duration")]
    pub cache_age: Duration,
    /// Largest data of an event that servers publish.
    #[serde(with = "size")]
    pub max_event: usize,
    /// Channels of one such event.
    pub max_event_channels: usize,
    /// Events of one batch.
    pub max_batch: usize,
    /// How long a receiver of webhooks may take for one attempt.
    #[serde(with = "duration")]
    pub webhook_timeout: Duration,
    /// How long a batch is tried before it is given up.
    #[serde(with = "duration")]
    pub webhook_patience: Duration,
}

impl Default for Pusher {
    /// What clients of the hosted service expect.
    fn default() -> Self {
        Self {
            apps: Vec::new(),
            activity_timeout: Duration::from_secs(120),
            client_events_per_second: 10,
            max_client_event: 10 * 1024,
            max_user_info: 1024,
            cache_age: Duration::from_secs(1800),
            max_event: 10 * 1024,
            max_event_channels: 100,
            max_batch: 10,
            webhook_timeout: Duration::from_secs(10),
            webhook_patience: Duration::from_secs(300),
        }
    }
}

/// `[[pusher.apps]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PusherApp {
    /// What the HTTP API and logs call it.
    pub id: String,
    /// One or two; the first signs, both verify.
    pub keys: Vec<PusherKey>,
    /// Switched off, its clients are refused for good.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Its channels are its own, and the hub's are not among them.
    #[serde(default)]
    pub isolated: bool,
    /// Clients that come without TLS are sent to it.
    #[serde(default)]
    pub tls_only: bool,
    /// Clients may send events to each other.
    #[serde(default)]
    pub client_events: bool,
    /// Clients are told how many subscribe to their channels.
    #[serde(default)]
    pub subscription_counts: bool,
    /// Clients that sign in are told which users of their watchlist are online.
    #[serde(default)]
    pub watchlists: bool,
    /// Members of a presence channel.
    #[serde(default = "PusherApp::default_max_members")]
    pub max_members: usize,
    /// 32 bytes in base64, the same that the application's server has: with it the hub hands out keys of encrypted channels.
    #[serde(default)]
    pub encryption_master_key: Option<Secret>,
    /// A file that holds it.
    #[serde(default)]
    pub encryption_master_key_file: Option<PathBuf>,
    /// Where the application hears of its channels.
    #[serde(default)]
    pub webhooks: Vec<PusherWebhook>,
}

impl PusherApp {
    fn default_max_members() -> usize {
        100
    }
}

fn yes() -> bool {
    true
}

/// A key with its secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PusherKey {
    /// Public: it stands in the address that clients connect to.
    pub key: String,
    /// At least 16 bytes.
    pub secret: Option<Secret>,
    /// A file that holds `secret`.
    pub secret_file: Option<PathBuf>,
}

/// `[[pusher.apps.webhooks]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PusherWebhook {
    /// `https://`, or `http://` within the house.
    pub url: SecretUrl,
    /// What is told; empty: everything.
    #[serde(default)]
    pub events: Vec<PusherWebhookEvent>,
}

/// What an application may hear, by the names that the webhooks themselves give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each name is the protocol's own")]
pub enum PusherWebhookEvent {
    ChannelOccupied,
    ChannelVacated,
    MemberAdded,
    MemberRemoved,
    ClientEvent,
    CacheMiss,
    SubscriptionCount,
}
