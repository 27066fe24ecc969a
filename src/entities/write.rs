//! The one way into `entities` and `changes`: walk one of the design, as statements.
//!
//! Rows are locked and read, the run is folded in Rust, and the last statement moves the stream, writes the log and the entities
//! at once: from there to the commit the stream's row orders the writers of the kind. Documents are handled in pieces of
//! bounded size, so a batch of large ones never stands in memory several times over.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use dzvin_actors::platform::ports::{Applied, StoreError};
use dzvin_protocols::{
    channels::IdKey,
    entities::INLINE_DOC_LIMIT,
    mirror::Quarantined,
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;
use sqlx::{Connection, PgConnection};

use super::{
    Entities, KindSpec, NOTIFY_CHANNEL,
    fold::{EntityOp, Folded, NewChange, NewState, Prepared, Stored, filterable, fold, prepare},
};
use crate::platform::db::{is_data_refusal, store_error};

/// Bytes of documents that one statement carries, new or old: one object of the greatest size, or some hundreds of usual ones.
pub const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// Operations that one statement carries.
pub const PIECE_OPS: usize = 1_000;
/// From this many bytes on, checking and comparing leaves the runtime's thread: about a millisecond of work.
const OFFLOAD_BYTES: usize = 256 * 1024;
/// How often a batch is repeated when another writer created the same entity meanwhile.
const MAX_RACES: usize = 5;

/// What a transaction wrote.
#[derive(Debug, Default)]
pub struct Written {
    /// Each operation counted once.
    pub applied: Applied,
    /// Put aside, for whoever keeps such records.
    pub quarantined: Vec<Quarantined>,
    /// Entities that came into being.
    pub created: u64,
    /// Largest version stored.
    pub newest: Option<String>,
}

/// Whether a record may be put aside alone when the database refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The first try: a refusal ends the transaction, no savepoint is paid for.
    Fails,
    /// The careful repeat: each operation in a savepoint of its own.
    Quarantines,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another writer created the entity between our look and our write: repeat the transaction.
    #[error("another writer came between")]
    Raced,
    /// The data itself was refused: repeat with [`Refusal::Quarantines`].
    #[error("the database refused a record")]
    Data(#[source] sqlx::Error),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn write_error(error: sqlx::Error) -> WriteError {
    if is_data_refusal(&error) { WriteError::Data(error) } else { store_error("writing entities")(error).into() }
}

/// Who writes, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// `mirror:{name}`, else the user.
    pub by: &'a str,
    /// W3C `traceparent`.
    pub trace: Option<&'a str>,
}

