//! The spelling of one upstream's protocol, as configuration: the Mirror's true names may differ from what is public.
//!
//! One TOML table per Mirror; every key has a default, an unknown key is an error. The defaults speak the protocol that is
//! known: the server asks, the client answers, nothing is acknowledged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    cursor::{CursorKind, NullSpelling},
    upstream::{Auth, HttpPaths},
    version::VersionKind,
};
use crate::{
    entities::{
        Fields,
        raw::{member, unquote},
        value_at,
    },
    platform::EntityId,
};

/// How one Mirror speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dialect {
    /// Names of the envelope's fields.
    pub envelope: Envelope,
    /// What the upstream's `type` texts mean. Given entries are added to the known ones.
    pub types: Types,
    /// Who speaks first.
    pub handshake: Handshake,
    /// What we answer to the protocol request.
    pub protocol: Protocol,
    /// The cursor.
    pub cursor: CursorSpelling,
    /// Whether the upstream wants to be told what was committed.
    pub ack: Ack,
    /// What an upsert carries.
    pub payload: Payload,
    /// Where things are in a document.
    pub paths: Paths,
    /// Names of members, at any depth, whose values are credentials: what is stored and shown has `***` instead. A member
    /// `token` is hidden besides, where its value is a signed token.
    pub secrets: Vec<String>,
    /// How life is told from death.
    pub heartbeat: Heartbeat,
    /// A message above this is not kept: its object is fetched over HTTP. 7.5 MB are promised; the default also covers the
    /// envelope, escapes and the other meaning of "MB".
    pub max_message_bytes: usize,
    /// What is done with a `type` that is not known.
    pub unknown_type: UnknownType,
    /// How we say who we are.
    pub auth: Auth,
    /// The same collection over HTTP.
    pub http: HttpPaths,
    /// Compression of messages. Only `off`: the WebSocket library has no permessage-deflate, and offering what we cannot
    /// decode would break the connection.
    pub compression: Compression,
}

/// The CDB gives `acc_token` to the owner of an object and names it in these ways.
const SECRETS: [&str; 5] = ["acc_token", "access_token", "owner_token", "ownerToken", "transfer_token"];

impl Default for Dialect {
    fn default() -> Self {
        Self {
            envelope: Envelope::default(),
            types: Types::default(),
            handshake: Handshake::default(),
            protocol: Protocol::default(),
            cursor: CursorSpelling::default(),
            ack: Ack::default(),
            payload: Payload::default(),
            paths: Paths::default(),
            secrets: SECRETS.map(str::to_owned).into(),
            heartbeat: Heartbeat::default(),
            max_message_bytes: 16 * 1024 * 1024,
            unknown_type: UnknownType::default(),
            auth: Auth::default(),
            http: HttpPaths::default(),
            compression: Compression::default(),
        }
    }
}

/// Names of the envelope's fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Envelope {
    /// What the frame is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it carries, and what an answer replaces.
    pub data: String,
    /// Where the stream stands after it.
    pub cursor: String,
    /// The fields of an update, inside `data`.
    pub set: String,
}

impl Default for Envelope {
    fn default() -> Self {
        Self { kind: "type".into(), data: "data".into(), cursor: "ts".into(), set: "$set".into() }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Asks for the protocol level.
    ProtocolRequest,
    /// Asks for the committed cursor.
    TimestampRequest,
    /// Asks for the newest version that is stored.
    InitPointRequest,
    /// Asks for the ids that changed after its cursor.
    IdsSinceRequest,
    /// A whole document.
    Upsert,
    /// Fields of a document.
    Update,
    /// A document is gone.
    Delete,
    /// Only moves the cursor.
    Noop,
    /// Wants to be answered with itself.
    Ping,
    /// The upstream complains.
    Error,
    /// The upstream says that the cursor is too old for its log.
    HistoryLost,
    /// Known and of no interest.
    Ignore,
}

/// The map from `type` texts to what they mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Types(BTreeMap<String, FrameKind>);

impl Types {
    /// What a text means.
    #[must_use]
    pub fn get(&self, text: &str) -> Option<FrameKind> {
        self.0.get(text).copied()
    }
}

impl Default for Types {
    fn default() -> Self {
        use FrameKind as F;
        let known = [
            ("protocol-request", F::ProtocolRequest),
            ("timestamp-request", F::TimestampRequest),
            ("init-point-request", F::InitPointRequest),
            ("ids-since-timestamp-request", F::IdsSinceRequest),
            ("upsert", F::Upsert),
            ("update", F::Update),
            ("delete", F::Delete),
            ("noop", F::Noop),
            ("ping", F::Ping),
            ("error", F::Error),
            ("history-lost", F::HistoryLost),
        ];
        Self(known.into_iter().map(|(text, kind)| (text.to_owned(), kind)).collect())
    }
}

impl<'de> Deserialize<'de> for Types {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Self::default();
        all.0.extend(BTreeMap::<String, FrameKind>::deserialize(deserializer)?);
        Ok(all)
    }
}

