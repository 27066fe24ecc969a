//! What is refused, and how sessions end.

use super::*;

#[tokio::test]
async fn rights_and_unknown_names_are_answered() {
    let node = Node::start(Limits { channels: 1, ..Limits::default() }).await;
    let mut nobody = node.client().await.connected("nobody").await;
    assert_eq!(nobody.ask(subscribe("entities.procedure")).await["error"]["code"], 103);
    let mut reader = node.client().await.connected("reader").await;
    for (channel, code) in [("entities.secret", 103), ("news.1", 103), ("entities.", 107), ("", 107)] {
        assert_eq!(reader.ask(subscribe(channel)).await["error"]["code"], code, "{channel}");
    }
    assert!(reader.ask(subscribe("entities.procedure")).await["subscribe"].is_object());
    assert_eq!(reader.ask(subscribe("entities.procedure")).await["error"]["code"], 106);
    for (command, code) in [
        (json!({"id": 5, "publish": {"channel": "entities.procedure", "data": {}}}), 103),
        (json!({"id": 5, "publish": {"channel": "news.1", "data": {}}}), 103),
        (json!({"id": 5, "publish": {"channel": "news.1", "data": {}, "type": 1, "key": "a"}}), 108),
        (json!({"id": 6, "rpc": {"method": "x"}}), 108),
        (json!({"id": 7, "presence": {"channel": "entities.procedure"}}), 108),
    ] {
        assert_eq!(reader.ask(command).await["error"]["code"], code);
    }
}

#[tokio::test]
async fn what_a_client_must_not_do_closes_it_with_its_code() {
    for (token, then, code) in [
        ("", json!({"id": 1, "connect": {"token": "wrong"}}), 3500),
        ("", json!({"id": 1, "connect": {}}), 3500),
        ("", subscribe("entities.procedure"), 3501),
        ("", json!([]), 3501),
        ("reader", json!({"id": 2, "connect": {"token": "reader"}}), 3501),
        ("reader", json!({"id": 2, "no_such": {}}), 3501),
        ("reader", json!({}), 3501),
        ("reader", json!({"id": 2, "refresh": {"token": "wrong"}}), 3500),
    ] {
        let node = Node::start(Limits::default()).await;
        let mut client = node.client().await;
        if !token.is_empty() {
            client = client.connected(token).await;
        }
        assert_eq!(client.ask(then.clone()).await, json!({"close": code}), "{then}");
        drop(client);
        eventually("forgotten", || async { node.hub.metrics.sessions.get() == 0 }).await;
    }
    let node = Node::start(Limits::default()).await;
    // With what was sent in one go, of which nothing is looked at: the client is to come back with another token.
    for (token, error, code) in [("expired", 109, 3005), ("unavailable", 100, 3004)] {
        let mut client = node.client().await;
        let connect = json!({"id": 1, "connect": {"token": token}});
        let both = format!("{connect}\n{}", subscribe("entities.procedure"));
        client.0.send(both.into()).await.expect("send");
        assert_eq!(client.receive().await["error"]["code"], error);
        assert_eq!(client.receive().await, json!({"close": code}), "{token}");
    }
    let mut binary = node.client().await;
    binary.0.send(tungstenite::Message::Binary(vec![1].into())).await.expect("send");
    assert_eq!(binary.receive().await, json!({"close": 3506}));
    let mut large = node.client().await;
    large.send(json!("x".repeat(70_000))).await;
    assert_eq!(large.receive().await, json!({"close": 1009}));
}

#[tokio::test]
async fn time_is_kept() {
    let short = Duration::from_millis(20);
    let stale = Node::start(Limits { connect: short, ..Limits::default() }).await;
    assert_eq!(stale.client().await.receive().await, json!({"close": 3502}));
    let silent = Node::start(Limits { ping: short, pong: short, ..Limits::default() }).await;
    let mut client = silent.client().await.connected("reader").await;
    assert_eq!(client.receive().await, json!({}), "a ping");
    client.send(json!({})).await;
    assert_eq!(client.receive().await, json!({}), "the next ping");
    assert_eq!(client.receive().await, json!({"close": 3012}));
    let reply = silent.client().await.ask(json!({"id": 1, "connect": {"token": "short"}})).await;
    assert_eq!((&reply["connect"]["expires"], &reply["connect"]["ttl"]), (&json!(true), &json!(59)));
}

/// A token of a second and a short grace: who refreshes in time stays, who does not is sent for a new one.
#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_is_refreshed() {
    let node = Node::start(Limits { expiry_grace: Duration::from_millis(50), ..Limits::default() }).await;
    let (mut late, mut fresh) = (node.client().await, node.client().await);
    for client in [&mut late, &mut fresh] {
        let reply = client.ask(json!({"id": 1, "connect": {"token": "shortest"}})).await;
        assert_eq!((&reply["connect"]["expires"], &reply["connect"]["ttl"]), (&json!(true), &json!(1)));
    }
    let reply = fresh.ask(json!({"id": 2, "refresh": {"token": "short"}})).await;
    assert_eq!(reply["refresh"]["ttl"], 59, "{reply}");
    assert_eq!(late.receive().await, json!({"close": 3005}));
    assert_eq!(fresh.ask(json!({"id": 3, "ping": {}})).await["id"], 3, "still here when the first token has ended");
}

/// When rights change everybody begins again, and is taken again.
#[tokio::test]
async fn a_recall_makes_everybody_connect_again() {
    let node = Node::start(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(node.client().await.connected("reader").await);
    }
    node.hub.shards.recall(Duration::from_millis(50));
    for mut client in clients {
        assert_eq!(client.receive().await, json!({"close": 3011}));
    }
    let mut again = node.client().await.connected("nobody").await;
    assert_eq!(again.ask(subscribe("entities.procedure")).await["error"]["code"], 103);
}

#[tokio::test]
async fn a_drain_tells_everybody_to_come_back() {
    let node = Node::start(Limits::default()).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(node.client().await.connected("reader").await);
    }
    let began = std::time::Instant::now();
    assert_eq!(node.hub.shards.drain(Duration::from_secs(1)).await, 20);
    // A busy machine can only be later than the last of them should be.
    assert!(began.elapsed() >= Duration::from_millis(300), "one after the other, not all at once");
    for mut client in clients {
        assert_eq!(client.receive().await, json!({"close": 3001}));
    }
}
