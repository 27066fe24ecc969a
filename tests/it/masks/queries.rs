//! In queries: their rows, and what enters, changes and leaves.

use serde_json::json;

use super::{Deals, Raw, SECRET, ask_query, deal, get, seen, token};

#[tokio::test]
async fn queries_show_what_is_seen() {
    let mut deals = Deals::new().await;
    for n in 0..6 {
        deals.put(&format!("d{n}"), &deal(n, "open", if n % 2 == 0 { "olha" } else { "ihor" })).await;
    }
    let hub = deals.world.hub("a").await;
    let filter = json!({"status": ["open", "won"]});
    let people = [("d", "desk"), ("olha", "clerk"), ("b", "boss")];
    let mut clients = Vec::new();
    for (user, role) in people {
        let token = token(user, &[role]);
        let (status, answer, text) = ask_query(&hub, &token, &filter).await;
        assert_eq!(status, 201, "{text}");
        assert_eq!(text.contains(SECRET), role == "boss", "{role}");
        let ids = answer["items"].as_array().expect("rows").len();
        assert_eq!(ids, if role == "clerk" { 3 } else { 6 }, "{role}");
        let mut client = Raw::connected(&hub, &token).await;
        let since =
            json!({"recover": true, "epoch": answer["position"]["epoch"], "offset": answer["position"]["offset"]});
        let channel = answer["channel"].as_str().expect("a name").to_owned();
        let reply = client.subscribe(&channel, since).await;
        assert_eq!(reply["subscribe"]["recovered"], true, "{reply}");
        clients.push((client, channel, reply["subscribe"]["epoch"].clone(), token));
    }
    assert!(clients.iter().all(|it| it.1 == clients[0].1), "one channel for all who ask the same");

    // offset 7: hidden fields alone; 8: given away; 9: given away and closed; 10: come by; 11: closed; 12: opened for another; 13.
    let mut called = deal(0, "open", "olha");
    called["phone"] = json!(SECRET);
    deals.put("d0", &called).await;
    deals.put("d0", &deal(8, "won", "ihor")).await;
    deals.put("d2", &deal(9, "closed", "ihor")).await;
    deals.put("d1", &deal(10, "open", "olha")).await;
    deals.put("d4", &deal(11, "closed", "olha")).await;
    deals.put("d2", &deal(12, "open", "ihor")).await;
    deals.put("d1", &deal(13, "won", "olha")).await;
    let expected = [
        vec![(8, "change"), (9, "leave"), (10, "change"), (11, "leave"), (12, "enter"), (13, "change")],
        vec![(8, "leave"), (9, "leave"), (10, "enter"), (11, "leave"), (13, "change")],
        vec![(7, "change"), (8, "change"), (9, "leave"), (10, "change"), (11, "leave"), (12, "enter"), (13, "change")],
    ];
    for ((client, ..), expected) in clients.iter_mut().zip(&expected) {
        for (offset, word) in expected {
            let (_, told, data) = client.publication().await;
            assert_eq!((told, data["query"].as_str()), (*offset, Some(*word)), "{data}");
            assert_eq!(data["doc"].is_object(), *word != "leave", "{data}");
        }
    }
    for ((client, channel, epoch, token), expected) in clients.drain(..).zip(&expected) {
        let masked = client.secrets() == 0;
        drop(client);
        let mut again = Raw::connected(&hub, &token).await;
        let reply =
            again.subscribe(&channel, json!({"recover": true, "epoch": epoch, "offset": 6})).await["subscribe"].take();
        let told: Vec<_> = reply["publications"].as_array().expect("some").iter().collect();
        let told: Vec<_> = told.iter().map(|it| (it["offset"].as_u64(), it["data"]["query"].as_str())).collect();
        let expected: Vec<_> = expected.iter().map(|(offset, word)| (Some(*offset), Some(*word))).collect();
        assert_eq!(told, expected);
        assert_eq!(again.secrets() == 0, masked);
    }
    assert_eq!(seen(1, "a", "b")["contacts"][0].as_object().map(serde_json::Map::len), Some(1));
}

/// What was asked when more was to be seen is no way in.
#[tokio::test]
async fn a_query_on_a_hidden_field_is_closed_to_who_does_not_see_it() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    let hub = deals.world.hub("a").await;
    let (before, now) = (token("olha", &["boss"]), token("olha", &["desk"]));
    let (status, query, _) = ask_query(&hub, &before, &json!({"phone": {"prefix": SECRET}})).await;
    assert_eq!(status, 201);
    let channel = query["channel"].as_str().expect("a name");
    let mut client = Raw::connected(&hub, &before).await;
    assert!(client.subscribe(channel, json!({})).await["subscribe"].is_object());
    client.ask("refresh", &json!({"token": now})).await;
    assert_eq!(client.push().await["push"]["unsubscribe"]["code"], 2000);
    assert_eq!(client.subscribe(channel, json!({})).await["error"]["code"], 103);
    let path = format!("/api/v1/queries/{}", query["id"].as_str().expect("an id"));
    let (status, _, text) = get(&hub, &now, &path, None).await;
    assert!(status == 403 && text.contains("hidden_field"), "{status} {text}");
    assert_eq!(get(&hub, &before, &path, None).await.0, 200);
    let (status, _, text) = ask_query(&hub, &now, &json!({"none": 1})).await;
    assert!(status == 400 && text.contains("status") && !text.contains("phone") && !text.contains("email"), "{text}");
}
