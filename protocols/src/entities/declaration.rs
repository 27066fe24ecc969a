//! What is declared of a kind: how its documents have to look, by what they are filtered, sorted and shown, and which other
//! entities they name. The same in configuration, over REST and in files.
//!
//! Invariants: whatever passes [`Declaration::check`] any node can take over. Not here: what a JSON Schema means, and who may declare.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Order, SortAs};
use crate::platform::{Kind, units::duration};

/// Most declared fields of a kind: each costs an index entry per entity, and its earlier values are in every change.
pub const MAX_FIELDS: usize = 32;
/// Most sorted fields of a kind: each is an index, and every change of an entity of the kind writes to it.
pub const MAX_SORTS: usize = 8;
/// Bytes of a path.
pub const MAX_FIELD: usize = 128;
/// Bytes of a schema: every node holds it compiled, and every form loads it.
pub const MAX_SCHEMA: usize = 64 * 1024;
/// Most texts by whose words entities are found.
pub const MAX_TEXTS: usize = 16;
/// Most fields that stand for an entity where there is little room.
pub const MAX_DISPLAY: usize = 16;
/// Most fields that name other entities.
pub const MAX_REFERENCES: usize = 16;
/// Most roles that are granted something.
pub const MAX_GRANTS: usize = 64;
/// Longest name of a role, in bytes.
const MAX_ROLE: usize = 100;
/// Most languages of a title, and bytes of one.
const MAX_TITLES: (usize, usize) = (16, 100);
/// Parameters of lists that were there first: a filter is a parameter beside them. What stands beside these may have their names and be asked
/// for in `filter`.
const RESERVED: [&str; 3] = ["limit", "cursor", "total"];

/// What is declared of a kind, but for its name and who owns it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Declaration {
    /// What people call it, by language (`uk`, `en`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub title: BTreeMap<String, String>,
    /// JSON Schema, draft 2020-12; without one any document is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Box<RawValue>>,
    /// Dotted paths: what may be filtered by, and whose earlier values the log keeps.
    pub fields: Vec<String>,
    /// Those of them by which lists are sorted, and as what they are read.
    pub sorts: BTreeMap<String, SortAs>,
    /// Dotted paths of texts by whose words entities are found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
    /// Dotted paths of what stands for an entity where there is little room: the first is its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub display: Vec<String>,
    /// Dotted paths that hold the id of another entity, and of which kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, Kind>,
    /// What roles may do to its entities, beside what the configuration grants them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub grants: BTreeMap<String, BTreeSet<Action>>,
    /// Whoever changes an entity must name the revision that they have seen.
    pub require_if_match: bool,
    /// What has been in the trash for so long is purged; zero: it stays.
    #[serde(with = "duration")]
    pub trash_retention: Duration,
}

/// What may be done to the entities of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To read them, over REST and on channels.
    Read,
    /// To make one.
    Create,
    /// To change one.
    Update,
    /// To put one into the trash.
    Trash,
    /// To take one out of it.
    Restore,
    /// To destroy one.
    Purge,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Read, Self::Create, Self::Update, Self::Trash, Self::Restore, Self::Purge];

    /// The word in permissions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Update => "update",
            Self::Trash => "trash",
            Self::Restore => "restore",
            Self::Purge => "purge",
        }
    }
}

/// What is wrong with a declaration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member}: {what}")]
pub struct DeclarationError {
    /// Of which member.
    pub member: &'static str,
    /// What.
    pub what: String,
}

impl Declaration {
    /// # Errors
    /// The first member that breaks a limit, or another.
    pub fn check(&self) -> Result<(), DeclarationError> {
        self.check_title()?;
        check_fields(&self.fields)?;
        check_sorts(&self.sorts, &self.fields)?;
        at_most("display", self.display.len(), MAX_DISPLAY)?;
        at_most("text", self.text.len(), MAX_TEXTS)?;
        at_most("references", self.references.len(), MAX_REFERENCES)?;
        at_most("grants", self.grants.len(), MAX_GRANTS)?;
        let named = self.grants.keys().all(|role| (1..=MAX_ROLE).contains(&role.len()));
        ensure(named, "grants", || format!("a role has a name of 1 to {MAX_ROLE} bytes"))?;
        self.text.iter().try_for_each(|path| formed("text", path))?;
        self.display.iter().try_for_each(|path| formed("display", path))?;
        self.references.keys().try_for_each(|path| formed("references", path))?;
        let length = self.schema.as_ref().map_or(0, |schema| schema.get().len());
        ensure(length <= MAX_SCHEMA, "schema", || format!("at most {MAX_SCHEMA} bytes"))
    }

