//! Tokens: JWT signed with a key of ours, or by an issuer of the configuration.
//!
//! Up to [`MAX_KEYS`] keys of ours are alive: the first signs, all verify, so a key is rotated by putting the new one first
//! and dropping the old one when its last token has ended. A token that names a key (`kid`) is checked against that key only.
//! Subscriptions' tokens have keys of their own where those are configured.
//!
//! Invariants: a token with an algorithm of the HMAC family is checked with keys of ours alone, any other with the keys of
//! the issuer that it names alone; what is known is answered at once, without a lock held while anything is computed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use dzvin_actors::platform::ports::{
    AuthError, Authenticator, Identity, ServerSubscription, SubscriptionGrant, Verified,
};
use dzvin_protocols::identity::{
    Audience, ClaimError, ClaimRules, Claims, Compact, Family, MAX_PERMISSIONS, PermissionError, Permissions,
    SubscriptionClaims, base64url,
};
use futures_util::future::{self, FutureExt};
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::{sync::watch, task::JoinSet};

pub use dzvin_protocols::identity::MAX_TOKEN;

use super::{
    issuer::{Issuer, Now},
    keys::{self, SigningKey},
    metrics::IdentityMetrics,
    revocations::Revocations,
    setup::Setup,
    views::{RoleViews, ViewError},
};
use crate::platform::config::ViewsConfig;

/// One that signs and one that is on its way out.
pub const MAX_KEYS: usize = 2;
/// RFC 7518 3.2: an HS256 key has at least the size of the hash.
pub const MIN_KEY: usize = 32;
/// Most sets of roles whose rights are remembered: as many as organisations have; tokens with other sets have rights of their own.
const MAX_ROLE_SETS: usize = 256;
/// Clocks of machines that keep time by NTP differ by less.
pub(super) const LEEWAY_SECONDS: i64 = 5;

/// Keys or rules that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None, or more than [`MAX_KEYS`], or two with one id.
    #[error("one or two keys with different ids are needed")]
    Keys,
    /// Shorter than its algorithm allows.
    #[error("the key {id:?} is shorter than {least} bytes")]
    ShortKey {
        /// The key.
        id: String,
        /// What its algorithm needs.
        least: usize,
    },
    /// Empty or too long.
    #[error("a key id is 1 to {} visible ASCII characters", keys::MAX_KEY_ID)]
    KeyId,
    /// A secret for an algorithm that has none.
    #[error("the key {0:?} is a secret: its algorithm is HS256, HS384 or HS512")]
    NotSymmetric(String),
    /// A public key that is none, or does not fit its algorithm.
    #[error("the public key {0:?} is not one PEM section PUBLIC KEY that fits its algorithm")]
    PublicKey(String),
    /// A role that grants something malformed.
    #[error("the role {role:?} is not usable")]
    Role {
        /// Its name.
        role: String,
        /// What is wrong.
        #[source]
        source: PermissionError,
    },
    /// What a role sees is not usable.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The claims cannot be written, or the token would be longer than [`MAX_TOKEN`].
    #[error("the token cannot be made")]
    Sign,
}

/// What tokens must say and what their roles mean.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// Required `iss`, also written into tokens that we sign.
    pub issuer: Option<String>,
    /// Required `aud`, also written into tokens that we sign.
    pub audience: Option<String>,
    /// Permissions of each role.
    pub roles: BTreeMap<String, Vec<String>>,
    /// What each role sees of which kind.
    pub views: ViewsConfig,
}

impl Default for TokenRules {
    /// Admin everything; operator reads everything and operates mirrors; viewer reads.
    fn default() -> Self {
        let role = |name: &str, all: &[&str]| (name.to_owned(), all.iter().map(ToString::to_string).collect());
        let roles = BTreeMap::from([
            role("admin", &["*"]),
            role("operator", &["entities:read:*", "mirrors:read:*", "mirrors:operate:*"]),
            role("viewer", &["entities:read:*", "mirrors:read:*"]),
        ]);
        Self { issuer: None, audience: None, roles, views: ViewsConfig::new() }
    }
}

/// Signs and verifies. Cheap to share by `Arc`; [`Verifier::replace`] changes keys and rules without a restart.
pub struct Verifier {
    inner: watch::Sender<Arc<Inner>>,
    revocations: Revocations,
    metrics: IdentityMetrics,
}