impl Entities {
    /// Writes within the caller's transaction. On any error the transaction must be rolled back.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write(
        &self,
        tx: &mut PgConnection,
        kind: &Kind,
        author: Author<'_>,
        ops: &[EntityOp],
        refusal: Refusal,
    ) -> Result<Written, WriteError> {
        let spec = self.spec(kind).ok_or_else(|| StoreError::Refused {
            doing: "writing entities",
            source: format!("the kind {kind} is not declared").into(),
        })?;
        let mut written = Written::default();
        match refusal {
            Refusal::Fails => write_run(tx, spec, author, ops, &mut written).await?,
            Refusal::Quarantines => {
                for op in ops {
                    self.write_carefully(tx, spec, author, op, &mut written).await?;
                }
            }
        }
        Ok(written)
    }

    async fn write_carefully(
        &self,
        tx: &mut PgConnection,
        spec: &Arc<KindSpec>,
        author: Author<'_>,
        op: &EntityOp,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        let mut savepoint = tx.begin().await.map_err(write_error)?;
        let mut one = Written::default();
        match write_run(&mut savepoint, spec, author, std::slice::from_ref(op), &mut one).await {
            Ok(()) => {
                savepoint.commit().await.map_err(write_error)?;
                written.add(one);
            }
            Err(WriteError::Data(error)) => {
                savepoint.rollback().await.map_err(write_error)?;
                self.database.metrics().refused_records.inc();
                written.put_aside(op, &error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes in a transaction of its own and wakes those who wait.
    ///
    /// # Errors
    /// The database is away or refuses; nothing was written then.
    pub async fn commit(&self, kind: &Kind, author: Author<'_>, ops: &[EntityOp]) -> Result<Written, StoreError> {
        let mut attempt = Attempt::default();
        loop {
            let result = self.try_commit(kind, author, ops, attempt.refusal).await;
            if let Some(result) = attempt.next(self, result) {
                return result;
            }
        }
    }

    async fn try_commit(
        &self,
        kind: &Kind,
        author: Author<'_>,
        ops: &[EntityOp],
        refusal: Refusal,
    ) -> Result<Written, WriteError> {
        let mut tx = self.database.pool().begin().await.map_err(write_error)?;
        let written = self.write(&mut tx, kind, author, ops, refusal).await?;
        if written.applied.changed > 0 {
            notify(&mut tx, kind).await?;
        }
        tx.commit().await.map_err(write_error)?;
        self.database.committed();
        Ok(written)
    }
}

/// Repeats of one batch: after a race as it is, after refused data carefully.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) refusal: Refusal,
    races: usize,
}

impl Default for Attempt {
    fn default() -> Self {
        Self { refusal: Refusal::Fails, races: 0 }
    }
}

impl Attempt {
    /// The end of it, or `None` when the batch has to be tried again.
    pub(crate) fn next<T>(
        &mut self,
        entities: &Entities,
        result: Result<T, WriteError>,
    ) -> Option<Result<T, StoreError>> {
        let doing = "writing entities";
        match result {
            Ok(done) => Some(Ok(done)),
            Err(WriteError::Store(error)) => Some(Err(error)),
            Err(WriteError::Data(_)) if self.refusal == Refusal::Fails => {
                self.refusal = Refusal::Quarantines;
                None
            }
            Err(WriteError::Data(error)) => Some(Err(StoreError::Refused { doing, source: Box::new(error) })),
            Err(WriteError::Raced) => {
                entities.database.metrics().raced.inc();
                self.races += 1;
                (self.races >= MAX_RACES)
                    .then(|| Err(StoreError::Unavailable { doing, source: Box::new(WriteError::Raced) }))
            }
        }
    }
}

/// Tells other nodes, when the transaction commits.
pub(crate) async fn notify(tx: &mut PgConnection, kind: &Kind) -> Result<(), WriteError> {
    sqlx::query!("SELECT pg_notify($1, $2)::text AS told", NOTIFY_CHANNEL, kind.as_str())
        .fetch_one(tx)
        .await
        .map_err(write_error)?;
    Ok(())
}

impl Written {
    fn add(&mut self, other: Self) {
        self.applied.changed += other.applied.changed;
        self.applied.unchanged += other.applied.unchanged;
        self.applied.stale += other.applied.stale;
        self.applied.quarantined += other.applied.quarantined;
        self.quarantined.extend(other.quarantined);
        self.created += other.created;
        self.newest = self.newest.take().max(other.newest);
    }

    fn put_aside(&mut self, op: &EntityOp, error: &sqlx::Error) {
        let raw = match op {
            EntityOp::Upsert { doc: raw, .. } | EntityOp::Set { set: raw, .. } => raw.get().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        self.applied.quarantined += 1;
        self.quarantined.push(Quarantined {
            reason: "refused",
            detail: error.to_string(),
            id: Some(op.id().clone()),
            raw,
        });
    }
}

async fn write_run(
    tx: &mut PgConnection,
    spec: &Arc<KindSpec>,
    author: Author<'_>,
    ops: &[EntityOp],
    written: &mut Written,
) -> Result<(), WriteError> {
    let mut rest = ops;
    while !rest.is_empty() {
        let piece = piece_len(rest.iter().map(EntityOp::bytes));
        let done = write_piece(tx, spec, author, &rest[..piece], written).await?;
        rest = &rest[done..];
    }
    Ok(())
}

/// How many of the sizes fit one piece; at least one.
fn piece_len(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0usize;
    let fitting = sizes.take(PIECE_OPS).take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= PIECE_BYTES
    });
    fitting.count().max(1)
}

/// Writes as many of the operations as the old documents that they need let fit; answers how many.
async fn write_piece(
    tx: &mut PgConnection,
    spec: &Arc<KindSpec>,
    author: Author<'_>,
    ops: &[EntityOp],
    written: &mut Written,
) -> Result<usize, WriteError> {
    let bytes: usize = ops.iter().map(EntityOp::bytes).sum();
    let (ours, owned) = (Arc::clone(spec), ops.to_vec());
    let mut prepared =
        offload(bytes, move || owned.into_iter().map(|op| prepare(&ours, op)).collect::<Vec<_>>()).await?;
    let ids: BTreeSet<&EntityId> = ops.iter().map(EntityOp::id).collect();
    let mut stored = lock_rows(tx, &spec.kind, &ids).await?;

    let needed = needed_docs(&prepared, &stored);
    let sizes = prepared.iter().map(|it| needed.get(it.op.id()).copied().unwrap_or(0));
    prepared.truncate(piece_len(sizes));
    let done = prepared.len();
    let wanted: BTreeSet<&EntityId> =
        prepared.iter().map(|it| it.op.id()).filter(|id| needed.contains_key(*id)).collect();
    let old_bytes: usize = wanted.iter().filter_map(|id| needed.get(*id)).sum();
    read_docs(tx, &spec.kind, &wanted, &mut stored).await?;

    let ours = Arc::clone(spec);
    let folded = offload(bytes + old_bytes, move || fold(&ours, stored, prepared)).await?;
    store(tx, spec, author, &folded).await?;
    written.add(Written {
        applied: folded.applied,
        quarantined: folded.quarantined,
        created: folded.created,
        newest: folded.newest,
    });
    Ok(done)
}

/// Small work here, large work where blocking is allowed.
async fn offload<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    if bytes < OFFLOAD_BYTES {
        return Ok(work());
    }
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| StoreError::Refused { doing: "comparing documents", source: Box::new(error) })
}

