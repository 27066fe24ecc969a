//! Batches beside bare SQL that writes the same rows: by hand, `--run-ignored only`.

use std::time::{Duration, Instant};

use super::{Store, kind, upsert_raw};

const OBJECTS: usize = 4_000;
const BATCH: usize = 200;

fn doc(n: usize, round: usize) -> String {
    let items: Vec<_> = (0..60)
        .map(|i| format!(r#"{{"id":"{n}-{i}","quantity":{i}.50,"description":{{"uk_UA":"Лот {i} об'єкта {n}, площа, адреса, опис"}},"unit":{{"code":"MTK"}}}}"#))
        .collect();
    format!(
        r#"{{"_id":"{n:024x}","status":"s{round}","value":{{"amount":{n}.00}},"items":[{}],"dateModified":"{round}"}}"#,
        items.join(",")
    )
}

async fn ours(store: &Store, round: usize) -> Duration {
    let mut spent = Duration::ZERO;
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(BATCH) {
        let ops = chunk.iter().map(|n| upsert_raw(&format!("{n:024x}"), &round.to_string(), &doc(*n, round))).collect();
        let begun = Instant::now();
        store.apply(ops).await;
        spent += begun.elapsed();
    }
    spent
}

async fn floor(store: &Store, round: usize) -> Duration {
    let mut spent = Duration::ZERO;
    for chunk in (0..OBJECTS).collect::<Vec<_>>().chunks(BATCH) {
        let ids: Vec<String> = chunk.iter().map(|n| format!("{n:024x}")).collect();
        let docs: Vec<String> = chunk.iter().map(|n| doc(*n, round)).collect();
        let begun = Instant::now();
        let mut tx = store.database.pool().begin().await.expect("begin");
        let base = (round * OBJECTS + chunk[0]) as i64;
        sqlx::query(
            "INSERT INTO entities AS e (kind, id, revision, \"offset\", op, at, by, version, hash, doc, size, fields, created_at, updated_at)
             SELECT $1, i, $5, $4 + n, 'update', now(), 'm', $6, sha256('x'), d, length(d), '{\"status\":\"x\",\"value.amount\":\"1\"}', now(), now()
             FROM UNNEST($2::text[], $3::text[]) WITH ORDINALITY AS u (i, d, n)
             ON CONFLICT (kind, id) DO UPDATE SET revision = excluded.revision, \"offset\" = excluded.\"offset\", doc = excluded.doc,
                 version = excluded.version, fields = excluded.fields, at = excluded.at, updated_at = excluded.updated_at")
            .bind(kind().as_str()).bind(&ids).bind(&docs).bind(base).bind(round as i64 + 1).bind(round.to_string())
            .execute(&mut *tx).await.expect("entities");
        sqlx::query(
            "INSERT INTO changes (kind, \"offset\", day, id, revision, op, at, by, changed, before, doc, size)
             SELECT $1, $4 + n, now()::date, i, $5, 'update', now(), 'm', '{status,dateModified}', '{\"status\":\"x\"}', d, length(d)
             FROM UNNEST($2::text[], $3::text[]) WITH ORDINALITY AS u (i, d, n)")
            .bind(kind().as_str()).bind(&ids).bind(&docs).bind(base).bind(round as i64 + 1)
            .execute(&mut *tx).await.expect("changes");
        tx.commit().await.expect("commit");
        spent += begun.elapsed();
    }
    spent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn beside_bare_sql() {
    let (a, b) = (Store::new().await, Store::new().await);
    for round in 0..4 {
        let (ours, floor) = (ours(&a, round).await, floor(&b, round).await);
        let per_s = |spent: Duration| OBJECTS as f64 / spent.as_secs_f64();
        println!(
            "round {round}: {:.0} objects/s, floor {:.0}, ratio {:.2}",
            per_s(ours),
            per_s(floor),
            per_s(ours) / per_s(floor)
        );
    }
}
