//! Events of a client: one JSON object in a text frame, its `data` an object or the text of one.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::encode_error;
use crate::channels::pusher::{ErrorCode, object, text_of};

/// Longest name of an event, in bytes: the hosted service's limit.
pub const MAX_EVENT: usize = 200;
/// Most bytes of a client event's data unless configured otherwise: the hosted service's limit.
pub const DEFAULT_CLIENT_DATA: usize = 10 * 1024;
/// What the names of client events begin with.
const CLIENT: &str = "client-";

/// `pusher:subscribe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Subscribe {
    /// The channel, not yet checked.
    pub channel: String,
    /// The token; absent and empty are the same, for pusher-js sends an empty one on public channels.
    #[serde(default)]
    auth: Option<String>,
    /// The member, as the text that was signed.
    #[serde(default)]
    pub channel_data: Option<String>,
}

impl Subscribe {
    /// The token; empty when there is none.
    #[must_use]
    pub fn auth(&self) -> &str {
        self.auth.as_deref().unwrap_or_default()
    }
}

/// One event of a client.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// `pusher:subscribe`.
    Subscribe(Subscribe),
    /// `pusher:unsubscribe`: no answer, and no harm when there is no such subscription.
    Unsubscribe {
        /// The channel, not yet checked.
        channel: String,
    },
    /// `pusher:ping`: answered by a pong.
    Ping,
    /// `pusher:pong`: the answer to the server's ping.
    Pong,
    /// `pusher:signin`.
    SignIn {
        /// The token.
        auth: String,
        /// The user, as the text that was signed.
        user_data: String,
    },
    /// `client-...`: for the other subscribers of the channel.
    Client {
        /// The name, with its prefix.
        event: Cow<'a, str>,
        /// The channel, not yet checked.
        channel: Cow<'a, str>,
        /// The value as it was written, whatever it is.
        data: Option<&'a RawValue>,
    },
    /// An event of the protocol that we do not know: of a later client, ignored.
    Unknown,
}

/// A frame that is not an event of a client. The socket stays open; the client is told by [`EventError::frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// No JSON object with an `event`.
    #[error("the frame is not an event")]
    Malformed,
    /// The data of an event of the protocol is not what it must be.
    #[error("the data of {0} is not valid")]
    Data(&'static str),
    /// An application's event without the prefix that clients must use.
    #[error("client events are named client-...")]
    NotClient,
    /// A client event without a channel.
    #[error("a client event needs a channel")]
    NoChannel,
    /// The name is above [`MAX_EVENT`] bytes.
    #[error("the name of an event is above {MAX_EVENT} bytes")]
    LongName,
    /// The data is above the limit, in bytes.
    #[error("the data of a client event is above {0} bytes")]
    LargeData(usize),
}

impl EventError {
    /// The code in the `pusher:error`; `None` is written as null.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Malformed | Self::Data(_) => None,
            Self::NotClient | Self::NoChannel | Self::LongName | Self::LargeData(_) => {
                Some(ErrorCode::ClientEventRejected)
            }
        }
    }

    /// The answer.
    #[must_use]
    pub fn frame(&self) -> String {
        encode_error(self.code(), &self.to_string())
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// serde would take null for absent; a client's event is passed on as it is.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct Unsubscribe {
    channel: String,
}

#[derive(Deserialize)]
struct SignIn {
    auth: String,
    user_data: String,
}

