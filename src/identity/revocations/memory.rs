//! The revocations in force, as this node knows them.
//!
//! Invariants: asking costs two look-ups and no copy; while there are none it costs one atomic read. What is past its end is
//! no longer in force, whether or not it was swept yet. What is known stays known while the database is away.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use dzvin_actors::platform::ports::{Identity, Revoked};
use time::OffsetDateTime;
use tokio::sync::broadcast;

use super::{Kind, Row};
use crate::identity::metrics::IdentityMetrics;

/// Most revocations in force: each takes some 200 bytes on every node. Whole organisations are blocked in their own directory.
pub const MAX_REVOCATIONS: usize = 100_000;
/// Changes that may wait for one who listens; who is behind by more has to look at everybody.
pub(super) const CHANGES: usize = 1024;

/// When it ends, in seconds since 1970; never is the last moment.
type End = i64;

/// What is revoked of a user's tokens.
#[derive(Debug, Clone, Copy, Default)]
struct OfUser {
    /// Those made before the first, until the second.
    before: Option<(i64, End)>,
    /// All of them, until then.
    blocked: Option<End>,
}

#[derive(Debug, Default)]
struct Known {
    tokens: HashMap<Arc<str>, End>,
    users: HashMap<Arc<str>, OfUser>,
}

impl Known {
    fn len(&self) -> usize {
        let of_user = |of: &OfUser| usize::from(of.before.is_some()) + usize::from(of.blocked.is_some());
        self.tokens.len() + self.users.values().map(of_user).sum::<usize>()
    }

    /// Takes over one; answers whether somebody may have to leave.
    fn apply(&mut self, row: &Row, now: i64) -> Option<Revoked> {
        let subject: Arc<str> = row.subject.as_str().into();
        let end = row.expires_at.map_or(End::MAX, OffsetDateTime::unix_timestamp);
        let holds = end > now;
        let (changed, user, jti, issued_before) = match row.kind {
            Kind::Token => {
                let before =
                    if holds { self.tokens.insert(Arc::clone(&subject), end) } else { self.tokens.remove(&subject) };
                (before.is_none_or(|end| end <= now), None, Some(subject), None)
            }
            Kind::User => {
                let moment = row.issued_before.map_or(End::MAX, OffsetDateTime::unix_timestamp);
                let of = self.users.entry(Arc::clone(&subject)).or_default();
                let before = std::mem::replace(&mut of.before, holds.then_some((moment, end)));
                self.forget_nothing(&subject);
                (before.is_none_or(|(known, end)| end <= now || known < moment), Some(subject), None, Some(moment))
            }
            Kind::Block => {
                let of = self.users.entry(Arc::clone(&subject)).or_default();
                let before = std::mem::replace(&mut of.blocked, holds.then_some(end));
                self.forget_nothing(&subject);
                (before.is_none_or(|end| end <= now), Some(subject), None, None)
            }
        };
        (holds && changed).then_some(Revoked { user, jti, issued_before })
    }

    /// A user of whom nothing is revoked takes no place.
    fn forget_nothing(&mut self, user: &str) {
        if self.users.get(user).is_some_and(|of| of.before.is_none() && of.blocked.is_none()) {
            self.users.remove(user);
        }
    }

    fn sweep(&mut self, now: i64) {
        self.tokens.retain(|_, end| *end > now);
        self.users.retain(|_, of| {
            of.before = of.before.filter(|(_, end)| *end > now);
            of.blocked = of.blocked.filter(|end| *end > now);
            of.before.is_some() || of.blocked.is_some()
        });
    }

    fn holds(&self, user: &str, jti: Option<&str>, issued_at: Option<i64>, now: i64) -> bool {
        let token = jti.and_then(|jti| self.tokens.get(jti)).is_some_and(|end| *end > now);
        token
            || self.users.get(user).is_some_and(|of| {
                of.blocked.is_some_and(|end| end > now)
                    || of.before.is_some_and(|(before, end)| end > now && issued_at.is_none_or(|at| at < before))
            })
    }
}

/// What is revoked, and who wants to hear of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: RwLock<Known>,
    count: AtomicUsize,
    changes: broadcast::Sender<Revoked>,
}

impl Default for Revocations {
    fn default() -> Self {
        let (known, count) = (RwLock::default(), AtomicUsize::new(0));
        Self(Arc::new(Inner { known, count, changes: broadcast::Sender::new(CHANGES) }))
    }
}

impl Revocations {
    /// Whether a token with these claims is revoked at the moment `now`.
    #[must_use]
    pub fn holds(&self, user: &str, jti: Option<&str>, issued_at: Option<i64>, now: i64) -> bool {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.0.known.read().unwrap_or_else(PoisonError::into_inner).holds(user, jti, issued_at, now)
    }

    /// The same of somebody who lives on a token.
    #[must_use]
    pub fn concern(&self, identity: &Identity, now: i64) -> bool {
        self.holds(&identity.user, identity.jti.as_deref(), identity.issued_at, now)
    }

