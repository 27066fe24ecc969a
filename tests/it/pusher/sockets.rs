//! Sockets of our own: who may not stay, what is counted, and how the node says goodbye.

use dzvin_protocols::channels::pusher::{Credentials, SocketId, http_api::sign_query};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{KEY, SECRET, assert_discreet, hub, rules};
use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World},
};

pub(super) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(hub: &Hub, path: &str, origin: Option<&str>) -> Self {
        let mut request = format!("ws://{}{path}", hub.addr).into_client_request().expect("a request");
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().expect("a header"));
        }
        Self(connect_async(request).await.expect("a 101").0)
    }

    async fn connected(hub: &Hub) -> Self {
        Self::of(hub, KEY).await.0
    }

    /// A client of the application with this key, and its socket's id.
    pub(super) async fn of(hub: &Hub, key: &str) -> (Self, SocketId) {
        let path = format!("/app/{key}?protocol=7&client=js&version=8.6.0&flash=false");
        let mut it = Self::open(hub, &path, None).await;
        let hello = it.hear().await;
        assert_eq!(hello["event"], "pusher:connection_established");
        let data: Value = serde_json::from_str(hello["data"].as_str().expect("text")).expect("json");
        (it, SocketId::parse(data["socket_id"].as_str().expect("text")).expect("an id"))
    }

    /// One that has a channel by a signature.
    pub(super) async fn on(hub: &Hub, key: &str, channel: &str, data: Option<&str>) -> (Self, Value) {
        let (mut it, socket) = Self::of(hub, key).await;
        let auth = Credentials::new(key, SECRET).expect("key").channel_token(&socket, channel, data);
        let ask = json!({"channel": channel, "auth": auth, "channel_data": data});
        it.say(&json!({"event": "pusher:subscribe", "data": ask})).await;
        let answer = it.hear().await;
        assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
        (it, answer)
    }

    pub(super) async fn say(&mut self, event: &Value) {
        self.0.send(event.to_string().into()).await.expect("said");
    }

    pub(super) async fn hear(&mut self) -> Value {
        loop {
            match timeout(patience(), self.0.next()).await.expect("in time").expect("open").expect("well formed") {
                Message::Text(text) => return serde_json::from_str(&text).expect("json"),
                Message::Close(frame) => return json!({"close": u16::from(frame.expect("a code").code)}),
                _ => {}
            }
        }
    }

    pub(super) async fn subscribe(&mut self, channel: &str) -> Value {
        self.say(&json!({"event": "pusher:subscribe", "data": {"channel": channel}})).await;
        self.hear().await
    }
}

/// Signs in, and waits until that is done.
pub(super) async fn sign_in(socket: &mut Socket, key: &str, of: &SocketId, user_data: &str) {
    let auth = Credentials::new(key, SECRET).expect("key").user_token(of, user_data);
    socket.say(&json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})).await;
    assert_eq!(socket.hear().await["event"], "pusher:signin_success");
}

#[tokio::test]
async fn who_may_not_stay_is_told_after_the_upgrade() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let of = |query: &str| format!("/app/{KEY}?{query}");
    for (path, origin, code) in [
        ("/app/nobody?protocol=7".to_owned(), None, 4001),
        ("/app/%00%ff?protocol=7".to_owned(), None, 4001),
        (format!("/app/{}?protocol=7", "k".repeat(5_000)), None, 4001),
        ("/app/switched-off?protocol=7".to_owned(), None, 4003),
        (of("client=js"), None, 4008),
        (of("protocol=8"), None, 4007),
        (of("protocol=seven"), None, 4007),
        (of("protocol=7&version=%20"), Some("https://evil.example"), 4009),
    ] {
        let mut socket = Socket::open(&hub, &path, origin).await;
        let error = socket.hear().await;
        assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(code)), "{path}");
        assert_eq!(socket.hear().await, json!({"close": code}), "{path}");
    }
    for protocol in [5, 6, 7] {
        let mut socket = Socket::open(&hub, &of(&format!("protocol={protocol}&more=1")), None).await;
        assert_eq!(socket.hear().await["event"], "pusher:connection_established");
    }
    let plain = reqwest::get(format!("http://{}/app/{KEY}?protocol=7", hub.addr)).await.expect("an answer");
    assert_eq!(plain.status(), 400);
    eventually("nobody is left", async || hub.metric("dzvin_sessions").await == 0.0).await;
}

