//! Every key with its meaning and default.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use dzvin_protocols::{identity::Algorithm, platform::Kind};
use serde::{Deserialize, Serialize};

use super::values::{Network, Secret, SecretUrl, duration, size};
use crate::identity::TokenRules;

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

/// `[http]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Clients: API, WebSocket, console.
    pub listen: SocketAddr,
    /// Operators: `/healthz`, `/readyz`, `/metrics`. Never for the public.
    pub internal_listen: SocketAddr,
    /// Origins whose pages may connect, `https://crm.example` or `https://*.example`; empty: only pages of the same host. `*`: any.
    pub allowed_origins: Vec<String>,
    /// Proxies that are believed when they name their client: networks or addresses.
    pub trusted_proxies: Vec<Network>,
    /// Where they name it.
    pub client_header: ClientHeader,
    /// Most open client connections of this node; the file descriptor limit must be above it.
    pub max_connections: usize,
    /// Largest request body.
    #[serde(with = "size")]
    pub max_body: usize,
    /// Longest handling of one request (WebSocket connections are not bound by it).
    #[serde(with = "duration")]
    pub request_timeout: Duration,
    /// Largest head of a request: its first line and its headers.
    #[serde(with = "size")]
    pub max_head: usize,
    /// Longest wait for a request's headers; also bounds idle keep-alive connections.
    #[serde(with = "duration")]
    pub header_timeout: Duration,
    /// Longest time in which a client may read nothing of an answer that waits for it.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// Memory that answers with documents may hold at once.
    #[serde(with = "size")]
    pub answer_bytes: usize,
    /// TLS of `listen`; without it plain TCP, for a proxy with TLS before it.
    pub tls: Option<Tls>,
}

/// The header in which proxies name their client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client` (RFC 7239).
    Forwarded,
}

/// `[http.tls]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate and what stands between it and the authority, PEM.
    pub certificate: PathBuf,
    /// A file with its private key, PEM.
    pub key: PathBuf,
    /// Longest handshake.
    #[serde(with = "duration", default = "Tls::default_handshake_timeout")]
    pub handshake_timeout: Duration,
    /// How often the files are looked at; `0s`: only at SIGHUP.
    #[serde(with = "duration", default = "Tls::default_reload_interval")]
    pub reload_interval: Duration,
}

impl Tls {
    fn default_handshake_timeout() -> Duration {
        Duration::from_secs(10)
    }

    fn default_reload_interval() -> Duration {
        Duration::from_secs(30)
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8480)),
            internal_listen: SocketAddr::from(([127, 0, 0, 1], 8481)),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            client_header: ClientHeader::default(),
            max_connections: 50_000,
            max_body: 1024 * 1024,
            // A token of 8 KiB and its fellows.
            max_head: 32 * 1024,
            request_timeout: Duration::from_secs(30),
            // Above the 60 s for which nginx keeps idle upstream connections, so that we are never the first to close.
            header_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            // Four objects of the upstream's greatest size while they are read, eight while they are sent.
            answer_bytes: 64 * 1024 * 1024,
            tls: None,
        }
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

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// One or two; the first signs, both verify. `serve` needs one, or an issuer.
    pub keys: Vec<KeyConfig>,
    /// One or two for the tokens of subscriptions; without them those of `keys`.
    pub subscription_keys: Vec<KeyConfig>,
    /// Required `iss`.
    pub issuer: Option<String>,
    /// Required `aud`.
    pub audience: Option<String>,
    /// Whether clients may connect without a token.
    pub anonymous: bool,
    /// What they may do; without it nothing that is not open to everybody.
    pub anonymous_role: Option<String>,
    /// Permissions of each role. Naming any role replaces the whole table.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Others whose tokens are taken.
    pub issuers: Vec<IssuerConfig>,
    /// Servers that call the publish API.
    pub api_keys: Vec<ApiKeyConfig>,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        let TokenRules { issuer, audience, roles } = TokenRules::default();
        let (keys, subscription_keys, issuers, api_keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            keys,
            subscription_keys,
            issuer,
            audience,
            anonymous: false,
            anonymous_role: None,
            roles,
            issuers,
            api_keys,
        }
    }
}

