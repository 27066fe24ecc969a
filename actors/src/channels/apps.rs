//! Applications of the Pusher protocol: credentials, what their clients may, and which channels are theirs.
//!
//! Applications are credentials to one set of channels, but for isolated ones: each of these has a set of its own, and the
//! hub's channels are not in it. Inside the hub its channels stand behind `/{id}/`, which no name that anybody can give begins
//! with; outside nobody sees that. The whole set is replaced at once, and sessions look theirs up by id, so that a secret
//! changes without a restart and an application that is switched off is off.

mod app;
#[cfg(test)]
mod tests;
mod webhook;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use dzvin_protocols::channels::{
    ISOLATED,
    pusher::{CredentialsError, Name, WebhookEvent, is_cache},
};

use super::ChannelRules;
use crate::platform::ports::HistoryLimits;

pub use app::{App, AppRules, MAX_APP_ID, MasterKey};
pub use webhook::Webhook;

/// Applications that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppsError {
    /// The id is malformed.
    #[error("an application's id is 1 to {MAX_APP_ID} characters of A-Z a-z 0-9 _ -")]
    Id,
    /// Two have one id.
    #[error("two applications have this id")]
    SameId,
    /// A key or secret is malformed, or there is none.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Two have one key.
    #[error("this key is used twice")]
    SameKey,
    /// The master key is none.
    #[error("encryption_master_key is not 32 bytes in base64")]
    MasterKey,
}

/// A channel inside the hub as clients of its application spell it.
#[must_use]
pub fn outside(channel: &str) -> &str {
    let own = channel.strip_prefix(ISOLATED).and_then(|rest| rest.split_once(ISOLATED));
    own.map_or(channel, |(_, name)| name)
}

/// The applications in force. Cheap to share.
#[derive(Clone, Default)]
pub struct Apps(Arc<RwLock<Arc<[Arc<App>]>>>);

impl fmt::Debug for Apps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().iter().map(|app| &app.id)).finish()
    }
}

impl Apps {
    /// Puts these into force instead of those before.
    ///
    /// # Errors
    /// Ids or keys that are used twice; then everything stays as it was.
    pub fn replace(&self, apps: Vec<App>) -> Result<(), AppsError> {
        for (n, app) in apps.iter().enumerate() {
            let before = apps.get(..n).unwrap_or_default();
            if before.iter().any(|other| other.id == app.id) {
                return Err(AppsError::SameId);
            }
            let of_others = before.iter().flat_map(|other| &other.keys);
            for (k, one) in app.keys.iter().enumerate() {
                let of_own = app.keys.get(..k).unwrap_or_default();
                if of_others.clone().chain(of_own).any(|other| other.key() == one.key()) {
                    return Err(AppsError::SameKey);
                }
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = apps.into_iter().map(Arc::new).collect();
        Ok(())
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<[Arc<App>]> {
        Arc::clone(&*self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the number of a channel's subscribers is told to them: where an application wants that, on channels whose
    /// members are not told anyway.
    #[must_use]
    pub fn counts(&self, channel: &str) -> bool {
        self.all().iter().filter(|app| app.enabled && app.subscription_counts).any(|app| {
            let name = app.name_of(channel).and_then(|name| Name::parse(name).ok());
            name.is_some_and(|name| !name.is_presence() && !name.is_reserved())
        })
    }

    /// Whether a server of an application is told who comes to this channel and who leaves it.
    #[must_use]
    pub fn hear_members(&self, channel: &str) -> bool {
        let all = self.all();
        let mut told = all.iter().filter(|app| app.enabled && app.webhooks.iter().any(Webhook::hears_members));
        told.any(|app| {
            let name = app.name_of(channel).and_then(|name| Name::parse(name).ok());
            name.is_some_and(|name| name.is_presence())
        })
    }

    /// What the bus keeps of a channel, as it is named inside the hub, when something is published there, whoever does: what its
    /// rules say, and of a cache channel at least the last publication, for as long as clients are shown it.
    #[must_use]
    pub fn keep(&self, channel: &str, rules: &ChannelRules) -> HistoryLimits {
        let keep = rules.keep;
        if !is_cache(outside(channel)) {
            return keep;
        }
        let Some(age) = self.all().iter().map(|app| app.rules.cache_age).max() else { return keep };
        HistoryLimits { count: keep.count.max(1), age: keep.age.max(age), ..keep }
    }

    /// Whether there are none, so that nobody is concerned.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The one that has this key, whether it is enabled or not.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<Arc<App>> {
        self.all().iter().find(|app| app.ring.has(key)).cloned()
    }

    /// The one of this id, whether it is enabled or not.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.all().iter().find(|app| *app.id == *id).cloned()
    }
}

/// Who hears what happens on channels of an application, to tell its server. Must not wait: what there is no room for is
/// dropped and counted.
pub trait AppObserver: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, app: &Arc<App>, event: WebhookEvent);
}

/// Nobody hears.
impl AppObserver for () {
    fn observe(&self, _: &Arc<App>, _: WebhookEvent) {}
}
