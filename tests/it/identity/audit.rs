//! Who did what and what was refused, as it is told, through running nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::Executor;

use super::{ask, token, token_of};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    plans::{plans, plans_with},
    postgres::TestDb,
    session::Client,
};

const DEALS: &str = "/api/v1/entities/deal";
const KINDS: &str = "\n[kinds.deal]\nsource = \"local\"\nfields = [\"status\"]\n";

async fn world() -> World {
    let mut world = World::new(0, false).await;
    world.mirrors.push_str(KINDS);
    world
}

/// What an administrator is told.
async fn told(hub: &Hub, query: &str) -> Vec<Value> {
    let (status, page) =
        ask(hub, &token(&["audit:read:*"]), "GET", &format!("/api/v1/audit?{query}"), Value::Null).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().expect("items").clone()
}

/// The first row of these, once there is one: what is refused is written within a second.
async fn first(hub: &Hub, query: &str) -> Value {
    eventually(&format!("a row for {query}"), async || told(hub, query).await.into_iter().next()).await
}

/// What was done to what, oldest first.
fn pairs(rows: &[Value]) -> Vec<(&str, &str)> {
    rows.iter()
        .rev()
        .map(|row| (row["action"].as_str().expect("a text"), row["object"].as_str().expect("a text")))
        .collect()
}

async fn rows(world: &World) -> i64 {
    let mut raw = world.db.raw().await;
    sqlx::query_scalar("SELECT count(*) FROM audit").fetch_one(&mut raw).await.expect("counted")
}

#[tokio::test]
async fn each_change_has_its_row() {
    let world = world().await;
    let hub = world.hub("a").await;
    let admin = token(&["*"]);
    let send = async |method: &str, path: &str, body: Value| ask(&hub, &admin, method, path, body).await;
    for (method, path, body) in [
        ("PUT", format!("{DEALS}/1"), json!({"n": 1})),
        ("PUT", format!("{DEALS}/1"), json!({"n": 2})),
        ("PUT", format!("{DEALS}/1"), json!({"n": 2})),
        ("DELETE", format!("{DEALS}/1"), Value::Null),
        ("POST", format!("{DEALS}/1/restore"), Value::Null),
        ("DELETE", format!("{DEALS}/1?purge=true"), Value::Null),
    ] {
        let (status, answer) = send(method, &path, body).await;
        assert!(status < 300, "{path}: {answer}");
    }
    let seen = told(&hub, "object=deal/1").await;
    let actions: Vec<_> = pairs(&seen).into_iter().map(|(action, _)| action).collect();
    let all = ["entities.create", "entities.update", "entities.trash", "entities.restore", "entities.purge"];
    assert_eq!(actions, all, "what changes nothing is not told");
    let created = seen.last().expect("rows");
    assert_eq!(
        (&created["user"], &created["outcome"], &created["status"], &created["revision"], &created["times"]),
        (&json!("olha"), &json!("done"), &json!(201), &json!(1), &json!(1)),
        "{created}"
    );
    assert_eq!(created["address"], "127.0.0.1");
    assert!(created["request"].is_string() && created["node"].is_string(), "{created}");

    // The rest of what changes something.
    let (_, query) = send("POST", "/api/v1/queries", json!({"kind": "deal", "filter": {"status": "new"}})).await;
    let query = query["id"].as_str().expect("an id").to_owned();
    send("POST", "/api/v1/queries", json!({"kind": "deal", "filter": {"status": "new"}})).await;
    send("DELETE", &format!("/api/v1/queries/{query}"), Value::Null).await;
    send("POST", "/api/v1/service-accounts", json!({"name": "shop", "roles": ["viewer"]})).await;
    let (_, made) = send("POST", "/api/v1/service-accounts/shop/tokens", json!({"label": "x"})).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    send("DELETE", &format!("/api/v1/service-accounts/shop/tokens/{id}"), Value::Null).await;
    send("DELETE", "/api/v1/service-accounts/shop", Value::Null).await;
    let (_, revoked) = send("POST", "/api/v1/revocations", json!({"user": "petro", "block": true})).await;
    assert_eq!(send("DELETE", &format!("/api/v1/revocations/{}", revoked["id"]), Value::Null).await.0, 204);
    let seen = told(&hub, "user=olha&limit=9").await;
    let (token_id, block) = (format!("shop/{id}"), "block/petro");
    assert_eq!(
        pairs(&seen),
        [
            ("entities.purge", "deal/1"),
            ("queries.create", &*query),
            ("queries.delete", &query),
            ("accounts.create", "shop"),
            ("tokens.create", &token_id),
            ("tokens.delete", &token_id),
            ("accounts.delete", "shop"),
            ("revocations.create", block),
            ("revocations.delete", block),
        ]
    );
    // What has no transaction of ours follows.
    let client = "0123456789abcdef0123456789abcdef";
    assert_eq!(send("DELETE", &format!("/api/v1/connections/{client}"), Value::Null).await.0, 204);
    let ended = first(&hub, "action=connections.end").await;
    assert_eq!((&ended["object"], &ended["outcome"]), (&json!(client), &json!("done")));
}

