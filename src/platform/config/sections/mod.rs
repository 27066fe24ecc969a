//! Every key with its meaning and default: a file for each large table, the small ones here.

mod channels;
mod feeds;
mod http;
mod identity;
mod pusher;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use dzvin_protocols::platform::{Kind, units::duration};
use serde::{Deserialize, Serialize};

pub use channels::{
    AccessConfig, AcrossConfig, Channels, ConflateConfig, DEFAULT_NAMESPACE, NamespaceConfig, PublisherConfig,
    RecoveryConfig,
};
pub use feeds::{KindConfig, KindSource, MirrorConfig, Reconcile, Tap};
pub use http::{ClientHeader, Http, Tls};
pub use identity::{
    ApiKeyConfig, IdentityConfig, IssuerConfig, KeyConfig, LoginConfig, LoginToken, PublicKeyConfig, ViewConfig,
    ViewsConfig,
};
pub use pusher::{Pusher, PusherApp, PusherKey, PusherWebhook, PusherWebhookEvent};

use super::values::SecretUrl;

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listeners.
    pub http: Http,
    /// PostgreSQL.
    pub database: Database,
    /// The bus between nodes; without `url` it is in memory and the node is alone.
    pub redis: Redis,
    /// Tokens and roles.
    pub identity: IdentityConfig,
    /// Types of entities by name; those of mirrors exist even when they are not named here.
    pub kinds: BTreeMap<Kind, KindConfig>,
    /// The CDB's push feeds.
    pub mirrors: Vec<MirrorConfig>,
    /// How much is asked of the CDB from this node's address.
    pub cdb: Cdb,
    /// Limits of client connections and channels.
    pub channels: Channels,
    /// Applications that speak the Pusher protocol.
    pub pusher: Pusher,
    /// The change log.
    pub changes: Changes,
    /// Who does what in a cluster.
    pub leases: LeaseConfig,
    /// Logs.
    pub log: Log,
    /// The orderly stop.
    pub shutdown: Shutdown,
    /// What only `dzvin dev` uses.
    pub dev: Dev,
    /// The file that was read, to be read again for what may change without a restart.
    #[serde(skip)]
    pub source: Option<PathBuf>,
}

/// What is asked of the CDB from this node's address, Mirror handshakes included. The upstream counts by address and does not
/// publish its numbers: the defaults follow the habit of serial requests with a pause of 200 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cdb {
    /// Requests a second.
    pub per_second: u32,
    /// Requests a minute.
    pub per_minute: u32,
    /// Requests that may start at once after a rest.
    pub burst: u32,
    /// Requests and Mirror connections at the same time; at least four more than there are Mirrors are always allowed.
    pub connections: usize,
}

impl Default for Cdb {
    fn default() -> Self {
        Self { per_second: 5, per_minute: 240, burst: 5, connections: 10 }
    }
}

/// `[database]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:5432/db`, or `postgres:///db?host=/run/postgresql` for a unix socket. `serve` needs it.
    pub url: Option<SecretUrl>,
    /// A file that holds `url`.
    pub url_file: Option<PathBuf>,
    /// A direct address for LISTEN where a pooler stands between.
    pub direct_url: Option<SecretUrl>,
    /// A file that holds `direct_url`.
    pub direct_url_file: Option<PathBuf>,
    /// Pool size of this node.
    pub max_connections: u32,
    /// Longest statement.
    #[serde(with = "duration")]
    pub statement_timeout: Duration,
    /// Longest wait for a connection from the pool.
    #[serde(with = "duration")]
    pub acquire_timeout: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            direct_url: None,
            direct_url_file: None,
            max_connections: 16,
            statement_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(5),
        }
    }
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://`, `redis+unix:///run/redis.sock`, `redis-sentinel://`, `redis-cluster://`, and with TLS `rediss...`. Absent: the bus
    /// is in memory.
    pub url: Option<SecretUrl>,
    /// A file that holds `url`.
    pub url_file: Option<PathBuf>,
    /// What every key and channel starts with.
    pub prefix: String,
    /// Longest command.
    #[serde(with = "duration")]
    pub command_timeout: Duration,
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: None, url_file: None, prefix: "dzvin".to_owned(), command_timeout: Duration::from_secs(2) }
    }
}

/// `[changes]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Changes {
    /// Days for which the change log is kept, and with it the power to recover.
    pub retention_days: u16,
}

impl Default for Changes {
    fn default() -> Self {
        Self { retention_days: 30 }
    }
}

/// `[leases]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseConfig {
    /// How long a node that says nothing keeps a Mirror or the relay. Another takes over within one and a half of it.
    #[serde(with = "duration")]
    pub ttl: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10) }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// `info`, or directives such as `info,dzvin=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Pretty, level: "info".to_owned() }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Longest orderly stop, sessions and drains included; keep the container's own grace above it.
    #[serde(with = "duration")]
    pub grace: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(25) }
    }
}

/// `[dev]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dev {
    /// Where `dzvin dev` keeps its database and key. Absent: `dzvin` in the user's data directory.
    pub data_dir: Option<PathBuf>,
    /// Where `initdb` and `postgres` are. Absent: `DZVIN_PG_BIN`, PATH, then the distribution's folders, newest first.
    pub pg_bin: Option<PathBuf>,
}
