//! Codes that are seldom seen: each is sent, with what it is meant for.

use dzvin_protocols::channels::{Control, Subscribing, Whose};

use super::{pusher, *};

#[tokio::test]
async fn what_is_there_already_is_not_made_again() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    assert!(client.ask(subscribe("chat.1")).await["subscribe"].is_object());
    assert_eq!(client.ask(subscribe("chat.1")).await["error"]["code"], 105);
    node.say("chat.1", "1", &[]).await;
    assert_eq!(client.offsets(1).await, [1], "what was there goes on");
}

/// 110: the client asks for another token, and goes on meanwhile.
#[tokio::test]
async fn a_token_that_has_ended_renews_nothing() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(json!({"id": 2, "refresh": {"token": "expired"}})).await["error"]["code"], 110);
    let opened = json!({"id": 3, "subscribe": {"channel": "news.1", "token": "news.1"}});
    assert!(client.ask(opened).await["subscribe"].is_object());
    let renew = json!({"id": 4, "sub_refresh": {"channel": "news.1", "token": "news.1 expired"}});
    assert_eq!(client.ask(renew).await["error"]["code"], 110);
    node.say("news.1", "1", &[]).await;
    assert_eq!(client.offsets(1).await, [1]);
}

/// 3006: nobody but the server could make such a subscription again, so the client connects again.
#[tokio::test]
async fn a_subscription_of_the_servers_ends_with_its_connection() {
    let node = Node::start(Limits { expiry_grace: Duration::from_millis(10), ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    let ends = Some(OffsetDateTime::now_utc().unix_timestamp() + 1);
    let terms = Some(Box::new(Subscribing { expire_at: ends, ..Subscribing::default() }));
    let whose = Whose { user: Some("u1".into()), ..Whose::default() };
    node.hear(BusEvent::Told(Control::Subscribe { whose, channel: "news.9".into(), terms }.encode())).await;
    assert_eq!(client.receive().await["push"]["subscribe"]["epoch"], "e1");
    assert_eq!(client.receive().await, json!({"close": 3006}));
}

#[tokio::test]
async fn a_pusher_client_that_answers_no_ping_is_closed() {
    let short = Duration::from_millis(40);
    let node = pusher::node_with(Limits { ping: short, pong: short, ..Limits::default() }).await;
    let mut one = pusher::pusher(&node, "main").await;
    assert_eq!(one.client.receive().await["event"], "pusher:ping");
    assert_eq!(one.client.receive().await, json!({"close": 4201}));
}

/// A client that only listens has no reply to read: the connection ends with the code that means the same.
#[tokio::test]
async fn who_only_listens_is_told_by_the_end() {
    let node = Node::start(Limits { channels: 1, ..Limits::default() }).await;
    let lost = json!({"recover": true, "epoch": "no", "offset": 1, "flag": 2});
    for (request, code) in [
        (json!({"token": "expired"}), 3005),
        (json!({"token": "unavailable"}), 3004),
        (json!({"token": "wrong"}), 3500),
        // Not the answer to a ping: a `connect` of somebody without a token.
        (json!({}), 3500),
        (json!({"token": "subscribed"}), 3505),
        (json!({"token": "twice"}), 3505),
        // With its position the client would be sent away again and again.
        (json!({"token": "one", "subs": {"news.1": lost}}), 3014),
        (json!("no request"), 3501),
    ] {
        let mut client = Client::over(node.socket_on(Wire::OneWayWebSocket).await).await;
        client.send(request.clone()).await;
        assert_eq!(client.receive().await, json!({"close": code}), "{request}");
    }
    let mut client = Client::over(node.socket_on(Wire::OneWayWebSocket).await).await;
    client.send(json!({"token": "one"})).await;
    assert!(client.receive().await["connect"]["subs"]["news.1"].is_object());
    client.send(json!({})).await;
    client.send(json!({"id": 1, "publish": {}})).await;
    node.say("news.1", "1", &[]).await;
    assert_eq!(client.receive().await["pub"]["data"], 1, "what it says is not listened to");
    let twice = Node::start(Limits::default()).await;
    let mut client = Client::over(twice.socket_on(Wire::OneWayWebSocket).await).await;
    client.send(json!({"token": "twice"})).await;
    assert_eq!(client.receive().await, json!({"close": 3501}), "a token that asks for one channel twice");
}
