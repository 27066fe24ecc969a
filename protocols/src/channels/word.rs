//! Words beside the publications of a stream, as nodes say them to each other: nothing keeps them, and they have no offset.
//!
//! The form is JSON, one member that names the word. A node that does not know a word passes over it, and over members that
//! it does not know: two versions run side by side.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Extra, Message, centrifuge::ClientInfo};

/// What is said on a channel without being kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// A client has come.
    Join {
        /// Who.
        info: ClientInfo,
        /// The first client of its user.
        #[serde(default)]
        first: bool,
    },
    /// A client has left.
    Leave {
        /// Who.
        info: ClientInfo,
        /// The last client of its user.
        #[serde(default)]
        last: bool,
    },
    /// A client of the Pusher protocol says something to the others.
    Event {
        /// `client-` and more.
        event: Arc<str>,
        /// What it says, as it was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data: Option<Arc<RawValue>>,
        /// Who says it, on a presence channel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<Arc<str>>,
        /// The socket that said it, which does not hear it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        except: Option<Arc<str>>,
    },
    /// Somebody publishes what nothing is to keep.
    Publication {
        /// What is published, as it was given.
        data: Arc<RawValue>,
        /// When, in microseconds since 1970.
        at: i64,
        /// W3C `traceparent`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Arc<str>>,
        /// What goes with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        extra: Option<Arc<Extra>>,
    },
    /// So many subscribers the channel has now.
    Count {
        /// On all nodes.
        subscribers: u64,
    },
    /// The channel was crowded and is no longer: who hears of its members has missed some, and is to begin anew, one part of them after
    /// the other.
    Anew {
        /// Whose turn it is...
        turn: u32,
        /// ...of so many.
        turns: u32,
        /// For how long it has not been crowded, in milliseconds: who came since has missed nobody.
        ago: u64,
    },
}

/// Bytes that are no word, or one of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a word that this version knows")]
pub struct WordError;

impl Word {
    /// A message that nothing is to keep.
    ///
    /// # Errors
    /// Data that is no JSON.
    pub fn of_message(message: &Message) -> Result<Self, WordError> {
        let text = std::str::from_utf8(&message.data).map_err(|_| WordError)?;
        let data = RawValue::from_string(text.to_owned()).map_err(|_| WordError)?.into();
        Ok(Self::Publication { data, at: message.at, trace: message.trace.clone(), extra: message.extra.clone() })
    }

    /// As nodes say it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Our own types of strings, numbers and raw text: this cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads what another node said.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WordError> {
        serde_json::from_slice(bytes).map_err(|_| WordError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two versions of a node run side by side: the form stays as it is.
    #[test]
    fn the_form_is_that_of_every_version() {
        let info = || ClientInfo { user: "u".into(), client: "c".into(), conn_info: None, chan_info: None };
        let tags = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned())]).try_into().expect("tags");
        let extra = Some(Extra { tags, ..Extra::default() }.into());
        let message = Message { data: "{\"a\": 1.0}".into(), at: 5, trace: Some("t".into()), extra };
        let data = Some(RawValue::from_string("{\"a\": 1.0}".to_owned()).expect("json").into());
        let event = Word::Event { event: "client-x".into(), data, user: None, except: Some("1.2".into()) };
        for (word, form) in [
            (Word::Join { info: info(), first: true }, r#"{"join":{"info":{"user":"u","client":"c"},"first":true}}"#),
            (Word::Leave { info: info(), last: false }, r#"{"leave":{"info":{"user":"u","client":"c"},"last":false}}"#),
            (event, r#"{"event":{"event":"client-x","data":{"a": 1.0},"except":"1.2"}}"#),
            (
                Word::of_message(&message).expect("json"),
                r#"{"publication":{"data":{"a": 1.0},"at":5,"trace":"t","extra":{"tags":{"k":"v"}}}}"#,
            ),
            (Word::Count { subscribers: 7 }, r#"{"count":{"subscribers":7}}"#),
            (Word::Anew { turn: 1, turns: 20, ago: 500 }, r#"{"anew":{"turn":1,"turns":20,"ago":500}}"#),
        ] {
            assert_eq!(word.encode(), form);
            let read = Word::decode(form.as_bytes()).expect("known");
            assert_eq!(read.encode(), form);
        }
        assert!(Word::decode(br#"{"join":{"info":{"user":"u","client":"c"},"later":[]}}"#).is_ok());
        for unknown in [&br#"{"later":{}}"#[..], b"", b"[]", b"{}", br#"{"join":{}}"#] {
            assert!(Word::decode(unknown).is_err());
        }
    }
}
