//! What changes without a restart: keys of users and servers, roles, the tokens and message limits of the Mirrors.

use std::sync::Arc;

use super::{AppError, mirrors::Links, settings};
use crate::{
    identity::{self, ApiKeys, Verifier},
    platform::config::Config,
};

/// Puts a new configuration into force as far as it can change while running.
#[derive(Clone)]
pub struct Reloader {
    pub(super) verifier: Arc<Verifier>,
    pub(super) keys: ApiKeys,
    pub(super) links: Links,
}

impl Reloader {
    /// Takes over keys, roles, and each known Mirror's token and message limit. The rest waits for a restart. All or nothing
    /// of the values that can be wrong.
    ///
    /// # Errors
    /// What is wrong; then everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), AppError> {
        let dialects = config.mirrors.iter().map(|mirror| Ok((mirror, settings::dialect(mirror)?)));
        let dialects = dialects.collect::<Result<Vec<_>, AppError>>()?;
        if config.identity.keys.is_empty() {
            return Err(AppError::config("identity.keys", "at least one key is needed"));
        }
        let (keys, rules) =
            identity::keys(&config.identity).map_err(|error| AppError::config("identity.keys", error))?;
        let api_keys = &config.identity.api_keys;
        self.keys.replace(api_keys).map_err(|error| AppError::config("identity.api_keys", error))?;
        self.verifier.replace(keys, rules).map_err(|error| AppError::config("identity.keys", error))?;
        for (mirror, dialect) in dialects {
            self.links.update(mirror, dialect.max_message_bytes);
        }
        Ok(())
    }
}
