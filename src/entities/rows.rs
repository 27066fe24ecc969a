//! The statements behind `write`: rows locked and read, documents read, one run stored.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use dzvin_protocols::{
    channels::{Epoch, IdKey, Position},
    entities::{Change, INLINE_DOC_LIMIT, Op},
    platform::{EntityId, Kind},
};
use sqlx::{PgConnection, types::time::OffsetDateTime};

use super::{
    KindSpec, Source,
    fold::{Doc, Folded, NewChange, NewState, Stored},
    log::number,
    write::{Author, WriteError, write_error},
};

/// So few rows bring their small documents at once: who writes little waits for answers more than for bytes.
const EAGER_ROWS: usize = 16;

/// Locks what there is of the ids, in their order: one look into the primary key for each. Spelled as a range with an order and a
/// limit because only that key gives the order: with `=`, on a table without statistics yet, the planner takes another index
/// of the kind and walks through all of it, and the plan is kept.
pub(super) async fn lock_rows(
    tx: &mut PgConnection,
    kind: &Kind,
    ids: &BTreeSet<&EntityId>,
    with_fields: bool,
) -> Result<HashMap<EntityId, Stored>, WriteError> {
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let eager = if ids.len() <= EAGER_ROWS { INLINE_DOC_LIMIT } else { 0 };
    let rows = sqlx::query!(
        r#"SELECT e.id, e.revision, e.version, e.hash, e.size, e.trashed_at IS NOT NULL AS "trashed!",
             e.missing_since IS NOT NULL AS "missing!", e.doc IS NULL AS "purged!", CASE WHEN e.size <= $3 THEN e.doc END AS doc,
             CASE WHEN $4 THEN e.fields::text END AS fields
         FROM UNNEST($2::text[]) AS w (id)
         CROSS JOIN LATERAL (SELECT * FROM entities e WHERE e.kind = $1 AND e.id >= w.id AND e.id <= w.id
             ORDER BY e.id LIMIT 1 FOR UPDATE) e"#,
        kind.as_str(),
        &ids as &[&str],
        size(eager),
        with_fields
    )
    .fetch_all(tx)
    .await
    .map_err(write_error)?;
    let row = rows.into_iter().filter_map(|row| {
        let stored = Stored {
            revision: row.revision,
            version: row.version,
            hash: row.hash,
            doc: row.doc.map(|doc| Doc::Stored(doc.into())),
            filterable: row.fields,
            size: usize::try_from(row.size).unwrap_or(0),
            trashed: row.trashed,
            missing: row.missing,
            purged: row.purged,
        };
        Some((EntityId::new(&row.id).ok()?, stored))
    });
    Ok(row.collect())
}

pub(super) async fn read_docs(
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
        r#"SELECT e.id, e.doc AS "doc!" FROM UNNEST($2::text[]) AS w (id)
         CROSS JOIN LATERAL (SELECT id, doc FROM entities e WHERE e.kind = $1 AND e.id >= w.id AND e.id <= w.id
             ORDER BY e.id LIMIT 1) e WHERE e.doc IS NOT NULL"#,
        kind.as_str(),
        &ids as &[&str]
    )
    .fetch_all(tx)
    .await
    .map_err(write_error)?;
    for row in rows {
        let known = EntityId::new(&row.id).ok().and_then(|id| stored.get_mut(&id));
        if let Some(known) = known {
            known.doc = Some(Doc::Stored(row.doc.into()));
        }
    }
    Ok(())
}

/// Where a run of changes came to stand in its stream.
pub(super) struct Place {
    epoch: Epoch,
    /// The offset before the first.
    base: i64,
    at: OffsetDateTime,
}

impl Place {
    /// The stream's position behind so many changes.
    pub(super) fn behind(&self, changes: usize) -> Position {
        Position { epoch: self.epoch.clone(), offset: number(self.base) + changes as u64 }
    }

