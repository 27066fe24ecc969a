//! Queries on a real PostgreSQL: a filter means the same there and here, the log alone tells what a change is to a query,
//! and what REST gives of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dzvin::entities::{
    Author, EntityOp, SCAN_ROWS,
    queries::{MAX_PER_USER, StoredQueries, push_condition},
};
use dzvin_actors::platform::ports::Queries;
use dzvin_protocols::entities::{Concern, FieldChange, Filter};
use prometheus_client::registry::Registry;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use sqlx::QueryBuilder;

use super::{Store, id, kind, raw, rest::Answer, rest::Api, upsert};
use crate::support::plans::plans;

/// Filters that are compared with the database, each over [`ROWS`] rows.
const FILTERS: usize = 400;
const ROWS: usize = 40;

/// What fields hold: numbers of every spelling, moments in zones, words, what almost is one of these, and other scripts.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,20})([.][0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        2 => "[+-]?[0-9]{0,3}[.]?[0-9]{0,2}([eE][+-]?[0-9]{0,4})?",
        2 => "-?[0-2]([.]0)?",
        3 => "(0000|0001|1969|1970|2024|2026|9999)-(01|02|11|12|13)-(00|01|28|29|30|31)T(00|10|23|24):(00|59):(00|59|60)([.][0-9]{1,10})?(Z|z|[+-](00|02|23|24):(00|30|60))?",
        2 => "2026-11-2[5-6]T(23|00):00:00([.]0)?(Z|[+]0[0-2]:00)",
        2 => Just("true".to_owned()),
        1 => Just("false".to_owned()),
        3 => "[a-cA-C]{0,3}",
        2 => "[іїa-z%_\\\\'\" \n٣3]{0,4}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,20})([.][0-9]{1,20})?([eE][+-]?[0-9]{1,3})?";
    let moment = "(0001|1970|2024|2026)-11-2[5-6]T(23|00):00:00([.][0-9]{1,9})?(Z|[+-]0[0-2]:00)";
    prop_oneof![
        3 => text().prop_map(|text| Value::from(text).to_string()),
        3 => number,
        2 => "-?[0-2]([.]0)?",
        3 => moment.prop_map(|text| json!({ "time": text }).to_string()),
        1 => any::<bool>().prop_map(|flag| flag.to_string()),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    let field = "[a-d]";
    let list = prop_oneof![
        prop::collection::vec(text().prop_map(|text| Value::from(text).to_string()), 1..4),
        prop::collection::vec("-?[0-3]([.]0)?(e[0-9])?", 1..4),
        prop::collection::vec(
            "2026-11-2[5-6]T(23|00):00:00([.]0)?(Z|[+]0[0-2]:00)".prop_map(|text| json!({ "time": text }).to_string()),
            1..4
        ),
    ];
    let test = prop_oneof![
        6 => (field, "eq|ne|lt|lte|gt|gte", value()).prop_map(|(f, o, v)| format!(r#"{{"{f}":{{"{o}":{v}}}}}"#)),
        2 => (field, "in|nin", list).prop_map(|(f, o, v)| format!(r#"{{"{f}":{{"{o}":[{}]}}}}"#, v.join(","))),
        1 => (field, text()).prop_map(|(f, v)| format!(r#"{{"{f}":{{"prefix":{}}}}}"#, Value::from(v))),
        1 => (field, any::<bool>()).prop_map(|(f, b)| format!(r#"{{"{f}":{{"null":{b}}}}}"#)),
    ];
    let nested = test.prop_recursive(3, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!(r#"{{"and":[{}]}}"#, all.join(","))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!(r#"{{"or":[{}]}}"#, all.join(","))),
            inner.prop_map(|one| format!(r#"{{"not":{one}}}"#)),
        ]
    });
    nested.prop_filter("a filter", |text| Filter::parse(text).is_ok())
}

#[tokio::test]
async fn a_filter_means_the_same_in_the_database() {
    let store = Store::new().await;
    let mut runner = TestRunner::new(Config::default());
    let rows = prop::collection::vec(prop::collection::btree_map("[a-d]", text(), 0..5), ROWS);
    // How often each of the three values came out: a test that only ever sees one says nothing.
    let mut seen = BTreeMap::new();
    for _ in 0..FILTERS {
        let text = filter().new_tree(&mut runner).expect("a filter").current();
        let rows: Vec<BTreeMap<String, String>> = rows.new_tree(&mut runner).expect("rows").current();
        let filter = Filter::parse(&text).expect("a filter");
        let mut sql = QueryBuilder::new("SELECT (");
        push_condition(&mut sql, "w", &filter);
        let stored: Vec<String> = rows.iter().map(|row| json!(row).to_string()).collect();
        sql.push(") FROM UNNEST(").push_bind(stored).push("::text[]) WITH ORDINALITY t (fields, n)");
        sql.push(" CROSS JOIN LATERAL (SELECT t.fields::jsonb AS fields) w ORDER BY t.n");
        let found: Vec<Option<bool>> = sql.build_query_scalar().fetch_all(store.database.pool()).await.expect(&text);
        for (row, found) in rows.iter().zip(found) {
            let here = filter.evaluate(&|field| row.get(field).map(String::as_str));
            assert_eq!(here, found, "{text} of {row:?}");
            *seen.entry(found).or_insert(0) += 1;
        }
        assert_eq!(Filter::parse(&filter.to_string()).expect("the one spelling").to_string(), filter.to_string());
    }
    println!("{seen:?}");
    assert!([None, Some(false), Some(true)].iter().all(|value| seen.get(value) > Some(&200)), "{seen:?}");
}

const SOME: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What may happen to one of a few entities.
fn operation() -> impl Strategy<Value = EntityOp> {
    let one = prop::sample::select(SOME.to_vec());
    (one, 0..10u8, 0..3u8, 0..3u8, 1..9u8).prop_map(|(name, what, status, amount, version)| {
        let (id, version) = (id(name), version.to_string());
        match what {
            0..5 => {
                let status = ["active", "draft", "x"][usize::from(status)];
                // Above what the log keeps of a document, now and then.
                let pad = if amount == 2 { "y".repeat(40_000) } else { String::new() };
                let doc = format!(r#"{{"status":"{status}","value":{{"amount":{amount}.50}},"pad":"{pad}"}}"#);
                EntityOp::Upsert { id, version, doc: raw(&doc).into(), derived: None, beside: what == 4 }
            }
            5 => EntityOp::Set { id, version: None, set: raw(r#"{"value.amount":7}"#).into() },
            6 => EntityOp::Trash(id),
            7 => EntityOp::Missing { id, version },
            8 => EntityOp::Found(id),
            _ => EntityOp::Purge(id),
        }
    })
}

/// Who follows the log row by row, with no memory but who belongs to the query, is told of every coming and going once, and
/// ends with what the database finds.
#[tokio::test]
async fn the_log_alone_tells_what_a_change_is_to_a_query() {
    let store = Store::new().await;
    let api = Api::over(&store.entities, &store);
    let mut runner = TestRunner::new(Config::default());
    let batches = prop::collection::vec(prop::collection::vec(operation(), 1..12), 60);
    let author = Author { by: "test", trace: None };
    for batch in batches.new_tree(&mut runner).expect("batches").current() {
        store.entities.commit(&kind(), author, &batch).await.expect("committed");
    }
    let slice = store.log(0).await;
    for text in [
        "{}",
        r#"{"status":"active"}"#,
        r#"{"status":["draft","x"]}"#,
        r#"{"value.amount":{"gte":1}}"#,
        r#"{"not":{"value.amount":{"lt":1}},"status":{"ne":"x"}}"#,
    ] {
        let filter = Filter::parse(text).expect("a filter");
        let mut belong: BTreeSet<String> = BTreeSet::new();
        let mut told = BTreeMap::new();
        for change in &slice.changes {
            let fields = change.fields.as_deref().unwrap_or_else(|| panic!("{change:?} tells no fields"));
            let concern = filter.concern(&FieldChange::parse(fields).expect("ours")).expect("declared");
            let id = change.id.to_string();
            let sound = match concern {
                Some(Concern::Enter) => belong.insert(id),
                Some(Concern::Change) => belong.contains(&id),
                Some(Concern::Leave) => belong.remove(&id),
                None => !belong.contains(&id),
            };
            assert!(sound, "{text}: {concern:?} of {change:?}");
            *told.entry(concern.map(Concern::as_str)).or_insert(0) += 1;
        }
        let page = make(&api, "olha", &json!({ "kind": "procedure", "filter": raw(text) })).await.json();
        let found: BTreeSet<String> = items(&page).into_iter().collect();
        assert_eq!(found, belong, "{text}");
        assert_eq!(page["position"]["offset"], slice.position.offset);
        println!("{text}: {told:?}");
    }
}

async fn make(api: &Api, user: &str, body: &Value) -> Answer {
    api.ask_as(user, "POST", "/api/v1/queries", &["entities:read:procedure"], None, Some(body.to_string())).await
}

fn items(page: &Value) -> Vec<String> {
    page["items"]
        .as_array()
        .unwrap_or_else(|| panic!("{page}"))
        .iter()
        .map(|it| it["id"].as_str().expect("id").to_owned())
        .collect()
}

#[tokio::test]
async fn a_query_is_made_read_in_pages_listed_and_forgotten() {
    let store = Store::new().await;
    let api = Api::over(&store.entities, &store);
    store.apply((0..7).map(|n| upsert(&format!("e{n}"), "1", if n % 2 == 0 { "even" } else { "odd" })).collect()).await;
    let body = json!({"kind": "procedure", "filter": {"status": "even"}, "limit": 2});
    let answer = make(&api, "olha", &body).await;
    let page = answer.json();
    assert_eq!(answer.status, 201, "{page}");
    let id = page["id"].as_str().expect("id").to_owned();
    assert_eq!((&page["kind"], &page["filter"]), (&json!("procedure"), &json!({"status": {"eq": "even"}})));
    assert_eq!(
        (page["channel"].as_str(), items(&page)),
        (Some(&*format!("query.{id}")), vec!["e6".into(), "e4".into()])
    );
    let position = page["position"].clone();
    assert_eq!(position["offset"], 7);
    // What comes meanwhile is told from the first page's position on, which every page repeats.
    store.apply(vec![upsert("e8", "1", "even"), upsert("e2", "2", "odd")]).await;
    let next = format!("/api/v1/queries/{id}?limit=2&cursor={}", page["next"].as_str().expect("more"));
    let page = api.get(&next).await.json();
    assert_eq!((items(&page), &page["position"], &page["next"]), (vec!["e0".to_owned()], &position, &Value::Null));
    let again = api.get(&format!("/api/v1/queries/{id}")).await.json();
    assert_eq!(
        (items(&again), &again["position"]["offset"]),
        (["e8", "e6", "e4", "e0"].map(String::from).to_vec(), &json!(9))
    );

    // The same, spelled otherwise, is the same; of another user it is not found.
    let same = json!({"kind": "procedure", "filter": {"and": [{"status": {"in": ["even"]}}, {}]}});
    assert_ne!(make(&api, "olha", &same).await.json()["id"], json!(id), "a list of one is another filter");
    let same = json!({"kind": "procedure", "filter": {"status": {"eq": "even"}}});
    assert_eq!(make(&api, "olha", &same).await.json()["id"], json!(id));
    let path = format!("/api/v1/queries/{id}");
    let by = async |user: &str, method: &str| {
        api.ask_as(user, method, &path, &["entities:read:procedure"], None, None).await.status
    };
    assert_eq!((by("petro", "GET").await, by("petro", "DELETE").await), (404, 404));
    assert_eq!(make(&api, "petro", &same).await.json()["id"], json!(id), "who asks the same shares the channel");
    assert_eq!(by("petro", "GET").await, 200);
    assert_eq!(api.ask_as("olha", "GET", &path, &[], None, None).await.status, 403, "rights are looked at each time");

    let listed = api.get("/api/v1/queries").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "{listed}");
    assert!(listed["items"].as_array().expect("items").iter().any(|it| it["id"] == json!(id)));
    assert_eq!(by("olha", "DELETE").await, 204);
    assert_eq!((by("olha", "GET").await, by("olha", "DELETE").await, by("petro", "GET").await), (404, 404, 200));
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let store = Store::new().await;
    let api = Api::over(&store.entities, &store);
    let wide = json!({ "or": vec![json!({"status": "x"}); 80] });
    for (body, status, code) in [
        (json!({"kind": "procedure", "filter": {"owner": "x"}}), 400, "unknown_field"),
        (json!({"kind": "procedure", "filter": {"status": {"like": "x"}}}), 400, "bad_filter"),
        (json!({"kind": "procedure", "filter": {"status": {"gte": true}}}), 400, "bad_filter"),
        (json!({"kind": "procedure", "filter": []}), 400, "bad_filter"),
        (json!({"kind": "procedure", "filter": wide}), 400, "bad_filter"),
        (json!({"kind": "procedure"}), 400, "bad_request"),
        (json!({"kind": "procedure", "filter": {}, "limit": 0}), 400, "bad_parameter"),
        (json!({"kind": "procedure", "filter": {}, "limit": 201}), 400, "bad_parameter"),
        (json!({"kind": "procedure", "filter": {}, "order": "id"}), 400, "bad_request"),
        (json!({"kind": "Procedure", "filter": {}}), 404, "unknown_kind"),
        (json!({"kind": "call", "filter": {}}), 403, "forbidden"),
    ] {
        let answer = make(&api, "olha", &body).await;
        let json = answer.json();
        assert_eq!((answer.status, json["code"].as_str()), (status, Some(code)), "{body:.80} {json}");
    }
    assert_eq!(make(&api, "", &json!({"kind": "procedure", "filter": {}})).await.json()["code"], "no_user");
    let large = "x".repeat(40 * 1024);
    let answer = make(&api, "olha", &json!({"kind": "procedure", "filter": {"status": large}})).await;
    assert_eq!(answer.status, 413);
    let unknown = |id: &str| format!("/api/v1/queries/{id}");
    for id in ["x", &"x".repeat(43), "%00"] {
        assert_eq!(api.get(&unknown(id)).await.status, 404, "{id}");
    }

    // A version moves without a change.
    let mut declared = super::spec(kind());
    Arc::make_mut(&mut declared.declaration).fields.extend(["dateModified".to_owned(), "region".to_owned()]);
    store.apply(vec![upsert("e", "1", "x")]).await;
    let entities = dzvin::entities::Entities::open(store.database.clone(), vec![declared]).await.expect("opens");
    let api = Api::over(&entities, &store);
    let of_version = json!({"kind": "procedure", "filter": {"dateModified": {"gt": "2"}}});
    assert_eq!(make(&api, "olha", &of_version).await.json()["code"], "version_field");
    let pending = json!({"kind": "procedure", "filter": {"region": null}});
    let answer = make(&api, "olha", &pending).await;
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("field_pending")));
    entities.derive_kind(&kind()).await.expect("derived");
    assert_eq!(make(&api, "olha", &pending).await.status, 201);
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_them_and_what_is_not_used_is_forgotten() {
    let store = Store::new().await;
    let api = Api::over(&store.entities, &store);
    let body = |n: i64| json!({"kind": "procedure", "filter": {"value.amount": n}, "limit": 1});
    for n in 0..MAX_PER_USER {
        assert_eq!(make(&api, "olha", &body(n)).await.status, 201);
    }
    let answer = make(&api, "olha", &body(MAX_PER_USER)).await;
    assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("too_many_queries")));
    assert_eq!(make(&api, "olha", &body(3)).await.status, 201, "one of them may be asked for again");
    assert_eq!(make(&api, "petro", &body(MAX_PER_USER)).await.status, 201, "another user's are not counted");
    let listed = api.get("/api/v1/queries").await.json();
    let oldest = listed["items"][0]["id"].as_str().expect("id").to_owned();
    let mut database = store.db.raw().await;
    let old = "UPDATE queries SET used_at = now() - interval '15 days' WHERE \"user\" = 'olha' AND created_at = (SELECT min(created_at) FROM queries)";
    sqlx::raw_sql(old).execute(&mut database).await.expect("aged");
    assert_eq!(api.get(&format!("/api/v1/queries/{oldest}")).await.status, 404, "forgotten, though it is still there");
    assert_eq!(make(&api, "olha", &body(MAX_PER_USER)).await.status, 201, "it makes room");
    let left: i64 = store.scalar("SELECT count(*) FROM queries WHERE used_at < now() - interval '14 days'").await;
    assert_eq!(left, 0);
}

/// A page looks at so many rows and no more, and whoever goes on finds the rest.
#[tokio::test]
async fn a_page_looks_at_a_bounded_number_of_rows() {
    let store = Store::new().await;
    let api = Api::over(&store.entities, &store);
    store.apply(vec![upsert("needle", "1", "rare")]).await;
    let many = SCAN_ROWS + 50;
    let mut database = store.db.raw().await;
    let rows = format!(
        r#"INSERT INTO entities (kind, id, revision, "offset", op, at, by, doc, size, fields, created_at, updated_at)
         SELECT 'procedure', 'h' || n, 1, 1 + n, 'create', now(), 'x', '{{}}', 2, '{{"status":"hay"}}', now(), now()
         FROM generate_series(1, {many}) n; UPDATE streams SET top = {many} + 1 WHERE name = 'entities.procedure'; ANALYZE entities"#
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut database).await.expect("rows");
    let unanchored = json!({"kind": "procedure", "filter": {"status": {"prefix": "ra"}}});
    let page = make(&api, "olha", &unanchored).await.json();
    assert_eq!(items(&page), Vec::<String>::new());
    let (id, next) = (page["id"].as_str().expect("id"), page["next"].as_str().expect("not the last"));
    let page = api.get(&format!("/api/v1/queries/{id}?cursor={next}")).await.json();
    assert_eq!((items(&page), &page["next"]), (vec!["needle".to_owned()], &Value::Null));
    // What a filter names outright is found by the index, on the first page.
    let anchored = json!({"kind": "procedure", "filter": {"status": ["rare", "none"]}});
    let page = make(&api, "olha", &anchored).await.json();
    assert_eq!((items(&page), &page["next"]), (vec!["needle".to_owned()], &Value::Null));
}

/// One who makes queries and deletes them leaves nothing in memory.
#[tokio::test]
async fn what_is_deleted_is_not_remembered() {
    let store = Store::new().await;
    let queries = StoredQueries::new(store.entities.for_readers());
    let mut registry = Registry::default();
    queries.register(&mut registry);
    let known = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
        let line = text.lines().find(|line| line.starts_with("queries_known ")).expect("the gauge");
        line.rsplit(' ').next().expect("a number").parse::<usize>().expect("a number")
    };
    let kept = queries.make(&kind(), r#"{"status":"kept"}"#, &"olha".into()).await.expect("made");
    for n in 0..20 {
        let made = queries.make(&kind(), &format!(r#"{{"status":"s{n}"}}"#), &"olha".into()).await.expect("made");
        let (id, known) = (made.id.clone(), queries.known(&made.id));
        assert!(known.is_some());
        drop((made, known));
        assert!(queries.drop_of_user(&id, &"olha".into()).await.expect("forgotten"));
        assert!(queries.known(&id).is_none() && !queries.drop_of_user(&id, &"olha".into()).await.expect("looked"));
    }
    assert_eq!(known(), 1);
    // What somebody listens to is known for as long as they do.
    assert!(queries.drop_of_user(&kept.id, &"olha".into()).await.expect("forgotten"));
    assert!(queries.known(&kept.id).is_some());
}

/// A wallboard that stays connected for weeks finds its query when it comes back.
#[tokio::test]
async fn what_is_listened_to_counts_as_used() {
    let store = Store::new().await;
    let queries = StoredQueries::new(store.entities.for_readers());
    let make = async |status: &str, user: &str| {
        queries.make(&kind(), &json!({ "status": status }).to_string(), &user.into()).await.expect("made")
    };
    let (listened, fresh) = (make("listened", "olha").await, make("fresh", "olha").await);
    drop(make("left", "olha").await);
    drop((make("listened", "gone").await, make("fresh", "petro").await));
    // More rows than one statement writes: a query that a whole organisation has.
    let mut database = store.db.raw().await;
    let age = format!(
        r#"INSERT INTO queries (id, "user", kind, filter) SELECT id, 'u' || n, kind, filter FROM queries, generate_series(1, 1200) n
             WHERE id = '{listened}' AND "user" = 'olha';
         UPDATE queries SET used_at = now() - interval '13 days';
         UPDATE queries SET used_at = now() - interval '1 hour' WHERE id = '{fresh}';
         UPDATE queries SET used_at = now() - interval '15 days' WHERE "user" = 'gone'"#,
        listened = listened.id.as_str(),
        fresh = fresh.id.as_str()
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(age)).execute(&mut database).await.expect("aged");
    assert_eq!(queries.note_listened().await.expect("noted"), 1_201);
    for (rows, sql, why) in [
        (1_201, "SELECT count(*) FROM queries WHERE used_at > now() - interval '1 minute'", "each"),
        (
            1,
            "SELECT count(*) FROM queries WHERE used_at < now() - interval '12 days' AND \"user\" = 'olha'",
            "not listened to",
        ),
        (
            1,
            "SELECT count(*) FROM queries WHERE used_at < now() - interval '14 days' AND \"user\" = 'gone'",
            "forgotten",
        ),
        (
            2,
            "SELECT count(*) FROM queries WHERE used_at BETWEEN now() - interval '1 day' AND now() - interval '30 minutes'",
            "used today",
        ),
    ] {
        assert_eq!(store.scalar::<i64>(sql).await, rows, "{why}");
    }
    assert_eq!(queries.note_listened().await.expect("noted"), 0, "once a day");
    drop((listened, fresh));
    sqlx::raw_sql("UPDATE queries SET used_at = now() - interval '2 days'").execute(&mut database).await.expect("aged");
    assert_eq!(queries.note_listened().await.expect("noted"), 0, "nobody listens any more");
}

/// Every cached statement on queries finds its rows by an index, as it is planned for any values.
#[tokio::test]
async fn no_statement_scans_all_queries() {
    let store = Store::new().await;
    let mut raw = store.db.raw().await;
    let fill = r#"INSERT INTO queries (id, "user", kind, filter, used_at)
            SELECT 'q' || n % 5000, 'u' || n, 'procedure', '{}', now() - make_interval(mins => n) FROM generate_series(1, 20000) n;
        SET plan_cache_mode = force_generic_plan"#;
    sqlx::raw_sql(fill).execute(&mut raw).await.expect("filled");
    sqlx::raw_sql("VACUUM ANALYZE queries").execute(&mut raw).await.expect("analyzed");
    let concerns =
        |query: &str| ["FROM queries", "UPDATE queries", "INTO queries"].iter().any(|words| query.contains(words));
    let plans = plans(&mut raw, concerns).await;
    for (query, plan) in &plans {
        assert!(!plan.contains("Seq Scan on queries"), "{query}\n{plan}");
    }
    assert_eq!(plans.len(), 6, "make, sweep, read, list, drop, note");
}
