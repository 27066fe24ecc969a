//! Frames of the server, one JSON object each.
//!
//! The data of the protocol's own events is a string that holds JSON, which every client library reads; that of
//! `pusher:error`, `pusher:subscription_error`, pings and pongs is an object.

use std::num::NonZeroU16;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::channels::pusher::{Close, ErrorCode, Member, SocketId, UserId, json};

/// The server's ping; the client answers `pusher:pong`.
pub const PING: &str = r#"{"event":"pusher:ping","data":{}}"#;
/// The answer to the client's ping.
pub const PONG: &str = r#"{"event":"pusher:pong","data":{}}"#;

#[derive(Serialize)]
struct Frame<'a, D: Serialize> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<D>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

/// A frame of the protocol itself, its data as a string.
fn system(event: &str, channel: Option<&str>, data: &impl Serialize) -> String {
    json(&Frame { event, channel, data: Some(json(data)), user_id: None })
}

/// `pusher:connection_established`, the first frame. `activity_timeout` is in seconds of silence after which the client
/// pings; with zero pusher-js would give up.
#[must_use]
pub fn encode_connection_established(socket: &SocketId, activity_timeout: NonZeroU16) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        socket_id: &'a str,
        activity_timeout: NonZeroU16,
    }
    system("pusher:connection_established", None, &Data { socket_id: socket.as_str(), activity_timeout })
}

/// `pusher_internal:subscription_succeeded`, on every channel without members.
#[must_use]
pub fn encode_subscription_succeeded(channel: &str) -> String {
    json(&Frame {
        event: "pusher_internal:subscription_succeeded",
        channel: Some(channel),
        data: Some("{}"),
        user_id: None,
    })
}

/// `pusher_internal:subscription_succeeded` on a presence channel: who is there, the subscriber included. The ids are
/// distinct.
#[must_use]
pub fn encode_presence_succeeded(channel: &str, members: &[Member]) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        presence: Presence<'a>,
    }
    #[derive(Serialize)]
    struct Presence<'a> {
        ids: Vec<&'a UserId>,
        hash: Hash<'a>,
        count: usize,
    }
    struct Hash<'a>(&'a [Member]);
    impl Serialize for Hash<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            // A member without info is null, not absent: pusher-js looks members up in this very map.
            serializer.collect_map(self.0.iter().map(|member| (&member.id, &member.info)))
        }
    }
    let ids = members.iter().map(|member| &member.id).collect();
    let presence = Presence { ids, hash: Hash(members), count: members.len() };
    system("pusher_internal:subscription_succeeded", Some(channel), &Data { presence })
}

/// Why one subscription is refused, while the socket stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No token, a wrong one, or nobody has signed in where somebody must.
    Unauthorized,
    /// Who is known has no right to this channel.
    Forbidden,
    /// The name or the member's data is not valid.
    Invalid,
    /// Too many channels on this socket, or members on this channel.
    Limit,
    /// The hub cannot say now; asking again may help.
    Unavailable,
}

impl Refusal {
    /// The `type` in the error; the first is what pusher-js itself uses.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Unauthorized | Self::Forbidden => "AuthError",
            Self::Invalid => "InvalidRequest",
            Self::Limit => "LimitReached",
            Self::Unavailable => "Unavailable",
        }
    }

    /// The `status` in the error, as HTTP would have it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::Invalid => 400,
            Self::Limit => 429,
            Self::Unavailable => 503,
        }
    }
}

/// `pusher:subscription_error`: pusher-js hands it to those who listen on the channel. `message` is for people.
#[must_use]
pub fn encode_subscription_error(channel: &str, refusal: Refusal, message: &str) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        r#type: &'static str,
        error: &'a str,
        status: u16,
    }
    let data = Data { r#type: refusal.kind(), error: message, status: refusal.status() };
    json(&Frame { event: "pusher:subscription_error", channel: Some(channel), data: Some(data), user_id: None })
}

