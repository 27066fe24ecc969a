//! Commands: what a client sends, one or more JSON objects in a text frame, separated by newlines.

use serde::Deserialize;

use crate::channels::Epoch;

/// `connect`: the first command of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// The connection token (JWT); empty when there is none.
    pub token: String,
    /// The client library.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `subscribe`: asks for a channel, from now on or from a position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel.
    pub channel: String,
    /// True when what follows the position is asked for.
    pub recover: bool,
    /// The client's epoch; empty when it knows none.
    pub epoch: String,
    /// The last offset that the client has.
    pub offset: u64,
    /// Bit 0: numeric channel ids are understood. Bit 1: an error 112 instead of `recovered: false`.
    pub flag: u32,
}

impl SubscribeRequest {
    /// Bit 1 of `flag`: the client wants an error when its position can't be recovered.
    #[must_use]
    pub const fn rejects_unrecovered(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// Where a history page starts: after it going forward, before it in reverse.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Since {
    /// The offset.
    #[serde(default)]
    pub offset: u64,
    /// The epoch; empty stands for whichever is current.
    #[serde(default = "no_epoch")]
    pub epoch: Epoch,
}

fn no_epoch() -> Epoch {
    Epoch::new("")
}

/// `history`: a page of what the channel's stream still has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel.
    pub channel: String,
    /// 0: only the position; -1: as many as the server gives.
    pub limit: i64,
    /// Where to start.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Echoed in the reply; 0 for a pong and for `send`, which have none.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the protocol's own")]
pub enum Request {
    Connect(ConnectRequest),
    Subscribe(SubscribeRequest),
    Unsubscribe {
        channel: String,
    },
    History(HistoryRequest),
    Refresh {
        token: String,
    },
    Ping,
    /// The empty object: the answer to the server's ping.
    Pong,
    /// An asynchronous message, which has no reply.
    Send,
    Publish {
        channel: String,
    },
    Rpc,
    Presence,
    SubRefresh,
    /// None of the commands that we know.
    Unknown,
}

/// A frame that is not a run of commands: the client is closed with 3501.
#[derive(Debug, thiserror::Error)]
#[error("not a command")]
pub struct CommandError(#[source] serde_json::Error);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Channel {
    channel: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Token {
    token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Wire {
    id: u32,
    connect: Option<ConnectRequest>,
    subscribe: Option<SubscribeRequest>,
    unsubscribe: Option<Channel>,
    publish: Option<Channel>,
    presence: Option<serde::de::IgnoredAny>,
    presence_stats: Option<serde::de::IgnoredAny>,
    history: Option<HistoryRequest>,
    ping: Option<serde::de::IgnoredAny>,
    send: Option<serde::de::IgnoredAny>,
    rpc: Option<serde::de::IgnoredAny>,
    refresh: Option<Token>,
    sub_refresh: Option<serde::de::IgnoredAny>,
}

impl From<Wire> for Command {
    fn from(wire: Wire) -> Self {
        let id = wire.id;
        // The first that is present wins, in the order of the protocol's table.
        let request = if wire.send.is_some() {
            Request::Send
        } else if id == 0 {
            Request::Pong
        } else if let Some(connect) = wire.connect {
            Request::Connect(connect)
        } else if let Some(subscribe) = wire.subscribe {
            Request::Subscribe(subscribe)
        } else if let Some(Channel { channel }) = wire.unsubscribe {
            Request::Unsubscribe { channel }
        } else if let Some(Channel { channel }) = wire.publish {
            Request::Publish { channel }
        } else if wire.presence.or(wire.presence_stats).is_some() {
            Request::Presence
        } else if let Some(history) = wire.history {
            Request::History(history)
        } else if wire.ping.is_some() {
            Request::Ping
        } else if wire.rpc.is_some() {
            Request::Rpc
        } else if let Some(Token { token }) = wire.refresh {
            Request::Refresh { token }
        } else if wire.sub_refresh.is_some() {
            Request::SubRefresh
        } else {
            Request::Unknown
        };
        Self { id, request }
    }
}

/// The commands of one text frame, blank lines skipped.
pub fn commands(frame: &str) -> impl Iterator<Item = Result<Command, CommandError>> + '_ {
    frame.split('\n').filter(|line| !line.trim().is_empty()).map(command)
}

fn command(line: &str) -> Result<Command, CommandError> {
    // serde would read a struct from an array too; a command is an object.
    if !line.trim_start().starts_with('{') {
        return Err(CommandError(serde::de::Error::custom("not an object")));
    }
    serde_json::from_str::<Wire>(line).map(Command::from).map_err(CommandError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(frame: &str) -> Request {
        commands(frame).next().expect("a command").expect("well formed").request
    }

    #[test]
    fn a_frame_holds_several_commands() {
        let frame = "{\"id\":1,\"connect\":{\"token\":\"t\",\"x\":[]}}\n\n{}\n{\"id\":2,\"subscribe\":{\"channel\":\"c\",\"recover\":true,\"epoch\":\"e\",\"offset\":18446744073709551615,\"flag\":3}}\n";
        let got: Vec<Command> = commands(frame).map(|c| c.expect("well formed")).collect();
        assert_eq!(got.len(), 3);
        assert!(matches!(&got[0], Command { id: 1, request: Request::Connect(c) } if c.token == "t"));
        assert_eq!(got[1].request, Request::Pong);
        let Request::Subscribe(subscribe) = &got[2].request else { panic!("{got:?}") };
        assert!(subscribe.recover && subscribe.rejects_unrecovered() && subscribe.offset == u64::MAX);
    }

    #[test]
    fn the_first_that_is_present_wins() {
        assert_eq!(
            one(r#"{"id":1,"connect":null,"unsubscribe":{"channel":"c"}}"#),
            Request::Unsubscribe { channel: "c".into() }
        );
        assert_eq!(one(r#"{"send":{"data":1}}"#), Request::Send);
        assert_eq!(one(r#"{"id":9,"future":{}}"#), Request::Unknown);
        assert_eq!(one(r#"{"id":0}"#), Request::Pong);
    }

    #[test]
    fn hostile_frames_are_errors() {
        let deep = format!("{{\"id\":1,\"rpc\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            "x",
            "[]",
            "{\"id\":-1}",
            "{\"id\":4294967296}",
            "{\"id\":1,\"subscribe\":{\"offset\":-1}}",
            "{\"id\":\"1\"}",
            "{\"id\":1e300}",
        ] {
            assert!(commands(bad).next().expect("a line").is_err(), "{bad}");
        }
        let _ = commands(&deep).next().expect("a line");
    }

    proptest! {
        #[test]
        fn any_text_is_a_value(text in "\\PC{0,300}") {
            for command in commands(&text) { let _ = command; }
        }
    }
}
