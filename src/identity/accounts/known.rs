//! API tokens that were checked lately, and when they were used.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;

use super::ApiToken;

/// So long a token is good without another look: a change of its account is felt within a second.
const FRESH: Duration = Duration::from_millis(500);
/// So long while the database is away: whoever was here goes on through a failover.
const STALE: Duration = Duration::from_secs(300);
/// So long after the database could not be asked it is not asked again about those who are known.
const FAILING: Duration = Duration::from_secs(1);
/// Most that are remembered: as many as all accounts of a large organisation use at a time.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
struct Tokens {
    checked: HashMap<Arc<str>, (Instant, Arc<ApiToken>)>,
    used: HashMap<Arc<str>, OffsetDateTime>,
    /// When the database could not be asked.
    failed: Option<Instant>,
}

/// What a node remembers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<Mutex<Tokens>>);

impl Known {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn younger(&self, id: &str, than: Duration, now: Instant) -> Option<Arc<ApiToken>> {
        let tokens = self.tokens();
        let (at, token) = tokens.checked.get(id)?;
        (now.duration_since(*at) < than).then(|| Arc::clone(token))
    }

    /// One that was looked at just now.
    pub(super) fn fresh(&self, id: &str) -> Option<Arc<ApiToken>> {
        self.younger(id, FRESH, Instant::now())
    }

    /// One that was looked at before the database went away.
    pub(super) fn stale(&self, id: &str) -> Option<Arc<ApiToken>> {
        self.younger(id, STALE, Instant::now())
    }

    /// Remembers what the database said: of one that is no longer good nothing.
    pub(super) fn put(&self, id: &str, token: Option<&Arc<ApiToken>>) {
        let mut tokens = self.tokens();
        let Some(token) = token else { return drop(tokens.checked.remove(id)) };
        if tokens.checked.len() >= MOST {
            tokens.checked.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if tokens.checked.len() < MOST {
            tokens.checked.insert(Arc::clone(&token.id), (Instant::now(), Arc::clone(token)));
        }
    }

    /// The database could not be asked just now.
    pub(super) fn failed(&self) {
        self.tokens().failed = Some(Instant::now());
    }

    /// Whether that was a moment ago.
    pub(super) fn failing(&self) -> bool {
        self.tokens().failed.is_some_and(|at| at.elapsed() < FAILING)
    }

    /// Notes that a token was used.
    pub(super) fn use_at(&self, id: &Arc<str>, at: OffsetDateTime) {
        let mut tokens = self.tokens();
        if tokens.used.len() < MOST || tokens.used.contains_key(id) {
            let used = tokens.used.entry(Arc::clone(id)).or_insert(at);
            *used = at.max(*used);
        }
    }

    /// Those used since the last time that this was asked.
    pub(super) fn take_used(&self) -> Vec<(Arc<str>, OffsetDateTime)> {
        std::mem::take(&mut self.tokens().used).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_good_for_a_moment_and_in_need_for_minutes() {
        let known = Known::default();
        let token = Arc::new(ApiToken {
            id: "a".into(),
            user: "svc-a".to_owned(),
            roles: Vec::new(),
            scopes: None,
            digest: Vec::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            expires_at: OffsetDateTime::UNIX_EPOCH,
        });
        known.put("a", Some(&token));
        assert!(known.fresh("a").is_some() && known.fresh("b").is_none());
        let later = |than, wait| known.younger("a", than, Instant::now() + wait).is_some();
        assert!(!later(FRESH, FRESH) && later(STALE, FRESH) && !later(STALE, STALE));
        known.put("a", None);
        assert!(known.stale("a").is_none(), "the database says that it is no longer good");
        assert!(!known.failing());
        known.failed();
        assert!(known.failing());
        known.use_at(&token.id, OffsetDateTime::UNIX_EPOCH);
        assert_eq!((known.take_used().len(), known.take_used().len()), (1, 0));
    }
}
