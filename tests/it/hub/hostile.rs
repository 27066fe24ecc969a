//! What no client should send, against a real hub: a clear code each, no panic, and the hub goes on.

use futures_util::SinkExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::connect_async;

use super::raw::{WEBSOCKET, upgrade};
use crate::support::{
    eventually::{eventually, patience},
    hub::{Hub, World},
    session::Client,
};

/// The hub lives, nothing panicked, and nobody is left.
async fn unharmed(hub: &Hub) {
    let mut client = Client::connected(hub, "viewer").await;
    assert_eq!(client.ask(r#"{"id":2,"ping":{}}"#).await, json!({"id": 2, "ping": {}}));
    drop(client);
    eventually("nobody is left", async || hub.metric("dzvin_sessions").await == 0.0).await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
    assert_eq!(hub.metric("dzvin_subscriptions").await, 0.0);
    let log = hub.log();
    assert!(!log.contains("panic"), "{log}");
}

#[tokio::test]
async fn frames_that_are_no_commands_close_with_their_code() {
    let world = World::new(3, false).await;
    let hub = world.hub("a").await;
    let nested =
        |open: &str, close: &str| format!("{{\"id\":2,\"rpc\":{}{}}}", open.repeat(9_000), close.repeat(9_000));
    for bad in [
        "",
        "\n\n",
        "x",
        "[]",
        "null",
        "\"text\"",
        "{\"id\":-1}",
        "{\"id\":4294967296,\"ping\":{}}",
        "{\"id\":99999999999999999999999999,\"ping\":{}}",
        "{\"id\":1e400,\"ping\":{}}",
        "{\"id\":2,\"no_such\":{}}",
        "{\"id\":2,\"subscribe\":{\"channel\":5}}",
        "{\"id\":2,\"subscribe\":{\"channel\":\"x\",\"offset\":-1}}",
        "{\"id\":2,\"subscribe\":{\"channel\":\"x\",\"offset\":18446744073709551616}}",
        "{\"id\":2,\"ping\":{}",
        "{\"id\":2,\"ping\":{}}}",
        "{\"id\":2,\"subscribe\":{\"channel\":\"\\ud800\"}}",
        "\0",
        "{\"id\":2,\0}",
        &nested("[", "]"),
        &nested("{\"a\":", "}"),
        &nested("[", ""),
    ] {
        let mut client = Client::connected(&hub, "viewer").await;
        client.0.send(bad.to_owned().into()).await.expect("sent");
        client.0.send(r#"{"id":9,"ping":{}}"#.into()).await.expect("sent");
        let got = client.receive().await;
        // An empty frame says nothing, which is no crime; whatever else is closed as a bad request.
        let silent = bad.trim().is_empty();
        // Well formed, however deep: the argument of a command that is not offered is skipped, not built.
        if bad == nested("[", "]") {
            assert_eq!(got["error"]["code"], 108);
            continue;
        }
        assert_eq!(got, if silent { json!({"id": 9, "ping": {}}) } else { json!({"close": 3501}) }, "{bad:.80}");
    }
    unharmed(&hub).await;
}

#[tokio::test]
async fn channels_and_positions_that_do_not_exist_are_answered() {
    let world = World::new(3, false).await;
    let hub = world.hub("a").await;
    let mut client = Client::connected(&hub, "viewer").await;
    for (channel, code) in [
        ("", 107),
        ("a b", 107),
        ("a\0b", 107),
        ("дзвін", 107),
        (&*"x".repeat(256), 107),
        (&*"x".repeat(60_000), 107),
        ("entities", 107),
        ("inbox.me", 107),
        ("chat", 103),
        ("entities.no-such-kind", 102),
        ("entity.no-such-kind.x", 102),
    ] {
        let reply = client.ask(&json!({"id": 2, "subscribe": {"channel": channel}}).to_string()).await;
        let shown = channel.chars().take(40).collect::<String>();
        assert_eq!(reply["error"]["code"], code, "{shown}: {reply}");
    }
    // Positions that nobody can have: told to be lost, whatever the number.
    for offset in [1 << 53, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX] {
        for channel in ["entities.procedure", "entity.procedure.000000000000000000000001", "entity.procedure.nobody"] {
            for epoch in ["", "_", "\0", &"e".repeat(10_000)] {
                let ask = json!({"id": 3, "subscribe": {"channel": channel, "recover": true, "epoch": epoch, "offset": offset}});
                let reply = client.ask(&ask.to_string()).await;
                assert_eq!(reply["subscribe"]["was_recovering"], true, "{channel} {offset}: {reply}");
                assert_eq!(reply["subscribe"]["recovered"], json!(null), "{channel} {offset}: {reply}");
                let over = client.ask(&json!({"id": 4, "unsubscribe": {"channel": channel}}).to_string()).await;
                assert_eq!(over, json!({"id": 4, "unsubscribe": {}}));
            }
            for (limit, reverse) in [(0, false), (i64::MAX, true), (i64::MIN, true), (i64::MAX, false), (1, true)] {
                let since = json!({"offset": offset, "epoch": ""});
                let ask = json!({"id": 5, "history": {"channel": channel, "limit": limit, "reverse": reverse, "since": since}});
                let reply = client.ask(&ask.to_string()).await;
                assert!(reply["history"]["offset"].is_u64(), "{channel} {offset} {limit}: {reply}");
            }
        }
    }
    drop(client);
    unharmed(&hub).await;
}

#[tokio::test]
async fn tokens_that_are_none_are_refused() {
    let world = World::new(1, false).await;
    let hub = world.hub("a").await;
    let good = World::token("viewer");
    let parts: Vec<&str> = good.split('.').collect();
    // The head says "alg": "none".
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let other = World::token("operator");
    let swapped = format!("{}.{}.{}", parts[0], other.split('.').nth(1).expect("a payload"), parts[2]);
    for bad in [
        "",
        "x",
        "..",
        "a.b.c",
        "\0",
        "дзвін",
        &good[1..],
        &good[..good.len() - 2],
        &unsigned,
        &swapped,
        &format!("{good}.{good}"),
        &"a".repeat(60_000),
        &".".repeat(60_000),
    ] {
        let mut client = Client::new(&hub).await;
        let reply = client.ask(&json!({"id": 1, "connect": {"token": bad}}).to_string()).await;
        assert_eq!(reply, json!({"close": 3500}), "{bad:.60}");
    }
    unharmed(&hub).await;
}

/// Raw bytes behind a good handshake.
#[tokio::test]
async fn bytes_that_are_no_frames_close_with_their_code() {
    let world = World::new(1, false).await;
    let hub = world.hub("a").await;
    let huge = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
    for (bytes, code) in [
        (&[0x81, 0x01, b'x'][..], Some(1002)),
        (&[0xff, 0xff][..], Some(1002)),
        (&[0x83, 0x80, 0, 0, 0, 0][..], Some(1002)),
        (&[0x80, 0x80, 0, 0, 0, 0][..], Some(1002)),
        (&[0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0][..], Some(1002)),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff][..], Some(1007)),
        (&huge[..], Some(1009)),
        (&[0x82, 0x81, 0, 0, 0, 0, 1][..], Some(3506)),
        (&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed][..], Some(1002)),
        (&[0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa1][..], Some(4001)),
        (&[0x81][..], None),
    ] {
        let mut socket = TcpStream::connect(hub.addr).await.expect("connect");
        // In one write: what follows the request belongs to the connection already.
        socket.write_all(&[upgrade(&hub, WEBSOCKET).as_bytes(), bytes].concat()).await.expect("written");
        socket.shutdown().await.expect("half closed");
        let mut got = Vec::new();
        timeout(patience(), socket.read_to_end(&mut got)).await.expect("the hub closes").expect("read");
        let end = got.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer") + 4;
        assert!(got.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&got));
        let frame = &got[end..];
        let told = (frame.len() >= 4).then(|| (frame[0], u16::from_be_bytes([frame[2], frame[3]])));
        assert_eq!(told, code.map(|code| (0x88, code)), "{bytes:?}: {frame:?}");
    }
    unharmed(&hub).await;
}

/// Connections that never say a word are closed, and their places are free again.
#[tokio::test]
async fn silent_connections_hold_no_place() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", "[channels]\nmax_sessions = 3\nconnect_timeout = '3s'\n").await;
    let mut silent = vec![Client::new(&hub).await, Client::new(&hub).await, Client::new(&hub).await];
    let refused = connect_async(format!("ws://{}/connection/websocket", hub.addr)).await;
    assert!(refused.is_err(), "a fourth has no place");
    for client in &mut silent {
        assert_eq!(client.receive().await, json!({"close": 3502}));
    }
    drop(silent);
    let comes = async || connect_async(format!("ws://{}/connection/websocket", hub.addr)).await.is_ok();
    eventually("a place is free", comes).await;
}
