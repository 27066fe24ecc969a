//! The one way into `entities` and `changes`: walk one of the design, as statements.
//!
//! Rows are locked and read, the run is folded in Rust, and the last statement moves the stream, writes the log and the entities
//! at once: from there to the commit the stream's row orders the writers of the kind. Documents are handled in turns of
//! bounded size, so a batch of large ones never stands in memory several times over.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use dzvin_actors::platform::ports::{Applied, StoreError};
use dzvin_protocols::{
    channels::Position,
    entities::{INLINE_DOC_LIMIT, Op},
    mirror::Quarantined,
    platform::{EntityId, Kind},
};
use sqlx::{Connection, PgConnection, Postgres, Transaction};
use tokio::task::JoinError;

use super::{
    Entities, EntityRow, KindSpec, NOTIFY_CHANNEL,
    edit::{EditAction, Outcome, Refused},
    editing::{MAX_TOGETHER, as_they_are},
    fold::{Folded, Stored, fold},
    op::{EntityOp, Prepared, prepare},
    recent::Logged,
    rows::{lock_rows, read_docs, store},
};
use crate::platform::db::{is_data_refusal, store_error};

/// Bytes of old and new documents that are handled at a time: one object of the greatest size, or hundreds of usual ones.
pub const TURN_BYTES: usize = 8 * 1024 * 1024;
/// Operations that one statement carries.
pub const TURN_OPS: usize = 1_000;
/// From this many bytes on, checking and comparing leaves the runtime's thread: about a millisecond of work.
const OFFLOAD_BYTES: usize = 256 * 1024;
/// Bytes of documents, old and new, that one request may edit: eight turns, about a second in which nobody else writes the kind.
pub(super) const MAX_EDIT_BYTES: usize = 8 * TURN_BYTES;
/// How often a batch is repeated when another writer created the same entity meanwhile.
pub(super) const MAX_RACES: usize = 5;

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
    /// What each edit came to, in their order.
    pub edits: Vec<Result<Outcome, Refused>>,
    /// Bytes of documents that they have read and made.
    pub edited: usize,
    /// The stream's behind the last change, if there was one.
    pub position: Option<Position>,
    /// Of each edit that has changed something, where they are few, the entity as it is then, with its tag.
    pub(super) rows: Vec<Option<(EntityRow, String)>>,
    /// The rows of the log, turn by turn: for the relay, once the transaction is committed.
    pub(crate) logged: Logged,
}

/// Whether a record may be put aside alone when the database refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The first try: a refusal ends the transaction, no savepoint is paid for.
    Fails,
    /// The same; and behind an edit that is refused, or above what one request may edit, nothing more is written: the transaction is
    /// to be rolled back.
    Stops,
    /// The careful repeat: each operation in a savepoint of its own.
    Quarantines,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another writer created the entity between our look and our write: repeat the transaction.
    #[error("another writer came between")]
    Raced,
    /// The kind was declared anew meanwhile: look how, and repeat the transaction.
    #[error("the kind was declared anew")]
    Redeclared,
    /// The data itself was refused: repeat with [`Refusal::Quarantines`].
    #[error("the database refused a record")]
    Data(#[source] sqlx::Error),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) fn write_error(error: sqlx::Error) -> WriteError {
    // Deadlock or serialisation failure: somebody else got through, we begin again.
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.is_some_and(|code| matches!(&*code, "40P01" | "40001")) {
        return WriteError::Raced;
    }
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
            Refusal::Fails | Refusal::Stops => {
                write_run(tx, &spec, author, ops, refusal == Refusal::Stops, &mut written).await?;
            }
            Refusal::Quarantines => {
                // In one order, as every writer, before the stream is held.
                lock_rows(tx, kind, &ops.iter().map(EntityOp::id).collect(), false).await?;
                for op in ops {
                    self.write_carefully(tx, &spec, author, op, &mut written).await?;
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
        // One that fails to begin takes the transaction around it with it, whose commit would then say that all is well: no error of
        // this may be passed over.
        #[expect(clippy::disallowed_methods, reason = "given up, it is rolled back with the transaction around it")]
        let mut savepoint = tx.begin().await.map_err(write_error)?;
        let mut one = Written::default();
        match write_run(&mut savepoint, spec, author, std::slice::from_ref(op), false, &mut one).await {
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
            if matches!(result, Err(WriteError::Redeclared)) {
                self.refresh_kinds().await?;
            }
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
        let mut writer = self.database.writer().await.map_err(write_error)?;
        let mut tx = writer.begin().await.map_err(write_error)?;
        let mut written = self.write(&mut tx, kind, author, ops, refusal).await?;
        self.seal(tx, kind, &mut written).await?;
        self.database.keep_writer(writer);
        Ok(written)
    }

    /// Commits what was written, tells the relay of it, and wakes other nodes.
    pub(super) async fn seal(
        &self,
        mut tx: Transaction<'_, Postgres>,
        kind: &Kind,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        if written.applied.changed > 0 {
            self.notify(&mut tx).await?;
        }
        let committing = self.committing();
        tx.commit().await.map_err(write_error)?;
        committing.done(kind, std::mem::take(&mut written.logged));
        Ok(())
    }

    /// Tells other nodes, when the transaction commits.
    async fn notify(&self, tx: &mut PgConnection) -> Result<(), WriteError> {
        let Some(notice) = self.database.notice() else { return Ok(()) };
        sqlx::query!("SELECT pg_notify($1, $2)::text AS told", NOTIFY_CHANNEL, notice)
            .fetch_one(tx)
            .await
            .map_err(write_error)?;
        Ok(())
    }

    /// To be held over a commit.
    pub(crate) fn committing(&self) -> Committing<'_> {
        Committing(Some(self))
    }
}

/// A commit under way. Of one that failed or was given up nobody knows whether it happened: then the relay asks the log.
pub(crate) struct Committing<'a>(Option<&'a Entities>);

