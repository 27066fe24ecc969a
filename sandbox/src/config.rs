//! What can be chosen. `SandboxConfig` is fixed at the start; `Knobs` may be changed while it runs. Whatever the public facts
//! leave open (spellings, order, limits) is a knob here and not a belief in the code.

use crate::world::Ts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// How the sandbox starts.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allows an address beyond loopback. The control API has no authentication.
    pub allow_remote: bool,
    /// Collections by name. The first is the default one, served under `/ws` and `/api/search`.
    pub collections: Vec<CollectionConfig>,
    /// Tokens and their permissions: `mirror`, `mirror:{collection}`, `api`, `write`, or `*` for all.
    pub tokens: BTreeMap<String, BTreeSet<String>>,
    /// The first state of the knobs.
    pub knobs: Knobs,
}

/// One collection.
#[derive(Debug, Clone)]
pub struct CollectionConfig {
    /// Its name in `/mirror/{name}`.
    pub name: String,
    /// Its path in `/api/{path}/{id}`.
    pub path: String,
    /// Documents that are there before the oplog begins, each one JSON object as text.
    pub seed: Vec<String>,
}

impl CollectionConfig {
    /// An empty collection.
    pub fn new(name: &str, path: &str) -> Self {
        Self { name: name.to_owned(), path: path.to_owned(), seed: Vec::new() }
    }
}

/// The token that may do everything in a sandbox with default settings.
pub const DEFAULT_TOKEN: &str = "sandbox-token";

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_remote: false,
            collections: vec![
                CollectionConfig::new("procedure", "procedures"),
                CollectionConfig::new("registry-object", "registry/objects"),
            ],
            tokens: BTreeMap::from([(DEFAULT_TOKEN.to_owned(), BTreeSet::from(["*".to_owned()]))]),
            knobs: Knobs::default(),
        }
    }
}

/// Everything that can be turned while the sandbox runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// The Mirror's protocol.
    pub mirror: MirrorKnobs,
    /// The HTTP API.
    pub api: ApiKnobs,
    /// Who is let in.
    pub access: AccessKnobs,
    /// The limits that NGINX puts before both.
    pub nginx: NginxKnobs,
    /// The store behind them.
    pub world: WorldKnobs,
}

/// How an absent value is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NullSpelling {
    /// `null`.
    #[default]
    Null,
    /// `""`, as earlier versions did.
    Empty,
}

impl NullSpelling {
    /// As JSON.
    pub(crate) fn json(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Empty => "\"\"",
        }
    }
}

/// The Mirror.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorKnobs {
    /// Names of the envelope's fields.
    pub envelope: Envelope,
    /// Wire names of frame types that differ from the usual ones (`upsert`, `noop`, `timestamp-request`...).
    pub types: BTreeMap<String, String>,
    /// How null is spelled in requests and snapshot rows.
    pub null: NullSpelling,
    /// Refuse an answer that spells null in the other way.
    pub strict_null: bool,
    /// Ask in a random order.
    pub shuffle_requests: bool,
    /// Each request is asked between once and so many times.
    pub repeat_requests: u32,
    /// Send all requests before waiting for the first answer.
    pub pipeline_requests: bool,
    /// Ask for the timestamp again after every so many frames of the tail; 0 never.
    pub reask_every: u32,
    /// Ask full clients for the ids changed since a little before their cursor.
    pub ids_since: bool,
    /// Seed of the order, the repeats and the random faults.
    pub seed: u64,
    /// How long an answer may take.
    pub answer_timeout_ms: u64,
    /// Snapshot rows are ordered by `_lastModified`.
    pub snapshot_ordered: bool,
    /// The end of a snapshot is marked by a noop with the position from which the tail goes on.
    pub snapshot_end_noop: bool,
    /// A noop is written when nothing else was for so long; 0 never.
    pub noop_ms: u64,
    /// The server's WebSocket pings; 0 never.
    pub ping_ms: u64,
    /// A connection on which nothing moved for so long is closed; 0 never.
    pub idle_close_ms: u64,
    /// In which manner.
    pub idle_manner: Manner,
    /// Largest message taken from a client.
    pub max_client_message: usize,
}

impl Default for MirrorKnobs {
    fn default() -> Self {
        Self {
            envelope: Envelope::default(),
            types: BTreeMap::new(),
            null: NullSpelling::Null,
            strict_null: false,
            shuffle_requests: true,
            repeat_requests: 2,
            pipeline_requests: false,
            reask_every: 0,
            ids_since: true,
            seed: 1,
            answer_timeout_ms: 10_000,
            snapshot_ordered: true,
            snapshot_end_noop: true,
            noop_ms: 10_000,
            ping_ms: 0,
            idle_close_ms: 350_000,
            idle_manner: Manner::Fin,
            max_client_message: 4 * 1024 * 1024,
        }
    }
}

/// Names of the envelope's fields.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Envelope {
    /// The frame's type.
    pub r#type: String,
    /// The frame's content.
    pub data: String,
    /// The oplog position.
    pub ts: String,
}

