//! Tokens: JWT signed with a key of ours, or by an issuer of the configuration.
//!
//! Up to [`MAX_KEYS`] keys of ours are alive: the first signs, all verify, so a key is rotated by putting the new one first
//! and dropping the old one when its last token has ended. A token that names a key (`kid`) is checked against that key only.
//! Subscriptions' tokens have keys of their own where those are configured.
//!
//! Invariants: a token with an algorithm of the HMAC family is checked with keys of ours alone, any other with the keys of
//! the issuer that it names alone; what is known is answered at once, without a lock held while anything is computed.

mod inner;
mod rules;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use dzvin_actors::platform::ports::{
    AuthError, Authenticator, Identity, ServerSubscription, SubscriptionGrant, TokenMark, Verified,
};
use dzvin_protocols::identity::{Claims, SubscriptionClaims, base64url};
use futures_util::future::{self, FutureExt};
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet};

pub use dzvin_protocols::identity::MAX_TOKEN;

use self::inner::{Inner, Open, Purpose, Signed};
use super::{
    accounts::{Accounts, is_api_token},
    guard::Guard,
    keys::SigningKey,
    metrics::IdentityMetrics,
    revocations::Revocations,
    setup::{Grants, Setup},
};

use crate::platform::http::chain;

pub use self::rules::{IdentityError, MAX_KEYS, MIN_KEY, TokenRules};

/// Clocks of machines that keep time by NTP differ by less.
pub(super) const LEEWAY_SECONDS: i64 = 5;

/// Signs and verifies. Cheap to share by `Arc`; [`Verifier::replace`] changes keys and rules without a restart.
pub struct Verifier {
    inner: watch::Sender<Arc<Inner>>,
    /// What it was made of: a change of either begins with both.
    given: Mutex<(Setup, Grants)>,
    revocations: Revocations,
    /// Where API tokens are looked for, once there is a database.
    accounts: OnceLock<Accounts>,
    /// Who fails too often.
    guard: Guard,
    metrics: IdentityMetrics,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.inner().keys).finish_non_exhaustive()
    }
}

impl Verifier {
    /// Keys of ours alone: the first signs, all verify.
    ///
    /// # Errors
    /// Unusable keys or rules.
    pub fn new(keys: Vec<SigningKey>, rules: TokenRules) -> Result<Self, IdentityError> {
        Self::of(Setup::of_keys(keys, rules))
    }

    /// All that a configuration describes.
    ///
    /// # Errors
    /// Unusable keys or rules.
    pub fn of(setup: Setup) -> Result<Self, IdentityError> {
        let guard = Guard::default();
        guard.replace(setup.guard);
        let (inner, metrics) = (Inner::new(setup.clone(), &[])?, IdentityMetrics::default());
        metrics.masks(&inner.views);
        let given = Mutex::new((setup, Grants::new()));
        let (inner, revocations) = (watch::Sender::new(Arc::new(inner)), Revocations::default());
        Ok(Self { inner, given, revocations, accounts: OnceLock::new(), guard, metrics })
    }

    /// Puts new keys and rules into force for the next token.
    ///
    /// # Errors
    /// Unusable keys or rules; then the old ones stay.
    pub fn replace(&self, keys: Vec<SigningKey>, rules: TokenRules) -> Result<(), IdentityError> {
        self.replace_all(Setup::of_keys(keys, rules))
    }

