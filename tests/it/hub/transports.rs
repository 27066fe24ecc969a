//! The transports beside the WebSocket of both directions: unmodified clients forced onto each, clients that only listen, and
//! whoever does not mean well.

use std::{path::Path, process::Stdio};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::{
    nginx::Nginx,
    support::{
        eventually::{eventually, patience},
        hub::{Hub, World},
    },
};

const API_KEY: &str = "an api key of thirty-two bytes and more";
const ORIGIN: &str = "https://desk.example";

fn rules() -> String {
    format!(
        "[[identity.api_keys]]\nid = \"backend\"\nsecret = \"{API_KEY}\"\n\
         [channels.namespaces.chat]\nsubscribe = \"signed_in\"\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n"
    )
}

/// The same, with pages of another site that may connect.
fn rules_with_origin() -> impl FnOnce(String) -> String {
    |text| text.replace("[http]", &format!("[http]\nallowed_origins = [\"{ORIGIN}\"]"))
}

fn node(script: &str, certificate: Option<&Path>) -> Command {
    let mut command = Command::new("node");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    command.args(["--experimental-eventsource", "--no-warnings", script]);
    command.envs(certificate.map(|certificate| ("NODE_EXTRA_CA_CERTS", certificate)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

/// What unmodified clients saw on this transport: everything that they should.
async fn clients(url: &str, transport: &[&str], more: &[&str], certificate: Option<&Path>) {
    let (short, next) = (World::token_for("viewer", 4), World::token("viewer"));
    let mut command = node("transports.mjs", certificate);
    command.args(["--url", url, "--key", API_KEY, "--token", &short, "--next", &next, "--transport"]);
    command.args(transport).args(more);
    let output = timeout(patience() * 2, command.output()).await.expect("in time").expect("node runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    println!("{transport:?} {report}");
    assert_eq!(report["errors"], json!([]));
    for key in ["lost", "doubled", "wrong", "unrecovered", "reconnected"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert_eq!(
        (&report["received"], &report["many"], &report["after"]),
        (&json!(200), &json!(50), &json!(5)),
        "{report}"
    );
    assert!(report["recovered"].as_u64() > Some(0) && report["asked"].as_u64() > Some(0), "{report}");
    let hello = |n| json!({"data": {"hello": n}, "user": "viewer-1"});
    assert_eq!(report["heard"], json!([hello(1), hello(1), hello(2), hello(2), hello(3)]));
    assert_eq!(report["history"], json!([1, 2]));
    assert_eq!(report["refused"], 103);
}

/// The same on each of them, one after the other.
async fn on_each(url: &str, more: &[&str], certificate: Option<&Path>) {
    for (n, transport) in [&["http_stream"][..], &["http_stream", "--protobuf"], &["sse"]].into_iter().enumerate() {
        clients(url, transport, &[more, &["--n", &n.to_string()]].concat(), certificate).await;
    }
}

/// Every trace of the clients is gone.
async fn nobody_left(hub: &Hub) {
    eventually("nobody is left", async || {
        hub.metric("dzvin_sessions").await + hub.metric("dzvin_mailboxes").await == 0.0
    })
    .await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
    assert_eq!(hub.metric("dzvin_http_panics_total").await, 0.0);
}

#[tokio::test]
async fn unmodified_clients_on_each_transport() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    on_each(&format!("http://{}", hub.addr), &[], None).await;
    nobody_left(&hub).await;
    // A stream is counted when its headers have left, and not by how long it lasts.
    assert!(hub.metric("dzvin_http_request_seconds_sum").await < 5.0);
}

#[tokio::test]
async fn unmodified_clients_through_nginx() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let nginx = Nginx::start(&[&hub], &[]).await;
    on_each(&nginx.url(""), &[], Some(&nginx.ca())).await;
    nobody_left(&hub).await;
}

#[tokio::test]
async fn commands_find_the_stream_on_another_node() {
    let world = World::new(1, true).await;
    let (a, b) = (world.hub_with("a", &rules()).await, world.hub_with("b", &rules()).await);
    on_each(&format!("http://{}", a.addr), &["--emulation", &format!("http://{}", b.addr)], None).await;
    nobody_left(&a).await;
    let posted = async |hub: &Hub| {
        let (_, text) = hub.get("/metrics").await.expect("metrics");
        let lines =
            text.lines().filter(|line| line.starts_with("dzvin_http_requests_total") && line.contains("/emulation"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(posted(&a).await, [""; 0], "all went to the other node");
    let b = posted(&b).await;
    assert!(b.len() == 1 && b[0].contains("204"), "and none was refused: {b:?}");
}

async fn publish(hub: &Hub, channel: &str, data: &Value) {
    let body = json!({"channel": channel, "data": data}).to_string();
    let request = reqwest::Client::new().post(format!("http://{}/api/publish", hub.addr)).header("x-api-key", API_KEY);
    let answer: Value = request.body(body).send().await.expect("answered").json().await.expect("json");
    assert!(answer["result"]["offset"].is_u64(), "{answer}");
}

/// A stream that is read by hand.
struct Stream {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Stream {
    /// Asks for one with this first body.
    async fn post(hub: &Hub, transport: &str, body: &str) -> Self {
        let request = reqwest::Client::new().post(format!("http://{}/connection/{transport}", hub.addr));
        let response = request.body(body.to_owned()).send().await.expect("answered");
        assert_eq!(response.status(), 200);
        Self { response, read: Vec::new() }
    }

    /// The same, signed in; answers the connect result as well.
    async fn connected(hub: &Hub, transport: &str) -> (Self, Value) {
        let mut stream = Self::post(hub, transport, &connect(&World::token("viewer"))).await;
        let connected = stream.next().await.expect("an answer")["connect"].clone();
        assert!(connected["session"].is_string() && connected["node"].is_string(), "{connected}");
        (stream, connected)
    }

    /// The next message, of lines or of events; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let line = line.strip_prefix(b"data: ").unwrap_or(&line);
                // Nothing, or a ping.
                if matches!(line.trim_ascii(), b"" | b"{}") {
                    continue;
                }
                return Some(serde_json::from_slice(line).expect("json"));
            }
            let piece = timeout(patience(), self.response.chunk()).await.expect("in time").expect("an orderly end");
            let Some(piece) = piece else {
                assert_eq!(self.read, b"", "nothing is torn");
                return None;
            };
            self.read.extend_from_slice(&piece);
        }
    }
}

fn connect(token: &str) -> String {
    json!({"id": 1, "connect": {"token": token}}).to_string()
}

/// Posts commands; answers the status and the problem's code.
async fn emulate(hub: &Hub, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/emulation", hub.addr)).body(body);
    let answer = request.send().await.expect("answered");
    let status = answer.status().as_u16();
    (status, serde_json::from_slice::<Value>(&answer.bytes().await.expect("read")).unwrap_or_default()["code"].take())
}

#[tokio::test]
async fn clients_that_only_listen() {
    let world = World::new(1, false).await;
    let mut hub = world.hub_with("a", &format!("{}[channels]\nping = \"300ms\"\npong = \"200ms\"\n", rules())).await;
    let mut child = node("oneway.mjs", None);
    child.args(["--url", &format!("http://{}", hub.addr), "--token", &World::token("viewer")]);
    let mut child = child.spawn().expect("node starts");
    let mut output = BufReader::new(child.stdout.take().expect("stdout")).lines();
    // Of the EventSource and of the WebSocket: what they were told, and how often they were pinged since.
    let mut heard = [const { (Vec::new(), 0) }; 2];
    let mut hear = async |count: usize, pings: usize| {
        heard.iter_mut().for_each(|(_, pings)| *pings = 0);
        while heard.iter().any(|(told, pinged): &(Vec<Value>, usize)| told.len() < count || *pinged < pings) {
            let line = timeout(patience(), output.next_line()).await.expect("in time").expect("read").expect("a line");
            let said: Value = serde_json::from_str(&line).expect("json");
            let (told, pinged) = &mut heard[usize::from(said["from"] == "ws")];
            match &said["push"] {
                ping if *ping == json!({}) => *pinged += 1,
                push => {
                    assert!(push.is_object(), "closed too early: {said}");
                    told.push(push.clone());
                }
            }
        }
        heard.clone().map(|(told, _)| told)
    };
    // For longer than a pong may take: nobody waits for one.
    for told in hear(1, 4).await {
        let connected = &told[0]["connect"];
        assert!(connected["client"].is_string() && connected["version"].is_string(), "{connected}");
        assert!(connected["pong"].is_null() && connected["ping"].is_u64() && connected["session"].is_null());
    }
    // Who cannot ask is subscribed by a server.
    let order = json!({"user": "viewer-1", "channel": "news.1"}).to_string();
    let request = reqwest::Client::new().post(format!("http://{}/api/subscribe", hub.addr)).body(order);
    let answer: Value =
        request.bearer_auth(World::token("admin")).send().await.expect("answered").json().await.expect("json");
    assert_eq!(answer, json!({"result": {}}));
    for told in hear(2, 0).await {
        assert_eq!(
            (&told[1]["channel"], &told[1]["subscribe"]["recoverable"]),
            (&json!("news.1"), &json!(true)),
            "{told:?}"
        );
    }
    publish(&hub, "news.1", &json!({"n": 1})).await;
    for told in hear(3, 0).await {
        assert_eq!(told[2]["channel"], "news.1");
        assert_eq!((&told[2]["pub"]["data"], &told[2]["pub"]["offset"]), (&json!({"n": 1}), &json!(1)));
    }
    assert_eq!(hub.metric("dzvin_sessions").await, 2.0);
    assert_eq!(hub.metric("dzvin_mailboxes").await, 0.0);
    assert_eq!(hub.stop().await, Some(0));
    let mut ends = Vec::new();
    while let Ok(Some(line)) = timeout(patience(), output.next_line()).await.expect("in time") {
        let said: Value = serde_json::from_str(&line).expect("json");
        if said["push"] != json!({}) {
            ends.push(said);
        }
    }
    let disconnect = json!({"disconnect": {"code": 3001, "reason": "shutdown", "reconnect": true}});
    assert!(ends.contains(&json!({"from": "sse", "push": disconnect})), "{ends:?}");
    assert!(ends.contains(&json!({"from": "sse", "closed": true})), "{ends:?}");
    assert!(ends.contains(&json!({"from": "ws", "closed": 3001, "reason": "shutdown"})), "{ends:?}");
}

#[tokio::test]
async fn a_stop_says_so_to_every_stream_and_waits_for_none() {
    let world = World::new(1, false).await;
    let mut hub = world.hub_with("a", &rules()).await;
    let mut streams = Vec::new();
    for transport in ["http_stream", "sse"].repeat(10) {
        streams.push(Stream::connected(&hub, transport).await.0);
    }
    // The grace is five seconds; nothing here takes long.
    let (code, ()) = tokio::join!(hub.stop(), async {
        for stream in &mut streams {
            let disconnect = stream.next().await.expect("told")["push"]["disconnect"].take();
            assert_eq!(disconnect, json!({"code": 3001, "reason": "shutdown", "reconnect": true}));
            assert_eq!(stream.next().await, None);
        }
    });
    assert_eq!(code, Some(0));
    assert!(!hub.log().contains("connections cut at the end of the grace period"), "{}", hub.log());
}

#[tokio::test]
async fn preflights_and_origins_are_those_of_the_websocket() {
    let world = World::new(1, false).await;
    let mut hub = world.hub_with("a", "").await;
    let client = reqwest::Client::new();
    let paths = ["/connection/http_stream", "/connection/sse", "/connection/uni_sse", "/emulation"];
    let preflight = async |addr: std::net::SocketAddr, path: &str, origin: &str| {
        let request = client.request(reqwest::Method::OPTIONS, format!("http://{addr}{path}")).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let answer = request.header("access-control-request-headers", "content-type").send().await.expect("answered");
        let header = |name: &str| {
            let value = answer.headers().get(name).map(|value| value.to_str().expect("text").to_lowercase());
            value.unwrap_or_default()
        };
        let [methods, headers] = ["access-control-allow-methods", "access-control-allow-headers"].map(header);
        let allowed = methods.contains("post") && headers.contains("content-type");
        (header("access-control-allow-origin"), allowed)
    };
    for path in paths {
        assert_eq!(preflight(hub.addr, path, ORIGIN).await.0, "", "nobody was allowed");
    }
    hub.reconfigure(rules_with_origin());
    hub.kill().await;
    hub.start().await;
    for path in paths {
        assert_eq!(preflight(hub.addr, path, ORIGIN).await, (ORIGIN.to_owned(), true), "{path}");
        assert_eq!(preflight(hub.addr, path, "https://evil.example").await.0, "", "{path}");
        // What needs no preflight is refused all the same.
        for (origin, refused) in [("https://evil.example", true), ("null", true), (ORIGIN, false)] {
            let request = client.post(format!("http://{}{path}", hub.addr)).header("origin", origin);
            let answer = request.body("{\"id\":1}").send().await.expect("answered");
            assert_eq!(answer.status() == 403, refused, "{path} {origin} {}", answer.status());
            let allowed = answer.headers().get("access-control-allow-origin").is_some_and(|it| it == ORIGIN);
            assert_eq!(allowed, !refused, "{path} {origin}");
        }
    }
    nobody_left(&hub).await;
}

#[tokio::test]
async fn bodies_that_are_none_are_refused() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let client = reqwest::Client::new();
    let at = |path: &str| format!("http://{}{path}", hub.addr);
    let large = "x".repeat(64 * 1024 + 1);
    for (method, path, body, status) in [
        ("GET", "/connection/http_stream", "", 405),
        ("DELETE", "/connection/sse", "", 405),
        ("GET", "/emulation", "", 405),
        ("POST", "/connection/uni_websocket", "", 405),
        ("GET", "/connection/uni_websocket", "", 400),
        ("GET", "/connection/sse", "", 400),
        ("GET", "/connection/sse?cf_connect=", "", 400),
        ("GET", "/connection/sse?cf_connect=a&cf_connect=b", "", 400),
        ("POST", "/connection/http_stream", "", 400),
        ("POST", "/connection/http_stream", &large, 413),
        ("POST", "/connection/sse", &large, 413),
        ("POST", "/connection/uni_sse", &large, 413),
        ("POST", "/emulation", &large, 413),
    ] {
        let request = client.request(method.parse().expect("a method"), at(path)).body(body.to_owned());
        let answer = request.send().await.expect("answered");
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let answer = client.post(at("/connection/http_stream")).body(vec![0xff, 0xfe]).send().await.expect("answered");
    assert_eq!(answer.status(), 400, "JSON is text");

    // What the session has to judge it judges as on the WebSocket; the stream says so and ends.
    let deep = format!("{{\"id\":1,\"connect\":{{\"data\":{}", "[".repeat(60_000));
    // Who only listens says the request alone: what it does not know is a request without a token.
    for transport in ["http_stream", "sse", "uni_sse"] {
        for (said, code, only_listening) in [
            (connect(""), 3500, 3500),
            (connect("a.b.c"), 3500, 3500),
            (r#"{"id":1,"subscribe":{"channel":"chat.1"}}"#.to_owned(), 3501, 3500),
            (r#"{"id":1,"ping":{}}"#.to_owned(), 3501, 3500),
            ("\0".to_owned(), 3501, 3501),
            ("null".to_owned(), 3501, 3501),
            (deep.clone(), 3501, 3501),
        ] {
            let mut stream = Stream::post(&hub, transport, &said).await;
            let told = stream.next().await.expect("told");
            let (push, code) = if transport == "uni_sse" { (&told, only_listening) } else { (&told["push"], code) };
            let told = &push["disconnect"];
            assert_eq!(
                (&told["code"], &told["reconnect"]),
                (&json!(code), &json!(null)),
                "{transport} {said:.60} {told}"
            );
            assert_eq!(stream.next().await, None);
        }
    }
    nobody_left(&hub).await;
}

/// Who guesses sessions is not looked at any more, and nobody else behind the same address suffers before.
#[tokio::test]
async fn guesses_have_a_limit() {
    let world = World::new(1, false).await;
    let limit = "[channels]\nmax_refused_emulations_per_second = 5\n";
    let hub = world.hub_with("a", &format!("{limit}{}", rules())).await;
    let (mut stream, connected) = Stream::connected(&hub, "http_stream").await;
    let body =
        |session: &Value, data: &str| json!({"session": session, "node": connected["node"], "data": data}).to_string();
    let ping = |id: u32| format!("{{\"id\":{id},\"ping\":{{}}}}");
    for id in 2..30 {
        assert_eq!(emulate(&hub, body(&connected["session"], &ping(id))).await.0, 204, "what is good does not count");
        assert_eq!(stream.next().await.expect("an answer")["id"], id);
    }
    let guess = json!("0".repeat(32));
    let mut seen = 0;
    let refused = async {
        loop {
            let (status, code) = emulate(&hub, body(&guess, "{}")).await;
            if status == 429 {
                return code;
            }
            assert_eq!(status, 404);
            seen += 1;
        }
    };
    assert_eq!(timeout(patience(), refused).await.expect("a limit"), "too_many_refused");
    assert!(seen >= 5, "{seen} were looked at");
    assert!(hub.metric("dzvin_emulation_refused_unseen_total").await >= 1.0);
    assert_eq!(hub.metric("dzvin_emulation_refusal_addresses").await, 1.0);
    eventually("it is looked at again", async || emulate(&hub, body(&guess, "{}")).await.0 == 404).await;
    eventually("a good one is let in", async || emulate(&hub, body(&connected["session"], &ping(30))).await.0 == 204)
        .await;
    assert_eq!(stream.next().await.expect("an answer")["id"], 30);
}

/// Guesses that name another node are refused there, and counted where they came in.
#[tokio::test]
async fn guesses_of_another_nodes_sessions_have_a_limit() {
    let world = World::new(1, true).await;
    let more = format!("[channels]\nmax_refused_emulations_per_second = 1\n{}", rules());
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
    let (mut stream, connected) = Stream::connected(&a, "http_stream").await;
    let body =
        |session: &Value, data: &str| json!({"session": session, "node": connected["node"], "data": data}).to_string();
    let ping = |id: u32| format!("{{\"id\":{id},\"ping\":{{}}}}");
    for id in 2..10 {
        assert_eq!(emulate(&b, body(&connected["session"], &ping(id))).await.0, 204, "what is good does not count");
        assert_eq!(stream.next().await.expect("an answer")["id"], id);
    }
    let guess = json!("0".repeat(32));
    eventually("the address is known", async || {
        // The node that has no such session says so a little later. Several at once, so that a slow machine guesses faster than it is
        // forgiven.
        let answers = join_all((0..10).map(|_| emulate(&b, body(&guess, "{}")))).await;
        let refused = |(status, code): &(u16, Value)| *status == 429 && code == "too_many_refused";
        assert!(answers.iter().all(|it| it.0 == 204 || refused(it)), "{answers:?}");
        answers.iter().any(refused)
    })
    .await;
    assert_eq!(b.metric("dzvin_emulation_refusal_addresses").await, 1.0);
    assert_eq!(a.metric("dzvin_emulation_refusal_addresses").await, 0.0, "it is this node's client");
    eventually("a good one is let in", async || emulate(&b, body(&connected["session"], &ping(30))).await.0 == 204)
        .await;
    assert_eq!(stream.next().await.expect("an answer")["id"], 30);
}

/// Between nodes a word has a limit: what does not fit is refused in words, and what does arrives.
#[tokio::test]
async fn commands_that_are_too_large_for_another_node_are_refused() {
    let world = World::new(1, true).await;
    let more = "[channels]\nmax_message = \"256KiB\"\n";
    let more = format!("{more}{}", rules());
    let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
    let (mut stream, connected) = Stream::connected(&a, "http_stream").await;
    let publish = |id: u32, length: usize| {
        let command = json!({"id": id, "publish": {"channel": "room.1", "data": "x".repeat(length)}}).to_string();
        json!({"session": connected["session"], "node": connected["node"], "data": command}).to_string()
    };
    assert_eq!(emulate(&b, publish(2, 60_000)).await.0, 204);
    assert_eq!(stream.next().await.expect("an answer")["id"], 2);
    assert_eq!(emulate(&b, publish(3, 66_000)).await, (413, json!("commands_too_large")));
    let quotes = json!({"session": connected["session"], "node": connected["node"], "data": "\"".repeat(40_000)});
    assert_eq!(emulate(&b, quotes.to_string()).await, (413, json!("commands_too_large")), "as nodes spell them");
    assert_eq!(emulate(&a, publish(4, 60_000)).await.0, 204);
    assert_eq!(stream.next().await.expect("an answer")["id"], 4, "and the session goes on");
}

#[tokio::test]
async fn commands_need_a_session_that_is_there() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let (mut stream, connected) = Stream::connected(&hub, "http_stream").await;
    let (session, node) = (connected["session"].as_str().expect("session"), connected["node"].as_str().expect("node"));
    let body =
        |session: &str, node: &str, data: &str| json!({"session": session, "node": node, "data": data}).to_string();
    let other = "0".repeat(32);
    for (body, expected) in [
        (body(session, &other, "{}"), (404, json!("session_unknown"))),
        (body(&other, node, "{}"), (404, json!("session_unknown"))),
        (body("", "", "{}"), (404, json!("session_unknown"))),
        (body(&"f".repeat(60_000), node, "{}"), (404, json!("session_unknown"))),
        (body(&session[..31], node, "{}"), (404, json!("session_unknown"))),
        (body("../../etc/passwd", "дзвін", "{}"), (404, json!("session_unknown"))),
        (String::new(), (400, json!("bad_request"))),
        ("{}".to_owned(), (400, json!("bad_request"))),
        ("[".repeat(60_000), (400, json!("bad_request"))),
        (json!({"session": session, "node": node, "data": {"id": 1}}).to_string(), (400, json!("bad_request"))),
        (json!({"session": session, "node": node}).to_string(), (400, json!("bad_request"))),
    ] {
        assert_eq!(emulate(&hub, body.clone()).await, expected, "{body:.80}");
    }
    // Several in lines, in one request.
    let lines = "{\"id\":2,\"ping\":{}}\n{\"id\":3,\"subscribe\":{\"channel\":\"chat.1\"}}\n";
    assert_eq!(emulate(&hub, body(session, node, lines)).await.0, 204);
    assert_eq!(stream.next().await, Some(json!({"id": 2, "ping": {}})));
    assert_eq!(stream.next().await.expect("subscribed")["id"], 3);
    // Bytes for a session of text, and a command that is none, end it.
    let binary = [&[10, 32][..], node.as_bytes(), &[18, 32], session.as_bytes(), &[26, 1, 0]].concat();
    let request = reqwest::Client::new().post(format!("http://{}/emulation", hub.addr)).body(binary);
    let answer = request.header("content-type", "application/octet-stream").send().await.expect("answered");
    assert_eq!(answer.status(), 204);
    let told = stream.next().await.expect("told")["push"]["disconnect"].take();
    assert_eq!(told["code"], 3501, "{told}");
    assert_eq!(stream.next().await, None);
    eventually("the session is forgotten", async || emulate(&hub, body(session, node, "{}")).await.0 == 404).await;
    nobody_left(&hub).await;
    // Whoever has it may speak for the client.
    assert!(!hub.log().contains(session), "{}", hub.log());
}

#[tokio::test]
async fn an_event_stream_is_one_to_everybody_on_the_way() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let said: String = url_encoded(&connect(&World::token("viewer")));
    for (version, path, kind) in [
        ("1.1", "sse", "text/event-stream; charset=utf-8"),
        ("1.0", "sse", "text/event-stream; charset=utf-8"),
        ("1.1", "uni_sse", "text/event-stream; charset=utf-8"),
    ] {
        let mut socket = TcpStream::connect(hub.addr).await.expect("connect");
        let ask = format!(
            "GET /connection/{path}?x=1&cf_connect={said} HTTP/{version}\r\nHost: {}\r\nAccept-Encoding: gzip, br\r\n\r\n",
            hub.addr
        );
        socket.write_all(ask.as_bytes()).await.expect("written");
        let mut got = String::new();
        while !got.contains("\n\n") {
            let mut buffer = [0; 4096];
            let read = timeout(patience(), socket.read(&mut buffer)).await.expect("in time").expect("read");
            assert_ne!(read, 0, "{got}");
            got.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        }
        let (head, body) = got.split_once("\r\n\r\n").expect("a head");
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200"), "{head}");
        for line in [&format!("content-type: {kind}"), "x-accel-buffering: no", "no-store, no-transform"] {
            assert!(head.contains(line), "{line:?} in {head}");
        }
        assert!(!head.contains("content-encoding") && !head.contains("content-length"), "{head}");
        assert_eq!(head.contains("transfer-encoding: chunked"), version == "1.1", "{head}");
        // In a chunk of its own, where there are chunks.
        assert!(body.starts_with(if version == "1.1" { "2\r\n\r\n\r\n" } else { "\r\ndata: " }), "{body:?}");
        assert!(body.contains("data: {"), "{body:?}");
    }
    nobody_left(&hub).await;
}

/// What stands in an address, every byte of it escaped.
fn url_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A short queue, and pings that do not come into it.
const SLOW: &str = "[channels]\nqueue_bytes = \"256KiB\"\nrecovery_bytes = \"128KiB\"\nping = \"10m\"\npong = \"1m\"\n";

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_as_slow_and_slows_nobody() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &format!("{}{SLOW}", rules())).await;
    let (mut fast, connected) = Stream::connected(&hub, "http_stream").await;
    let subscribe = |id: u32| json!({"id": id, "subscribe": {"channel": "chat.1"}}).to_string();
    let body = json!({"session": connected["session"], "node": connected["node"], "data": subscribe(2)});
    assert_eq!(emulate(&hub, body.to_string()).await.0, 204);
    assert_eq!(fast.next().await.expect("subscribed")["id"], 2);

    let mut slow = TcpStream::connect(hub.addr).await.expect("connect");
    let said = format!("{}\n{}", connect(&World::token("viewer")), subscribe(2));
    let head = format!(
        "POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        said.len()
    );
    slow.write_all(format!("{head}{said}").as_bytes()).await.expect("written");
    eventually("both listen", async || hub.metric("dzvin_subscriptions").await == 2.0).await;
    // More than both queue and kernel hold; the other one has it all meanwhile.
    let filling = json!("x".repeat(60_000));
    let mut offset = 0;
    while hub.metric("dzvin_sessions").await > 1.0 {
        offset += 1;
        assert!(offset < 1000, "the slow one is still there");
        publish(&hub, "chat.1", &filling).await;
        assert_eq!(fast.next().await.expect("told")["push"]["pub"]["offset"], offset);
    }
    let (_, metrics) = hub.get("/metrics").await.expect("metrics");
    assert!(metrics.lines().any(|line| line.starts_with("dzvin_sessions_closed_total{code=\"3008\"} 1")), "{metrics}");
    // What it would find now ends with whole messages or in the middle of one, and then the end.
    let mut rest = Vec::new();
    timeout(patience(), slow.read_to_end(&mut rest)).await.expect("the end comes").expect("read");
    assert!(rest.len() > 256 * 1024);
    drop(fast);
    nobody_left(&hub).await;
}

/// The descriptors of the hub.
fn descriptors(hub: &Hub) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", hub.pid())).expect("alive").count()
}

/// Resident memory of the hub, in bytes.
fn resident(hub: &Hub) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.pid())).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[tokio::test]
async fn a_thousand_streams_come_and_go() {
    const MANY: usize = 1_000;
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let said = connect(&World::token("viewer"));
    let open = async |transport: &str, count: usize| {
        let ask =
            format!("POST /connection/{transport} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        let one = async || {
            let mut socket = TcpStream::connect(hub.addr).await.expect("connect");
            socket.write_all(ask.as_bytes()).await.expect("written");
            let mut got = Vec::new();
            while !got.windows(9).any(|seen| seen == b"\"connect\"") {
                let mut buffer = [0; 2048];
                let read = timeout(patience(), socket.read(&mut buffer)).await.expect("in time").expect("read");
                assert_ne!(read, 0, "{}", String::from_utf8_lossy(&got));
                got.extend_from_slice(&buffer[..read]);
            }
            socket
        };
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(join_all((0..50.min(count - all.len())).map(|_| one())).await);
        }
        all
    };
    drop(open("sse", 10).await);
    nobody_left(&hub).await;
    let (before, memory) = (descriptors(&hub), resident(&hub));
    for transport in ["sse", "http_stream"] {
        let all = open(transport, MANY).await;
        assert_eq!(hub.metric("dzvin_sessions").await, MANY as f64);
        // The socket and both ends of the pipe; those of the warming up may have lingered.
        assert!(descriptors(&hub) >= before + 3 * MANY - 100);
        println!("{transport}: {} bytes resident each", (resident(&hub) - memory) / MANY);
        drop(all);
        nobody_left(&hub).await;
        eventually("descriptors are given back", async || descriptors(&hub) <= before + 5).await;
    }
    assert_eq!(hub.metric("dzvin_queue_bytes").await, 0.0);
}
