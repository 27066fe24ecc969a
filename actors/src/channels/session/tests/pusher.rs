//! The Pusher protocol over real sockets: what is answered, what is refused, and that a refusal ends nothing.

pub(super) mod lent;
mod members;

use dzvin_protocols::channels::{
    Control, Whose,
    pusher::{ClientAction, Close, Credentials, SocketId},
};

use super::*;
use crate::channels::{Admission, App};

const SECRET: &str = "a secret of sixteen";

fn signer() -> Credentials {
    Credentials::new("k1", SECRET).expect("key")
}

pub(super) fn app(id: &str, key: &str) -> App {
    App::new(id, vec![Credentials::new(key, SECRET).expect("key")]).expect("app")
}

/// A node with an application `main` whose clients may talk, one that is off, and one that is alone.
pub(super) async fn node() -> Node {
    node_with(Limits::default()).await
}

pub(super) async fn node_with(limits: Limits) -> Node {
    let node = Node::start(limits).await;
    let apps = vec![
        App { client_events: true, ..app("main", "k1") },
        App { enabled: false, ..app("off", "k2") },
        App { isolated: true, ..app("own", "k3") },
    ];
    node.hub.apps.replace(apps).expect("apps");
    node
}

pub(super) struct Pusher {
    pub(super) client: Client,
    socket: SocketId,
}

async fn connection(node: &Node, admission: Option<Admission>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
    assert!(node.hub.shards.accept(Incoming {
        socket: server.expect("accept").0.into(),
        leftover: bytes::Bytes::new(),
        greeting: bytes::Bytes::new(),
        wire: Wire::Pusher,
        permit: Arc::new(Semaphore::new(1)).try_acquire_owned().expect("permit").into(),
        mailbox: None,
        admission,
    }));
    Client::over(client.expect("connect")).await
}

pub(super) async fn pusher(node: &Node, app: &str) -> Pusher {
    let mut client = connection(node, Some(Admission::App(app.into()))).await;
    let hello = client.receive().await;
    assert_eq!(hello["event"], "pusher:connection_established");
    let data: Value = serde_json::from_str(hello["data"].as_str().expect("a text")).expect("json");
    assert_eq!(data["activity_timeout"], 120);
    let socket = SocketId::parse(data["socket_id"].as_str().expect("an id")).expect("digits, a dot, digits");
    Pusher { client, socket }
}

impl Pusher {
    async fn ask(&mut self, event: &str, data: Value) -> Value {
        self.client.ask(json!({"event": event, "data": data})).await
    }

    async fn subscribe(&mut self, channel: &str, auth: &str, data: Option<&str>) -> Value {
        let ask = json!({"channel": channel, "auth": auth, "channel_data": data});
        self.ask("pusher:subscribe", ask).await
    }

    /// With a good signature.
    pub(super) async fn signed(&mut self, channel: &str, data: Option<&str>) -> Value {
        let auth = signer().channel_token(&self.socket, channel, data);
        self.subscribe(channel, &auth, data).await
    }

    pub(super) async fn sign_in(&mut self, user_data: &str) -> Value {
        let auth = signer().user_token(&self.socket, user_data);
        self.ask("pusher:signin", json!({"auth": auth, "user_data": user_data})).await
    }

    /// Nothing has ended, and nothing else was said.
    pub(super) async fn is_well(&mut self) {
        let pong = self.client.ask(json!({"event": "pusher:ping", "data": {}})).await;
        assert_eq!(pong, json!({"event": "pusher:pong", "data": {}}));
    }
}

pub(super) fn succeeded(channel: &str) -> Value {
    json!({"event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}"})
}

/// The status of a refused subscription.
fn refused(answer: &Value, channel: &str) -> u64 {
    assert_eq!(
        (&answer["event"], &answer["channel"]),
        (&json!("pusher:subscription_error"), &json!(channel)),
        "{answer}"
    );
    answer["data"]["status"].as_u64().expect("a status")
}

