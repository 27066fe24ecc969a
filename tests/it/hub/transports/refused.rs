//! Whoever does not mean well: origins, bodies that are none, sessions that are guessed, commands that are too large.

use super::*;
use crate::support::protobuf::{counted, field};

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

/// Whichever node the balancer picks: the largest message that a node takes for its own sessions it takes for those of others.
#[tokio::test]
async fn the_largest_message_reaches_a_session_of_another_node() {
    let world = World::new(1, true).await;
    for (setting, most) in [("", 64 * 1024), ("[channels]\nmax_message = \"256KiB\"\n", 256 * 1024)] {
        let more = format!("{setting}{}", rules());
        let (a, b) = tokio::join!(world.hub_with("a", &more), world.hub_with("b", &more));
        let (mut stream, connected) = Stream::connected(&a, "http_stream").await;
        // Quotes and backslashes cost two bytes each, here as between nodes.
        let publish = |id: u32, length: usize| {
            let data = "\"\\ї".repeat(length / 16);
            let command = |pad: usize| {
                let data = format!("{data}{}", "x".repeat(pad));
                let command = json!({"id": id, "publish": {"channel": "room.1", "data": data}}).to_string();
                json!({"session": connected["session"], "node": connected["node"], "data": command}).to_string()
            };
            command(length - command(0).len())
        };
        for (id, node) in [(2, &a), (3, &b)] {
            let body = publish(id, most);
            assert_eq!(body.len(), most);
            assert_eq!(emulate(node, body).await, (204, Value::Null), "{most}");
            let answer = stream.next().await.expect("an answer");
            assert!(answer["id"] == id && answer["publish"].is_object(), "{answer}");
            assert_eq!(emulate(node, publish(9, most + 1)).await.0, 413, "{most}");
        }
        // As bytes, which between nodes are a third longer.
        let connect = field(4, &field(1, World::token("viewer").as_bytes()));
        let bytes = |addr, path: &str, body: Vec<u8>| {
            let request = reqwest::Client::new().post(format!("http://{addr}{path}")).body(body);
            request.header("content-type", "application/octet-stream").send()
        };
        let first = counted(&[&[8, 1][..], &connect].concat());
        let mut stream = bytes(a.addr, "/connection/http_stream", first).await.expect("answered");
        let read = async |stream: &mut reqwest::Response| {
            timeout(patience(), stream.chunk()).await.expect("in time").expect("read").expect("no end yet")
        };
        let connected = read(&mut stream).await;
        // Session and node, as they stand there: both of 32 bytes.
        let name = |tag: u8| {
            let at = connected.windows(2).position(|two| two == [tag << 3 | 2, 32]).expect("a name") + 2;
            &connected[at..at + 32]
        };
        let publish = |length: usize| {
            let data = [&b"\""[..], &vec![b'x'; length], b"\""].concat();
            let publish = field(7, &[field(1, b"room.1"), field(2, &data)].concat());
            let data = field(3, &counted(&[&[8, 2][..], &publish].concat()));
            [field(1, name(10)), field(2, name(9)), data].concat()
        };
        let body = publish(most - (publish(60_000).len() - 60_000));
        assert_eq!(body.len(), most);
        assert_eq!(bytes(b.addr, "/emulation", body).await.expect("answered").status(), 204, "{most}");
        let answer = read(&mut stream).await;
        assert!(answer[1..3] == [8, 2] && answer[3] >> 3 == 8, "the reply to it, and no error: {answer:?}");
    }
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