/// Reads one text frame, whose size the WebSocket has limited. `client_data` is the limit of a client event's data in bytes.
///
/// # Errors
/// [`EventError`], which is also the answer.
pub fn decode(frame: &str, client_data: usize) -> Result<Event<'_>, EventError> {
    let Wire { event, channel, data } = object(frame).ok_or(EventError::Malformed)?;
    match &*event {
        "pusher:subscribe" => inner(data).map(Event::Subscribe).ok_or(EventError::Data("pusher:subscribe")),
        "pusher:unsubscribe" => {
            let Unsubscribe { channel } = inner(data).ok_or(EventError::Data("pusher:unsubscribe"))?;
            Ok(Event::Unsubscribe { channel })
        }
        "pusher:signin" => {
            let SignIn { auth, user_data } = inner(data).ok_or(EventError::Data("pusher:signin"))?;
            Ok(Event::SignIn { auth, user_data })
        }
        "pusher:ping" => Ok(Event::Ping),
        "pusher:pong" => Ok(Event::Pong),
        name if name.len() > MAX_EVENT => Err(EventError::LongName),
        name if name.starts_with(CLIENT) => {
            if data.is_some_and(|data| data.get().len() > client_data) {
                return Err(EventError::LargeData(client_data));
            }
            Ok(Event::Client { event, channel: channel.ok_or(EventError::NoChannel)?, data })
        }
        name if name.starts_with("pusher:") => Ok(Event::Unknown),
        _ => Err(EventError::NotClient),
    }
}

