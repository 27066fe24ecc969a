//! Rights that shrink: what was queued by those that were does not leave.

use std::collections::BTreeMap;

use dzvin_protocols::{
    channels::{Control, Whose},
    entities::{Filter, Mask, View},
};

use futures_util::future::BoxFuture;

use super::*;
use crate::channels::{Answered, Handler};

/// Documents of these tests are padded by what is hidden.
pub(super) fn views() -> BTreeMap<Kind, Arc<View>> {
    let mask = Mask::parse(&["pad"]).expect("paths").map(Arc::new);
    [(kind(), Arc::new(View { mask, rows: None }))].into()
}

/// The same, and of the rows those that are active.
pub(super) fn active() -> BTreeMap<Kind, Arc<View>> {
    let mask = Mask::parse(&["pad"]).expect("paths").map(Arc::new);
    let rows = Some([Filter::parse(r#"{"status":"active"}"#).expect("a filter")].into());
    [(kind(), Arc::new(View { mask, rows }))].into()
}

/// On the Pusher wire what is larger is told without its document.
const SIZE: usize = 8_000;

fn limits() -> Limits {
    Limits { queue_bytes: 64 << 20, ..Limits::default() }
}

/// Publishes until publications wait for a client that does not read, and some more; answers how many were published.
async fn until_they_wait(node: &Node) -> u64 {
    until_they_wait_on(node, "entities.procedure").await
}

async fn until_they_wait_on(node: &Node, channel: &str) -> u64 {
    let text = format!("\"{}\"", "x".repeat(SIZE));
    let mut published = 0;
    let mut more = 20;
    while more > 0 {
        assert!(published < 5000, "a socket takes so much");
        // How much waits is told when the socket is found full.
        more -= i32::from(node.hub.metrics.queue_bytes.get() > 0);
        published += 1;
        if channel == "entities.procedure" {
            node.world.commit_sized("a", SIZE);
            node.tell(published).await;
        } else {
            node.say(channel, &text, &[]).await;
        }
    }
    sessions(node).await;
    published
}

/// Answered behind what the shard was told before.
async fn sessions(node: &Node) -> usize {
    let shard = node.hub.shards.get(0).expect("shard");
    let survey =
        |reply| crate::channels::ShardMessage::Survey { whose: Whose::default(), after: None, limit: 10, reply };
    shard.slot.call(survey, PATIENCE).await.expect("a survey").0.len()
}

/// Reads to the close; answers its code, and how many publications came before it.
async fn to_the_close(client: &mut Client) -> (u64, u64) {
    let mut came = 0;
    loop {
        let got = client.receive().await;
        match got["close"].as_u64() {
            Some(code) => return (code, came),
            None if got["event"] == "pusher:error" => {}
            None => {
                came += 1;
                assert!(got.to_string().len() > SIZE, "a publication: {got}");
            }
        }
    }
}

async fn is_closed(node: &Node, code: u16) {
    let label = crate::channels::metrics::CloseLabel { code };
    eventually("closed", || async { node.hub.metrics.closed.get_or_create(&label).get() == 1 }).await;
}

#[tokio::test]
async fn what_was_queued_by_rights_that_were_does_not_leave() {
    for (before, channel, token) in [
        ("reader", "entities.procedure", "masked"),
        ("reader", "entities.procedure", "nobody"),
        ("staff", "staff.1", "reader"),
    ] {
        let node = Node::start(limits()).await;
        let mut client = node.client().await.connected(before).await;
        client.ask(subscribe(channel)).await;
        let published = until_they_wait_on(&node, channel).await;
        client.send(json!({"id": 3, "refresh": {"token": token}})).await;
        is_closed(&node, 3011).await;
        let (code, came) = to_the_close(&mut client).await;
        assert_eq!(code, 3011);
        assert!(came + 3 < published, "{token}: {came} of {published}");
    }
}

/// A command that takes its time is not waited for: what was subscribed before it would be shown as long.
#[tokio::test]
async fn a_doubt_does_not_wait_for_a_slow_command() {
    let (begun, mut hangs) = tokio::sync::mpsc::channel(1);
    let method: Handler = Arc::new(move |_: &Identity, _: Bytes| -> BoxFuture<'_, Answered> {
        begun.try_send(()).expect("called once");
        Box::pin(std::future::pending())
    });
    let limits = Limits { command: PATIENCE * 5, ..Limits::default() };
    let node = Node::with_handlers(limits, Handlers::new([("hangs", method)])).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    let recheck = Control::Recheck { whose: Whose { user: Some("u1".into()), ..Whose::default() } };
    client.send(json!({"id": 3, "rpc": {"method": "hangs"}})).await;
    hangs.recv().await.expect("called");
    node.hub.shards.order(&Arc::new(recheck));
    assert_eq!(client.receive().await, json!({"close": 3011}));
}

/// What a token's claims opened, the next token has to name again.
#[tokio::test]
async fn what_the_next_token_does_not_name_ends() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await;
    let reply = client.ask(json!({"id": 1, "connect": {"token": "subscribed"}})).await;
    assert_eq!(reply["connect"]["subs"].as_object().map_or(0, serde_json::Map::len), 2);
    let refresh = |token| json!({"id": 2, "refresh": {"token": token}});
    assert!(client.ask(refresh("one")).await["refresh"].is_object(), "named by both");
    client.send(refresh("reader")).await;
    let push = client.receive().await["push"].take();
    assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("news.1"), &json!(2000)));
    assert!(client.receive().await["refresh"].is_object());
    node.say("news.1", "1", &[]).await;
    node.publish("a").await;
    assert_eq!(client.receive().await["push"]["channel"], "entities.procedure", "permissions open that one");
}

