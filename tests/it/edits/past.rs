//! What an entity was: revisions with their documents, and back to one of them.

use super::*;

impl Writer<'_> {
    async fn at(&self, id: &str, revision: u64) -> Answer {
        self.get(&format!("{DEALS}/{id}/history/{revision}")).await
    }

    async fn back_to(&self, id: &str, revision: u64, seen: Option<&str>) -> Answer {
        let headers: Vec<_> = seen.map(|tag| ("if-match", tag)).into_iter().collect();
        self.send(Method::POST, &format!("{DEALS}/{id}/restore?revision={revision}"), &headers, String::new()).await
    }
}

#[tokio::test]
async fn each_revision_can_be_seen_and_come_back() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    // One that a publication carries, one that it does not, and the trash between them.
    let (small, large) = (json!({"status": "new"}), json!({"status": "won", "text": "я".repeat(50_000)}));
    boss.put("a", &small, None).await.is(201);
    boss.put("a", &large, None).await.is(200);
    boss.delete("a", "").await.is(200);
    boss.restore("a").await.is(200);
    boss.merge("a", &json!({"text": null}), None).await.is(200);
    for (revision, doc) in [(1, &small), (2, &large), (3, &large), (4, &large), (5, &json!({"status": "won"}))] {
        let then = boss.at("a", revision).await;
        assert_eq!((&then.is(200).body["doc"], &then.body["revision"]), (doc, &json!(revision)));
        assert_eq!(then.body["by"], "olha");
    }
    boss.at("a", 6).await.refused(404, "unknown_revision");
    boss.at("a", 0).await.refused(404, "unknown_revision");
    boss.at("b", 1).await.refused(404, "unknown_revision");
    boss.get(&format!("{DEALS}/a/history/x")).await.refused(404, "unknown_revision");
    let kept = boss.get(&format!("{DEALS}/a/history")).await;
    let kept: Vec<_> = kept.body["items"].as_array().expect("items").iter().map(|item| item["kept"] == true).collect();
    assert_eq!(kept, [true, false, false, true, true], "what only hides has no document of its own where it is large");

    let late = boss.back_to("a", 2, Some("4")).await;
    assert_eq!(late.refused(412, "revision_conflict").body["revision"], 5);
    let back = boss.back_to("a", 2, Some("5")).await;
    assert_eq!((&back.is(200).body["revision"], &back.body["op"]), (&json!(6), &json!("update")));
    assert_eq!(boss.get(&format!("{DEALS}/a")).await.body["doc"], large);
    assert_eq!(boss.back_to("a", 6, None).await.is(200).body["revision"], 6, "it is there already");
    boss.back_to("a", 9, None).await.refused(404, "unknown_revision");
    boss.delete("a", "").await.is(200);
    boss.back_to("a", 1, None).await.refused(409, "in_trash");

    boss.delete("a", "?purge=true").await.is(200);
    for revision in 1..=7 {
        boss.at("a", revision).await.refused(409, "revision_not_kept");
    }
    boss.back_to("a", 2, None).await.refused(409, "revision_not_kept");
    let mut raw = world.db.raw().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM changes WHERE COALESCE(doc, large) IS NOT NULL")
        .fetch_one(&mut raw)
        .await
        .expect("counted");
    assert_eq!(left, 0);
}

/// In the middle of an update, by a node that does not know where large documents are kept.
#[tokio::test]
async fn what_an_older_node_purges_is_gone_as_well() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    boss.put("a", &json!({"text": "x".repeat(50_000)}), None).await.is(201);
    boss.at("a", 1).await.is(200);
    let mut raw = world.db.raw().await;
    let purge = "INSERT INTO changes (kind, \"offset\", day, id, revision, op, at, by, changed, size)
                 SELECT kind, \"offset\" + 1, day, id, 2, 'purge', at, by, '{}', 0 FROM changes WHERE kind = 'deal'";
    sqlx::query(purge).execute(&mut raw).await.expect("purged");
    boss.at("a", 1).await.refused(409, "revision_not_kept");
}

#[tokio::test]
async fn the_past_is_seen_with_the_eyes_of_today() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, desk, clerk) =
        (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "ivan", "desk"), Writer::new(&hub, "ivan", "clerk"));
    let reader = Writer::new(&hub, "ivan", "reader");
    boss.put("a", &json!({"owner": "olha", "phone": "1"}), None).await.is(201);
    boss.merge("a", &json!({"owner": "ivan"}), None).await.is(200);
    boss.merge("a", &json!({"phone": "2"}), None).await.is(200);
    assert_eq!(desk.at("a", 2).await.is(200).body["doc"], json!({"owner": "ivan"}), "what is hidden stays so");
    desk.at("a", 3).await.refused(404, "unknown_revision");
    desk.back_to("a", 2, None).await.refused(403, "hidden_field");
    clerk.at("a", 1).await.refused(404, "unknown_revision");
    assert_eq!(clerk.at("a", 2).await.is(200).body["doc"], json!({"owner": "ivan", "phone": "1"}));
    clerk.back_to("a", 2, None).await.is(200);
    clerk.back_to("a", 1, None).await.refused(404, "unknown_revision");
    reader.back_to("a", 1, None).await.refused(403, "forbidden");
    boss.merge("a", &json!({"owner": "olha"}), None).await.is(200);
    clerk.at("a", 2).await.refused(404, "unknown_revision");
}