    /// The rows of the log as a reader would find them, with the epoch of their stream.
    pub(super) fn committed(self, spec: &KindSpec, author: Author<'_>, rows: Vec<NewChange>) -> (Epoch, Vec<Change>) {
        let (by, trace): (Arc<str>, Option<Arc<str>>) = (author.by.into(), author.trace.map(Into::into));
        let change = |(row, offset): (NewChange, u64)| {
            let (by, trace) = row.by.map_or_else(|| (Arc::clone(&by), trace.clone()), |of| (of.by, of.trace));
            Change {
                kind: spec.kind.clone(),
                doc: row.doc.filter(|doc| doc.text().len() <= INLINE_DOC_LIMIT).and_then(Doc::into_raw),
                id: row.id,
                revision: number(row.revision),
                offset,
                op: row.op,
                at: self.at,
                by,
                changed: row.changed,
                trace,
                fields: row.fields.map(Into::into),
            }
        };
        (self.epoch, rows.into_iter().zip(number(self.base) + 1..).map(change).collect())
    }
}

/// Writes what the run came to; answers where its changes stand, if it made any.
pub(super) async fn store(
    tx: &mut PgConnection,
    spec: &KindSpec,
    author: Author<'_>,
    folded: &Folded,
) -> Result<Option<Place>, WriteError> {
    let silent: Vec<_> = folded.states.iter().filter(|state| state.change == 0).collect();
    if !silent.is_empty() {
        store_silently(tx, spec, &silent).await?;
    }
    if folded.changes.is_empty() {
        return Ok(None);
    }
    let place = store_changes(tx, spec, author, folded).await?;
    for change in folded.changes.iter().filter(|change| change.op == Op::Purge) {
        forget(tx, &spec.kind, change).await?;
    }
    Ok(Some(place))
}

/// What was purged is gone from the log as well: its revisions stay, and say nothing. Only what tells queries and row filters whether it
/// was theirs stays until the log's end, and is shown to nobody: whoever comes back from before has to hear that it is gone.
/// What the same run has made anew behind the purge is another entity's.
async fn forget(tx: &mut PgConnection, kind: &Kind, purge: &NewChange) -> Result<(), WriteError> {
    sqlx::query!(
        "UPDATE changes SET doc = NULL, large = NULL, size = 0, before = NULL, changed = '{}' WHERE kind = $1 AND id = $2 AND revision < $3",
        kind.as_str(),
        purge.id.as_str(),
        purge.revision
    )
    .execute(tx)
    .await
    .map_err(write_error)?;
    Ok(())
}

fn text(doc: Option<&Doc>) -> Option<&str> {
    doc.map(Doc::text)
}

fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn size(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// Document and version of rows whose content is the same; and a stray, as with changes. They exist and are locked by us, so the insert never inserts;
/// in this form the planner cannot choose to scan the table.
async fn store_silently(tx: &mut PgConnection, spec: &KindSpec, rows: &[&NewState]) -> Result<(), WriteError> {
    sqlx::query!(
        r#"WITH stray AS (
             UPDATE derivations SET strays = strays + 1,
                 derived = ARRAY(SELECT unnest(derived) INTERSECT SELECT unnest($7::text[]))
             WHERE kind = $1 AND declared <> $7
         )
         INSERT INTO entities AS e
             (kind, id, revision, "offset", op, at, by, version, doc, size, fields, words, created_at, updated_at)
         SELECT $1, i.id, 0, 0, '', now(), '', i.version, i.doc, i.size, i.fields::jsonb, i.words::tsvector, now(), now()
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::int4[], $6::text[], $8::text[])
             AS i (id, version, doc, size, fields, words)
         ON CONFLICT (kind, id) DO UPDATE SET version = excluded.version, doc = excluded.doc, size = excluded.size,
             fields = excluded.fields, words = excluded.words, updated_at = now()"#,
        spec.kind.as_str(),
        &column(rows, |row| row.id.as_str()) as &[&str],
        &column(rows, |row| row.version.as_deref()) as &[Option<&str>],
        &column(rows, |row| text(row.doc.as_ref())) as &[Option<&str>],
        &column(rows, |row| size(row.size)),
        &column(rows, |row| fields(row)) as &[&str],
        &*spec.derives(),
        &column(rows, |row| row.words.as_deref()) as &[Option<&str>]
    )
    .execute(tx)
    .await
    .map_err(write_error)?;
    Ok(())
}

fn fields(row: &NewState) -> &str {
    row.filterable.as_deref().unwrap_or("{}")
}

