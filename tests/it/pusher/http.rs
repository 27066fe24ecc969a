//! The signed HTTP API: the unmodified npm `pusher` against a whole hub, and against the routes on a real Redis.

use std::{sync::Arc, time::Duration};

use axum::Router;
use dzvin::{
    channels::{
        bus::{RedisBus, RedisConfig},
        presence::{PresenceSettings, RedisPresence},
        pusher::http::{PusherApi, router},
    },
    identity::guard::Guard,
    platform::{
        config::Http,
        http::{HttpMetrics, Plumbing, plumb},
    },
};
use dzvin_actors::{
    channels::{App, Apps},
    platform::ports::{BusEvent, Member, MemberChange, Presence},
};
use dzvin_protocols::{
    channels::{
        Control,
        centrifuge::ClientInfo,
        pusher::{
            Credentials,
            http_api::{PublishLimits, sign_query},
        },
    },
    platform::StreamName,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::support::{eventually::patience, hub::World, node::Script, redis::Redis};

pub(super) const KEY: &str = "app-key";
pub(super) const SECRET: &str = "sixteen bytes of secret and more";

/// The npm library of servers, with a receiver of webhooks that refuses the first request.
pub(super) async fn library() -> Script {
    let patience = patience().as_millis().to_string();
    Script::start("pusher-server.mjs", &["--key", KEY, "--secret", SECRET, "--patience", &patience], None).await
}

async fn whole_hub(redis: bool) {
    let world = World::new(1, redis).await;
    let mut library = library().await;
    let hook = library.ask(json!({"ask": "hook"}), "hook").await;
    let app = format!(
        "[[pusher.apps]]\nid = \"main\"\nkeys = [{{ key = \"{KEY}\", secret = \"{SECRET}\" }}]\nclient_events = true\n\
         webhooks = [{{ url = {} }}]\n",
        hook["url"]
    );
    let hub = world.hub_with("a", &app).await;
    let report = library.ask(json!({"ask": "run", "url": format!("http://{}", hub.addr)}), "report").await;
    println!("{report}");
    assert_eq!(report["errors"], json!([]), "{report}");
    let mut all = vec![
        json!(["orders", "hi", {"n": 1.5, "text": "ї \"x\""}]),
        json!(["private-orders", "hi", {"n": 1.5, "text": "ї \"x\""}]),
        json!(["presence-room", "hi", {"n": 1.5, "text": "ї \"x\""}]),
        json!(["orders", "text", "plain ї"]),
        json!(["private-encrypted-orders", "hi", {"secret": "ї"}]),
    ];
    all.extend((1..=3).map(|n| json!(["orders", "batch", {"n": n}])));
    let last = json!(["orders", "hi", {"last": true}]);
    let only = |who: &str| {
        // Different channels are different streams: only within one is there an order.
        let mut heard = report["heard"][who].as_array().expect("a list").clone();
        let key = |it: &Value| it[0].as_str().map(ToOwned::to_owned);
        heard.sort_by_key(key);
        heard
    };
    let sorted = |mut all: Vec<Value>| {
        all.sort_by_key(|it: &Value| it[0].as_str().map(ToOwned::to_owned));
        all
    };
    let (mut a, mut b) = (all.clone(), all);
    a.push(last.clone());
    b.extend([json!(["orders", "hi", {"not": "for a"}]), last]);
    assert_eq!((only("a"), only("b")), (sorted(a), sorted(b)));
    let room = json!({"user_count": 2, "subscription_count": 2});
    assert_eq!(report["described"], json!({"channels": {"orders": {"subscription_count": 2}, "presence-room": room}}));
    assert_eq!(report["batch"], json!({}));
    let counts = &report["counts"];
    let names = ["orders", "presence-room", "private-encrypted-orders", "private-orders"];
    assert_eq!(counts["all"]["channels"].as_object().expect("channels").keys().collect::<Vec<_>>(), names);
    assert_eq!(counts["some"], json!({"channels": {"presence-room": room}}));
    assert_eq!(counts["one"], json!({"occupied": true, "user_count": 2, "subscription_count": 2}));
    assert_eq!((&counts["empty"], &counts["refused"]), (&json!({"occupied": false}), &json!(400)));
    assert_eq!(counts["users"], json!({"users": [{"id": "u1"}, {"id": "u2"}]}));
    assert_eq!(report["cache"], json!({"data": "{\"n\":7}", "ttl": true}));
    assert_eq!(report["note"], json!(["user", "note", {"x": 1}]));
    assert_eq!(report["sent_away"], json!({"a": "disconnected", "b": "connected"}));
    let hooks = &report["hooks"];
    assert_eq!((&hooks["invalid"], &hooks["refused"]), (&json!(0), &json!(1)), "signed, and sent again: {hooks}");
    let told = |event: Value| {
        let n = hooks["events"].as_array().expect("events").iter().filter(|it| **it == event).count();
        assert_eq!(n, 1, "{event} in {hooks}");
    };
    for name in names {
        told(json!({"name": "channel_occupied", "channel": name}));
    }
    for user in ["u1", "u2"] {
        told(json!({"name": "member_added", "channel": "presence-room", "user_id": user}));
        told(json!({"name": "member_removed", "channel": "presence-room", "user_id": user}));
    }
    told(json!({"name": "channel_vacated", "channel": "orders"}));
    told(json!({"name": "cache_miss", "channel": "private-cache-last"}));
    let client =
        hooks["events"].as_array().expect("events").iter().find(|it| it["name"] == "client_event").expect("told");
    assert_eq!(
        (&client["event"], &client["data"], &client["user_id"]),
        (&json!("client-typing"), &json!("{\"n\":1}"), &json!("u2"))
    );
    let log = hub.log();
    assert!(!log.contains(SECRET) && !log.contains("of-the-receiver"), "no secret is logged");
}

#[tokio::test]
async fn the_library_of_servers_is_served_in_memory() {
    whole_hub(false).await;
}

#[tokio::test]
async fn the_library_of_servers_is_served_over_redis() {
    whole_hub(true).await;
}

/// The routes on a real Redis, with presence as the test says.
#[tokio::test]
async fn channels_are_described_out_of_redis_and_nothing_is_acknowledged_without_it() {
    let mut redis = Redis::start().await;
    let (events, mut told) = mpsc::channel(1024);
    let mut config = RedisConfig::new(&redis.url(), "dz").expect("a url");
    config.command_timeout = Duration::from_millis(300);
    let bus = RedisBus::new(config, events);
    tokio::time::timeout(patience(), bus.connected()).await.expect("connected");
    let presence = Arc::new(RedisPresence::new(&bus, PresenceSettings::default()));
    presence.renew().await.expect("alive");
    let [orders, room] = ["orders", "presence-room"].map(StreamName::from_checked);
    presence.occupy(&orders, 1, 3).await.expect("told");
    presence.occupy(&room, 1, 3).await.expect("told");
    let member = |(client, user): (&str, &str)| {
        let info = ClientInfo { user: user.into(), client: client.into(), conn_info: None, chan_info: None };
        MemberChange::Enter(Arc::new(Member { info, told: true, shown: true }))
    };
    presence.change(&room, 2, &[("1", "u1"), ("2", "u2"), ("3", "u1")].map(member)).await.expect("told");
    let apps = Apps::default();
    let credentials = Credentials::new(KEY, SECRET).expect("credentials");
    apps.replace(vec![App::new("main", vec![credentials.clone()]).expect("app")]).expect("apps");
    let bus = Arc::new(bus);
    let api = PusherApi {
        apps,
        bus: Arc::clone(&bus),
        presence,
        namespaces: Arc::default(),
        limits: PublishLimits::default(),
        guard: Guard::default(),
    };
    let routes: Router = plumb(router(api), Plumbing::new(&Http::default(), HttpMetrics::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let counts = library().await.ask(json!({"ask": "counts", "url": format!("http://{address}")}), "counts").await;
    assert_eq!(counts["all"], json!({"channels": {"orders": {}, "presence-room": {}}}));
    assert_eq!(counts["some"], json!({"channels": {"presence-room": {"user_count": 2, "subscription_count": 3}}}));
    assert_eq!(counts["users"], json!({"users": [{"id": "u1"}, {"id": "u2"}]}));

    let post = async |path: &str, body: &str| {
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");
        let query = sign_query("POST", path, &[], body.as_bytes(), &credentials, now);
        let request = reqwest::Client::new().post(format!("http://{address}{path}?{query}")).body(body.to_owned());
        request.send().await.expect("answered").status().as_u16()
    };
    let event = r#"{"name":"a","data":"d","channel":"orders"}"#;
    assert_eq!(post("/apps/main/events", event).await, 200);
    assert_eq!(post("/apps/main/users/u1/terminate_connections", "{}").await, 200);
    let order = order(&mut told).await;
    assert!(matches!(order, Control::Disconnect { code: 3503, .. }), "{order:?}");
    redis.kill();
    assert_eq!(post("/apps/main/events", event).await, 503);
    assert_eq!(post("/apps/main/users/u1/terminate_connections", "{}").await, 503);
}

/// What this node is told to do.
async fn order(told: &mut mpsc::Receiver<BusEvent>) -> Control {
    let heard = async {
        loop {
            if let Some(BusEvent::Told(word)) = told.recv().await
                && let Ok(order) = Control::decode(&word)
            {
                return order;
            }
        }
    };
    tokio::time::timeout(patience(), heard).await.expect("told in time")
}
