//! Every limit that the configuration names, from its key in the file to what a client or a server is told: a wire that is
//! crossed between the two is red here. What a limit does in every corner is tested where it lives.

use std::time::Duration;

use dzvin_protocols::channels::pusher::{Credentials, SocketId, http_api::sign_query};
use futures_util::{SinkExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::server::{ask as call, with_key};
use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World, small_object},
    session::Client,
};

const APP_KEY: &str = "app-key";
const SECRET: &str = "an app secret of many bytes";

/// A server of the application that may do everything.
fn server() -> String {
    with_key("permissions = [\"*\"]\n")
}

async fn publish(hub: &Hub, channel: &str, data: &Value) -> Value {
    let answer = call(hub, "publish", &json!({"channel": channel, "data": data})).await;
    assert!(answer["result"]["offset"].is_u64(), "{answer}");
    answer["result"].clone()
}

/// What the hub still has of a channel.
async fn kept(hub: &Hub, channel: &str) -> usize {
    let answer = call(hub, "history", &json!({"channel": channel, "limit": 1000})).await;
    answer["result"]["publications"].as_array().map_or(0, Vec::len)
}

/// The reply to one command, whatever comes before it; or the close.
async fn ask(client: &mut Client, mut command: Value, id: u32) -> Value {
    command["id"] = json!(id);
    client.0.send(command.to_string().into()).await.expect("sent");
    loop {
        let heard = receive(client).await;
        if heard["id"] == id || !heard["close"].is_null() {
            return heard;
        }
    }
}

/// What comes next, pings answered.
async fn receive(client: &mut Client) -> Value {
    loop {
        let heard = client.receive().await;
        if heard != json!({}) {
            return heard;
        }
        client.0.send("{}".into()).await.expect("sent");
    }
}

/// The next push of this name.
async fn pushed(client: &mut Client, name: &str) -> Value {
    loop {
        let mut heard = receive(client).await;
        let push = heard["push"][name].take();
        if !push.is_null() {
            return push;
        }
        assert!(heard["close"].is_null(), "{name}: {heard}");
    }
}

async fn subscribe(client: &mut Client, channel: &str, more: Value) -> Value {
    let mut command = json!({"subscribe": more});
    command["subscribe"]["channel"] = json!(channel);
    ask(client, command, 100).await
}