struct Inner {
    keys: Vec<SigningKey>,
    /// Those of subscriptions' tokens; empty: the same.
    subscription_keys: Vec<SigningKey>,
    issuers: Vec<Arc<Issuer>>,
    rules: TokenRules,
    claim_rules: ClaimRules,
    views: RoleViews,
    /// What a client without a token may do; `None`: there are no such clients.
    anonymous: Option<Arc<Permissions>>,
    /// What sets of roles grant, as tokens have named them.
    of_roles: RwLock<HashMap<Vec<String>, Arc<Permissions>>>,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Connection,
    Subscription,
}

/// A token whose signature is good.
struct Signed {
    payload: Vec<u8>,
    /// Who signed it; `None`: we.
    by: Option<Arc<Issuer>>,
}

/// A token that is not known to be good.
enum Open<'a> {
    Refused,
    /// The issuer's keys have to be asked for.
    Ask(Arc<Issuer>, Box<Compact<'a>>, Vec<u8>),
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
        let (inner, metrics) = (Inner::new(setup, &[])?, IdentityMetrics::default());
        metrics.masks(&inner.views);
        Ok(Self { inner: watch::Sender::new(Arc::new(inner)), revocations: Revocations::default(), metrics })
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
        let inner = Inner::new(setup, &self.inner().issuers)?;
        self.metrics.masks(&inner.views);
        self.inner.send_replace(Arc::new(inner));
        Ok(())
    }

    /// What is revoked; the store of revocations fills it.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &IdentityMetrics {
        &self.metrics
    }

    /// Registers what is counted.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
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
        let (expires_at, info) = (moment(claims.ends_at()), claims.info_bytes());
        Ok(SubscriptionGrant { expires_at, info, overrides: claims.overrides })
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

fn auth_error(error: ClaimError) -> AuthError {
    if error == ClaimError::Expired { AuthError::Expired } else { AuthError::Invalid }
}

impl Inner {
    fn new(setup: Setup, known: &[Arc<Issuer>]) -> Result<Self, IdentityError> {
        let Setup { keys, subscription_keys, issuers, rules, anonymous, pace } = setup;
        for keys in [&keys, &subscription_keys] {
            let same_id = keys.len() == 2 && keys.first().map(|k| &k.id) == keys.last().map(|k| &k.id);
            if keys.len() > MAX_KEYS || same_id {
                return Err(IdentityError::Keys);
            }
        }
        if keys.is_empty() && issuers.is_empty() {
            return Err(IdentityError::Keys);
        }
        let role = |role: &str, all: &[String]| {
            Permissions::parse(all.iter().map(String::as_str))
                .map_err(|source| IdentityError::Role { role: role.to_owned(), source })
        };
        for (name, all) in &rules.roles {
            role(name, all)?;
        }
        let views = RoleViews::read(&rules.views)?;
        let anonymous = anonymous.map(|name| {
            let granted = name.as_ref().and_then(|name| rules.roles.get(name)).map_or(&[][..], Vec::as_slice);
            let all = role(name.as_deref().unwrap_or_default(), granted)?;
            let seen = views.of(&[(name.as_deref(), all.clone())]);
            Ok::<_, IdentityError>(Arc::new(all.with_views(seen)))
        });
        let issuers = issuers.iter().map(|config| {
            let same = known.iter().find(|issuer| issuer.config() == config);
            same.map_or_else(|| Issuer::new(config, LEEWAY_SECONDS, pace).map(Arc::new), |same| Ok(Arc::clone(same)))
        });
        let (issuer, audience) = (rules.issuer.clone(), rules.audience.clone());
        Ok(Self {
            issuers: issuers.collect::<Result<_, _>>()?,
            anonymous: anonymous.transpose()?,
            keys,
            subscription_keys,
            rules,
            views,
            claim_rules: ClaimRules { leeway: LEEWAY_SECONDS, issuer, audience },
            of_roles: RwLock::default(),
        })
    }

    fn keys_for(&self, purpose: Purpose) -> &[SigningKey] {
        match purpose {
            Purpose::Subscription if !self.subscription_keys.is_empty() => &self.subscription_keys,
            _ => &self.keys,
        }
    }

    fn fill(&self, issuer: &mut Option<String>, audience: &mut Audience) {
        if issuer.is_none() {
            issuer.clone_from(&self.rules.issuer);
        }
        if let (true, Some(name)) = (audience.is_empty(), &self.rules.audience) {
            *audience = Audience::One(name.clone());
        }
    }

