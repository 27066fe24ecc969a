//! What keeps a node's memory of revocations: notifications, a look at the database twice a second, and the removal of what
//! has ended.

use std::{future::Future, sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use rand::Rng;
use sqlx::postgres::PgListener;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};

use super::{NOTIFY_CHANNEL, PROMISE, RevocationStore};
use crate::platform::http::chain;

/// From one look to the next: with the look itself within the second that is promised, even without notifications.
pub(super) const POLL: Duration = Duration::from_millis(500);
/// How long a look may take for the promise to be kept, and the telling of whom it concerns: far more than a statement that
/// finds its rows by an index.
const LOOK: Duration = Duration::from_millis(400);
const _: () = assert!(POLL.as_millis() + LOOK.as_millis() < PROMISE.as_millis());
/// The same for a node that is alone: what it writes it rings for itself, and what somebody wrote by hand may take so long.
const POLL_ALONE: Duration = Duration::from_secs(5);
/// Everything is read again so often, whatever was said: nothing that went wrong stays so.
const RELOAD: Duration = Duration::from_secs(600);
/// What has ended is removed so often.
const SWEEP: Duration = Duration::from_secs(60);
/// Rows in one read.
const PAGE: usize = 1000;
/// First and longest pause between tries to listen.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// How far this node has read.
struct Reading {
    version: i64,
    /// Whether something failed since all was read: then it is read again.
    doubtful: bool,
    reloaded: Instant,
    swept: Instant,
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

impl RevocationStore {
    /// Reads all that is in force. A node must have done so before it takes a token.
    ///
    /// # Errors
    /// The database is away.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.reload().await.map(drop)
    }

    /// Keeps this node's memory as it is in the database, until `stop` is done.
    pub async fn keep(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.follow() => {}
            () = self.listen() => {}
        }
    }

    async fn follow(&self) {
        let begun = Instant::now();
        let mut reading = Reading { version: 0, doubtful: true, reloaded: begun, swept: begun };
        let poll = if self.database.notice().is_none() { POLL_ALONE } else { self.poll };
        loop {
            if let Err(error) = self.look(&mut reading).await {
                if !reading.doubtful {
                    tracing::warn!(error = chain(&error), "revocations cannot be read: those known stay in force");
                }
                self.metrics.revocation_errors.inc();
                reading.doubtful = true;
            }
            if reading.swept.elapsed() >= SWEEP {
                reading.swept = Instant::now();
                self.known.sweep(now(), &self.metrics);
                if let Err(error) = self.sweep().await {
                    tracing::debug!(error = chain(&error), "revocations that have ended are not removed");
                }
            }
            // Whoever rings while we read rings once more.
            let _ = tokio::time::timeout(if reading.doubtful { POLL } else { poll }, self.changed.notified()).await;
        }
    }

    /// One look at the database: what is new, or all.
    async fn look(&self, reading: &mut Reading) -> Result<(), StoreError> {
        if reading.doubtful || reading.reloaded.elapsed() >= RELOAD {
            reading.version = self.reload().await?;
            (reading.doubtful, reading.reloaded) = (false, Instant::now());
            return Ok(());
        }
        loop {
            let (top, rows) = self.since(reading.version, PAGE as i64).await?;
            if top < reading.version {
                tracing::warn!("revocations went back in time with the database: all are read again");
                reading.version = self.reload().await?;
                return Ok(());
            }
            let Some(last) = rows.last() else { return Ok(()) };
            reading.version = last.version;
            self.known.apply(&rows, now(), &self.metrics);
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Reads all and replaces what was known; answers the version up to which it was read.
    async fn reload(&self) -> Result<i64, StoreError> {
        let (mut version, mut all) = (0, Vec::new());
        loop {
            let (top, mut rows) = self.since(version, PAGE as i64).await?;
            let more = rows.len() == PAGE;
            version = if more { rows.last().map_or(top, |row| row.version) } else { top };
            all.append(&mut rows);
            if !more {
                break;
            }
        }
        self.known.replace(&all, now(), &self.metrics);
        Ok(version)
    }

    /// Rings when another node changed something. Without notifications the next look finds it.
    async fn listen(&self) {
        if self.database.notice().is_none() {
            // There is no other node.
            return std::future::pending().await;
        }
        let (pool, changed): (_, Arc<Notify>) = (self.database.listen_pool(), Arc::clone(&self.changed));
        let mut pause = BACKOFF.0;
        loop {
            let heard = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(NOTIFY_CHANNEL).await?;
                pause = BACKOFF.0;
                loop {
                    // A connection that was lost is made again, and what was said meanwhile is found by the next look.
                    listener.try_recv().await?;
                    while listener.next_buffered().is_some() {}
                    changed.notify_one();
                }
            };
            let error: sqlx::Error = match heard.await {
                Ok(never) => never,
                Err(error) => error,
            };
            tracing::debug!(error = %error, "listening for revocations failed");
            let jittered = rand::rng().random_range(Duration::ZERO..pause);
            tokio::time::sleep(jittered).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}
