//! The whole router behind its plumbing, on a real bus in memory and a double of presence.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use dzvin_actors::{
    channels::{App, AppRules, ChannelRules, PaceRules},
    platform::ports::{
        Across, Buried, BusError, BusEvent, Changed, ChannelPace, Counts, Grave, HistoryLimits, Life, Member,
        MemberChange, MemberPage, Occupied, ReadLimit,
    },
};
use dzvin_protocols::{
    channels::{
        Control,
        centrifuge::ClientInfo,
        pusher::{Credentials, SocketId, encode_publication, http_api::sign_query},
    },
    platform::StreamName,
};
use serde_json::{Value, json as value};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::*;
use crate::{
    channels::{
        bus::MemoryBus,
        presence::{MemoryPresence, PresenceSettings},
    },
    platform::{
        config::Http,
        http::{HttpMetrics, Plumbing, plumb},
    },
};

/// Presence that can be away.
#[derive(Debug)]
struct Census {
    store: MemoryPresence,
    tickets: AtomicU64,
    away: AtomicBool,
}

impl Census {
    fn new() -> Self {
        let store = MemoryPresence::new(PresenceSettings::default());
        Self { store, tickets: AtomicU64::new(0), away: AtomicBool::new(false) }
    }

    /// So many subscribers, and a client for each of these users.
    async fn set(&self, channel: &str, subscribers: u64, users: &[&str]) {
        self.store.renew().await.expect("alive");
        let (stream, ticket) = (StreamName::from_checked(channel), || self.tickets.fetch_add(1, Relaxed) + 1);
        self.store.occupy(&stream, ticket(), subscribers).await.expect("told");
        let member = |(n, user): (usize, &&str)| {
            let info =
                ClientInfo { user: (*user).into(), client: format!("c{n}").into(), conn_info: None, chan_info: None };
            MemberChange::Enter(Arc::new(Member { info, told: true, shown: true }))
        };
        let changes: Vec<_> = users.iter().enumerate().map(member).collect();
        self.store.change(&stream, ticket(), &changes).await.expect("told");
    }

    fn here(&self) -> Result<&MemoryPresence, BusError> {
        if self.away.load(Relaxed) { Err(BusError { doing: "asking", source: "away".into() }) } else { Ok(&self.store) }
    }
}

impl Presence for Census {
    fn begin(&self) {
        self.store.begin();
    }
    async fn renew(&self) -> Result<Life, BusError> {
        self.here()?.renew().await
    }
    fn is_shared(&self) -> bool {
        true
    }

    async fn resign(&self) -> Result<(), BusError> {
        self.here()?.resign().await
    }
    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        self.here()?.change(channel, ticket, changes).await
    }
    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        self.here()?.occupy(channel, ticket, subscribers).await
    }
    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        self.here()?.counts(channel).await
    }
    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        self.here()?.members(channel, from, limit).await
    }
    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        self.here()?.turn(channel, every).await
    }
    async fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        self.here()?.channels(prefix, after, limit).await
    }
    async fn bury(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        self.here()?.bury(limit).await
    }
    async fn close(&self, channel: &StreamName, grave: &Grave) -> Result<(), BusError> {
        self.here()?.close(channel, grave).await
    }
}

struct Kit {
    router: Router,
    bus: Arc<MemoryBus>,
    events: Mutex<mpsc::Receiver<BusEvent>>,
    census: Arc<Census>,
    apps: Apps,
}

const NOW: fn() -> i64 = || i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");

fn credentials(app: &str) -> Credentials {
    Credentials::new(&format!("key-{app}"), &format!("the secret of {app}")).expect("credentials")
}

impl Kit {
    fn new() -> Self {
        Self::of(Namespaces::default())
    }

