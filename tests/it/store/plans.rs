//! Every statement that reads entities or changes finds its rows by an index: read from the committed cache of queries, so a
//! new query is covered by being written.

use std::collections::BTreeSet;

use dzvin::{
    entities::{Entities, Filters, Listing},
    platform::db::{Database, DbOptions},
};
use sqlx::Executor;

use super::{Store, kind, spec};
use crate::support::plans::{plans, plans_with};

#[tokio::test]
async fn no_statement_scans_a_whole_table() {
    let store = Store::new().await;
    let mut connection = store.db.raw().await;
    let fill = "INSERT INTO entities (kind, id, revision, \"offset\", op, at, by, version, doc, size, fields, key, created_at, updated_at)
            SELECT k, 'e' || n, 1, n, 'create', now(), 'x', 'v' || n, '{}', 2, jsonb_build_object('status', 's' || n % 500),
                CASE WHEN n % 50 = 0 THEN 'h_' || n END, now(), now()
            FROM generate_series(1, 4000) n, unnest(ARRAY['procedure', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i']) k;
        INSERT INTO changes (kind, \"offset\", day, id, revision, op, at, by, changed, size)
            SELECT 'procedure', n, now()::date + n % 3, 'e' || n % 5000, n / 5000 + 1, 'create', now(), 'x', '{}', 0
            FROM generate_series(1, 20000) n;
        INSERT INTO quarantine (mirror, reason, detail, raw, bytes) SELECT 'm' || n % 5, 'x', 'x', '', 0 FROM generate_series(1, 9000) n;
        SET plan_cache_mode = force_generic_plan";
    connection.execute(fill).await.expect("fill");
    connection.execute("VACUUM ANALYZE").await.expect("analyze");

    let mut seen = BTreeSet::new();
    let ours =
        |query: &str| ["entities", "changes", "quarantine"].iter().any(|table| query.contains(&format!(" {table}")));
    for (query, plan) in plans(&mut connection, ours).await {
        for table in ["entities", "changes", "changes_2", "quarantine"] {
            // A partition in which there is nothing is read whole: no index is shorter.
            let scans = format!("Seq Scan on {table}");
            let scanned = plan.lines().any(|line| line.contains(&scans) && !line.contains("(cost=0.00..0.00 "));
            assert!(!scanned, "{query}\n{plan}");
        }
        seen.extend(
            [
                "entities_newest",
                "entities_pkey",
                "entities_version",
                "entities_fields",
                "entities_key",
                "pkey",
                "id_revision_day_idx",
            ]
            .into_iter()
            .filter(|index| plan.contains(index)),
        );
    }
    assert_eq!(seen.len(), 7, "every index earns its keep: {seen:?}");
}

/// A filter that matches little must not walk through the kind in the hope of a full page.
#[tokio::test]
async fn a_filter_finds_a_rare_value_by_its_index() {
    let store = Store::new().await;
    let mut connection = store.db.raw().await;
    let fill =
        "INSERT INTO entities (kind, id, revision, \"offset\", op, at, by, doc, size, fields, created_at, updated_at)
            SELECT 'procedure', 'e' || n, 1, n, 'create', now(), 'x', '{}', 2,
                jsonb_build_object('status', CASE WHEN n = 7 THEN 'rare' ELSE 'usual' END), now(), now()
            FROM generate_series(1, 30000) n";
    connection.execute(fill).await.expect("fill");
    connection.execute("VACUUM ANALYZE").await.expect("analyze");
    connection.execute("SET plan_cache_mode = force_custom_plan").await.expect("set");
    let page = |query: &str| query.contains("LATERAL") && query.contains("fields @> $7");
    let of = |filter| {
        ["'entities.procedure'", "'procedure'", "9223372036854775807", "51", "false", "32768", filter]
            .map(str::to_owned)
    };
    let plans = plans_with(&mut connection, page, &of("'{\"status\":\"rare\"}'")).await;
    let [(_, plan)] = &plans[..] else { panic!("one query lists by fields: {plans:?}") };
    assert!(plan.contains("entities_fields") && !plan.contains("entities_newest"), "{plan}");

    // However often it is asked for what is everywhere, no plan for all values is kept.
    let mut options = DbOptions::new(&store.db.url()).expect("options");
    options.max_connections = 2;
    let entities = Entities::open(Database::new(options), vec![spec(kind())]).await.expect("opens").for_readers();
    for value in ["usual"; 8].into_iter().chain(["rare"]) {
        let filters = Filters::from_iter([("status".to_owned(), value.into())]);
        let page = entities
            .list(&kind(), Listing { filters: &filters, below: None, limit: 50, total: false })
            .await
            .expect("listed")
            .expect("known");
        assert_eq!(page.rows.len(), if value == "rare" { 1 } else { 50 });
    }
    // The one connection of the readers.
    let sql = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT s.epoch%fields @>%'";
    let kept: Vec<(i64, i64)> =
        sqlx::query_as(sql).fetch_all(entities.database().pool()).await.expect("prepared statements");
    assert_eq!(kept, [(0, 9)]);
}

/// A plan that is made while a table is empty is kept: rows are found by their key from the first one on.
#[tokio::test]
async fn rows_are_found_by_their_key_before_there_are_statistics() {
    let store = Store::new().await;
    let mut connection = store.db.raw().await;
    connection.execute("SET plan_cache_mode = force_generic_plan").await.expect("set");
    let plans = plans(&mut connection, |query| query.contains("UNNEST($2::text[]) AS w (id)")).await;
    for (query, plan) in &plans {
        assert!(plan.contains("Index Scan using entities_pkey") && plan.contains("id >= w.id"), "{query}\n{plan}");
    }
    assert_eq!(plans.len(), 2, "rows and their documents");
}
