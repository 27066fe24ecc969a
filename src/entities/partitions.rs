//! Partitions of the change log: made ahead, dropped when retention has passed.
//!
//! A day without a partition lands in the default one, so writing never stops; the next run moves it to its place.

use std::{future::Future, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use time::{Date, OffsetDateTime};

use super::Entities;
use crate::platform::db::store_error;

/// Days for which partitions are made ahead: a week of a broken task costs nothing but the default partition's use.
pub const PARTITIONS_AHEAD: i32 = 7;
/// Longest run: a minute moves some million rows out of the default partition.
const MAINTENANCE_TIMEOUT: &str = "10min";
/// How often.
const EVERY: Duration = Duration::from_secs(3600);

/// How long changes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Whole days before today, at least 1.
    pub days: u16,
}

impl Default for Retention {
    /// A month: an investigation's reach, and far above any client's absence.
    fn default() -> Self {
        Self { days: 30 }
    }
}

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions {
    /// Made.
    pub made: i32,
    /// Dropped.
    pub dropped: i32,
}

impl Entities {
    /// Makes and drops partitions as of `today` (UTC).
    ///
    /// # Errors
    /// The database is away.
    pub async fn maintain(&self, retention: Retention, today: Date) -> Result<Partitions, StoreError> {
        let keep = i32::from(retention.days.max(1));
        let doing = "maintaining partitions";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        // Rows of many days may have to be moved; locks are still given up after 2 s, by the function itself.
        sqlx::query!("SELECT set_config('statement_timeout', $1, true)", MAINTENANCE_TIMEOUT)
            .fetch_one(&mut *tx)
            .await
            .map_err(store_error(doing))?;
        let done = sqlx::query_as!(
            Partitions,
            r#"SELECT made AS "made!", dropped AS "dropped!" FROM maintain_changes($1, $2, $3)"#,
            PARTITIONS_AHEAD,
            keep,
            today
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        tx.commit().await.map_err(store_error(doing))?;
        Ok(done)
    }

    /// Maintains now and every hour, until `stop` is done; what else has had its time is forgotten as well.
    pub async fn keep_maintained(self, retention: Retention, stop: impl Future<Output = ()>) {
        let mut every = tokio::time::interval(EVERY);
        let work = async {
            loop {
                every.tick().await;
                match self.maintain(retention, OffsetDateTime::now_utc().date()).await {
                    Ok(Partitions { made: 0, dropped: 0 }) => {}
                    Ok(done) => tracing::info!(made = done.made, dropped = done.dropped, "partitions maintained"),
                    Err(error) => tracing::error!(error = %error, "partitions are not maintained"),
                }
                match self.empty_trash(OffsetDateTime::now_utc()).await {
                    Ok(0) => {}
                    Ok(purged) => tracing::info!(purged, "the trash was emptied of what has been there for long"),
                    Err(error) => tracing::error!(error = %error, "the trash is not emptied"),
                }
                match self.forget_answers().await {
                    Ok(0) => {}
                    Ok(forgotten) => tracing::info!(forgotten, "answers under idempotency keys were forgotten"),
                    Err(error) => tracing::error!(error = %error, "answers under idempotency keys are not forgotten"),
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }
}
