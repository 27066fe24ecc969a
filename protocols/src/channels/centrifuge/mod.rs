//! The Centrifuge client protocol, version 2, in JSON: commands in, replies and pushes out, and its tables of codes.
//!
//! Invariants: fields that we do not know are ignored; payloads stay raw JSON text; zero values are left out where the
//! protocol allows it. Protobuf and the other transports are not spoken yet.

mod codes;
mod command;
mod reply;

pub use codes::{Disconnect, ErrorCode, Unsubscribe};
pub use command::{Command, CommandError, ConnectRequest, HistoryRequest, Request, Since, SubscribeRequest, commands};
pub use reply::{
    ConnectResult, HistoryResult, Pub, RefreshResult, SubscribeResult, encode_error, encode_ok, encode_push,
    encode_unsubscribe_push,
};