    /// Checks the signature with what is known.
    fn signed<'a>(&self, token: &'a str, purpose: Purpose) -> Result<Signed, Open<'a>> {
        let refused = |_| Open::Refused;
        let compact = Compact::parse(token).map_err(refused)?;
        if compact.algorithm.family() == Family::Hmac {
            if !keys::signed_by_us(self.keys_for(purpose), &compact) {
                return Err(Open::Refused);
            }
            return Ok(Signed { payload: compact.payload().map_err(refused)?, by: None });
        }
        if self.issuers.is_empty() {
            return Err(Open::Refused);
        }
        let payload = compact.payload().map_err(refused)?;
        let named = Compact::claimed_issuer(&payload).ok_or(Open::Refused)?;
        let of = |issuer: &&Arc<Issuer>| {
            let config = issuer.config();
            let serves = match purpose {
                Purpose::Connection => config.connections,
                Purpose::Subscription => config.subscriptions,
            };
            serves && config.issuer == *named
        };
        let issuer = Arc::clone(self.issuers.iter().find(of).ok_or(Open::Refused)?);
        match issuer.check(&compact) {
            Now::Signed => Ok(Signed { payload, by: Some(issuer) }),
            Now::Refused => Err(Open::Refused),
            Now::Later => Err(Open::Ask(issuer, Box::new(compact), payload)),
        }
    }

    fn claims(&self, signed: &Signed, now: i64) -> Result<Claims, AuthError> {
        let (claims, rules) = match &signed.by {
            None => (serde_json::from_slice(&signed.payload).ok(), &self.claim_rules),
            Some(issuer) => (issuer.names.read(&signed.payload), &issuer.rules),
        };
        let claims: Claims = claims.ok_or(AuthError::Invalid)?;
        claims.check(now, rules).map_err(auth_error)?;
        Ok(claims)
    }

    fn subscription_claims(
        &self,
        signed: &Signed,
        user: &str,
        channel: &str,
        now: i64,
    ) -> Result<SubscriptionClaims, AuthError> {
        let mut claims: SubscriptionClaims = serde_json::from_slice(&signed.payload).map_err(|_| AuthError::Invalid)?;
        let rules = match &signed.by {
            None => &self.claim_rules,
            Some(issuer) => {
                claims.sub = issuer.names.user(&claims.sub);
                &issuer.rules
            }
        };
        claims.check(user, channel, now, rules).map_err(auth_error)?;
        Ok(claims)
    }

    /// Tokens of the same roles share what these grant: thousands of sessions have few sets of rights.
    fn shared_permissions(&self, claims: &Claims) -> Result<Arc<Permissions>, PermissionError> {
        if !claims.permissions.is_empty() {
            return self.permissions(claims).map(Arc::new);
        }
        let known = |of_roles: &HashMap<Vec<String>, Arc<Permissions>>| of_roles.get(&claims.roles).cloned();
        if let Some(known) = known(&self.of_roles.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(known);
        }
        let made = Arc::new(self.permissions(claims)?);
        let mut of_roles = self.of_roles.write().unwrap_or_else(PoisonError::into_inner);
        if of_roles.len() < MAX_ROLE_SETS {
            of_roles.insert(claims.roles.clone(), Arc::clone(&made));
        }
        Ok(made)
    }

    /// Unknown roles grant nothing: a token may carry roles meant for another system.
    fn permissions(&self, claims: &Claims) -> Result<Permissions, PermissionError> {
        let of_roles =
            claims.roles.iter().take(MAX_PERMISSIONS).filter_map(|role| self.rules.roles.get(role)).flatten();
        let all = Permissions::parse(of_roles.chain(&claims.permissions).map(String::as_str))?;
        if self.views.are_none() {
            return Ok(all);
        }
        let of = |granted: &[String]| Permissions::parse(granted.iter().map(String::as_str));
        let mut grants = vec![(None, of(&claims.permissions)?)];
        for role in claims.roles.iter().take(MAX_PERMISSIONS) {
            if let Some(granted) = self.rules.roles.get(role) {
                grants.push((Some(role.as_str()), of(granted)?));
            }
        }
        Ok(all.with_views(self.views.of(&grants)))
    }
}

impl Authenticator for Verifier {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verified<'a, Identity> {
        if token.is_empty() {
            let permissions = self.inner().anonymous.clone();
            let nobody = permissions.map(|permissions| Identity::new("", permissions)).ok_or(AuthError::Invalid);
            return future::ready(nobody).boxed();
        }
        self.checked(token, Purpose::Connection, Self::identity)
    }

    fn subscription<'a>(&'a self, token: &'a str, user: &'a str, channel: &'a str) -> Verified<'a, SubscriptionGrant> {
        self.checked(token, Purpose::Subscription, |this, inner, signed| this.grant(inner, signed, user, channel))
    }

    fn revoked(&self, identity: &Identity) -> bool {
        self.revocations.concern(identity, OffsetDateTime::now_utc().unix_timestamp())
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
