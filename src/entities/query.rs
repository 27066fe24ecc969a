//! Reads of one entity for people and other systems, and of its history. Lists are in `list`.

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    entities::INLINE_DOC_LIMIT,
    platform::{EntityId, Kind},
};
use sqlx::{FromRow, PgExecutor};
use time::OffsetDateTime;

use super::{Entities, Source, log::bigint};
use crate::platform::db::store_error;

/// A document up to this size stands in a list; above it a reference does.
pub(super) const INLINE: i32 = INLINE_DOC_LIMIT as i32;

/// An entity as it is stored.
#[derive(Debug, Clone)]
pub struct EntityRow {
    /// Its id.
    pub id: String,
    /// Its revision.
    pub revision: i64,
    /// The kind's offset of its last change.
    pub offset: i64,
    /// The last change.
    pub op: String,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub by: String,
    /// The upstream's version.
    pub version: Option<String>,
    /// In the trash since.
    pub trashed_at: Option<OffsetDateTime>,
    /// Not shown by the upstream since.
    pub missing_since: Option<OffsetDateTime>,
    /// The document was destroyed.
    pub purged: bool,
    /// Bytes of the document.
    pub size: i32,
    /// The raw document, where it was asked for.
    pub doc: Option<String>,
}

/// A revision in an entity's history.
#[derive(Debug, Clone)]
pub struct HistoryRow {
    /// The revision.
    pub revision: i64,
    /// The kind's offset.
    pub offset: i64,
    /// What was done.
    pub op: String,
    /// When.
    pub at: OffsetDateTime,
    /// Who.
    pub by: String,
    /// Top-level fields that differ from the revision before.
    pub changed: Vec<String>,
    /// Earlier values of declared fields: a JSON object as text.
    pub before: Option<String>,
    /// The log has a document of its own of it.
    pub kept: bool,
}

/// An entity as a statement finds it that answers a row even where there is none. What a statement leaves out, for its rows have nothing there,
/// is nothing.
#[derive(FromRow)]
pub(super) struct Found {
    pub(super) id: Option<String>,
    revision: Option<i64>,
    offset: Option<i64>,
    op: Option<String>,
    at: Option<OffsetDateTime>,
    by: Option<String>,
    version: Option<String>,
    #[sqlx(default)]
    trashed_at: Option<OffsetDateTime>,
    #[sqlx(default)]
    missing_since: Option<OffsetDateTime>,
    #[sqlx(default)]
    purged: Option<bool>,
    size: Option<i32>,
    doc: Option<String>,
}

impl Found {
    /// `None`: there is none.
    pub(super) fn entity(self) -> Option<EntityRow> {
        Some(EntityRow {
            id: self.id?,
            revision: self.revision?,
            offset: self.offset?,
            op: self.op?,
            at: self.at?,
            by: self.by?,
            version: self.version,
            trashed_at: self.trashed_at,
            missing_since: self.missing_since,
            purged: self.purged.unwrap_or_default(),
            size: self.size?,
            doc: self.doc,
        })
    }
}

/// One entity with its tag.
#[derive(FromRow)]
pub(super) struct OneRow {
    id: String,
    revision: i64,
    offset: i64,
    op: String,
    at: OffsetDateTime,
    by: String,
    version: Option<String>,
    trashed_at: Option<OffsetDateTime>,
    missing_since: Option<OffsetDateTime>,
    #[sqlx(default)]
    purged: bool,
    tag: String,
    size: i32,
    doc: Option<String>,
}

impl From<OneRow> for (EntityRow, String) {
    fn from(row: OneRow) -> Self {
        let entity = EntityRow {
            id: row.id,
            revision: row.revision,
            offset: row.offset,
            op: row.op,
            at: row.at,
            by: row.by,
            version: row.version,
            trashed_at: row.trashed_at,
            missing_since: row.missing_since,
            purged: row.purged,
            size: row.size,
            doc: row.doc,
        };
        (entity, row.tag)
    }
}

/// [`Entities::one`] on any connection: within a transaction it is what the transaction has made of it.
pub(super) async fn read_one<'e>(
    on: impl PgExecutor<'e>,
    kind: &Kind,
    id: &EntityId,
    known: &[String],
    largest: i32,
) -> Result<Option<OneRow>, sqlx::Error> {
    sqlx::query_as!(
        OneRow,
        r#"SELECT e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since,
             e.doc IS NULL AS "purged!", t.tag AS "tag!", e.size,
             CASE WHEN t.tag <> ALL ($3) AND e.size <= $4 THEN e.doc END AS doc
         FROM streams s JOIN entities e ON e.kind = $1 AND e.id = $2
         CROSS JOIN LATERAL (SELECT s.epoch || '.' || e.revision || '.' || left(md5(COALESCE(e.version, '')), 8) AS tag) t
         WHERE s.name = 'entities.' || $1::text"#,
        kind.as_str(),
        id.as_str(),
        known,
        largest
    )
    .fetch_optional(on)
    .await
}