#[tokio::test]
async fn what_a_channel_keeps_and_gives_is_what_the_file_says() {
    let world = World::new(1, false).await;
    let more = format!(
        "{}[channels]\nmax_channels = 3\nmax_message = \"16KiB\"\nmax_channel_name = 20\nmax_history = 2\nrecovery_count = 2\n\
         max_presence = 1\nexpiry_grace = \"0s\"\nmax_api_page = 4\nmax_api_batch = 2\n\
         [channels.namespaces.deep]\nsubscribe = \"signed_in\"\nhistory_count = 3\n\
         [channels.namespaces.brief]\nhistory_age = \"1s\"\n\
         [channels.namespaces.small]\nhistory_bytes = \"1KiB\"\n\
         [channels.namespaces.latest]\nsubscribe = \"signed_in\"\nrecovery = \"latest\"\n\
         [channels.namespaces.plain]\nsubscribe = \"signed_in\"\ndeltas = false\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npresence = true\nsee_presence = \"signed_in\"\n",
        server()
    );
    let hub = world.hub_with("a", &more).await;

    // history_count, history_bytes, history_age; max_api_page is above none of them.
    for n in 1..=5 {
        publish(&hub, "deep.1", &json!(n)).await;
        publish(&hub, "small.1", &json!("x".repeat(300))).await;
        publish(&hub, "brief.1", &json!(n)).await;
        publish(&hub, "many.1", &json!(n)).await;
    }
    assert_eq!(kept(&hub, "deep.1").await, 3, "history_count");
    let small = kept(&hub, "small.1").await;
    assert!((1..=3).contains(&small), "history_bytes: {small}");
    eventually("history_age", async || kept(&hub, "brief.1").await == 0).await;
    assert_eq!(kept(&hub, "many.1").await, 4, "max_api_page");
    let batch = |n: usize| json!({"commands": vec![json!({"history": {"channel": "deep.1"}}); n]});
    assert!(call(&hub, "batch", &batch(2)).await["result"]["replies"].is_array());
    assert_eq!(call(&hub, "batch", &batch(3)).await["error"]["code"], 106, "max_api_batch");
    let channels = |n: usize| json!({"channels": vec!["deep.2"; n], "data": 1});
    assert!(call(&hub, "broadcast", &channels(2)).await["result"]["responses"].is_array());
    assert_eq!(call(&hub, "broadcast", &channels(3)).await["error"]["code"], 106, "max_api_batch");
    let long = format!("deep.{}", "x".repeat(16));
    let refused = call(&hub, "publish", &json!({"channel": long, "data": 1})).await;
    assert_eq!(refused["error"]["code"], 107, "max_channel_name");

    // recovery_count, max_history.
    let mut client = Client::connected(&hub, "viewer").await;
    let back = |offset: u64| json!({"recover": true, "epoch": "", "offset": offset});
    let whole = subscribe(&mut client, "deep.1", back(3)).await["subscribe"].take();
    assert_eq!((&whole["recovered"], whole["publications"].as_array().map(Vec::len)), (&json!(true), Some(2)));
    let page = ask(&mut client, json!({"history": {"channel": "deep.1", "limit": -1}}), 101).await;
    assert_eq!(page["history"]["publications"].as_array().map(Vec::len), Some(2), "max_history: {page}");
    assert!(ask(&mut client, json!({"unsubscribe": {"channel": "deep.1"}}), 102).await["unsubscribe"].is_object());
    let lost = subscribe(&mut client, "deep.1", back(2)).await["subscribe"].take();
    assert!(lost["was_recovering"] == true && lost["recovered"] != true, "recovery_count: {lost}");

    // recovery = "latest", deltas = false, max_channels.
    for n in 1..=3 {
        publish(&hub, "latest.1", &json!(n)).await;
    }
    let latest = subscribe(&mut client, "latest.1", back(1)).await["subscribe"].take();
    let data: Vec<&Value> = latest["publications"].as_array().expect("one").iter().map(|it| &it["data"]).collect();
    assert_eq!(data, [&json!(3)], "{latest}");
    let plain = subscribe(&mut client, "plain.1", json!({"delta": "fossil"})).await["subscribe"].take();
    assert_ne!(plain["delta"], true, "deltas: {plain}");
    assert_eq!(subscribe(&mut client, "deep.3", json!({})).await["error"]["code"], 106, "max_channels");

    // max_presence: one is told, of two nobody.
    let (mut one, mut two) = (Client::connected(&hub, "viewer").await, Client::connected(&hub, "operator").await);
    let who = json!({"presence": {"channel": "room.1"}});
    subscribe(&mut one, "room.1", json!({})).await;
    let told = ask(&mut one, who.clone(), 103).await;
    assert_eq!(told["presence"]["presence"].as_object().map(serde_json::Map::len), Some(1), "{told}");
    subscribe(&mut two, "room.1", json!({})).await;
    assert_eq!(ask(&mut one, who, 104).await["error"]["code"], 106, "max_presence");

    // expiry_grace: with that of the defaults it would be another 25 s.
    let mut short = Client::new(&hub).await;
    let token = World::token_for("viewer", 2);
    let reply = ask(&mut short, json!({"connect": {"token": token}}), 1).await;
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    let ended = timeout(Duration::from_secs(15), receive(&mut short)).await.expect("expiry_grace");
    assert_eq!(ended["close"], 3005);

    // max_message.
    let large = json!({"publish": {"channel": "deep.1", "data": "x".repeat(17 * 1024)}});
    assert_eq!(ask(&mut two, large, 105).await["close"], 1009, "max_message");
}

