//! What storage keeps beside a document: derived from its text alone, so it can be made wherever there is time for it.

use serde_json::value::RawValue;

use super::document::{Fields, content_hash};

/// Longest value of a declared field that can be filtered by or is kept as an earlier value.
pub const MAX_FIELD_VALUE: usize = 1024;

/// What is derived from one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// SHA-256 of the content without its versions.
    pub hash: [u8; 32],
    /// The JSON object that equality filters look into: declared path -> its scalar as text.
    pub filterable: String,
}

impl Derived {
    /// Of a document that was checked, by the declared fields of its kind and the paths of its versions.
    #[must_use]
    pub fn of<P: AsRef<str>>(doc: &RawValue, fields: &[String], version_paths: &[P]) -> Self {
        Self { hash: content_hash(doc, version_paths), filterable: filterable(doc, fields) }
    }
}

/// The JSON object that equality filters look into.
#[must_use]
pub fn filterable(doc: &RawValue, fields: &[String]) -> String {
    let values = Fields::of(doc.get()).filter_values(fields).into_iter();
    let short = values.filter(|(_, value)| value.len() <= MAX_FIELD_VALUE);
    let object: serde_json::Map<_, _> = short.map(|(field, value)| (field.to_owned(), value.into())).collect();
    serde_json::Value::Object(object).to_string()
}
