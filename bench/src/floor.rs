//! The floor: a plain loop that writes the rows that the hub has just written once more, under a kind of its own.
//!
//! Same tables and columns, same indexes, same server, batches as large as the hub's mean one, each in one transaction that
//! moves the stream and inserts from arrays: what nobody who writes these rows durably in this order can leave out. It reads no
//! socket, parses nothing, looks up no earlier state and keeps no cursor; its rows are in memory before the clock runs.

use crate::error::{BenchError, Fallible};
use sqlx::{Connection, PgConnection};
use std::time::{Duration, Instant};

/// The floor's kind.
pub(crate) const KIND: &str = "floor";

/// A hub that commits nothing for so long, while there is something to commit, has failed.
const STALLED: Duration = Duration::from_secs(30);

/// The rows of one transaction, column by column.
#[derive(Debug, Default)]
struct Batch {
    ids: Vec<String>,
    revisions: Vec<i64>,
    ops: Vec<String>,
    changed: Vec<String>,
    before: Vec<Option<String>>,
    traces: Vec<Option<String>>,
    versions: Vec<Option<String>>,
    hashes: Vec<Option<Vec<u8>>>,
    docs: Vec<Option<String>>,
    inline: Vec<bool>,
    sizes: Vec<i32>,
    fields: Vec<String>,
}

/// How fast rows of a kind were committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Rows.
    pub(crate) rows: i64,
    /// Transactions.
    pub(crate) batches: i64,
    /// Rows a second from the first transaction to the last.
    pub(crate) per_s: f64,
}

impl Pace {
    /// Rows in a transaction.
    pub(crate) fn mean_batch(self) -> f64 {
        self.rows as f64 / self.batches.max(1) as f64
    }
}

fn because(doing: &'static str) -> impl FnOnce(sqlx::Error) -> BenchError {
    BenchError::because(doing)
}

/// Declares the floor's kind, and gives its session the room that the hub's have: a batch must not go through files.
pub(crate) async fn declare(db: &mut PgConnection) -> Fallible<()> {
    let statements = "SET work_mem = '16MB';
        INSERT INTO kinds (name, source) VALUES ('floor', 'local') ON CONFLICT DO NOTHING;
        INSERT INTO streams (name) VALUES ('entities.floor') ON CONFLICT DO NOTHING";
    sqlx::raw_sql(statements).execute(db).await.map_err(because("declaring the floor's kind"))?;
    Ok(())
}

/// Where the stream of a kind is.
pub(crate) async fn top(db: &mut PgConnection, kind: &str) -> Fallible<i64> {
    let top = sqlx::query_scalar("SELECT top FROM streams WHERE name = 'entities.' || $1").bind(kind);
    Ok(top.fetch_optional(db).await.map_err(because("reading a stream"))?.unwrap_or(0))
}