#[tokio::test]
async fn what_a_client_may_do_is_what_the_file_says() {
    let world = World::new(1, false).await;
    let more = "[channels]\nmax_sessions_per_user = 2\ncommands_per_second = 5\nmax_refusals = 4\n";
    let hub = world.hub_with("a", more).await;
    let mut client = Client::connected(&hub, "viewer").await;
    let _second = Client::connected(&hub, "viewer").await;
    let mut third = Client::new(&hub).await;
    let refused = third.ask(&json!({"id": 1, "connect": {"token": World::token("viewer")}}).to_string()).await;
    assert_eq!(refused["close"], 3504, "max_sessions_per_user");
    // All in one frame, so that time gives nothing back meanwhile.
    let many: Vec<String> = (2..40).map(|id| json!({"id": id, "ping": {}}).to_string()).collect();
    client.0.send(many.join("\n").into()).await.expect("sent");
    let (mut done, mut refused) = (0, 0);
    let code = loop {
        let heard = receive(&mut client).await;
        match &heard["error"]["code"] {
            _ if !heard["close"].is_null() => break heard["close"].clone(),
            Value::Null => done += 1,
            code => {
                assert_eq!(*code, 111, "{heard}");
                refused += 1;
            }
        }
    };
    assert!(code == 3509 && (4..30).contains(&refused), "max_refusals: {code} after {refused}");
    assert!((1..=8).contains(&done), "commands_per_second: {done} were done");
}

#[tokio::test]
async fn silence_is_borne_as_long_as_the_file_says() {
    let world = World::new(1, false).await;
    let more = "[channels]\nping = \"1s\"\npong = \"500ms\"\nconnect_timeout = \"1s\"\n";
    let hub = world.hub_with("a", more).await;
    let mut silent = Client::new(&hub).await;
    assert_eq!(silent.receive().await["close"], 3502, "connect_timeout");
    let mut deaf = Client::connected(&hub, "operator").await;
    assert_eq!(timeout(Duration::from_secs(10), deaf.receive()).await.expect("a ping"), json!({}), "ping");
    assert_eq!(timeout(Duration::from_secs(7), deaf.receive()).await.expect("an end")["close"], 3012, "pong");
}

/// Age ends connections, and not all of one moment in one moment.
#[tokio::test]
async fn connections_grow_as_old_as_the_file_says() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", "[channels]\nmax_connection_age = \"3s\"\n").await;
    let lives = join_all((0..40).map(|_| async {
        let mut client = Client::connected(&hub, "viewer").await;
        let began = std::time::Instant::now();
        assert_eq!(receive(&mut client).await["close"], 3011);
        began.elapsed()
    }));
    let mut lives = lives.await;
    lives.sort_unstable();
    let (first, last) = (lives[0], lives[lives.len() - 1]);
    assert!(first >= Duration::from_millis(500) && last <= Duration::from_secs(15), "{first:?} to {last:?}");
    assert!(last - first >= Duration::from_millis(400), "spread over 1.2 s: {first:?} to {last:?}");
}