/// Who speaks first. In templates `{cursor}`, `{protocol}` and `{init_point}` are replaced: by JSON in a message, by
/// percent-encoded text in a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Handshake {
    /// The server asks what it wants to know, in any order, any number of times.
    #[default]
    ServerAsks,
    /// We send one message after connecting.
    ClientSendsSubscribe {
        /// JSON with placeholders.
        template: String,
    },
    /// The cursor is part of the address, for example `?since={cursor}`.
    CursorInUrl {
        /// What is appended to the URL.
        template: String,
    },
    /// The stream starts by itself.
    None,
}

/// The level of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Whole documents only; deletes are not announced.
    #[default]
    Simple,
    /// Also `$set` updates, deletes and the question for ids.
    Full,
}

impl Protocol {
    /// As it is answered.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Full => "full",
        }
    }
}

/// The cursor's kind and how nothing is spelled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CursorSpelling {
    /// What it is.
    pub kind: CursorKind,
    /// How an empty answer is spelled, for the cursor and for the init point.
    pub null: NullSpelling,
    /// Whether the init point is answered with its `Z`; the known upstream writes it without a zone.
    pub init_point_zone: bool,
}

/// Whether and how commits are acknowledged. `{cursor}` in the template is replaced by the committed cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ack {
    /// Not at all: TCP is the only flow control.
    #[default]
    None,
    /// One for every frame with a cursor, after its batch is committed.
    Each {
        /// JSON with a placeholder.
        template: String,
    },
    /// One for every committed batch.
    Batch {
        /// JSON with a placeholder.
        template: String,
    },
}

/// What an upsert carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// The whole document.
    #[default]
    Full,
    /// Fields to be merged.
    Merge,
    /// The id alone; the document is fetched over HTTP.
    IdOnly,
}

/// Where things are in a document, as dotted paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// The id: the first that is there.
    pub id: Vec<String>,
    /// The version: the first that is there and reads as one. None of them counts as content.
    pub versions: Vec<String>,
    /// What a version is.
    pub version_kind: VersionKind,
    /// What the HTTP feed is ordered by.
    pub feed: String,
}

impl Default for Paths {
    fn default() -> Self {
        let own = |all: &[&str]| all.iter().map(|path| (*path).to_owned()).collect();
        Self {
            id: own(&["_id", "id"]),
            versions: own(&["_meta.systemDateModified", "_lastModified", "dateModified"]),
            version_kind: VersionKind::Time,
            feed: "dateModified".into(),
        }
    }
}

impl Paths {
    /// The id of a document.
    #[must_use]
    pub fn id_of(&self, doc: &Fields<'_>) -> Option<EntityId> {
        self.id.iter().find_map(|path| id_text(doc.value_at(path)?))
    }

    /// The version of a document in the form that compares as text.
    #[must_use]
    pub fn version_of(&self, doc: &Fields<'_>) -> Option<String> {
        self.versions.iter().find_map(|path| self.version_kind.normalise(doc.value_at(path)?))
    }

    /// The version that a `$set` names, by a dotted key or inside an object.
    #[must_use]
    pub fn version_of_set(&self, set: &RawValue) -> Option<String> {
        let find = |path: &String| member(set.get(), path).or_else(|| value_at(set, path));
        self.versions.iter().find_map(|path| self.version_kind.normalise(find(path)?))
    }