/// With nothing that waits nobody is sent away.
#[tokio::test]
async fn rights_that_change_end_every_subscription_at_once_and_leave_the_connection() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    for channel in ["entities.procedure", "entity.procedure.a", "chat.1"] {
        assert!(client.ask(subscribe(channel)).await["subscribe"].is_object());
    }
    client.send(json!({"id": 3, "refresh": {"token": "masked"}})).await;
    for channel in ["entities.procedure", "entity.procedure.a"] {
        let push = client.receive().await["push"].take();
        assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!(channel), &json!(2502)));
    }
    assert_eq!(client.receive().await["id"], 3);
    node.publish("a").await;
    node.say("chat.1", "{}", &[]).await;
    assert_eq!(client.receive().await["push"]["channel"], "chat.1");
}

#[tokio::test]
async fn a_recall_lets_nothing_leave_that_waits() {
    for (hush, on_pusher) in [(false, false), (true, false), (false, true), (true, true)] {
        let node = pusher::node_with(limits()).await;
        let (mut client, expected) = if on_pusher {
            let channel = "private-entities.procedure";
            let mut it = pusher::pusher(&node, "main").await;
            assert_eq!(it.sign_in(r#"{"id":"u1","hub_token":"reader"}"#).await["event"], "pusher:signin_success");
            assert_eq!(it.signed(channel, None).await, pusher::succeeded(channel));
            (it.client, 4200)
        } else {
            let mut it = node.client().await.connected("reader").await;
            it.ask(subscribe("entities.procedure")).await;
            (it, 3011)
        };
        let published = until_they_wait(&node).await;
        if hush {
            node.hub.shards.hush();
        } else {
            node.hub.shards.recall(Duration::ZERO);
        }
        is_closed(&node, expected).await;
        let (code, came) = to_the_close(&mut client).await;
        assert_eq!(code, u64::from(expected));
        assert!(came + 3 < published, "{came} of {published}");
    }
}

/// What waits behind a farewell that is under way as well.
#[tokio::test]
async fn a_recall_after_the_end_keeps_the_farewell_alone() {
    let node = Node::start(limits()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    let published = until_they_wait(&node).await;
    let whose = Whose { user: Some("u1".into()), ..Whose::default() };
    node.hub.shards.order(&Arc::new(Control::Disconnect { whose, code: 3503, reason: "go".into() }));
    is_closed(&node, 3503).await;
    node.hub.shards.hush();
    assert_eq!(sessions(&node).await, 1, "it is still here");
    let (code, came) = to_the_close(&mut client).await;
    assert_eq!(code, 3503);
    assert!(came + 3 < published, "{came} of {published}");
}

/// Until it is closed, a session is shown and answered nothing by rights that may be over; the rest goes on.
#[tokio::test]
async fn a_hushed_session_is_shown_no_entities() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    for channel in ["entities.procedure", "entity.procedure.a", "chat.1"] {
        assert!(client.ask(subscribe(channel)).await["subscribe"].is_object());
    }
    node.hub.shards.hush();
    sessions(&node).await;
    node.publish("a").await;
    node.say("chat.1", "{}", &[]).await;
    assert_eq!(client.receive().await["push"]["channel"], "chat.1", "nothing of the entity");
    for (id, command) in [
        (4, json!({"id": 4, "subscribe": {"channel": "entities.procedure"}})),
        (5, json!({"id": 5, "history": {"channel": "entities.procedure", "limit": 1}})),
        (6, json!({"id": 6, "rpc": {"method": "any"}})),
    ] {
        let answer = client.ask(command).await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(100)));
    }
    node.hub.shards.recall(Duration::ZERO);
    assert_eq!(client.receive().await, json!({"close": 3011}));
    let mut back = node.client().await.connected("masked").await;
    assert!(back.ask(subscribe("entities.procedure")).await["subscribe"].is_object());
}