/// `pusher:error` on an open socket. `message` is for people.
#[must_use]
pub fn encode_error(code: Option<ErrorCode>, message: &str) -> String {
    error(code.map(ErrorCode::code), message)
}

/// `pusher:error` as the first and only frame, before the socket closes with the same code: clients of protocol 5 know no
/// other refusal, later ones take either.
#[must_use]
pub fn encode_refused_connection(close: Close) -> String {
    error(Some(close.code()), close.reason())
}

fn error(code: Option<u16>, message: &str) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        code: Option<u16>,
        message: &'a str,
    }
    json(&Frame { event: "pusher:error", channel: None, data: Some(Data { code, message }), user_id: None })
}

/// `pusher:signin_success`, with the text that was signed.
#[must_use]
pub fn encode_signin_success(user_data: &str) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        user_data: &'a str,
    }
    system("pusher:signin_success", None, &Data { user_data })
}

/// `pusher_internal:member_added`: the first connection of a user, to the others.
#[must_use]
pub fn encode_member_added(channel: &str, member: &Member) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        user_id: &'a UserId,
        user_info: Option<&'a RawValue>,
    }
    let data = Data { user_id: &member.id, user_info: member.info.as_deref() };
    system("pusher_internal:member_added", Some(channel), &data)
}

/// `pusher_internal:member_removed`: the last connection of a user is gone.
#[must_use]
pub fn encode_member_removed(channel: &str, id: &UserId) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        user_id: &'a UserId,
    }
    system("pusher_internal:member_removed", Some(channel), &Data { user_id: id })
}

/// `pusher_internal:subscription_count`, on channels without members.
#[must_use]
pub fn encode_subscription_count(channel: &str, subscription_count: u64) -> String {
    #[derive(Serialize)]
    struct Data {
        subscription_count: u64,
    }
    system("pusher_internal:subscription_count", Some(channel), &Data { subscription_count })
}

/// `pusher:cache_miss`: the channel has no last event.
#[must_use]
pub fn encode_cache_miss(channel: &str) -> String {
    json(&Frame::<()> { event: "pusher:cache_miss", channel: Some(channel), data: None, user_id: None })
}

/// `pusher_internal:watchlist_events`: who of the watchlist came and went; a side with nobody is left out.
#[must_use]
pub fn encode_watchlist_events(online: &[UserId], offline: &[UserId]) -> String {
    #[derive(Serialize)]
    struct Data<'a> {
        events: Vec<Change<'a>>,
    }
    #[derive(Serialize)]
    struct Change<'a> {
        name: &'static str,
        user_ids: &'a [UserId],
    }
    let events = [("online", online), ("offline", offline)]
        .into_iter()
        .filter(|(_, user_ids)| !user_ids.is_empty())
        .map(|(name, user_ids)| Change { name, user_ids })
        .collect();
    system("pusher_internal:watchlist_events", None, &Data { events })
}

/// An event of the API or of the hub, built once for all subscribers of the channel. `data` goes out as a string, whatever
/// it holds.
#[must_use]
pub fn encode_channel_event(event: &str, channel: &str, data: &str, user_id: Option<&str>) -> Vec<u8> {
    // Documents are mostly quotes: a sixth more is what their escapes take.
    let size = data.len() + data.len() / 6;
    bytes(&Frame { event, channel: Some(channel), data: Some(data), user_id }, size)
}

/// A client's event for the other subscribers, built once: the same value as came in, and on a presence channel who sent
/// it.
#[must_use]
pub fn encode_client_event(event: &str, channel: &str, data: Option<&RawValue>, user_id: Option<&str>) -> Vec<u8> {
    let size = data.map_or(0, |data| data.get().len());
    bytes(&Frame { event, channel: Some(channel), data, user_id }, size)
}

