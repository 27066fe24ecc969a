//! The Protobuf form: messages with their length before them, zero values left out.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::{
    fields::{Field, Object, Sink},
    publication::Payload,
};

/// Writes the members of one message.
pub(super) struct Protobuf<'a>(&'a mut Vec<u8>);

/// Appends the message with its length before it.
pub(super) fn write(out: &mut Vec<u8>, object: &impl Object) {
    delimited(out, |out| object.fields(&mut Protobuf(out)));
}

/// Puts the length before what `body` writes. Short bodies are written in place, a longer one moves by a few bytes.
fn delimited(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let end = out.len();
    let len = end - start - 1;
    let more = encoded_len_varint(len as u64) - 1;
    out.resize(end + more, 0);
    out.copy_within(start + 1..end, start + 1 + more);
    encode_varint(len as u64, &mut &mut out[start..=start + more]);
}

impl Protobuf<'_> {
    fn bytes(&mut self, tag: u32, value: &[u8]) {
        if !value.is_empty() {
            encode_key(tag, WireType::LengthDelimited, self.0);
            encode_varint(value.len() as u64, self.0);
            self.0.extend_from_slice(value);
        }
    }

    fn inside(&mut self, tag: u32, body: impl FnOnce(&mut Protobuf<'_>)) {
        encode_key(tag, WireType::LengthDelimited, self.0);
        delimited(self.0, |out| body(&mut Protobuf(out)));
    }
}

impl Sink for Protobuf<'_> {
    fn text(&mut self, field: Field, value: &str) {
        self.bytes(field.tag, value.as_bytes());
    }

    fn data(&mut self, field: Field, value: &[u8]) {
        self.bytes(field.tag, value);
    }

    fn payload(&mut self, field: Field, value: Payload<'_>) {
        self.bytes(field.tag, value.bytes());
    }

    fn number(&mut self, field: Field, value: u64) {
        if value != 0 {
            encode_key(field.tag, WireType::Varint, self.0);
            encode_varint(value, self.0);
        }
    }

    fn flag(&mut self, field: Field, value: bool) {
        self.number(field, u64::from(value));
    }

    fn object(&mut self, field: Field, value: &impl Object) {
        self.inside(field.tag, |to| value.fields(to));
    }

    fn list(&mut self, field: Field, values: &[impl Object]) {
        for value in values {
            self.object(field, value);
        }
    }

    fn map<'a, O: Object + 'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a O)>) {
        for (name, value) in entries {
            self.inside(field.tag, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.inside(2, |to| value.fields(to));
            });
        }
    }

    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>) {
        for (name, value) in entries {
            self.inside(field.tag, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.bytes(2, value.as_bytes());
            });
        }
    }
}
