//! One issuer of tokens beside ourselves: its rules, and its keys as they were fetched last.
//!
//! Invariants: the last good set stays in force until there is a better one; an unknown key asks for one fetch, which all
//! who wait share, and there is none within [`Pace::pause`] of the one before, however many unknown keys come; nobody waits
//! longer than [`Pace::patience`], and only so many wait at once. That a key is unknown is said for good only by a set that was asked for
//! after the token came; else the token cannot be checked now.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dzvin_actors::platform::ports::AuthError;
use dzvin_protocols::identity::{Algorithm, ClaimRules, Compact, JwkSet, JwkSetError};
use rand::Rng;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    IdentityError,
    claims::ClaimNames,
    fetch::{FetchError, Source},
    keys::{KeySet, Verdict},
    metrics::IdentityMetrics,
};
use crate::platform::{config::IssuerConfig, http::chain};

/// How often an issuer is asked, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Least time between two fetches from one issuer; also the first pause after one that failed.
    pub(super) pause: Duration,
    /// Longest wait of a client for a set.
    pub(super) patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { pause: Duration::from_secs(10), patience: Duration::from_secs(2) }
    }
}

/// Most clients that wait for the sets of one issuer: a storm of connects, not a flood.
const MAX_WAITING: usize = 1024;
/// Longest pause after a fetch that failed.
const MAX_BACKOFF: Duration = Duration::from_secs(300);

/// An issuer.
pub(super) struct Issuer {
    config: IssuerConfig,
    algorithms: Vec<Algorithm>,
    source: Source,
    pace: Pace,
    held: watch::Sender<Held>,
    wanted: Notify,
    waiting: Semaphore,
    /// Fetches that were begun, for tests.
    pub(super) fetches: AtomicUsize,
    pub(super) rules: ClaimRules,
    pub(super) names: ClaimNames,
}

/// What is known.
#[derive(Debug, Clone, Default)]
struct Held {
    /// The last good set.
    keys: Option<Arc<KeySet>>,
    /// Whether a fetch is under way.
    fetching: bool,
    /// When the last fetch that ended began.
    asked: Option<Instant>,
    /// Whether it brought a good set.
    fresh: bool,
}

/// What is said of a token at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Now {
    /// It is of this issuer.
    Signed,
    /// It is not.
    Refused,
    /// [`Issuer::settle`] tells.
    Later,
}

/// What a fetch came to nothing by.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Set(#[from] JwkSetError),
}

impl Issuer {
    pub(super) fn new(config: &IssuerConfig, leeway: i64, pace: Pace) -> Result<Self, IdentityError> {
        let mut fixed = KeySet::default();
        for key in &config.keys {
            let pem = key.pem.as_deref().ok_or_else(|| IdentityError::PublicKey(config.issuer.clone()))?;
            fixed.add_pem(key.id.as_deref(), pem, key.algorithm)?;
        }
        let source = match (&config.jwks_url, &config.jwks_file, config.discovery) {
            (Some(url), _, _) => Source::Url(url.expose().to_owned()),
            (_, Some(path), _) => Source::File(path.clone()),
            (_, _, true) => Source::Discovery(config.issuer.clone()),
            _ => Source::Fixed,
        };
        let keys = (source == Source::Fixed).then(|| Arc::new(fixed));
        let held = Held { keys, ..Held::default() };
        let (issuer, audience) = (Some(config.issuer.clone()), Some(config.audience.clone()));
        Ok(Self {
            algorithms: config.algorithms.clone(),
            source,
            pace,
            held: watch::Sender::new(held),
            wanted: Notify::new(),
            waiting: Semaphore::new(MAX_WAITING),
            fetches: AtomicUsize::new(0),
            rules: ClaimRules { leeway, issuer, audience },
            names: ClaimNames::of(config),
            config: config.clone(),
        })
    }

    /// What it is made of, to see whether another configuration means another one.
    pub(super) fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// Checks a signature with what is known.
    pub(super) fn check(&self, token: &Compact<'_>) -> Now {
        let keys = self.held.borrow().keys.clone();
        match (keys.map(|keys| keys.check(token)), &self.source) {
            (Some(Verdict::Signed), _) => Now::Signed,
            (Some(Verdict::Refused), _) | (_, Source::Fixed) => Now::Refused,
            (Some(Verdict::Unknown) | None, _) => Now::Later,
        }
    }