#[tokio::test]
async fn subscribers_are_counted_and_a_namespace_is_kept_to() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let (mut one, mut two) = (Socket::connected(&hub).await, Socket::connected(&hub).await);
    let refused = one.subscribe("staff.1").await;
    assert_eq!((&refused["event"], &refused["data"]["status"]), (&json!("pusher:subscription_error"), &json!(403)));
    for (socket, channel) in [(&mut one, "room"), (&mut two, "room")] {
        assert_eq!(socket.subscribe(channel).await["event"], "pusher_internal:subscription_succeeded");
    }
    let counted = async |socket: &mut Socket, count: u64| {
        loop {
            let heard = socket.hear().await;
            assert_eq!(
                (&heard["event"], &heard["channel"]),
                (&json!("pusher_internal:subscription_count"), &json!("room"))
            );
            if heard["data"] == format!("{{\"subscription_count\":{count}}}") {
                return;
            }
        }
    };
    counted(&mut one, 2).await;
    drop(two);
    counted(&mut one, 1).await;
}

#[tokio::test]
async fn a_node_that_stops_tells_its_clients_to_come_back() {
    let world = World::new(1, false).await;
    let mut hub = hub(&world).await;
    let mut socket = Socket::connected(&hub).await;
    assert_eq!(socket.subscribe("room").await["event"], "pusher_internal:subscription_succeeded");
    let ((), code) =
        tokio::join!(async { assert_eq!(socket.hear().await, json!({"close": 4200})) }, async { hub.stop().await });
    assert_eq!(code, Some(0));
    assert_discreet(&hub);
}