    /// The same with all that a configuration describes. An issuer that stays as it was keeps the keys that it has.
    ///
    /// # Errors
    /// Unusable keys or rules; then the old ones stay.
    pub fn replace_all(&self, setup: Setup) -> Result<(), IdentityError> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = Inner::new(setup.clone().granting(&given.1), &self.inner().issuers)?;
        self.guard.replace(setup.guard);
        self.metrics.masks(&inner.views);
        self.inner.send_replace(Arc::new(inner));
        given.0 = setup;
        Ok(())
    }

    /// Grants roles these beside what the rules grant them, in place of what was granted so before; answers whether that is something else.
    ///
    /// # Errors
    /// One that is malformed; then nothing changes.
    pub fn take_grants(&self, grants: Grants) -> Result<bool, IdentityError> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.1 == grants {
            return Ok(false);
        }
        let inner = Inner::new(given.0.clone().granting(&grants), &self.inner().issuers)?;
        self.inner.send_replace(Arc::new(inner));
        given.1 = grants;
        Ok(true)
    }

    /// What is revoked; the store of revocations fills it.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Takes API tokens from now on. Once: those of the first stay.
    pub fn take_accounts(&self, accounts: Accounts) {
        let _ = self.accounts.set(accounts);
    }

    /// Who fails too often, for what is signed or keyed otherwise.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Whether the rules name this role.
    #[must_use]
    pub fn knows_role(&self, role: &str) -> bool {
        self.inner().knows_role(role)
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &IdentityMetrics {
        &self.metrics
    }

    /// Registers what is counted.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        self.guard.register(registry);
    }

    /// Fetches the issuers' keys and keeps them fresh, until `stop` is done.
    pub async fn keep(self: Arc<Self>, stop: impl Future<Output = ()>) {
        let mut changes = self.inner.subscribe();
        let work = async {
            loop {
                let issuers = changes.borrow_and_update().issuers.clone();
                // Dropped with the next change, and with them what is under way.
                let mut tasks = JoinSet::new();
                for issuer in issuers {
                    let metrics = self.metrics.clone();
                    tasks.spawn(async move { issuer.keep(&metrics).await });
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }

    /// Tries each issuer once, for `dzvin check`: its name, and how many keys it has or why none.
    pub async fn try_issuers(&self) -> Vec<(String, Result<usize, String>)> {
        let mut all = Vec::new();
        for issuer in &self.inner().issuers {
            all.push((issuer.config().issuer.clone(), issuer.try_once().await));
        }
        all
    }

    /// Signs with the first key. Issuer and audience of the rules are filled in where the claims are silent.
    ///
    /// # Errors
    /// [`IdentityError::Sign`] when the token would be too long.
    pub fn sign(&self, claims: &Claims) -> Result<String, IdentityError> {
        let inner = self.inner();
        let mut claims = claims.clone();
        inner.fill(&mut claims.iss, &mut claims.aud);
        inner.keys.first().ok_or(IdentityError::Keys).and_then(|key| sign(key, &claims))
    }

    /// Signs a subscription's token, with the first of their keys.
    ///
    /// # Errors
    /// As [`Verifier::sign`].
    pub fn sign_subscription(&self, claims: &SubscriptionClaims) -> Result<String, IdentityError> {
        let inner = self.inner();
        let mut claims = claims.clone();
        inner.fill(&mut claims.iss, &mut claims.aud);
        inner.keys_for(Purpose::Subscription).first().ok_or(IdentityError::Keys).and_then(|key| sign(key, &claims))
    }

    /// Checks a token at the moment `now` with the keys that are known, and answers its claims. What is revoked is not asked.
    ///
    /// # Errors
    /// Expired when nothing else is wrong with it, invalid, or unavailable when keys have to be fetched first.
    pub fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, AuthError> {
        let inner = self.inner();
        match inner.signed(token, Purpose::Connection) {
            Ok(signed) => inner.claims(&signed, now.unix_timestamp()),
            Err(Open::Refused) => Err(AuthError::Invalid),
            Err(Open::Ask(..)) => Err(AuthError::Unavailable),
        }
    }

    fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner.borrow())
    }

    /// Goes on at once with what is known, or once the issuer's keys are there.
    fn checked<'a, T: Send + 'a>(
        &'a self,
        token: &'a str,
        purpose: Purpose,
        go_on: impl FnOnce(&Self, &Inner, &Signed) -> Result<T, AuthError> + Send + 'a,
    ) -> Verified<'a, T> {
        let inner = self.inner();
        let done = match inner.signed(token, purpose) {
            Ok(signed) => go_on(self, &inner, &signed),
            Err(Open::Refused) => Err(AuthError::Invalid),
            Err(Open::Ask(issuer, compact, payload)) => {
                return async move {
                    let settled = issuer.settle(&compact).await;
                    let signed = Signed { payload, by: Some(issuer) };
                    let result = settled.and_then(|()| go_on(self, &inner, &signed));
                    self.metrics.checked(&result);
                    result
                }
                .boxed();
            }
        };
        self.metrics.checked(&done);
        future::ready(done).boxed()
    }

    /// # Errors
    /// Invalid when it is revoked.
    fn admit(&self, user: &str, jti: Option<&str>, issued_at: Option<i64>, now: i64) -> Result<(), AuthError> {
        if self.revocations.holds(user, jti, issued_at, now) {
            self.metrics.revoked();
            return Err(AuthError::Invalid);
        }
        Ok(())
    }

    /// An API token of ours.
    async fn api_token(&self, token: &str) -> Result<Identity, AuthError> {
        let accounts = self.accounts.get().ok_or(AuthError::Invalid)?;
        let found = accounts.find(token).await.map_err(|error| {
            tracing::warn!(error = chain(&error), "an API token cannot be looked for");
            AuthError::Unavailable
        })?;
        let found = found.ok_or(AuthError::Invalid)?;
        let (now, made) = (OffsetDateTime::now_utc(), found.created_at.unix_timestamp());
        if found.expires_at <= now {
            return Err(AuthError::Expired);
        }
        self.admit(&found.user, Some(&found.id), Some(made), now.unix_timestamp())?;
        accounts.used(&found);
        let claims = Claims { sub: found.user.clone(), roles: found.roles.clone(), ..Claims::default() };
        let granted = self.inner().shared_permissions(&claims).map_err(|_| AuthError::Invalid)?;
        let permissions = match &found.scopes {
            Some(scopes) => Arc::new((*granted).clone().within(scopes)),
            None => granted,
        };
        Ok(Identity {
            expires_at: Some(found.expires_at),
            jti: Some(Arc::clone(&found.id)),
            issued_at: Some(made),
            ..Identity::new(&found.user, permissions)
        })
    }

    fn identity(&self, inner: &Inner, signed: &Signed) -> Result<Identity, AuthError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = inner.claims(signed, now)?;
        self.admit(&claims.sub, claims.jti.as_deref(), claims.iat, now)?;
        let permissions = inner.shared_permissions(&claims).map_err(|_| AuthError::Invalid)?;
        Ok(Identity {
            expires_at: moment(claims.ends_at()),
            info: claims.info_bytes(),
            subscriptions: server_subscriptions(&claims),
            jti: claims.jti.as_deref().map(Arc::from),
            issued_at: claims.iat,
            ..Identity::new(&claims.sub, permissions)
        })
    }

    fn grant(&self, inner: &Inner, signed: &Signed, user: &str, channel: &str) -> Result<SubscriptionGrant, AuthError> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = inner.subscription_claims(signed, user, channel, now)?;
        self.admit(user, claims.jti.as_deref(), claims.iat, now)?;
        let expires_at = moment(inner.end_of(signed, &claims, now)?);
        let mark = TokenMark { user: None, jti: claims.jti.as_deref().map(Arc::from), issued_at: claims.iat };
        Ok(SubscriptionGrant { expires_at, info: claims.info_bytes(), overrides: claims.overrides, mark: Some(mark) })
    }
}

