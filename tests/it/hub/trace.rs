//! Live traces over two nodes: what a user and a channel do is told, payloads and tokens never; who may ask, and how it ends.

use std::collections::VecDeque;

use dzvin::identity::{SigningKey, TokenRules, Verifier};
use dzvin_protocols::identity::Claims;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::server::{API_KEY, ask, with_key};
use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, KEY, World},
    session::Client,
};

/// What no trace may show.
const SECRET: &str = "what-is-said-is-nobodys-business";

fn rules() -> String {
    with_key(
        "[identity.roles]\nadmin = [\"*\"]\nviewer = [\"entities:read:*\"]\noperator = [\"trace:user:viewer-*\"]\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n",
    )
}

async fn nodes(world: &World) -> (Hub, Hub) {
    (world.hub_with("a", &rules()).await, world.hub_with("b", &rules()).await)
}

fn asking(hub: &Hub, role: &str, query: &str) -> RequestBuilder {
    let url = format!("http://{}/api/v1/trace?{query}", hub.addr);
    reqwest::Client::new().get(url).bearer_auth(World::token(role))
}

/// A trace as its asker reads it.
struct Trace {
    response: Response,
    rest: String,
    lines: VecDeque<Value>,
    /// Everything that came.
    all: String,
}

impl Trace {
    async fn of(hub: &Hub, query: &str) -> Self {
        let response = asking(hub, "admin", query).send().await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { response, rest: String::new(), lines: VecDeque::new(), all: String::new() }
    }

    /// Until so many nodes have said that they follow.
    async fn followed_by(mut self, nodes: usize) -> Self {
        let begin = self.next().await.expect("a beginning");
        assert_eq!((&begin["event"], begin["nodes"].as_array().map(Vec::len)), (&json!("begin"), Some(nodes)));
        for _ in 0..nodes {
            self.until(|line| line["event"] == "node").await;
        }
        self
    }

    /// The next line; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let piece = timeout(patience(), self.response.chunk()).await.expect("in time").ok()??;
            let text = std::str::from_utf8(&piece).expect("text");
            self.all.push_str(text);
            self.rest.push_str(text);
            while let Some((line, rest)) = self.rest.split_once('\n') {
                self.lines.push_back(serde_json::from_str(line).expect("a line of json"));
                self.rest = rest.to_owned();
            }
        }
    }

    /// The next line that is meant; others pass by.
    async fn until(&mut self, meant: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.next().await.unwrap_or_else(|| panic!("the trace ended:\n{}", self.all));
            if meant(&line) {
                return line;
            }
        }
    }

    async fn event(&mut self, name: &str) -> Value {
        self.until(|line| line["event"] == name).await
    }

    fn shows_no_secrets(&self) {
        for secret in [SECRET, "eyJ", API_KEY] {
            assert!(!self.all.contains(secret), "{secret:?} is in a trace:\n{}", self.all);
        }
    }
}