/// Held and conflated over Redis, each node for those who listen there.
#[tokio::test]
async fn what_is_held_goes_out_as_the_file_says_on_two_nodes() {
    let world = World::new(1, true).await;
    let held = "subscribe = \"signed_in\"\nhold = \"1s\"\n";
    let more = format!(
        "{}[channels.namespaces.ticker]\n{held}conflate = \"channel\"\n\
         [channels.namespaces.board]\n{held}conflate = \"tag\"\nconflate_tag = \"seat\"\n\
         [channels.namespaces.slow]\n{held}",
        server()
    );
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
    let mut clients = [Client::connected(&a, "viewer").await, Client::connected(&b, "operator").await];
    for client in &mut clients {
        for channel in ["ticker.1", "board.1", "slow.1"] {
            assert!(subscribe(client, channel, json!({})).await["subscribe"].is_object(), "{channel}");
        }
    }
    // The first goes out at once, and what comes within the second after it is held. One call, so that all of it does.
    let say =
        |channel: &str, n: u64, seat: &str| json!({"publish": {"channel": channel, "data": n, "tags": {"seat": seat}}});
    let mut commands: Vec<Value> = (1..=9).map(|n| say("ticker.1", n, "x")).collect();
    commands.extend((1..=9).map(|n| say("board.1", n, if n % 2 == 0 { "even" } else { "odd" })));
    commands.extend((1..=9).map(|n| say("slow.1", n, "x")));
    call(&a, "batch", &json!({"commands": commands})).await;
    for client in &mut clients {
        let mut heard: std::collections::BTreeMap<String, Vec<u64>> = std::collections::BTreeMap::new();
        let ended = |all: &std::collections::BTreeMap<String, Vec<u64>>| {
            let has = |channel: &str, n: u64| all.get(channel).is_some_and(|told| told.contains(&n));
            has("ticker.1", 9) && has("board.1", 9) && has("board.1", 8) && has("slow.1", 9)
        };
        while !ended(&heard) {
            let push = receive(client).await["push"].take();
            let channel = push["channel"].as_str().expect("a push").to_owned();
            heard.entry(channel).or_default().push(push["pub"]["data"].as_u64().expect("a number"));
        }
        assert!(heard["ticker.1"].len() < 9, "hold, conflate = channel: {heard:?}");
        let board = &heard["board.1"];
        assert!(board.len() < 9 && board.is_sorted(), "conflate = tag: {heard:?}");
        assert_eq!(heard["slow.1"], (1..=9).collect::<Vec<_>>(), "conflate = nothing leaves nothing out");
    }
}

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

