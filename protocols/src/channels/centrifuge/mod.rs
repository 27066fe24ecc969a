//! The Centrifuge client protocol, version 2, in JSON and in Protobuf: commands in, replies and pushes out, the filter by
//! tags, and its tables of codes. [`Form`] is the way in and out.
//!
//! Invariants: fields that we do not know are ignored; payloads stay as they came, raw JSON text or bytes; zero values are
//! left out where the protocol allows it; no message in JSON has a newline inside. Maps, shared polls and compression
//! dictionaries are not spoken.

mod codes;
mod command;
mod emulation;
mod fields;
mod filter;
mod form;
mod info;
mod json;
mod protobuf;
mod publication;
mod pushes;
mod requests;
mod results;
#[cfg(test)]
mod tests;
mod text;

pub use codes::{Disconnect, ErrorCode, Unsubscribe, is_custom_close, is_custom_error, reconnects};
pub use command::{Command, CommandError, Commands, Request};
pub use emulation::{EmulationError, EmulationRequest, pack_commands, unpack_commands};
pub use filter::{FilterError, FilterNode, MAX_FILTER_DEPTH, MAX_FILTER_NODES, TagFilter};
pub use form::Form;
pub use info::{ClientInfo, MAX_TAG_NAME, MAX_TAG_VALUE, MAX_TAGS, Tags, TagsError};
pub use json::{is_json, or_default};
pub use publication::{Payload, Pub};
pub use pushes::{
    About, ConnectPush, DisconnectPush, Event, Join, Leave, Message, RefreshPush, SubscribePush, UnsubscribePush,
};
pub use requests::{
    ConnectRequest, HistoryRequest, PublishRequest, RpcRequest, Since, SubRefreshRequest, SubscribeRequest,
};
pub use results::{
    ConnectResult, HistoryResult, PingResult, PresenceResult, PresenceStatsResult, PublishResult, RefreshResult, Reply,
    ReplyError, RpcResult, SubRefreshResult, SubscribeResult, UnsubscribeResult,
};
pub use text::{commands, encode_error, encode_ok, encode_push, encode_unsubscribe_push};