/// The data of an event of the protocol: an object, or the text of one.
fn inner<T: for<'de> Deserialize<'de>>(data: Option<&RawValue>) -> Option<T> {
    object(&text_of(data?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channels::pusher::encode_client_event;

    fn one(frame: &str) -> Result<Event<'_>, EventError> {
        decode(frame, 16)
    }

    fn error(frame: &str) -> EventError {
        one(frame).expect_err(frame)
    }

    #[test]
    fn data_is_an_object_or_its_text() {
        let expected = |auth: Option<&str>, data: Option<&str>| Subscribe {
            channel: "presence-x".into(),
            auth: auth.map(Into::into),
            channel_data: data.map(Into::into),
        };
        for (data, subscribe) in [
            (r#"{"channel":"presence-x","auth":"","new":[]}"#, expected(Some(""), None)),
            (r#"{"auth":null,"channel":"presence-x"}"#, expected(None, None)),
            (
                r#"{"channel":"presence-x","auth":"k:a","channel_data":"{\"user_id\": 10}"}"#,
                expected(Some("k:a"), Some(r#"{"user_id": 10}"#)),
            ),
            (r#""{\"channel\":\"presence-x\",\"auth\":\"k:a\"}""#, expected(Some("k:a"), None)),
        ] {
            let frame = format!("{{\"data\":{data},\"event\":\"pusher:subscribe\"}}");
            let Ok(Event::Subscribe(got)) = one(&frame) else { panic!("{frame}") };
            assert_eq!(got, subscribe);
        }
        assert!(matches!(
            one(r#"{"event":"pusher:unsubscribe","data":"{\"channel\":\"x\"}"}"#),
            Ok(Event::Unsubscribe { channel }) if channel == "x"
        ));
        assert!(matches!(
            one(r#"{"event":"pusher:signin","data":{"auth":"k:a","user_data":"{\"id\":\"1\"}"}}"#),
            Ok(Event::SignIn { auth, user_data }) if auth == "k:a" && user_data == r#"{"id":"1"}"#
        ));
    }

    /// What pusher-js 8.6 sends, one frame a line.
    #[test]
    fn the_frames_of_pusher_js_are_read() {
        let frames = include_str!("../../../../../tests/fixtures/pusher/client.v7.jsonl");
        let kinds = frames.lines().map(|frame| match decode(frame, DEFAULT_CLIENT_DATA).expect(frame) {
            Event::Ping => "ping",
            Event::Pong => "pong",
            Event::Subscribe(_) => "subscribe",
            Event::Unsubscribe { .. } => "unsubscribe",
            Event::SignIn { .. } => "signin",
            Event::Client { .. } => "client",
            Event::Unknown => "unknown",
        });
        let expected = "ping pong subscribe subscribe subscribe unsubscribe signin subscribe client client";
        assert_eq!(kinds.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn pings_need_no_data_and_later_events_are_ignored() {
        for data in ["", r#","data":{}"#, r#","data":"{}""#, r#","data":null"#, r#","data":[1,"#] {
            let ping = format!("{{\"event\":\"pusher:ping\"{data}}}");
            assert_eq!(matches!(one(&ping), Ok(Event::Ping)), !data.ends_with(','), "{ping}");
        }
        assert!(matches!(one(r#" {"event":"pusher:pong","data":{}}"#), Ok(Event::Pong)));
        assert!(matches!(one(r#"{"event":"pusher:later","data":5}"#), Ok(Event::Unknown)));
    }

    #[test]
    fn the_data_of_a_client_event_stays_as_written() {
        for data in [r#"{"n": 1.50}"#, r#""{\"n\":1}""#, "12345678901234567", "null"] {
            let frame = format!("{{\"event\":\"client-x\",\"channel\":\"private-x\",\"data\":{data}}}");
            if data.len() > 16 {
                // One byte above the limit of these tests.
                assert_eq!(error(&frame), EventError::LargeData(16));
                continue;
            }
            let Ok(Event::Client { event, channel, data: got }) = one(&frame) else { panic!("{frame}") };
            assert_eq!((&*event, &*channel), ("client-x", "private-x"));
            assert_eq!(got.map(RawValue::get), Some(data));
        }
    }

    #[test]
    fn what_is_wrong_says_its_answer() {
        for frame in
            ["", "x", "[]", "null", "{}", r#"["pusher:ping"]"#, r#"{"event":5}"#, r#"{"event":"a","event":"a"}"#]
        {
            assert_eq!(error(frame), EventError::Malformed, "{frame}");
        }
        for data in [
            "null",
            "5",
            "[]",
            "{}",
            r#""x""#,
            r#"["x"]"#,
            r#"{"channel":5}"#,
            r#"{"channel":"x","auth":5}"#,
            r#""\ud800""#,
        ] {
            let frame = format!("{{\"event\":\"pusher:subscribe\",\"data\":{data}}}");
            assert_eq!(error(&frame), EventError::Data("pusher:subscribe"), "{frame}");
        }
        assert_eq!(error(r#"{"event":"pusher:signin","data":{"auth":"a"}}"#), EventError::Data("pusher:signin"));
        let long = format!("{{\"event\":\"client-{}\",\"channel\":\"x\"}}", "x".repeat(MAX_EVENT));
        for (frame, expected) in [
            (r#"{"event":"hello","channel":"x"}"#, EventError::NotClient),
            (r#"{"event":"pusher_internal:member_added","channel":"x"}"#, EventError::NotClient),
            (r#"{"event":"client-x"}"#, EventError::NoChannel),
            (&long, EventError::LongName),
        ] {
            assert_eq!(error(frame), expected);
            assert_eq!(expected.code(), Some(ErrorCode::ClientEventRejected));
        }
        assert_eq!(
            EventError::Malformed.frame(),
            r#"{"event":"pusher:error","data":{"code":null,"message":"the frame is not an event"}}"#
        );
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(matches!(one(&format!("{{\"event\":\"pusher:ping\",\"x\":{deep}}}")), Ok(Event::Ping)));
        let frame = format!("{{\"event\":\"pusher:subscribe\",\"data\":{{\"x\":{deep}}}}}");
        assert_eq!(error(&frame), EventError::Data("pusher:subscribe"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_value(text in "\\PC{0,300}") {
            let _ = one(&text);
        }

        #[test]
        fn events_alike_are_values(event in "(pusher:|client-)[a-z]{0,9}|pusher:(subscribe|signin)", rest in "[,:{}\\[\\]\"\\\\a-e0-9 ]{0,60}") {
            let _ = one(&format!("{{\"event\":\"{event}\",\"data\":{rest}}}"));
        }

        #[test]
        fn a_relayed_event_reads_back(name in "client-\\PC{0,40}", channel in "\\PC{0,40}", text in "\\PC{0,40}") {
            let data = serde_json::value::to_raw_value(&text).unwrap();
            let frame = String::from_utf8(encode_client_event(&name, &channel, Some(&data), Some("u"))).unwrap();
            let Ok(Event::Client { event, channel: on, data: got }) = decode(&frame, 1000) else { panic!("{frame}") };
            prop_assert_eq!((&*event, &*on), (name.as_str(), channel.as_str()));
            prop_assert_eq!(got.map(RawValue::get), Some(data.get()));
        }
    }
}