#[tokio::test]
async fn who_may_not_stay_is_told_by_an_event_and_by_the_code() {
    let node = node().await;
    for (admission, code) in [
        (Some(Admission::App("off".into())), 4003),
        (Some(Admission::App("none".into())), 4001),
        (Some(Admission::Refused(Close::NoProtocol)), 4008),
        (Some(Admission::Refused(Close::Unauthorized)), 4009),
        (None, 4001),
    ] {
        let mut client = connection(&node, admission.clone()).await;
        let error = client.receive().await;
        assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(code)), "{admission:?}");
        assert_eq!(client.receive().await, json!({"close": code}));
    }
    // An application that goes away takes its clients with it at their next word.
    let mut one = pusher(&node, "main").await;
    node.hub.apps.replace(vec![]).expect("none");
    assert_eq!(one.ask("pusher:ping", json!({})).await["data"]["code"], 4001);
    assert_eq!(one.client.receive().await, json!({"close": 4001}));
}

#[tokio::test]
async fn a_public_channel_is_anybodys_but_for_a_namespace_that_says_otherwise() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    for channel in ["room", "room", "x;y,z@=_-."] {
        assert_eq!(one.subscribe(channel, "", None).await, succeeded(channel));
    }
    assert_eq!(
        one.client.ask(json!({"event": "pusher:subscribe", "data": "{\"channel\":\"text\"}"})).await,
        succeeded("text")
    );
    let (longest, longer) = ("x".repeat(200), "x".repeat(201));
    assert_eq!(one.subscribe(&longest, "", None).await, succeeded(&longest));
    for (channel, status) in
        [("a b", 400), ("", 400), ("дзвін", 400), ("#x", 400), ("entities.procedure", 403), ("query.1", 403)]
    {
        let answer = one.subscribe(channel, "", None).await;
        assert_eq!(refused(&answer, channel), status, "{channel}");
    }
    let answer = one.subscribe(&longer, "", None).await;
    assert_eq!(
        (&answer["event"], answer.get("channel")),
        (&json!("pusher:error"), None),
        "what is no name is not repeated"
    );
    one.is_well().await;
}

#[tokio::test]
async fn a_signature_is_of_one_socket_one_channel_and_one_secret() {
    let node = node().await;
    let (mut one, mut other) = (pusher(&node, "main").await, pusher(&node, "main").await);
    let good = signer().channel_token(&one.socket, "private-x", None);
    let stranger = Credentials::new("k1", "another secret of it").expect("key");
    for bad in [
        String::new(),
        "k1".to_owned(),
        good.to_uppercase(),
        good.replace("k1:", "k2:"),
        stranger.channel_token(&one.socket, "private-x", None),
        signer().channel_token(&one.socket, "private-y", None),
        signer().channel_token(&other.socket, "private-x", None),
        signer().user_token(&one.socket, "private-x"),
    ] {
        let answer = one.subscribe("private-x", &bad, None).await;
        assert_eq!((refused(&answer, "private-x"), &answer["data"]["type"]), (401, &json!("AuthError")), "{bad}");
        assert!(!answer.to_string().contains(&good[3..]), "the signature that was expected is not told");
    }
    let answer = other.subscribe("private-x", &good, None).await;
    assert_eq!(refused(&answer, "private-x"), 401, "replayed on another socket");
    for channel in ["private-x", "private-encrypted-x", "private-App.Models.User.1"] {
        assert_eq!(one.signed(channel, None).await, succeeded(channel));
    }
    // On its own socket it is good for as long as the socket is.
    one.client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-x"}})).await;
    one.client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-x"}})).await;
    assert_eq!(one.subscribe("private-x", &good, None).await, succeeded("private-x"));
    // A changed secret holds at once.
    let new = App::new("main", vec![Credentials::new("k1", "a new secret of sixteen").expect("key")]).expect("app");
    node.hub.apps.replace(vec![new]).expect("apps");
    assert_eq!(refused(&one.signed("private-z", None).await, "private-z"), 401);
    one.is_well().await;
}