    /// Checks a signature of a key that is not known, with a set that is asked for if it may be.
    ///
    /// # Errors
    /// Invalid when a set that is newer than this call does not know the key either; unavailable when there is none in time.
    pub(super) async fn settle(&self, token: &Compact<'_>) -> Result<(), AuthError> {
        let Ok(_place) = self.waiting.try_acquire() else { return Err(AuthError::Unavailable) };
        let begun = Instant::now();
        let deadline = begun + self.pace.patience;
        let mut held = self.held.subscribe();
        loop {
            let now = held.borrow_and_update().clone();
            match now.keys.map(|keys| keys.check(token)) {
                Some(Verdict::Signed) => return Ok(()),
                Some(Verdict::Refused) => return Err(AuthError::Invalid),
                Some(Verdict::Unknown) | None => {}
            }
            if now.asked.is_some_and(|asked| asked >= begun) {
                return Err(if now.fresh { AuthError::Invalid } else { AuthError::Unavailable });
            }
            self.wanted.notify_one();
            // That fetch comes too late for this caller, and in time for the next try.
            if !now.fetching && now.asked.is_some_and(|asked| asked + self.pace.pause > deadline) {
                return Err(AuthError::Unavailable);
            }
            match timeout_at(deadline, held.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(AuthError::Unavailable),
            }
        }
    }

    /// Keeps the set fresh, for ever.
    pub(super) async fn keep(&self, metrics: &IdentityMetrics) {
        if self.source == Source::Fixed {
            metrics.keys(&self.config.issuer, self.held.borrow().keys.as_ref().map_or(0, |keys| keys.len()));
            return std::future::pending().await;
        }
        let mut backoff = self.pace.pause;
        loop {
            let asked = Instant::now();
            self.fetches.fetch_add(1, Ordering::Relaxed);
            self.held.send_modify(|held| held.fetching = true);
            let fetched = self.fetch().await;
            metrics.fetched(&self.config.issuer, fetched.is_ok());
            let pause = match fetched {
                Ok((keys, good_for)) => {
                    backoff = self.pace.pause;
                    metrics.keys(&self.config.issuer, keys.len());
                    let keys = Some(Arc::new(keys));
                    self.held.send_replace(Held { keys, fetching: false, asked: Some(asked), fresh: true });
                    good_for
                }
                Err(error) => {
                    tracing::warn!(
                        issuer = self.config.issuer,
                        error = chain(&error),
                        "keys of an issuer were not fetched"
                    );
                    self.held.send_modify(|held| {
                        (held.fetching, held.asked, held.fresh) = (false, Some(asked), false);
                    });
                    let pause = backoff;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                    pause
                }
            };
            // Nodes that start together do not ask together for ever.
            let jitter = rand::rng().random_range(Duration::ZERO..pause / 10);
            tokio::select! {
                () = sleep_until(asked + pause + jitter) => {}
                () = self.wanted.notified() => sleep_until(asked + self.pace.pause).await,
            }
        }
    }

    async fn fetch(&self) -> Result<(KeySet, Duration), RefreshError> {
        let fetched = self.source.fetch(self.config.insecure_http).await?;
        let set = JwkSet::parse(&fetched.body, &self.algorithms)?;
        let keys = KeySet::of(&set);
        if keys.len() == 0 {
            return Err(JwkSetError::Empty.into());
        }
        let known = self.held.borrow().keys.clone();
        if known.is_none_or(|known| !known.ids().eq(keys.ids())) {
            let (keys, skipped) = (keys.len(), set.skipped);
            tracing::info!(issuer = self.config.issuer, keys, skipped, "keys of an issuer");
        }
        Ok((keys, fetched.good_for))
    }

    /// Fetches once, for `dzvin check`: how many keys there are.
    ///
    /// # Errors
    /// Why there are none, for people.
    pub(super) async fn try_once(&self) -> Result<usize, String> {
        if self.source == Source::Fixed {
            return Ok(self.held.borrow().keys.as_ref().map_or(0, |keys| keys.len()));
        }
        self.fetch().await.map(|(keys, _)| keys.len()).map_err(|error| chain(&error))
    }
}

#[cfg(test)]
#[path = "issuer_tests.rs"]
mod tests;
