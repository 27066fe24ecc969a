//! `[channels]`: limits of clients and channels, and the rules of namespaces.

use std::{collections::BTreeMap, time::Duration};

use dzvin_protocols::{
    channels::MAX_CHANNEL,
    platform::units::{duration, size},
};
use serde::{Deserialize, Serialize};

use crate::channels::bus::MAX_KEYS;

/// `[channels]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Bytes that may wait for one client; above it the client is closed as slow.
    #[serde(with = "size")]
    pub queue_bytes: usize,
    /// Subscriptions of one session.
    pub max_channels: usize,
    /// Largest message from a client.
    #[serde(with = "size")]
    pub max_message: usize,
    /// From one server ping to the next.
    #[serde(with = "duration")]
    pub ping: Duration,
    /// How long a client may take to answer a ping.
    #[serde(with = "duration")]
    pub pong: Duration,
    /// From the open connection to the connect command.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long a client may stay after its token, or that of a subscription, has ended.
    #[serde(with = "duration")]
    pub expiry_grace: Duration,
    /// How long a command may take inside before the client is told to try again.
    #[serde(with = "duration")]
    pub command_timeout: Duration,
    /// How often each followed stream is compared with the bus and the log.
    #[serde(with = "duration")]
    pub position_check: Duration,
    /// Longest name of a channel of the application.
    pub max_channel_name: usize,
    /// Publications kept for a stream by the bus.
    pub history_count: usize,
    /// How long they are kept.
    #[serde(with = "duration")]
    pub history_age: Duration,
    /// Their bytes, of each stream.
    #[serde(with = "size")]
    pub history_bytes: usize,
    /// How long Redis remembers where a silent channel of the application stood.
    #[serde(with = "duration")]
    pub keep_positions: Duration,
    /// Publications of one page of `history` that a client asks for.
    pub max_history: usize,
    /// Their bytes; must be below `queue_bytes`.
    #[serde(with = "size")]
    pub max_history_bytes: usize,
    /// Clients of one answer to `presence`; where there are more a client is refused.
    pub max_presence: usize,
    /// Above so many clients those who come and go are counted, not told one by one.
    pub crowd_above: u64,
    /// Below so many they are told again.
    pub crowd_below: u64,
    /// How long a node that says nothing keeps its clients on presence channels.
    #[serde(with = "duration")]
    pub presence_lease: Duration,
    /// How long a channel has to be empty before it is told as vacated, and a user away before it is told as removed.
    #[serde(with = "duration")]
    pub vacated_hold: Duration,
    /// Publications, clients or channels of one page that a server asks for.
    pub max_api_page: usize,
    /// Commands of one batch of a server, and channels of one broadcast.
    pub max_api_batch: usize,
    /// Publications in one recovery reply.
    pub recovery_count: usize,
    /// Bytes of one recovery reply; must be below `queue_bytes`, else a reply would close its own client.
    #[serde(with = "size")]
    pub recovery_bytes: usize,
    /// Changes that a recovery looks through for those who see only some rows, or listen to a query; below `recovery_count`: that many.
    pub recovery_depth: u64,
    /// Sessions of this node.
    pub max_sessions: usize,
    /// How long a connection lives, more or less a fifth, before the client is told to begin another; 0: for ever.
    #[serde(with = "duration")]
    pub max_connection_age: Duration,
    /// Whether it is kept how many subscribers each channel of the application has.
    pub occupancy: bool,
    /// How long it is remembered what was published under a server's key.
    #[serde(with = "duration")]
    pub idempotency_window: Duration,
    /// Such keys of this node that are remembered at once; above it publications that bring one are refused.
    pub idempotency_keys: usize,
    /// Connections of one user to this node; 0: no limit.
    pub max_sessions_per_user: u32,
    /// What one user publishes, sends to other clients and calls in a second, on average; 0: no limit.
    pub user_publications_per_second: u32,
    /// Over how much it is counted.
    pub user_publications_across: AcrossConfig,
    /// Commands of one client in a second, on average; 0: no limit.
    pub commands_per_second: u32,
    /// Refusals in a row for being too many, after which the connection ends.
    pub max_refusals: u32,
    /// Sessions of one client address (of IPv6: of a /64) on this node; 0: any number.
    pub max_sessions_per_address: usize,
    /// New sessions of this node in a second; 0: as fast as they come.
    pub max_connects_per_second: u32,
    /// Requests of one client address to `/emulation` that are refused, in a second; 0: any number.
    pub max_refused_emulations_per_second: u32,
    /// Rules of the application's channels, by the word before their first dot; `default` holds for the rest.
    pub namespaces: BTreeMap<String, NamespaceConfig>,
}

