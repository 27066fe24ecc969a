//! Events: what a client sends, and every frame that the server sends.

mod decode;
mod encode;

pub use decode::{DEFAULT_CLIENT_DATA, Event, EventError, MAX_EVENT, Subscribe, decode};
pub use encode::{
    PING, PONG, Refusal, encode_cache_miss, encode_channel_event, encode_client_event, encode_connection_established,
    encode_error, encode_member_added, encode_member_removed, encode_presence_succeeded, encode_refused_connection,
    encode_signin_success, encode_subscription_count, encode_subscription_error, encode_subscription_succeeded,
    encode_watchlist_events,
};
