//! One description of every message for both forms: each member once, by its number and its name.

use super::publication::Payload;

/// A member of a message: its number in Protobuf, its name in JSON.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub(super) tag: u32,
    pub(super) name: &'static str,
    /// JSON has it even when it is zero.
    pub(super) always: bool,
}

/// A member that is left out when it is zero.
pub(super) const fn field(tag: u32, name: &'static str) -> Field {
    Field { tag, name, always: false }
}

/// A member that JSON clients expect even when it is zero. (In Protobuf zero and absent are the same.)
pub(super) const fn always(tag: u32, name: &'static str) -> Field {
    Field { tag, name, always: true }
}

/// A message that can be written in either form.
pub trait Object {
    /// Hands over the members in their order.
    fn fields(&self, to: &mut impl Sink);

    /// About how many bytes it takes, so that a large one is not moved while it grows.
    fn size(&self) -> usize {
        64
    }
}

/// Where members go: the writer of one form.
pub trait Sink {
    /// Text.
    fn text(&mut self, field: Field, value: &str);
    /// A payload of somebody else: one JSON value as it is written, or bytes. Empty is absent.
    fn data(&mut self, field: Field, value: &[u8]);
    /// The payload of a publication, which is always written.
    fn payload(&mut self, field: Field, value: Payload<'_>);
    /// A number that is never negative.
    fn number(&mut self, field: Field, value: u64);
    /// Yes, or left out.
    fn flag(&mut self, field: Field, value: bool);
    /// A message inside, which is always written.
    fn object(&mut self, field: Field, value: &impl Object);
    /// Messages in their order.
    fn list(&mut self, field: Field, values: &[impl Object]);
    /// Messages by name; the names differ.
    fn map<'a, O: Object + 'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a O)>);
    /// Texts by name; the names differ.
    fn texts<'a>(&mut self, field: Field, entries: impl Iterator<Item = (&'a str, &'a str)>);
}