impl Committing<'_> {
    /// It happened: what it wrote goes to the relay of this node.
    pub(crate) fn done(mut self, kind: &Kind, logged: Logged) {
        if let Some(entities) = self.0.take() {
            entities.recent.take(kind, logged);
            entities.database.committed();
        }
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        if let Some(entities) = self.0 {
            entities.recent.lost();
            entities.database.committed();
        }
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
            Err(WriteError::Data(error)) => Some(Err(StoreError::Unfit { doing, source: Box::new(error) })),
            Err(raced @ (WriteError::Raced | WriteError::Redeclared)) => {
                entities.database.metrics().raced.inc();
                self.races += 1;
                (self.races >= MAX_RACES).then(|| Err(StoreError::Unavailable { doing, source: Box::new(raced) }))
            }
        }
    }
}

impl Written {
    fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.quarantined.extend(other.quarantined);
        self.created += other.created;
        self.newest = self.newest.take().max(other.newest);
        self.edits.extend(other.edits);
        self.edited += other.edited;
        self.position = other.position.or(self.position.take());
        self.rows.extend(other.rows);
        self.logged.append(other.logged);
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
    stops: bool,
    written: &mut Written,
) -> Result<(), WriteError> {
    let mut ops = prepared(spec, ops).await?;
    while !ops.is_empty() {
        ops = write_turn(tx, spec, author, ops, stops, written).await?;
        if written.edited > MAX_EDIT_BYTES {
            return Ok(());
        }
    }
    Ok(())
}

/// Checked and hashed, off the runtime's thread where that takes time.
async fn prepared(spec: &Arc<KindSpec>, ops: &[EntityOp]) -> Result<Vec<Prepared>, StoreError> {
    let (spec, ops) = (Arc::clone(spec), ops.to_vec());
    let unread: usize = ops.iter().map(EntityOp::unread).sum();
    let prepare = move || ops.into_iter().map(|op| prepare(&spec, op)).collect();
    if unread < OFFLOAD_BYTES { Ok(prepare()) } else { joined(tokio::task::spawn_blocking(prepare).await) }
}

fn joined<T>(done: Result<T, JoinError>) -> Result<T, StoreError> {
    // A panic over a document: that document is at fault, the others are not.
    done.map_err(|error| StoreError::Unfit { doing: "comparing documents", source: Box::new(error) })
}

/// How many of the sizes fit so many bytes; at least one.
fn turn_len(sizes: impl Iterator<Item = usize>, limit: usize) -> usize {
    let mut bytes = 0usize;
    let fitting = sizes.take(TURN_OPS).take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= limit
    });
    fitting.count().max(1)
}

