//! What the scripts take and answer, and the form of an event: `epoch \n` and then each publication behind its length
//! in four bytes, big-endian. An event without publications asks to check the position. What begins with the byte 1, as no
//! epoch does, is a word beside the publications, and so is everything on the channels of nodes. What begins with another
//! control character is of a later version ([`is_later`]).
//!
//! Two versions of a node run side by side. `tests/fixtures/bus` holds these forms, and says what may be added to them.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dzvin_actors::platform::ports::{Appended, BusEvent, Published, Slice};
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication},
    platform::{EntityId, StreamName},
};
use fred::types::Value;

use super::super::BusMetrics;

/// What a word begins with.
const WORD: u8 = 1;

/// An answer or event that is not in our form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected {0}")]
pub(super) struct Malformed(pub(super) &'static str);

pub(super) fn number(n: u64) -> Value {
    // Callers stay below 2^53.
    Value::Integer(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(super) fn millis(d: Duration) -> Value {
    // At least one: Redis takes an expiry of zero for a deletion.
    number(u64::try_from(d.as_millis()).unwrap_or(u64::MAX >> 1).max(1))
}

/// Encodes the head of a run, at least one publication, and says how many.
pub(super) fn chunk(run: &[Publication], most: usize, most_bytes: usize) -> (Vec<Bytes>, usize) {
    let mut bytes = 0;
    let mut chunk = Vec::new();
    for publication in run.iter().take(most) {
        bytes += publication.data.len();
        if !chunk.is_empty() && bytes > most_bytes {
            break;
        }
        chunk.push(publication.encode());
    }
    let count = chunk.len();
    (chunk, count)
}

/// The bus form of a message without the two numbers at its front, which only the script knows.
pub(super) fn headless(message: Message, id: EntityId) -> Bytes {
    let whole = message.publication(id, 0).encode();
    whole.slice("0\t0".len()..)
}

pub(super) fn appended(answer: Value) -> Result<Appended, Malformed> {
    let mut parts = array(answer)?.into_iter();
    let status = parts.next().and_then(|v| v.as_u64());
    let top = parts.next().and_then(|v| v.as_u64());
    let epoch = parts.next().and_then(|v| v.as_string());
    match (status, top, epoch) {
        (Some(1), Some(top), _) => Ok(Appended::Accepted { top }),
        (Some(2), Some(top), _) => Ok(Appended::Duplicate { top }),
        (Some(3), Some(offset), Some(epoch)) => {
            Ok(Appended::Gap { position: Some(Position { epoch: Epoch::new(&epoch), offset }) })
        }
        (Some(3), None, None) => Ok(Appended::Gap { position: None }),
        _ => Err(Malformed("answer of append")),
    }
}

/// What became of a publication: `{accepted, top, epoch}`, `{again | older, top, epoch}`, `{too many, milliseconds}` or `{told}`.
pub(super) fn published(answer: Value) -> Result<Published, Malformed> {
    let mut parts = array(answer)?.into_iter();
    let status = parts.next().and_then(|v| v.as_u64());
    let number = parts.next().and_then(|v| v.as_u64());
    let epoch = parts.next().and_then(|v| v.as_string());
    let position = number.zip(epoch).map(|(offset, epoch)| Position { epoch: Epoch::new(&epoch), offset });
    match (status, position, number) {
        (Some(1), Some(position), _) => Ok(Published::At(position)),
        // No publication has offset 0: what was told has none.
        (Some(4), Some(position), _) => Ok(Published::Again(Some(position).filter(|at| at.offset > 0))),
        (Some(5), Some(position), _) => Ok(Published::Older(position)),
        (Some(6), _, Some(wait)) => Ok(Published::TooMany { wait: Duration::from_millis(wait) }),
        (Some(7), ..) => Ok(Published::Told),
        _ => Err(Malformed("answer of publish")),
    }
}

/// Whether a message is of a kind that a later version has brought: none of ours, and no epoch, begins so.
pub(super) fn is_later(body: &[u8]) -> bool {
    body.first().is_some_and(|first| first.is_ascii_control() && !matches!(*first, WORD | b'\n'))
}

/// Whether a script has told a word.
pub(super) fn is_told(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if parts.first().and_then(Value::as_u64) == Some(7))
}

pub(super) fn position(answer: Value) -> Result<Option<Position>, Malformed> {
    held(answer).map(|held| held.map(|held| held.position))
}

/// What a server holds of a stream.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) position: Position,
    /// The primary that it was taken over from last, if from any.
    keeper: Option<String>,
}

impl Held {
    /// The beginning of the replication id of the primary whose stream it is.
    pub(super) fn keeper(&self) -> &str {
        self.keeper.as_deref().unwrap_or_else(|| self.position.epoch.as_str())
    }
}

/// `{epoch, top}`, and the keeper where it was asked for.
pub(super) fn held(answer: Value) -> Result<Option<Held>, Malformed> {
    let mut parts = array(answer)?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(Value::Null), _) | (_, Some(Value::Null)) => Ok(None),
        (Some(epoch), Some(top)) => {
            let epoch = epoch.as_string().ok_or(Malformed("epoch"))?;
            let offset = top.as_u64().ok_or(Malformed("top"))?;
            let keeper =
                parts.next().filter(|keeper| !matches!(keeper, Value::Null)).and_then(|keeper| keeper.as_string());
            Ok(Some(Held { position: Position { epoch: Epoch::new(&epoch), offset }, keeper }))
        }
        _ => Err(Malformed("answer of position")),
    }
}