/// What servers have connections do, by all that names one, on the node where it is not asked.
#[tokio::test]
async fn servers_reach_one_connection_on_another_node() {
    let world = World::new(0, true).await;
    let more = format!("{}[channels]\nexpiry_grace = \"0s\"\n[channels.namespaces.room]\npresence = true\n", server());
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));

    // Each node as it is, whoever is asked.
    let mut olha = Client::connected(&b, "viewer").await;
    let mut other = Client::connected(&b, "viewer").await;
    let _ivan = Client::connected(&a, "operator").await;
    assert!(subscribe(&mut olha, "entities.procedure", json!({})).await["subscribe"].is_object());
    for hub in [&a, &b] {
        let info = call(hub, "info", &json!({})).await["result"].take();
        let nodes = info["nodes"].as_array().expect("nodes").clone();
        assert_eq!((nodes.len(), &info["missing"]), (2, &json!([])), "{info}");
        let named = |hub: &Hub| {
            let end = format!("_{}", hub.addr.port());
            nodes
                .iter()
                .find(|it| it["name"].as_str().is_some_and(|name| name.ends_with(&end)))
                .expect("a node")
                .clone()
        };
        let count =
            |node: &Value| ["num_clients", "num_users", "num_subs", "num_channels"].map(|key| node[key].clone());
        assert_eq!(count(&named(&a)), [json!(1), json!(1), json!(0), json!(0)], "{info}");
        assert_eq!(count(&named(&b)), [json!(2), json!(1), json!(1), json!(1)], "{info}");
        assert_ne!(named(&a)["uid"], named(&b)["uid"]);
        assert!(
            named(&a)["version"].as_str().is_some_and(|it| it.starts_with("dzvin ")) && named(&b)["uptime"].is_u64()
        );
    }
    let url = format!("http://{}/api/info", a.addr);
    let refused = reqwest::Client::new().post(url).bearer_auth(World::token("viewer")).body("{}").send().await;
    let refused: Value = refused.expect("an answer").json().await.expect("json");
    assert_eq!(refused["error"]["code"], 103, "not for everybody");

    // `refresh` moves the end of all connections of a user, or of one.
    let names = |connection: &Value| connection["client"].as_str().expect("a client").to_owned();
    let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
    let items = seen["items"].as_array().expect("items").clone();
    let busy = names(items.iter().find(|it| it["channels"] != json!([])).expect("olha's"));
    let later = time::OffsetDateTime::now_utc().unix_timestamp() + 100;
    assert_eq!(call(&a, "refresh", &json!({"user": "viewer-1", "expire_at": later})).await, json!({"result": {}}));
    for client in [&mut olha, &mut other] {
        let told = pushed(client, "refresh").await;
        assert!(told["expires"] == true && told["ttl"].as_u64().is_some_and(|ttl| (80..=100).contains(&ttl)), "{told}");
    }

    // `subscribe` with all that it may say; what was missed comes first.
    for n in 1..=3 {
        publish(&a, "room.1", &json!(n)).await;
    }
    let epoch = publish(&a, "room.1", &json!(4)).await["epoch"].clone();
    let order = json!({"client": busy, "channel": "room.1", "info": {"role": "clerk"}, "data": {"hello": 1},
        "recover_since": {"offset": 2, "epoch": epoch}, "override": {"join_leave": {"value": false}}});
    assert_eq!(call(&a, "subscribe", &order).await, json!({"result": {}}));
    let told = pushed(&mut olha, "subscribe").await;
    assert_eq!((&told["offset"], &told["data"]), (&json!(2), &json!({"hello": 1})), "{told}");
    for n in [3, 4] {
        assert_eq!(pushed(&mut olha, "pub").await["data"], n);
    }
    let present = eventually("she is there", async || {
        let present = call(&a, "presence", &json!({"channel": "room.1"})).await;
        present["result"]["presence"].get(&busy).cloned()
    });
    assert_eq!(present.await["chan_info"], json!({"role": "clerk"}));
    for (more, code) in [
        (json!({"b64info": "no base64"}), 107),
        (json!({"b64data": "AP8="}), 107),
        (json!({"info": "x".repeat(10_000)}), 107),
        (json!({"expire_at": 1}), 110),
        (json!({"session": "s"}), 107),
        (json!({"channel": "entities.procedure"}), 103),
    ] {
        let mut body = json!({"client": busy, "channel": "room.2"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        assert_eq!(call(&a, "subscribe", &body).await["error"]["code"], code, "{more}");
    }

    // A subscription that the server lets end takes its connection with it.
    let soon = time::OffsetDateTime::now_utc().unix_timestamp() + 3;
    call(&a, "subscribe", &json!({"client": busy, "channel": "room.3", "expire_at": soon})).await;
    pushed(&mut olha, "subscribe").await;
    assert_eq!(receive(&mut olha).await["close"], 3006);

    // `disconnect` spares who is named, and finds one by its session alone.
    let mut again = Client::connected(&b, "viewer").await;
    let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
    let newest = seen["items"].as_array().expect("items").iter().min_by_key(|it| it["age_seconds"].as_u64());
    let spared = names(newest.expect("two"));
    call(&a, "disconnect", &json!({"user": "viewer-1", "whitelist": [spared]})).await;
    let (mut gone, mut stays) = (0, 0);
    for client in [&mut other, &mut again] {
        let answer = match client.0.send(json!({"id": 77, "ping": {}}).to_string().into()).await {
            Ok(()) => receive(client).await,
            Err(_) => json!({"close": 3503}),
        };
        gone += usize::from(answer["close"] == 3503);
        stays += usize::from(answer["id"] == 77);
    }
    // A ping that was on its way may have been answered before the end.
    assert!(gone <= 1 && stays >= 1, "{gone} are gone");
    eventually("the other is gone", async || {
        let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
        seen["items"].as_array().expect("items").iter().map(names).eq([spared.clone()])
    })
    .await;
    let body = json!({"id": 1, "connect": {"token": World::token("viewer")}}).to_string();
    let url = format!("http://{}/connection/http_stream", b.addr);
    let mut stream = reqwest::Client::new().post(url).body(body).send().await.expect("a stream");
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        line.extend_from_slice(&stream.chunk().await.expect("read").expect("open"));
    }
    let hello: Value = serde_json::from_slice(line.split(|b| *b == b'\n').next().expect("a line")).expect("json");
    let session = hello["connect"]["session"].as_str().expect("a session").to_owned();
    let both = json!({"session": session, "client": "c"});
    assert_eq!(call(&a, "disconnect", &both).await["error"]["code"], 107, "one of the two says who it is");
    for wrong in ["", "s", &session[1..]] {
        call(&a, "disconnect", &json!({"session": wrong})).await;
    }
    // None of them was meant: it is still here, and found by its own.
    call(&a, "subscribe", &json!({"session": session, "channel": "room.5"})).await;
    let mut rest = Vec::new();
    while !String::from_utf8_lossy(&rest).contains("room.5") {
        rest.extend_from_slice(
            &timeout(patience(), stream.chunk()).await.expect("in time").expect("read").expect("open"),
        );
    }
    assert_eq!(call(&a, "disconnect", &json!({"session": session})).await, json!({"result": {}}));
    while let Ok(Some(chunk)) = timeout(patience(), stream.chunk()).await.expect("in time") {
        rest.extend_from_slice(&chunk);
    }
    let told = String::from_utf8(rest).expect("text");
    assert!(told.contains("\"disconnect\":{\"code\":3503"), "{told}");
    // `expired` ends what is left.
    let mut last = Client::connected(&b, "manager").await;
    call(&a, "refresh", &json!({"user": "manager-1", "expired": true})).await;
    assert_eq!(receive(&mut last).await["close"], 3005);
}

