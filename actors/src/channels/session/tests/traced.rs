//! Traces: what a session does and is given is told to whoever follows its user, or the channel; to nobody else, and nothing more.

use dzvin_protocols::channels::{TraceTarget, websocket::text_frame};

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

impl Client {
    /// The next publications: their offsets, and bytes of their frames as they left.
    async fn frames(&mut self, count: usize) -> Vec<(u64, usize)> {
        let mut frames = Vec::new();
        while frames.len() < count {
            let read = timeout(PATIENCE, self.0.next()).await.expect("in time").expect("open").expect("well formed");
            let tungstenite::Message::Text(text) = read else { panic!("a text: {read:?}") };
            let push: Value = serde_json::from_str(&text).expect("json");
            let offset = push["push"]["pub"]["offset"].as_u64().unwrap_or_else(|| panic!("a publication: {push}"));
            frames.push((offset, text_frame(text.as_bytes()).len()));
        }
        frames
    }
}

fn given(epoch: &str, (offset, bytes): &(u64, usize)) -> Value {
    let channel = "entities.procedure";
    json!({"user": "u1", "channel": channel, "event": "publication", "epoch": epoch, "offset": offset, "bytes": bytes})
}

#[tokio::test]
async fn what_a_view_hides_is_in_no_line() {
    let node = Node::start(Limits::default()).await;
    let mut following = node.hub.tracer.follow(TraceTarget::User("u1".into())).expect("room");
    let mut client = node.client().await.connected("active").await;
    let epoch = client.ask(subscribe("entities.procedure")).await["subscribe"]["epoch"].take();
    let epoch = epoch.as_str().expect("a text");
    assert_ne!(epoch, "e1", "positions carry the view");
    // Alone, and several at once: of each kind one that is not seen.
    queries::four(&node).await;
    node.world.commit_status("a", Some("draft"), Some("draft"));
    node.tell(5).await;
    node.world.commit_status("b", None, Some("active"));
    node.tell(6).await;
    let frames = client.frames(3).await;
    assert_eq!(frames.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 4, 6]);
    drop(client);
    let lines = told(&mut following, "disconnect").await;
    let shown: Vec<_> = lines.iter().filter(|line| line["event"] == "publication").cloned().collect();
    assert_eq!(shown, frames.iter().map(|frame| given(epoch, frame)).collect::<Vec<_>>());
    let whole = node.world.log.lock().unwrap()[5].publication().data.len();
    assert!(frames.iter().all(|(_, bytes)| *bytes < whole), "the rest of {whole} bytes is hidden: {frames:?}");
    let live = lines.iter().find(|line| line["event"] == "subscribe").expect("it went live");
    assert_eq!(live["epoch"], epoch);
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
    let frames = client.frames(3).await;
    assert_eq!(frames.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 3, 4]);
    drop(client);
    let given = |n: usize| given("e1", &frames[n]);
    let command = |command: &str, channel: &str, error: u16| json!({"user": "u1", "channel": channel, "event": "command", "command": command, "error": error});
    assert_eq!(
        told(&mut following, "disconnect").await,
        [
            json!({"user": "u1", "event": "connect", "wire": "centrifuge-json"}),
            json!({"user": "u1", "event": "command", "command": "connect", "error": 0}),
            json!({"user": "u1", "channel": "entities.procedure", "event": "subscribe", "epoch": "e1", "offset": 1}),
            command("subscribe", "entities.procedure", 0),
            command("subscribe", "entities.call", 103),
            given(0),
            given(1),
            given(2),
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
