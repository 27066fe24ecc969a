//! What writers see of what they change. Who may do what at all stands in `matrix`.

use super::*;

#[tokio::test]
async fn what_is_hidden_is_neither_changed_nor_told() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, desk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "petro", "desk"));
    let doc = json!({"status": "new", "phone": "S3CRET", "contacts": [{"email": "S3CRET", "name": "Ольга"}]});
    boss.put("a", &doc, None).await.is(201);
    let changed = desk.merge("a", &json!({"status": "won", "note": {"phone": "theirs"}}), None).await;
    let shown = json!({"status": "won", "contacts": [{"name": "Ольга"}], "note": {"phone": "theirs"}});
    assert_eq!(changed.is(200).body["doc"], shown);
    for patch in [
        json!({"phone": "other"}),
        // The right guess and a wrong one are answered alike.
        json!({"phone": "S3CRET"}),
        json!({"phone": null}),
        json!({"contacts": {}}),
        json!({"contacts": null}),
        json!({"contacts": {"name": "x"}}),
        json!({"contacts": [{"name": "Ольга"}]}),
    ] {
        desk.merge("a", &patch, None).await.refused(403, "hidden_field");
    }
    for patch in [
        json!([{"op": "copy", "from": "/phone", "path": "/seen"}]),
        json!([{"op": "copy", "from": "/contacts/0", "path": "/seen"}]),
        json!([{"op": "copy", "from": "", "path": "/seen"}]),
        json!([{"op": "move", "from": "/contacts/0/email", "path": "/seen"}]),
        json!([{"op": "test", "path": "/phone", "value": "S3CRET"}]),
        json!([{"op": "test", "path": "/phone", "value": "guessed"}]),
        json!([{"op": "remove", "path": "/contacts"}]),
        json!([{"op": "add", "path": "/phone", "value": "other"}]),
    ] {
        desk.patch("a", &patch).await.refused(403, "hidden_field");
    }
    let named = json!([{"op": "replace", "path": "/contacts/0/name", "value": "Оля"}]);
    assert!(!desk.patch("a", &named).await.is(200).body.to_string().contains("S3CRET"));
    desk.put("a", &json!({"status": "lost"}), None).await.refused(403, "hidden_field");
    let there = boss.get(&format!("{DEALS}/a")).await.body["doc"].clone();
    desk.put("a", &there, None).await.refused(403, "hidden_field");
    // However it is spelled: with spaces, and names in escapes.
    let spaced =
        r#"{ "status" : "new", "\u0070hone" : "S3CRET" , "contacts" : [ { "email" : "S3CRET" } ] }"#.to_owned();
    let kind = [("content-type", "application/json")];
    boss.send(Method::PUT, &format!("{DEALS}/spaced"), &kind, spaced).await.is(201);
    desk.merge("spaced", &json!({"status": "won"}), None).await.is(200);
    desk.patch("spaced", &json!([{"op": "replace", "path": "/status", "value": "lost"}])).await.is(200);
    assert_eq!(boss.get(&format!("{DEALS}/spaced")).await.body["doc"]["phone"], "S3CRET");
    desk.put("b", &json!({"phone": "theirs"}), None).await.refused(403, "hidden_field");
    desk.put("b", &json!({"status": "new"}), None).await.is(201);
    let there = boss.get(&format!("{DEALS}/a")).await;
    assert_eq!(
        (&there.body["doc"]["phone"], &there.body["doc"]["contacts"][0]),
        (&json!("S3CRET"), &json!({"email": "S3CRET", "name": "Оля"}))
    );
    // A tag of another sight stands for nothing here.
    desk.merge("a", &json!({"n": 1}), Some(&there.tag())).await.refused(412, "revision_conflict");
    let seen = desk.get(&format!("{DEALS}/a")).await.tag();
    desk.merge("a", &json!({"n": 1}), Some(&seen)).await.is(200);
}

#[tokio::test]
async fn rows_out_of_sight_are_not_there_to_be_changed() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let (boss, clerk) = (Writer::new(&hub, "olha", "boss"), Writer::new(&hub, "petro", "clerk"));
    boss.put("theirs", &json!({"owner": "olha"}), None).await.is(201);
    boss.put("ours", &json!({"owner": "petro"}), None).await.is(201);
    clerk.merge("theirs", &json!({"n": 1}), None).await.refused(404, "unknown_entity");
    clerk.merge("theirs", &json!({"n": 1}), Some("\"7\"")).await.refused(404, "unknown_entity");
    clerk.put("theirs", &json!({"owner": "petro"}), None).await.refused(404, "unknown_entity");
    clerk.delete("theirs", "").await.refused(404, "unknown_entity");
    clerk.restore("theirs").await.refused(404, "unknown_entity");
    clerk.merge("ours", &json!({"owner": "olha"}), None).await.refused(403, "out_of_sight");
    clerk.create(&json!({"owner": "olha"})).await.refused(403, "out_of_sight");
    clerk.create(&json!({"owner": "petro"})).await.is(201);
    clerk.merge("ours", &json!({"n": 1}), None).await.is(200);
    clerk.delete("ours", "").await.is(200);
    clerk.restore("ours").await.is(200);
    assert_eq!(boss.get(&format!("{DEALS}/theirs")).await.body["revision"], 1);
}