/// Methods that the hub has registered: what a client is answered is what REST answers, with all that is hidden.
#[tokio::test]
async fn entities_are_told_by_call_as_over_rest() {
    let world = World::new(2, false).await;
    let closed = small_object(9).replace("active_tendering", "closed");
    world.sandbox.control().put("procedure", &closed).expect("an object");
    let views = "[identity.roles]\nadmin = [\"*\"]\nviewer = [\"entities:read:*\"]\nclerk = [\"entities:read:procedure\"]\nnobody = []\n\
                 [identity.views.clerk.procedure]\nmask = [\"value\"]\nrows = '{\"status\": \"active_tendering\"}'\n";
    let hub = world.hub_with("a", views).await;
    let id = |n: usize| format!("{n:024x}");
    for n in [0, 9] {
        let path = format!("/api/v1/entities/procedure/{}", id(n));
        let asked =
            || reqwest::Client::new().get(format!("http://{}{path}", hub.addr)).bearer_auth(World::token("admin"));
        eventually("mirrored", async || asked().send().await.is_ok_and(|answer| answer.status() == 200)).await;
    }
    for (role, n, seen) in [("viewer", 0, true), ("viewer", 9, true), ("clerk", 0, true), ("clerk", 9, false)] {
        let mut client = Client::connected(&hub, role).await;
        let call = json!({"rpc": {"method": "entities.get", "data": {"kind": "procedure", "id": id(n)}}});
        let reply = ask(&mut client, call, 2).await;
        if !seen {
            assert_eq!(reply["error"]["code"], 404, "{role}: {reply}");
            continue;
        }
        let rest = hub.api(role, &format!("/api/v1/entities/procedure/{}", id(n))).await;
        assert_eq!(reply["rpc"]["data"], rest, "{role}");
        assert_eq!(rest["doc"]["value"].is_null(), role == "clerk", "{rest}");
        let kinds = ask(&mut client, json!({"rpc": {"method": "entities.kinds"}}), 3).await;
        assert_eq!(kinds["rpc"]["data"], hub.api(role, "/api/v1/kinds").await, "{role}");
    }
    let mut nobody = Client::connected(&hub, "nobody").await;
    for (method, data, code) in [
        ("entities.get", json!({"kind": "procedure", "id": id(0)}), 103),
        ("entities.get", json!({"kind": "no such kind", "id": "x"}), 107),
        ("entities.get", json!({"kind": "procedure"}), 107),
        ("entities.get", json!([1]), 107),
        ("entities.get", Value::Null, 107),
        ("entities.put", json!({}), 108),
    ] {
        let reply = ask(&mut nobody, json!({"rpc": {"method": method, "data": data}}), 4).await;
        assert_eq!(reply["error"]["code"], code, "{method} {data}: {reply}");
    }
    let none = ask(&mut nobody, json!({"rpc": {"method": "entities.kinds"}}), 5).await;
    assert_eq!(none["rpc"]["data"], json!({"items": []}));
}