async fn call(hub: &Hub, method: &str, body: &Value) {
    let answer = ask(hub, method, body).await;
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn what_a_user_does_on_any_node_is_told_and_nothing_that_was_said() {
    let world = World::new(1, true).await;
    let (a, b) = nodes(&world).await;
    let mut trace = Trace::of(&a, "user=viewer-1").await.followed_by(2).await;
    let mut olha = Client::connected(&b, "viewer").await;
    let _other = Client::connected(&a, "operator").await;
    let connected = trace.event("connect").await;
    assert_eq!((&connected["user"], &connected["wire"]), (&json!("viewer-1"), &json!("centrifuge-json")));
    let client = connected["client"].clone();
    let done = trace.event("command").await;
    assert_eq!((&done["command"], &done["error"], &done["client"]), (&json!("connect"), &json!(0), &client));

    olha.ask(&json!({"id": 2, "subscribe": {"channel": "room.1"}}).to_string()).await;
    let live = trace.event("subscribe").await;
    assert_eq!((&live["channel"], &live["offset"]), (&json!("room.1"), &json!(0)));
    assert!(live["epoch"].as_str().is_some_and(|epoch| !epoch.is_empty()), "{live}");
    olha.ask(&json!({"id": 3, "subscribe": {"channel": "nowhere.1"}}).to_string()).await;
    let refused = trace.until(|line| line["command"] == "subscribe" && line["error"] != 0).await;
    assert_eq!((&refused["channel"], &refused["error"]), (&json!("nowhere.1"), &json!(103)), "{refused}");

    call(&a, "publish", &json!({"channel": "room.1", "data": {"text": SECRET}})).await;
    let shown = trace.event("publication").await;
    assert_eq!((&shown["channel"], &shown["offset"], &shown["client"]), (&json!("room.1"), &json!(1), &client));
    let publish = json!({"id": 4, "publish": {"channel": "room.1", "data": SECRET}});
    let heard = olha.ask(&publish.to_string()).await;
    assert_eq!(heard["push"]["pub"]["offset"], 1, "{heard}");
    // The head of so short a frame is two bytes.
    assert_eq!(shown["bytes"], heard.to_string().len() + 2);
    trace.until(|line| line["command"] == "publish" && line["error"] == 0).await;

    olha.ask(&json!({"id": 5, "unsubscribe": {"channel": "room.1"}}).to_string()).await;
    assert_eq!(trace.event("unsubscribe").await["code"], 0);
    call(&a, "disconnect", &json!({"user": "viewer-1"})).await;
    let gone = trace.event("disconnect").await;
    assert_eq!((&gone["code"], &gone["client"]), (&json!(3503), &client));
    trace.shows_no_secrets();
    assert!(!trace.all.contains("operator-1"), "another user's sessions are not told:\n{}", trace.all);
    drop(trace);
    eventually("both nodes follow nothing", async || {
        a.metric("dzvin_trace_followed").await + b.metric("dzvin_trace_followed").await == 0.0
    })
    .await;
    assert_eq!(a.metric("dzvin_trace_asked").await, 0.0);
    for hub in [&a, &b] {
        assert!(hub.log().contains("a trace is followed\"") && hub.log().contains("\"by\":\"admin-1\""));
    }
    let log = a.log();
    for said in ["a trace begins", "a trace ends", "viewer-1"] {
        assert!(log.contains(said), "{said}");
    }
}

#[tokio::test]
async fn what_comes_on_a_channel_is_told_by_every_node_that_has_it() {
    let world = World::new(1, true).await;
    let (a, b) = nodes(&world).await;
    let mut trace = Trace::of(&b, "channel=room.1&seconds=600").await.followed_by(2).await;
    let mut olha = Client::connected(&a, "viewer").await;
    let mut ivan = Client::connected(&b, "operator").await;
    for client in [&mut olha, &mut ivan] {
        client.ask(&json!({"id": 2, "subscribe": {"channel": "room.1"}}).to_string()).await;
        client.ask(&json!({"id": 3, "subscribe": {"channel": "room.2"}}).to_string()).await;
    }
    call(&a, "publish", &json!({"channel": "room.2", "data": SECRET})).await;
    call(&a, "publish", &json!({"channel": "room.1", "data": SECRET})).await;
    let mut nodes = std::collections::BTreeSet::new();
    while nodes.len() < 2 {
        let shown = trace.event("publication").await;
        assert_eq!((&shown["channel"], &shown["offset"], &shown["sessions"]), (&json!("room.1"), &json!(1), &json!(1)));
        assert!(nodes.insert(shown["node"].as_str().expect("a node").to_owned()), "each once");
    }
    // A client that goes takes its subscription along.
    drop(olha);
    assert_eq!(trace.event("unsubscribe").await["user"], "viewer-1");
    trace.shows_no_secrets();
    assert!(!trace.all.contains("room.2"), "another channel is not told:\n{}", trace.all);
}

#[tokio::test]
async fn only_who_may_asks_and_only_for_one_thing() {
    let world = World::new(1, true).await;
    let hub = world.hub_with("a", &rules()).await;
    let status = async |role: &str, query: &str| {
        let answer = asking(&hub, role, query).send().await.expect("answered");
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().expect("text").to_owned())
    };
    let problem = |status: u16| (status, "application/problem+json".to_owned());
    assert_eq!(status("viewer", "user=viewer-1").await, problem(403));
    assert_eq!(status("operator", "channel=room.1").await, problem(403));
    assert_eq!(status("operator", "user=admin-1").await, problem(403));
    assert_eq!(status("operator", "user=viewer-1").await, (200, "application/x-ndjson".to_owned()));
    for query in ["", "user=a&channel=b", "user=a&seconds=0", "user=a&seconds=99999", "user=a&more=1", "channel="] {
        assert_eq!(status("admin", query).await.0, 400, "{query}");
    }
    let unsigned = reqwest::get(format!("http://{}/api/v1/trace?user=a", hub.addr)).await.expect("answered");
    assert_eq!(unsigned.status(), StatusCode::UNAUTHORIZED);
    eventually("those are over", async || hub.metric("dzvin_trace_asked").await == 0.0).await;
    // As events for whoever reads those.
    let events = asking(&hub, "admin", "user=a").header("accept", "text/event-stream").send().await;
    let mut events = events.expect("answered");
    assert_eq!(events.headers()["content-type"], "text/event-stream; charset=utf-8");
    let piece = events.chunk().await.expect("read").expect("a piece");
    assert!(piece.starts_with(b"data: {") && piece.ends_with(b"\n\n"), "{piece:?}");
    drop(events);
    eventually("that is over", async || hub.metric("dzvin_trace_asked").await == 0.0).await;
    let mut traces = Vec::new();
    for _ in 0..8 {
        traces.push(Trace::of(&hub, "user=a").await);
    }
    assert_eq!(status("admin", "user=a").await, problem(503), "there are eight");
    traces.pop();
    eventually("there is room again", async || status("admin", "user=a").await.0 == 200).await;
}

