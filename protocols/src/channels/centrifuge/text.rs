//! The JSON form alone, one message a text: for callers that know no other.

use super::{
    codes::{ErrorCode, Unsubscribe},
    command::Commands,
    form::Form,
    publication::Pub,
    pushes::{About, UnsubscribePush},
    results::Reply,
};
use crate::channels::Publication;

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    // Whatever is checked is UTF-8, and what these write is checked.
    String::from_utf8(out).unwrap_or_default()
}

/// The commands of one text frame, blank lines skipped.
#[must_use]
pub const fn commands(frame: &str) -> Commands<'_> {
    Form::Json.decode(frame.as_bytes())
}

/// `{"id":1,"subscribe":{...}}`. The result itself says which command it answers.
#[must_use]
pub fn encode_ok(id: u32, _method: &str, result: &impl Reply) -> String {
    text(|out| Form::Json.reply(out, id, result))
}

/// `{"id":1,"error":{"code":103,"message":"permission denied"}}`.
#[must_use]
pub fn encode_error(id: u32, error: ErrorCode) -> String {
    text(|out| Form::Json.error(out, id, error))
}

/// `{"push":{"channel":"c","pub":{...}}}`: built once for all subscribers of the channel.
#[must_use]
pub fn encode_push(channel: &str, publication: &Publication, offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    Form::Json.push(&mut out, About::Channel(channel), &Pub::new(publication, offset));
    out
}

/// `{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"insufficient state"}}}`.
#[must_use]
pub fn encode_unsubscribe_push(channel: &str, why: Unsubscribe) -> String {
    text(|out| Form::Json.push(out, About::Channel(channel), &UnsubscribePush::from(why)))
}