    /// What comes from now on, each once it is in force here. Who is told [`broadcast::error::RecvError::Lagged`] asks
    /// [`Revocations::concern`] of everybody.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Revoked> {
        self.0.changes.subscribe()
    }

    /// How many are in force, or were until lately.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes over what changed.
    pub(super) fn apply(&self, rows: &[Row], now: i64, metrics: &IdentityMetrics) {
        let mut told = Vec::new();
        self.change(metrics, |known| told.extend(rows.iter().filter_map(|row| known.apply(row, now))));
        self.tell(told);
    }

    /// Replaces all that is known; only what was not known before is told. What is new is built before anybody has to wait.
    pub(super) fn replace(&self, rows: &[Row], now: i64, metrics: &IdentityMetrics) {
        let mut known = Known::default();
        let mut told: Vec<Revoked> = rows.iter().filter_map(|row| known.apply(row, now)).collect();
        self.change(metrics, |before| std::mem::swap(before, &mut known));
        let before = known;
        told.retain(|revoked| match (&revoked.user, &revoked.jti, revoked.issued_before) {
            (_, Some(jti), _) => before.tokens.get(jti).is_none_or(|end| *end <= now),
            (Some(user), None, None) => before.users.get(user).is_none_or(|of| of.blocked.is_none_or(|end| end <= now)),
            (Some(user), None, Some(moment)) => {
                before.users.get(user).and_then(|of| of.before).is_none_or(|(known, end)| end <= now || known < moment)
            }
            (None, None, _) => false,
        });
        self.tell(told);
    }

    /// Forgets what has ended.
    pub(super) fn sweep(&self, now: i64, metrics: &IdentityMetrics) {
        if !self.is_empty() {
            self.change(metrics, |known| known.sweep(now));
        }
    }

    /// Blocks a user, as a row of the database does.
    #[cfg(test)]
    pub(crate) fn block(&self, user: &str) {
        let row = tests::row(Kind::Block, user, None, None);
        self.apply(&[row], 0, &IdentityMetrics::default());
    }

    fn change(&self, metrics: &IdentityMetrics, change: impl FnOnce(&mut Known)) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        let count = known.len();
        self.0.count.store(count, Ordering::Release);
        drop(known);
        metrics.revocations.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Said once it is in force.
    fn tell(&self, told: Vec<Revoked>) {
        for revoked in told {
            // Nobody has to listen.
            let _ = self.0.changes.send(revoked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(kind: Kind, subject: &str, issued_before: Option<i64>, expires_at: Option<i64>) -> Row {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).expect("in range");
        Row {
            id: 1,
            version: 1,
            kind,
            subject: subject.to_owned(),
            issued_before: issued_before.map(at),
            expires_at: expires_at.map(at),
            reason: None,
            created_at: at(0),
            created_by: String::new(),
        }
    }

    fn known(rows: &[Row]) -> (Revocations, IdentityMetrics) {
        let (all, metrics) = (Revocations::default(), IdentityMetrics::default());
        all.apply(rows, 0, &metrics);
        (all, metrics)
    }

    #[test]
    fn a_token_a_moment_and_a_user_are_revoked() {
        let (all, metrics) = known(&[
            row(Kind::Token, "t", None, Some(100)),
            row(Kind::User, "olha", Some(50), Some(100)),
            row(Kind::Block, "ihor", None, Some(100)),
            row(Kind::Block, "evil", None, None),
        ]);
        for (user, jti, issued_at, now, expected) in [
            ("x", Some("t"), None, 99, true),
            ("x", Some("t"), None, 100, false),
            ("x", Some("u"), None, 0, false),
            ("x", None, None, 0, false),
            ("olha", None, Some(49), 0, true),
            ("olha", None, Some(50), 0, false),
            ("olha", None, None, 0, true),
            ("olha", None, None, 100, false),
            ("ihor", Some("a"), Some(99), 0, true),
            ("ihor", None, None, 100, false),
            ("evil", None, None, i64::MAX - 1, true),
            ("", None, None, 0, false),
        ] {
            assert_eq!(all.holds(user, jti, issued_at, now), expected, "{user} {jti:?} {issued_at:?} {now}");
        }
        assert_eq!((all.len(), metrics.revocations.get()), (4, 4));
        all.sweep(100, &metrics);
        assert_eq!((all.len(), metrics.revocations.get()), (1, 1));
    }

    #[test]
    fn what_is_lifted_no_longer_holds_and_is_not_told() {
        let (all, metrics) = known(&[row(Kind::Block, "olha", None, None), row(Kind::User, "olha", Some(9), Some(99))]);
        let mut changes = all.changes();
        all.apply(&[row(Kind::Block, "olha", None, Some(5))], 5, &metrics);
        assert!(all.holds("olha", None, Some(8), 5) && !all.holds("olha", None, Some(9), 5));
        all.apply(&[row(Kind::User, "olha", Some(9), Some(5))], 5, &metrics);
        assert!(!all.holds("olha", None, Some(8), 5) && all.is_empty());
        assert!(changes.try_recv().is_err());
    }

    #[test]
    fn news_are_told_once() {
        let (all, metrics) = known(&[]);
        let mut changes = all.changes();
        let mut told = || std::iter::from_fn(|| changes.try_recv().ok()).count();
        let rows = [row(Kind::User, "olha", Some(9), Some(99)), row(Kind::Token, "t", None, Some(99))];
        all.apply(&rows, 0, &metrics);
        assert_eq!(told(), 2);
        all.apply(&rows, 0, &metrics);
        all.replace(&rows, 0, &metrics);
        assert_eq!(told(), 0);
        all.apply(&[row(Kind::User, "olha", Some(10), Some(99))], 0, &metrics);
        assert_eq!(told(), 1, "a later moment means further tokens");
        all.replace(&[row(Kind::Block, "olha", None, None)], 0, &metrics);
        assert_eq!((told(), all.len()), (1, 1), "what the database no longer has is gone");
    }
}
