//! Every statement that reads entities or changes finds its rows by an index: read from the committed cache of queries, so a
//! new query is covered by being written.

use std::{collections::BTreeSet, sync::Arc};

use dzvin::{
    entities::{Entities, Filters, Listing, Trash},
    platform::db::{Database, DbOptions},
};
use dzvin_protocols::entities::{Filter, Order, Place, SortAs};
use sqlx::Executor;

use super::{Store, kind, spec};
use crate::support::plans::plans;

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
            ["entities_pkey", "entities_version", "entities_key", "pkey", "id_revision_day_idx"]
                .into_iter()
                .filter(|index| plan.contains(index)),
        );
    }
    assert_eq!(seen.len(), 5, "every index earns its keep, those of lists further below: {seen:?}");
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
    // However often it is asked for what is everywhere, no plan for all values is kept.
    let mut options = DbOptions::new(&store.db.url()).expect("options");
    options.max_connections = 2;
    let entities = Entities::open(Database::new(options), vec![spec(kind())]).await.expect("opens").for_readers();
    for value in ["usual"; 8].into_iter().chain(["rare"]) {
        let filters = Filters::from_iter([("status".to_owned(), value.into())]);
        let asked = Listing::newest(&filters, 50);
        let plan = entities.explain(&kind(), asked).await.expect("explained");
        let index = if value == "rare" { "entities_fields" } else { "entities_newest" };
        assert!(plan.contains(index) && !plan.contains("Seq Scan on entities"), "{plan}");
        let page = entities.list(&kind(), asked).await.expect("listed").expect("known");
        assert_eq!(page.rows.len(), if value == "rare" { 1 } else { 50 });
    }
    // The one connection of the readers.
    let sql = "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'WITH w%fields @>%'";
    let kept: Vec<(i64, i64)> =
        sqlx::query_as(sql).fetch_all(entities.database().pool()).await.expect("prepared statements");
    assert_eq!(kept, [(0, 9)]);
}

/// Whatever a list is sorted by, its pages are a walk along an index, however deep; and the trash is found by its own.
#[tokio::test]
async fn each_order_has_its_index() {
    let store = Store::new().await;
    let fill = "INSERT INTO entities (kind, id, revision, \"offset\", op, at, by, doc, size, fields, trashed_at, created_at, updated_at)
            SELECT 'procedure', 'e' || n, 1, n, 'create', now(), 'x', '{}', 2,
                CASE WHEN n % 3 > 0 THEN jsonb_build_object('status', 's' || n, 'value.amount', n::text) ELSE '{}' END,
                CASE WHEN n % 1000 = 0 THEN now() END, now(), now()
            FROM generate_series(1, 30000) n";
    let mut connection = store.db.raw().await;
    connection.execute(fill).await.expect("fill");
    let mut sorted = spec(kind());
    let sorts = [("status".to_owned(), SortAs::Text), ("value.amount".to_owned(), SortAs::Number)].into();
    Arc::make_mut(&mut sorted.declaration).sorts = sorts;
    let declared = Arc::clone(&sorted.declaration);
    let entities = Entities::open(store.database.clone(), vec![sorted.clone()]).await.expect("opens");
    let (filters, by) = (Filters::new(), |text: &str| {
        Order::parse(text, |field| declared.sorts.get(field).copied()).expect("an order")
    });
    let newest = Listing::newest(&filters, 50);
    let pending =
        entities.list(&kind(), Listing { order: &by("status"), ..newest }).await.expect("listed").expect("known");
    assert_eq!(pending.pending, ["status"], "it is not sorted by before its index is there");
    entities.index_sorts().await.expect("indexed");
    connection.execute("VACUUM ANALYZE entities").await.expect("analyze");
    let places = [None, Some(Place::Field(Some("20000".into()), "e1".into())), Some(Place::Field(None, "e7".into()))];
    for (text, place) in ["status", "-status", "value.amount", "-value.amount"]
        .iter()
        .flat_map(|text| places.iter().map(move |place| (text, place)))
    {
        let order = by(text);
        let asked = Listing { order: &order, after: place.as_ref(), ..newest };
        let plan = entities.explain(&kind(), asked).await.expect("explained");
        let sorts = plan.lines().filter(|line| line.contains("Sort  (")).count();
        assert!(
            plan.contains("entities_by_") && sorts <= 1 && !plan.contains("Seq Scan on entities"),
            "{text} {place:?}: only the page itself is sorted\n{plan}"
        );
        assert_eq!(
            entities.list(&kind(), asked).await.expect("listed").expect("known").rows.len(),
            50,
            "{text} {place:?}"
        );
    }
    let range = Filter::parse(r#"{"value.amount":{"gte":29000,"lt":29010}}"#).expect("a filter");
    let plan = entities
        .explain(&kind(), Listing { filter: Some(&range), order: &by("value.amount"), ..newest })
        .await
        .expect("explained");
    assert!(plan.contains("29000"), "the walk begins where the filter does\n{plan}");
    for (text, index) in [("id", "entities_pkey"), ("-id", "entities_pkey"), ("offset", "entities_newest")] {
        let plan = entities.explain(&kind(), Listing { order: &by(text), ..newest }).await.expect("explained");
        assert!(plan.contains(index), "{text}\n{plan}");
    }
    let plan = entities.explain(&kind(), Listing { trash: Trash::Only, ..newest }).await.expect("explained");
    assert!(plan.contains("entities_trashed"), "{plan}");

    // What is no longer declared goes; one that was cut off in the middle is made anew.
    connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(sort_index('procedure', 'status', 'text'))").await.expect("broken");
    Arc::make_mut(&mut sorted.declaration).sorts.remove("value.amount");
    let entities = Entities::open(store.database.clone(), vec![sorted.clone()]).await.expect("opens");
    entities.index_sorts().await.expect("indexed");
    let left = "SELECT count(*) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relname LIKE 'entities\\_by\\_%' AND i.indisvalid";
    assert_eq!(store.scalar::<i64>(left).await, 1);
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
