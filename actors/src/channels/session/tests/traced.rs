//! Traces: what a session does and is given is told to whoever follows its user, or the channel; to nobody else, and nothing more.

use dzvin_protocols::channels::TraceTarget;

use super::*;
use crate::channels::{Following, Noted};

fn json_of(noted: &Noted) -> Value {
    serde_json::from_str(noted.line.get()).expect("json")
}

/// The lines up to one with this event, without the moment, which is the node's.
async fn told(following: &mut Following, until: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = Vec::new();
    loop {
        let noted = timeout(PATIENCE, following.next()).await.expect("in time").expect("followed");
        let mut line = json_of(&noted);
        for name in ["at", "client", "took_ms"] {
            line.as_object_mut().expect("an object").remove(name);
        }
        assert!(!noted.line.get().contains("pad"), "what was said is nobody's: {line}");
        let over = line["event"] == until;
        lines.push(line);
        if over {
            return lines;
        }
    }
}

#[tokio::test]
async fn what_a_session_is_given_is_told_to_who_follows_its_user() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    let mut following = node.hub.tracer.follow(TraceTarget::User("u1".into())).expect("room");
    let mut other = node.hub.tracer.follow(TraceTarget::User("u2".into())).expect("room");
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    client.ask(subscribe("entities.call")).await;
    // One alone, and several at once.
    node.publish("a").await;
    for _ in 0..2 {
        node.world.commit("b");
    }
    node.tell_run(3, 4).await;
    assert_eq!(client.offsets(3).await, [2, 3, 4]);
    drop(client);
    let bytes = |offset: usize| node.world.log.lock().unwrap()[offset - 1].publication().data.len();
    let given = |offset: usize| {
        let (channel, epoch) = ("entities.procedure", "e1");
        json!({"user": "u1", "channel": channel, "event": "publication", "epoch": epoch, "offset": offset, "bytes": bytes(offset)})
    };
    let command = |command: &str, channel: &str, error: u16| json!({"user": "u1", "channel": channel, "event": "command", "command": command, "error": error});
    assert_eq!(
        told(&mut following, "disconnect").await,
        [
            json!({"user": "u1", "event": "connect", "wire": "centrifuge-json"}),
            json!({"user": "u1", "event": "command", "command": "connect", "error": 0}),
            json!({"user": "u1", "channel": "entities.procedure", "event": "subscribe", "epoch": "e1", "offset": 1}),
            command("subscribe", "entities.procedure", 0),
            command("subscribe", "entities.call", 103),
            given(2),
            given(3),
            given(4),
            json!({"user": "u1", "channel": "entities.procedure", "event": "unsubscribe", "code": 0}),
            json!({"user": "u1", "event": "disconnect", "code": 0}),
        ]
    );
    assert!(other.ready().is_none(), "another user's");
}

#[tokio::test]
async fn a_slow_client_and_a_lost_place_are_told() {
    let node = Node::start(Limits { queue_bytes: 64 * 1024, ..Limits::default() }).await;
    let mut following = node.hub.tracer.follow(TraceTarget::User("u1".into())).expect("room");
    let mut of_channel = node.hub.tracer.follow(TraceTarget::Channel("entities.procedure".into())).expect("room");
    // It never reads: its socket is full before long. When is the kernel's to say, whose buffers grow while they are filled.
    let mut slow = node.client().await.connected("reader").await;
    slow.ask(subscribe("entities.procedure")).await;
    let mut top = 0;
    let slow_line: Value = loop {
        node.world.commit_sized("a", 30_000);
        top += 1;
        node.tell(top).await;
        let mut lines = std::iter::from_fn(|| following.ready()).map(|noted| json_of(&noted));
        if let Some(line) = lines.find(|line| line["event"] == "slow") {
            break line;
        }
    };
    assert!(slow_line["queue_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{slow_line}");
    let over = told(&mut following, "disconnect").await;
    assert_eq!(over.last().expect("its end")["code"], 3008);
    let of_it = told(&mut of_channel, "unsubscribe").await;
    let shown = of_it.iter().filter(|line| line["event"] == "publication").count();
    assert!(shown >= 4, "{shown} of {top}");
    assert_eq!(of_it.last().expect("its end")["code"], 3008, "the channel's trace says why it has one fewer");
}

#[tokio::test]
async fn a_channel_tells_how_many_got_it() {
    let node = Node::start(Limits::default()).await;
    let mut following = node.hub.tracer.follow(TraceTarget::Channel("chat".into())).expect("room");
    let (mut one, mut two) =
        (node.client().await.connected("reader").await, node.client().await.connected("reader").await);
    for client in [&mut one, &mut two] {
        client.ask(subscribe("chat")).await;
        client.ask(subscribe("latest")).await;
    }
    node.say("latest", "\"pad\"", &[]).await;
    node.say("chat", "\"pad\"", &[]).await;
    let lines = told(&mut following, "publication").await;
    let given = lines.last().expect("one");
    assert_eq!((&given["sessions"], &given["bytes"], &given["user"]), (&json!(2), &json!(5), &Value::Null));
    assert!(lines.iter().all(|line| line["channel"] == "chat"), "{lines:?}");
    let leave = json!({"id": 3, "unsubscribe": {"channel": "chat"}});
    one.send(leave).await;
    while one.receive().await["id"] != 3 {}
    assert_eq!(told(&mut following, "unsubscribe").await.last().expect("one")["code"], 0);
}
