//! Who a connection belongs to: `connect`, its answer, and the token that keeps it alive.
//!
//! An answer that says who somebody is goes out once; what it promises (the subscriptions of the token and of the request) is prepared
//! before it and live behind it.

use std::{sync::Arc, time::Duration, time::Instant};

use dzvin_protocols::channels::{
    Happening,
    centrifuge::{About, ConnectPush, ConnectRequest, ConnectResult, Disconnect, ErrorCode, RefreshResult},
};
use time::OffsetDateTime;

use super::{
    clock::{NEVER, millis, now},
    commands::{Answer, Conversation, Refusal},
};
use crate::platform::ports::{AuthError, Bus, ChangeLog, Identity};

impl<B: Bus, L: ChangeLog> Conversation<B, L> {
    /// On a wire of one direction the client says once who it is. What it says after that is heard by nobody.
    pub(super) async fn only_connect(&mut self, frame: &[u8]) {
        if self.identity.is_some() {
            return;
        }
        let began = Instant::now();
        let answer = match serde_json::from_slice::<ConnectRequest>(frame) {
            Ok(request) => self.connect(0, &request).await,
            Err(_) => Err(Refusal::Close(Disconnect::BadRequest)),
        };
        self.count_answer("connect", None, began, &answer);
        match answer {
            Ok(reply) => self.session.reply(&reply),
            Err(Refusal::Error(error)) => self.session.close(instead(error)),
            // No method of anybody's is called here.
            Err(Refusal::Own(_)) => self.session.close(Disconnect::Internal),
            Err(Refusal::Close(why)) => self.session.close(why),
            Err(Refusal::Done) => {}
        }
    }

    pub(super) async fn connect(&mut self, id: u32, request: &ConnectRequest) -> Answer {
        let checked = self.hub.auth.authenticate_from(&request.token, self.session.address()).await;
        let identity = checked.map_err(|error| {
            let (code, refusal) = match error {
                AuthError::Expired => ("token_expired", Refusal::Error(ErrorCode::TokenExpired)),
                AuthError::Invalid => ("invalid_token", Refusal::Close(Disconnect::InvalidToken)),
                // Whoever has mended its token comes in when the wait is over.
                AuthError::TooMany(_) => ("too_many_failures", Refusal::Error(ErrorCode::TooManyRequests)),
                // Nobody is refused.
                AuthError::Unavailable => return Refusal::Error(ErrorCode::Internal),
            };
            self.refused("session.connect", "", code, refusal)
        })?;
        // First, so that whoever looks for this user hears of a refusal as well.
        self.session.signed_in(&identity.user);
        let Some(counted) = self.hub.users.admit(&identity.user, self.hub.limits.of_user) else {
            return Err(Refusal::Close(Disconnect::ConnectionLimit));
        };
        self.counted = counted;
        let ttl = self.keep_until(&identity);
        if self.hub.auth.revoked(&identity) {
            // Between the look at the token and the moment from which this session is told.
            return Err(Refusal::Close(Disconnect::InvalidToken));
        }
        let subscriptions = Arc::clone(&identity.subscriptions);
        self.identity = Some(identity);
        let prepared = match self.prepare_all(&subscriptions, &request.subs).await {
            Ok(prepared) => prepared,
            Err(refusal) => {
                // Of a connect that failed nothing is left but the answer: the client begins another connection.
                self.identity = None;
                return Err(refusal);
            }
        };
        let (client, by_frame) = (self.session.client.to_string(), self.session.wire.pings_by_frame());
        let mut result = ConnectResult {
            client: &client,
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
            ping: if by_frame { 0 } else { u32::try_from(self.hub.limits.ping.as_secs().max(1)).unwrap_or(u32::MAX) },
            pong: !by_frame && !self.session.wire.is_one_way(),
            ..ConnectResult::default()
        };
        if let Some(mailbox) = &self.session.mailbox {
            (result.session, result.node) = (mailbox.session(), self.hub.bus.node());
        }
        result.subs = prepared.iter().map(|it| (&*it.name, it.result())).collect();
        let reply = if self.session.wire.is_one_way() {
            self.session.wire.message(About::Connection, &ConnectPush(&result))
        } else {
            self.encode(id, &result)
        };
        tracing::debug!(client, user = self.session.user(), "session connected");
        self.session.tell_trace(None, Happening::Connect { wire: self.session.wire.name() });
        if prepared.is_empty() {
            return Ok(reply);
        }
        self.go_live(prepared, &reply).await
    }

