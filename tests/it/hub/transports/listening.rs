//! Clients that only listen, and what stands on the way to them.

use super::*;

#[tokio::test]
async fn clients_that_only_listen() {
    let world = World::new(1, false).await;
    let mut hub = world.hub_with("a", &format!("{}[channels]\nping = \"1s\"\npong = \"900ms\"\n", rules())).await;
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
    // For longer than a pong may take: nobody waits for one of the EventSource, and the WebSocket answers by itself.
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
