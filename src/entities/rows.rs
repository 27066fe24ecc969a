//! The statements behind `write`: rows locked and read, documents read, one run stored.

use std::collections::{BTreeSet, HashMap};

use dzvin_protocols::{
    channels::IdKey,
    entities::INLINE_DOC_LIMIT,
    platform::{EntityId, Kind},
};
use sqlx::PgConnection;

use super::{
    KindSpec,
    fold::{Doc, Folded, NewChange, NewState, Stored},
    write::{Author, WriteError, write_error},
};

pub(super) async fn lock_rows(
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
            filterable: None,
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
        r#"SELECT id, doc AS "doc!" FROM entities WHERE kind = $1 AND id = ANY($2) AND doc IS NOT NULL"#,
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

pub(super) async fn store(
    tx: &mut PgConnection,
    spec: &KindSpec,
    author: Author<'_>,
    folded: &Folded,
) -> Result<(), WriteError> {
    let (silent, changed): (Vec<_>, Vec<_>) = folded.states.iter().partition(|state| state.change == 0);
    if !silent.is_empty() {
        store_silently(tx, spec, &silent).await?;
    }
    if !changed.is_empty() {
        store_changes(tx, spec, author, &folded.changes, &changed).await?;
    }
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
        &column(rows, |row| fields(row)) as &[&str]
    )
    .execute(tx)
    .await
    .map_err(write_error)?;
    Ok(())
}

fn fields(row: &NewState) -> &str {
    row.filterable.as_deref().unwrap_or("{}")
}

/// Moves the stream, writes the log and the entities. A row that was not there when we looked and is there now is neither
/// touched nor waited for (its holder may be waiting for our stream): its count is missing, and the batch is repeated.
async fn store_changes(
    tx: &mut PgConnection,
    spec: &KindSpec,
    author: Author<'_>,
    changes: &[NewChange],
    rows: &[&NewState],
) -> Result<(), WriteError> {
    let inline = |change: &NewChange| change.doc.as_ref().is_some_and(|doc| doc.text().len() <= INLINE_DOC_LIMIT);
    let keys = column(rows, |row| Some(IdKey::of(&row.id)).filter(IdKey::is_hashed));
    let done = sqlx::query_scalar!(
        r#"WITH s AS (
             UPDATE streams SET top = top + $3, at = GREATEST(at, clock_timestamp()) WHERE name = 'entities.' || $1::text
             RETURNING top - $3 AS base, at
         ), log AS (
             INSERT INTO changes (kind, "offset", day, id, revision, op, at, by, changed, before, doc, size, trace)
             SELECT $1, s.base + c.n, (s.at AT TIME ZONE 'UTC')::date, c.id, c.revision, c.op, s.at, $2,
                 c.changed::text[], c.before::json, c.doc, COALESCE(octet_length(c.doc), 0), $4
             FROM s, UNNEST($5::text[], $6::int8[], $7::text[], $8::text[], $9::text[], $10::text[])
                 WITH ORDINALITY AS c (id, revision, op, changed, before, doc, n)
         ), i AS NOT MATERIALIZED (
             SELECT $1::text AS kind, i.id, i.revision, s.base + i.n AS "offset", i.op, s.at, $2::text AS by, i.version, i.hash,
                 i.doc, i.size, i.fields::jsonb AS fields, i.key, CASE WHEN i.trashed THEN s.at END AS trashed_at,
                 CASE WHEN i.missing THEN s.at END AS missing_since, s.at AS created_at, s.at AS updated_at, i.fresh
             FROM s, UNNEST($11::text[], $12::int8[], $13::int8[], $14::text[], $15::text[], $16::bytea[], $17::text[],
                 $18::int4[], $19::text[], $20::text[], $21::bool[], $22::bool[], $23::bool[])
                 AS i (id, revision, n, op, version, hash, doc, size, fields, key, trashed, missing, fresh)
         ), fresh AS (
             INSERT INTO entities (kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, key,
                 trashed_at, missing_since, created_at, updated_at)
             SELECT kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, key,
                 trashed_at, missing_since, created_at, updated_at FROM i WHERE i.fresh
             ON CONFLICT (kind, id) DO NOTHING RETURNING 1
         ), known AS (
             INSERT INTO entities AS e (kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, key,
                 trashed_at, missing_since, created_at, updated_at)
             SELECT kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, key,
                 trashed_at, missing_since, created_at, updated_at FROM i WHERE NOT i.fresh
             ON CONFLICT (kind, id) DO UPDATE SET
                 revision = excluded.revision, "offset" = excluded."offset", op = excluded.op, at = excluded.at,
                 by = excluded.by, version = excluded.version, hash = excluded.hash, size = excluded.size,
                 doc = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.doc ELSE excluded.doc END,
                 fields = CASE WHEN excluded.doc IS NULL AND excluded.op <> 'purge' THEN e.fields ELSE excluded.fields END,
                 trashed_at = CASE WHEN excluded.trashed_at IS NOT NULL THEN COALESCE(e.trashed_at, excluded.at) END,
                 missing_since = CASE WHEN excluded.missing_since IS NOT NULL THEN COALESCE(e.missing_since, excluded.at) END,
                 updated_at = excluded.at
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM fresh) + (SELECT count(*) FROM known) AS "rows!""#,
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
        &column(rows, |row| fields(row)) as &[&str],
        &column(&keys, |key| key.as_ref().map(IdKey::as_str)) as &[Option<&str>],
        &column(rows, |row| row.trashed),
        &column(rows, |row| row.missing),
        &column(rows, |row| row.fresh)
    )
    .fetch_one(tx)
    .await
    .map_err(write_error)?;
    if done == rows.len() as i64 { Ok(()) } else { Err(WriteError::Raced) }
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
