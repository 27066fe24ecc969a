//! Who a client is.

use std::{net::IpAddr, sync::Arc, time::Duration};

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

    /// The same for whoever comes from outside with a token that nobody has seen yet: who has failed too often from there has to wait
    /// before anything is checked.
    ///
    /// # Errors
    /// As above, and [`AuthError::TooMany`].
    fn authenticate_from<'a>(&'a self, token: &'a str, _address: Option<IpAddr>) -> Verified<'a, Identity> {
        self.authenticate(token)
    }

    /// Checks a token for one channel, made for this user.
    ///
    /// # Errors
    /// As above.
    fn subscription<'a>(&'a self, token: &'a str, user: &'a str, channel: &'a str) -> Verified<'a, SubscriptionGrant>;

    /// Whether the token on which somebody lives is no longer good, though it was when it was shown. Answers at once.
    fn revoked(&self, _identity: &Identity) -> bool {
        false
    }

    /// The same of a token that opened one subscription, and was this user's unless it says whose.
    fn revoked_for(&self, _user: &str, _mark: &TokenMark) -> bool {
        false
    }
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
    /// The id of the token, by which it may be revoked.
    pub jti: Option<Arc<str>>,
    /// When the token was made, in seconds since 1970; without it the token counts as older than any moment.
    pub issued_at: Option<i64>,
}

impl Identity {
    /// Somebody with these rights and nothing else.
    #[must_use]
    pub fn new(user: &str, permissions: Arc<Permissions>) -> Self {
        Self {
            user: user.into(),
            permissions,
            expires_at: None,
            info: None,
            subscriptions: Arc::default(),
            jti: None,
            issued_at: None,
        }
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
    /// By what the token may be revoked; `None` where no token of its own opened the subscription.
    pub mark: Option<TokenMark>,
}

/// By what a token may be revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenMark {
    /// Whose it is; `None`: the connection's user's.
    pub user: Option<Arc<str>>,
    /// Its id.
    pub jti: Option<Arc<str>>,
    /// When it was made, in seconds since 1970; without it the token counts as older than any moment.
    pub issued_at: Option<i64>,
}

/// Tokens that are no longer good from now on: one, those of a user that are older than a moment, or all of a user. Whoever
/// lives on such a token has to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whose tokens; `None`: whoever bears `jti`.
    pub user: Option<Arc<str>>,
    /// Only the token with this id.
    pub jti: Option<Arc<str>>,
    /// Only tokens made before this, in seconds since 1970; `None`: all of them.
    pub issued_before: Option<i64>,
}

impl Revoked {
    /// Whether it means the token on which somebody lives. An event that names nobody means nobody.
    #[must_use]
    pub fn concerns(&self, identity: &Identity) -> bool {
        (self.user.is_some() || self.jti.is_some())
            && self.user.as_ref().is_none_or(|user| *user == identity.user)
            && self.jti.as_ref().is_none_or(|jti| identity.jti.as_ref() == Some(jti))
            && self.issued_before.is_none_or(|before| identity.issued_at.is_none_or(|at| at < before))
    }
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
    /// Nobody has looked at it: too many were wrong from there. Worth another try when this has passed.
    #[error("too many failed attempts")]
    TooMany(Duration),
}

/// Hears what clients were refused. Answers at once, and keeps a bounded part of it.
pub trait Auditor: Send + Sync + 'static {
    /// Somebody was refused something.
    fn refused(&self, refused: Refused<'_>);
}

/// Nobody listens.
impl Auditor for () {
    fn refused(&self, _: Refused<'_>) {}
}

/// What somebody was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Who it was; empty for nobody.
    pub user: &'a str,
    /// The id of the token.
    pub token: Option<&'a str>,
    /// From where.
    pub address: Option<IpAddr>,
    /// What was asked for, such as `session.subscribe`.
    pub action: &'static str,
    /// Of what: a channel.
    pub object: &'a str,
    /// Why.
    pub code: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_concerns_those_whom_it_names() {
        let olha = |jti: Option<&str>, issued_at| Identity {
            jti: jti.map(Arc::from),
            issued_at,
            ..Identity::new("olha", Arc::default())
        };
        let all = |user: Option<&str>, jti: Option<&str>, issued_before| Revoked {
            user: user.map(Arc::from),
            jti: jti.map(Arc::from),
            issued_before,
        };
        for (revoked, identity, expected) in [
            (all(Some("olha"), None, None), olha(None, Some(9)), true),
            (all(Some("ihor"), None, None), olha(None, Some(9)), false),
            (all(Some("olha"), None, Some(9)), olha(None, Some(8)), true),
            (all(Some("olha"), None, Some(9)), olha(None, Some(9)), false),
            (all(Some("olha"), None, Some(9)), olha(None, None), true),
            (all(None, Some("t"), None), olha(Some("t"), None), true),
            (all(None, Some("t"), None), olha(Some("u"), None), false),
            (all(None, Some("t"), None), olha(None, None), false),
            (all(None, None, None), olha(None, None), false),
        ] {
            assert_eq!(revoked.concerns(&identity), expected, "{revoked:?} {identity:?}");
        }
    }
}