/// A change, and the row of its entity if this is the entity's last change of the run. A document that goes into both is
/// sent once.
struct Line<'a> {
    change: &'a NewChange,
    /// Of the change or of the row, whichever needs it.
    doc: Option<&'a str>,
    /// The change carries it.
    inline: bool,
    last: Option<&'a NewState>,
    /// The row's document where it is another than the change's: the same content, written otherwise.
    later: Option<&'a str>,
    key: Option<IdKey>,
}

impl<'a> Line<'a> {
    fn all(folded: &'a Folded) -> Vec<Self> {
        let mut lines: Vec<Self> = folded.changes.iter().map(Self::of).collect();
        let rows = folded.states.iter().filter_map(|row| Some((row.change.checked_sub(1)?, row)));
        for (place, row) in rows {
            if let Some(line) = lines.get_mut(place) {
                line.end(row);
            }
        }
        lines
    }

    fn of(change: &'a NewChange) -> Self {
        let doc = text(change.doc.as_ref()).filter(|doc| doc.len() <= INLINE_DOC_LIMIT);
        Self { change, doc, inline: doc.is_some(), last: None, later: None, key: None }
    }

    fn end(&mut self, row: &'a NewState) {
        let stored = text(row.doc.as_ref());
        match (self.doc, stored) {
            (Some(told), Some(stored)) if !std::ptr::eq(told, stored) => self.later = Some(stored),
            (None, Some(_)) => self.doc = stored,
            _ => {}
        }
        self.last = Some(row);
        self.key = Some(IdKey::of(&row.id)).filter(|key| key.id().is_none());
    }
}

