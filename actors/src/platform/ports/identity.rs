//! Who a client is.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::identity::{Overrides, Permissions};
use futures_util::future::BoxFuture;
use time::OffsetDateTime;

/// The answer of an [`Authenticator`]: at once, unless keys have to be fetched first.
pub type Verified<'a, T> = BoxFuture<'a, Result<T, AuthError>>;

/// Who a client is and what it may do.
pub trait Authenticator: Send + Sync + 'static {
    /// Checks a connection token; the empty one is that of a client without one.
    ///
    /// # Errors
    /// Whether it is expired (the client gets another), invalid (it does not), or cannot be checked now.
    fn authenticate<'a>(&'a self, token: &'a str) -> Verified<'a, Identity>;

    /// Checks a token for one channel, made for this user.
    ///
    /// # Errors
    /// As above.
    fn subscription<'a>(&'a self, token: &'a str, user: &'a str, channel: &'a str) -> Verified<'a, SubscriptionGrant>;
}

/// A signed-in user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's id; empty for nobody.
    pub user: Arc<str>,
    /// What the user may do.
    pub permissions: Arc<Permissions>,
    /// When the session ends with its token; `None` never.
    pub expires_at: Option<OffsetDateTime>,
    /// What other clients may see of the user: one JSON value as text.
    pub info: Option<Bytes>,
    /// Channels that the server subscribes the client to.
    pub subscriptions: Arc<[ServerSubscription]>,
}

impl Identity {
    /// Somebody with these rights and nothing else.
    #[must_use]
    pub fn new(user: &str, permissions: Arc<Permissions>) -> Self {
        Self { user: user.into(), permissions, expires_at: None, info: None, subscriptions: Arc::default() }
    }
}

/// A subscription that a connection's token makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerSubscription {
    /// The channel.
    pub channel: Arc<str>,
    /// What other subscribers may see of this one.
    pub info: Option<Bytes>,
    /// What the client is told with it.
    pub data: Option<Bytes>,
    /// Choices that go before the configuration's.
    pub overrides: Overrides,
}

/// What a subscription's own token grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionGrant {
    /// When the subscription ends; `None` never.
    pub expires_at: Option<OffsetDateTime>,
    /// What other subscribers may see of this one.
    pub info: Option<Bytes>,
    /// Choices that go before the configuration's.
    pub overrides: Overrides,
}

/// Why a token was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// It was good once.
    #[error("token expired")]
    Expired,
    /// It never was.
    #[error("invalid token")]
    Invalid,
    /// The keys to check it with cannot be had now: worth another try.
    #[error("the token cannot be checked now")]
    Unavailable,
}
