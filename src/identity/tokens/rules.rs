//! What tokens must say, what roles mean, and what is wrong with keys that cannot be used.

use std::collections::BTreeMap;

use dzvin_protocols::identity::PermissionError;

use crate::{
    identity::{keys, views::ViewError},
    platform::config::ViewsConfig,
};

/// One that signs and one that is on its way out.
pub const MAX_KEYS: usize = 2;
/// RFC 7518 3.2: an HS256 key has at least the size of the hash.
pub const MIN_KEY: usize = 32;
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
    /// The claims cannot be written, or the token would be longer than [`super::MAX_TOKEN`].
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
    /// Admin everything; operator reads and changes everything but for good, and operates mirrors; viewer reads.
    fn default() -> Self {
        let role = |name: &str, all: &[&str]| (name.to_owned(), all.iter().map(ToString::to_string).collect());
        let roles = BTreeMap::from([
            role("admin", &["*"]),
            role(
                "operator",
                &[
                    "entities:read:*",
                    "entities:create:*",
                    "entities:update:*",
                    "entities:trash:*",
                    "entities:restore:*",
                    "mirrors:read:*",
                    "mirrors:operate:*",
                ],
            ),
            role("viewer", &["entities:read:*", "mirrors:read:*"]),
        ]);
        Self { issuer: None, audience: None, roles, views: ViewsConfig::new() }
    }
}
