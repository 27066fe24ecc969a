//! Many edits in one request, and requests that are repeated.

use dzvin::entities::Entities;
use futures_util::future::join_all;

use super::*;

impl Writer<'_> {
    pub(super) async fn bulk(&self, body: &Value) -> Answer {
        self.send(Method::POST, &format!("{DEALS}/bulk"), &[("content-type", "application/json")], body.to_string())
            .await
    }

    async fn keyed(&self, method: Method, path: &str, key: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.send(method, path, &headers, body.to_string()).await
    }

    async fn top(&self) -> Value {
        self.get(&format!("{DEALS}?limit=1")).await.is(200).body["position"].clone()
    }
}

fn statuses(answer: &Answer) -> Vec<u64> {
    let items = answer.body["items"].as_array().expect("items");
    items.iter().map(|item| item["status"].as_u64().expect("a status")).collect()
}

#[tokio::test]
async fn all_or_nothing_and_each_by_itself() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let made = boss
        .bulk(&json!({"items": [
            {"op": "create", "doc": {"n": 1}},
            {"op": "create", "id": "b", "doc": {"n": 2}},
            {"op": "put", "id": "c", "doc": {"n": 3}},
            {"op": "merge", "id": "b", "patch": {"n": 4}},
            {"op": "patch", "id": "b", "if_match": 2, "patch": [{"op": "add", "path": "/m", "value": 1}]},
            {"op": "trash", "id": "c"},
        ]}))
        .await;
    assert_eq!(statuses(made.is(200)), [201, 201, 201, 200, 200, 200]);
    assert_eq!((&made.body["items"][4]["revision"], &made.body["channel"]), (&json!(3), &json!("entities.deal")));
    assert_eq!(made.body["position"], boss.top().await, "whoever follows the channel has all of it there");
    assert_eq!(boss.get(&format!("{DEALS}/b")).await.body["doc"], json!({"n": 4, "m": 1}));
    assert!(boss.get(&format!("{DEALS}/c")).await.body["trashed_at"].is_string());

    let (mixed, before) = (
        json!([
            {"op": "merge", "id": "b", "patch": {"n": 5}},
            {"op": "merge", "id": "b", "if_match": "\"1\"", "patch": {"n": 6}},
            {"op": "create", "id": "b", "doc": {}},
            {"op": "merge", "id": "nobody", "patch": {}},
            {"op": "merge", "id": "c", "patch": {"n": 7}},
            {"op": "restore", "id": "c"},
        ]),
        boss.top().await,
    );
    let refused = boss.bulk(&json!({"items": mixed})).await;
    assert_eq!(refused.refused(412, "revision_conflict").body["item"], 1, "the first that is refused is named");
    assert_eq!(boss.top().await, before, "nothing is done");
    let done = boss.bulk(&json!({"atomic": false, "items": mixed})).await;
    assert_eq!(statuses(done.is(200)), [200, 412, 412, 404, 409, 200]);
    assert_eq!(
        (&done.body["items"][1]["code"], &done.body["items"][1]["revision"]),
        (&json!("revision_conflict"), &json!(4))
    );
    assert_eq!(
        boss.get(&format!("{DEALS}/b")).await.body["doc"],
        json!({"n": 5, "m": 1}),
        "the others are as if unasked"
    );
    let position = &done.body["position"];
    assert_eq!(position["offset"].as_u64(), before["offset"].as_u64().map(|offset| offset + 2));
}

#[tokio::test]
async fn bulks_that_cannot_be_are_refused_whole() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, desk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "ivan", "desk"));
    for (bad, item) in [
        (json!({"items": []}), None),
        (json!({"items": vec![json!({"op": "trash", "id": "x"}); 1001]}), None),
        (json!({"items": [{"op": "jump", "id": "x"}]}), None),
        (json!([]), None),
        (json!({"items": [{"op": "trash", "id": "x"}, {"op": "trash"}]}), Some(1)),
        (json!({"items": [{"op": "create"}]}), Some(0)),
        (json!({"items": [{"op": "trash", "id": "x", "doc": {}}]}), Some(0)),
        (json!({"items": [{"op": "create", "doc": {}, "if_match": 1}]}), Some(0)),
        (json!({"items": [{"op": "trash", "id": "x", "if_match": null}]}), None),
        (json!({"items": [{"op": "trash", "id": "x".repeat(300)}]}), Some(0)),
    ] {
        let answer = boss.bulk(&bad).await;
        assert_eq!(answer.refused(400, "bad_bulk").body["item"].as_u64(), item, "{bad}");
    }
    desk.bulk(&json!({"items": [{"op": "create", "doc": {}}, {"op": "purge", "id": "x"}]}))
        .await
        .refused(403, "forbidden");
    let careful = "/api/v1/entities/careful/bulk";
    let body = json!({"items": [{"op": "create", "id": "a", "doc": {}}, {"op": "trash", "id": "a"}]}).to_string();
    let answer = boss.send(Method::POST, careful, &[("content-type", "application/json")], body).await;
    assert_eq!(answer.refused(428, "precondition_required").body["item"], 1);
    // Hidden from this role: neither told nor changed, as with a single edit.
    boss.put("m", &json!({"phone": "1", "n": 1}), None).await.is(201);
    let items =
        json!([{"op": "merge", "id": "m", "patch": {"phone": "2"}}, {"op": "merge", "id": "m", "patch": {"n": 2}}]);
    let answer = desk.bulk(&json!({"atomic": false, "items": items})).await;
    assert_eq!(statuses(answer.is(200)), [403, 200]);
    assert_eq!(boss.get(&format!("{DEALS}/m")).await.body["doc"], json!({"phone": "1", "n": 2}));
}