/// `[[identity.keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Written into tokens as `kid`.
    pub id: String,
    /// HS256, HS384 or HS512.
    #[serde(default = "KeyConfig::default_algorithm")]
    pub algorithm: Algorithm,
    /// At least as many bytes as the hash has: 32, 48 or 64.
    pub secret: Option<Secret>,
    /// A file that holds `secret`.
    pub secret_file: Option<PathBuf>,
}

impl KeyConfig {
    fn default_algorithm() -> Algorithm {
        Algorithm::Hs256
    }

    /// A secret for HS256.
    #[must_use]
    pub fn new(id: &str, secret: Secret) -> Self {
        Self { id: id.to_owned(), algorithm: Self::default_algorithm(), secret: Some(secret), secret_file: None }
    }
}

/// `[[identity.issuers]]`: one of `jwks_url`, `jwks_file`, `discovery` and `keys`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// The `aud` that its tokens must have: those for other applications are not for us.
    pub audience: String,
    /// Where its set of keys is.
    pub jwks_url: Option<SecretUrl>,
    /// A file that holds its set of keys, read again each minute.
    pub jwks_file: Option<PathBuf>,
    /// Whether the address of the set stands in the issuer's own description (OpenID Connect).
    #[serde(default)]
    pub discovery: bool,
    /// Whether keys may be fetched over plain HTTP from another machine.
    #[serde(default)]
    pub insecure_http: bool,
    /// What its keys may be used with.
    #[serde(default = "IssuerConfig::default_algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// Whether its tokens connect clients.
    #[serde(default = "IssuerConfig::yes")]
    pub connections: bool,
    /// Whether its tokens open subscriptions.
    #[serde(default)]
    pub subscriptions: bool,
    /// Whether its tokens may name permissions and channels beside roles.
    #[serde(default)]
    pub trusted: bool,
    /// The claim that names the user, a name or a dotted path.
    #[serde(default = "IssuerConfig::default_subject")]
    pub subject_claim: String,
    /// What its users' ids begin with here, where those of several issuers could meet.
    #[serde(default)]
    pub subject_prefix: String,
    /// The claim that names the roles: a list, or a text with spaces between.
    #[serde(default = "IssuerConfig::default_roles")]
    pub roles_claim: String,
    /// Its names of roles, and ours. Where there are any, no other counts.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Its keys themselves.
    #[serde(default)]
    pub keys: Vec<PublicKeyConfig>,
}

impl IssuerConfig {
    /// All but secrets: an issuer's keys are public.
    fn default_algorithms() -> Vec<Algorithm> {
        Algorithm::ALL.into_iter().filter(|algorithm| algorithm.min_secret() == 0).collect()
    }

    fn yes() -> bool {
        true
    }

    fn default_subject() -> String {
        "sub".to_owned()
    }

    fn default_roles() -> String {
        "roles".to_owned()
    }
}

/// `[[identity.issuers.keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PublicKeyConfig {
    /// How tokens call it (`kid`); without it any token may mean it.
    pub id: Option<String>,
    /// What it is used with, and nothing else.
    pub algorithm: Algorithm,
    /// A PEM section `PUBLIC KEY`.
    pub pem: Option<String>,
    /// A file that holds `pem`.
    pub pem_file: Option<PathBuf>,
}

/// `[[identity.api_keys]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// What logs call it.
    pub id: String,
    /// At least 32 bytes.
    pub secret: Option<Secret>,
    /// A file that holds `secret`.
    pub secret_file: Option<PathBuf>,
    /// What it may do.
    #[serde(default = "ApiKeyConfig::default_permissions")]
    pub permissions: Vec<String>,
}

impl ApiKeyConfig {
    fn default_permissions() -> Vec<String> {
        vec!["channels:*:*".to_owned(), "connections:*:*".to_owned()]
    }
}

/// `[kinds.NAME]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KindConfig {
    /// Who owns its entities.
    pub source: KindSource,
    /// Declared fields as dotted paths: filters may name them, and changes keep their earlier values.
    pub fields: Vec<String>,
}

/// Who owns the entities of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KindSource {
    /// A Mirror; read-only here.
    #[default]
    Mirrored,
    /// The organisation itself.
    Local,
}

