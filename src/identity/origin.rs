//! Where a request comes from, before it is known who asks: how every door checks a token or a key.

use std::{convert::Infallible, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};
use dzvin_actors::platform::ports::{AuthError, Authenticator, Identity};

use super::{
    accounts::api_token_id,
    audit::{Slot, Who},
    guard::Guard,
};
use crate::platform::http::Problem;

/// Where a request comes from, and where it is told who asks.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    who: Who,
    slot: Option<Slot>,
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl Origin {
    /// That of a request.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        Self { who: Who::of(&parts.extensions), slot: parts.extensions.get::<Slot>().cloned() }
    }

    /// Who bears this token.
    ///
    /// # Errors
    /// 401, 429 `too_many_failures`, or 503 while it cannot be checked.
    pub async fn authenticate(self, auth: &dyn Authenticator, token: &str) -> Result<(Identity, Who), Problem> {
        let identity = auth.authenticate_from(token, self.who.address).await;
        let who = match &identity {
            Ok(identity) => self.known_as(&identity.user, identity.jti.as_ref()),
            // What it says of itself is no secret, and leads to whoever has to be told.
            Err(_) => self.known_as(&Arc::default(), api_token_id(token).map(Arc::from).as_ref()),
        };
        identity.map(|identity| (identity, who)).map_err(not_taken)
    }

    /// Looks for whoever bears a key, or has signed with one, unless too much was wrong from there. `secret` tells attempts apart.
    ///
    /// # Errors
    /// 429 `too_many_failures`.
    pub fn look<T, E>(
        &self,
        guard: &Guard,
        secret: &str,
        look: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, Problem> {
        let tried = guard.admit(self.who.address, secret).map_err(|wait| not_taken(AuthError::TooMany(wait)))?;
        let found = look();
        match &found {
            Ok(_) => guard.passed(&tried),
            Err(_) => guard.failed(&tried),
        }
        Ok(found)
    }

    /// Tells who it is.
    pub fn known_as(self, user: &Arc<str>, token: Option<&Arc<str>>) -> Who {
        let who = self.who.known_as(user, token);
        if let Some(slot) = self.slot {
            slot.tell(&who);
        }
        who
    }
}

/// What is answered where a token was not taken.
fn not_taken(error: AuthError) -> Problem {
    match error {
        AuthError::Expired => Problem::token_expired(),
        AuthError::Invalid => Problem::unauthorized(),
        AuthError::Unavailable => Problem::unavailable(
            "token_unchecked",
            "the keys that tokens are checked with cannot be had now; try again soon",
        ),
        AuthError::TooMany(wait) => {
            let detail = "too many attempts failed; nothing was looked at";
            Problem::too_many("too_many_failures", detail, wait)
        }
    }
}
