//! Who a client is, and the tags of a publication.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    fields::{Object, Sink, always, field},
    json,
};

/// What other clients see of one connection: in presence, in joins and leaves, beside what it publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The user's id; empty for nobody.
    pub user: Arc<str>,
    /// The session's id.
    pub client: Arc<str>,
    /// What the connection's token says of the user: one JSON value as text.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "json::optional")]
    pub conn_info: Option<Bytes>,
    /// What the subscription's token says, of the same form.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "json::optional")]
    pub chan_info: Option<Bytes>,
}

impl Object for ClientInfo {
    fn fields(&self, to: &mut impl Sink) {
        to.text(always(1, "user"), &self.user);
        to.text(always(2, "client"), &self.client);
        to.data(field(3, "conn_info"), self.conn_info.as_deref().unwrap_or_default());
        to.data(field(4, "chan_info"), self.chan_info.as_deref().unwrap_or_default());
    }
}

/// Most tags of one publication.
pub const MAX_TAGS: usize = 32;
/// Most bytes of a tag's name.
pub const MAX_TAG_NAME: usize = 64;
/// Most bytes of a tag's value.
pub const MAX_TAG_VALUE: usize = 512;

/// Tags that are not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("tags are at most {MAX_TAGS}, named by 1 to {MAX_TAG_NAME} bytes, with values of at most {MAX_TAG_VALUE}")]
pub struct TagsError;

/// Texts by name, which go with a publication and which subscribers may filter by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// The value of a tag.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagsError;

    fn try_from(all: BTreeMap<String, String>) -> Result<Self, TagsError> {
        let fits = |(name, value): (&String, &String)| {
            (1..=MAX_TAG_NAME).contains(&name.len()) && value.len() <= MAX_TAG_VALUE
        };
        if all.len() <= MAX_TAGS && all.iter().all(fits) { Ok(Self(all)) } else { Err(TagsError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_have_limits() {
        let read = |text: &str| serde_json::from_str::<Tags>(text);
        let tags = read(r#"{"b":"2","a":"1"}"#).expect("tags");
        assert_eq!((tags.get("b"), tags.get("c"), tags.iter().count()), (Some("2"), None, 2));
        assert_eq!(serde_json::to_string(&tags).expect("text"), r#"{"a":"1","b":"2"}"#);
        let many: BTreeMap<_, _> = (0..=MAX_TAGS).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(Tags::try_from(many), Err(TagsError));
        for bad in
            [r#"{"":"x"}"#, &format!("{{\"{}\":\"\"}}", "n".repeat(65)), &format!("{{\"a\":\"{}\"}}", "v".repeat(513))]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn infos_read_back() {
        let text = r#"{"user":"u","client":"c","conn_info":{"n":1.10}}"#;
        let info: ClientInfo = serde_json::from_str(text).expect("info");
        assert_eq!(info.conn_info.as_deref(), Some(&br#"{"n":1.10}"#[..]));
        assert_eq!(serde_json::to_string(&info).expect("text"), text);
    }
}
