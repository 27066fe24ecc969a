//! The JSON form: one object a message, no newline inside, payloads as the text in which they came.

use std::io::Write as _;

use bytes::Bytes;
use memchr::memchr2;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    fields::{Field, Object, Sink},
    publication::Payload,
};

/// The JSON value that these bytes are, if they are one.
fn value(data: &[u8]) -> Option<&RawValue> {
    std::str::from_utf8(data).ok().and_then(|text| serde_json::from_str(text).ok())
}

/// Whether the bytes are one JSON value: what is not can't be sent to clients of the JSON form (disconnect 3506).
#[must_use]
pub fn is_json(data: &[u8]) -> bool {
    value(data).is_some()
}

/// Writes the members of one object.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    /// Payloads are parsed, and what is no JSON is written as `null`.
    checked: bool,
}

/// Appends the object.
pub(super) fn write(out: &mut Vec<u8>, object: &impl Object, checked: bool) {
    out.push(b'{');
    object.fields(&mut Json { out: &mut *out, first: true, checked });
    out.push(b'}');
}

impl Json<'_> {
    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        // Our own names are words, which need no escapes.
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(&mut self, data: &[u8]) {
        if data.is_empty() || (self.checked && !is_json(data)) {
            return self.out.extend_from_slice(b"null");
        }
        let start = self.out.len();
        self.out.extend_from_slice(data);
        // A newline ends the message. In valid JSON it stands between tokens only, where a space does the same.
        let mut at = start;
        while let Some(next) = memchr2(b'\n', b'\r', &self.out[at..]) {
            self.out[at + next] = b' ';
            at += next + 1;
        }
    }

    fn each<T>(&mut self, brackets: [u8; 2], items: impl Iterator<Item = T>, mut one: impl FnMut(&mut Self, T)) {
        self.out.push(brackets[0]);
        for (n, item) in items.enumerate() {
            if n > 0 {
                self.out.push(b',');
            }
            one(self, item);
        }
        self.out.push(brackets[1]);
    }
}

fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing text into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

impl Sink for Json<'_> {
    fn text(&mut self, field: Field, value: &str) {
        if field.always || !value.is_empty() {
            self.name(field.name);
            quote(self.out, value);
        }
    }

    fn data(&mut self, field: Field, value: &[u8]) {
        if !value.is_empty() {
            self.name(field.name);
            self.raw(value);
        }
    }

    fn payload(&mut self, field: Field, value: Payload<'_>) {
        self.name(field.name);
        match value {
            Payload::Raw(data) => self.raw(data),
            Payload::Full(text) | Payload::Patch(text) => quote(self.out, &String::from_utf8_lossy(text)),
        }
    }

    fn number(&mut self, field: Field, value: u64) {
        if field.always || value != 0 {
            self.name(field.name);
            let _ = write!(self.out, "{value}");
        }
    }

    fn flag(&mut self, field: Field, value: bool) {
        if value {
            self.name(field.name);
            self.out.extend_from_slice(b"true");
        }
    }

    fn object(&mut self, field: Field, value: &impl Object) {
        self.name(field.name);
        write(self.out, value, self.checked);
    }

    fn list(&mut self, field: Field, values: &[impl Object]) {
        if field.always || !values.is_empty() {
            self.name(field.name);
            self.each(*b"[]", values.iter(), |to, value| write(to.out, value, to.checked));
        }
    }

    fn map<'a, O: Object + 'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a O)>) {
        let mut entries = entries.peekable();
        if field.always || entries.peek().is_some() {
            self.name(field.name);
            self.each(*b"{}", entries, |to, (name, value)| {
                quote(to.out, name);
                to.out.push(b':');
                write(to.out, value, to.checked);
            });
        }
    }

    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut entries = entries.peekable();
        if field.always || entries.peek().is_some() {
            self.name(field.name);
            self.each(*b"{}", entries, |to, (name, value)| {
                quote(to.out, name);
                to.out.push(b':');
                quote(to.out, value);
            });
        }
    }
}

/// Anything as serde reads it, where `null` is the same as nothing: clients and servers write it for what they do not give.
///
/// # Errors
///
/// What is neither.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A payload as serde reads it: the text of whatever value stands there.
pub(super) fn payload<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let raw = Box::<RawValue>::deserialize(from)?;
    Ok(Bytes::from(String::from(Box::<str>::from(raw))))
}

/// A payload that may be absent or `null`.
pub(super) mod optional {
    use super::{Bytes, Deserialize, Deserializer, RawValue, Serialize, Serializer, value};

    pub(in super::super) fn serialize<S: Serializer>(data: &Option<Bytes>, to: S) -> Result<S::Ok, S::Error> {
        data.as_deref().and_then(value).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
        let raw = Option::<Box<RawValue>>::deserialize(from)?;
        Ok(raw.map(|raw| Bytes::from(String::from(Box::<str>::from(raw)))))
    }
}
