//! Names of channels: which stream a name leads to, and the name of each entity's own channel.
//!
//! Invariant: every name made here is legal in both client protocols (no colon, `[A-Za-z0-9_\-=.]`) and reads back.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::platform::{EntityId, Kind};

/// Longest channel name, as both protocols' clients know it.
pub const MAX_CHANNEL: usize = 255;
/// Longest id that stands in a name as it is.
const MAX_PLAIN_ID: usize = 100;
/// Marks a key that is a hash; it is legal in both protocols and never part of a plain id.
const HASH_MARK: char = '=';
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A name that is no channel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Empty, above [`MAX_CHANNEL`] bytes, or with characters that a name must not have.
    #[error("a channel name is 1 to {MAX_CHANNEL} printable ascii characters")]
    Form,
    /// It begins like a reserved name and is none.
    #[error("the name is reserved")]
    Reserved,
}

/// An entity within a channel's name: its id where `[A-Za-z0-9_-]{1,100}`, else `=` and the base64url of its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntityKey(Arc<str>);

impl EntityKey {
    /// The key of an id.
    #[must_use]
    pub fn of(id: &EntityId) -> Self {
        if is_plain(id.as_str()) { Self(id.as_str().into()) } else { Self(hashed(id.as_str()).into()) }
    }

    /// Reads a key.
    fn parse(text: &str) -> Option<Self> {
        let hash = text.strip_prefix(HASH_MARK).is_some_and(|hash| hash.len() == 43 && is_plain(hash));
        (hash || is_plain(text)).then(|| Self(text.into()))
    }

    /// The id itself, where the key is not a hash.
    #[must_use]
    pub fn plain(&self) -> Option<EntityId> {
        if self.0.starts_with(HASH_MARK) { None } else { EntityId::new(&self.0).ok() }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a channel's name leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// `entities.{kind}`: every change of a kind; its offsets are the kind's.
    Entities(Kind),
    /// `entity.{kind}.{key}`: one entity; its offsets are the revisions.
    Entity(Kind, EntityKey),
    /// Anything else belongs to the application.
    Application(Arc<str>),
}

/// Prefixes that no application channel may have.
const RESERVED: [&str; 5] = ["entities.", "entity.", "query.", "calls.", "inbox."];

impl Channel {
    /// Reads a name.
    ///
    /// # Errors
    /// [`ChannelError`] when it is no channel's.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        if name.is_empty() || name.len() > MAX_CHANNEL || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ChannelError::Form);
        }
        if let Some(kind) = name.strip_prefix("entities.") {
            return Kind::new(kind).map(Self::Entities).map_err(|_| ChannelError::Reserved);
        }
        if let Some((kind, key)) = name.strip_prefix("entity.").and_then(|rest| rest.split_once('.')) {
            let kind = Kind::new(kind).map_err(|_| ChannelError::Reserved)?;
            return EntityKey::parse(key).map(|key| Self::Entity(kind, key)).ok_or(ChannelError::Reserved);
        }
        if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(ChannelError::Reserved);
        }
        Ok(Self::Application(name.into()))
    }

    /// The name of an entity's own channel.
    #[must_use]
    pub fn entity_name(kind: &Kind, id: &EntityId) -> String {
        if is_plain(id.as_str()) {
            format!("entity.{kind}.{id}")
        } else {
            format!("entity.{kind}.{}", hashed(id.as_str()))
        }
    }
}

fn is_plain(id: &str) -> bool {
    (1..=MAX_PLAIN_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn hashed(id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let mut out = String::with_capacity(44);
    out.push(HASH_MARK);
    for chunk in digest.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let six = (word >> (18 - 6 * place)) & 0x3f;
            out.push(char::from(BASE64_URL[six as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lead_to_streams() {
        let kind = Kind::new("registry-object").expect("kind");
        assert_eq!(Channel::parse("entities.registry-object"), Ok(Channel::Entities(kind.clone())));
        let id = EntityId::new("66f0c0ffee").expect("id");
        assert_eq!(Channel::parse("entity.registry-object.66f0c0ffee"), Ok(Channel::Entity(kind, EntityKey::of(&id))));
        assert_eq!(Channel::parse("chat.1"), Ok(Channel::Application("chat.1".into())));
        for bad in [
            "entities.",
            "entities.A",
            "entity.x",
            "entity.x.",
            "entity.x.a b",
            "entity.x.a.b",
            "entity.x.=short",
            "inbox.1",
            "query.7",
        ] {
            assert!(Channel::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "канал", "a\nb", &"x".repeat(256)] {
            assert_eq!(Channel::parse(bad), Err(ChannelError::Form), "{bad}");
        }
    }

    #[test]
    fn a_hash_is_the_base64url_of_sha256() {
        // The digest of "abc" in FIPS 180-2, appendix B.1, written in base64url.
        assert_eq!(hashed("abc"), "=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
    }

    proptest! {
        #[test]
        fn every_entity_has_a_channel_that_reads_back(id in "[^\\p{Cc}]{1,60}") {
            let (kind, id) = (Kind::new("procedure").unwrap(), EntityId::new(&id).unwrap());
            let name = Channel::entity_name(&kind, &id);
            prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-=.".contains(&b)));
            prop_assert_eq!(Channel::parse(&name), Ok(Channel::Entity(kind, EntityKey::of(&id))));
        }
    }
}
