//! `?cf_ws_frame_ping_pong=true`: tools that answer ping frames by themselves, and no pings of the protocol, stay connected; one that
//! answers nothing does not.

use serde_json::Value;

use super::raw::*;
use crate::support::hub::World;

const QUERY: &str = "?cf_ws_frame_ping_pong=true";
/// Whoever answers has nearly until the next ping, also on a machine that is busy.
const PINGS: &str = "[channels]\nping = \"1s\"\npong = \"900ms\"\n";
/// Pings that a client must outlive to be believed alive: each of them would be its end without an answer.
const OUTLIVED: usize = 3;

#[tokio::test]
async fn frames_keep_a_client_that_asked_for_them() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", PINGS).await;
    let mut raw = Raw::asking(&hub, QUERY).await;
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
    let mut raw = Raw::asking(&hub, QUERY).await;
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
        let mut raw = Raw::asking(&hub, query).await;
        let (_, reply) = raw.connect().await;
        let reply: Value = serde_json::from_slice(&reply).expect("json");
        assert_eq!((&reply["connect"]["ping"], &reply["connect"]["pong"]), (&1.into(), &true.into()), "{query}");
        raw.expect(FIN | TEXT, b"{}", "a ping").await;
        raw.send(&frame(FIN | PONG, b"")).await;
        raw.closed(3012, "a frame is no pong of the protocol").await;
    }
}
