//! Ping frames: of `?cf_ws_frame_ping_pong=true`, for tools that answer those by themselves and no pings of the protocol, and of the
//! WebSocket of one direction. Who answers stays connected; who answers nothing does not.

use serde_json::Value;

use super::raw::*;
use crate::support::hub::World;

const ASKED_FOR: &str = "/connection/websocket?cf_ws_frame_ping_pong=true";
/// Whoever answers has nearly until the next ping, also on a machine that is busy.
const PINGS: &str = "[channels]\nping = \"1s\"\npong = \"900ms\"\n";
/// Pings that a client must outlive to be believed alive: each of them would be its end without an answer.
const OUTLIVED: usize = 3;

#[tokio::test]
async fn frames_keep_a_client_that_asked_for_them() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", PINGS).await;
    let mut raw = Raw::at(&hub, ASKED_FOR).await;
    // Nobody has asked for it, and it is no offence.
    raw.send(&frame(FIN | PONG, b"")).await;
    let (first, reply) = raw.connect().await;
    let reply: Value = serde_json::from_slice(&reply).expect("json");
    assert!(first == FIN | TEXT && reply["connect"]["client"].is_string(), "{reply}");
    assert!(reply["connect"]["ping"].is_null() && reply["connect"]["pong"].is_null(), "the protocol has none: {reply}");
    raw.send(&frame(FIN | PONG, b"")).await;
    for n in 0..OUTLIVED {
        raw.expect(FIN | PING, b"", "a ping").await;
        // Alone, and behind something.
        let words = if n % 2 == 0 { Vec::new() } else { frame(FIN | TEXT, ASK.as_bytes()) };
        raw.send(&[words.clone(), frame(FIN | PONG, b"")].concat()).await;
        if !words.is_empty() {
            raw.expect(FIN | TEXT, ASK.as_bytes(), "an answer").await;
        }
    }
    raw.expect(FIN | PING, b"", "still there").await;
    raw.closed(3012, "who answers nothing").await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
}

/// The message is the answer to a ping of the protocol, of which there are none: neither an offence nor a sign of life.
#[tokio::test]
async fn the_protocols_pong_is_nothing_where_frames_are_asked_for() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", PINGS).await;
    let mut raw = Raw::at(&hub, ASKED_FOR).await;
    let pong = frame(FIN | TEXT, b"{}");
    raw.send(&pong).await;
    raw.connect().await;
    raw.send(&pong).await;
    for _ in 0..OUTLIVED {
        raw.expect(FIN | PING, b"", "a ping").await;
        raw.send(&[pong.clone(), frame(FIN | PONG, b""), pong.clone()].concat()).await;
    }
    raw.expect(FIN | PING, b"", "still there").await;
    raw.send(&pong).await;
    raw.closed(3012, "it answers no ping by a frame").await;
}

#[tokio::test]
async fn frames_are_no_answer_of_who_did_not_ask_for_them() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", PINGS).await;
    for query in ["", "?cf_ws_frame_ping_pong=1"] {
        let mut raw = Raw::at(&hub, &format!("{WEBSOCKET}{query}")).await;
        let (_, reply) = raw.connect().await;
        let reply: Value = serde_json::from_slice(&reply).expect("json");
        assert_eq!((&reply["connect"]["ping"], &reply["connect"]["pong"]), (&1.into(), &true.into()), "{query}");
        raw.expect(FIN | TEXT, b"{}", "a ping").await;
        raw.send(&frame(FIN | PONG, b"")).await;
        raw.closed(3012, "a frame is no pong of the protocol").await;
    }
}

/// Its machine acknowledges all that comes, as a proxy does for one that is gone: what tells is the frame alone.
#[tokio::test]
async fn who_only_listens_is_missed_when_it_answers_no_frame() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", PINGS).await;
    let mut raw = Raw::at(&hub, "/connection/uni_websocket").await;
    let pong = frame(FIN | PONG, b"");
    // Nobody has asked for it, and it is no offence.
    raw.send(&pong).await;
    let request = format!(r#"{{"token":"{}"}}"#, World::token("viewer"));
    raw.send(&frame(FIN | TEXT, request.as_bytes())).await;
    let (first, push) = raw.hear().await.expect("a push");
    let push: Value = serde_json::from_slice(&push).expect("json");
    let connected = &push["connect"];
    assert!(first == FIN | TEXT && connected["client"].is_string(), "{push}");
    assert_eq!(
        (&connected["ping"], &connected["pong"]),
        (&1.into(), &Value::Null),
        "the protocol's are told alone: {push}"
    );
    for n in 0..=OUTLIVED {
        raw.expect(FIN | TEXT, b"{}", "a ping for the page").await;
        raw.expect(FIN | PING, b"", "and one for its WebSocket").await;
        if n < OUTLIVED {
            raw.send(&pong).await;
        }
    }
    // What it says is listened to by nobody, and is no sign of life.
    raw.send(&frame(FIN | TEXT, b"{}")).await;
    raw.closed(3012, "it answers no frame").await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
}