    /// Where a document stands in the HTTP feed, as well as that can be told.
    #[must_use]
    pub fn moment_of(&self, doc: &RawValue) -> Option<String> {
        self.feed_of(doc).or_else(|| self.version_of(&Fields::of(doc.get())))
    }

    /// Where a document stands in the HTTP feed by the field that says so.
    #[must_use]
    pub fn feed_of(&self, doc: &RawValue) -> Option<String> {
        VersionKind::Time.normalise(value_at(doc, &self.feed)?)
    }
}

/// An id as text: a string, a number, or MongoDB's `{"$oid": ...}`.
fn id_text(json: &str) -> Option<EntityId> {
    let json = member(json, "$oid").unwrap_or(json);
    let text = match json.as_bytes().first()? {
        b'"' => unquote(json)?,
        b'-' | b'0'..=b'9' => json.into(),
        _ => return None,
    };
    EntityId::new(&text).ok()
}

/// How life is told from death, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Heartbeat {
    /// We send a WebSocket ping this often. Must be below half of the idle limit.
    pub ping_s: u64,
    /// Without any frame, pongs included, the connection is dead.
    pub any_frame_s: u64,
    /// Without a text frame we connect again; 0: never, for upstreams without a heartbeat of their own.
    pub text_frame_s: u64,
    /// The upstream closes what was silent for so long.
    pub idle_limit_s: u64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { ping_s: 30, any_frame_s: 95, text_frame_s: 0, idle_limit_s: 350 }
    }
}

/// What is done with a `type` that is not known. The stream always goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownType {
    /// Kept raw in quarantine.
    #[default]
    Quarantine,
    /// Counted only.
    Count,
}

/// Compression of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// None.
    #[default]
    Off,
}

/// A dialect that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dialect.{key}: {problem}")]
pub struct DialectError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Bounds of the message limit: below the first no document passes; the second is what a node can hold twice.
const MESSAGE_LIMITS: std::ops::RangeInclusive<usize> = 1024..=256 * 1024 * 1024;

