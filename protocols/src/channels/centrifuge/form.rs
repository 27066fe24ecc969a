//! The two forms in which the protocol is spoken. Everything that goes in or out passes here.

use super::{
    command::Commands,
    fields::{Field, Object, Sink, field},
    json, protobuf,
    pushes::{About, Event, Push},
    results::{Reply, ReplyError},
};

/// How commands and replies are written, agreed on when the connection begins.
///
/// All that is encoded is appended to `out`: several messages to one buffer are one frame, of text for JSON and binary for
/// Protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Objects of JSON, separated by newlines.
    Json,
    /// Protobuf messages, each with its length before it.
    Protobuf,
}

/// A whole message to the client.
struct Envelope<'a, O> {
    id: u32,
    field: Field,
    content: &'a O,
}

impl<O: Object> Object for Envelope<'_, O> {
    fn fields(&self, to: &mut impl Sink) {
        to.number(field(1, "id"), u64::from(self.id));
        to.object(self.field, self.content);
    }
}

/// The message that says nothing.
struct Empty;

impl Object for Empty {
    fn fields(&self, _: &mut impl Sink) {}
}

impl Form {
    /// The commands of one frame.
    #[must_use]
    pub const fn decode(self, frame: &[u8]) -> Commands<'_> {
        Commands::new(self, frame)
    }

    /// The result of the command `id`.
    pub fn reply<R: Reply>(self, out: &mut Vec<u8>, id: u32, result: &R) {
        out.reserve(result.size() + 64);
        self.message(out, &Envelope { id, field: R::FIELD, content: result }, true);
    }

    /// A result alone, as the server API answers with it.
    pub fn result<R: Reply>(self, out: &mut Vec<u8>, result: &R) {
        match self {
            Self::Json => json::write(out, result, true),
            Self::Protobuf => protobuf::write(out, result),
        }
    }

    /// The refusal of the command `id`.
    pub fn error<'a>(self, out: &mut Vec<u8>, id: u32, error: impl Into<ReplyError<'a>>) {
        self.message(out, &Envelope { id, field: field(2, "error"), content: &error.into() }, true);
    }

    /// A push. Unlike a reply it is built once for many, and its payloads are not parsed again: in JSON they must be JSON
    /// (see [`is_json`](super::is_json)).
    pub fn push<E: Event>(self, out: &mut Vec<u8>, about: About<'_>, event: &E) {
        let name = if let About::Channel(name) = about { name.len() } else { 0 };
        out.reserve(event.size() + name + 64);
        self.message(out, &Envelope { id: 0, field: field(4, "push"), content: &Push { about, event } }, false);
    }

    /// A push as clients of one direction get it: alone, without the reply around it.
    pub fn bare<E: Event>(self, out: &mut Vec<u8>, about: About<'_>, event: &E) {
        out.reserve(event.size() + 64);
        self.message(out, &Push { about, event }, false);
    }

    /// The server's ping, to be answered by a pong.
    pub fn ping(self, out: &mut Vec<u8>) {
        self.message(out, &Empty, false);
    }

    /// Appends a message that was encoded before into a buffer of its own.
    pub fn join(self, out: &mut Vec<u8>, message: &[u8]) {
        self.separate(out);
        out.extend_from_slice(message);
    }

    fn separate(self, out: &mut Vec<u8>) {
        if self == Self::Json && !out.is_empty() {
            out.push(b'\n');
        }
    }

    fn message(self, out: &mut Vec<u8>, message: &impl Object, checked: bool) {
        self.separate(out);
        match self {
            Self::Json => json::write(out, message, checked),
            Self::Protobuf => protobuf::write(out, message),
        }
    }
}