    fn of(namespaces: Namespaces) -> Self {
        let (open, mut own) =
            (App::new("1", vec![credentials("1")]).expect("app"), App::new("2", vec![credentials("2")]).expect("app"));
        own.isolated = true;
        let apps = Apps::default();
        apps.replace(vec![open, own]).expect("apps");
        let (events, told) = mpsc::channel(1024);
        let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), events));
        let census = Arc::new(Census::new());
        let api = PusherApi {
            apps: apps.clone(),
            bus: Arc::clone(&bus),
            presence: Arc::clone(&census),
            namespaces: Arc::new(namespaces),
            limits: PublishLimits::default(),
        };
        let router = plumb(router(api), Plumbing::new(&Http::default(), HttpMetrics::default()));
        Self { router, bus, events: Mutex::new(told), census, apps }
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(target).body(Body::from(body.to_owned())).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            assert!(response.headers().contains_key("www-authenticate"));
        }
        let body = to_bytes(response.into_body(), 1 << 24).await.expect("a body");
        (status.as_u16(), serde_json::from_slice(&body).expect("json"))
    }

    async fn signed(
        &self,
        app: &str,
        method: &str,
        path: &str,
        parameters: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let path = format!("/apps/{app}{path}");
        let query = sign_query(method, &path, parameters, body.as_bytes(), &credentials(app), NOW());
        self.send(method, &format!("{path}?{query}"), body).await
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        self.signed("1", "GET", path, parameters, "").await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.signed("1", "POST", path, &[], &body.to_string()).await
    }

    /// What a client of the Pusher protocol receives of a stream.
    async fn heard(&self, stream: &str) -> Vec<Value> {
        let limit = ReadLimit { count: 1000, bytes: 1 << 24 };
        let slice = self.bus.read(&StreamName::from_checked(stream), 0, limit).await.expect("the bus");
        let all = slice.map(|slice| slice.publications).unwrap_or_default();
        all.iter().map(|it| serde_json::from_slice(&encode_publication("c", it)).expect("json")).collect()
    }
}