#[tokio::test]
async fn a_trace_ends_with_its_time_with_its_asker_s_rights_and_with_its_node() {
    let world = World::new(1, true).await;
    let (mut a, b) = nodes(&world).await;
    let mut short = Trace::of(&b, "user=viewer-1&seconds=1").await;
    assert_eq!(short.event("end").await["why"], "time");
    assert_eq!(short.next().await, None);
    // The token's end is the trace's.
    let url = format!("http://{}/api/v1/trace?user=viewer-1", b.addr);
    let response = reqwest::Client::new().get(url).bearer_auth(World::token_for("admin", 3)).send().await;
    let response = response.expect("answered");
    let mut brief = Trace { response, rest: String::new(), lines: VecDeque::new(), all: String::new() };
    assert_eq!(brief.event("end").await["why"], "rights");
    // The asker's node dies without a word: nobody follows for long.
    let _orphan = Trace::of(&a, "user=viewer-1").await.followed_by(2).await;
    assert_eq!(b.metric("dzvin_trace_followed").await, 1.0);
    let mut other = Trace::of(&b, "user=viewer-1").await.followed_by(2).await;
    a.kill().await;
    eventually("the orphan is followed no more", async || b.metric("dzvin_trace_followed").await == 1.0).await;
    assert!(other.event("gone").await["node"].is_string(), "and who still asks is told of the node");
}

/// What is revoked ends a trace when the node hears of it. These last for less than it takes until rights are looked at again,
/// so nothing else can end one like that; where a machine is too slow to revoke in time, another is begun.
#[tokio::test]
async fn a_trace_ends_when_its_asker_is_revoked() {
    let world = World::new(1, true).await;
    let (a, b) = nodes(&world).await;
    let revoke = async |body: Value| {
        let url = format!("http://{}/api/v1/revocations", a.addr);
        let request = reqwest::Client::new().post(url).bearer_auth(World::token("admin")).json(&body);
        assert_eq!(request.send().await.expect("answered").status(), StatusCode::CREATED);
    };
    let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
    let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
    for kind in ["block", "user", "token"] {
        let mut n = 0;
        eventually("a trace ends with its asker's rights", async || {
            n += 1;
            let (user, jti) = (format!("{kind}-{n}"), format!("t-{n}"));
            let claims = Claims {
                sub: user.clone(),
                jti: Some(jti.clone()),
                iat: Some(OffsetDateTime::now_utc().unix_timestamp() - 60),
                exp: Some(OffsetDateTime::now_utc().unix_timestamp() + 3600),
                roles: vec!["admin".to_owned()],
                ..Claims::default()
            };
            let url = format!("http://{}/api/v1/trace?user=viewer-1&seconds=2", b.addr);
            let token = verifier.sign(&claims).expect("signed");
            let response = reqwest::Client::new().get(url).bearer_auth(token).send().await.expect("answered");
            let mut trace = Trace { response, rest: String::new(), lines: VecDeque::new(), all: String::new() };
            assert_eq!(trace.next().await.expect("a beginning")["event"], "begin");
            revoke(match kind {
                "block" => json!({"user": user, "block": true}),
                "user" => json!({"user": user}),
                _ => json!({"token": jti}),
            })
            .await;
            trace.event("end").await["why"] == "rights"
        })
        .await;
    }
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_how_much_is_missing() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let mut trace = Trace::of(&hub, "user=viewer-1").await.followed_by(1).await;
    let mut olha = Client::connected(&hub, "viewer").await;
    // Far more than queues and sockets hold, in commands that are cheap to answer.
    let mut asked = 0_u64;
    let lost = async || hub.metric("dzvin_trace_lines_lost_total").await;
    while lost().await == 0.0 {
        let pings: String = (0..2_000).map(|_| "{\"id\":7,\"ping\":{}}\n").collect();
        asked += 2_000;
        let mut answers = 0;
        olha.ask(&pings).await;
        while answers + 1 < 2_000 {
            if olha.receive().await["id"] == 7 {
                answers += 1;
            }
        }
    }
    let (mut told, mut missing) = (0, 0);
    while told + missing < asked {
        let line = trace.next().await.expect("goes on");
        told += u64::from(line["command"] == "ping");
        missing += line["count"].as_u64().unwrap_or_default();
    }
    assert!(missing > 0, "{told} were told");
    assert!(told + missing <= asked + 1, "none twice: {told} + {missing} of {asked}, and the connect");
}
