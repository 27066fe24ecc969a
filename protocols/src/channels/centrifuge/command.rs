//! Commands: what a client sends, one or more of them in a frame.

use bytes::Buf;
use memchr::memchr;
use serde::Deserialize;

use super::{
    form::Form,
    json::or_default,
    requests::{
        ConnectRequest, HistoryRequest, OfChannel, OfData, OfNothing, OfToken, PublishRequest, RpcRequest,
        SubRefreshRequest, SubscribeRequest,
    },
};

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
    Publish(PublishRequest),
    Presence {
        channel: String,
    },
    PresenceStats {
        channel: String,
    },
    History(HistoryRequest),
    Ping,
    /// An asynchronous message, which has no reply.
    Send {
        data: bytes::Bytes,
    },
    Rpc(RpcRequest),
    Refresh {
        token: String,
    },
    SubRefresh(SubRefreshRequest),
    /// The empty message: the answer to the server's ping.
    Pong,
    /// None of the commands that we know.
    Unknown,
}

/// A frame that is not a run of commands: the client is closed with 3501.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A line that is no JSON object of the known fields.
    #[error("not a command in JSON")]
    Json(#[source] serde_json::Error),
    /// A message that is no Protobuf of the known fields.
    #[error("not a command in Protobuf")]
    Protobuf(#[source] prost::DecodeError),
    /// A length beyond the end of the frame.
    #[error("a command that ends outside its frame")]
    Cut,
}

#[derive(Clone, PartialEq, Deserialize, prost::Message)]
#[serde(default)]
pub(super) struct Wire {
    #[prost(uint32, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub(super) id: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) connect: Option<ConnectRequest>,
    #[prost(message, optional, tag = "5")]
    pub(super) subscribe: Option<SubscribeRequest>,
    #[prost(message, optional, tag = "6")]
    pub(super) unsubscribe: Option<OfChannel>,
    #[prost(message, optional, tag = "7")]
    pub(super) publish: Option<PublishRequest>,
    #[prost(message, optional, tag = "8")]
    pub(super) presence: Option<OfChannel>,
    #[prost(message, optional, tag = "9")]
    pub(super) presence_stats: Option<OfChannel>,
    #[prost(message, optional, tag = "10")]
    pub(super) history: Option<HistoryRequest>,
    #[prost(message, optional, tag = "11")]
    pub(super) ping: Option<OfNothing>,
    #[prost(message, optional, tag = "12")]
    pub(super) send: Option<OfData>,
    #[prost(message, optional, tag = "13")]
    pub(super) rpc: Option<RpcRequest>,
    #[prost(message, optional, tag = "14")]
    pub(super) refresh: Option<OfToken>,
    #[prost(message, optional, tag = "15")]
    pub(super) sub_refresh: Option<SubRefreshRequest>,
}

impl From<Wire> for Command {
    fn from(wire: Wire) -> Self {
        let id = wire.id;
        // The first that is present wins, in the order of the protocol's table.
        let request = if let Some(OfData { data }) = wire.send {
            Request::Send { data }
        } else if id == 0 {
            Request::Pong
        } else if let Some(connect) = wire.connect {
            Request::Connect(connect)
        } else if let Some(subscribe) = wire.subscribe {
            Request::Subscribe(subscribe)
        } else if let Some(OfChannel { channel }) = wire.unsubscribe {
            Request::Unsubscribe { channel }
        } else if let Some(publish) = wire.publish {
            Request::Publish(publish)
        } else if let Some(OfChannel { channel }) = wire.presence {
            Request::Presence { channel }
        } else if let Some(OfChannel { channel }) = wire.presence_stats {
            Request::PresenceStats { channel }
        } else if let Some(history) = wire.history {
            Request::History(history)
        } else if wire.ping.is_some() {
            Request::Ping
        } else if let Some(rpc) = wire.rpc {
            Request::Rpc(rpc)
        } else if let Some(OfToken { token }) = wire.refresh {
            Request::Refresh { token }
        } else if let Some(refresh) = wire.sub_refresh {
            Request::SubRefresh(refresh)
        } else {
            Request::Unknown
        };
        Self { id, request }
    }
}

/// The commands of one frame in their order. A frame that ends inside a command has no more after the error.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Commands<'a> {
    pub(super) const fn new(form: Form, frame: &'a [u8]) -> Self {
        Self { form, rest: frame }
    }

    fn line(&mut self) -> Option<Result<Command, CommandError>> {
        while !self.rest.is_empty() {
            let end = memchr(b'\n', self.rest).unwrap_or(self.rest.len());
            let line = &self.rest[..end];
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            let said = line.trim_ascii_start();
            if said.is_empty() {
                continue;
            }
            // serde would read a struct from an array too; a command is an object. What it takes for white space it knows best.
            let wire = if said.starts_with(b"{") {
                serde_json::from_slice::<Wire>(line)
            } else {
                Err(serde::de::Error::custom("not an object"))
            };
            return Some(wire.map(Command::from).map_err(CommandError::Json));
        }
        None
    }

    fn message(&mut self) -> Option<Result<Command, CommandError>> {
        if self.rest.is_empty() {
            return None;
        }
        let len = prost::decode_length_delimiter(&mut self.rest).ok();
        let Some((message, rest)) = len.and_then(|len| self.rest.split_at_checked(len)) else {
            self.rest.advance(self.rest.len());
            return Some(Err(CommandError::Cut));
        };
        self.rest = rest;
        Some(<Wire as prost::Message>::decode(message).map(Command::from).map_err(CommandError::Protobuf))
    }
}

impl Iterator for Commands<'_> {
    type Item = Result<Command, CommandError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.form {
            Form::Json => self.line(),
            Form::Protobuf => self.message(),
        }
    }
}