/// The ids whose stored document the fold will look at, with its size.
fn needed_docs(ops: &[Prepared], stored: &HashMap<EntityId, Stored>) -> HashMap<EntityId, usize> {
    let mut needed = HashMap::new();
    for Prepared { op, hash, unfit } in ops {
        let Some(row) = stored.get(op.id()).filter(|row| !row.purged && unfit.is_none()) else { continue };
        let needs = match op {
            EntityOp::Upsert { version, .. } => {
                row.hash.as_deref() != hash.as_ref().map(|hash| &hash[..])
                    && row.version.as_ref().is_none_or(|old| version >= old)
            }
            EntityOp::Set { .. } => true,
            EntityOp::Trash(_) | EntityOp::Missing(_) | EntityOp::Found(_) => row.size <= INLINE_DOC_LIMIT,
            EntityOp::Purge(_) => false,
        };
        if needs {
            needed.insert(op.id().clone(), row.size);
        }
    }
    needed
}

async fn lock_rows(
    tx: &mut PgConnection,
    kind: &Kind,
    ids: &BTreeSet<&EntityId>,
) -> Result<HashMap<EntityId, Stored>, WriteError> {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let rows = sqlx::query!(
        r#"SELECT id, revision, version, hash, size, trashed_at IS NOT NULL AS "trashed!",
             missing_since IS NOT NULL AS "missing!", doc IS NULL AS "purged!"
         FROM entities WHERE kind = $1 AND id = ANY($2) ORDER BY id FOR UPDATE"#,
        kind.as_str(),
        &ids as &[&str]
    )
    .fetch_all(tx)
    .await
    .map_err(write_error)?;
    let row = rows.into_iter().filter_map(|row| {
        let stored = Stored {
            revision: row.revision,
            version: row.version,
            hash: row.hash,
            doc: None,
            size: usize::try_from(row.size).unwrap_or(0),
            trashed: row.trashed,
            missing: row.missing,
            purged: row.purged,
        };
        Some((EntityId::new(&row.id).ok()?, stored))
    });
    Ok(row.collect())
}

