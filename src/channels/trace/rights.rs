//! The right of one who asks, for as long as the trace goes on.
//!
//! Invariants: what is revoked is felt as sessions feel it, when this node hears of it: it is asked of memory alone, and waits
//! for no clock, no bus and no issuer. What nobody tells of, such as the end of a token or of a role, is found within
//! [`RENEW`].

use std::{future::pending, sync::Arc};

use dzvin_actors::platform::ports::{AuthError, Authenticator, Identity, TokenMark};
use dzvin_protocols::channels::TraceTarget;
use tokio::time::interval;

use super::RENEW;
use crate::identity::{Verifier, revocations::concerned};

/// The permission that a target takes: action and object, in the area `trace`.
pub(super) fn permission(target: &TraceTarget) -> (&'static str, &str) {
    match target {
        TraceTarget::User(user) => ("user", user),
        TraceTarget::Channel(channel) => ("channel", channel),
    }
}

/// By what somebody may ask.
#[derive(Clone)]
pub(super) struct Rights {
    pub(super) verifier: Arc<Verifier>,
    pub(super) token: String,
    /// Whose the token is, and what it is revoked by.
    pub(super) user: Arc<str>,
    pub(super) mark: TokenMark,
    pub(super) target: TraceTarget,
}

impl Rights {
    /// Done when the right has ended.
    pub(super) async fn end(self) {
        tokio::select! {
            () = self.revoked() => {}
            () = self.lapsed() => {}
        }
    }

    /// Done when the token is revoked.
    async fn revoked(&self) {
        // Whoever listens first and looks then misses nothing.
        let mut changes = self.verifier.revocations().changes();
        while !self.verifier.revoked_for(&self.user, &self.mark) {
            // Whom it names is not asked: a look costs no more, and traces are few.
            if concerned(&mut changes).await.is_none() {
                // Nobody tells of revocations any more.
                return pending().await;
            }
        }
    }

    /// Done when the token is good no more, or grants no more what it did.
    async fn lapsed(&self) {
        let mut ticks = interval(RENEW);
        // It was looked at just now.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if !self.hold().await {
                return;
            }
        }
    }

    /// Whether the token still grants it. Keys that cannot be had now take nobody's rights away.
    async fn hold(&self) -> bool {
        let (action, object) = permission(&self.target);
        let allowed = |identity: Identity| identity.permissions.allow("trace", action, object);
        match self.verifier.authenticate(&self.token).await {
            Ok(identity) => allowed(identity),
            Err(AuthError::Unavailable | AuthError::TooMany(_)) => true,
            Err(AuthError::Expired | AuthError::Invalid) => false,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::pin::pin;

    use dzvin_protocols::identity::Claims;
    use futures_util::FutureExt;

    use super::*;
    use crate::identity::{SigningKey, TokenRules};

    /// The right of `olha` to trace a user.
    pub(in super::super) fn rights() -> Rights {
        let key = SigningKey::new("k1", &[7; 32]).expect("key");
        let verifier = Arc::new(Verifier::new(vec![key], TokenRules::default()).expect("verifier"));
        let claims = Claims {
            sub: "olha".to_owned(),
            exp: Some(time::OffsetDateTime::now_utc().unix_timestamp() + 3600),
            permissions: vec!["trace:user:*".to_owned()],
            ..Claims::default()
        };
        let token = verifier.sign(&claims).expect("signed");
        let target = TraceTarget::User("ihor".into());
        Rights { verifier, token, user: "olha".into(), mark: TokenMark::default(), target }
    }

    #[tokio::test]
    async fn a_right_ends_with_the_word_that_it_is_revoked_and_no_clock_is_asked() {
        let rights = rights();
        let mut revoked = pin!(rights.revoked());
        assert!(revoked.as_mut().now_or_never().is_none());
        rights.verifier.revocations().block("ihor");
        assert!(revoked.as_mut().now_or_never().is_none(), "another user's");
        rights.verifier.revocations().block("olha");
        assert!(revoked.as_mut().now_or_never().is_some());
        assert!(rights.revoked().now_or_never().is_some(), "what was revoked before it was listened to");
    }

    #[tokio::test]
    async fn a_right_holds_for_as_long_as_the_token_grants_it() {
        let mut rights = rights();
        assert!(rights.hold().await);
        let target = std::mem::replace(&mut rights.target, TraceTarget::Channel("news".into()));
        assert!(!rights.hold().await, "another right");
        rights.target = target;
        let other = SigningKey::new("k2", &[8; 32]).expect("key");
        rights.verifier.replace(vec![other], TokenRules::default()).expect("replaced");
        assert!(!rights.hold().await, "the key is gone");
    }
}