fn sign(key: &SigningKey, claims: &impl serde::Serialize) -> Result<String, IdentityError> {
    let header = serde_json::json!({ "alg": key.algorithm, "kid": key.id, "typ": "JWT" }).to_string();
    let claims = serde_json::to_vec(claims).map_err(|_| IdentityError::Sign)?;
    let message = format!("{}.{}", base64url(header.as_bytes()), base64url(&claims));
    let token = format!("{message}.{}", base64url(key.sign(message.as_bytes()).as_ref()));
    if token.len() > MAX_TOKEN { Err(IdentityError::Sign) } else { Ok(token) }
}

fn moment(seconds: Option<i64>) -> Option<OffsetDateTime> {
    seconds.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok())
}

/// Those of `channels`, but for those of which `subs` says more.
fn server_subscriptions(claims: &Claims) -> Arc<[ServerSubscription]> {
    if claims.channels.is_empty() && claims.subs.is_empty() {
        return Arc::default();
    }
    let mut all: BTreeMap<&str, ServerSubscription> = BTreeMap::new();
    for channel in &claims.channels {
        all.insert(channel, ServerSubscription { channel: channel.as_str().into(), ..ServerSubscription::default() });
    }
    for (channel, options) in &claims.subs {
        let (info, data) = (options.info_bytes(), options.data_bytes());
        let subscription =
            ServerSubscription { channel: channel.as_str().into(), info, data, overrides: options.overrides };
        all.insert(channel, subscription);
    }
    all.into_values().collect()
}

impl Authenticator for Verifier {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verified<'a, Identity> {
        if token.is_empty() {
            let permissions = self.inner().anonymous.clone();
            let nobody = permissions.map(|permissions| Identity::new("", permissions)).ok_or(AuthError::Invalid);
            return future::ready(nobody).boxed();
        }
        if is_api_token(token) {
            return self.api_token(token).inspect(|result| self.metrics.checked(result)).boxed();
        }
        self.checked(token, Purpose::Connection, Self::identity)
    }

    fn authenticate_from<'a>(&'a self, token: &'a str, address: Option<IpAddr>) -> Verified<'a, Identity> {
        match self.guard.admit(address, token) {
            Ok(tried) => self.authenticate(token).inspect(move |result| self.guard.judge(&tried, result)).boxed(),
            Err(wait) => future::ready(Err(AuthError::TooMany(wait))).boxed(),
        }
    }

    fn subscription<'a>(&'a self, token: &'a str, user: &'a str, channel: &'a str) -> Verified<'a, SubscriptionGrant> {
        self.checked(token, Purpose::Subscription, |this, inner, signed| this.grant(inner, signed, user, channel))
    }

    fn revoked(&self, identity: &Identity) -> bool {
        self.revocations.concern(identity, OffsetDateTime::now_utc().unix_timestamp())
    }

    fn revoked_for(&self, user: &str, mark: &TokenMark) -> bool {
        let (now, user) = (OffsetDateTime::now_utc().unix_timestamp(), mark.user.as_deref().unwrap_or(user));
        self.revocations.holds(user, mark.jti.as_deref(), mark.issued_at, now)
    }
}

#[cfg(test)]
mod tests;
