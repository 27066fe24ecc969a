//! Recovery and history: the past in full, or said to be lost.

use super::*;

#[tokio::test]
async fn positions_are_recovered_or_said_to_be_lost() {
    let node = Node::start(Limits { recovery: ReadLimit { count: 3, bytes: 4096 }, ..Limits::default() }).await;
    for _ in 0..5 {
        node.publish("a").await;
    }
    for (epoch, offset, recovered, count) in [
        ("e1", 5, true, 0),
        ("e1", 3, true, 2),
        ("", 4, true, 1),
        ("e1", 1, false, 0),
        ("e0", 5, false, 0),
        ("_", 0, false, 0),
        ("e1", 99, false, 0),
    ] {
        let mut client = node.client().await.connected("reader").await;
        let reply = client.ask(recover(epoch, offset)).await["subscribe"].take();
        assert_eq!(reply["recovered"].as_bool().unwrap_or(false), recovered, "{epoch} {offset}: {reply}");
        assert_eq!(reply["publications"].as_array().map_or(0, Vec::len), count, "{epoch} {offset}");
        assert_eq!(reply["was_recovering"], true);
        assert_eq!(reply["offset"].as_u64(), Some(if recovered { offset } else { 5 }));
    }
    let mut strict = recover("e0", 1);
    strict["subscribe"]["flag"] = json!(2);
    let reply = node.client().await.connected("reader").await.ask(strict).await;
    assert_eq!(reply["error"]["code"], 112);
}

#[tokio::test]
async fn a_position_ahead_of_the_bus_waits_for_it() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    node.world.commit("a");
    node.world.commit("a");
    let mut client = node.client().await.connected("reader").await;
    let reply = client.ask(recover("e1", 3)).await;
    assert_eq!((&reply["subscribe"]["recovered"], &reply["subscribe"]["offset"]), (&json!(true), &json!(3)));
    node.tell(2).await;
    node.tell(3).await;
    node.publish("b").await;
    assert_eq!(client.offsets(1).await, [4], "what the client has is not said again");
}

#[tokio::test]
async fn history_pages_forward_and_back() {
    let node = Node::start(Limits::default()).await;
    for _ in 0..5 {
        node.publish("a").await;
    }
    let mut client = node.client().await.connected("reader").await;
    for (ask, offsets) in [
        (json!({"limit": 0}), vec![]),
        (json!({"limit": 2}), vec![1, 2]),
        (json!({"limit": -1}), vec![1, 2, 3, 4, 5]),
        (json!({"limit": 2, "reverse": true}), vec![5, 4]),
        (json!({"limit": 2, "since": {"offset": 3, "epoch": "e1"}}), vec![4, 5]),
        (json!({"limit": 2, "since": {"offset": 3, "epoch": "e1"}, "reverse": true}), vec![2, 1]),
        (json!({"limit": 9, "since": {"offset": 2, "epoch": "e1"}, "reverse": true}), vec![1]),
    ] {
        let mut history = ask.clone();
        history["channel"] = json!("entities.procedure");
        let reply = client.ask(json!({"id": 3, "history": history})).await;
        let got: Vec<u64> = reply["history"]["publications"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|p| p["offset"].as_u64())
            .collect();
        assert_eq!((got, &reply["history"]["offset"]), (offsets, &json!(5)), "{ask}");
    }
    let wrong = json!({"id": 4, "history": {"channel": "entities.procedure", "limit": 1, "since": {"offset": 1, "epoch": "e0"}}});
    assert_eq!(client.ask(wrong).await["error"]["code"], 112);
}

/// A page that its bytes cut short ends at the newest, not before it.
#[tokio::test]
async fn history_that_does_not_fit_keeps_what_it_begins_with() {
    let bytes = 3 * 10_000;
    let node =
        Node::start(Limits { history: ReadLimit { count: 300, bytes: bytes + 3 * 512 }, ..Limits::default() }).await;
    for _ in 0..20 {
        node.world.commit_sized("a", 9_900);
    }
    let mut client = node.client().await.connected("reader").await;
    for channel in ["entities.procedure", "entity.procedure.a"] {
        for (ask, offsets) in [
            (json!({"limit": 100}), vec![1, 2, 3]),
            (json!({"limit": 100, "reverse": true}), vec![20, 19, 18]),
            (json!({"limit": 2, "reverse": true}), vec![20, 19]),
            (json!({"limit": 100, "since": {"offset": 11, "epoch": "e1"}, "reverse": true}), vec![10, 9, 8]),
        ] {
            let mut history = ask.clone();
            history["channel"] = json!(channel);
            let reply = client.ask(json!({"id": 3, "history": history})).await;
            let list = reply["history"]["publications"].as_array().expect("a list");
            let got: Vec<u64> = list.iter().filter_map(|p| p["offset"].as_u64()).collect();
            assert_eq!(got, offsets, "{channel} {ask}");
        }
    }
}
