//! Names with their alphabets. A value of these types has passed its check, so no room checks twice.

use std::{fmt, sync::Arc};

/// Longest entity id that is kept. Upstream ids are 24 or 32 hex digits; the rest is room for other systems' keys.
pub const MAX_ENTITY_ID: usize = 256;
/// One letter and up to forty more, as the design names kinds.
pub const MAX_KIND: usize = 41;

/// A name that its alphabet refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Kinds are `[a-z][a-z0-9-]{0,40}`.
    #[error("a kind is a lower-case letter and up to 40 letters, digits or hyphens")]
    Kind,
    /// Ids are 1 to [`MAX_ENTITY_ID`] bytes without control characters.
    #[error("an entity id is 1 to {MAX_ENTITY_ID} bytes without control characters")]
    EntityId,
}

/// The type of an entity: `procedure`, `registry-object`... Alphabet `[a-z][a-z0-9-]{0,40}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(Arc<str>);

impl Kind {
    /// Checks the alphabet.
    ///
    /// # Errors
    /// [`NameError::Kind`] when it does not fit.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if first && rest && name.len() <= MAX_KIND { Ok(Self(name.into())) } else { Err(NameError::Kind) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The durable stream of every change of this kind: `entities.{kind}`, which is also its channel.
    #[must_use]
    pub fn stream(&self) -> StreamName {
        StreamName(format!("entities.{}", self.0).into())
    }
}

/// The id of an entity within its kind, as the upstream spells it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId(Arc<str>);

impl EntityId {
    /// Checks length and control characters.
    ///
    /// # Errors
    /// [`NameError::EntityId`] when empty, too long or with control characters.
    pub fn new(id: &str) -> Result<Self, NameError> {
        if id.is_empty() || id.len() > MAX_ENTITY_ID || id.chars().any(char::is_control) {
            return Err(NameError::EntityId);
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a stream on the bus, `entities.{kind}` for a durable one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// A stream of the application, or one read back from the bus; the caller has checked the name.
    #[must_use]
    pub fn from_checked(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind whose changes this stream carries, if it is such a stream.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::new(self.0.strip_prefix("entities.")?).ok()
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(&self.0) }
        }
    )*};
}
as_text!(Kind, EntityId, StreamName);

macro_rules! from_text {
    ($($name:ident),*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
from_text!(Kind, EntityId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_an_alphabet() {
        for good in ["procedure", "registry-object", "a", &"a".repeat(41)] {
            assert!(Kind::new(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "A", "a_b", "a.b", "процедура", &"a".repeat(42)] {
            assert_eq!(Kind::new(bad), Err(NameError::Kind), "{bad}");
        }
    }

    #[test]
    fn a_stream_knows_its_kind() {
        let kind = Kind::new("procedure").expect("a kind");
        assert_eq!(kind.stream().as_str(), "entities.procedure");
        assert_eq!(kind.stream().kind(), Some(kind));
        assert_eq!(StreamName::from_checked("chat.1").kind(), None);
    }

    #[test]
    fn ids_refuse_control_characters() {
        assert!(EntityId::new("66f0c0ffee66f0c0ffee0001").is_ok());
        for bad in ["", "a\nb", "a\0", &"x".repeat(257)] {
            assert_eq!(EntityId::new(bad), Err(NameError::EntityId));
        }
    }
}