/// Asks whoever listens to check the position.
pub(super) fn check() -> Bytes {
    Bytes::from_static(b"\n")
}

/// A publication that cannot be read cuts the past: what is before it counts as gone.
pub(super) fn slice(answer: Value, after: u64, metrics: &BusMetrics) -> Result<Option<Slice>, Malformed> {
    if matches!(answer, Value::Null) {
        return Ok(None);
    }
    let mut parts = array(answer)?.into_iter();
    let epoch = parts.next().and_then(|v| v.as_string()).ok_or(Malformed("epoch"))?;
    let offset = parts.next().and_then(|v| v.as_u64()).ok_or(Malformed("top"))?;
    let mut complete = parts.next().and_then(|v| v.as_u64()).ok_or(Malformed("completeness"))? == 1;
    let mut publications: Vec<Publication> = Vec::with_capacity(parts.len());
    for entry in parts {
        let next = publications.last().map_or(after, |p| p.offset).wrapping_add(1);
        match stored(&entry) {
            Some(publication) if publication.offset == next || !complete && publications.is_empty() => {
                publications.push(publication);
            }
            _ => {
                metrics.malformed.inc();
                complete = false;
                publications.clear();
            }
        }
    }
    Ok(Some(Slice { position: Position { epoch: Epoch::new(&epoch), offset }, publications, complete }))
}

/// `milliseconds \n publication`.
fn stored(entry: &Value) -> Option<Publication> {
    let bytes = match entry {
        Value::Bytes(bytes) => bytes.clone(),
        other => Bytes::from(other.as_string()?.into_bytes()),
    };
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Publication::decode(&bytes.slice(end + 1..)).ok()
}

/// The message that carries a word.
pub(super) fn word(word: &Bytes) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + word.len());
    message.put_u8(WORD);
    message.extend_from_slice(word);
    message.freeze()
}

/// What came on a channel of nodes.
pub(super) fn told(body: &Bytes) -> Result<BusEvent, Malformed> {
    match body.first() {
        Some(&WORD) => Ok(BusEvent::Told(body.slice(1..))),
        _ => Err(Malformed("word to a node")),
    }
}

pub(super) fn names(answer: Value) -> Result<Vec<Arc<str>>, Malformed> {
    let name = |name: Value| name.as_string().map(Arc::from).ok_or(Malformed("name of a node"));
    array(answer)?.into_iter().map(name).collect()
}

pub(super) fn event(stream: StreamName, body: &Bytes) -> Result<BusEvent, Malformed> {
    if body.first() == Some(&WORD) {
        return Ok(BusEvent::Word { stream, word: body.slice(1..) });
    }
    let end = body.iter().position(|b| *b == b'\n').ok_or(Malformed("event without epoch"))?;
    let epoch = std::str::from_utf8(&body[..end]).map_err(|_| Malformed("epoch of an event"))?;
    let mut rest = body.slice(end + 1..);
    let mut publications = Vec::new();
    while rest.has_remaining() {
        let length = rest.try_get_u32().map_err(|_| Malformed("end of an event"))? as usize;
        if length > rest.len() {
            return Err(Malformed("end of an event"));
        }
        let publication = rest.split_to(length);
        publications.push(Publication::decode(&publication).map_err(|_| Malformed("publication in an event"))?);
    }
    if publications.is_empty() {
        return Ok(BusEvent::Begun { stream });
    }
    Ok(BusEvent::Publications { stream, epoch: Epoch::new(epoch), publications })
}

fn array(value: Value) -> Result<Vec<Value>, Malformed> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(Malformed("answer")),
    }
}