async fn read_docs(
    tx: &mut PgConnection,
    kind: &Kind,
    ids: &BTreeSet<&EntityId>,
    stored: &mut HashMap<EntityId, Stored>,
) -> Result<(), WriteError> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let rows = sqlx::query!(
        r#"SELECT id, doc AS "doc!" FROM entities WHERE kind = $1 AND id = ANY($2) AND doc IS NOT NULL"#,
        kind.as_str(),
        &ids as &[&str]
    )
    .fetch_all(tx)
    .await
    .map_err(write_error)?;
    for row in rows {
        let known = EntityId::new(&row.id).ok().and_then(|id| stored.get_mut(&id));
        if let (Some(known), Ok(doc)) = (known, RawValue::from_string(row.doc)) {
            known.doc = Some(doc.into());
        }
    }
    Ok(())
}

async fn store(tx: &mut PgConnection, spec: &KindSpec, author: Author<'_>, folded: &Folded) -> Result<(), WriteError> {
    let (silent, changed): (Vec<_>, Vec<_>) = folded.states.iter().partition(|state| state.change == 0);
    if !silent.is_empty() {
        store_silently(tx, spec, &silent).await?;
    }
    if !changed.is_empty() {
        store_changes(tx, spec, author, &folded.changes, &changed).await?;
    }
    Ok(())
}

fn text(doc: Option<&Arc<RawValue>>) -> Option<&str> {
    doc.map(|doc| doc.get())
}

fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn size(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// Document and version of rows whose content is the same. They exist and are locked by us, so the insert never inserts;
/// in this form the planner cannot choose to scan the table.
async fn store_silently(tx: &mut PgConnection, spec: &KindSpec, rows: &[&NewState]) -> Result<(), WriteError> {
    sqlx::query!(
        r#"INSERT INTO entities AS e
             (kind, id, revision, "offset", op, at, by, version, doc, size, fields, created_at, updated_at)
         SELECT $1, i.id, 0, 0, '', now(), '', i.version, i.doc, i.size, i.fields::jsonb, now(), now()
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::int4[], $6::text[]) AS i (id, version, doc, size, fields)
         ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, doc = excluded.doc, size = excluded.size,
             fields = excluded.fields, updated_at = now()"#,
        spec.kind.as_str(),
        &column(rows, |row| row.id.as_str()) as &[&str],
        &column(rows, |row| row.version.as_deref()) as &[Option<&str>],
        &column(rows, |row| text(row.doc.as_ref())) as &[Option<&str>],
        &column(rows, |row| size(row.size)),
        &column(rows, |row| fields(spec, row))
    )
    .execute(tx)
    .await
    .map_err(write_error)?;
    Ok(())
}

fn fields(spec: &KindSpec, row: &NewState) -> String {
    row.doc.as_ref().map_or_else(|| "{}".to_owned(), |doc| filterable(spec, doc))
}

