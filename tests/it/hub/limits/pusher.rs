//! The same of applications of the Pusher protocol: their clients, their servers, and where both knock.

use dzvin_protocols::channels::pusher::{Credentials, SocketId, http_api::sign_query};
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World},
};

const APP_KEY: &str = "app-key";
const SECRET: &str = "an app secret of many bytes";

/// A client of the Pusher protocol.
struct Pusher(WebSocketStream<MaybeTlsStream<TcpStream>>, SocketId, u64);

impl Pusher {
    async fn new(hub: &Hub) -> Self {
        let url = format!("ws://{}/app/{APP_KEY}?protocol=7", hub.addr);
        let mut it = Self(connect_async(url).await.expect("a 101").0, SocketId::parse("1.1").expect("an id"), 0);
        let hello = it.hear("pusher:connection_established").await;
        let data: Value = serde_json::from_str(hello["data"].as_str().expect("text")).expect("json");
        it.1 = SocketId::parse(data["socket_id"].as_str().expect("text")).expect("an id");
        it.2 = data["activity_timeout"].as_u64().expect("seconds");
        it
    }

    async fn say(&mut self, event: &Value) {
        self.0.send(event.to_string().into()).await.expect("said");
    }

    /// The next event that is one of these, or anything about a subscription.
    async fn hear(&mut self, event: &str) -> Value {
        loop {
            match timeout(patience(), self.0.next()).await.expect(event).expect("open").expect("well formed") {
                Message::Text(text) => {
                    let heard: Value = serde_json::from_str(&text).expect("json");
                    let about = |end: &str| heard["event"].as_str().is_some_and(|name| name.ends_with(end));
                    if heard["event"] == event || about("subscription_error") {
                        return heard;
                    }
                }
                Message::Close(frame) => panic!("{event}: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Subscribes by a signature, perhaps as a member; answers the status of the refusal, 0 for none.
    async fn subscribe(&mut self, channel: &str, data: Option<&str>) -> u64 {
        let auth = Credentials::new(APP_KEY, SECRET).expect("key").channel_token(&self.1, channel, data);
        self.say(
            &json!({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth, "channel_data": data}}),
        )
        .await;
        self.hear("pusher_internal:subscription_succeeded").await["data"]["status"].as_u64().unwrap_or(0)
    }
}

fn member(id: &str) -> String {
    format!("{{\"user_id\":\"{id}\"}}")
}

fn pusher(more: &str, of_app: &str) -> String {
    format!(
        "[pusher]\n{more}[[pusher.apps]]\nid = \"main\"\nkeys = [{{ key = \"{APP_KEY}\", secret = \"{SECRET}\" }}]\n\
         client_events = true\n{of_app}"
    )
}

/// The status of a signed call.
async fn post(hub: &Hub, path: &str, body: &Value) -> u16 {
    let (path, body) = (format!("/apps/main/{path}"), body.to_string());
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");
    let credentials = Credentials::new(APP_KEY, SECRET).expect("key");
    let query = sign_query("POST", &path, &[], body.as_bytes(), &credentials, now);
    let request = reqwest::Client::new().post(format!("http://{}{path}?{query}", hub.addr)).body(body);
    request.send().await.expect("answered").status().as_u16()
}

#[tokio::test]
async fn what_pusher_clients_and_servers_may_is_what_the_file_says() {
    let world = World::new(1, false).await;
    let more = "activity_timeout = \"7s\"\nclient_events_per_second = 2\nmax_client_event = 100\nmax_user_info = 64\n\
                cache_age = \"1s\"\nmax_event = 64\nmax_event_channels = 2\nmax_batch = 2\n";
    let hub = world.hub_with("a", &pusher(more, "")).await;
    let mut one = Pusher::new(&hub).await;
    assert_eq!(one.2, 7, "activity_timeout");

    let channel = "private-x";
    assert_eq!(one.subscribe(channel, None).await, 0);
    let said = |size: usize| json!({"event": "client-x", "channel": channel, "data": "x".repeat(size)});
    one.say(&said(200)).await;
    assert_eq!(one.hear("pusher:error").await["data"]["code"], 4301, "max_client_event");
    for _ in 0..12 {
        one.say(&said(10)).await;
    }
    assert_eq!(one.hear("pusher:error").await["data"]["code"], 4301, "client_events_per_second");

    let info = |size: usize| format!("{{\"user_id\":\"u1\",\"user_info\":\"{}\"}}", "x".repeat(size));
    assert_eq!(one.subscribe("presence-x", Some(&info(100))).await, 400, "max_user_info");
    assert_eq!(one.subscribe("presence-x", Some(&info(30))).await, 0);

    let event = |size: usize, channels: usize| {
        let channels: Vec<String> = (0..channels).map(|n| format!("c{n}")).collect();
        json!({"name": "x", "channels": channels, "data": "x".repeat(size)})
    };
    assert_eq!(post(&hub, "events", &event(60, 2)).await, 200);
    assert_eq!(post(&hub, "events", &event(70, 1)).await, 413, "max_event");
    assert_eq!(post(&hub, "events", &event(10, 3)).await, 400, "max_event_channels");
    let batch = |n: usize| json!({"batch": vec![json!({"name": "x", "channel": "c", "data": "1"}); n]});
    assert_eq!(post(&hub, "batch_events", &batch(2)).await, 200);
    assert_eq!(post(&hub, "batch_events", &batch(3)).await, 400, "max_batch");

    // A new channel each time: whoever has it already is told what it was told before.
    assert_eq!(post(&hub, "events", &json!({"name": "x", "channel": "cache-x", "data": "1"})).await, 200);
    eventually("cache_age", async || {
        let mut late = Pusher::new(&hub).await;
        late.say(&json!({"event": "pusher:subscribe", "data": {"channel": "cache-x"}})).await;
        late.hear("pusher_internal:subscription_succeeded").await;
        loop {
            let text = timeout(patience(), late.0.next()).await.expect("in time").expect("open").expect("well formed");
            let heard: Value = serde_json::from_str(text.to_text().expect("text")).expect("json");
            match heard["event"].as_str() {
                Some("x") => return false,
                Some("pusher:cache_miss") => return true,
                _ => {}
            }
        }
    })
    .await;
}

/// A path that is none, and TLS where it is demanded: told as everything else is, for good or at once.
#[tokio::test]
async fn pusher_clients_at_a_wrong_address_are_told() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &pusher("", "tls_only = true\n")).await;
    let knock = async |path: &str, proto: Option<&str>| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{}{path}", hub.addr).into_client_request().expect("a request");
        if let Some(proto) = proto {
            request.headers_mut().insert("x-forwarded-proto", proto.parse().expect("a value"));
        }
        let mut socket = connect_async(request).await.expect("a 101").0;
        let first = timeout(patience(), socket.next()).await.expect("in time").expect("open").expect("well formed");
        serde_json::from_str::<Value>(first.to_text().expect("text")).expect("json")
    };
    for path in ["/app", "/app/", "/app/app-key/", "/app/app-key/more", "/app/a/b/c?protocol=7"] {
        assert_eq!(knock(path, None).await["data"]["code"], 4005, "{path}");
    }
    let path = format!("/app/{APP_KEY}?protocol=7");
    for (proto, code) in [(None, 4000), (Some("http"), 4000), (Some("https, http"), 4000)] {
        assert_eq!(knock(&path, proto).await["data"]["code"], code, "{proto:?}");
    }
    assert_eq!(knock(&path, Some("https")).await["event"], "pusher:connection_established");
}

