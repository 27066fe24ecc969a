//! What clients say and hear, on each wire, reduced to what the soak needs. Pure.

mod json;
mod protobuf;
mod pusher;

use super::ledger::{Joined, Position, Publication};
use crate::realtime::wire;
use serde::Deserialize;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A binary frame.
pub(crate) const BINARY: u8 = 2;
/// Commands of a subscription are numbered from here, one for each channel.
pub(crate) const FIRST: u32 = 2;
/// The key of the soak's application.
pub(crate) const APP: &str = "soak-app";

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Centrifuge's protocol in JSON.
    Json,
    /// The same in Protobuf.
    Protobuf,
    /// Pusher's.
    Pusher,
}

/// What a server said.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// It wants the same back, or what stands here.
    Ping(Vec<u8>),
    /// The client is let in; of Pusher with the id of its socket.
    Welcome(String),
    /// The subscription of this command, or of this channel, is answered.
    Joined(Of, Joined),
    /// Refused: the connection when there is no command of that number, else the subscription.
    Refused {
        /// Of what.
        of: Of,
        /// Why.
        code: u32,
    },
    /// Something was published.
    Publication(String, Publication),
    /// A subscription has ended.
    Unsubscribed(String, u32),
    /// Nothing that matters here.
    Other,
}

/// What an answer is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    /// A command of this number.
    Command(u32),
    /// A channel of this name.
    Channel(String),
}

impl Wire {
    /// The address of its endpoint.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Json => "/connection/websocket".to_owned(),
            Self::Protobuf => "/connection/websocket?format=protobuf".to_owned(),
            Self::Pusher => format!("/app/{APP}?protocol=7&client=soak&version=1.0"),
        }
    }

    /// The kind of its frames.
    pub(crate) fn opcode(self) -> u8 {
        if self == Self::Protobuf { BINARY } else { wire::TEXT }
    }

    /// What is said first, if anything.
    pub(crate) fn hello(self, token: &str) -> Option<Vec<u8>> {
        match self {
            Self::Json => Some(json::hello(token)),
            Self::Protobuf => Some(protobuf::hello(token)),
            Self::Pusher => None,
        }
    }

    /// Asks for a channel, from a position or with a signature.
    pub(crate) fn subscribe(
        self,
        id: u32,
        channel: &str,
        since: Option<&Position>,
        signed: Option<&Signed>,
    ) -> Vec<u8> {
        match self {
            Self::Json => json::subscribe(id, channel, since),
            Self::Protobuf => protobuf::subscribe(id, channel, since),
            Self::Pusher => pusher::subscribe(channel, signed),
        }
    }

    /// Reads one frame; what cannot be read is an error.
    pub(crate) fn hear(self, frame: &[u8]) -> Result<Vec<Heard>, String> {
        match self {
            Self::Json => wire::lines(frame).map(json::hear).collect(),
            Self::Protobuf => protobuf::hear(frame),
            Self::Pusher => pusher::hear(frame).map(|heard| vec![heard]),
        }
    }

    /// Whether a client of this wire comes back after a close with this code; zero is a cut without one.
    pub(crate) fn comes_back(self, code: u16) -> bool {
        match self {
            Self::Json | Self::Protobuf => !matches!(code, 1009 | 3500..=3999 | 4500..=4999),
            Self::Pusher => !matches!(code, 4001..=4099 | 4300..),
        }
    }
}

/// A signature for a channel.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Signed {
    /// Over what is signed.
    auth: String,
    /// What is signed beside the name.
    channel_data: Option<String>,
}

/// The data of a publication: the soak's own, or a change.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    n: u64,
    id: String,
    revision: u64,
    offset: u64,
}

impl Data {
    fn publication(&self, offset: u64) -> Publication {
        if self.id.is_empty() {
            return Publication { offset, number: self.n, mark: self.n };
        }
        let mut hasher = DefaultHasher::new();
        (&self.id, self.revision).hash(&mut hasher);
        // Zero is for what nobody has seen.
        Publication { offset, number: self.offset, mark: hasher.finish() | 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_send_away() {
        let away = |wire: Wire, codes: &[u16]| codes.iter().filter(|code| !wire.comes_back(**code)).count();
        assert_eq!(away(Wire::Json, &[0, 1006, 3001, 3008, 3012, 4000, 4499]), 0);
        assert_eq!(away(Wire::Protobuf, &[1009, 3500, 3502, 3999, 4500, 4999]), 6);
        assert_eq!(away(Wire::Pusher, &[0, 1000, 4000, 4100, 4200, 4201, 4299]), 0);
        assert_eq!(away(Wire::Pusher, &[4001, 4009, 4099, 4300, 4301, 4302]), 6);
    }

    #[test]
    fn a_change_and_a_number_of_our_own() {
        let read = |text| serde_json::from_str::<Data>(text).unwrap().publication(5);
        assert_eq!(read(r#"{"n":7,"x":"y"}"#), Publication { offset: 5, number: 7, mark: 7 });
        let change = read(r#"{"kind":"k","id":"a","revision":2,"offset":9,"doc":{"n":1}}"#);
        assert_eq!((change.offset, change.number), (5, 9));
        assert_eq!(change.mark, read(r#"{"id":"a","revision":2,"offset":9,"ref":true}"#).mark);
        assert_ne!(change.mark, read(r#"{"id":"a","revision":3,"offset":9}"#).mark);
    }
}
