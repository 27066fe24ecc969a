//! What is listened to counts as used, however long its listeners stay.
//!
//! Invariants: a query that a node follows is not forgotten; a row is written once a day at most, whichever node does it; one
//! statement names and writes a bounded number. Which of the users who have a query listens is not known here, so it counts for
//! all of them: what one has left is kept for as long as another listens to the same. What was forgotten stays so.

use std::time::Duration;

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::channels::QueryId;
use tokio::time::{MissedTickBehavior, interval};

use super::{StoredQueries, store::KEPT_DAYS};
use crate::platform::{db::store_error, http::chain};

/// From one look at what is listened to to the next: many of them fit into the days that a query is kept, so that a database
/// that is away at one of them forgets nothing.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// A use is noted again when the one before is so old: a write a day, where a read of the query notes one an hour.
const NOTED_DAYS: i32 = 1;
/// Names in one statement.
const NAMES: usize = 500;
/// Rows that one statement writes: milliseconds, and no lock that anybody would wait for.
const ROWS: i64 = 500;

impl StoredQueries {
    /// Notes the use of what is listened to, until it is dropped.
    pub async fn keep_used(self) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            match self.note_listened().await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "queries that are listened to count as used"),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the use of queries is not noted: it is tried again");
                }
            }
        }
    }

    /// Notes the use of what is listened to here, where the last one is a day old; answers how many rows were written.
    ///
    /// # Errors
    /// The database is away.
    pub async fn note_listened(&self) -> Result<u64, StoreError> {
        let listened = self.listened();
        let mut noted = 0;
        for ids in listened.chunks(NAMES) {
            let ids: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
            loop {
                let rows = self.note(&ids).await?;
                noted += rows;
                if rows < ROWS.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(noted)
    }

    /// Notes some. Rows that somebody else writes now are used as it is.
    async fn note(&self, ids: &[String]) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            "UPDATE queries SET used_at = now() WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM queries WHERE id = ANY($1) AND used_at < now() - make_interval(days => $2)
                     AND used_at >= now() - make_interval(days => $3) LIMIT $4 FOR UPDATE SKIP LOCKED))",
            ids,
            NOTED_DAYS,
            KEPT_DAYS,
            ROWS
        )
        .execute(self.entities.database.pool())
        .await
        .map_err(store_error("noting the use of queries"))?;
        Ok(done.rows_affected())
    }

    fn listened(&self) -> Vec<QueryId> {
        self.lock().listened()
    }
}

// Between the first look that finds a use old enough and the end of the query there are many more.
const _: () = assert!(EVERY.as_secs() * 24 < (KEPT_DAYS - NOTED_DAYS) as u64 * 24 * 60 * 60);
