//! The Pusher Channels protocol, version 7, server side: client events in, frames out, signatures, the signed HTTP API,
//! webhooks.
//!
//! Invariants: what a publisher or a member sends as JSON is passed on as the text it came in; secrets and signatures are
//! compared in constant time and never printed; no close code is above 4299, for pusher-js would stay away for good.
//! Source: the protocol's public documentation and what pusher-js 8.6 does with each frame.

mod auth;
mod bearer;
mod codes;
mod data;
mod events;
mod handshake;
pub mod http_api;
mod hub;
mod names;
mod user;
mod webhooks;

pub use auth::{AuthError, Credentials, CredentialsError, Keyring, SocketId, shared_secret};
pub use bearer::{Bearer, BearerError};
pub use codes::{ClientAction, Close, ErrorCode};
pub use data::{data_of_text, text_of_data};
pub use events::{
    DEFAULT_CLIENT_DATA, Event, EventError, MAX_EVENT, PING, PONG, Refusal, Subscribe, decode, encode_cache_miss,
    encode_channel_event, encode_client_event, encode_connection_established, encode_error, encode_member_added,
    encode_member_removed, encode_presence_succeeded, encode_refused_connection, encode_signin_success,
    encode_subscription_count, encode_subscription_error, encode_subscription_succeeded, encode_watchlist_events,
};
pub use handshake::{NEWEST_PROTOCOL, OLDEST_PROTOCOL, check_handshake};
pub use hub::{
    CHANGE_EVENT, DEFAULT_EVENT, EVENT_TAG, MAX_DATA, encode_change, encode_online, encode_publication, encode_word,
    is_online, member,
};
pub use names::{ChannelKind, Grant, Guard, MAX_NAME, Name, NameError, Target, USER_PREFIX, is_cache};
pub use user::{DEFAULT_MAX_INFO, MAX_USER_ID, MAX_WATCHLIST, Member, User, UserError, UserId};
pub use webhooks::{KEY_HEADER, SIGNATURE_HEADER, Webhook, WebhookEvent};

/// Reads an object. serde would read a struct from an array too; here only an object has a meaning.
fn object<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Option<T> {
    if text.trim_start().starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

/// Our own types of strings, numbers and raw text: serialising them into memory cannot fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A JSON value as the text that stands for it: a string is its own text, anything else its JSON as it is written.
fn text_of(value: &serde_json::value::RawValue) -> std::borrow::Cow<'_, str> {
    // A string with a lone surrogate is JSON but no text; its spelling is all there is.
    crate::entities::raw::unquote(value.get()).unwrap_or_else(|| value.get().into())
}