#[tokio::test]
async fn the_hubs_channels_are_opened_by_a_user_whom_the_hub_knows() {
    let node = node().await;
    let channel = "private-entities.procedure";
    let of =
        |user: &str, token: &str| format!("{{\"id\":\"{user}\",\"user_id\":\"{user}\",\"hub_token\":\"{token}\"}}");
    let mut one = pusher(&node, "main").await;
    // The application's server signs what it likes: a bare signature, a sign-in, a user's name in the data.
    assert_eq!(refused(&one.signed(channel, None).await, channel), 401);
    assert_eq!(refused(&one.signed(channel, Some(r#"{"user_id":"u1"}"#)).await, channel), 401);
    assert_eq!(one.sign_in(r#"{"id":"u1"}"#).await["event"], "pusher:signin_success");
    assert_eq!(refused(&one.signed(channel, None).await, channel), 401);
    // A token of the hub, which must be good, and the same user's.
    assert_eq!(refused(&one.signed(channel, Some(&of("u1", "bad"))).await, channel), 401);
    assert_eq!(refused(&one.signed(channel, Some(&of("u1", "expired"))).await, channel), 401);
    assert_eq!(refused(&one.subscribe(channel, "", Some(&of("u1", "reader"))).await, channel), 401, "unsigned");
    assert_eq!(refused(&one.signed(channel, Some(&of("u1", "nobody"))).await, channel), 403);
    assert_eq!(one.signed(channel, Some(&of("u1", "reader"))).await, succeeded(channel));
    node.publish("a").await;
    let change = one.client.receive().await;
    assert_eq!((&change["event"], &change["channel"]), (&json!("change"), &json!(channel)), "{change}");
    let data: Value = serde_json::from_str(change["data"].as_str().expect("text")).expect("json");
    assert_eq!((&data["id"], &data["offset"], &data["doc"]["n"]), (&json!("a"), &json!(1), &json!(1)));
    // The same channel once, under one name.
    assert_eq!(one.signed(channel, None).await, succeeded(channel));
    let cached = "private-cache-entities.procedure";
    assert_eq!(refused(&one.signed(cached, None).await, cached), 400);
    // Another kind is another right.
    let contract = "private-entities.contract";
    assert_eq!(refused(&one.signed(contract, None).await, contract), 403);
    // Whoever is somebody else stays so.
    let mut two = pusher(&node, "main").await;
    assert_eq!(two.sign_in(r#"{"id":"u2"}"#).await["event"], "pusher:signin_success");
    assert_eq!(refused(&two.signed(channel, Some(&of("u2", "reader"))).await, channel), 403);
    let mut own = pusher(&node, "own").await;
    let auth =
        Credentials::new("k3", SECRET).expect("key").channel_token(&own.socket, channel, Some(&of("u1", "reader")));
    let answer = own.subscribe(channel, &auth, Some(&of("u1", "reader"))).await;
    assert_eq!(refused(&answer, channel), 403, "an isolated application has nothing of the hub's");
    for mut it in [one, two, own] {
        it.is_well().await;
    }
}

#[tokio::test]
async fn a_query_is_its_makers() {
    let node = node().await;
    let channel = format!("private-{}", queries::channel());
    let (mut one, mut two) = (pusher(&node, "main").await, pusher(&node, "main").await);
    assert_eq!(refused(&one.signed(&channel, None).await, &channel), 401);
    assert_eq!(one.sign_in(r#"{"id":"u1","hub_token":"reader"}"#).await["event"], "pusher:signin_success");
    assert_eq!(one.signed(&channel, None).await, succeeded(&channel));
    queries::four(&node).await;
    for word in ["enter", "leave"] {
        let frame = one.client.receive().await;
        assert_eq!((&frame["event"], &frame["channel"]), (&json!("change"), &json!(channel)), "{frame}");
        let data: Value = serde_json::from_str(frame["data"].as_str().expect("text")).expect("json");
        assert_eq!(data["query"], word);
    }
    assert_eq!(two.sign_in(r#"{"id":"u1","hub_token":"nobody"}"#).await["event"], "pusher:signin_success");
    assert_eq!(refused(&two.signed(&channel, None).await, &channel), 403, "the kind may not be read");
    let other = format!("private-query.{}", "x".repeat(43));
    assert_eq!(refused(&one.signed(&other, None).await, &other), 400, "there is no such query");
    let cached = format!("private-cache-{}", queries::channel());
    one.client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})).await;
    assert_eq!(one.signed(&cached, None).await, succeeded(&cached));
    assert_eq!(one.client.receive().await["event"], "pusher:cache_miss");
}

#[tokio::test]
async fn the_token_of_a_sign_in_opens_channels_and_is_not_sent_back() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    for (user_data, why) in [
        (r#"{"id":"u2","hub_token":"reader"}"#, "another's token"),
        (r#"{"id":"u1","hub_token":"expired"}"#, "an old one"),
        (r#"{"id":1}"#, "no text"),
        ("{", "no json"),
    ] {
        let answer = one.sign_in(user_data).await;
        assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("pusher:error"), &json!(4009)), "{why}");
    }
    let unsigned = one.ask("pusher:signin", json!({"auth": "k1:00", "user_data": r#"{"id":"u1"}"#})).await;
    assert_eq!(unsigned["data"]["code"], 4009);
    let answer = one.sign_in(r#"{"id":"u1","hub_token":"reader","user_info":{"n":1.50}}"#).await;
    assert_eq!(answer["event"], "pusher:signin_success");
    let data: Value = serde_json::from_str(answer["data"].as_str().expect("text")).expect("json");
    assert_eq!(data["user_data"], r#"{"id":"u1","user_info":{"n":1.50}}"#);
    assert_eq!(one.signed("private-entities.procedure", None).await, succeeded("private-entities.procedure"));
    // For good.
    assert_eq!(one.sign_in(r#"{"id":"u3"}"#).await["data"]["code"], 4009);
    assert_eq!(one.sign_in(r#"{"id":"u1"}"#).await["event"], "pusher:signin_success");
}

#[tokio::test]
async fn what_is_sent_to_a_user_is_that_users() {
    let node = node().await;
    let (mut one, own, others) = (pusher(&node, "main").await, "#server-to-user-u1", "#server-to-user-u2");
    assert_eq!(refused(&one.subscribe(own, "", None).await, own), 401);
    assert_eq!(refused(&one.signed(own, None).await, own), 401, "no signature will do");
    assert_eq!(one.sign_in(r#"{"id":"u1"}"#).await["event"], "pusher:signin_success");
    assert_eq!(refused(&one.signed(others, None).await, others), 403);
    assert_eq!(one.subscribe(own, "", None).await, succeeded(own));
    let relayed = json!({"event": "client-x", "channel": own, "data": {}});
    assert_eq!(one.client.ask(relayed).await["data"]["code"], 4301);
}

#[tokio::test]
async fn a_cache_channel_begins_with_the_last_state() {
    let node = node().await;
    let (mut one, channel) = (pusher(&node, "main").await, "private-cache-entity.procedure.a");
    assert_eq!(one.sign_in(r#"{"id":"u1","hub_token":"reader"}"#).await["event"], "pusher:signin_success");
    assert_eq!(one.signed(channel, None).await, succeeded(channel));
    assert_eq!(one.client.receive().await, json!({"event": "pusher:cache_miss", "channel": channel}));
    for id in ["a", "b", "a", "b"] {
        node.publish(id).await;
    }
    let revision = |frame: &Value| {
        assert_eq!((&frame["event"], &frame["channel"]), (&json!("change"), &json!(channel)), "{frame}");
        serde_json::from_str::<Value>(frame["data"].as_str().expect("text")).expect("json")["revision"].as_u64()
    };
    for n in [1, 2] {
        assert_eq!(revision(&one.client.receive().await), Some(n));
    }
    // It comes back, and is shown where it stands; then what follows, once.
    for _ in 0..2 {
        one.client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})).await;
        assert_eq!(one.signed(channel, None).await, succeeded(channel));
        assert_eq!(revision(&one.client.receive().await), Some(2));
    }
    node.publish("a").await;
    assert_eq!(revision(&one.client.receive().await), Some(3));
    one.is_well().await;
    // What the application cached.
    assert_eq!(one.subscribe("cache-x", "", None).await, succeeded("cache-x"));
    assert_eq!(one.client.receive().await, json!({"event": "pusher:cache_miss", "channel": "cache-x"}));
    // Another has taken its place meanwhile, which is on its way.
    let message = Message { data: Bytes::from_static(b"1"), at: 0, trace: None, extra: None };
    node.world.published.lock().unwrap().push(message.publication(EntityId::new("cache-y").unwrap(), 2));
    assert_eq!(one.subscribe("cache-y", "", None).await, succeeded("cache-y"));
    assert_eq!(one.client.receive().await, json!({"event": "message", "channel": "cache-y", "data": "1"}));
    one.is_well().await;
}

#[tokio::test]
async fn an_event_of_a_client_is_refused_without_an_end() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    let event = |channel: &str| json!({"event": "client-x", "channel": channel, "data": {"n": 1}});
    for channel in ["private-x", "x", "private-encrypted-x", "private-entities.procedure", "a b"] {
        let answer = one.client.ask(event(channel)).await;
        assert_eq!((&answer["event"], &answer["data"]["code"]), (&json!("pusher:error"), &json!(4301)), "{channel}");
    }
    assert_eq!(one.signed("private-x", None).await, succeeded("private-x"));
    let large = json!({"event": "client-x", "channel": "private-x", "data": "x".repeat(10 * 1024)});
    assert_eq!(one.client.ask(large).await["data"]["code"], 4301);
    // Ten in a second; a slow machine may give some back meanwhile.
    for _ in 0..11 {
        one.client.send(event("private-x")).await;
    }
    for _ in 0..90 {
        one.client.send(event("private-x")).await;
    }
    assert_eq!(one.client.receive().await["data"]["code"], 4301);
    let mut quiet = pusher(&node, "own").await;
    let auth = Credentials::new("k3", SECRET).expect("key").channel_token(&quiet.socket, "private-x", None);
    assert_eq!(quiet.subscribe("private-x", &auth, None).await, succeeded("private-x"));
    assert_eq!(quiet.client.ask(event("private-x")).await["data"]["code"], 4301, "its application does not allow it");
    quiet.is_well().await;
}

#[tokio::test]
async fn events_of_a_user_have_a_pace_and_those_of_nobody_none() {
    let pace = UserPace { per_second: 2, across: Across::Node };
    let node = node_with(Limits { user_pace: Some(pace), ..Limits::default() }).await;
    let event = json!({"event": "client-x", "channel": "private-x", "data": {"n": 1}});
    let (mut user, mut nobody) = (pusher(&node, "main").await, pusher(&node, "main").await);
    assert_eq!(user.sign_in(r#"{"id":"u1","hub_token":"reader"}"#).await["event"], "pusher:signin_success");
    for client in [&mut user, &mut nobody] {
        assert_eq!(client.signed("private-x", None).await, succeeded("private-x"));
        for _ in 0..2 {
            client.client.send(event.clone()).await;
        }
        client.is_well().await;
        client.client.send(event.clone()).await;
    }
    let refused = user.client.receive().await;
    assert_eq!((&refused["event"], &refused["data"]["code"]), (&json!("pusher:error"), &json!(4301)), "{refused}");
    nobody.is_well().await;
}

#[tokio::test]
async fn hostile_frames_are_answered_and_end_only_who_goes_on() {
    let node = node_with(Limits { too_many: 50, ..Limits::default() }).await;
    let mut one = pusher(&node, "main").await;
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let long = format!("{{\"event\":\"client-{}\",\"channel\":\"private-x\"}}", "x".repeat(30_000));
    for frame in [
        "",
        "{",
        "null",
        "[]",
        "[{\"event\":\"pusher:ping\"}]",
        "{\"event\":5}",
        "{\"event\":\"pusher:subscribe\"}",
        "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":{}}}",
        "{\"event\":\"pusher:subscribe\",\"data\":\"{\\\"channel\\\":5}\"}",
        "{\"event\":\"pusher_internal:member_added\",\"channel\":\"presence-x\",\"data\":{}}",
        "{\"event\":\"дзвін\",\"channel\":\"x\"}",
        &deep,
        &long,
    ] {
        one.client.0.send(frame.to_owned().into()).await.expect("sent");
        let answer = one.client.receive().await;
        assert_eq!(answer["event"], "pusher:error", "{} {answer}", &frame[..frame.len().min(60)]);
    }
    one.client.send(json!({"event": "pusher:later", "data": [1]})).await;
    one.is_well().await;
    for _ in 0..50 {
        assert_eq!(one.client.ask(json!([])).await["event"], "pusher:error");
    }
    assert_eq!(one.client.ask(json!([])).await["event"], "pusher:error");
    assert_eq!(one.client.receive().await, json!({"close": 4100}), "it may come back, but not at once");
    let mut two = pusher(&node, "main").await;
    two.client.0.send(tungstenite::Message::binary(vec![0, 1, 2])).await.expect("sent");
    assert_eq!(two.client.receive().await["event"], "pusher:error");
    assert_eq!(two.client.receive().await, json!({"close": 1003}));
}

#[tokio::test]
async fn who_has_missed_something_begins_again() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    assert_eq!(one.sign_in(r#"{"id":"u1","hub_token":"reader"}"#).await["event"], "pusher:signin_success");
    assert_eq!(one.signed("private-entities.procedure", None).await, succeeded("private-entities.procedure"));
    node.publish("a").await;
    assert_eq!(one.client.receive().await["event"], "change");
    *node.world.epoch.lock().unwrap() = Epoch::new("e2");
    node.publish("b").await;
    assert_eq!(one.client.receive().await, json!({"close": 4200}));
}

#[tokio::test]
async fn too_many_channels_are_refused_and_members_need_presence() {
    let node = node_with(Limits { channels: 2, ..Limits::default() }).await;
    let mut one = pusher(&node, "main").await;
    assert_eq!(one.subscribe("a", "", None).await, succeeded("a"));
    let channel = "presence-x";
    let answer = one.signed(channel, Some(r#"{"user_id":"u1"}"#)).await;
    assert_eq!(refused(&answer, channel), 503, "nobody keeps members here");
    assert_eq!(refused(&one.signed(channel, Some("{}")).await, channel), 400);
    assert_eq!(refused(&one.signed(channel, Some(r#"{"user_id":""}"#)).await, channel), 400);
    let large = format!("{{\"user_id\":\"u1\",\"user_info\":\"{}\"}}", "x".repeat(1025));
    assert_eq!(refused(&one.signed(channel, Some(&large)).await, channel), 400);
    assert_eq!(refused(&one.signed(channel, None).await, channel), 401, "who is it?");
    assert_eq!(one.subscribe("b", "", None).await, succeeded("b"), "what was refused takes no place");
    assert_eq!(refused(&one.subscribe("c", "", None).await, "c"), 429);
    one.is_well().await;
}

/// Whoever came back each second would be refused each second.
#[tokio::test]
async fn a_user_with_too_many_connections_stays_away() {
    let node = node_with(Limits { of_user: Some(1), ..Limits::default() }).await;
    let mut one = pusher(&node, "main").await;
    assert_eq!(one.sign_in(r#"{"id":"u1"}"#).await["event"], "pusher:signin_success");
    let mut two = pusher(&node, "main").await;
    let close = two.sign_in(r#"{"id":"u1"}"#).await;
    assert_eq!(close, json!({"close": 4004}));
    assert!(!ClientAction::of(4004).reconnects());
    let mut other = pusher(&node, "main").await;
    assert_eq!(other.sign_in(r#"{"id":"u2"}"#).await["event"], "pusher:signin_success");
    one.is_well().await;
}

/// No client of this protocol can be told that it has been subscribed: the order is passed over.
#[tokio::test]
async fn a_server_subscribes_nobody_here() {
    let node = node().await;
    let mut one = pusher(&node, "main").await;
    assert_eq!(one.sign_in(r#"{"id":"u1"}"#).await["event"], "pusher:signin_success");
    let whose = Whose { user: Some("u1".into()), ..Whose::default() };
    node.hub.shards.order(&Arc::new(Control::Subscribe { whose, channel: "chat.1".into(), terms: None }));
    one.is_well().await;
    node.say("chat.1", "{}", &[]).await;
    one.is_well().await;
}
