//! Rows, changes, quarantine and cursor of a Mirror in one transaction.

use std::{sync::Arc, time::Instant};

use dzvin_actors::platform::ports::{Applied, Lease, MirrorRecord, MirrorStatus, MirrorStore, StoreError};
use dzvin_protocols::{
    mirror::MirrorBatch,
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::quarantine;
use crate::{
    entities::{Attempt, Author, Entities, EntityOp, NOTIFY_CHANNEL, Refusal, WriteError, Written},
    platform::db::store_error,
};

/// The store of Mirrors. Cheap to clone.
#[derive(Clone)]
pub struct Mirrors {
    entities: Entities,
}

/// A Mirror as it is told.
#[derive(Debug)]
pub struct MirrorRow {
    /// Its name.
    pub name: String,
    /// The kind that it feeds.
    pub kind: String,
    /// The committed cursor as text.
    pub cursor: Option<String>,
    /// The largest version among the stored rows.
    pub newest_version: Option<String>,
    /// Entities that it brought.
    pub objects: i64,
    /// The link's own words.
    pub status: MirrorStatus,
    /// The node that holds it.
    pub owner: Option<String>,
}

fn lost(lease: &Lease) -> StoreError {
    StoreError::LeaseLost { name: lease.name.to_string() }
}

impl Mirrors {
    /// Mirrors over these entities.
    #[must_use]
    pub fn new(entities: Entities) -> Self {
        Self { entities }
    }

    /// Declared fields of a kind; none of an unknown one.
    #[must_use]
    pub fn fields(&self, kind: &Kind) -> Arc<[String]> {
        self.entities.spec(kind).map(|spec| spec.fields().into()).unwrap_or_default()
    }

    /// Every Mirror, by name.
    ///
    /// # Errors
    /// The database is away.
    pub async fn list(&self) -> Result<Vec<MirrorRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT m.name, m.kind, m.cursor, m.newest_version, m.objects, m.status::text AS "status!", l.owner AS "owner?"
             FROM mirrors m LEFT JOIN leases l ON l.name = 'mirror.' || m.name AND l.expires_at > clock_timestamp()
             ORDER BY m.name"#
        )
        .fetch_all(self.entities.database().pool())
        .await
        .map_err(store_error("reading mirrors"))?;
        let row = rows.into_iter().map(|row| MirrorRow {
            name: row.name,
            kind: row.kind,
            cursor: row.cursor,
            newest_version: row.newest_version,
            objects: row.objects,
            status: serde_json::from_str(&row.status).unwrap_or_default(),
            owner: row.owner,
        });
        Ok(row.collect())
    }

    /// The committed cursor of a Mirror that has had all there was.
    ///
    /// # Errors
    /// The database is away.
    pub async fn whole_until(&self, mirror: &str) -> Result<Option<String>, StoreError> {
        let cursor = sqlx::query_scalar!("SELECT cursor FROM mirrors WHERE name = $1 AND snapshot_complete", mirror);
        let cursor = cursor.fetch_optional(self.entities.database().pool()).await;
        Ok(cursor.map_err(store_error("reading a cursor"))?.flatten())
    }

    /// Operations with the rest of their batch, repeated after races and refused records.
    async fn store(
        &self,
        mirror: &str,
        kind: &Kind,
        lease: &Lease,
        batch: &MirrorBatch,
        ops: &[EntityOp],
    ) -> Result<Applied, StoreError> {
        let mut attempt = Attempt::default();
        loop {
            let result = self.try_store(mirror, kind, lease, batch, ops, attempt.refusal).await;
            if let Some(result) = attempt.next(&self.entities, result) {
                return result;
            }
        }
    }

    async fn try_store(
        &self,
        mirror: &str,
        kind: &Kind,
        lease: &Lease,
        batch: &MirrorBatch,
        ops: &[EntityOp],
        refusal: Refusal,
    ) -> Result<Applied, WriteError> {
        let doing = "applying a batch";
        let begun = Instant::now();
        let database = self.entities.database();
        let mut writer = database.writer().await.map_err(store_error(doing))?;
        let mut tx = writer.begin().await.map_err(store_error(doing))?;
        let author = Author { by: &batch.by, trace: batch.trace.as_deref() };
        let mut written = self.entities.write(&mut tx, kind, author, ops, refusal).await?;
        quarantine::keep(&mut tx, mirror, &batch.quarantined).await?;
        quarantine::keep(&mut tx, mirror, &written.quarantined).await?;
        written.applied.quarantined += batch.quarantined.len() as u64;
        self.cover(&mut tx, mirror, lease, batch, &written).await?;
        let committing = Instant::now();
        let commit = self.entities.committing();
        tx.commit().await.map_err(store_error(doing))?;
        commit.done(kind, std::mem::take(&mut written.logged));
        database.keep_writer(writer);
        database.metrics().commit_seconds.observe(committing.elapsed().as_secs_f64());
        database.metrics().apply_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(written.applied)
    }

    /// The last statement: cursor, marks and counts, if the term is still ours, and the word to other nodes. Held to the
    /// commit: who takes the Mirror over waits for it, or this finds its term gone and nothing of the batch stays.
    async fn cover(
        &self,
        tx: &mut PgConnection,
        mirror: &str,
        lease: &Lease,
        batch: &MirrorBatch,
        written: &Written,
    ) -> Result<(), StoreError> {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let applied = &written.applied;
        // What could not be merged is not what the upstream has, and only a comparison mends it.
        let gap = if applied.unmerged > 0 { Some(true) } else { batch.gap };
        let done = sqlx::query!(
            "UPDATE mirrors SET cursor = COALESCE($3, cursor), snapshot_complete = COALESCE($4, snapshot_complete),
                 gap = COALESCE($5, gap), newest_version = GREATEST(newest_version, $6), objects = objects + $7,
                 changed = changed + $8, unchanged = unchanged + $9, stale = stale + $10, quarantined = quarantined + $11,
                 updated_at = now()
             WHERE name = $1 AND term = $2
             RETURNING CASE WHEN $8::int8 > 0 AND $13::text IS NOT NULL THEN pg_notify($12, $13)::text END AS told",
            mirror,
            lease.term,
            batch.cursor.as_deref().map(RawValue::get),
            batch.snapshot_complete,
            gap,
            written.newest.as_deref(),
            count(written.created),
            count(applied.changed),
            count(applied.unchanged),
            count(applied.stale),
            count(applied.quarantined),
            NOTIFY_CHANNEL,
            self.entities.database().notice()
        )
        .fetch_optional(tx)
        .await
        .map_err(store_error("writing a cursor"))?;
        if done.is_some() { Ok(()) } else { Err(lost(lease)) }
    }
}