/// `[channels.namespaces.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Publications kept of a channel.
    pub history_count: usize,
    /// How long they are kept.
    #[serde(with = "duration")]
    pub history_age: Duration,
    /// Their bytes.
    #[serde(with = "size")]
    pub history_bytes: usize,
    /// Who may listen beside those to whom `channels:subscribe:{channel}` is granted.
    pub subscribe: AccessConfig,
    /// Which clients may publish beside those to whom `channels:publish:{channel}` is granted.
    pub publish: AccessConfig,
    /// Subscribers are shown to each other.
    pub presence: bool,
    /// Who may ask who is there beside those to whom `channels:presence:{channel}` is granted.
    pub see_presence: AccessConfig,
    /// Subscribers may hear who comes and who leaves.
    pub join_leave: bool,
    /// Subscribers may have patches instead of whole publications.
    pub deltas: bool,
    /// What those who come back are given.
    pub recovery: RecoveryConfig,
    /// Something goes out at most so often; 0: at once.
    #[serde(with = "duration")]
    pub hold: Duration,
    /// What goes out then.
    pub conflate: ConflateConfig,
    /// The tag whose values are told apart when `conflate` is `tag`.
    pub conflate_tag: String,
    /// Publications on one channel in a second, on average; 0: no limit.
    pub publications_per_second: u32,
    /// Of whom they are counted.
    pub publications_of: PublisherConfig,
    /// Over how much.
    pub publications_across: AcrossConfig,
}

/// Whose publications are counted and refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PublisherConfig {
    /// Those of clients and of servers, together: clients can use up what servers would have.
    Everybody,
    /// Those of clients. What they do refuses no server.
    #[default]
    Clients,
    /// Those of servers.
    Servers,
}

/// Over how much publications are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AcrossConfig {
    /// Each node by itself.
    #[default]
    Node,
    /// All nodes together.
    Cluster,
}

/// What goes out of what was held back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflateConfig {
    /// All of it.
    #[default]
    Nothing,
    /// The latest.
    Channel,
    /// The latest of each value of a tag.
    Tag,
}

/// What of the past those who come back are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryConfig {
    /// Everything that they missed, or the word that it is lost.
    #[default]
    Stream,
    /// The latest publication.
    Latest,
}

/// Who else may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessConfig {
    /// Nobody.
    #[default]
    Granted,
    /// Every user whose token names one.
    SignedIn,
    /// Every connection.
    Anyone,
}

impl Default for NamespaceConfig {
    /// A restart of browser or node, at a few publications a second.
    fn default() -> Self {
        Self {
            history_count: 300,
            history_age: Duration::from_secs(300),
            history_bytes: 1024 * 1024,
            subscribe: AccessConfig::Granted,
            publish: AccessConfig::Granted,
            presence: false,
            see_presence: AccessConfig::Granted,
            join_leave: false,
            deltas: true,
            recovery: RecoveryConfig::Stream,
            hold: Duration::ZERO,
            conflate: ConflateConfig::Nothing,
            conflate_tag: "key".to_owned(),
            publications_per_second: 0,
            publications_of: PublisherConfig::default(),
            publications_across: AcrossConfig::Node,
        }
    }
}

/// The namespace whose rules hold for all channels that no other names.
pub const DEFAULT_NAMESPACE: &str = "default";

impl Default for Channels {
    fn default() -> Self {
        Self {
            queue_bytes: 1024 * 1024,
            max_channels: 128,
            max_message: 64 * 1024,
            ping: Duration::from_secs(25),
            pong: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(10),
            expiry_grace: Duration::from_secs(25),
            command_timeout: Duration::from_secs(5),
            position_check: Duration::from_secs(3),
            max_channel_name: MAX_CHANNEL,
            history_count: 5_000,
            history_age: Duration::from_secs(3600),
            history_bytes: 8 * 1024 * 1024,
            keep_positions: Duration::from_secs(30 * 24 * 3600),
            max_history: 300,
            max_history_bytes: 512 * 1024,
            max_presence: 1_000,
            crowd_above: 1_000,
            crowd_below: 900,
            presence_lease: Duration::from_secs(15),
            vacated_hold: Duration::from_secs(3),
            max_api_page: 1_000,
            max_api_batch: 10_000,
            recovery_count: 5_000,
            recovery_depth: 20_000,
            recovery_bytes: 920 * 1024,
            max_sessions: 40_000,
            max_connection_age: Duration::ZERO,
            occupancy: false,
            idempotency_window: Duration::from_secs(300),
            idempotency_keys: MAX_KEYS,
            max_sessions_per_user: 0,
            user_publications_per_second: 0,
            user_publications_across: AcrossConfig::Node,
            commands_per_second: 0,
            max_refusals: 100,
            max_sessions_per_address: 0,
            max_connects_per_second: 0,
            max_refused_emulations_per_second: 50,
            namespaces: BTreeMap::from([(DEFAULT_NAMESPACE.to_owned(), NamespaceConfig::default())]),
        }
    }
}