#[tokio::test]
async fn a_bulk_is_told_item_by_item_and_a_repetition_not_at_all() {
    let world = world().await;
    let hub = world.hub("a").await;
    let admin = token(&["*"]);
    let client = reqwest::Client::new();
    let bulk = async |key: &str, body: Value| {
        let request = client.post(format!("http://{}{DEALS}/bulk", hub.addr)).bearer_auth(&admin);
        let answer = request.header("idempotency-key", key).json(&body).send().await.expect("answered");
        answer.status().as_u16()
    };
    let edits = json!({"atomic": false, "items": [
        {"op": "create", "id": "1", "doc": {}},
        {"op": "merge", "id": "1", "patch": {"n": 1}},
        {"op": "merge", "id": "1", "if_match": 1, "patch": {"n": 2}},
        {"op": "merge", "id": "1", "patch": {"n": 1}},
        {"op": "put", "id": "2", "doc": {}},
    ]});
    for _ in 0..3 {
        assert_eq!(bulk("k", edits.clone()).await, 200);
    }
    let done = told(&hub, "outcome=done").await;
    let all = [("entities.create", "deal/1"), ("entities.update", "deal/1"), ("entities.create", "deal/2")];
    assert_eq!(pairs(&done), all);
    assert_eq!(done[1]["revision"], 2);
    let refused = first(&hub, "outcome=revision_conflict").await;
    assert_eq!((&refused["object"], &refused["status"], &refused["times"]), (&json!("deal/1"), &json!(412), &json!(1)));

    // What is given up as a whole is not told as done, nor what the database would not take.
    let before = rows(&world).await;
    let atomic = json!({"items": [{"op": "create", "id": "3", "doc": {}}, {"op": "create", "id": "1", "doc": {}}]});
    assert_eq!(bulk("l", atomic).await, 412);
    let whole = first(&hub, "outcome=entity_exists").await;
    assert_eq!((&whole["action"], &whole["object"]), (&json!("entities.bulk"), &json!("deal")));
    assert_eq!(rows(&world).await, before + 1);
    let mut raw = world.db.raw().await;
    raw.execute("ALTER TABLE audit ADD CONSTRAINT none CHECK (object <> 'deal/4')").await.expect("altered");
    assert!(ask(&hub, &admin, "PUT", &format!("{DEALS}/4"), json!({})).await.0 >= 500);
    let there: i64 =
        sqlx::query_scalar("SELECT count(*) FROM entities WHERE id = '4'").fetch_one(&mut raw).await.expect("counted");
    assert_eq!(there, 0, "there is no change without its row");
}

