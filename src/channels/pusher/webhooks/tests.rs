//! Against real receivers over real sockets.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use dzvin_actors::{
    channels::{App, Webhook as Hook},
    supervise::{Backoff, Settings, Supervisor, SupervisorMetrics},
};
use dzvin_protocols::channels::pusher::{Credentials, KEY_HEADER, SIGNATURE_HEADER};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// What a receiver does with a request.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Status(u16),
    /// Answers after so long.
    Slow(Duration),
    Redirect,
    /// A body without an end.
    Endless,
}

#[derive(Debug, Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    taken: Arc<Mutex<Vec<Value>>>,
    moods: Arc<Mutex<VecDeque<Mood>>>,
    at_once: Arc<Mutex<(usize, usize)>>,
}

impl Receiver {
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address");
        let app = Router::new().route("/hook", post(hear)).route("/elsewhere", post(hear)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, format!("http://{address}/hook?token=hunter2"))
    }

    fn feels(&self, moods: impl IntoIterator<Item = Mood>) {
        *self.moods.lock().unwrap() = moods.into_iter().collect();
    }

    fn attempts(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Channels of the events that were taken, in order.
    fn channels(&self) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let events = taken.iter().flat_map(|body| body["events"].as_array().expect("events").clone());
        events.map(|event| event["channel"].as_str().expect("a channel").to_owned()).collect()
    }

    fn bodies(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

async fn hear(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let _inside = Inside::new(&receiver);
    receiver.seen.lock().unwrap().push((headers, body.clone()));
    let mood = receiver.moods.lock().unwrap().pop_front().unwrap_or(Mood::Status(200));
    let response = match mood {
        Mood::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Mood::Redirect => return Redirect::temporary("/elsewhere").into_response(),
        Mood::Slow(wait) => {
            tokio::time::sleep(wait).await;
            StatusCode::OK.into_response()
        }
        Mood::Endless => {
            let endless =
                futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 8192])));
            axum::body::Body::from_stream(endless).into_response()
        }
    };
    if response.status().is_success() {
        receiver.taken.lock().unwrap().push(serde_json::from_slice(&body).expect("json"));
    }
    response
}

struct Inside(Receiver);

impl Inside {
    fn new(receiver: &Receiver) -> Self {
        let mut at_once = receiver.at_once.lock().unwrap();
        at_once.0 += 1;
        at_once.1 = at_once.1.max(at_once.0);
        Self(receiver.clone())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

fn app(id: &str, urls: &[&str]) -> App {
    let mut app = App::new(id, vec![Credentials::new("key", &format!("secret of {id}")).expect("key")]).expect("app");
    app.webhooks = urls.iter().map(|url| Hook { url: (*url).into(), events: vec![] }).collect();
    app
}

fn quick() -> WebhookLimits {
    WebhookLimits {
        gather: Duration::from_millis(20),
        backoff: Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(20) },
        patience: Duration::from_secs(60),
        attempt: Duration::from_secs(5),
        ..WebhookLimits::default()
    }
}

struct Sending {
    notices: Notices,
    apps: Apps,
    root: Supervisor,
    registry: Registry,
    supervision: SupervisorMetrics,
}

impl Sending {
    async fn start(apps: Vec<App>, limits: WebhookLimits) -> Self {
        let all = Apps::default();
        all.replace(apps).expect("apps");
        let mut registry = Registry::default();
        let (notices, told) = Notices::new();
        let args = WebhookArgs::new(all.clone(), (notices.clone(), told), limits).expect("args");
        args.register(&mut registry);
        let supervision = SupervisorMetrics::default();
        let settings = Settings { name: "root".into(), grace: Duration::from_secs(5) };
        let root = Supervisor::root(settings, supervision.clone()).await.expect("root");
        root.start(args.child()).await.expect("started");
        let it = Self { notices, apps: all, root, registry, supervision };
        eventually(async || it.notices.are_heard()).await;
        it
    }

    fn tell(&self, channel: &str) {
        self.notices.tell(WebhookEvent::ChannelOccupied { channel: channel.into() });
    }

