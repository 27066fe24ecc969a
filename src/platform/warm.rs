//! The connection that wrote last, kept for who writes next.
//!
//! A pool asks each connection how it is when it comes back, and hands out another one next time, whose backend has to
//! warm up; a stream of small batches pays more for that than for its writing. Invariants: kept for [`TRUSTED`] after its
//! last use and [`MAX_WARM`] in all, then it goes back to the pool; only after a commit, so never in the middle of anything.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Postgres, Transaction};

use super::lent::Lent;

/// So long after its last use a connection is trusted without being asked how it is.
pub(super) const TRUSTED: Duration = Duration::from_millis(500);
/// So long one connection is kept at most: the pool renews its connections now and then.
const MAX_WARM: Duration = Duration::from_secs(600);

/// A connection to write with. Dropped, it is tested and goes back to the pool.
#[derive(Debug)]
pub struct Writer {
    lent: Lent,
    since: Instant,
    used: Instant,
}

impl Writer {
    pub(super) fn new(lent: Lent) -> Self {
        let now = Instant::now();
        Self { lent, since: now, used: now }
    }

    /// Begins a transaction; dropped without a commit, it is rolled back.
    ///
    /// # Errors
    /// The database is away.
    pub async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        self.lent.begin().await
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Warm(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    writer: Option<Writer>,
    /// A task waits to give it back.
    watched: bool,
}

impl Warm {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Writer> {
        self.kept().writer.take().filter(|writer| writer.used.elapsed() < TRUSTED)
    }

    pub(super) fn keep(&self, mut writer: Writer) {
        if writer.since.elapsed() > MAX_WARM {
            return;
        }
        writer.used = Instant::now();
        let mut kept = self.kept();
        let before = kept.writer.replace(writer);
        if !std::mem::replace(&mut kept.watched, true) {
            tokio::spawn(self.clone().cool());
        }
        drop(kept);
        drop(before);
    }

    /// Gives it back once nobody has written for a while. Ends also when somebody has it; who keeps it next begins anew.
    async fn cool(self) {
        loop {
            tokio::time::sleep(TRUSTED).await;
            let mut kept = self.kept();
            if kept.writer.as_ref().is_some_and(|writer| writer.used.elapsed() < TRUSTED) {
                continue;
            }
            kept.watched = false;
            let cold = kept.writer.take();
            drop(kept);
            drop(cold);
            return;
        }
    }
}