/// Writes as many operations as their documents, old and new, fit one turn; answers the rest.
async fn write_turn(
    tx: &mut PgConnection,
    spec: &Arc<KindSpec>,
    author: Author<'_>,
    mut ops: Vec<Prepared>,
    stops: bool,
    written: &mut Written,
) -> Result<Vec<Prepared>, WriteError> {
    let ids: BTreeSet<&EntityId> = ops.iter().map(|it| it.op.id()).collect();
    let with_fields = ops.iter().any(|it| it.op.needs_fields());
    let mut stored = lock_rows(tx, &spec.kind, &ids, with_fields).await?;
    let needed = needed_docs(&ops, &stored);
    // An entity that occurs twice is counted twice: a turn may be smaller than it could be, never larger.
    let sizes = ops.iter().map(|it| it.op.bytes() + needed.get(it.op.id()).copied().unwrap_or(0));
    let rest = ops.split_off(turn_len(sizes, TURN_BYTES).min(ops.len()));
    let wanted: BTreeSet<&EntityId> = ops.iter().map(|it| it.op.id()).filter(|id| needed.contains_key(*id)).collect();
    read_docs(tx, &spec.kind, &wanted, &mut stored).await?;
    // Rows of later turns are not this one's.
    let now: BTreeSet<&EntityId> = ops.iter().map(|it| it.op.id()).collect();
    stored.retain(|id, _| now.contains(id));

    let ours = Arc::clone(spec);
    let folded = if work(spec, &ops, &stored) < OFFLOAD_BYTES {
        fold(&ours, stored, ops)
    } else {
        joined(tokio::task::spawn_blocking(move || fold(&ours, stored, ops)).await)?
    };
    if stops && folded.edits.iter().any(Result::is_err) {
        written.add(Written { edits: folded.edits, ..Written::default() });
        return Ok(Vec::new());
    }
    let place = store(tx, spec, author, &folded).await?;
    let Folded { applied, quarantined, created, newest, edits, edited, changes, rest: mut left, .. } = folded;
    for purge in changes.iter().filter(|change| change.op == Op::Purge) {
        written.logged.forget(&purge.id);
    }
    let position = place.as_ref().map(|place| place.behind(changes.len()));
    let mut rows = vec![None; edits.len()];
    if let Some(place) = place {
        let sizes: Vec<_> = changes.iter().map(|change| change.told).collect();
        let (epoch, changes) = place.committed(spec, author, changes);
        if edits.len() <= MAX_TOGETHER {
            rows = as_they_are(&epoch, &edits, &changes, &sizes);
        }
        written.logged.add(epoch, changes);
    }
    written.add(Written { applied, quarantined, created, newest, edits, edited, position, rows, ..Written::default() });
    left.extend(rest);
    Ok(left)
}

/// Bytes that the fold has to walk through. What others than edits bring is checked and hashed already; of those each may meet what all
/// before it have made of the document, and a patch may make much of little.
fn work(spec: &KindSpec, ops: &[Prepared], stored: &HashMap<EntityId, Stored>) -> usize {
    let held = stored.values().filter_map(|row| row.doc.as_ref()).map(|doc| doc.text().len());
    let edits = || ops.iter().filter_map(|it| if let EntityOp::Edit(edit) = &it.op { Some(edit) } else { None });
    // A patch may make much of little, and a schema may look at it often.
    if spec.schema.is_some() || edits().any(|edit| matches!(edit.action, EditAction::Patch(_))) {
        return OFFLOAD_BYTES;
    }
    let brought: usize = edits().filter_map(|edit| Some(edit.raw()?.get().len())).sum();
    let largest = held.clone().max().unwrap_or_default();
    held.sum::<usize>().max(edits().count().saturating_mul(brought + largest))
}

/// The ids whose stored document the fold will look at, with its size.
fn needed_docs(ops: &[Prepared], stored: &HashMap<EntityId, Stored>) -> HashMap<EntityId, usize> {
    let mut needed = HashMap::new();
    for Prepared { op, derived, unfit } in ops {
        let here = |row: &&Stored| !row.purged && row.doc.is_none();
        let Some(row) = stored.get(op.id()).filter(here).filter(|_| unfit.is_none()) else { continue };
        let needs = match op {
            EntityOp::Upsert { version, beside: true, .. } if row.version.as_ref() == Some(version) => {
                row.missing && row.size <= INLINE_DOC_LIMIT
            }
            EntityOp::Upsert { version, .. } => {
                row.hash.as_deref() != derived.as_ref().map(|derived| &derived.hash[..])
                    && row.version.as_ref().is_none_or(|old| version >= old)
            }
            EntityOp::Set { .. } => true,
            EntityOp::Edit(edit) => edit.needs_document(row.size <= INLINE_DOC_LIMIT),
            EntityOp::Trash(_) | EntityOp::Missing { .. } | EntityOp::Found(_) => row.size <= INLINE_DOC_LIMIT,
            EntityOp::Purge(_) => !row.trashed && !row.missing && row.size <= INLINE_DOC_LIMIT,
        };
        if needs {
            needed.insert(op.id().clone(), row.size);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_bounded_and_never_empty() {
        assert_eq!(turn_len([20, 1].into_iter(), 10), 1);
        assert_eq!(turn_len([9, 1, 1].into_iter(), 10), 2);
        assert_eq!(turn_len(std::iter::repeat_n(0, TURN_OPS + 5), 10), TURN_OPS);
    }
}
