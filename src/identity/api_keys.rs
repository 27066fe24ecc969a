//! Keys of servers that call the publish API: `X-API-Key`, as Centrifugo's server API has it.
//!
//! Invariants: only hashes of keys are kept, and compared in constant time; the whole set is replaced at once.

use std::sync::{Arc, PoisonError, RwLock};

use dzvin_protocols::identity::Permissions;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::IdentityError;
use crate::platform::config::ApiKeyConfig;

/// One key as it is kept.
struct ApiKey {
    id: Arc<str>,
    digest: [u8; 32],
    permissions: Arc<Permissions>,
}

/// The keys in force. Cheap to share.
#[derive(Clone, Default)]
pub struct ApiKeys(Arc<RwLock<Arc<[ApiKey]>>>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKeys")
    }
}

impl ApiKeys {
    /// Puts these keys into force instead of those before.
    ///
    /// # Errors
    /// A permission that is none; then everything stays as it was.
    pub fn replace(&self, keys: &[ApiKeyConfig]) -> Result<(), IdentityError> {
        let made = keys.iter().map(|key| {
            let permissions = Permissions::parse(key.permissions.iter().map(String::as_str))
                .map_err(|source| IdentityError::Role { role: format!("identity.api_keys.{}", key.id), source })?;
            let secret = key.secret.as_ref().map_or("", |secret| secret.expose());
            let digest = Sha256::digest(secret.as_bytes()).into();
            Ok(ApiKey { id: key.id.as_str().into(), digest, permissions: Arc::new(permissions) })
        });
        let made: Arc<[ApiKey]> = made.collect::<Result<Vec<_>, IdentityError>>()?.into();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(())
    }

    /// Whose key this is, and what it may do. Every key is compared, so that time does not tell which came near.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<(Arc<str>, Arc<Permissions>)> {
        let keys = Arc::clone(&*self.0.read().unwrap_or_else(PoisonError::into_inner));
        let digest: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let mut found = None;
        for key in keys.iter() {
            let same: Choice = key.digest.ct_eq(&digest);
            if bool::from(same) {
                found = Some((Arc::clone(&key.id), Arc::clone(&key.permissions)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::config::Secret;

    fn key(id: &str, secret: &str, permissions: &[&str]) -> ApiKeyConfig {
        let permissions = permissions.iter().map(ToString::to_string).collect();
        ApiKeyConfig { id: id.to_owned(), secret: Some(Secret::new(secret)), secret_file: None, permissions }
    }

    #[test]
    fn a_key_is_known_until_it_is_replaced() {
        let keys = ApiKeys::default();
        assert!(keys.find("").is_none(), "no keys, and the empty one is none of them");
        let (old, new) = (key("old", &"o".repeat(32), &["channels:*:*"]), key("new", &"n".repeat(32), &[]));
        keys.replace(&[old, new]).expect("keys");
        let (id, permissions) = keys.find(&"o".repeat(32)).expect("known");
        assert!(&*id == "old" && permissions.allow("channels", "publish", "chat"));
        assert!(keys.find(&"o".repeat(31)).is_none());
        keys.replace(&[key("bad", &"b".repeat(32), &["nonsense"])]).expect_err("no permission");
        assert!(keys.find(&"n".repeat(32)).is_some(), "all stays");
        keys.replace(&[]).expect("none");
        assert!(keys.find(&"o".repeat(32)).is_none());
    }
}