#[tokio::test]
async fn refusals_are_told_and_equal_ones_are_one() {
    let world = world().await;
    let hub = world.hub("a").await;
    let reader = token_of("ihor", &["entities:read:*"]);
    for _ in 0..5 {
        assert_eq!(ask(&hub, &reader, "PUT", &format!("{DEALS}/7"), json!({})).await.0, 403);
    }
    let forbidden =
        eventually("all five", async || told(&hub, "user=ihor").await.into_iter().find(|row| row["times"] == 5)).await;
    assert_eq!(
        (&forbidden["action"], &forbidden["object"], &forbidden["outcome"], &forbidden["status"]),
        (&json!("entities.update"), &json!("deal/7"), &json!("forbidden"), &json!(403))
    );
    assert_eq!(told(&hub, "user=ihor").await.len(), 1);
    // Who may not read it is told in it.
    assert_eq!(ask(&hub, &reader, "GET", "/api/v1/audit", Value::Null).await.0, 403);
    assert_eq!(first(&hub, "action=audit.read").await["user"], "ihor");

    // A client connection.
    let mut client = Client::new(&hub).await;
    let connect = |token: &str| json!({"id": 1, "connect": {"token": token}}).to_string();
    assert_eq!(client.ask(&connect("nonsense")).await, json!({"close": 3500}));
    let row = first(&hub, "action=session.connect").await;
    assert_eq!(
        (&row["outcome"], &row["user"], &row["address"]),
        (&json!("invalid_token"), &json!(""), &json!("127.0.0.1"))
    );
    let mut client = Client::new(&hub).await;
    client.ask(&connect(&token_of("maria", &[]))).await;
    client.ask(r#"{"id": 2, "subscribe": {"channel": "entities.deal"}}"#).await;
    client.ask(r#"{"id": 3, "publish": {"channel": "chat.1", "data": {}}}"#).await;
    let seen = eventually("both", async || Some(told(&hub, "user=maria").await).filter(|rows| rows.len() == 2)).await;
    let seen: BTreeSet<_> = pairs(&seen).into_iter().collect();
    assert_eq!(seen, [("session.publish", "chat.1"), ("session.subscribe", "entities.deal")].into());
}

/// Whoever is not known can write neither much nor what harms a terminal, and takes no room of those who are.
#[tokio::test]
async fn a_flood_of_rubbish_is_bounded() {
    let world = world().await;
    // Whoever fails is to be refused by what the token is worth, however often.
    let hub = world.hub_with("a", "[identity.guard]\nfailures = 0\ntoken_failures = 0\n").await;
    let client = reqwest::Client::new();
    let odd = format!("{DEALS}/%00%1b%5b2J%0a{}", "x".repeat(1000));
    let mut asked = 0;
    for n in 0..300 {
        let path = if n % 2 == 0 { odd.clone() } else { format!("{DEALS}/{n}") };
        let request = client.get(format!("http://{}{path}", hub.addr)).bearer_auth(format!("guess-{n}"));
        let request = request.header("x-request-id", "a b\"");
        asked += i64::from(request.send().await.expect("answered").status() == 401);
    }
    assert_eq!(asked, 300);
    let reader = token_of("ihor", &["entities:read:*"]);
    assert_eq!(ask(&hub, &reader, "PUT", &format!("{DEALS}/7"), json!({})).await.0, 403);
    first(&hub, "user=ihor").await;
    let mut raw = world.db.raw().await;
    let (rows, times): (i64, i64) = eventually("all of them", async || {
        let counted: (i64, i64) =
            sqlx::query_as("SELECT count(*), COALESCE(sum(times), 0)::int8 FROM audit WHERE outcome = 'unauthorized'")
                .fetch_one(&mut raw)
                .await
                .expect("counted");
        Some(counted).filter(|(_, times)| *times == asked)
    })
    .await;
    // Seventeen for each minute that it took.
    assert!(rows <= 34 && times == 300, "{rows} rows");
    let texts: Vec<String> =
        sqlx::query_scalar("SELECT row_to_json(a)::text FROM audit a").fetch_all(&mut raw).await.expect("read");
    for text in texts {
        assert!(text.len() < 1000 && !text.contains("guess") && !text.contains("\\u001b"), "{text}");
    }
}

#[tokio::test]
async fn pages_lead_through_all_and_filters_hold() {
    let world = world().await;
    let hub = world.hub("a").await;
    let mut raw = world.db.raw().await;
    raw.execute(
        "INSERT INTO audit (at, node, address, \"user\", action, object, outcome)
         SELECT '2026-01-01T00:00:00Z'::timestamptz + n / 3 * interval '1 second', 'n', '2001:db8::1', 'u' || n % 2, 'a.b', 'deal/' || n, 'done'
         FROM generate_series(0, 99) n",
    )
    .await
    .expect("filled");
    let admin = token(&["audit:read:*"]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/audit?action=a.b&limit=7{cursor}");
        let (_, page) = ask(&hub, &admin, "GET", &path, Value::Null).await;
        seen.extend(
            page["items"].as_array().expect("items").iter().map(|row| row["object"].as_str().map(str::to_owned)),
        );
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all: Vec<_> = (0..100).rev().map(|n| Some(format!("deal/{n}"))).collect();
    assert_eq!(seen, all, "each once, newest first");
    assert_eq!(told(&hub, "user=u1&action=a.b&limit=500").await.len(), 50);
    assert_eq!(
        told(&hub, "address=2001:db8:0::1&since=2026-01-01T00:00:01Z&until=2026-01-01T00:00:03Z").await.len(),
        6
    );
    assert_eq!(told(&hub, "object=deal/5&outcome=done").await.len(), 1);
    for bad in ["kind=deal", "limit=0", "since=now", "cursor=x", "user=%00"] {
        let (status, answer) = ask(&hub, &admin, "GET", &format!("/api/v1/audit?{bad}"), Value::Null).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_parameter")), "{bad}");
    }
}

#[tokio::test]
async fn what_is_old_is_removed() {
    let world = world().await;
    let mut raw = world.db.raw().await;
    raw.execute(
        "INSERT INTO audit (at, node, \"user\", action, object, outcome)
         SELECT now() - n * interval '1 day', 'n', 'u', 'a.b', '', 'done' FROM generate_series(0, 20) n",
    )
    .await
    .expect("filled");
    let _hub = world.hub_with("a", "[identity.audit]\nkeep_days = 7\n").await;
    eventually("a week is left", async || (rows(&world).await == 7).then_some(())).await;
}

#[tokio::test]
async fn every_way_of_reading_has_its_index() {
    let db = TestDb::new().await;
    let mut connection = db.raw().await;
    let fill = "INSERT INTO audit (at, node, address, \"user\", action, object, outcome, fold)
            SELECT now() - n * interval '1 second', 'n', '10.0.0.' || n % 200, 'u' || n % 300, 'a.' || n % 30, 'deal/' || n,
                CASE WHEN n % 50 = 0 THEN 'forbidden' ELSE 'done' END, n
            FROM generate_series(1, 30000) n";
    connection.execute(fill).await.expect("fill");
    connection.execute("VACUUM ANALYZE").await.expect("analyze");
    connection.execute("SET plan_cache_mode = force_custom_plan").await.expect("set");
    let filters = [
        (r#""user" = $1"#, 0, "'u7'", "audit_user"),
        ("object = $2", 1, "'deal/7'", "audit_object"),
        ("action = $3", 2, "'a.7'", "audit_action"),
        ("outcome = $4", 3, "'forbidden'", "audit_outcome"),
        ("address = $5", 4, "'10.0.0.7'", "audit_address"),
        ("true", 0, "NULL", "audit_pkey"),
    ];
    for (leads, at, value, index) in filters {
        let mut values =
            ["NULL", "NULL", "NULL", "NULL", "NULL", "'epoch'", "'9999-01-01'", "0", "51"].map(str::to_owned);
        value.clone_into(&mut values[at]);
        let leads = format!("FROM audit WHERE {leads} AND");
        let found = plans_with(&mut connection, |query| query.contains(&leads), &values).await;
        let [(query, plan)] = &found[..] else { panic!("one query for {leads}: {found:?}") };
        assert!(
            plan.contains(index) && !plan.contains("Seq Scan") && !plan.contains("Sort Key: at"),
            "{query}\n{plan}"
        );
    }
    connection.execute("SET plan_cache_mode = force_generic_plan").await.expect("set");
    for (query, plan) in plans(&mut connection, |query| query.starts_with("DELETE FROM audit")).await {
        assert!(plan.contains("audit_pkey") && !plan.contains("Seq Scan"), "{query}\n{plan}");
    }
}