    /// The value of a metric, all its labels summed that hold `label`.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        let of = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let looked = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(30), looked).await.expect("in time");
}

#[tokio::test]
async fn events_are_told_together_and_signed() {
    let (receiver, url) = Receiver::start().await;
    let it =
        Sending::start(vec![app("a", &[&url])], WebhookLimits { gather: Duration::from_millis(200), ..quick() }).await;
    it.notices.tell(WebhookEvent::client_event("presence-x", "client-a", None, "1.2", Some("10")));
    it.tell("presence-x");
    eventually(async || receiver.bodies() > 0).await;
    let (headers, body) = receiver.seen.lock().unwrap()[0].clone();
    let credentials = Credentials::new("key", "secret of a").expect("key");
    assert_eq!(headers[KEY_HEADER], "key");
    assert!(credentials.verify(&[&body], headers[SIGNATURE_HEADER].to_str().expect("text")));
    assert_eq!(headers["content-type"], "application/json");
    let body: Value = serde_json::from_slice(&body).expect("json");
    assert!(body["time_ms"].as_u64() > Some(1_700_000_000_000));
    let client =
        json!({"name":"client_event","channel":"presence-x","event":"client-a","socket_id":"1.2","user_id":"10"});
    assert_eq!(body["events"], json!([client, {"name":"channel_occupied","channel":"presence-x"}]), "in one batch");
    eventually(async || it.metric("webhook_events_total", "app=\"a\"") == 2.0).await;
    assert_eq!((it.metric("webhook_waiting{", ""), it.metric("webhook_waiting_bytes", "")), (0.0, 0.0));
}

#[tokio::test]
async fn a_batch_has_limits() {
    let (receiver, url) = Receiver::start().await;
    let limits = WebhookLimits { batch_events: 10, batch_bytes: 2_000, ..quick() };
    let it = Sending::start(vec![app("a", &[&url])], limits).await;
    for n in 0..35 {
        it.tell(&format!("c{n}"));
    }
    eventually(async || receiver.channels().len() == 35).await;
    assert_eq!(receiver.channels(), (0..35).map(|n| format!("c{n}")).collect::<Vec<_>>());
    assert!(receiver.bodies() >= 4);
    for n in 0..6 {
        it.tell(&format!("{n}{}", "y".repeat(190)));
        it.notices.tell(WebhookEvent::client_event(
            "private-x",
            "client-a",
            Some(&serde_json::value::to_raw_value(&"z".repeat(900)).expect("json")),
            "1.2",
            None,
        ));
    }
    // Larger than a batch may be alone: it is told all the same.
    let large = serde_json::value::to_raw_value(&"z".repeat(5_000)).expect("json");
    it.notices.tell(WebhookEvent::client_event("private-y", "client-a", Some(&large), "1.2", None));
    eventually(async || receiver.channels().len() == 48).await;
    let sizes: Vec<usize> = receiver.seen.lock().unwrap().iter().map(|(_, body)| body.len()).collect();
    assert_eq!(sizes.iter().filter(|size| **size > 2_000).count(), 1, "{sizes:?}");
    assert!(
        receiver.taken.lock().unwrap().iter().all(|body| body["events"].as_array().is_some_and(|all| all.len() <= 10))
    );
}

#[tokio::test]
async fn what_is_not_taken_is_told_again_the_same_and_in_order() {
    let (receiver, url) = Receiver::start().await;
    use Mood::{Endless, Redirect, Slow, Status};
    let late = Slow(Duration::from_secs(30));
    receiver.feels([Status(500), Status(404), Redirect, late, Status(429), Status(200), Endless]);
    let it =
        Sending::start(vec![app("a", &[&url])], WebhookLimits { attempt: Duration::from_secs(2), ..quick() }).await;
    it.tell("first");
    eventually(async || receiver.attempts() > 0).await;
    it.tell("second");
    it.tell("third");
    eventually(async || receiver.channels().len() == 3).await;
    assert_eq!(receiver.channels(), ["first", "second", "third"]);
    assert_eq!(receiver.attempts(), 7, "an answer without an end is an answer, and a redirection is not followed");
    let seen = receiver.seen.lock().unwrap().clone();
    for (headers, body) in &seen[1..6] {
        assert_eq!((body, &headers[SIGNATURE_HEADER]), (&seen[0].1, &seen[0].0[SIGNATURE_HEADER]), "the same batch");
    }
    for (result, n) in [("ok", 2.0), ("failed", 1.0), ("refused", 2.0), ("redirected", 1.0), ("unreachable", 1.0)] {
        eventually(async || it.metric("webhook_attempts_total", &format!("result=\"{result}\"")) == n).await;
    }
}

#[tokio::test]
async fn a_receiver_that_is_slow_or_away_delays_no_other_and_has_one_request_at_a_time() {
    let ((good, good_url), (slow, slow_url)) = (Receiver::start().await, Receiver::start().await);
    slow.feels([Mood::Slow(Duration::from_secs(3)), Mood::Slow(Duration::from_secs(3))]);
    let limits = WebhookLimits { batch_events: 1, ..quick() };
    // Nobody listens on port 9; both applications tell the slow receiver.
    let apps = vec![app("a", &["http://127.0.0.1:9/", &slow_url, &good_url]), {
        let mut b = app("b", &[&slow_url]);
        b.keys = vec![Credentials::new("other", "secret of b").expect("key")];
        b
    }];
    let it = Sending::start(apps, limits).await;
    for n in 0..20 {
        it.tell(&format!("c{n}"));
    }
    eventually(async || good.channels().len() == 20).await;
    assert!(slow.bodies() == 0, "the others did not wait for it");
    eventually(async || slow.channels().len() == 40).await;
    assert_eq!(slow.at_once.lock().unwrap().1, 1);
    assert_eq!(good.at_once.lock().unwrap().1, 1);
    assert!(it.metric("webhook_attempts", "unreachable") > 1.0);
}

#[tokio::test]
async fn a_batch_is_given_up_after_its_time_and_the_next_one_has_its_own() {
    let (receiver, url) = Receiver::start().await;
    receiver.feels([Mood::Status(503); 10_000]);
    let it =
        Sending::start(vec![app("a", &[&url])], WebhookLimits { patience: Duration::from_secs(1), ..quick() }).await;
    it.tell("lost");
    eventually(async || it.metric("webhook_events_lost", "gave_up") == 1.0).await;
    assert!(receiver.attempts() > 3, "{}", receiver.attempts());
    receiver.feels([Mood::Status(503)]);
    it.tell("told");
    eventually(async || receiver.channels() == ["told"]).await;
    // The receiver has it before its answer is here.
    eventually(async || it.metric("webhook_waiting{", "") == 0.0).await;
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_oldest_gives_way() {
    let (receiver, url) = Receiver::start().await;
    receiver.feels([Mood::Status(500); 10_000]);
    let limits = WebhookLimits { waiting_events: 50, waiting_bytes: 4_000, batch_events: 5, ..quick() };
    let it = Sending::start(vec![app("a", &[&url])], limits).await;
    it.tell("first");
    eventually(async || receiver.attempts() > 0).await;
    for n in 0..1_000 {
        it.tell(&format!("c{n}"));
    }
    eventually(async || it.metric("webhook_events_lost", "full") == 950.0).await;
    for n in 0..30 {
        it.tell(&format!("{n}{}", "x".repeat(150)));
    }
    eventually(async || it.metric("webhook_events_lost", "full") > 975.0).await;
    assert!(it.metric("webhook_waiting_bytes", "") < 4_200.0);
    receiver.feels([]);
    eventually(async || it.metric("webhook_waiting{", "") == 0.0).await;
    let heard = receiver.channels();
    assert_eq!(heard[0], "first", "what was in hand stays");
    assert!(heard.last().is_some_and(|last| last.starts_with("29x")), "{heard:?}");
    assert_eq!(heard.len() as f64, 1031.0 - it.metric("webhook_events_lost", "full"));
}

#[tokio::test]
async fn each_application_hears_of_its_own_channels_what_it_asked_for() {
    let ((open, open_url), (own, own_url)) = (Receiver::start().await, Receiver::start().await);
    let mut isolated = app("b", &[&own_url]);
    isolated.isolated = true;
    isolated.keys = vec![Credentials::new("other", "secret of b").expect("key")];
    let mut shared = app("a", &[&open_url]);
    shared.webhooks[0].events = vec!["channel_vacated", "cache_miss"];
    let it = Sending::start(vec![shared.clone(), isolated], quick()).await;
    it.tell("x");
    it.tell("/b/x");
    it.tell("/c/x");
    for channel in ["y", "/b/y"] {
        it.notices.tell(WebhookEvent::ChannelVacated { channel: channel.into() });
    }
    for _ in 0..3 {
        it.notices.tell(WebhookEvent::CacheMiss { channel: "cache-z".into() });
    }
    eventually(async || open.channels().len() == 2 && own.channels().len() == 2).await;
    assert_eq!((open.channels(), own.channels()), (vec!["y".into(), "cache-z".into()], vec!["x".into(), "y".into()]));
    it.notices.tell(WebhookEvent::MemberAdded { channel: "/b/presence-x".into(), user_id: "7".into() });
    eventually(async || own.channels().len() == 3).await;
    let member = own.taken.lock().unwrap().last().expect("told")["events"][0].clone();
    assert_eq!(member, json!({"name":"member_added","channel":"presence-x","user_id":"7"}));
    // Switched off, changed and removed without a restart.
    shared.enabled = false;
    it.apps.replace(vec![shared.clone()]).expect("apps");
    it.notices.tell(WebhookEvent::ChannelVacated { channel: "off".into() });
    shared.enabled = true;
    let (moved, moved_url) = Receiver::start().await;
    shared.webhooks = vec![Hook { url: (*moved_url).into(), events: vec![] }];
    it.notices.tell(WebhookEvent::ChannelVacated { channel: "off".into() });
    eventually(async || it.notices.waiting() == 0).await;
    it.apps.replace(vec![shared]).expect("apps");
    it.tell("moved");
    eventually(async || moved.channels() == ["moved"]).await;
    assert_eq!((open.channels().len(), own.channels().len()), (2, 3));
    it.apps.replace(vec![]).expect("none");
    eventually(async || !it.notices.are_heard()).await;
}

#[tokio::test]
async fn what_waits_outlives_the_tasks_that_tell_it() {
    let (receiver, url) = Receiver::start().await;
    receiver.feels([Mood::Status(500)]);
    let never = Backoff { base: Duration::from_secs(3_600), cap: Duration::from_secs(3_600) };
    let limits = WebhookLimits { backoff: never, patience: Duration::from_secs(36_000), ..quick() };
    let apps = Apps::default();
    apps.replace(vec![app("a", &[&url])]).expect("apps");
    let (notices, told) = Notices::new();
    let args = WebhookArgs::new(apps, (notices.clone(), told), limits).expect("args");
    let (_end, ending) = watch::channel(false);
    let first = AbortOnDrop(tokio::spawn(Box::pin(run(args.clone(), ending.clone()))));
    eventually(async || notices.are_heard()).await;
    notices.tell(WebhookEvent::ChannelOccupied { channel: "kept".into() });
    eventually(async || receiver.attempts() == 1).await;
    notices.tell(WebhookEvent::ChannelOccupied { channel: "later".into() });
    eventually(async || notices.waiting() == 0).await;
    drop(first);
    let _second = AbortOnDrop(tokio::spawn(Box::pin(run(args, ending))));
    eventually(async || receiver.channels() == ["kept", "later"]).await;
    let seen = receiver.seen.lock().unwrap();
    assert_eq!(seen[0].1, seen[1].1, "the batch in hand stays as it was signed");
}

#[tokio::test]
async fn what_waits_is_tried_once_more_at_the_stop() {
    let (receiver, url) = Receiver::start().await;
    let never = Backoff { base: Duration::from_secs(3_600), cap: Duration::from_secs(3_600) };
    let limits = WebhookLimits { backoff: never, patience: Duration::from_secs(36_000), ..quick() };
    for (last, heard) in [(Mood::Status(500), &[][..]), (Mood::Status(200), &["kept", "later"][..])] {
        let before = receiver.attempts();
        receiver.feels([Mood::Status(500), last]);
        let it = Sending::start(vec![app("a", &[&url])], limits).await;
        it.tell("kept");
        eventually(async || receiver.attempts() == before + 1).await;
        it.tell("later");
        eventually(async || it.metric("webhook_waiting{", "") == 2.0).await;
        it.root.stop().await;
        assert!(!it.supervision.is_alive("webhooks"));
        assert_eq!(receiver.channels(), heard);
        assert_eq!(it.metric("webhook_events_lost", "stopped"), if heard.is_empty() { 2.0 } else { 0.0 });
    }
}

/// Ids of users are the application's own, whatever they look like: only channels have its prefix inside the hub.
#[test]
fn users_who_are_called_like_a_prefix_stay_who_they_are() {
    let mut own = app("shop", &["https://hooks.example"]);
    own.isolated = true;
    let (hook, url) = (own.webhooks[0].clone(), "https://hooks.example".parse().expect("a url"));
    let metrics =
        metrics::WebhookMetrics::new(prometheus_client::metrics::counter::Counter::default()).of(&Arc::from("shop"));
    let turn = Arc::new(tokio::sync::Semaphore::new(1));
    let line = line::Line::new(Arc::new(own), hook, url, turn, quick(), metrics);
    let users = ["/shop/7", "7", "//shop//7"];
    for user in users {
        let (channel, user_id) = (|| "/shop/presence-room".to_owned(), || user.to_owned());
        line.offer(&WebhookEvent::MemberAdded { channel: channel(), user_id: user_id() });
        line.offer(&WebhookEvent::MemberRemoved { channel: channel(), user_id: user_id() });
    }
    let batch = line.last().expect("a batch");
    let told: Value = serde_json::from_str(&batch.webhook.body).expect("json");
    let events = users.iter().flat_map(|user| ["member_added", "member_removed"].map(|name| (name, user)));
    let expected: Vec<_> =
        events.map(|(name, user)| json!({"name": name, "channel": "presence-room", "user_id": user})).collect();
    assert_eq!(told["events"], json!(expected));
}
