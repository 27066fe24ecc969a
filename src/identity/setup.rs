//! From the configuration's words to keys and rules.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    guard::GuardRules,
    issuer::Pace,
    keys::SigningKey,
    tokens::{IdentityError, TokenRules, Verifier},
};
use crate::platform::config::{IdentityConfig, IssuerConfig, KeyConfig};

/// Permissions that roles have beside those of the rules, by role.
pub type Grants = BTreeMap<String, BTreeSet<String>>;

/// Keys and rules, for [`Verifier::of`] and [`Verifier::replace_all`].
#[derive(Debug, Clone)]
pub struct Setup {
    /// Keys of ours: the first signs.
    pub(super) keys: Vec<SigningKey>,
    /// Those of subscriptions' tokens; empty: the same.
    pub(super) subscription_keys: Vec<SigningKey>,
    /// Issuers beside us.
    pub(super) issuers: Vec<IssuerConfig>,
    /// What tokens of ours must say, and what roles mean.
    pub(super) rules: TokenRules,
    /// Whether clients may come without a token, and their role, if they have one.
    pub(super) anonymous: Option<Option<String>>,
    /// When failed attempts are too many.
    pub(super) guard: GuardRules,
    /// How patient issuers are asked.
    pub(super) pace: Pace,
}

impl Setup {
    /// The same, with these.
    pub(super) fn granting(mut self, grants: &Grants) -> Self {
        for (role, permissions) in grants {
            self.rules.roles.entry(role.clone()).or_default().extend(permissions.iter().cloned());
        }
        self
    }

    /// Keys of ours and nothing else.
    #[must_use]
    pub fn of_keys(keys: Vec<SigningKey>, rules: TokenRules) -> Self {
        Self {
            keys,
            subscription_keys: Vec::new(),
            issuers: Vec::new(),
            rules,
            anonymous: None,
            guard: GuardRules::default(),
            pace: Pace::default(),
        }
    }

    /// What the configuration describes.
    ///
    /// # Errors
    /// A key without a usable secret.
    pub fn of(config: &IdentityConfig) -> Result<Self, IdentityError> {
        let key = |key: &KeyConfig| {
            let secret = key.secret.as_ref().ok_or(IdentityError::Keys)?;
            SigningKey::with_algorithm(&key.id, secret.expose().as_bytes(), key.algorithm)
        };
        let keys = |all: &[KeyConfig]| all.iter().map(key).collect::<Result<Vec<_>, _>>();
        let IdentityConfig { issuer, audience, roles, views, .. } = config.clone();
        Ok(Self {
            keys: keys(&config.keys)?,
            subscription_keys: keys(&config.subscription_keys)?,
            issuers: config.issuers.clone(),
            rules: TokenRules { issuer, audience, roles, views },
            guard: config.guard.rules(),
            anonymous: config.anonymous.then(|| config.anonymous_role.clone()),
            pace: Pace::default(),
        })
    }
}

/// The verifier that the configuration describes.
///
/// # Errors
/// Unusable keys or roles, as [`Verifier::of`].
pub fn verifier(config: &IdentityConfig) -> Result<Verifier, IdentityError> {
    Verifier::of(Setup::of(config)?)
}
