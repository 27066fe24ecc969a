//! Revocations in the database.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::StoreError;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::{Asked, Kind, NOTIFY_CHANNEL, Revocations, Row, keeper::POLL};
use crate::{
    identity::{
        audit::{self, Deed, Who},
        metrics::IdentityMetrics,
    },
    platform::db::{Database, store_error},
};

/// Rows that have ended and are removed in one statement.
const SWEPT: i64 = 1000;

/// Revocations of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct RevocationStore {
    pub(super) database: Database,
    pub(super) known: Revocations,
    pub(super) metrics: IdentityMetrics,
    /// Rung when this node has changed something.
    pub(super) changed: Arc<Notify>,
    /// From one look to the next, where there are other nodes.
    pub(super) poll: Duration,
}

macro_rules! row {
    ($record:expr) => {{
        let it = $record;
        Row {
            id: it.id,
            version: it.version,
            kind: Kind::of(&it.kind),
            subject: it.subject,
            issued_before: it.issued_before,
            expires_at: it.expires_at,
            reason: it.reason,
            created_at: it.created_at,
            created_by: it.created_by,
        }
    }};
}

impl RevocationStore {
    /// What is stored goes into `known`, once it is [loaded](Self::load) and [kept](Self::keep).
    #[must_use]
    pub fn new(database: Database, known: Revocations, metrics: IdentityMetrics) -> Self {
        Self { database, known, metrics, changed: Arc::default(), poll: POLL }
    }

    /// Looks for changes so seldom: for who wants to see what notifications bring by themselves.
    #[must_use]
    pub fn looking_every(self, poll: Duration) -> Self {
        Self { poll, ..self }
    }

    /// Stores one, or makes one that is there stronger: a moment moves only forward, an end only away, but for the end of a
    /// block, where the last word counts.
    /// With `who` it is a deed by itself; without, a part of another, which is told.
    pub(super) async fn add(&self, asked: &Asked, by: &str, who: Option<&Who>) -> Result<Row, StoreError> {
        let doing = "storing a revocation";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let stored = sqlx::query!(
            r#"WITH next AS (UPDATE revocation_state SET version = version + 1 RETURNING version)
               INSERT INTO revocations AS r (kind, subject, issued_before, expires_at, reason, created_by, version)
               SELECT $1, $2, $3, $4, $5, $6, next.version FROM next
               ON CONFLICT (kind, subject) DO UPDATE SET
                   issued_before = CASE WHEN r.expires_at <= now() THEN excluded.issued_before
                       ELSE GREATEST(r.issued_before, excluded.issued_before) END,
                   expires_at = CASE WHEN r.kind = 'block' OR r.expires_at <= now() THEN excluded.expires_at
                       WHEN r.expires_at IS NULL OR excluded.expires_at IS NULL THEN NULL
                       ELSE GREATEST(r.expires_at, excluded.expires_at) END,
                   reason = excluded.reason, created_at = now(), created_by = excluded.created_by,
                   version = excluded.version
               RETURNING id, version, kind, subject, issued_before, expires_at, reason, created_at, created_by"#,
            asked.kind.name(),
            asked.subject,
            asked.issued_before,
            asked.expires_at,
            asked.reason,
            by
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        let stored = row!(stored);
        if let Some(who) = who {
            self.tell(&mut tx, who, Deed::new("revocations.create", stored.told(), 201)).await?;
        }
        sqlx::query!("SELECT pg_notify($1, '')", NOTIFY_CHANNEL).execute(&mut *tx).await.map_err(store_error(doing))?;
        tx.commit().await.map_err(store_error(doing))?;
        self.changed.notify_one();
        Ok(stored)
    }

    async fn tell(&self, tx: &mut PgConnection, who: &Who, deed: Deed) -> Result<(), StoreError> {
        audit::write(tx, self.database.node(), who, &[deed]).await.map_err(store_error("telling the audit"))
    }

    /// Takes back the token of this id, which would have ended then.
    pub(in crate::identity) async fn take_back(
        &self,
        jti: &str,
        ends: OffsetDateTime,
        reason: &str,
        by: &str,
    ) -> Result<(), StoreError> {
        self.revoke(Kind::Token, jti, Some(ends), reason, by).await
    }

    /// Keeps a user out for good.
    pub(in crate::identity) async fn block(&self, user: &str, reason: &str, by: &str) -> Result<(), StoreError> {
        self.revoke(Kind::Block, user, None, reason, by).await
    }

    async fn revoke(
        &self,
        kind: Kind,
        subject: &str,
        expires_at: Option<OffsetDateTime>,
        reason: &str,
        by: &str,
    ) -> Result<(), StoreError> {
        let (subject, reason) = (subject.to_owned(), Some(reason.to_owned()));
        self.add(&Asked { kind, subject, issued_before: None, expires_at, reason }, by, None).await.map(drop)
    }

    /// Lifts one: it ends now. `None`: there is none in force.
    pub(super) async fn lift(&self, id: i64, who: &Who) -> Result<Option<Row>, StoreError> {
        let doing = "lifting a revocation";
        let mut lent = self.database.lend().await.map_err(store_error(doing))?;
        let mut tx = lent.begin().await.map_err(store_error(doing))?;
        let lifted = sqlx::query!(
            r#"WITH next AS (UPDATE revocation_state SET version = version + 1 RETURNING version)
               UPDATE revocations AS r SET expires_at = now(), version = next.version FROM next
               WHERE r.id = $1 AND (r.expires_at IS NULL OR r.expires_at > now())
               RETURNING r.id, r.version, kind, subject, issued_before, expires_at, reason, created_at, created_by"#,
            id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(store_error(doing))?;
        let Some(lifted) = lifted else { return Ok(None) };
        let lifted = row!(lifted);
        self.tell(&mut tx, who, Deed::new("revocations.delete", lifted.told(), 204)).await?;
        sqlx::query!("SELECT pg_notify($1, '')", NOTIFY_CHANNEL).execute(&mut *tx).await.map_err(store_error(doing))?;
        tx.commit().await.map_err(store_error(doing))?;
        self.changed.notify_one();
        Ok(Some(lifted))
    }

    /// Those in force, newest first, with ids below `below`.
    pub(super) async fn list(&self, below: i64, limit: i64) -> Result<Vec<Row>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, version, kind, subject, issued_before, expires_at, reason, created_at, created_by
               FROM revocations WHERE id < $1 AND (expires_at IS NULL OR expires_at > now()) ORDER BY id DESC LIMIT $2"#,
            below,
            limit
        )
        .fetch_all(self.database.for_readers().pool())
        .await
        .map_err(store_error("listing revocations"))?;
        Ok(rows.into_iter().map(|it| row!(it)).collect())
    }

