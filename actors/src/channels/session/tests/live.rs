//! What subscribers are told, whatever bus, topics and shards do meanwhile.

use super::*;

#[tokio::test]
async fn a_subscriber_gets_every_change_in_order() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    node.publish("a").await;
    let reply = client.ask(subscribe("entities.procedure")).await;
    assert_eq!(reply["subscribe"], json!({"recoverable": true, "positioned": true, "epoch": "e1", "offset": 1}));
    for id in ["a", "b", "a"] {
        node.publish(id).await;
    }
    assert_eq!(client.offsets(3).await, [2, 3, 4]);
    assert_eq!(
        client.ask(json!({"id": 3, "unsubscribe": {"channel": "entities.procedure"}})).await,
        json!({"id": 3, "unsubscribe": {}})
    );
    node.publish("a").await;
    assert_eq!(client.ask(json!({"id": 4, "ping": {}})).await, json!({"id": 4, "ping": {}}), "nothing came between");
}

/// As the protocol has it: who asks much at once is not answered in as many writes.
#[tokio::test]
async fn what_was_asked_in_one_frame_is_answered_in_one() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    let pings = "{\"id\":2,\"ping\":{}}\n{\"id\":3,\"ping\":{}}\n{\"id\":4,\"ping\":{}}";
    client.0.send(pings.into()).await.expect("sent");
    let answer = timeout(PATIENCE, client.0.next()).await.expect("in time").expect("open").expect("well formed");
    assert_eq!(answer.into_text().expect("a text").as_str(), pings);
}

#[tokio::test]
async fn an_entitys_own_channel_counts_revisions() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    node.publish("b").await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entity.procedure.a")).await["subscribe"]["offset"], 1);
    for id in ["b", "a", "b", "a"] {
        node.publish(id).await;
    }
    assert_eq!(client.offsets(2).await, [2, 3]);
    let mut back = node.client().await.connected("reader").await;
    let mut command = recover("e1", 1);
    command["subscribe"]["channel"] = json!("entity.procedure.a");
    let reply = back.ask(command).await;
    assert_eq!(
        (&reply["subscribe"]["recovered"], reply["subscribe"]["publications"].as_array().map(Vec::len)),
        (&json!(true), Some(2))
    );
}

#[tokio::test]
async fn what_the_bus_did_not_tell_is_fetched() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    for _ in 0..4 {
        node.world.commit("a");
    }
    node.tell(4).await;
    assert_eq!(client.offsets(4).await, [1, 2, 3, 4]);
    assert_eq!(node.hub.metrics.gaps_healed.get(), 1);
}

#[tokio::test]
async fn the_log_is_followed_while_the_bus_is_away() {
    let node = Node::start(Limits::default()).await;
    *node.world.bus_down.lock().unwrap() = true;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entities.procedure")).await["subscribe"]["offset"], Value::Null);
    node.world.commit("a");
    node.world.commit("a");
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.offsets(2).await, [1, 2]);
}

#[tokio::test]
async fn a_lost_past_makes_every_subscriber_recover() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    *node.world.epoch.lock().unwrap() = Epoch::new("e2");
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2500);
    let reply = client.ask(recover("e1", 1)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["epoch"]), (&Value::Null, &json!("e2")));
}

#[tokio::test]
async fn a_subscriber_that_missed_something_is_told_at_the_check() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    // The delivery of one publication is planted to be lost between topics and shard.
    let shard = node.hub.shards.get(0).expect("shard");
    shard.loses.store(true, Ordering::SeqCst);
    node.publish("a").await;
    shard.loses.store(false, Ordering::SeqCst);
    node.topics.cast(TopicsMessage::Check).expect("alive");
    assert_eq!(client.receive().await["push"]["unsubscribe"]["code"], 2500);
    eventually("counted", || async { node.hub.metrics.insufficient.get() == 1 }).await;
}

#[tokio::test]
async fn a_slow_client_is_closed_and_slows_nobody() {
    let node = Node::start(Limits { queue_bytes: 4096, ..Limits::default() }).await;
    let mut quick = node.client().await.connected("reader").await;
    let mut slow = node.client().await.connected("reader").await;
    for client in [&mut quick, &mut slow] {
        client.ask(subscribe("entities.procedure")).await;
    }
    let mut published = 0;
    while node.hub.metrics.closed.get_or_create(&crate::channels::metrics::CloseLabel { code: 3008 }).get() == 0 {
        // Large enough to fill the kernel's buffers within a few hundred.
        node.world.commit_sized("a", 30_000);
        published += 1;
        node.tell(published).await;
        assert_eq!(quick.offsets(1).await, [published]);
    }
    // What had left before comes first, then the code, never a torn frame.
    let mut expected = 1;
    loop {
        let got = slow.receive().await;
        if got == json!({"close": 3008}) {
            break;
        }
        assert_eq!(got["push"]["pub"]["offset"], expected);
        expected += 1;
    }
    assert!(expected <= published);
}

#[tokio::test]
async fn topics_that_begin_again_lose_nobody() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    node.topics_again().await;
    eventually("followed", || async { node.hub.metrics.streams.get() == 1 }).await;
    node.publish("a").await;
    assert_eq!(client.offsets(1).await, [1]);
}