/// `[[mirrors]]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// `[a-z][a-z0-9-]{0,40}`, unique.
    pub name: Kind,
    /// The kind of its entities; one Mirror for a kind.
    pub kind: Kind,
    /// `ws://` or `wss://`.
    pub url: SecretUrl,
    /// What the upstream knows us by.
    pub token: Option<Secret>,
    /// A file that holds `token`; read again when the Mirror is resumed, so a new token needs no restart.
    pub token_file: Option<PathBuf>,
    /// How this upstream spells the protocol; see the dialect's own page.
    #[serde(default)]
    pub dialect: toml::Table,
    /// The same collection over HTTP, for reconciling and for objects above the message limit. The dialect's paths follow it;
    /// they begin with `/api` themselves, and an address that ends with it means the same.
    pub api_url: Option<SecretUrl>,
    /// The `Platform-Version` header.
    pub platform_version: Option<String>,
    /// The comparison with the upstream over HTTP.
    #[serde(default)]
    pub reconcile: Reconcile,
    /// Writes the first frames of the connection to a file, secrets masked.
    pub tap: Option<Tap>,
}

/// `[mirrors.reconcile]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reconcile {
    /// From the end of one pass to the start of the next; `0s`: only after a gap.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Rest between two pages, so that a pass never eats the request budget.
    #[serde(with = "duration")]
    pub pause: Duration,
    /// Objects in a page; the upstream gives at most 100.
    pub page: usize,
}

impl Default for Reconcile {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6 * 3600), pause: Duration::from_millis(500), page: 100 }
    }
}

/// `[mirrors.tap]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Where to.
    pub path: PathBuf,
    /// How many frames.
    #[serde(default = "Tap::default_frames")]
    pub frames: usize,
}

impl Tap {
    fn default_frames() -> usize {
        200
    }
}

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
    /// Publications kept for a stream by the bus.
    pub history_count: usize,
    /// How long they are kept.
    #[serde(with = "duration")]
    pub history_age: Duration,
    /// Their bytes, of each stream.
    #[serde(with = "size")]
    pub history_bytes: usize,
    /// Publications in one recovery reply.
    pub recovery_count: usize,
    /// Bytes of one recovery reply; must be below `queue_bytes`, else a reply would close its own client.
    #[serde(with = "size")]
    pub recovery_bytes: usize,
    /// Sessions of this node.
    pub max_sessions: usize,
    /// How long a connection lives, more or less a fifth, before the client is told to begin another; 0: for ever.
    #[serde(with = "duration")]
    pub max_connection_age: Duration,
    /// Whether it is kept how many subscribers each channel of the application has.
    pub occupancy: bool,
    /// Connections of one user to this node; 0: no limit.
    pub max_sessions_per_user: u32,
    /// Commands of one client in a second, on average; 0: no limit.
    pub commands_per_second: u32,
    /// Refusals in a row for being too many, after which the connection ends.
    pub max_refusals: u32,
    /// Sessions of one client address (of IPv6: of a /64) on this node; 0: any number.
    pub max_sessions_per_address: usize,
    /// New sessions of this node in a second; 0: as fast as they come.
    pub max_connects_per_second: u32,
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
        }
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            queue_bytes: 1024 * 1024,
            max_channels: 128,
            max_message: 64 * 1024,
            ping: Duration::from_secs(25),
            pong: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(10),
            history_count: 5_000,
            history_age: Duration::from_secs(3600),
            history_bytes: 8 * 1024 * 1024,
            recovery_count: 5_000,
            recovery_bytes: 920 * 1024,
            max_sessions: 40_000,
            max_connection_age: Duration::ZERO,
            occupancy: false,
            max_sessions_per_user: 0,
            commands_per_second: 0,
            max_refusals: 100,
            max_sessions_per_address: 0,
            max_connects_per_second: 0,
            namespaces: BTreeMap::from([("default".to_owned(), NamespaceConfig::default())]),
        }
    }
}

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
    /// Clients may send events to each other.
    #[serde(default)]
    pub client_events: bool,
    /// Clients are told how many subscribe to their channels.
    #[serde(default)]
    pub subscription_counts: bool,
    /// Members of a presence channel.
    #[serde(default = "PusherApp::default_max_members")]
    pub max_members: usize,
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
