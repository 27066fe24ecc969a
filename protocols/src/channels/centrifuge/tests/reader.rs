//! What a client reads: a decoder of its own for both forms, derived from one description.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use serde::Deserialize;

use super::super::{Form, json::payload};

macro_rules! messages {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* })+) => {
        $(
            #[derive(Clone, PartialEq, Deserialize, prost::Message)]
            #[serde(default, deny_unknown_fields)]
            pub(super) struct $name {
                $($(#[$meta])* pub(super) $field: $type,)*
            }
        )+
    };
}

messages! {
    Reply {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "2")] error: Option<ReplyError>,
        #[prost(message, optional, tag = "4")] push: Option<Push>,
        #[prost(message, optional, tag = "5")] connect: Option<Connect>,
        #[prost(message, optional, tag = "6")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Nothing>,
        #[prost(message, optional, tag = "8")] publish: Option<Nothing>,
        #[prost(message, optional, tag = "9")] presence: Option<Presence>,
        #[prost(message, optional, tag = "10")] presence_stats: Option<Stats>,
        #[prost(message, optional, tag = "11")] history: Option<History>,
        #[prost(message, optional, tag = "12")] ping: Option<Nothing>,
        #[prost(message, optional, tag = "13")] rpc: Option<Data>,
        #[prost(message, optional, tag = "14")] refresh: Option<Refreshed>,
        #[prost(message, optional, tag = "15")] sub_refresh: Option<Ttl>,
    }
    Nothing {}
    ReplyError {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] message: String,
        #[prost(bool, tag = "3")] temporary: bool,
    }
    Push {
        #[prost(int64, tag = "1")] id: i64,
        #[prost(string, tag = "2")] channel: String,
        #[prost(message, optional, tag = "4")] r#pub: Option<Publication>,
        #[prost(message, optional, tag = "5")] join: Option<Joined>,
        #[prost(message, optional, tag = "6")] leave: Option<Joined>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Unsubscribed>,
        #[prost(message, optional, tag = "8")] message: Option<Data>,
        #[prost(message, optional, tag = "9")] subscribe: Option<Subscribed>,
        #[prost(message, optional, tag = "10")] connect: Option<Connected>,
        #[prost(message, optional, tag = "11")] disconnect: Option<Disconnected>,
        #[prost(message, optional, tag = "12")] refresh: Option<Ttl>,
    }
    Info {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] client: String,
        #[prost(bytes = "bytes", tag = "3")] #[serde(deserialize_with = "payload")] conn_info: Bytes,
        #[prost(bytes = "bytes", tag = "4")] #[serde(deserialize_with = "payload")] chan_info: Bytes,
    }
    Publication {
        #[prost(bytes = "bytes", tag = "4")] #[serde(deserialize_with = "payload")] data: Bytes,
        #[prost(message, optional, tag = "5")] info: Option<Info>,
        #[prost(uint64, tag = "6")] offset: u64,
        #[prost(btree_map = "string, string", tag = "7")] tags: BTreeMap<String, String>,
        #[prost(bool, tag = "8")] delta: bool,
        #[prost(int64, tag = "9")] time: i64,
    }
    Joined {
        #[prost(message, optional, tag = "1")] info: Option<Info>,
    }
    Unsubscribed {
        #[prost(uint32, tag = "2")] code: u32,
        #[prost(string, tag = "3")] reason: String,
    }
    Data {
        #[prost(bytes = "bytes", tag = "1")] #[serde(deserialize_with = "payload")] data: Bytes,
    }
    Subscribed {
        #[prost(bool, tag = "1")] recoverable: bool,
        #[prost(string, tag = "4")] epoch: String,
        #[prost(uint64, tag = "5")] offset: u64,
        #[prost(bool, tag = "6")] positioned: bool,
        #[prost(bytes = "bytes", tag = "7")] #[serde(deserialize_with = "payload")] data: Bytes,
    }
    Disconnected {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] reason: String,
        #[prost(bool, tag = "3")] reconnect: bool,
    }
    Ttl {
        #[prost(bool, tag = "1")] expires: bool,
        #[prost(uint32, tag = "2")] ttl: u32,
    }
    Connect {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] version: String,
        #[prost(bool, tag = "3")] expires: bool,
        #[prost(uint32, tag = "4")] ttl: u32,
        #[prost(bytes = "bytes", tag = "5")] #[serde(deserialize_with = "payload")] data: Bytes,
        #[prost(btree_map = "string, message", tag = "6")] subs: BTreeMap<String, Subscribe>,
        #[prost(uint32, tag = "7")] ping: u32,
        #[prost(bool, tag = "8")] pong: bool,
        #[prost(string, tag = "9")] session: String,
        #[prost(string, tag = "10")] node: String,
        #[prost(int64, tag = "11")] time: i64,
    }
    Connected {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] version: String,
        #[prost(bool, tag = "5")] expires: bool,
        #[prost(uint32, tag = "6")] ttl: u32,
        #[prost(bytes = "bytes", tag = "3")] #[serde(deserialize_with = "payload")] data: Bytes,
        #[prost(btree_map = "string, message", tag = "4")] subs: BTreeMap<String, Subscribe>,
        #[prost(uint32, tag = "7")] ping: u32,
        #[prost(bool, tag = "8")] pong: bool,
        #[prost(string, tag = "9")] session: String,
        #[prost(string, tag = "10")] node: String,
        #[prost(int64, tag = "11")] time: i64,
    }
    Subscribe {
        #[prost(bool, tag = "1")] expires: bool,
        #[prost(uint32, tag = "2")] ttl: u32,
        #[prost(bool, tag = "3")] recoverable: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(message, repeated, tag = "7")] publications: Vec<Publication>,
        #[prost(bool, tag = "8")] recovered: bool,
        #[prost(uint64, tag = "9")] offset: u64,
        #[prost(bool, tag = "10")] positioned: bool,
        #[prost(bytes = "bytes", tag = "11")] #[serde(deserialize_with = "payload")] data: Bytes,
        #[prost(bool, tag = "12")] was_recovering: bool,
        #[prost(bool, tag = "13")] delta: bool,
        #[prost(int64, tag = "14")] id: i64,
    }
    Presence {
        #[prost(btree_map = "string, message", tag = "1")] presence: BTreeMap<String, Info>,
    }
    Stats {
        #[prost(uint32, tag = "1")] num_clients: u32,
        #[prost(uint32, tag = "2")] num_users: u32,
    }
    History {
        #[prost(message, repeated, tag = "1")] publications: Vec<Publication>,
        #[prost(string, tag = "2")] epoch: String,
        #[prost(uint64, tag = "3")] offset: u64,
    }
    Refreshed {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] version: String,
        #[prost(bool, tag = "3")] expires: bool,
        #[prost(uint32, tag = "4")] ttl: u32,
    }
}

/// The messages of one frame.
pub(super) fn read(form: Form, frame: &[u8]) -> Vec<Reply> {
    match form {
        Form::Json => {
            let text = std::str::from_utf8(frame).expect("text");
            text.split('\n').map(|line| serde_json::from_str(line).expect(line)).collect()
        }
        Form::Protobuf => {
            let (mut rest, mut all) = (frame, Vec::new());
            while !rest.is_empty() {
                all.push(Reply::decode_length_delimited(&mut rest).expect("a message"));
            }
            all
        }
    }
}
