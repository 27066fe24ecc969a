//! The signed HTTP API `/apps/{id}/...`: who calls, what is published, what is asked about channels.

mod channels;
mod publish;
mod signature;

pub use channels::{
    Attribute, Cached, ChannelInfo, ChannelsQuery, Info, channel_info, encode_channel, encode_channels, encode_users,
    users_of,
};
pub use publish::{Publish, PublishLimits, encode_batch, encode_published, parse_batch, parse_events};
pub use signature::{MAX_QUERY, Query, SignatureError, TIMESTAMP_WINDOW, sign_query};

use super::names::NameError;

/// A signed request that is refused. The text is the answer's body: the libraries read only the status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Not the JSON that is expected.
    #[error("the body is not valid: {0}")]
    Body(String),
    /// No channel to publish to, more than so many, or both `channel` and `channels`.
    #[error("an event has one channel, or 1 to {0} channels (one in a batch)")]
    Channels(usize),
    /// None, or more than so many events.
    #[error("a batch has 1 to {0} events")]
    Batch(usize),
    /// A channel's name is refused.
    #[error("the channel {name:?}: {error}")]
    Name {
        /// The name as it was given.
        name: String,
        /// Why.
        error: NameError,
    },
    /// The hub alone publishes there.
    #[error("the channel {0:?} belongs to the hub")]
    Hubs(String),
    /// Each encrypted channel has its own secret: what one reads the others cannot.
    #[error("an event for an encrypted channel goes to that one only")]
    Encrypted,
    /// Empty, too long, or a name of the protocol's own events.
    #[error("the name of the event is not valid")]
    EventName,
    /// Not of the form of a socket id.
    #[error("the socket_id is not valid")]
    SocketId,
    /// The data is above the limit, in bytes.
    #[error("the data of an event is above {0} bytes")]
    LargeData(usize),
    /// An attribute that does not exist.
    #[error("there is no attribute {0:?}")]
    UnknownAttribute(String),
    /// An attribute that channels of this kind do not have.
    #[error("the attribute {0} is not available for this kind of channel")]
    Attribute(&'static str),
    /// Channels are asked for their users, or for their number, and may have none.
    #[error("only presence channels have users")]
    NotPresence,
}

impl ApiError {
    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::LargeData(_) => 413,
            _ => 400,
        }
    }
}
