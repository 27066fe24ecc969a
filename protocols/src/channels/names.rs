//! Names of channels: which belong to the hub, which to the application, and how an entity's id is spelled in one.
//!
//! The alphabet is what both client protocols allow: no colon, no space. The hub's names begin with a reserved word and a
//! dot; a name that begins so and is not one of ours is refused, never handed to the application.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    entities::Filter,
    platform::{EntityId, Kind},
};

/// Longest channel name: the default limit of the Centrifuge protocol's servers.
pub const MAX_CHANNEL: usize = 255;
/// Longest id that stands in a channel as it is.
pub const MAX_PLAIN_KEY: usize = 100;
/// What the name of a user's own channel begins with, on the Pusher wire.
pub const USER_PREFIX: &str = "#server-to-user-";
/// What the channel begins with on which it is said whether a user of the Pusher protocol is online: inside the hub alone, for no
/// name that anybody can give begins so.
pub const ONLINE_PREFIX: &str = "#online-";
/// Words before the first dot that no application channel may begin with.
pub const RESERVED: [&str; 5] = ["entities", "entity", "query", "calls", "inbox"];

/// What channels of an isolated application begin with inside the hub: no name that anybody can give begins so.
pub const ISOLATED: char = '/';

/// Marks a key that is a hash; a plain id that looks like one is hashed itself, so two ids never share a key.
const HASHED: &str = "h_";
/// base64url of 32 bytes without padding.
const HASH_LEN: usize = 43;

/// A name that is no channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Empty, above [`MAX_CHANNEL`] bytes, or with characters outside `[A-Za-z0-9_=@,.;-]`.
    #[error("a channel name is 1 to {MAX_CHANNEL} characters of A-Z a-z 0-9 _ - = @ , . ;")]
    Malformed,
    /// It begins with a reserved word and names nothing that exists.
    #[error("channel names of this prefix are reserved")]
    Reserved,
}

/// How an entity's id is spelled in a channel name: itself when it is `[A-Za-z0-9_-]{1,100}`, else a hash of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdKey(Arc<str>);

impl IdKey {
    /// The key of an id.
    #[must_use]
    pub fn of(id: &EntityId) -> Self {
        if is_plain(id.as_str()) { Self(id.as_str().into()) } else { Self(hash(id.as_str()).into()) }
    }

    /// Reads a key out of a channel name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (is_plain(text) || is_hash(text)).then(|| Self(text.into()))
    }

    /// The id, when the key is the id; a hashed one has to be looked up.
    #[must_use]
    pub fn id(&self) -> Option<EntityId> {
        if self.is_hashed() { None } else { EntityId::new(&self.0).ok() }
    }

    /// Whether the id is hidden behind a hash.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        is_hash(&self.0)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn is_plain(text: &str) -> bool {
    (1..=MAX_PLAIN_KEY).contains(&text.len()) && word(text) && !is_hash(text)
}

fn is_hash(text: &str) -> bool {
    text.strip_prefix(HASHED).is_some_and(|rest| rest.len() == HASH_LEN && word(rest))
}