impl Entities {
    /// One entity with its entity tag; the document is left out when the tag is among `known`, or when it is larger than
    /// `largest`.
    ///
    /// # Errors
    /// The database is away.
    pub async fn one(
        &self,
        kind: &Kind,
        id: &EntityId,
        known: &[String],
        largest: i32,
    ) -> Result<Option<(EntityRow, String)>, StoreError> {
        let row = read_one(self.database.pool(), kind, id, known, largest).await;
        Ok(row.map_err(store_error("reading an entity"))?.map(Into::into))
    }

    /// Revisions of an entity below one, newest first, as far as the log reaches back.
    ///
    /// # Errors
    /// The database is away.
    pub async fn history(
        &self,
        kind: &Kind,
        id: &EntityId,
        before: Option<u64>,
        limit: u16,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        sqlx::query_as!(
            HistoryRow,
            r#"SELECT revision, "offset", op, at, by, changed, before::text, COALESCE(doc, large) IS NOT NULL AS "kept!"
             FROM changes WHERE kind = $1 AND id = $2 AND revision < $3 ORDER BY revision DESC LIMIT $4"#,
            kind.as_str(),
            id.as_str(),
            before.map_or(i64::MAX, bigint),
            i64::from(limit)
        )
        .fetch_all(self.database.pool())
        .await
        .map_err(store_error("reading history"))
    }

    /// The document as it was at a revision, if the log has kept it. Of kinds of ours what hides and shows again leaves it as it was; an
    /// upstream may bring another one with that.
    ///
    /// # Errors
    /// The database is away.
    pub async fn document_at(&self, kind: &Kind, id: &EntityId, revision: u64) -> Result<Option<String>, StoreError> {
        let found = sqlx::query_scalar!(
            r#"SELECT COALESCE(doc, large) FROM changes WHERE kind = $1 AND id = $2 AND revision <= $3
                 AND (COALESCE(doc, large) IS NOT NULL OR NOT $4 OR op NOT IN ('trash', 'restore'))
             ORDER BY revision DESC LIMIT 1"#,
            kind.as_str(),
            id.as_str(),
            bigint(revision),
            self.spec(kind).is_some_and(|spec| spec.source == Source::Local)
        );
        let found = found.fetch_optional(self.database.pool()).await;
        Ok(found.map_err(store_error("reading a revision"))?.flatten())
    }

    /// Ids whose version is at or after the given one, oldest first; `after` continues behind that id of that version.
    /// Without what the upstream deleted or no longer shows.
    ///
    /// # Errors
    /// The database is away.
    pub async fn ids_since(
        &self,
        kind: &Kind,
        version: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(EntityId, String)>, StoreError> {
        // No id is empty, so without `after` every id of that version is behind.
        let rows = sqlx::query!(
            r#"SELECT id, version AS "version!" FROM entities
             WHERE kind = $1 AND (version, id) > ($2, $3) AND version IS NOT NULL AND trashed_at IS NULL
                 AND missing_since IS NULL AND doc IS NOT NULL
             ORDER BY version, id LIMIT $4"#,
            kind.as_str(),
            version,
            after.unwrap_or_default(),
            bigint(limit as u64)
        )
        .fetch_all(self.database.pool())
        .await
        .map_err(store_error("reading ids"))?;
        Ok(rows.into_iter().filter_map(|row| Some((EntityId::new(&row.id).ok()?, row.version))).collect())
    }

    /// Every document of a kind that its upstream shows, as `(id, text)`. Unbounded: for a development database.
    ///
    /// # Errors
    /// The database is away.
    pub async fn documents(&self, kind: &Kind) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, doc AS "doc!" FROM entities
             WHERE kind = $1 AND doc IS NOT NULL AND trashed_at IS NULL AND missing_since IS NULL"#,
            kind.as_str()
        );
        let rows = rows.fetch_all(self.database.pool()).await.map_err(store_error("reading documents"))?;
        Ok(rows.into_iter().map(|row| (row.id, row.doc)).collect())
    }

    /// Whether there is, or was, such an entity.
    ///
    /// # Errors
    /// The database is away.
    pub async fn exists(&self, kind: &Kind, id: &EntityId) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM entities WHERE kind = $1 AND id = $2) AS "found!""#,
            kind.as_str(),
            id.as_str()
        );
        found.fetch_one(self.database.pool()).await.map_err(store_error("reading an entity"))
    }
}
