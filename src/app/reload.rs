//! What changes without a restart: keys of users and servers, roles, the tokens and message limits of the Mirrors.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dzvin_actors::channels::Shards;

use super::{AppError, mirrors::Links, settings};
use crate::{
    identity::{ApiKeys, Setup, Verifier},
    platform::config::{Config, IdentityConfig},
};

/// Over how long sessions are closed when rights have changed: as long may a right that was taken away still hold.
const RECALL: Duration = Duration::from_secs(10);

/// Puts a new configuration into force as far as it can change while running.
#[derive(Clone)]
pub struct Reloader {
    verifier: Arc<Verifier>,
    keys: ApiKeys,
    links: Links,
    shards: Shards,
    /// What is in force, to see what a new configuration takes away.
    identity: Arc<Mutex<IdentityConfig>>,
}

impl Reloader {
    pub(super) fn new(
        verifier: &Arc<Verifier>,
        keys: ApiKeys,
        links: &Links,
        shards: &Shards,
        identity: &IdentityConfig,
    ) -> Self {
        Self {
            verifier: Arc::clone(verifier),
            keys,
            links: links.clone(),
            shards: shards.clone(),
            identity: Arc::new(Mutex::new(identity.clone())),
        }
    }

    /// Takes over keys, roles, and each known Mirror's token and message limit. The rest waits for a restart. All or nothing
    /// of the values that can be wrong. Sessions that were granted something by other rules begin again.
    ///
    /// # Errors
    /// What is wrong; then everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        let dialects = config.mirrors.iter().map(|mirror| Ok((mirror, settings::dialect(mirror)?)));
        let dialects = dialects.collect::<Result<Vec<_>, AppError>>()?;
        let setup = Setup::of(&config.identity).map_err(|error| AppError::config("identity.keys", error))?;
        let replace = |all: &ApiKeys| {
            all.replace(&config.identity.api_keys).map_err(|error| AppError::config("identity.api_keys", error))
        };
        // Tried on keys of nobody first: after the verifier has changed, nothing may fail.
        replace(&ApiKeys::default())?;
        self.verifier.replace_all(setup).map_err(|error| AppError::config("identity.keys", error))?;
        replace(&self.keys)?;
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, config.identity.clone());
        drop(known);
        if others_decide(&before, &config.identity) {
            tracing::info!("rights may have changed: every session connects again");
            self.shards.recall(RECALL);
        }
        for (mirror, dialect) in dialects {
            self.links.update(mirror, dialect.max_message_bytes);
        }
        Ok(())
    }
}

/// Whether a token that was good may now be none, or grant something else. A further key or issuer changes nothing for anybody.
fn others_decide(before: &IdentityConfig, now: &IdentityConfig) -> bool {
    let rules = |config: &IdentityConfig| {
        let IdentityConfig { issuer, audience, roles, anonymous, anonymous_role, subscription_keys, .. } =
            config.clone();
        (issuer, audience, roles, anonymous, anonymous_role, subscription_keys)
    };
    let stays = |key| now.keys.iter().any(|other| (&other.id, &other.secret, other.algorithm) == key);
    rules(before) != rules(now)
        || !before.keys.iter().map(|key| (&key.id, &key.secret, key.algorithm)).all(stays)
        || !before.issuers.iter().all(|issuer| now.issuers.contains(issuer))
}