/// The cap of members holds over both nodes, against all who come in one moment as well.
#[tokio::test]
async fn a_presence_channel_has_so_many_members_and_no_more() {
    let world = World::new(1, true).await;
    let more = pusher("", "max_members = 2\n");
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
    let (mut one, mut two) = (Pusher::new(&a).await, Pusher::new(&b).await);
    assert_eq!(one.subscribe("presence-x", Some(&member("1"))).await, 0);
    assert_eq!(two.subscribe("presence-x", Some(&member("2"))).await, 0);
    for hub in [&a, &b] {
        let mut third = Pusher::new(hub).await;
        assert_eq!(third.subscribe("presence-x", Some(&member("3"))).await, 429, "one too many");
        let mut tab = Pusher::new(hub).await;
        assert_eq!(tab.subscribe("presence-x", Some(&member("1"))).await, 0, "who is there already comes again");
    }
    // A place that is given back is there for another.
    drop(two);
    eventually("room for another", async || {
        let mut third = Pusher::new(&a).await;
        third.subscribe("presence-x", Some(&member("3"))).await == 0
    })
    .await;
    // Many at once, on both nodes: never more than two stay, and whoever was refused is not there.
    for round in 0..5 {
        let channel = format!("presence-race{round}");
        let sockets = join_all((0..8).map(|n| Pusher::new(if n % 2 == 0 { &a } else { &b }))).await;
        let joined = join_all(sockets.into_iter().enumerate().map(|(n, mut socket)| {
            let (channel, member) = (channel.clone(), member(&format!("m{n}")));
            async move {
                let status = socket.subscribe(&channel, Some(&member)).await;
                assert!(status == 0 || status == 429, "{status}");
                (status == 0).then_some(socket)
            }
        }));
        let stayed = joined.await.into_iter().flatten().count();
        assert!(stayed <= 2, "{stayed} stayed in round {round}");
    }
}