impl Dialect {
    /// Contradictions that the types let through.
    ///
    /// # Errors
    /// The first one.
    pub fn check(&self) -> Result<(), DialectError> {
        let must = |ok: bool, key, problem| if ok { Ok(()) } else { Err(DialectError { key, problem }) };
        let Envelope { kind, data, cursor, set } = &self.envelope;
        let named = [kind, data, cursor, set].iter().all(|name| !name.is_empty());
        must(
            named && kind != data && kind != cursor && data != cursor,
            "envelope",
            "names must differ and not be empty",
        )?;
        must(MESSAGE_LIMITS.contains(&self.max_message_bytes), "max_message_bytes", "must be from 1 KiB to 256 MiB")?;
        must(self.secrets.iter().all(|name| !name.is_empty()), "secrets", "names must not be empty")?;
        must(!self.paths.id.is_empty(), "paths.id", "at least one path is needed")?;
        must(!self.paths.versions.is_empty(), "paths.versions", "at least one path is needed")?;
        let beat = &self.heartbeat;
        must(
            beat.ping_s > 0 && beat.ping_s * 2 <= beat.idle_limit_s,
            "heartbeat.ping_s",
            "must be above 0 and at most half of idle_limit_s",
        )?;
        must(beat.any_frame_s > beat.ping_s, "heartbeat.any_frame_s", "must be above ping_s")?;
        let http = self.http.object.contains("{id}") && self.http.feed.contains("{since}");
        must(http, "http", "object needs {id}, feed needs {since}")?;
        let json = |template: &str| {
            let filled = template.replace("{cursor}", "0").replace("{protocol}", "0").replace("{init_point}", "0");
            serde_json::from_str::<&RawValue>(&filled).is_ok()
        };
        let subscribe = !matches!(&self.handshake, Handshake::ClientSendsSubscribe { template } if !json(template));
        must(subscribe, "handshake.template", "must be JSON once the placeholders are filled")?;
        let ack = !matches!(&self.ack, Ack::Each { template } | Ack::Batch { template } if !json(template));
        must(ack, "ack.template", "must be JSON once the placeholders are filled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect(text)
    }

    #[test]
    fn an_empty_table_is_the_known_protocol() {
        let dialect: Dialect = toml::from_str("").expect("all keys have defaults");
        assert_eq!(dialect, Dialect::default());
        assert_eq!(dialect.check(), Ok(()));
        assert_eq!(toml::from_str::<Dialect>(&toml::to_string(&dialect).expect("writes")), Ok(dialect));
    }

    #[test]
    fn a_table_overrides_what_it_names() {
        let text = r#"
            protocol = "full"
            max_message_bytes = 7864320
            types = { put = "upsert", heartbeat = "noop" }
            handshake = { mode = "client_sends_subscribe", template = '{"from":{cursor}}' }
            cursor = { kind = "u64", null = "empty" }
            ack = { mode = "batch", template = '{"ack":{cursor}}' }
            [envelope]
            type = "event"
            [paths]
            id = ["key"]
        "#;
        let dialect: Dialect = toml::from_str(text).expect("reads");
        assert_eq!(dialect.check(), Ok(()));
        assert_eq!(dialect.types.get("put"), Some(FrameKind::Upsert));
        assert_eq!(dialect.types.get("upsert"), Some(FrameKind::Upsert), "known types stay");
        assert_eq!((dialect.envelope.kind.as_str(), dialect.envelope.data.as_str()), ("event", "data"));
    }

    #[test]
    fn mistakes_are_told() {
        for bad in [
            "protocl = 'full'",
            "compression = 'deflate'",
            "[envelope]\ntyp = 'x'",
            "types = { a = 'upsrt' }",
            "ack = { mode = 'each' }",
        ] {
            assert!(toml::from_str::<Dialect>(bad).is_err(), "{bad}");
        }
        for (bad, key) in [
            ("max_message_bytes = 5", "max_message_bytes"),
            ("heartbeat = { ping_s = 300 }", "heartbeat.ping_s"),
            ("heartbeat = { any_frame_s = 10 }", "heartbeat.any_frame_s"),
            ("paths = { id = [] }", "paths.id"),
            ("ack = { mode = 'each', template = '{' }", "ack.template"),
            ("envelope = { data = 'type' }", "envelope"),
        ] {
            let dialect: Dialect = toml::from_str(bad).expect(bad);
            assert_eq!(dialect.check().map_err(|e| e.key), Err(key), "{bad}");
        }
    }

    #[test]
    fn ids_and_versions_are_found() {
        let paths = Paths::default();
        for (doc, id) in [(r#"{"_id":"a","id":"b"}"#, "a"), (r#"{"id":7}"#, "7"), (r#"{"_id":{"$oid":"f0"}}"#, "f0")] {
            assert_eq!(paths.id_of(&Fields::of(doc)).expect(doc).as_str(), id);
        }
        for doc in [r#"{"_id":null}"#, r#"{"_id":""}"#, r#"{"_id":{}}"#, r#"{"_id":"\u0000"}"#, "{}"] {
            assert_eq!(paths.id_of(&Fields::of(doc)), None, "{doc}");
        }
        let doc =
            raw(r#"{"dateModified":"2024-01-01T00:00:00Z","_meta":{"systemDateModified":"2024-01-02T00:00:00Z"}}"#);
        assert_eq!(paths.version_of(&Fields::of(doc.get())).as_deref(), Some("2024-01-02T00:00:00.000000Z"));
        assert_eq!(paths.feed_of(&doc).as_deref(), Some("2024-01-01T00:00:00.000000Z"));
        for set in [
            r#"{"_meta.systemDateModified":"2024-01-02T00:00:00Z"}"#,
            r#"{"_meta":{"systemDateModified":"2024-01-02T00:00:00Z"}}"#,
        ] {
            assert_eq!(paths.version_of_set(&raw(set)).as_deref(), Some("2024-01-02T00:00:00.000000Z"));
        }
    }
}
