//! The floor of the database: `pgbench` with what nobody can leave out who reads or writes these rows. Reads are the hub's own
//! statements; writes are the plainest that leave the same rows: a locked entity, the stream moved, the change and the entity, one
//! transaction that is flushed. They have a kind of their own, so that the hub's stream is the hub's.

use super::{Args, Run, for_seconds, work::Work};
use crate::error::{BenchError, Fallible};
use crate::floor;
use crate::host;
use crate::sample::Samples;
use crate::world::Cluster;
use sqlx::PgConnection;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// How often the database's processor time is looked at while it runs: what a backend used is gone with it.
const LOOK: Duration = Duration::from_millis(50);
/// How much longer than asked for it may take.
const GRACE: Duration = Duration::from_secs(30);

const ONE: &str = r#"SELECT e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since, e.doc IS NULL AS purged, t.tag, e.size,
 CASE WHEN t.tag <> ALL ('{}'::text[]) AND e.size <= 32768 THEN e.doc END AS doc
FROM streams s JOIN entities e ON e.kind = 'floor' AND e.id = 'd' || (:n)::text
CROSS JOIN LATERAL (SELECT s.epoch || '.' || e.revision || '.' || left(md5(COALESCE(e.version, '')), 8) AS tag) t WHERE s.name = 'entities.floor';
"#;

const LIST: &str = r#"SELECT s.epoch, s.top, e.id, e.revision, e."offset", e.op, e.at, e.by, e.version, e.trashed_at, e.missing_since, e.doc IS NULL AS purged,
 e.size, CASE WHEN e.size <= 32768 THEN e.doc END AS doc
FROM streams s LEFT JOIN LATERAL (SELECT * FROM entities WHERE kind = 'floor' AND "offset" < 9223372036854775807 ORDER BY "offset" DESC LIMIT :page + 1) e ON true
WHERE s.name = 'entities.floor' ORDER BY e."offset" DESC;
"#;

/// The stream moved, and the change of what `held` has brought.
const MOVED: &str = r#"WITH moved AS (UPDATE streams SET top = top + 1, at = GREATEST(at, clock_timestamp()) WHERE name = 'entities.floor' RETURNING top, at),
"#;
const LOGGED: &str = r#"INSERT INTO changes (kind, "offset", day, id, revision, op, at, by, changed, doc, size)
SELECT 'floor', "offset", (at AT TIME ZONE 'UTC')::date, id, revision, op, at, by, ARRAY['n'], doc, octet_length(doc) FROM held;
COMMIT;
"#;

/// The text of what is run for a sort of request.
fn script(work: Work, args: (usize, usize, usize)) -> String {
    let (entities, document, page) = args;
    let doc = format!(
        "'{{\"n\":' || (:k)::text || ',\"status\":\"open\",\"text\":\"{}\"}}'",
        "x".repeat(document.saturating_sub(48))
    );
    let head = format!("\\set n random(0, {})\n\\set k random(1, 1000000000)\n\\set page {page}\n", entities - 1);
    let body = match work {
        Work::One => ONE.to_owned(),
        Work::List => LIST.to_owned(),
        Work::Patch => format!(
            r#"BEGIN;
SELECT id, revision, version, hash, size, doc FROM entities WHERE kind = 'floor' AND id = 'd' || (:n)::text FOR UPDATE;
{MOVED}held AS (UPDATE entities SET revision = revision + 1, "offset" = moved.top, op = 'update', at = moved.at, by = 'bench', doc = {doc},
 hash = decode(md5((:k)::text), 'hex'), size = {document}, fields = '{{"status":"open"}}', updated_at = moved.at FROM moved
 WHERE kind = 'floor' AND id = 'd' || (:n)::text RETURNING entities.*)
{LOGGED}"#
        ),
        Work::Create => format!(
            r#"BEGIN;
{MOVED}held AS (INSERT INTO entities (kind, id, revision, "offset", op, at, by, hash, doc, size, fields, created_at, updated_at)
 SELECT 'floor', gen_random_uuid()::text, 1, top, 'create', at, 'bench', decode(md5((:k)::text), 'hex'), {doc}, {document}, '{{"status":"open"}}', at, at
 FROM moved RETURNING entities.*)
{LOGGED}"#
        ),
    };
    head + &body
}

