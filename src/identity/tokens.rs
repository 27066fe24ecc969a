//! Tokens of ours: JWT, HS256 and nothing else.
//!
//! Up to [`MAX_KEYS`] keys are alive: the first signs, all verify, so a key is rotated by putting the new one first and
//! dropping the old one when its last token has ended. A token that names a key (`kid`) is checked against that key only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use dzvin_actors::platform::ports::{AuthError, Authenticator, Identity, SubscriptionGrant, Verified};
use dzvin_protocols::identity::{ClaimError, ClaimRules, Claims, MAX_PERMISSIONS, PermissionError, Permissions};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use time::OffsetDateTime;

use crate::platform::config::{IdentityConfig, KeyConfig};

/// Longest token: it must fit beside other headers into the 16 KiB that proxies commonly allow.
pub const MAX_TOKEN: usize = 8 * 1024;
/// One that signs and one that is on its way out.
pub const MAX_KEYS: usize = 2;
/// RFC 7518 3.2: an HS256 key has at least the size of the hash.
pub const MIN_KEY: usize = 32;
/// Longest key id.
const MAX_KEY_ID: usize = 64;
/// Most sets of roles whose rights are remembered: as many as organisations have; tokens with other sets have rights of their own.
const MAX_ROLE_SETS: usize = 256;
/// Clocks of machines that keep time by NTP differ by less.
const LEEWAY_SECONDS: i64 = 5;

/// Keys or rules that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None, or more than [`MAX_KEYS`], or two with one id.
    #[error("one or two keys with different ids are needed")]
    Keys,
    /// Shorter than [`MIN_KEY`].
    #[error("the key {0:?} is shorter than {MIN_KEY} bytes")]
    ShortKey(String),
    /// Empty or too long.
    #[error("a key id is 1 to {MAX_KEY_ID} visible ASCII characters")]
    KeyId,
    /// A role that grants something malformed.
    #[error("the role {role:?} is not usable")]
    Role {
        /// Its name.
        role: String,
        /// What is wrong.
        #[source]
        source: PermissionError,
    },
    /// The claims cannot be written, or the token would be longer than [`MAX_TOKEN`].
    #[error("the token cannot be made")]
    Sign,
}

/// One HS256 key.
#[derive(Clone)]
pub struct SigningKey {
    id: String,
    signs: EncodingKey,
    verifies: DecodingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// # Errors
    /// An unusable id or a key that is too short.
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, IdentityError> {
        if id.is_empty() || id.len() > MAX_KEY_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(IdentityError::KeyId);
        }
        if secret.len() < MIN_KEY {
            return Err(IdentityError::ShortKey(id.to_owned()));
        }
        let (signs, verifies) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        Ok(Self { id: id.to_owned(), signs, verifies })
    }
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
        Self { issuer: None, audience: None, roles }
    }
}

/// Signs and verifies. Cheap to share by `Arc`; [`Verifier::replace`] changes keys and rules without a restart.
pub struct Verifier(RwLock<Arc<Inner>>);

struct Inner {
    keys: Vec<SigningKey>,
    rules: TokenRules,
    claim_rules: ClaimRules,
    validation: Validation,
    /// What sets of roles grant, as tokens have named them.
    of_roles: RwLock<HashMap<Vec<String>, Arc<Permissions>>>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.inner().keys).finish_non_exhaustive()
    }
}

impl Verifier {
    /// The first key signs, all verify.
    ///
    /// # Errors
    /// Unusable keys or rules.
    pub fn new(keys: Vec<SigningKey>, rules: TokenRules) -> Result<Self, IdentityError> {
        Inner::new(keys, rules).map(|inner| Self(RwLock::new(Arc::new(inner))))
    }

