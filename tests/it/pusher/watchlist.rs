//! Watchlists over two nodes: who is online is told once, by whichever node, and a node that dies leaves nobody online.

use serde_json::{Value, json};

use super::{
    KEY, SECRET, assert_discreet,
    clients::run,
    rules,
    sockets::{Socket, sign_in},
};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
};

async fn nodes(world: &World) -> (Hub, Hub) {
    let rules = rules().replace("subscription_counts = true", "watchlists = true");
    (world.hub_with("a", &rules).await, world.hub_with("b", &rules).await)
}

/// One who has signed in, and what it was told of its watchlist.
async fn signed_in(hub: &Hub, key: &str, id: &str, watchlist: &Value) -> (Socket, Option<Value>) {
    let (mut socket, of) = Socket::of(hub, key).await;
    let user = json!({"id": id, "watchlist": watchlist}).to_string();
    sign_in(&mut socket, key, &of, &user).await;
    let told =
        if watchlist.as_array().is_some_and(|all| !all.is_empty()) { Some(socket.watched().await) } else { None };
    (socket, told)
}

impl Socket {
    /// The next word of a watchlist: `{"online": [...], "offline": [...]}`.
    async fn watched(&mut self) -> Value {
        loop {
            let heard = self.hear().await;
            if heard["event"] == "pusher_internal:watchlist_events" {
                let data: Value = serde_json::from_str(heard["data"].as_str().expect("text")).expect("json");
                let events = data["events"].as_array().expect("events").iter();
                return events
                    .map(|it| (it["name"].as_str().expect("a name").to_owned(), it["user_ids"].clone()))
                    .collect();
            }
            if heard["event"] == "pusher:ping" {
                self.say(&json!({"event": "pusher:pong", "data": {}})).await;
                continue;
            }
            assert_eq!(heard["event"], "pusher:error", "{heard}");
            assert_eq!(heard["data"]["code"], 4302, "{heard}");
        }
    }

    /// Nothing else was told.
    async fn is_quiet(&mut self) {
        self.say(&json!({"event": "pusher:ping", "data": {}})).await;
        let mut heard = self.hear().await;
        while heard["event"] == "pusher:ping" {
            self.say(&json!({"event": "pusher:pong", "data": {}})).await;
            heard = self.hear().await;
        }
        assert_eq!(heard["event"], "pusher:pong", "{heard}");
    }
}

#[tokio::test]
async fn pusher_js_is_told_who_is_online_on_any_node() {
    let world = World::new(1, true).await;
    let (a, b) = nodes(&world).await;
    let report = run("pusher-watchlist.mjs", &a, &["--other", &format!("http://{}", b.addr)]).await;
    let all = report["olha"].as_array().expect("a list");
    assert_eq!(all[..2], [json!({"online": ["ivan"]}), json!({"offline": ["petro"]})]);
    assert_eq!(all[2..], [json!({"online": ["petro"]}), json!({"offline": ["petro"]}), json!({"offline": ["ivan"]})]);
    assert_eq!(report["petro"], json!([{"online": ["olha"]}]));
    assert_discreet(&a);
}

#[tokio::test]
async fn users_of_a_node_that_dies_are_offline_within_its_lease() {
    let world = World::new(1, true).await;
    let (mut a, b) = nodes(&world).await;
    let (_ivan, _) = signed_in(&a, KEY, "ivan", &json!([])).await;
    let (_twice, _) = signed_in(&a, KEY, "petro", &json!([])).await;
    let (_here, _) = signed_in(&b, KEY, "petro", &json!([])).await;
    // A sign-in is answered before all nodes know of it.
    eventually("it is known who is there", async || {
        let (_scout, told) = signed_in(&b, KEY, "scout", &json!(["ivan", "petro"])).await;
        told == Some(json!({"online": ["ivan", "petro"]}))
    })
    .await;
    let (mut olha, told) = signed_in(&b, KEY, "olha", &json!(["ivan", "petro", "ivan", "olha"])).await;
    assert_eq!(told, Some(json!({"online": ["ivan", "petro", "olha"]})), "each once, itself among them");
    a.kill().await;
    assert_eq!(olha.watched().await, json!({"offline": ["ivan"]}), "petro has another connection");
    olha.is_quiet().await;
    // What is watched is nobody's channel, and no order ends it.
    let seen = b.api("admin", "/api/v1/connections?user=olha").await;
    assert_eq!(seen["items"][0]["channels"], json!([]), "{seen}");
    let unsubscribed = reqwest::Client::new()
        .post(format!("http://{}/api/unsubscribe", b.addr))
        .bearer_auth(World::token("admin"))
        .body(json!({"user": "olha", "channel": "#online-/ivan"}).to_string());
    unsubscribed.send().await.expect("answered");
    let (_again, _) = signed_in(&b, KEY, "ivan", &json!([])).await;
    assert_eq!(olha.watched().await, json!({"online": ["ivan"]}));
    olha.is_quiet().await;
}