impl Default for Envelope {
    fn default() -> Self {
        Self { r#type: "type".to_owned(), data: "data".to_owned(), ts: "ts".to_owned() }
    }
}

/// In which manner a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// A Close frame with this code, then the end of the stream.
    Close(u16),
    /// The end of the stream without a Close frame.
    Fin,
    /// A reset.
    Rst,
    /// The frame in progress is cut in its middle, then the end of the stream.
    MidFrame,
    /// Nothing is said; the next byte from the client is answered by a reset, as some load balancers do.
    Silent,
}

/// The HTTP API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKnobs {
    /// Most objects on a page of `byDateModified`.
    pub page_limit: usize,
    /// Reading needs no token.
    pub public_reads: bool,
    /// Documents read over HTTP carry `_lastModified` too.
    pub last_modified: bool,
    /// Largest request body.
    pub max_body: usize,
    /// What `search/{group}/bySystemDateModified` shows: selling methods by their beginnings, all of them where none is named.
    pub groups: BTreeMap<String, Vec<String>>,
    /// What `classifiers/{name}` shows.
    pub classifiers: BTreeMap<String, serde_json::Value>,
}

impl Default for ApiKnobs {
    fn default() -> Self {
        let identifiers = serde_json::json!({
            "UA-EDR": {"uk_UA": "Єдиний державний реєстр"},
            "UA-IPN": {"uk_UA": "Індивідуальний податковий номер"},
        });
        Self {
            page_limit: 100,
            public_reads: true,
            last_modified: true,
            max_body: 16 * 1024 * 1024,
            groups: BTreeMap::from([("large_announcement".to_owned(), Vec::new())]),
            classifiers: BTreeMap::from([("ua_identifiers".to_owned(), identifiers)]),
        }
    }
}

/// Who is let in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessKnobs {
    /// What stands before the token in `Authorization`: nothing, or `Bearer ` and the like.
    pub scheme: String,
    /// The lowest `Platform-Version` that is accepted; none means that the header is not looked at.
    pub platform_version: Option<String>,
    /// The VPN: requests with a token are let in from these networks alone (`10.8.0.0/16`), whatever the token may do. None
    /// means that addresses are not looked at.
    pub vpn: Option<Vec<String>>,
}

impl Default for AccessKnobs {
    fn default() -> Self {
        Self { scheme: String::new(), platform_version: Some("1.0".to_owned()), vpn: None }
    }
}

/// NGINX before the application. The true numbers are not public: these defaults are only plausible.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NginxKnobs {
    /// Requests a second from one address; none means no such zone.
    pub rate_per_s: Option<u64>,
    /// Requests a minute from one address (a smooth leak, not a window).
    pub rate_per_m: Option<u64>,
    /// Burst of each zone, as a multiple of its rate.
    pub burst_factor: u64,
    /// Requests above the rate pass at once instead of being delayed.
    pub nodelay: bool,
    /// With delays: so many requests above the rate pass at once.
    pub delay: u64,
    /// Status of a refusal by rate.
    pub rate_status: u16,
    /// Requests in progress from one address, Mirror connections included; none means no limit.
    pub conn_per_ip: Option<usize>,
    /// Status of a refusal by connections: 429, or 503 where it was forgotten.
    pub conn_status: u16,
    /// Takes the client's address from this header instead of the socket (for tests of several addresses).
    pub address_header: Option<String>,
}

impl Default for NginxKnobs {
    fn default() -> Self {
        Self {
            rate_per_s: Some(20),
            rate_per_m: None,
            burst_factor: 5,
            nodelay: true,
            delay: 0,
            rate_status: 429,
            conn_per_ip: Some(20),
            conn_status: 429,
            address_header: None,
        }
    }
}

/// The store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldKnobs {
    /// Most entries of a collection's oplog.
    pub oplog_entries: usize,
    /// Most bytes that a collection's oplog keeps.
    pub oplog_bytes: usize,
    /// Most objects of a collection.
    pub max_objects: usize,
    /// Largest document.
    pub max_document: usize,
    /// The name of `_lastModified`; none leaves it out.
    pub last_modified: Option<String>,
    /// Writes `_meta.systemDateModified`.
    pub system_date: bool,
    /// Writes `dateModified`.
    pub date_modified: bool,
    /// `$set` names `_meta.systemDateModified` by its dotted path instead of carrying all of `_meta`.
    pub dotted_set: bool,
}

impl Default for WorldKnobs {
    fn default() -> Self {
        Self {
            oplog_entries: 100_000,
            oplog_bytes: 256 * 1024 * 1024,
            max_objects: 200_000,
            max_document: 32 * 1024 * 1024,
            last_modified: Some("_lastModified".to_owned()),
            system_date: true,
            date_modified: true,
            dotted_set: false,
        }
    }
}

impl Knobs {
    /// Knobs under which nothing is limited: for tests that are about something else.
    pub fn unlimited() -> Self {
        let nginx = NginxKnobs { rate_per_s: None, rate_per_m: None, conn_per_ip: None, ..NginxKnobs::default() };
        Self { nginx, ..Self::default() }
    }

    /// The earliest cursor there can be, for tests.
    pub const DAWN: Ts = Ts { seconds: 1, increment: 1 };
}