    /// Puts new keys and rules into force for the next token.
    ///
    /// # Errors
    /// Unusable keys or rules; then the old ones stay.
    pub fn replace(&self, keys: Vec<SigningKey>, rules: TokenRules) -> Result<(), IdentityError> {
        let inner = Arc::new(Inner::new(keys, rules)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = inner;
        Ok(())
    }

    /// Signs with the first key. Issuer and audience of the rules are filled in where the claims are silent.
    ///
    /// # Errors
    /// [`IdentityError::Sign`] when the token would be too long.
    pub fn sign(&self, claims: &Claims) -> Result<String, IdentityError> {
        let inner = self.inner();
        let key = inner.keys.first().ok_or(IdentityError::Keys)?;
        let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
        let mut claims = claims.clone();
        if claims.iss.is_none() {
            claims.iss.clone_from(&inner.rules.issuer);
        }
        if let (true, Some(audience)) = (claims.aud.is_empty(), &inner.rules.audience) {
            claims.aud = dzvin_protocols::identity::Audience::One(audience.clone());
        }
        let token = jsonwebtoken::encode(&header, &claims, &key.signs).map_err(|_| IdentityError::Sign)?;
        if token.len() > MAX_TOKEN { Err(IdentityError::Sign) } else { Ok(token) }
    }

    /// Checks a token at the moment `now` and answers its claims.
    ///
    /// # Errors
    /// Expired when nothing else is wrong with it, else invalid.
    pub fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, AuthError> {
        self.inner().verify(token, now)
    }

    fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The verifier that the configuration describes.
///
/// # Errors
/// Unusable keys or roles, as [`Verifier::new`].
pub fn verifier(config: &IdentityConfig) -> Result<Verifier, IdentityError> {
    let (keys, rules) = keys(config)?;
    Verifier::new(keys, rules)
}

/// Keys and rules of the configuration, for [`Verifier::replace`].
///
/// # Errors
/// A key without a usable secret.
pub fn keys(config: &IdentityConfig) -> Result<(Vec<SigningKey>, TokenRules), IdentityError> {
    let secret = |key: &KeyConfig| key.secret.clone().ok_or(IdentityError::Keys);
    let keys = config.keys.iter().map(|key| SigningKey::new(&key.id, secret(key)?.expose().as_bytes()));
    let IdentityConfig { issuer, audience, roles, .. } = config.clone();
    Ok((keys.collect::<Result<_, _>>()?, TokenRules { issuer, audience, roles }))
}

impl Inner {
    fn new(keys: Vec<SigningKey>, rules: TokenRules) -> Result<Self, IdentityError> {
        let same_id = keys.len() == 2 && keys.first().map(|k| &k.id) == keys.last().map(|k| &k.id);
        if keys.is_empty() || keys.len() > MAX_KEYS || same_id {
            return Err(IdentityError::Keys);
        }
        for (role, all) in &rules.roles {
            Permissions::parse(all.iter().map(String::as_str))
                .map_err(|source| IdentityError::Role { role: role.clone(), source })?;
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // Time, issuer and audience are checked by Claims::check, whose clock is given; the library checks the signature.
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let (issuer, audience) = (rules.issuer.clone(), rules.audience.clone());
        let claim_rules = ClaimRules { leeway: LEEWAY_SECONDS, issuer, audience };
        Ok(Self { keys, rules, claim_rules, validation, of_roles: RwLock::default() })
    }

    fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(AuthError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        let named = |key: &&SigningKey| header.kid.as_ref().is_none_or(|kid| *kid == key.id);
        let claims = self
            .keys
            .iter()
            .filter(named)
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, &key.verifies, &self.validation).ok())
            .ok_or(AuthError::Invalid)?
            .claims;
        match claims.check(now.unix_timestamp(), &self.claim_rules) {
            Ok(()) => Ok(claims),
            Err(ClaimError::Expired) => Err(AuthError::Expired),
            Err(_) => Err(AuthError::Invalid),
        }
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
        Permissions::parse(of_roles.chain(&claims.permissions).map(String::as_str))
    }
}

impl Authenticator for Verifier {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verified<'a, Identity> {
        Box::pin(async move {
            let inner = self.inner();
            let claims = inner.verify(token, OffsetDateTime::now_utc())?;
            let permissions = inner.shared_permissions(&claims).map_err(|_| AuthError::Invalid)?;
            let expires_at = claims.ends_at().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
            Ok(Identity { expires_at, info: claims.info_bytes(), ..Identity::new(&claims.sub, permissions) })
        })
    }

    fn subscription<'a>(&'a self, _token: &'a str, _user: &'a str, _channel: &'a str) -> Verified<'a, SubscriptionGrant> {
        Box::pin(async { Err(AuthError::Invalid) })
    }
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
