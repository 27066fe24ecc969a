//! Where id and version are in a document: the part of the dialect that reads documents.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::version::VersionKind;
use crate::{
    entities::{
        Fields,
        raw::{member, unquote},
        value_at,
    },
    platform::EntityId,
};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect(text)
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
