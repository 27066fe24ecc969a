//! What commands ask, in both forms by one description: names for JSON, numbers for Protobuf.
//!
//! Payloads (`data`) are the text of one JSON value when they came in JSON, any bytes when they came in Protobuf; empty when
//! there was none. A field that is `null` in JSON was not given, unless it is a payload.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{
    filter::FilterNode,
    json::{or_default, payload},
};

/// `connect`: the first command of a connection.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct ConnectRequest {
    /// The connection token (JWT); empty when there is none.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// For the application.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "payload")]
    pub data: Bytes,
    /// Where the client stands in the subscriptions that the server makes, by channel: recover, epoch, offset.
    #[prost(btree_map = "string, message", tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub subs: BTreeMap<String, SubscribeRequest>,
    /// The client library.
    #[prost(string, tag = "4")]
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "5")]
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// HTTP headers that a browser could not send; as trustworthy as the client.
    #[prost(btree_map = "string, string", tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub headers: BTreeMap<String, String>,
    /// Bits of what the client can do; none is known here.
    #[prost(int64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
}

/// `subscribe`: asks for a channel, from now on or from a position.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct SubscribeRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The subscription token (JWT); empty when there is none.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// True when what follows the position is asked for.
    #[prost(bool, tag = "3")]
    #[serde(deserialize_with = "or_default")]
    pub recover: bool,
    /// The client's epoch; empty when it knows none.
    #[prost(string, tag = "6")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
    /// The last offset that the client has.
    #[prost(uint64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// For the application.
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(deserialize_with = "payload")]
    pub data: Bytes,
    /// Asks for offsets that are checked.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub positioned: bool,
    /// Asks for a position to recover from.
    #[prost(bool, tag = "10")]
    #[serde(deserialize_with = "or_default")]
    pub recoverable: bool,
    /// Asks for joins and leaves.
    #[prost(bool, tag = "11")]
    #[serde(deserialize_with = "or_default")]
    pub join_leave: bool,
    /// The kind of deltas asked for: `fossil`, or empty for none.
    #[prost(string, tag = "12")]
    #[serde(deserialize_with = "or_default")]
    pub delta: String,
    /// Only publications with such tags; not together with deltas.
    #[prost(message, optional, boxed, tag = "13")]
    pub tf: Option<Box<FilterNode>>,
    /// Bit 0: numeric channel ids are understood. Bit 1: an error 112 instead of `recovered: false`.
    #[prost(int64, tag = "14")]
    #[serde(deserialize_with = "or_default")]
    pub flag: i64,
    /// 0 is a stream; the others (maps, polls) are not spoken here.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}

impl SubscribeRequest {
    /// Bit 0 of `flag`: pushes may name the channel by a number.
    #[must_use]
    pub const fn takes_numbers(&self) -> bool {
        self.flag & 1 != 0
    }

    /// Bit 1 of `flag`: the client wants an error when its position can't be recovered.
    #[must_use]
    pub const fn rejects_unrecovered(&self) -> bool {
        self.flag & 2 != 0
    }
}

/// A command of a channel and nothing else: `unsubscribe`, `presence`, `presence_stats`.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub(super) struct OfChannel {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub(super) channel: String,
}

/// A command of a token and nothing else: `refresh`.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub(super) struct OfToken {
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub(super) token: String,
}

/// `send`, which has no answer.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub(super) struct OfData {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "payload")]
    pub(super) data: Bytes,
}

/// `ping`, whatever it holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct OfNothing {}

impl<'de> Deserialize<'de> for OfNothing {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from).map(|_| Self {})
    }
}

/// `publish`.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct PublishRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// What is published.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "payload")]
    pub data: Bytes,
    /// 0 is an ordinary publication; maps are not spoken here.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}

/// Where a history page starts: after it going forward, before it in reverse.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct Since {
    /// The offset.
    #[prost(uint64, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    /// The epoch; empty stands for whichever is current.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
}

/// `history`: a page of what the channel's stream still has.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct HistoryRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// 0: only the position; -1: as many as the server gives.
    #[prost(int64, tag = "7")]
    #[serde(deserialize_with = "or_default")]
    pub limit: i64,
    /// Where to start.
    #[prost(message, optional, tag = "8")]
    pub since: Option<Since>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    #[serde(deserialize_with = "or_default")]
    pub reverse: bool,
}

/// `rpc`: a call of the application.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct RpcRequest {
    /// Its argument.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "payload")]
    pub data: Bytes,
    /// What is called.
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub method: String,
}

/// `sub_refresh`: a new token for a subscription.
#[derive(Clone, PartialEq, Eq, Deserialize, prost::Message)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// The subscription token (JWT).
    #[prost(string, tag = "2")]
    #[serde(deserialize_with = "or_default")]
    pub token: String,
    /// 0 is a new token; the others track keys, which is not spoken here.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: i32,
}