    pub(super) async fn refresh(&mut self, id: u32, token: &str) -> Answer {
        let identity = match self.hub.auth.authenticate(token).await {
            Ok(identity) if self.identity.as_ref().is_some_and(|known| known.user == identity.user) => identity,
            Err(AuthError::Expired) => return Err(Refusal::Error(ErrorCode::Expired)),
            Err(AuthError::TooMany(_)) => return Err(Refusal::Error(ErrorCode::TooManyRequests)),
            Err(AuthError::Unavailable) => return Err(Refusal::Error(ErrorCode::Internal)),
            Ok(_) | Err(AuthError::Invalid) => return Err(Refusal::Close(Disconnect::InvalidToken)),
        };
        let ttl = self.keep_until(&identity);
        self.identity = Some(identity);
        self.keep_to_rights().await;
        let result = RefreshResult {
            client: &self.session.client.to_string(),
            version: &self.hub.version,
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or_default(),
        };
        Ok(self.encode(id, &result))
    }

    /// Sets the end of the session after the token's; answers the seconds that the token has left.
    pub(super) fn keep_until(&mut self, identity: &Identity) -> Option<u32> {
        let left = seconds_left(identity.expires_at);
        let grace = self.hub.limits.expiry_grace;
        let until = left.map_or(NEVER, |left| now() + millis(Duration::from_secs(u64::from(left)) + grace));
        self.look_by(self.session.keep_until(until));
        left
    }
}

/// How a connection ends whose client has no other way to learn of an error.
pub(super) const fn instead(error: ErrorCode) -> Disconnect {
    match error {
        ErrorCode::TokenExpired | ErrorCode::Expired => Disconnect::Expired,
        ErrorCode::TooManyRequests => Disconnect::TooManyRequests,
        ErrorCode::LimitExceeded => Disconnect::ChannelLimit,
        ErrorCode::PermissionDenied | ErrorCode::Unauthorized => Disconnect::PermissionDenied,
        // Whoever came back with the same position would be sent away again.
        ErrorCode::UnrecoverablePosition => Disconnect::StateInvalidated,
        // Nor does a token mend itself that makes a subscription which cannot be.
        ErrorCode::BadRequest | ErrorCode::AlreadySubscribed => Disconnect::BadRequest,
        ErrorCode::NotAvailable | ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => Disconnect::NotAvailable,
        ErrorCode::Internal | ErrorCode::ConcurrentPagination => Disconnect::Internal,
    }
}

/// Whole seconds until then, at least one.
pub(super) fn seconds_left(until: Option<OffsetDateTime>) -> Option<u32> {
    let left = (until? - OffsetDateTime::now_utc()).whole_seconds().max(1);
    Some(u32::try_from(left).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has no reply to read comes back exactly where a client with one would try again.
    #[test]
    fn every_error_has_an_end_that_means_the_same() {
        for error in ErrorCode::ALL {
            let back = match error {
                // Its position is dropped first.
                ErrorCode::UnrecoverablePosition => true,
                // With a token that is fetched anew.
                ErrorCode::TokenExpired | ErrorCode::Expired => true,
                other => other.temporary(),
            };
            assert_eq!(instead(*error).reconnect(), back, "{error:?}");
        }
        let codes = [
            (ErrorCode::Internal, 3004),
            (ErrorCode::TooManyRequests, 3013),
            (ErrorCode::UnrecoverablePosition, 3014),
            (ErrorCode::LimitExceeded, 3505),
            (ErrorCode::PermissionDenied, 3507),
            (ErrorCode::Unauthorized, 3507),
            (ErrorCode::NotAvailable, 3508),
        ];
        assert!(codes.iter().all(|(error, code)| instead(*error).code() == *code));
    }
}