/// The words were said while one node had no Redis to hear them from.
#[tokio::test]
async fn what_a_node_could_not_hear_is_told_when_it_is_back() {
    let mut world = World::new(1, true).await;
    let rules = rules().replace("subscription_counts = true", "watchlists = true");
    let a = world.hub_with("a", &rules).await;
    let (proxy, url) = world.redis.as_ref().expect("redis").proxy().await;
    world.redis_url = Some(url);
    let b = world.hub_with("b", &rules).await;
    let (ivan, _) = signed_in(&a, KEY, "ivan", &json!([])).await;
    let (mut olha, told) = signed_in(&b, KEY, "olha", &json!(["ivan", "petro"])).await;
    assert_eq!(told, Some(json!({"online": ["ivan"], "offline": ["petro"]})));
    proxy.refuse(true);
    proxy.cut();
    eventually("it has no Redis", async || b.metric("dzvin_bus_connected").await == 0.0).await;
    drop(ivan);
    let (mut petro, told) = signed_in(&a, KEY, "petro", &json!(["ivan"])).await;
    let told = match told {
        Some(told) if told == json!({"online": ["ivan"]}) => petro.watched().await,
        told => told.expect("told"),
    };
    assert_eq!(told, json!({"offline": ["ivan"]}), "it was said where it could be heard");
    proxy.refuse(false);
    assert_eq!(olha.watched().await, json!({"online": ["petro"]}));
    assert_eq!(olha.watched().await, json!({"offline": ["ivan"]}));
    olha.is_quiet().await;
}

#[tokio::test]
async fn a_watchlist_is_bounded_and_of_one_application() {
    let world = World::new(1, false).await;
    let rules = rules().replace("subscription_counts = true", "watchlists = true");
    let hub = world.hub_with("a", &rules).await;
    let many: Vec<String> = (0..150).map(|n| format!("user {n} \u{457}")).collect();
    let (mut olha, told) = signed_in(&hub, KEY, "olha", &json!(many)).await;
    assert_eq!(told.expect("told")["offline"].as_array().map(Vec::len), Some(100));
    // An isolated application's users are others, though their ids are the same.
    let (_own, _) = signed_in(&hub, "own-key", "user 1 \u{457}", &json!([])).await;
    // Beyond the bound, and within it.
    let (_over, _) = signed_in(&hub, KEY, "user 120 \u{457}", &json!([])).await;
    let (one, _) = signed_in(&hub, KEY, "user 2 \u{457}", &json!([])).await;
    assert_eq!(olha.watched().await, json!({"online": ["user 2 \u{457}"]}));
    // Channels of its own have the room that they always had.
    for n in 0..128 {
        assert_eq!(olha.subscribe(&format!("room.{n}")).await["event"], "pusher_internal:subscription_succeeded");
    }
    assert_eq!(olha.subscribe("room.128").await["data"]["status"], 429, "that limit is of channels");
    drop(one);
    assert_eq!(olha.watched().await, json!({"offline": ["user 2 \u{457}"]}));
    // Said again, nothing is told that was told.
    let (mut twice, of) = Socket::of(&hub, KEY).await;
    let user = json!({"id": "petro", "watchlist": ["olha"]}).to_string();
    sign_in(&mut twice, KEY, &of, &user).await;
    assert_eq!(twice.watched().await, json!({"online": ["olha"]}));
    sign_in(&mut twice, KEY, &of, &user).await;
    twice.is_quiet().await;
    drop((olha, twice, _own, _over));
    eventually("nothing is left of them", async || {
        hub.metric("dzvin_presence_clients").await == 0.0 && hub.metric("dzvin_channels").await == 0.0
    })
    .await;
    assert!(!hub.log().contains(SECRET));
}