fn hash(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(HASHED.len() + HASH_LEN);
    out.push_str(HASHED);
    for three in Sha256::digest(text.as_bytes()).chunks(3) {
        let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            out.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
    out
}

/// The name of a query: a hash of its kind and of the one spelling of its filter, so that all who ask the same share one
/// channel. It grants nothing: who may listen is what the hub remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryId(Arc<str>);

impl QueryId {
    /// The name of a query.
    #[must_use]
    pub fn of(kind: &Kind, filter: &Filter) -> Self {
        Self(hash(&format!("{kind}\n{filter}"))[HASHED.len()..].into())
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == HASH_LEN && word(text)).then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A channel by what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// `entities.{kind}`: every change of a kind; offsets are the kind's.
    Entities(Kind),
    /// `entity.{kind}.{key}`: one entity; offsets are its revisions.
    Entity(Kind, IdKey),
    /// `query.{id}`: what concerns a query; offsets are those of its kind.
    Query(QueryId),
    /// `#server-to-user-{id}`: what servers send to one user of the Pusher protocol. Nobody subscribes to it but that user,
    /// by signing in.
    User(Arc<str>),
    /// `#online-{app}/{id}`: whether one user of the Pusher protocol has signed in. Nothing is published on it; `app` stands there where
    /// the application's users are its own.
    Online(Arc<str>),
    /// Anything else belongs to the application.
    Application(Arc<str>),
}

impl Channel {
    /// Reads a name as it stands on the Centrifuge wire.
    ///
    /// # Errors
    /// [`ChannelError`] when it is no name, or a reserved one that names nothing.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        if let Some(user) = name.strip_prefix(USER_PREFIX) {
            // Names of streams stand between tabs and newlines.
            let legal = !user.is_empty() && name.len() <= MAX_CHANNEL && !user.chars().any(char::is_control);
            return if legal { Ok(Self::User(user.into())) } else { Err(ChannelError::Malformed) };
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-=@,.;".contains(&b);
        if name.is_empty() || name.len() > MAX_CHANNEL || !name.bytes().all(legal) {
            return Err(ChannelError::Malformed);
        }
        let (first, rest) = name.split_once('.').unwrap_or((name, ""));
        if !RESERVED.contains(&first) {
            return Ok(Self::Application(name.into()));
        }
        let ours = match first {
            "entities" => Kind::new(rest).ok().map(Self::Entities),
            "entity" => rest
                .split_once('.')
                .and_then(|(kind, key)| Some(Self::Entity(Kind::new(kind).ok()?, IdKey::parse(key)?))),
            "query" => QueryId::parse(rest).map(Self::Query),
            _ => None,
        };
        ours.ok_or(ChannelError::Reserved)
    }

    /// Reads a name as the hub itself keeps it: that of an isolated application's channel too, and of what is said of a user, which
    /// nobody can give from outside.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of_hub(name: &str) -> Result<Self, ChannelError> {
        if let Some(user) = name.strip_prefix(ONLINE_PREFIX) {
            return Ok(Self::Online(user.into()));
        }
        if name.starts_with(ISOLATED) { Ok(Self::Application(name.into())) } else { Self::parse(name) }
    }

    /// The channel of one entity.
    #[must_use]
    pub fn of_entity(kind: &Kind, id: &EntityId) -> Self {
        Self::Entity(kind.clone(), IdKey::of(id))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entities(kind) => write!(f, "entities.{kind}"),
            Self::Entity(kind, key) => write!(f, "entity.{kind}.{}", key.as_str()),
            Self::Query(id) => write!(f, "query.{id}"),
            Self::User(user) => write!(f, "{USER_PREFIX}{user}"),
            Self::Online(user) => write!(f, "{ONLINE_PREFIX}{user}"),
            Self::Application(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> EntityId {
        EntityId::new(text).expect("id")
    }

    #[test]
    fn whether_somebody_is_online_is_asked_by_the_hub_alone() {
        let name = "#online-own/\u{457} 7";
        let channel = Channel::of_hub(name).expect("a name of the hub's");
        assert_eq!((channel.to_string().as_str(), &channel), (name, &Channel::Online("own/\u{457} 7".into())));
        assert_eq!(Channel::parse(name), Err(ChannelError::Malformed));
    }

    #[test]
    fn an_id_outside_the_alphabet_is_hashed() {
        assert_eq!(IdKey::of(&id("66f0c0ffee66f0c0ffee0001")).as_str(), "66f0c0ffee66f0c0ffee0001");
        // sha256 of "a.b", by another implementation.
        assert_eq!(IdKey::of(&id("a.b")).as_str(), "h_LnM23I66h-9HLfVow1SCq_JXXcPl6sDFxiuP-urCyTQ");
        assert_eq!(IdKey::of(&id("a.b")).id(), None);
        assert!(IdKey::of(&id(&"x".repeat(101))).is_hashed());
    }

    #[test]
    fn an_id_that_looks_like_a_hash_does_not_pass_for_one() {
        let fake = IdKey::of(&id("a.b"));
        let other = IdKey::of(&id(fake.as_str()));
        assert!(other.is_hashed() && other != fake);
    }

    #[test]
    fn an_isolated_name_is_the_hubs_alone() {
        let inside = "/shop/private-x";
        assert_eq!(Channel::of_hub(inside), Ok(Channel::Application(inside.into())));
        assert_eq!(Channel::parse(inside), Err(ChannelError::Malformed));
        for name in ["entities.procedure", "chat", "#server-to-user-7", "entities.", "a/b"] {
            assert_eq!(Channel::of_hub(name), Channel::parse(name), "{name}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let kind = Kind::new("procedure").expect("kind");
        assert_eq!(Channel::parse("entities.procedure"), Ok(Channel::Entities(kind.clone())));
        assert_eq!(Channel::parse("entity.procedure.a_1"), Ok(Channel::of_entity(&kind, &id("a_1"))));
        for application in ["chat", "private-x", "entitiesx.y", "chat.entities.procedure", "a;b,c@d=e"] {
            assert_eq!(Channel::parse(application), Ok(Channel::Application(application.into())));
        }
        for reserved in [
            "entities",
            "entities.",
            "entities.P",
            "entities.a.b",
            "entity.a",
            "entity.a.",
            "entity.a.b.c",
            "inbox.olha",
            "query",
            "query.a",
            "query.LnM23I66h-9HLfVow1SCq_JXXcPl6sDFxiuP-urCyT.",
        ] {
            assert_eq!(Channel::parse(reserved), Err(ChannelError::Reserved), "{reserved}");
        }
        for bad in ["", "a:b", "a b", "дзвін", "a\n", &"x".repeat(256)] {
            assert_eq!(Channel::parse(bad), Err(ChannelError::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn who_asks_the_same_shares_a_channel() {
        let kind = Kind::new("procedure").expect("kind");
        let id = |text| QueryId::of(&kind, &Filter::parse(text).expect(text));
        let channel = Channel::Query(id(r#"{"a":1,"b":"x"}"#));
        assert_eq!(Channel::parse(&channel.to_string()), Ok(channel));
        assert_eq!(id(r#"{"a":1,"b":"x"}"#), id(r#"{"b":{"eq":"x"},"a":{"eq":1.0}}"#));
        assert_ne!(id(r#"{"a":1}"#), id(r#"{"a":"1"}"#));
        assert_ne!(id("{}"), QueryId::of(&Kind::new("call").expect("kind"), &Filter::All));
    }

    proptest! {
        #[test]
        fn the_channel_of_any_entity_reads_back(kind in "[a-z][a-z0-9-]{0,40}", text in "[^\\p{Cc}]{1,60}") {
            let channel = Channel::of_entity(&Kind::new(&kind).unwrap(), &id(&text));
            prop_assert_eq!(Channel::parse(&channel.to_string()), Ok(channel));
        }

        #[test]
        fn what_is_read_is_written_the_same(name in "(entities|entity|x)?[.]?[ -~]{0,40}") {
            if let Ok(channel) = Channel::parse(&name) {
                prop_assert_eq!(channel.to_string(), name);
            }
        }
    }
}
