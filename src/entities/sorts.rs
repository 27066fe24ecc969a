//! The indexes of sorted fields: one for each that a kind declares, made and dropped in the background without standing in the way of
//! writers; and those of the trash and of words, which came when there were large tables already.
//!
//! Invariants: what is wanted is what the `kinds` table says, so nodes with different configurations do not undo each other's
//! work: who started last has the say; one node works at a time; a list is sorted by a field only when its index is whole.
//! An index that was cut off in the middle is dropped and made anew.

use std::{future::Future, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use sqlx::{Connection, PgConnection};

use super::Entities;
use crate::platform::db::{MIGRATING, store_error};

/// The index of the words of declared texts, of all kinds.
pub(super) const WORDS_INDEX: &str = "entities_words";
/// Between two looks: other nodes may start with other declarations.
const EVERY: Duration = Duration::from_secs(30);

/// What there is to do.
struct Task {
    name: String,
    sql: String,
}

impl Entities {
    /// Makes what is declared and drops what is not, now and whenever there is something, until `stop` is done.
    pub async fn keep_sorted(self, stop: impl Future<Output = ()>) {
        let work = async {
            let mut redeclared = self.redeclared();
            loop {
                if let Err(error) = self.index_sorts().await {
                    tracing::warn!(%error, "indexes of sorted fields are not as declared; tried again");
                }
                redeclared.within(EVERY).await;
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
    }

    /// Makes the indexes that are declared, and drops those that are not, unless another node is at it.
    ///
    /// # Errors
    /// The database is away or refuses; what was done stays done.
    pub async fn index_sorts(&self) -> Result<(), StoreError> {
        self.work_on_sorts().await.map_err(store_error("indexing sorted fields"))
    }

    async fn work_on_sorts(&self) -> Result<(), sqlx::Error> {
        if tasks(&mut *self.database.pool().acquire().await?).await?.is_empty() {
            return Ok(());
        }
        // Of its own: an index takes as long as it takes, past the pools' limits and any pooler, for the lock is the session's.
        let mut alone = self.database.connect_alone().await?;
        // That of who brings the schema up to date: two who make indexes of one table wait for each other crosswise.
        let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "mine!""#, MIGRATING);
        if mine.fetch_one(&mut alone).await? {
            // Again: the node that had the lock may have done it.
            for Task { name, sql } in tasks(&mut alone).await? {
                tracing::info!(index = name, sql, "an index of a sorted field is made or dropped");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut alone).await?;
            }
        }
        alone.close().await
    }
}

/// What is not as it is declared, as the database quotes it: what is dropped first, for one that was cut off in the middle keeps its name.
async fn tasks(on: &mut PgConnection) -> Result<Vec<Task>, sqlx::Error> {
    sqlx::query_as!(
        Task,
        r#"WITH wanted AS (
             SELECT sort_index(k.name, s.key, s.value) AS name,
                 format('((%s), id) WHERE kind = %L', CASE s.value
                     WHEN 'text' THEN format('sort_text(fields ->> %L) COLLATE "C"', s.key)
                     WHEN 'number' THEN format('filter_number(fields ->> %L)', s.key)
                     WHEN 'time' THEN format('filter_time(fields ->> %L)', s.key) END, k.name) AS of
             FROM kinds k CROSS JOIN LATERAL json_each_text(k.sorts) s WHERE s.value IN ('text', 'number', 'time')
             UNION ALL SELECT 'entities_trashed', '(kind, "offset" DESC) WHERE trashed_at IS NOT NULL'
             UNION ALL SELECT 'entities_words', 'USING gin (words) WHERE words IS NOT NULL'
         ), present AS (
             SELECT c.relname::text AS name, i.indisvalid AS whole
             FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid = 'entities'::regclass AND c.relname ~ '^entities_(by_[0-9a-f]{16}|trashed|words)$'
         )
         SELECT p.name AS "name!", format('DROP INDEX CONCURRENTLY IF EXISTS %I', p.name) AS "sql!"
         FROM present p LEFT JOIN wanted w ON w.name = p.name WHERE w.name IS NULL OR NOT p.whole
         UNION ALL
         SELECT w.name, format('CREATE INDEX CONCURRENTLY IF NOT EXISTS %I ON entities %s', w.name, w.of)
         FROM wanted w LEFT JOIN present p ON p.name = w.name WHERE p.name IS NULL OR NOT p.whole"#
    )
    .fetch_all(on)
    .await
}