/// Waits until the stream of a kind has come so far. A look twenty times a second costs nothing that could be measured.
pub(crate) async fn until_top(db: &mut PgConnection, kind: &str, wanted: i64) -> Fallible<()> {
    let (mut seen, mut moved) = (0, Instant::now());
    loop {
        let now = top(db, kind).await?;
        if now >= wanted {
            return Ok(());
        }
        if now > seen {
            (seen, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALLED {
            return Err(BenchError::new(format!("the hub stopped at {now} of {wanted} changes for {STALLED:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The pace of what was written after an offset. The time of a transaction is when it moved the stream; the rows of the first
/// are not counted, for its beginning is not known.
pub(crate) async fn pace(db: &mut PgConnection, kind: &str, after: i64) -> Fallible<Pace> {
    let (rows, batches, counted, seconds): (i64, i64, i64, Option<f64>) = sqlx::query_as(
        r#"WITH run AS (SELECT at, min(at) OVER () AS first FROM changes WHERE kind = $1 AND "offset" > $2)
        SELECT count(*), count(DISTINCT at), count(*) FILTER (WHERE at > first),
            EXTRACT(EPOCH FROM max(at) - min(at))::float8 FROM run"#,
    )
    .bind(kind)
    .bind(after)
    .fetch_one(db)
    .await
    .map_err(because("reading the pace"))?;
    let per_s = seconds.filter(|seconds| *seconds > 0.0).map_or(0.0, |seconds| counted as f64 / seconds);
    Ok(Pace { rows, batches, per_s })
}

/// Writes what a kind has after an offset once more, so many rows in a transaction; answers the pace.
pub(crate) async fn run(db: &mut PgConnection, kind: &str, after: i64, batch_rows: usize) -> Fallible<Pace> {
    let batches = load(db, kind, after, batch_rows.max(1)).await?;
    let begun = top(db, KIND).await?;
    settle(db).await?;
    for batch in &batches {
        write(db, batch).await.map_err(because("writing the floor"))?;
    }
    pace(db, KIND, begun).await
}

/// So that every measured run begins without dirty pages of the one before, and pays its own first writes of pages.
pub(crate) async fn settle(db: &mut PgConnection) -> Fallible<()> {
    sqlx::raw_sql("CHECKPOINT").execute(db).await.map_err(because("making a checkpoint"))?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    revision: i64,
    op: String,
    changed: String,
    before: Option<String>,
    trace: Option<String>,
    version: Option<String>,
    hash: Option<Vec<u8>>,
    doc: Option<String>,
    inline: bool,
    size: i32,
    fields: String,
}

async fn load(db: &mut PgConnection, kind: &str, after: i64, batch_rows: usize) -> Fallible<Vec<Batch>> {
    let rows: Vec<Row> = sqlx::query_as(
        r#"SELECT c.id, c.revision, c.op, c.changed::text AS changed, c.before::text AS before, c.trace, e.version, e.hash,
            e.doc, c.doc IS NOT NULL AS inline, e.size, e.fields::text AS fields
        FROM changes c JOIN entities e USING (kind, id) WHERE c.kind = $1 AND c."offset" > $2 ORDER BY c."offset""#,
    )
    .bind(kind)
    .bind(after)
    .fetch_all(db)
    .await
    .map_err(because("reading what the hub wrote"))?;
    let mut batches = Vec::with_capacity(rows.len().div_ceil(batch_rows));
    for (n, row) in rows.into_iter().enumerate() {
        if n % batch_rows == 0 {
            batches.push(Batch::default());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(row);
        }
    }
    Ok(batches)
}

impl Batch {
    fn push(&mut self, row: Row) {
        self.ids.push(row.id);
        self.revisions.push(row.revision);
        self.ops.push(row.op);
        self.changed.push(row.changed);
        self.before.push(row.before);
        self.traces.push(row.trace);
        self.versions.push(row.version);
        self.hashes.push(row.hash);
        self.docs.push(row.doc);
        self.inline.push(row.inline);
        self.sizes.push(row.size);
        self.fields.push(row.fields);
    }
}

async fn write(db: &mut PgConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    #[expect(clippy::disallowed_methods, reason = "a connection of our own, which no pool gets")]
    let mut tx = db.begin().await?;
    sqlx::query(
        r#"WITH moved AS (
            UPDATE streams SET top = top + cardinality($1::text[]), at = GREATEST(at, clock_timestamp())
            WHERE name = 'entities.floor' RETURNING top - cardinality($1::text[]) AS base, at
        ), rows AS (
            SELECT r.*, m.base + r.n AS place, m.at FROM moved m,
                UNNEST($1::text[], $2::int8[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
                    $9::text[], $10::bool[], $11::int4[], $12::text[]) WITH ORDINALITY
                AS r (id, revision, op, changed, before, trace, version, hash, doc, inline, size, fields, n)
        ), logged AS (
            INSERT INTO changes (kind, "offset", day, id, revision, op, at, by, changed, before, doc, size, trace)
            SELECT 'floor', place, (at AT TIME ZONE 'UTC')::date, id, revision, op, at, 'bench', changed::text[],
                before::json, CASE WHEN inline THEN doc END, CASE WHEN inline THEN size ELSE 0 END, trace FROM rows
        )
        INSERT INTO entities AS e (kind, id, revision, "offset", op, at, by, version, hash, doc, size, fields, created_at,
            updated_at)
        SELECT 'floor', id, revision, place, op, at, 'bench', version, hash, doc, size, fields::jsonb, at, at FROM rows
        ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, "offset" = excluded."offset", op = excluded.op,
            at = excluded.at, by = excluded.by, version = excluded.version, hash = excluded.hash, doc = excluded.doc,
            size = excluded.size, fields = excluded.fields, updated_at = excluded.updated_at"#,
    )
    .bind(&batch.ids)
    .bind(&batch.revisions)
    .bind(&batch.ops)
    .bind(&batch.changed)
    .bind(&batch.before)
    .bind(&batch.traces)
    .bind(&batch.versions)
    .bind(&batch.hashes)
    .bind(&batch.docs)
    .bind(&batch.inline)
    .bind(&batch.sizes)
    .bind(&batch.fields)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}