/// Moves the stream, writes the log and the entities. A row that was not there when we looked and is there now is left
/// alone: its count is missing, and the batch is repeated. `-infinity` marks the rows that were there: locked by us, they
/// are updated and never inserted, so it is never stored. Where another node declares other fields of the kind, `stray` tells
/// it that these rows carry ours (see `derive`). Who writes by a declaration that is no longer the kind's writes nothing: the
/// stream's row was waited for, so its version is looked at as it is then.
async fn store_changes(
    tx: &mut PgConnection,
    spec: &KindSpec,
    author: Author<'_>,
    folded: &Folded,
) -> Result<Place, WriteError> {
    let lines = Line::all(folded);
    let rows = folded.states.iter().filter(|row| row.change > 0).count();
    let row = |line: &Line<'_>, of: fn(&NewState) -> bool| line.last.is_some_and(of);
    let stream = spec.kind.stream();
    let done = sqlx::query!(
        r#"WITH s AS (
             UPDATE streams SET top = top + $3::int8, at = GREATEST(at, clock_timestamp())
             WHERE name = $1 AND declaration IS NOT DISTINCT FROM $27 RETURNING epoch, top - $3::int8 AS base, at
         ), r AS (
             SELECT s.base + r.n AS "offset", s.at, r.* FROM s, UNNEST($6::text[], $7::int8[], $8::text[], $9::text[],
                 $10::text[], $11::text[], $12::bool[], $13::bool[], $14::text[], $15::bytea[], $16::text[], $17::bool[],
                 $18::int4[], $19::text[], $20::text[], $21::bool[], $22::bool[], $23::bool[], $25::text[], $28::text[], $29::text[],
                 $30::text[]) WITH ORDINALITY
                 AS r (id, revision, op, changed, before, doc, inline, last, version, hash, later, stores, size, fields, key,
                     trashed, missing, fresh, told, words, by, trace, n)
         ), logged AS (
             INSERT INTO changes (kind, "offset", day, id, revision, op, at, by, changed, before, doc, size, trace, fields,
                 large)
             SELECT $2, "offset", (at AT TIME ZONE 'UTC')::date, id, revision, op, at, COALESCE(by, $4), changed::text[],
                 before::json, CASE WHEN inline THEN doc END, CASE WHEN inline THEN octet_length(doc) ELSE 0 END,
                 CASE WHEN by IS NULL THEN $5 ELSE trace END, told,
                 CASE WHEN $26 AND stores AND NOT inline THEN COALESCE(later, doc) END FROM r
         ), held AS (
             INSERT INTO entities AS e (kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, words,
                 key, trashed_at, missing_since, created_at, updated_at)
             SELECT $2, id, revision, "offset", op, at, COALESCE(by, $4), version, hash, CASE WHEN stores THEN COALESCE(later, doc) END,
                 size, fields::jsonb, words::tsvector, key, CASE WHEN trashed THEN at END, CASE WHEN missing THEN at END,
                 CASE WHEN fresh THEN at ELSE '-infinity' END, at FROM r WHERE last
             ON CONFLICT (kind, id) DO UPDATE SET
                 revision = excluded.revision, "offset" = excluded."offset", op = excluded.op, at = excluded.at,
                 by = excluded.by, version = excluded.version, hash = excluded.hash, size = excluded.size,
                 doc = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.doc ELSE excluded.doc END,
                 fields = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.fields ELSE excluded.fields END,
                 words = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.words ELSE excluded.words END,
                 trashed_at = CASE WHEN excluded.trashed_at IS NULL THEN NULL WHEN excluded.op = 'trash' THEN excluded.at
                     ELSE COALESCE(e.trashed_at, excluded.at) END,
                 missing_since = CASE WHEN excluded.missing_since IS NOT NULL THEN COALESCE(e.missing_since, excluded.at) END,
                 updated_at = excluded.at
             WHERE excluded.created_at = '-infinity' RETURNING 1
         ), stray AS (
             UPDATE derivations SET strays = strays + 1,
                 derived = ARRAY(SELECT unnest(derived) INTERSECT SELECT unnest($24::text[]))
             WHERE kind = $2 AND declared <> $24
         )
         SELECT epoch, base AS "base!", at, (SELECT count(*) FROM held) AS "rows!" FROM s"#,
        stream.as_str(),
        spec.kind.as_str(),
        lines.len() as i64,
        author.by,
        author.trace,
        &column(&lines, |line| line.change.id.as_str()) as &[&str],
        &column(&lines, |line| line.change.revision),
        &column(&lines, |line| line.change.op.as_str()) as &[&str],
        &column(&lines, |line| text_array(&line.change.changed)),
        &column(&lines, |line| line.change.before.as_deref()) as &[Option<&str>],
        &column(&lines, |line| line.doc) as &[Option<&str>],
        &column(&lines, |line| line.inline),
        &column(&lines, |line| line.last.is_some()),
        &column(&lines, |line| line.last?.version.as_deref()) as &[Option<&str>],
        &column(&lines, |line| line.last?.hash.as_deref()) as &[Option<&[u8]>],
        &column(&lines, |line| line.later) as &[Option<&str>],
        &column(&lines, |line| row(line, |row| row.doc.is_some())),
        &column(&lines, |line| line.last.map_or(0, |row| size(row.size))),
        &column(&lines, |line| line.last.map_or("{}", fields)) as &[&str],
        &column(&lines, |line| line.key.as_ref().map(IdKey::as_str)) as &[Option<&str>],
        &column(&lines, |line| row(line, |row| row.trashed)),
        &column(&lines, |line| row(line, |row| row.missing)),
        &column(&lines, |line| row(line, |row| row.fresh)),
        &*spec.derives(),
        &column(&lines, |line| line.change.fields.as_deref()) as &[Option<&str>],
        spec.source == Source::Local,
        spec.version,
        &column(&lines, |line| line.last?.words.as_deref()) as &[Option<&str>],
        &column(&lines, |line| line.change.by.as_ref().map(|of| &*of.by)) as &[Option<&str>],
        &column(&lines, |line| line.change.by.as_ref()?.trace.as_deref()) as &[Option<&str>]
    )
    .fetch_optional(tx)
    .await
    .map_err(write_error)?;
    let Some(done) = done else {
        return Err(WriteError::Redeclared);
    };
    if done.rows != rows as i64 {
        return Err(WriteError::Raced);
    }
    Ok(Place { epoch: Epoch::new(&done.epoch), base: done.base, at: done.at })
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
    fn array_literals_are_quoted() {
        assert_eq!(text_array(&[r#"a"b\"#.to_owned(), "{,}".to_owned()]), r#"{"a\"b\\","{,}"}"#);
        assert_eq!(text_array(&[]), "{}");
    }
}
