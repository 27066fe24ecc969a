//! Replies and pushes, encoded as JSON text. One object each, without a newline.

use std::fmt::Write as _;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::codes::{ErrorCode, Unsubscribe};
use crate::channels::{Epoch, Publication};

/// The answer to `connect`.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectResult<'a> {
    /// The session's id, unguessable.
    pub client: &'a str,
    /// Name and version of the server.
    pub version: &'a str,
    /// Whether the token ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// In how many seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: u32,
    /// Seconds between the server's pings.
    pub ping: u32,
    /// The server waits for an answer to each.
    pub pong: bool,
}

/// The answer to `subscribe`.
#[derive(Debug, Clone, Serialize)]
pub struct SubscribeResult<'a> {
    /// The client may recover from a position.
    pub recoverable: bool,
    /// Publications carry offsets that are checked.
    pub positioned: bool,
    /// The stream's epoch.
    pub epoch: &'a Epoch,
    /// The top; the client's own offset when recovered, for the publications lead on from it.
    #[serde(skip_serializing_if = "is_zero_offset")]
    pub offset: u64,
    /// What was missed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Pub<'a>>,
    /// Nothing was missed, or all of it is in `publications`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// The request asked to recover.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub was_recovering: bool,
}

/// The answer to `history`.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryResult<'a> {
    /// The page.
    pub publications: Vec<Pub<'a>>,
    /// The stream's epoch.
    pub epoch: &'a Epoch,
    /// The stream's top.
    pub offset: u64,
}

/// The answer to `refresh`.
#[derive(Debug, Clone, Serialize)]
pub struct RefreshResult<'a> {
    /// The session's id.
    pub client: &'a str,
    /// Name and version of the server.
    pub version: &'a str,
    /// Whether the new token ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// In how many seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero_offset(n: &u64) -> bool {
    *n == 0
}

/// A publication as this protocol writes it, under the offset of the channel on which it goes out.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Pub<'a> {
    #[serde(serialize_with = "raw")]
    data: &'a [u8],
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Tags<'a>>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Tags<'a> {
    traceparent: &'a str,
}

impl<'a> Pub<'a> {
    /// `offset` is the stream's on the kind's channel, the revision on the entity's.
    #[must_use]
    pub fn new(publication: &'a Publication, offset: u64) -> Self {
        let tags = publication.trace.as_deref().map(|traceparent| Tags { traceparent });
        Self { data: &publication.data, offset, tags }
    }
}

/// The data is JSON that we wrote ourselves; should it not be text, `null` goes out instead of a broken frame.
fn raw<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(data).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok()) {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_none(),
    }
}

fn json(value: &impl Serialize) -> String {
    // Our own types of strings and numbers: serialising them into memory cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// `{"id":1,"subscribe":{...}}`.
#[must_use]
pub fn encode_ok(id: u32, method: &str, result: &impl Serialize) -> String {
    format!("{{\"id\":{id},\"{method}\":{}}}", json(result))
}

/// `{"id":1,"error":{"code":103,"message":"permission denied"}}`.
#[must_use]
pub fn encode_error(id: u32, error: ErrorCode) -> String {
    let mut out = format!("{{\"id\":{id},\"error\":{{\"code\":{},\"message\":\"{}\"", error.code(), error.message());
    if error.temporary() {
        out.push_str(",\"temporary\":true");
    }
    out.push_str("}}");
    out
}

/// `{"push":{"channel":"c","pub":{...}}}`: built once for all subscribers of the channel.
#[must_use]
pub fn encode_push(channel: &str, publication: &Publication, offset: u64) -> Vec<u8> {
    // The hot path: the data is ours and is copied as it is, not parsed again.
    let mut out = Vec::with_capacity(publication.data.len() + channel.len() + 96);
    out.extend_from_slice(b"{\"push\":{\"channel\":");
    out.extend_from_slice(json(&channel).as_bytes());
    out.extend_from_slice(b",\"pub\":{\"data\":");
    out.extend_from_slice(&publication.data);
    let mut tail = format!(",\"offset\":{offset}");
    if let Some(trace) = publication.trace.as_deref() {
        let _ = write!(tail, ",\"tags\":{{\"traceparent\":{}}}", json(&trace));
    }
    tail.push_str("}}}");
    out.extend_from_slice(tail.as_bytes());
    out
}

/// `{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"insufficient state"}}}`.
#[must_use]
pub fn encode_unsubscribe_push(channel: &str, why: Unsubscribe) -> String {
    let (channel, code, reason) = (json(&channel), why.code(), why.reason());
    format!("{{\"push\":{{\"channel\":{channel},\"unsubscribe\":{{\"code\":{code},\"reason\":\"{reason}\"}}}}}}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::platform::EntityId;

    fn publication() -> Publication {
        let data = Bytes::from_static("{\"doc\":{\"title\":\"<b>Лот</b>\",\"v\":1.50}}".as_bytes());
        Publication {
            offset: 7,
            id: EntityId::new("a").expect("id"),
            revision: 2,
            at: 0,
            data,
            trace: Some("00-aa-bb-01".into()),
            extra: None,
        }
    }

    /// The wire form is a contract: the files under `tests/fixtures/centrifuge` stay as they are for ever.
    #[test]
    fn frames_equal_their_golden_files() {
        let epoch = Epoch::new("e1");
        let it = publication();
        let connect =
            ConnectResult { client: "c1", version: "dzvin 0.1.0", expires: true, ttl: 60, ping: 25, pong: true };
        let recovered = SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: &epoch,
            offset: 6,
            publications: vec![Pub::new(&it, 7)],
            recovered: true,
            was_recovering: true,
        };
        let history = HistoryResult { publications: vec![], epoch: &epoch, offset: 0 };
        let got = [
            encode_ok(1, "connect", &connect),
            encode_ok(2, "subscribe", &recovered),
            encode_ok(3, "history", &history),
            encode_error(4, ErrorCode::PermissionDenied),
            encode_error(5, ErrorCode::Internal),
            String::from_utf8(encode_push("entities.procedure", &it, 7)).expect("text"),
            encode_unsubscribe_push("entities.procedure", Unsubscribe::InsufficientState),
        ]
        .join("\n");
        assert_eq!(got, include_str!("../../../../tests/fixtures/centrifuge/replies.v2.jsonl").trim_end());
    }

    #[test]
    fn what_is_not_json_goes_out_as_null() {
        let broken = Publication { data: Bytes::from_static(b"{"), trace: None, ..publication() };
        assert_eq!(json(&Pub::new(&broken, 1)), r#"{"data":null,"offset":1}"#);
    }
}