#[tokio::test]
async fn bulks_of_a_thousand_meet_and_lose_nothing() {
    let world = world(true).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    let ids: Vec<String> = (0..1000).map(|n| format!("d{n}")).collect();
    // Every entity is created by one of four who ask for all of them at once, in different orders.
    let answers = join_all((0..4).map(async |writer| {
        let boss = Writer::new(&hubs[writer % 2], &format!("w{writer}"), "boss");
        let mut items: Vec<_> = ids.iter().map(|id| json!({"op": "create", "id": id, "doc": {"by": writer}})).collect();
        items.rotate_left(writer * 250);
        boss.bulk(&json!({"atomic": false, "items": items})).await
    }))
    .await;
    let created = answers.iter().flat_map(|answer| statuses(answer.is(200))).filter(|status| *status == 201).count();
    assert_eq!(created, ids.len(), "each is created once");
    let boss = Writer::new(&hubs[0], "olha", "boss");
    assert_eq!(boss.top().await["offset"], 1000, "and told once");
}

#[tokio::test]
async fn what_is_repeated_under_its_key_is_done_once() {
    let world = world(true).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    let boss = Writer::new(&hubs[0], "olha", "boss");
    let also = Writer::new(&hubs[1], "olha", "boss");
    let doc = json!({"status": "new"});
    let (one, two) =
        tokio::join!(boss.keyed(Method::POST, DEALS, "k1", &doc), also.keyed(Method::POST, DEALS, "k1", &doc));
    let replayed = |answer: &Answer| answer.headers.get("idempotency-replayed").is_some_and(|value| value == "true");
    assert_eq!((one.is(201).tag(), &one.body), (two.is(201).tag(), &two.body), "both are told of the same entity");
    assert!(replayed(&one) != replayed(&two), "and one of them that it is not the first");
    assert_eq!(one.headers["location"], two.headers["location"]);
    assert_eq!(boss.top().await["offset"], 1);

    boss.keyed(Method::POST, DEALS, "k1", &json!({"status": "other"})).await.refused(422, "idempotency_key_reused");
    let stranger = Writer::new(&hubs[0], "ivan", "boss");
    assert!(!replayed(stranger.keyed(Method::POST, DEALS, "k1", &doc).await.is(201)), "a key is its user's");

    // What came of it may have changed since; a refusal is not remembered.
    let id = one.body["id"].as_str().expect("an id");
    boss.merge(id, &json!({"status": "won"}), None).await.is(200);
    let again = boss.keyed(Method::POST, DEALS, "k1", &doc).await;
    assert!(replayed(again.is(201)) && again.body["doc"] == json!({"status": "won"}) && again.body["revision"] == 2);
    let put = format!("{DEALS}/{id}");
    boss.keyed(Method::PUT, &put, "k2", &doc).await.is(200);
    assert!(replayed(also.keyed(Method::PUT, &put, "k2", &doc).await.is(200)));
    boss.keyed(Method::PUT, &format!("{DEALS}/other"), "k2", &doc).await.refused(422, "idempotency_key_reused");
    let headers = [("content-type", "application/json"), ("idempotency-key", "k2"), ("if-match", "\"1\"")];
    boss.send(Method::PUT, &put, &headers, doc.to_string()).await.refused(422, "idempotency_key_reused");
    let items = json!({"atomic": false, "items": [{"op": "trash", "id": id}, {"op": "trash", "id": "late"}]});
    let path = format!("{DEALS}/bulk");
    let first = boss.keyed(Method::POST, &path, "k3", &items).await;
    assert_eq!(statuses(first.is(200)), [200, 404]);
    boss.put("late", &json!({}), None).await.is(201);
    let second = also.keyed(Method::POST, &path, "k3", &items).await;
    assert!(
        replayed(second.is(200)) && statuses(&first) == statuses(&second),
        "what was done in part is told as it was"
    );
    let nobody = json!({"atomic": false, "items": [{"op": "trash", "id": "nobody"}]});
    assert_eq!(statuses(boss.keyed(Method::POST, &path, "k5", &nobody).await.is(200)), [404]);
    assert!(!replayed(boss.keyed(Method::POST, &path, "k5", &nobody).await.is(200)), "nothing was done");
    let path = format!("{DEALS}/gone/restore");
    boss.keyed(Method::POST, &path, "k4", &json!({})).await.refused(404, "unknown_entity");
    boss.put("gone", &json!({}), None).await.is(201);
    assert!(!replayed(boss.keyed(Method::POST, &path, "k4", &json!({})).await.is(200)), "refusals are judged anew");
    for bad in ["", "é", &"k".repeat(256)] {
        let headers = [("content-type", "application/json"), ("idempotency-key", bad)];
        boss.send(Method::POST, DEALS, &headers, doc.to_string()).await.refused(400, "bad_parameter");
    }

    boss.delete(id, "?purge=true").await.is(200);
    let gone = boss.keyed(Method::POST, DEALS, "k1", &doc).await;
    assert_eq!(gone.is(201).body["doc"], Value::Null);
    let entities = Entities::open(world.db.database(), Vec::new()).await.expect("opens");
    let mut raw = world.db.raw().await;
    sqlx::query("UPDATE idempotency_keys SET at = now() - interval '25 hours' WHERE key <> 'k3'")
        .execute(&mut raw)
        .await
        .expect("aged");
    assert_eq!(entities.forget_answers().await.expect("forgotten"), 4);
    assert!(!replayed(boss.keyed(Method::POST, DEALS, "k1", &doc).await.is(201)), "after a day it is a new request");
}

