//! References between kinds: with entities come those that they refer to, as far as the caller sees them.

use super::*;

const ORDERS: &str = "/api/v1/entities/order";

/// Orders refer to a deal and to tasks.
async fn fill(boss: &Writer<'_>, declarer: &Writer<'_>) {
    let kind = [("content-type", "application/json")];
    let references = json!({"references": {"deal": "deal", "tasks": "task", "careful": "careful"}});
    declarer.send(Method::PUT, "/api/v1/kinds/order", &kind, references.to_string()).await.is(201);
    let put = async |path: &str, doc: Value| boss.send(Method::PUT, path, &kind, doc.to_string()).await;
    put(&format!("{DEALS}/d1"), json!({"owner": "olha", "phone": "S3CRET"})).await.is(201);
    put("/api/v1/entities/task/t1", json!({"title": "call", "owner": "petro"})).await.is(201);
    put("/api/v1/entities/task/t2", json!({"title": "write", "owner": "olha"})).await.is(201);
    let order = json!({"deal": "d1", "tasks": ["t1", "t2", "none"], "careful": null});
    put(&format!("{ORDERS}/o1"), order).await.is(201);
    put(&format!("{ORDERS}/o2"), json!({"deal": "d1"})).await.is(201);
}

#[tokio::test]
async fn what_is_referred_to_comes_along() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let declarer = Writer::with(&hub, token("olha", &["kinds:declare:*"], &[]));
    fill(&boss, &declarer).await;
    let one = boss.get(&format!("{ORDERS}/o1?expand=deal,tasks,careful")).await;
    let expanded = &one.is(200).body["expanded"];
    let deal = boss.get(&format!("{DEALS}/d1")).await;
    assert_eq!(expanded["deal"]["items"]["d1"]["doc"], deal.body["doc"]);
    let tasks: Vec<_> = expanded["task"]["items"].as_object().expect("tasks").keys().collect();
    assert_eq!(tasks, ["t1", "t2"], "what is not there is left out");
    let listed = boss.get("/api/v1/entities/task?limit=1").await;
    assert_eq!(
        (&expanded["task"]["position"], &expanded["task"]["channel"]),
        (&listed.body["position"], &json!("entities.task"))
    );
    assert_eq!(expanded["careful"]["items"], json!({}));
    assert!(!one.headers.contains_key("etag"));

    let list = boss.get(&format!("{ORDERS}?expand=deal")).await;
    assert_eq!(list.is(200).body["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(list.body["expanded"]["deal"]["items"].as_object().map(serde_json::Map::len), Some(1), "each once");
    boss.get(&format!("{ORDERS}?expand=owner")).await.refused(400, "unknown_reference");
    boss.get(&format!("{ORDERS}/none?expand=deal")).await.refused(404, "unknown_entity");
}

#[tokio::test]
async fn what_is_not_seen_does_not_come_along() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let declarer = Writer::with(&hub, token("olha", &["kinds:declare:*"], &[]));
    fill(&boss, &declarer).await;
    // A mask of the other kind, and rows of the other kind.
    let desk = Writer::new(&hub, "petro", "desk");
    let one = desk.get(&format!("{ORDERS}/o1?expand=deal")).await;
    assert_eq!(one.is(200).body["expanded"]["deal"]["items"]["d1"]["doc"], json!({"owner": "olha"}));
    let clerk = Writer::new(&hub, "petro", "clerk");
    let list = clerk.get(&format!("{ORDERS}?expand=deal,tasks")).await;
    let expanded = &list.is(200).body["expanded"];
    assert_eq!(expanded["deal"]["items"], json!({}), "another's deal");
    assert_eq!(expanded["task"]["items"].as_object().expect("tasks").keys().collect::<Vec<_>>(), ["t1"]);
    let few = Writer::with(&hub, token("maria", &["entities:read:order"], &[]));
    few.get(&format!("{ORDERS}?expand=deal")).await.refused(403, "forbidden");
}