fn file(cluster: &Cluster, work: Work) -> PathBuf {
    cluster.folder().join(format!("{work:?}.sql"))
}

/// Whether it is there: distributions may keep it in a package of its own.
pub(super) fn installed(cluster: &Cluster) -> bool {
    cluster.tool("pgbench").is_file()
}

/// Its rows, the same as the hub's, and its scripts.
pub(super) async fn prepare(db: &mut PgConnection, cluster: &Cluster, args: &Args) -> Fallible<()> {
    floor::declare(db).await?;
    let copy = r#"INSERT INTO entities (kind, id, revision, "offset", op, at, by, hash, doc, size, fields, created_at, updated_at)
        SELECT 'floor', id, revision, "offset", op, at, by, hash, doc, size, fields, created_at, updated_at FROM entities WHERE kind = 'deal'"#;
    sqlx::raw_sql(copy).execute(&mut *db).await.map_err(BenchError::because("copying the entities"))?;
    let top =
        "UPDATE streams SET top = (SELECT top FROM streams WHERE name = 'entities.deal') WHERE name = 'entities.floor'";
    sqlx::raw_sql(top).execute(db).await.map_err(BenchError::because("copying the stream"))?;
    for work in Work::ALL {
        let text = script(work, (args.entities, args.document, args.page));
        fs::write(file(cluster, work), text).map_err(BenchError::because("writing a script"))?;
    }
    Ok(())
}

/// One run.
pub(super) async fn run(cluster: &Cluster, work: Work, clients: usize, seconds: f64) -> Fallible<Run> {
    let seconds = for_seconds(seconds).as_secs_f64().ceil();
    let log = tempfile::tempdir().map_err(BenchError::because("making a folder"))?;
    let mut command = Command::new(cluster.tool("pgbench"));
    command.args(["--no-vacuum", "--protocol", "prepared", "--jobs", "1", "--log", "--username", "dzvin", "--host"]);
    command
        .arg(cluster.folder())
        .arg("--file")
        .arg(file(cluster, work))
        .arg("--log-prefix")
        .arg(log.path().join("log"));
    command.args(["--client", &clients.to_string(), "--time", &seconds.to_string(), "dzvin"]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let before = host::cpu_seconds(cluster.pid());
    let mut child = command.spawn().map_err(BenchError::because("starting pgbench"))?;
    let (begun, mut used) = (Instant::now(), 0.0_f64);
    let status = loop {
        if let Some(status) = child.try_wait().map_err(BenchError::because("waiting for pgbench"))? {
            break status;
        }
        if begun.elapsed() > Duration::from_secs_f64(seconds) + GRACE {
            return Err(BenchError::new("pgbench does not end"));
        }
        used = used.max(host::cpu_seconds(cluster.pid()) - before);
        tokio::time::sleep(LOOK).await;
    };
    let out = child.wait_with_output().await.map_err(BenchError::because("reading what pgbench said"))?;
    if !status.success() {
        return Err(BenchError::new(format!("pgbench: {}", String::from_utf8_lossy(&out.stderr).trim())));
    }
    let mut lines = String::new();
    for entry in fs::read_dir(log.path()).into_iter().flatten().flatten() {
        lines += &fs::read_to_string(entry.path()).map_err(BenchError::because("reading pgbench's log"))?;
    }
    let took = times(&lines);
    let done = took.len().max(1) as f64;
    let (p50, p99) = (took.ms(50.0), took.ms(99.0));
    Ok(Run { per_second: done / seconds, p50, p99, server_us: 0.0, database_us: used * 1e6 / done, failed: 0 })
}

/// The third word of each line of its log: microseconds.
fn times(log: &str) -> Samples {
    log.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<i64>().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_word_is_the_time() {
        let all = times("0 1 1500 0 1700000000 123\n1 1 2500 0 1700000000 124\n1 2 failed 0 1700000000 125\n");
        assert_eq!((all.len(), all.ms(100.0)), (2, 2.5));
    }

    #[test]
    fn a_document_is_about_as_long_as_the_hubs() {
        let text = script(Work::Patch, (1000, 1024, 20));
        assert!(text.contains("random(0, 999)") && text.ends_with("COMMIT;\n"));
        assert!((950..1024).contains(&text.matches('x').count()));
    }
}
