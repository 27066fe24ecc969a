//! What a live trace tells of one user's sessions, or of one channel: what was done, with which outcome, and never what was said.
//!
//! Invariants: no payload, no token, no signature; every text is bounded by the limits of names. Nodes hand lines of later versions
//! on as they are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::MAX_CHANNEL;
use crate::platform::time::rfc3339_millis;

/// What is traced.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceTarget {
    /// Every session of this user.
    User(Arc<str>),
    /// This channel, by the name that it has inside the hub.
    Channel(Arc<str>),
}

impl TraceTarget {
    /// Whether it is about this user or this channel.
    #[must_use]
    pub fn is(&self, user: Option<&str>, channel: Option<&str>) -> bool {
        match self {
            Self::User(meant) => user == Some(&**meant),
            Self::Channel(meant) => channel == Some(&**meant),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening<'a> {
    /// A client has said who it is, and may stay.
    Connect {
        /// The wire that it speaks.
        wire: &'a str,
    },
    /// A command of a client has been answered.
    Command {
        /// The protocol's name of it.
        command: &'a str,
        /// The protocol's number of the error; 0 for success.
        error: u16,
        /// How long it took.
        took_ms: u64,
    },
    /// A subscription has gone live.
    Subscribe {
        /// The epoch, as the session was told it.
        epoch: &'a str,
        /// Everything after it comes live.
        offset: u64,
    },
    /// A subscription is over.
    Unsubscribe {
        /// The protocol's number of the reason, or of the close that took it along; 0: the client asked for it, or went by itself.
        code: u16,
    },
    /// A publication was handed to the socket of this session, or to those of so many on one shard of the node.
    Publication {
        /// The epoch, as the session was told it.
        epoch: &'a str,
        /// Its offset on the channel.
        offset: u64,
        /// Bytes of its frame as the session was given it; of a channel those of its data.
        bytes: u64,
        /// Of a channel: so many sessions got it.
        #[serde(skip_serializing_if = "Option::is_none")]
        sessions: Option<u64>,
    },
    /// Something without an offset was handed to so many sessions on one shard of the node.
    Word {
        /// `join`, `leave`, `event` or `count`.
        word: &'a str,
        /// So many got it.
        sessions: u64,
    },
    /// A client does not read fast enough, and is closed.
    Slow {
        /// Bytes that waited for it.
        queue_bytes: u64,
    },
    /// A connection is over.
    Disconnect {
        /// The close code; 0: the client went by itself, or its socket broke.
        code: u16,
    },
}

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceEvent<'a> {
    /// When, by the node's clock.
    #[serde(serialize_with = "moment")]
    pub at: OffsetDateTime,
    /// The client, as its protocol spells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    /// Its user, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening<'a>,
}

fn moment<S: serde::Serializer>(at: &OffsetDateTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339_millis(*at))
}

impl TraceEvent<'_> {
    /// As nodes say it to each other and operators read it. What a client called a channel and cannot be one is left out.
    #[must_use]
    pub fn line(mut self) -> TraceLine {
        self.channel = self.channel.filter(|name| name.len() <= MAX_CHANNEL);
        // Texts and numbers: this cannot fail.
        TraceLine(serde_json::value::to_raw_value(&self).unwrap_or_else(|_| RawValue::NULL.to_owned()).into())
    }
}

/// A line in the form of JSON, whichever version wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceLine(Arc<RawValue>);

impl TraceLine {
    /// Its text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for TraceLine {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for TraceLine {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_every_version() {
        let line = |channel, what| {
            let at = OffsetDateTime::from_unix_timestamp(0).expect("in range");
            TraceEvent { at, client: Some("c"), user: None, channel, what }.line().get().to_owned()
        };
        for (what, form) in [
            (Happening::Connect { wire: "w" }, r#""event":"connect","wire":"w""#),
            (
                Happening::Command { command: "publish", error: 103, took_ms: 4 },
                r#""event":"command","command":"publish","error":103,"took_ms":4"#,
            ),
            (Happening::Subscribe { epoch: "e", offset: 7 }, r#""event":"subscribe","epoch":"e","offset":7"#),
            (Happening::Unsubscribe { code: 2500 }, r#""event":"unsubscribe","code":2500"#),
            (
                Happening::Publication { epoch: "e", offset: 8, bytes: 9, sessions: None },
                r#""event":"publication","epoch":"e","offset":8,"bytes":9"#,
            ),
            (Happening::Word { word: "join", sessions: 2 }, r#""event":"word","word":"join","sessions":2"#),
            (Happening::Slow { queue_bytes: 5 }, r#""event":"slow","queue_bytes":5"#),
            (Happening::Disconnect { code: 3008 }, r#""event":"disconnect","code":3008"#),
        ] {
            let whole = format!(r#"{{"at":"1970-01-01T00:00:00.000Z","client":"c","channel":"x",{form}}}"#);
            assert_eq!(line(Some("x"), what), whole);
        }
        let long = "x".repeat(MAX_CHANNEL + 1);
        assert!(
            !line(Some(&long), Happening::Disconnect { code: 1 }).contains("channel"),
            "what is no name is left out"
        );
    }

    #[test]
    fn a_target_is_one_user_or_one_channel() {
        let (user, channel) = (TraceTarget::User("u".into()), TraceTarget::Channel("u".into()));
        assert!(user.is(Some("u"), None) && !user.is(Some("v"), Some("u")) && !user.is(None, Some("u")));
        assert!(channel.is(Some("v"), Some("u")) && !channel.is(Some("u"), None));
    }
}