fn bytes(frame: &Frame<impl Serialize>, data: usize) -> Vec<u8> {
    let names = frame.event.len() + frame.channel.map_or(0, str::len) + frame.user_id.map_or(0, str::len);
    let mut out = Vec::with_capacity(data + names + 64);
    // Into memory, of strings and raw text: it cannot fail.
    let _ = serde_json::to_writer(&mut out, frame);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).expect("id")
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    fn members() -> Vec<Member> {
        vec![
            Member { id: user("10"), info: Some(raw(r#"{"name":"Mr. Channels","v":1.50}"#)) },
            Member { id: user("оля \"2\""), info: None },
        ]
    }

    /// The wire form is a contract: the files under `tests/fixtures/pusher` stay as they are for ever.
    #[test]
    fn frames_equal_their_golden_files() {
        let socket = SocketId::from_random(123, 456);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        let data = "{\"doc\":{\"title\":\"<b>Лот</b>\\n\",\"v\":1.50}}";
        let got = [
            encode_connection_established(&socket, NonZeroU16::new(120).expect("not zero")),
            encode_subscription_succeeded("private-x"),
            encode_presence_succeeded("presence-x", &members()),
            encode_subscription_error("private-x", Refusal::Unauthorized, "the token is refused"),
            encode_subscription_error("private-entities.procedure", Refusal::Forbidden, "no right to this channel"),
            encode_error(None, "the frame is not an event"),
            encode_error(Some(ErrorCode::ClientEventRejected), "too many client events"),
            encode_refused_connection(Close::UnknownApp),
            PING.to_owned(),
            PONG.to_owned(),
            encode_signin_success(r#"{"id":"1"}"#),
            encode_member_added("presence-x", &members()[0]),
            encode_member_added("presence-x", &members()[1]),
            encode_member_removed("presence-x", &user("10")),
            encode_subscription_count("private-x", 101),
            encode_cache_miss("cache-x"),
            encode_watchlist_events(&[user("a"), user("b")], &[user("c")]),
            encode_watchlist_events(&[], &[user("a")]),
            text(encode_channel_event("change", "private-entities.procedure", data, None)),
            text(encode_channel_event("hello", "presence-x", "plain text", Some("10"))),
            text(encode_client_event("client-typing", "private-x", Some(&raw(r#"{"n": 1.50}"#)), None)),
            text(encode_client_event("client-typing", "presence-x", None, Some("10"))),
        ]
        .join("\n");
        assert_eq!(got, include_str!("../../../../../tests/fixtures/pusher/frames.v7.jsonl").trim_end());
    }

    #[test]
    fn a_large_event_is_built_in_one_piece() {
        let data = format!("{{{}}}", vec!["\"name\":\"a value of some length\""; 200].join(","));
        let frame = encode_channel_event("change", "x", &data, None);
        assert!(frame.len() > data.len() && frame.capacity() < data.len() * 3 / 2);
    }

    proptest! {
        #[test]
        fn any_data_is_a_string_that_holds_it(data in any::<String>(), event in "\\PC{0,20}", user in proptest::option::of("\\PC{1,20}")) {
            let frame = encode_channel_event(&event, "x", &data, user.as_deref());
            let read: serde_json::Value = serde_json::from_slice(&frame).unwrap();
            prop_assert_eq!(read["data"].as_str(), Some(data.as_str()));
            prop_assert_eq!(read["event"].as_str(), Some(event.as_str()));
            prop_assert_eq!(read.get("user_id").and_then(|id| id.as_str()), user.as_deref());
        }

        #[test]
        fn members_are_read_back_from_the_inner_text(ids in proptest::collection::btree_set("[^\\p{Cc}]{1,9}", 0..9)) {
            let members: Vec<Member> = ids.iter().map(|id| Member { id: user(id), info: Some(raw(&json(id))) }).collect();
            let frame: serde_json::Value = serde_json::from_str(&encode_presence_succeeded("presence-x", &members)).unwrap();
            let inner: serde_json::Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
            let presence = &inner["presence"];
            prop_assert_eq!(presence["count"].as_u64(), Some(ids.len() as u64));
            prop_assert_eq!(presence["ids"].as_array().unwrap().len(), ids.len());
            for id in &ids {
                prop_assert_eq!(presence["hash"][id].as_str(), Some(id.as_str()));
            }
        }
    }
}