impl MirrorStore for Mirrors {
    async fn open(&self, mirror: &str, kind: &Kind, lease: &Lease) -> Result<MirrorRecord, StoreError> {
        // A cursor means nothing for another collection.
        let row = sqlx::query!(
            "INSERT INTO mirrors AS m (name, kind, term) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET term = excluded.term, kind = excluded.kind,
                 cursor = CASE WHEN m.kind = excluded.kind THEN m.cursor END,
                 snapshot_complete = m.snapshot_complete AND m.kind = excluded.kind,
                 gap = m.gap AND m.kind = excluded.kind,
                 newest_version = CASE WHEN m.kind = excluded.kind THEN m.newest_version END,
                 objects = CASE WHEN m.kind = excluded.kind THEN m.objects ELSE 0 END
             WHERE m.term <= excluded.term
             RETURNING cursor, snapshot_complete, gap, newest_version",
            mirror,
            kind.as_str(),
            lease.term
        )
        .fetch_optional(self.entities.database().pool())
        .await
        .map_err(store_error("opening a mirror"))?;
        let row = row.ok_or_else(|| lost(lease))?;
        Ok(MirrorRecord {
            cursor: row.cursor.and_then(|cursor| RawValue::from_string(cursor).ok()),
            snapshot_complete: row.snapshot_complete,
            newest_version: row.newest_version,
            gap: row.gap,
        })
    }

    async fn apply(
        &self,
        mirror: &str,
        kind: &Kind,
        lease: &Lease,
        mut batch: MirrorBatch,
    ) -> Result<Applied, StoreError> {
        let ops: Vec<EntityOp> = std::mem::take(&mut batch.ops).into_iter().map(EntityOp::from).collect();
        self.store(mirror, kind, lease, &batch, &ops).await
    }

    async fn ids_since(
        &self,
        kind: &Kind,
        version: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(EntityId, String)>, StoreError> {
        self.entities.ids_since(kind, version, after, limit).await
    }

    async fn mark_missing(
        &self,
        kind: &Kind,
        lease: &Lease,
        missing: &[(EntityId, String)],
        found: &[EntityId],
    ) -> Result<(), StoreError> {
        let mirror = lease.name.strip_prefix("mirror.").ok_or_else(|| lost(lease))?;
        let missing = missing.iter().cloned().map(|(id, version)| EntityOp::Missing { id, version });
        let ops: Vec<EntityOp> = missing.chain(found.iter().cloned().map(EntityOp::Found)).collect();
        let batch = MirrorBatch { by: format!("mirror:{mirror}").into(), ..MirrorBatch::default() };
        self.store(mirror, kind, lease, &batch, &ops).await.map(drop)
    }

    async fn note_state(&self, mirror: &str, lease: &Lease, status: &MirrorStatus) -> Result<(), StoreError> {
        // Plain strings and numbers: this cannot fail.
        let status = serde_json::to_string(status).unwrap_or_default();
        let done = sqlx::query!(
            "UPDATE mirrors SET status = $3::text::json, updated_at = now() WHERE name = $1 AND term = $2",
            mirror,
            lease.term,
            status
        )
        .execute(self.entities.database().pool())
        .await
        .map_err(store_error("noting a mirror's state"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(lost(lease)) }
    }
}