#[tokio::test]
async fn an_event_reaches_each_of_its_channels_as_the_text_that_was_given() {
    let kit = Kit::new();
    for data in [r#"{"a": 1.50}"#, "plain ї text", r#""a string""#, "", "7", "{\n \"pretty\": true\n}", " 1"] {
        let (status, answer) =
            kit.post("/events", value!({"name":"hello","data":data,"channels":["x","private-y","x"]})).await;
        assert_eq!((status, answer), (200, value!({})));
        for stream in ["x", "private-y"] {
            let heard = kit.heard(stream).await;
            assert_eq!(heard.last(), Some(&value!({"event":"hello","channel":"c","data":data})), "{stream}");
        }
    }
    assert_eq!(kit.heard("x").await.len(), 7, "each channel once");
    let (status, _) =
        kit.post("/events", value!({"name":"a","data":"d","channel":"#server-to-user-7","socket_id":"1.2"})).await;
    assert_eq!((status, kit.heard("#server-to-user-7").await.len()), (200, 1));
    let limit = ReadLimit { count: 1, bytes: 1 };
    let slice = kit
        .bus
        .read(&StreamName::from_checked("#server-to-user-7"), 0, limit)
        .await
        .expect("the bus")
        .expect("a stream");
    let except = slice.publications[0].extra.as_ref().and_then(|extra| extra.except.clone());
    assert_eq!(except.as_deref(), SocketId::parse("1.2").as_ref().map(SocketId::as_str));
    // The older form.
    let legacy = |parameters: &'static [(&str, &str)], body: &'static str| {
        kit.signed("1", "POST", "/channels/old/events", parameters, body)
    };
    assert_eq!(legacy(&[("name", "hi"), ("socket_id", "1.2")], r#"{"n":1}"#).await, (200, value!({})));
    assert_eq!(kit.heard("old").await, [value!({"event":"hi","channel":"c","data":"{\"n\":1}"})]);
    assert_eq!(legacy(&[], "{}").await.0, 400, "an event has a name");
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_is_all_or_nothing() {
    let kit = Kit::new();
    let event = |n: usize, channel: &str| value!({"name":format!("e{n}"),"data":n.to_string(),"channel":channel});
    let all: Vec<Value> = (0..10).map(|n| event(n, "x")).collect();
    assert_eq!(kit.post("/batch_events", value!({"batch":all})).await, (200, value!({})));
    let names: Vec<_> =
        kit.heard("x").await.iter().map(|it| it["event"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(names, (0..10).map(|n| format!("e{n}")).collect::<Vec<_>>());
    for bad in [event(1, "a b"), event(1, "private-entities.procedure"), event(1, "entity.procedure.x")] {
        assert_eq!(kit.post("/batch_events", value!({"batch":[event(0, "y"), bad]})).await.0, 400);
    }
    let many: Vec<Value> = (0..11).map(|n| event(n, "y")).collect();
    assert_eq!(kit.post("/batch_events", value!({"batch":many})).await.0, 400);
    assert!(kit.heard("y").await.is_empty());
}

#[tokio::test]
async fn what_is_too_much_is_refused_by_its_status() {
    let kit = Kit::new();
    let event = |data: usize| value!({"name":"a","data":"x".repeat(data),"channel":"x"});
    assert_eq!(kit.post("/events", event(10 * 1024)).await.0, 200);
    let (status, answer) = kit.post("/events", event(10 * 1024 + 1)).await;
    assert_eq!((status, &answer["code"]), (413, &value!("event_too_large")));
    let (status, answer) = kit.post("/events", event(2 << 20)).await;
    assert_eq!((status, &answer["code"]), (413, &value!("body_too_large")));
    let channels = |n: usize| (0..n).map(|n| format!("c{n}")).collect::<Vec<_>>();
    assert_eq!(kit.post("/events", value!({"name":"a","data":"","channels":channels(100)})).await.0, 200);
    assert_eq!(kit.post("/events", value!({"name":"a","data":"","channels":channels(101)})).await.0, 400);
    for bad in ["", "{", "[]", r#"{"name":"a","data":"b"}"#, r#"{"name":"pusher:error","data":"b","channel":"x"}"#] {
        let (status, answer) = kit.signed("1", "POST", "/events", &[], bad).await;
        assert_eq!((status, &answer["code"]), (400, &value!("bad_request")), "{bad}");
        assert!(answer["detail"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

#[tokio::test]
async fn whoever_does_not_sign_is_refused() {
    let kit = Kit::new();
    let (body, path) = (r#"{"name":"a","data":"b","channel":"x"}"#, "/apps/1/events");
    let sign = |method: &str, path: &str, body: &str, now: i64| {
        sign_query(method, path, &[], body.as_bytes(), &credentials("1"), now)
    };
    let good = sign("POST", path, body, NOW());
    assert_eq!(kit.send("POST", &format!("{path}?{good}"), body).await.0, 200);
    let without = |key: &str| good.split('&').filter(|pair| !pair.starts_with(key)).collect::<Vec<_>>().join("&");
    let stranger = sign_query("POST", path, &[], body.as_bytes(), &credentials("9"), NOW());
    let forged =
        sign_query("POST", path, &[], body.as_bytes(), &Credentials::new("key-1", "a guess").expect("key"), NOW());
    let others = sign_query("POST", path, &[], body.as_bytes(), &credentials("2"), NOW());
    for (query, body, what) in [
        (String::new(), body, "nothing"),
        (without("auth_key"), body, "no key"),
        (without("auth_signature"), body, "no signature"),
        (without("auth_timestamp"), body, "no time"),
        (without("auth_version"), body, "no version"),
        (without("body_md5"), body, "no sum"),
        (good.replace("auth_version=1.0", "auth_version=2.0"), body, "another version"),
        (good.clone(), "{}", "another body"),
        (good.clone(), "", "no body"),
        (sign("POST", path, body, NOW() - 700), body, "too old"),
        (sign("POST", path, body, NOW() + 700), body, "from the future"),
        (sign("POST", path, body, i64::MIN), body, "before time"),
        (good.replace("auth_timestamp=", "auth_timestamp=x"), body, "no number"),
        (sign("GET", path, body, NOW()), body, "another method"),
        (sign("POST", "/apps/1/batch_events", body, NOW()), body, "another path"),
        (sign("POST", "/APPS/1/events", body, NOW()), body, "a path in another case"),
        (format!("{good}&info=user_count"), body, "a parameter more"),
        (good.to_uppercase().replace("AUTH_", "auth_").replace("BODY_MD5", "body_md5"), body, "another case"),
        (stranger, body, "a stranger"),
        (forged, body, "another secret"),
        (others, body, "another application"),
    ] {
        let (status, answer) = kit.send("POST", &format!("{path}?{query}"), body).await;
        assert_eq!((status, &answer["code"]), (401, &value!("bad_signature")), "{what}: {answer}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
    for (query, what) in [
        (format!("{good}&auth_key=key-1"), "a key twice"),
        (format!("{good}&AUTH_KEY=key-2"), "a key twice in another case"),
        (good.replace("auth_key=", "auth_key=%zz"), "a broken escape"),
        (format!("{good}&{}", "x".repeat(9000)), "a long query"),
    ] {
        assert_eq!(kit.send("POST", &format!("{path}?{query}"), body).await.0, 400, "{what}");
    }
    let at = |target: &str| sign("POST", target, body, NOW());
    assert_eq!(
        kit.send("POST", &format!("/apps/9/events?{}", at("/apps/9/events")), body).await.0,
        401,
        "no such application"
    );
    assert_eq!(
        kit.send("POST", &format!("/apps//events?{}", at("/apps//events")), body).await.0,
        401,
        "nor of this name"
    );
    for nowhere in ["/Apps/1/events", "/apps/1/Events", "/apps/1/events/", "/apps/1", "/apps/1/users/7"] {
        assert_eq!(kit.send("POST", &format!("{nowhere}?{}", at(nowhere)), body).await.0, 404, "{nowhere}");
    }
    assert_eq!(kit.send("GET", &format!("{path}?{good}"), "").await.0, 405);
    assert_eq!(kit.heard("x").await.len(), 1, "nothing but the good one was published");

    // Two keys at once, and an application that is switched off.
    let mut app = App::new("1", vec![credentials("new"), credentials("1")]).expect("app");
    kit.apps.replace(vec![app.clone()]).expect("apps");
    assert_eq!(
        kit.send("POST", &format!("{path}?{good}"), body).await.0,
        200,
        "the old key is alive, and there is no nonce"
    );
    app.enabled = false;
    kit.apps.replace(vec![app]).expect("apps");
    let (status, answer) = kit.send("POST", &format!("{path}?{good}"), body).await;
    assert_eq!((status, &answer["code"]), (403, &value!("app_disabled")));
    assert_eq!(kit.send("POST", &format!("{path}?{}", without("auth_signature")), body).await.0, 401);
}

#[tokio::test]
async fn channels_are_described() {
    let kit = Kit::new();
    kit.census.set("x", 3, &[]).await;
    kit.census.set("xx", 1, &[]).await;
    kit.census.set("presence-x", 3, &["10", "оля", "10"]).await;
    kit.census.set("entities.procedure", 9, &[]).await;
    kit.census.set("#server-to-user-7", 1, &[]).await;
    kit.census.set("/2/x", 5, &[]).await;
    kit.census.set("/2/presence-y", 2, &["8"]).await;
    for (parameters, want) in [
        (&[][..], value!({"channels":{"presence-x":{},"x":{},"xx":{}}})),
        (&[("filter_by_prefix", "x")], value!({"channels":{"x":{},"xx":{}}})),
        (&[("filter_by_prefix", "none")], value!({"channels":{}})),
        (
            &[("filter_by_prefix", "presence-"), ("info", "user_count,subscription_count")],
            value!({"channels":{"presence-x":{"user_count":2,"subscription_count":3}}}),
        ),
    ] {
        assert_eq!(kit.get("/channels", parameters).await, (200, want), "{parameters:?}");
    }
    assert_eq!(kit.get("/channels", &[("info", "user_count")]).await.0, 400);
    for (path, info, want) in [
        ("/channels/x", "", value!({"occupied":true})),
        ("/channels/nobody", "subscription_count", value!({"occupied":false,"subscription_count":0})),
        ("/channels/xx", "subscription_count", value!({"occupied":true,"subscription_count":1})),
        (
            "/channels/presence-x",
            "user_count,subscription_count",
            value!({"occupied":true,"user_count":2,"subscription_count":3}),
        ),
    ] {
        assert_eq!(kit.get(path, &[("info", info)]).await, (200, want), "{path}");
    }
    for (path, info) in [
        ("/channels/x", "user_count"),
        ("/channels/x", "cache"),
        ("/channels/x", "nonsense"),
        ("/channels/a%20b", ""),
        ("/channels/entities.procedure", ""),
        ("/channels/private-entities.procedure", "subscription_count"),
        ("/channels/x/users", ""),
        ("/channels/%2F2%2Fx", ""),
    ] {
        assert_eq!(kit.get(path, &[("info", info)]).await.0, 400, "{path} {info}");
    }
    assert_eq!(kit.get("/channels/presence-x/users", &[]).await, (200, value!({"users":[{"id":"10"},{"id":"оля"}]})));
    assert_eq!(kit.get("/channels/presence-nobody/users", &[]).await, (200, value!({"users":[]})));
    let own = |path: &'static str| kit.signed("2", "GET", path, &[], "");
    assert_eq!(own("/channels").await, (200, value!({"channels":{"presence-y":{},"x":{}}})));
    assert_eq!(own("/channels/presence-y/users").await, (200, value!({"users":[{"id":"8"}]})));
    assert_eq!(own("/channels/xx").await, (200, value!({"occupied":false})));
    assert_eq!(own("/channels/private-entities.procedure").await.0, 400, "the hub's own are not in its set");

    let asked = value!({"name":"a","data":"d","channels":["presence-x","x"],"info":"user_count,subscription_count"});
    let told = value!({"channels":{"presence-x":{"user_count":2,"subscription_count":3},"x":{"subscription_count":3}}});
    assert_eq!(kit.post("/events", asked.clone()).await, (200, told));
    let batch = value!({"batch":[{"name":"a","data":"d","channel":"x"},{"name":"a","data":"d","channel":"presence-x","info":"user_count"}]});
    assert_eq!(kit.post("/batch_events", batch).await, (200, value!({"batch":[{},{"user_count":2}]})));
    // What is published stays so when nobody can say who hears it; questions are refused.
    kit.census.away.store(true, Relaxed);
    assert_eq!(kit.post("/events", asked).await, (200, value!({"channels":{"presence-x":{},"x":{}}})));
    assert_eq!(kit.heard("x").await.len(), 3);
    for path in ["/channels", "/channels/x", "/channels/presence-x/users"] {
        let (status, answer) = kit.get(path, &[]).await;
        assert_eq!((status, &answer["code"]), (503, &value!("bus_unavailable")), "{path}");
    }
}

#[tokio::test]
async fn a_cache_channel_shows_its_last_event() {
    let kit = Kit::new();
    let ask = || kit.get("/channels/cache-x", &[("info", "cache")]);
    assert_eq!(ask().await, (200, value!({"occupied":false,"cache":null})));
    for data in ["first", r#"{"a":1.50}"#] {
        kit.post("/events", value!({"name":"a","data":data,"channel":"cache-x"})).await;
    }
    let (_, answer) = ask().await;
    assert_eq!(answer["cache"]["data"], r#"{"a":1.50}"#);
    assert!((1790..=1800).contains(&answer["cache"]["ttl"].as_u64().expect("seconds")), "{answer}");
    let mut app = App::new("1", vec![credentials("1")]).expect("app");
    app.rules = AppRules { cache_age: Duration::ZERO, ..AppRules::default() };
    kit.apps.replace(vec![app]).expect("apps");
    assert_eq!(ask().await, (200, value!({"occupied":false,"cache":null})), "what is too old is not shown");
}

#[tokio::test]
async fn a_user_is_sent_away_on_every_node() {
    let kit = Kit::new();
    // Libraries sign the path as they are given it, and send it escaped.
    for (app, plain, escaped, user) in [
        ("1", "7", "7", "7"),
        ("1", "оля", "%D0%BE%D0%BB%D1%8F", "оля"),
        ("1", "a b", "a%20b", "a b"),
        ("2", "7", "7", "\u{1f}2\u{1f}7"),
    ] {
        let path = |user| format!("/apps/{app}/users/{user}/terminate_connections");
        let query = sign_query("POST", &path(plain), &[], b"{}", &credentials(app), NOW());
        assert_eq!(kit.send("POST", &format!("{}?{query}", path(escaped)), "{}").await, (200, value!({})));
        let told = kit.events.lock().unwrap().try_recv().expect("told");
        let BusEvent::Told(word) = told else { panic!("{told:?}") };
        let Ok(Control::Disconnect { whose, code, .. }) = Control::decode(&word) else { panic!("{word:?}") };
        assert_eq!((whose.user.as_deref(), code), (Some(user), 3503));
        assert!(whose.client.is_none() && whose.except.is_empty());
    }
    let long = format!("/users/{}/terminate_connections", "x".repeat(129));
    assert_eq!(kit.signed("1", "POST", &long, &[], "{}").await.0, 400);
    assert!(kit.events.lock().unwrap().try_recv().is_err(), "nobody else");
}

#[tokio::test]
async fn isolated_applications_have_channels_of_their_own() {
    let kit = Kit::new();
    let event = value!({"name":"a","data":"d","channels":["x","#server-to-user-7"]}).to_string();
    assert_eq!(kit.signed("2", "POST", "/events", &[], &event).await.0, 200);
    assert_eq!(kit.heard("/2/x").await.len(), 1);
    assert_eq!(kit.heard("/2/#server-to-user-7").await.len(), 1);
    assert!(kit.heard("x").await.is_empty() && kit.heard("#server-to-user-7").await.is_empty());
}

/// Ids of users are the application's own, and have none of its prefix inside the hub.
#[tokio::test]
async fn users_of_an_isolated_application_are_listed_as_they_are_called() {
    let kit = Kit::new();
    kit.census.set("/2/presence-x", 3, &["/2/7", "7", "8"]).await;
    let listed = kit.signed("2", "GET", "/channels/presence-x/users", &[], "").await;
    assert_eq!(listed, (200, value!({"users": [{"id": "/2/7"}, {"id": "7"}, {"id": "8"}]})));
}

/// A batch that can never pass is said to be one, and nothing of it is published.
#[tokio::test]
async fn a_batch_above_the_pace_of_a_channel_is_refused_for_good() {
    let pace = ChannelPace { per_second: 3, across: Across::Node };
    let slow = ChannelRules { pace: Some(PaceRules { pace, only: None }), ..ChannelRules::default() };
    let kit = Kit::of(Namespaces::new(ChannelRules::default(), [("slow".to_owned(), slow)].into()));
    let batch = |slow: usize| {
        let event = |channel: &str| value!({"name": "n", "channel": channel, "data": "{}"});
        let others = ["slow.2", "other.1", "other.1", "other.1", "other.1"].map(event);
        let events: Vec<Value> = std::iter::repeat_n(event("slow.1"), slow).chain(others).collect();
        value!({ "batch": events })
    };
    for _ in 0..2 {
        let (status, answer) = kit.post("/batch_events", batch(4)).await;
        assert_eq!((status, &answer["code"]), (400, &value!("batch_above_pace")), "{answer}");
        assert!(answer["detail"].as_str().is_some_and(|it| it.contains("slow.1") && it.contains('3')), "{answer}");
    }
    for channel in ["slow.1", "slow.2", "other.1"] {
        assert_eq!(kit.heard(channel).await.len(), 0, "{channel}");
    }
    // As many as the channel may have pass together, and the next time gives them back.
    assert_eq!(kit.post("/batch_events", batch(3)).await, (200, value!({})));
    assert_eq!((kit.heard("slow.1").await.len(), kit.heard("other.1").await.len()), (3, 4));
    let (status, answer) = kit.post("/batch_events", batch(3)).await;
    assert_eq!((status, &answer["code"]), (429, &value!("too_many_publications")), "{answer}");
}