    /// Those of one subject in force: at most one of each kind.
    pub(super) async fn of(&self, kinds: &[&str], subject: &str) -> Result<Vec<Row>, StoreError> {
        let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
        let rows = sqlx::query!(
            r#"SELECT id, version, kind, subject, issued_before, expires_at, reason, created_at, created_by
               FROM revocations WHERE kind = ANY($1) AND subject = $2 AND (expires_at IS NULL OR expires_at > now())
               ORDER BY id DESC"#,
            &kinds,
            subject
        )
        .fetch_all(self.database.for_readers().pool())
        .await
        .map_err(store_error("listing revocations"))?;
        Ok(rows.into_iter().map(|it| row!(it)).collect())
    }

    /// What changed after a version, and the newest version; at most `limit` rows, in the order of versions.
    pub(super) async fn since(&self, version: i64, limit: i64) -> Result<(i64, Vec<Row>), StoreError> {
        let doing = "reading revocations";
        // Not among the readers: whoever has to leave must not stay because many ask for lists.
        let rows = sqlx::query!(
            r#"SELECT s.version AS top, r.id AS "id?", r.version AS "version?", r.kind AS "kind?", r.subject AS "subject?",
                   r.issued_before AS "issued_before?", r.expires_at AS "expires_at?", r.reason AS "reason?",
                   r.created_at AS "created_at?", r.created_by AS "created_by?"
               FROM revocation_state s LEFT JOIN LATERAL
                   (SELECT * FROM revocations WHERE version > $1 ORDER BY version LIMIT $2) r ON true
               ORDER BY r.version"#,
            version,
            limit
        )
        .fetch_all(self.database.pool())
        .await
        .map_err(store_error(doing))?;
        let top = rows.first().map_or(0, |row| row.top);
        let rows = rows.into_iter().filter_map(|it| {
            Some(Row {
                id: it.id?,
                version: it.version?,
                kind: Kind::of(&it.kind?),
                subject: it.subject?,
                issued_before: it.issued_before,
                expires_at: it.expires_at,
                reason: it.reason,
                created_at: it.created_at?,
                created_by: it.created_by?,
            })
        });
        Ok((top, rows.collect()))
    }

    /// Removes some of what ended an hour ago or earlier: by then every node that reads by versions has read it.
    pub(super) async fn sweep(&self) -> Result<u64, StoreError> {
        let swept = sqlx::query!(
            "DELETE FROM revocations WHERE id = ANY(ARRAY(SELECT id FROM revocations
             WHERE expires_at < now() - interval '1 hour' ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))",
            SWEPT
        )
        .execute(self.database.pool())
        .await
        .map_err(store_error("removing revocations that have ended"))?;
        Ok(swept.rows_affected())
    }
}