#[tokio::test]
async fn what_was_done_is_told_again_also_where_it_cannot_be_seen_any_more() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, clerk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "ivan", "clerk"));
    let doc = json!({"owner": "ivan"});
    let made = clerk.keyed(Method::POST, DEALS, "k", &doc).await;
    let id = made.is(201).body["id"].as_str().expect("an id");
    boss.merge(id, &json!({"owner": "olha"}), None).await.is(200);
    let again = clerk.keyed(Method::POST, DEALS, "k", &doc).await;
    assert_eq!(
        again.is(201).body,
        json!({"kind": "deal", "id": id, "revision": 1}),
        "not a second one for want of an answer"
    );
    assert_eq!(again.headers["idempotency-replayed"], "true");
    // The same user, who sees more with another role, asks for something else by the same words.
    Writer::new(&hub, "ivan", "boss")
        .keyed(Method::POST, DEALS, "k", &doc)
        .await
        .refused(422, "idempotency_key_reused");
    // Nobody changes what they do not see, also in company.
    let items = json!([
        {"op": "merge", "id": id, "patch": {"n": 1}},
        {"op": "create", "id": "mine", "doc": {"owner": "ivan"}},
        {"op": "create", "id": "other", "doc": {"owner": "olha"}},
        {"op": "merge", "id": "mine", "patch": {"owner": "olha"}},
    ]);
    let answer = clerk.bulk(&json!({"atomic": false, "items": items})).await;
    assert_eq!(statuses(answer.is(200)), [404, 201, 403, 403]);
    assert_eq!(boss.get(&format!("{DEALS}/mine")).await.body["doc"], json!({"owner": "ivan"}));
}

#[tokio::test]
async fn a_purge_among_others_destroys_what_was_before_it_and_nothing_else() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    boss.put("a", &json!({"status": "SECRET"}), None).await.is(201);
    let items = json!([
        {"op": "merge", "id": "a", "patch": {"phone": "SECRET"}},
        {"op": "purge", "id": "a"},
        {"op": "create", "id": "a", "doc": {"status": "anew"}},
        {"op": "merge", "id": "a", "patch": {"n": 1}},
    ]);
    assert_eq!(statuses(boss.bulk(&json!({"items": items})).await.is(200)), [200, 200, 201, 200]);
    let mut raw = world.db.raw().await;
    let log: Vec<(i64, String, Option<String>, Vec<String>)> =
        sqlx::query_as("SELECT revision, op, doc, changed FROM changes WHERE kind = 'deal' ORDER BY revision")
            .fetch_all(&mut raw)
            .await
            .expect("read");
    let told: Vec<_> =
        log.iter().map(|(n, op, doc, changed)| (*n, op.as_str(), doc.is_some(), changed.len())).collect();
    let expected = [
        (1, "create", false, 0),
        (2, "update", false, 0),
        (3, "purge", false, 0),
        (4, "create", true, 0),
        (5, "update", true, 1),
    ];
    assert_eq!(told, expected);
    assert!(!format!("{log:?}").contains("SECRET"));
}

/// As much as a turn takes is many turns here, and as much as a request may edit is refused.
#[tokio::test]
async fn many_edits_of_large_documents_are_bounded() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    boss.put("big", &json!({"text": "x".repeat(900_000)}), None).await.is(201);
    let items = |count: usize| -> Vec<Value> {
        (0..count).map(|n| json!({"op": "merge", "id": "big", "patch": {"n": n}})).collect()
    };
    let done = boss.bulk(&json!({"items": items(20)})).await;
    assert_eq!((statuses(done.is(200)), &done.body["items"][19]["revision"]), (vec![200; 20], &json!(21)));
    assert_eq!(done.body["position"], boss.top().await);
    let refused = boss.bulk(&json!({"atomic": false, "items": items(100)})).await;
    assert!(refused.refused(413, "bulk_too_large").body["item"].as_u64().is_some_and(|item| (30..50).contains(&item)));
    assert_eq!(done.body["position"], boss.top().await, "nothing of it is done");
}