    fn check_title(&self) -> Result<(), DeclarationError> {
        let (languages, bytes) = MAX_TITLES;
        at_most("title", self.title.len(), languages)?;
        self.title.iter().try_for_each(|(language, title)| {
            let letters = (2..=8).contains(&language.len()) && language.bytes().all(|byte| byte.is_ascii_lowercase());
            ensure(letters, "title", || format!("{language:?} is no language such as \"uk\" or \"en\""))?;
            let short = !title.is_empty() && title.len() <= bytes;
            ensure(short, "title", || format!("a title has 1 to {bytes} bytes"))
        })
    }
}

fn check_fields(fields: &[String]) -> Result<(), DeclarationError> {
    at_most("fields", fields.len(), MAX_FIELDS)?;
    fields.iter().enumerate().try_for_each(|(n, field)| {
        let free = !RESERVED.contains(&field.as_str());
        ensure(free, "fields", || format!("{field:?} is the name of a parameter of lists"))?;
        ensure(!fields.iter().take(n).any(|other| other == field), "fields", || {
            format!("{field:?} stands there twice")
        })?;
        formed("fields", field)
    })
}

fn check_sorts(sorts: &BTreeMap<String, SortAs>, fields: &[String]) -> Result<(), DeclarationError> {
    at_most("sorts", sorts.len(), MAX_SORTS)?;
    sorts.keys().try_for_each(|field| {
        ensure(fields.contains(field), "sorts", || format!("{field:?} is not in fields"))?;
        let free = !Order::BUILT_IN.contains(&field.as_str());
        ensure(free, "sorts", || format!("{field:?} is what every list can be sorted by"))
    })
}

fn formed(member: &'static str, path: &str) -> Result<(), DeclarationError> {
    let plain = path.len() <= MAX_FIELD && !path.chars().any(char::is_control);
    let formed = plain && path.split('.').all(|part| !part.is_empty());
    ensure(formed, member, || format!("{path:.MAX_FIELD$?} is no dotted path"))
}

fn at_most(member: &'static str, there: usize, most: usize) -> Result<(), DeclarationError> {
    ensure(there <= most, member, || format!("at most {most}"))
}

fn ensure(good: bool, member: &'static str, what: impl FnOnce() -> String) -> Result<(), DeclarationError> {
    if good { Ok(()) } else { Err(DeclarationError { member, what: what() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let declaration: Declaration = serde_json::from_str(json).expect(json);
        declaration.check().expect_err(json).to_string()
    }

    #[test]
    fn what_is_declared_is_written_as_it_is_read() {
        let text = r#"{"title":{"uk":"Клієнт"},"schema":{"type": "object"},"fields":["name","owner"],"sorts":{"name":"text"},"text":["name","note"],"display":["name"],"references":{"owner":"staff"},"grants":{"desk":["read","update"]},"require_if_match":true,"trash_retention":"30d"}"#;
        let declaration: Declaration = serde_json::from_str(text).expect("a declaration");
        declaration.check().expect("good");
        assert_eq!(serde_json::to_string(&declaration).expect("plain"), text, "the schema as it was written");
        Declaration::default().check().expect("nothing need be declared");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many: Vec<String> = (0..=MAX_FIELDS).map(|n| format!("f{n}")).collect();
        let large = "x".repeat(MAX_SCHEMA);
        for (json, expected) in [
            (r#"{"fields":["a..b"]}"#.to_owned(), r#"fields: "a..b" is no dotted path"#),
            (r#"{"fields":["a","a"]}"#.to_owned(), r#"fields: "a" stands there twice"#),
            (r#"{"fields":["limit"]}"#.to_owned(), r#"fields: "limit" is the name of a parameter of lists"#),
            (serde_json::json!({ "fields": many }).to_string(), "fields: at most 32"),
            (r#"{"sorts":{"a":"text"}}"#.to_owned(), r#"sorts: "a" is not in fields"#),
            (
                r#"{"fields":["id"],"sorts":{"id":"text"}}"#.to_owned(),
                r#"sorts: "id" is what every list can be sorted by"#,
            ),
            (r#"{"title":{"Ukrainian":"x"}}"#.to_owned(), r#"title: "Ukrainian" is no language such as "uk" or "en""#),
            (r#"{"title":{"uk":""}}"#.to_owned(), "title: a title has 1 to 100 bytes"),
            (r#"{"display":[""]}"#.to_owned(), r#"display: "" is no dotted path"#),
            (serde_json::json!({ "schema": large }).to_string(), "schema: at most 65536 bytes"),
        ] {
            assert_eq!(refused(&json), expected);
        }
        assert!(serde_json::from_str::<Declaration>(r#"{"field":[]}"#).is_err(), "what nobody knows is a mistake");
    }
}