/// Words between nodes: what clients say to each other, and who comes and goes; each within its application's channels.
#[tokio::test]
async fn clients_of_two_nodes_hear_each_other_and_nobody_else() {
    let world = World::new(1, true).await;
    let rules = rules();
    let (a, b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
    let channel = "private-room";
    let (mut one, _) = Socket::on(&a, KEY, channel, None).await;
    let (mut two, _) = Socket::on(&b, KEY, channel, None).await;
    let (mut own, _) = Socket::on(&a, "own-key", channel, None).await;
    let (mut other, _) = Socket::on(&b, "own-key", channel, None).await;
    let said = |from: &str| json!({"event": "client-x", "channel": channel, "data": {"from": from, "n": 1.50}});
    one.say(&said("one")).await;
    own.say(&said("own")).await;
    // Of the shared channels the number of subscribers is told as well.
    let mut heard = two.hear().await;
    while heard["event"] == "pusher_internal:subscription_count" {
        heard = two.hear().await;
    }
    assert_eq!((heard, other.hear().await), (said("one"), said("own")));
    two.say(&said("two")).await;
    other.say(&said("other")).await;
    let mut heard = one.hear().await;
    while heard["event"] == "pusher_internal:subscription_count" {
        heard = one.hear().await;
    }
    assert_eq!(
        (heard, own.hear().await),
        (said("two"), said("other")),
        "nobody hears itself, nor the other application"
    );

    let (room, member) = ("presence-room", |id: &str| format!("{{\"user_id\":\"{id}\",\"user_info\":{{\"n\":1.50}}}}"));
    let (mut first, answer) = Socket::on(&a, KEY, room, Some(&member("1"))).await;
    assert_eq!(answer["data"], r#"{"presence":{"ids":["1"],"hash":{"1":{"n":1.50}},"count":1}}"#);
    let (second, answer) = Socket::on(&b, KEY, room, Some(&member("2"))).await;
    let there: Value = serde_json::from_str(answer["data"].as_str().expect("text")).expect("json");
    assert_eq!(there["presence"]["hash"], json!({"1": {"n": 1.5}, "2": {"n": 1.5}}));
    let told = |event: &str, data: &str| json!({"event": event, "channel": room, "data": data});
    assert_eq!(first.hear().await, told("pusher_internal:member_added", &member("2")));
    // However it leaves.
    drop(second);
    assert_eq!(first.hear().await, told("pusher_internal:member_removed", r#"{"user_id":"2"}"#));
}

/// A changed secret holds at once, and clients of an application that is gone do not stay.
#[tokio::test]
async fn applications_change_without_a_restart() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let mut socket = Socket::connected(&hub).await;
    hub.reload(|config| config.replace("id = \"main\"", "id = \"main\"\nenabled = false"));
    assert_eq!(socket.hear().await, json!({"close": 4200}), "told to come back, for its rights may have changed");
    let mut again = Socket::open(&hub, &format!("/app/{KEY}?protocol=7"), None).await;
    assert_eq!(again.hear().await["data"]["code"], 4003);
}

#[tokio::test]
async fn the_hub_signs_for_the_bearers_of_tokens_alone() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let client = reqwest::Client::new();
    let ask = async |path: &str, bearer: Option<String>, form: &str| {
        let mut request = client.post(format!("http://{}{path}", hub.addr)).body(form.to_owned());
        request = request.header("content-type", "application/x-www-form-urlencoded");
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("json"))
    };
    let form = "socket_id=1.2&channel_name=private-entities.procedure";
    let viewer = || Some(World::token("viewer"));
    for (path, bearer, form, status) in [
        ("/pusher/auth", viewer(), form, 200),
        ("/pusher/auth", None, form, 401),
        ("/pusher/auth", Some("nonsense".to_owned()), form, 401),
        ("/pusher/auth", Some(World::token_for("viewer", -60)), form, 401),
        ("/pusher/auth", Some(World::token("nobody")), form, 403),
        ("/pusher/auth", viewer(), "socket_id=1.2&channel_name=private-x", 403),
        ("/pusher/auth", viewer(), "socket_id=1&channel_name=private-x", 400),
        ("/pusher/auth?app=off", viewer(), form, 404),
        ("/pusher/user-auth", viewer(), "socket_id=1.2", 200),
        ("/pusher/user-auth", None, "socket_id=1.2", 401),
    ] {
        let (got, answer) = ask(path, bearer, form).await;
        assert_eq!(got, status, "{path} {form} {answer}");
        assert!(!answer.to_string().contains(SECRET));
    }
    assert_discreet(&hub);
}

/// A channel's pace: clients are told by 4301 and stay, servers by 429.
#[tokio::test]
async fn a_channel_has_its_pace() {
    let world = World::new(1, true).await;
    let pace = "[channels.namespaces.private-slow]\npublications_per_second = 1\npublications_across = \"cluster\"\n\
                publications_of = \"everybody\"\n";
    let rules = format!("{pace}{}", rules());
    let (a, b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
    let channel = "private-slow.1";
    let (mut one, _) = Socket::on(&a, KEY, channel, None).await;
    let (mut two, _) = Socket::on(&b, KEY, channel, None).await;
    let said = json!({"event": "client-x", "channel": channel, "data": {}});
    let refused = async |socket: &mut Socket| {
        // One a second in all: the second of two is too many, wherever it is said.
        loop {
            let heard = socket.hear().await;
            if heard["event"] == "pusher:error" {
                return heard["data"]["code"].clone();
            }
        }
    };
    for _ in 0..4 {
        one.say(&said).await;
        two.say(&said).await;
    }
    assert_eq!((refused(&mut one).await, refused(&mut two).await), (json!(4301), json!(4301)));
    // An event of a server takes from the same.
    let credentials = Credentials::new(KEY, SECRET).expect("key");
    let path = "/apps/main/events";
    let body = json!({"name": "x", "channel": channel, "data": "{}"}).to_string();
    let post = async |hub: &Hub| {
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");
        let query = sign_query("POST", path, &[], body.as_bytes(), &credentials, now);
        let request = reqwest::Client::new().post(format!("http://{}{path}?{query}", hub.addr)).body(body.clone());
        let answer = request.send().await.expect("answered");
        let after = answer.headers().get("retry-after").map(|it| it.to_str().expect("text").to_owned());
        (answer.status().as_u16(), after)
    };
    let mut answer = post(&a).await;
    for _ in 0..5 {
        if answer.0 == 429 {
            break;
        }
        assert_eq!(answer.0, 200);
        answer = post(&b).await;
    }
    assert_eq!(answer, (429, Some("1".to_owned())));
    eventually("time gives it back", async || post(&a).await.0 == 200).await;
    one.say(&json!({"event": "pusher:ping", "data": {}})).await;
    loop {
        let heard = one.hear().await;
        assert_eq!(heard.get("close"), None, "it stays");
        if heard["event"] == "pusher:pong" {
            break;
        }
    }
}