/// Moves the stream, writes the log and the entities. A row that was not there when we looked and is there now is not
/// touched: its count is missing, and the batch is repeated.
async fn store_changes(
    tx: &mut PgConnection,
    spec: &KindSpec,
    author: Author<'_>,
    changes: &[NewChange],
    rows: &[&NewState],
) -> Result<(), WriteError> {
    let inline = |change: &NewChange| change.doc.as_ref().is_some_and(|doc| doc.get().len() <= INLINE_DOC_LIMIT);
    let keys = column(rows, |row| Some(IdKey::of(&row.id)).filter(IdKey::is_hashed));
    let done = sqlx::query!(
        r#"WITH s AS (
             UPDATE streams SET top = top + $3, at = GREATEST(at, clock_timestamp()) WHERE name = 'entities.' || $1::text
             RETURNING top - $3 AS base, at
         ), log AS (
             INSERT INTO changes (kind, "offset", day, id, revision, op, at, by, changed, before, doc, size, trace)
             SELECT $1, s.base + c.n, (s.at AT TIME ZONE 'UTC')::date, c.id, c.revision, c.op, s.at, $2,
                 c.changed::text[], c.before::json, c.doc, COALESCE(octet_length(c.doc), 0), $4
             FROM s, UNNEST($5::text[], $6::int8[], $7::text[], $8::text[], $9::text[], $10::text[])
                 WITH ORDINALITY AS c (id, revision, op, changed, before, doc, n)
         )
         INSERT INTO entities AS e (kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, key,
             trashed_at, missing_since, created_at, updated_at)
         SELECT $1, i.id, i.revision, s.base + i.n, i.op, s.at, $2, i.version, i.hash, i.doc, i.size, i.fields::jsonb, i.key,
             CASE WHEN i.trashed THEN s.at END, CASE WHEN i.missing THEN s.at END,
             CASE WHEN i.fresh THEN s.at ELSE '-infinity' END, s.at
         FROM s, UNNEST($11::text[], $12::int8[], $13::int8[], $14::text[], $15::text[], $16::bytea[], $17::text[],
             $18::int4[], $19::text[], $20::text[], $21::bool[], $22::bool[], $23::bool[])
             AS i (id, revision, n, op, version, hash, doc, size, fields, key, trashed, missing, fresh)
         ON CONFLICT (kind, id) DO UPDATE SET
             revision = excluded.revision, "offset" = excluded."offset", op = excluded.op, at = excluded.at, by = excluded.by,
             version = excluded.version, hash = excluded.hash, size = excluded.size,
             doc = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.doc ELSE excluded.doc END,
             fields = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.fields ELSE excluded.fields END,
             trashed_at = CASE WHEN excluded.trashed_at IS NULL THEN NULL ELSE COALESCE(e.trashed_at, excluded.at) END,
             missing_since = CASE WHEN excluded.missing_since IS NULL THEN NULL ELSE COALESCE(e.missing_since, excluded.at) END,
             updated_at = excluded.at
         WHERE excluded.created_at = '-infinity'"#,
        spec.kind.as_str(),
        author.by,
        changes.len() as i64,
        author.trace,
        &column(changes, |change| change.id.as_str()) as &[&str],
        &column(changes, |change| change.revision),
        &column(changes, |change| change.op.as_str()) as &[&str],
        &column(changes, |change| text_array(&change.changed)),
        &column(changes, |change| change.before.as_deref()) as &[Option<&str>],
        &column(changes, |change| text(change.doc.as_ref()).filter(|_| inline(change))) as &[Option<&str>],
        &column(rows, |row| row.id.as_str()) as &[&str],
        &column(rows, |row| row.revision),
        &column(rows, |row| row.change),
        &column(rows, |row| row.op.as_str()) as &[&str],
        &column(rows, |row| row.version.as_deref()) as &[Option<&str>],
        &column(rows, |row| row.hash.as_deref()) as &[Option<&[u8]>],
        &column(rows, |row| text(row.doc.as_ref())) as &[Option<&str>],
        &column(rows, |row| size(row.size)),
        &column(rows, |row| fields(spec, row)),
        &column(&keys, |key| key.as_ref().map(IdKey::as_str)) as &[Option<&str>],
        &column(rows, |row| row.trashed),
        &column(rows, |row| row.missing),
        &column(rows, |row| row.fresh)
    )
    .execute(tx)
    .await
    .map_err(write_error)?;
    if done.rows_affected() == rows.len() as u64 { Ok(()) } else { Err(WriteError::Raced) }
}

/// A `text[]` as PostgreSQL writes it: arrays of arrays would have to be of one length.
fn text_array(items: &[String]) -> String {
    let quoted: Vec<_> =
        items.iter().map(|item| format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_and_never_empty() {
        assert_eq!(piece_len([PIECE_BYTES * 2, 1].into_iter()), 1);
        assert_eq!(piece_len([PIECE_BYTES - 1, 1, 1].into_iter()), 2);
        assert_eq!(piece_len(std::iter::repeat_n(0, PIECE_OPS + 5)), PIECE_OPS);
    }

    #[test]
    fn array_literals_are_quoted() {
        assert_eq!(text_array(&[r#"a"b\"#.to_owned(), "{,}".to_owned()]), r#"{"a\"b\\","{,}"}"#);
        assert_eq!(text_array(&[]), "{}");
    }
}
