//! Every fault of the Mirror, each seen from the client's side.

use crate::client::{Client, GOOD, LIMIT, Memory, PROCEDURE, open, sandbox, some_id};
use dzvin_sandbox::{ActiveFault, Control, Fault, Manner, Phase, Play, SandboxHandle, StaleTs};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::{self, Message};

/// A client that is up to date on a small world.
async fn ready(objects: usize) -> (SandboxHandle, Control, Client) {
    let (handle, control) = sandbox(objects, |_| {}).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    (handle, control, client)
}

fn edits(control: &Control, count: usize) {
    let id = some_id(control);
    for n in 0..count {
        control.patch(PROCEDURE, &id, &format!("{{\"n\":{n}}}")).unwrap();
    }
}

#[tokio::test]
async fn handshakes_are_refused_in_the_words_of_who_refuses() {
    let (handle, control) = sandbox(0, |_| {}).await;
    for (status, html) in [(403, false), (429, true), (500, false), (503, true)] {
        control.fault_with(ActiveFault::new(Fault::Handshake { status }).times(1));
        let Err(tungstenite::Error::Http(response)) = open(&handle, &GOOD).await else { panic!("no refusal") };
        assert_eq!(response.status().as_u16(), status);
        let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
        assert_eq!(body.contains("<center>nginx</center>"), html, "{body}");
        assert_eq!(body.contains("\"message\""), !html);
        assert!(response.headers().get("retry-after").is_none());
        open(&handle, &GOOD).await.expect("used up after one");
    }
}

#[tokio::test]
async fn a_handshake_hangs_until_it_is_let_go() {
    let (handle, control) = sandbox(0, |_| {}).await;
    control.fault(Fault::HandshakeHang);
    let mut attempt = Box::pin(open(&handle, &GOOD));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut attempt).await.is_err());
    control.clear("handshake-hang");
    attempt.await.unwrap();
}

#[tokio::test]
async fn duplicates_and_older_versions_come_along() {
    let (_handle, control, mut client) = ready(2).await;
    control.fault(Fault::Duplicates { percent: 100 });
    for ts in [StaleTs::Old, StaleTs::Same, StaleTs::Null] {
        control.fault(Fault::Stale { percent: 100, ts });
        let before = client.memory.count("upsert");
        edits(&control, 5);
        client.until(|m| m.count("upsert") == before + 15).await;
        client.until_equal(&control).await;
    }
    let stats = control.stats();
    assert_eq!((stats.frames(PROCEDURE, "duplicate"), stats.frames(PROCEDURE, "stale")), (15, 15));
}

#[tokio::test]
async fn malformed_unknown_binary_and_fragmented_frames_come_between() {
    let (_handle, control, mut client) = ready(2).await;
    control.fault(Fault::Malformed { every: 2 });
    control.fault(Fault::UnknownType { every: 3 });
    control.fault(Fault::Fragments { bytes: 7 });
    edits(&control, 12);
    client.until_equal(&control).await;
    let stats = control.stats();
    assert!(client.memory.bad >= 5 && client.memory.count("resharding-notice") >= 4, "{:?}", client.memory.kinds);
    assert_eq!(stats.frames(PROCEDURE, "malformed") as usize, client.memory.bad);
    control.clear_all();
    control.fault(Fault::Binary);
    edits(&control, 3);
    client.until_equal(&control).await;
    assert_eq!(client.memory.binary, 3);
    assert_eq!(control.inject(PROCEDURE, "{\"type\":\"whatever\"}"), 1);
    client.until(|m| m.count("whatever") == 1).await;
}

#[tokio::test]
async fn slow_bytes_are_slow() {
    let (_handle, control, mut client) = ready(1).await;
    control.fault(Fault::Slow { bytes_per_s: 40_000 });
    let size = control.put_sized(PROCEDURE, &control.document(PROCEDURE, &some_id(&control)).unwrap().unwrap(), 20_000);
    assert_eq!(size.unwrap().bytes, 20_000);
    let begun = Instant::now();
    client.until_equal(&control).await;
    assert!(begun.elapsed() > Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn silence_says_nothing_and_hears_nothing_until_it_ends() {
    let (_handle, control, mut client) = ready(1).await;
    control.fault(Fault::Silence { after: 0 });
    edits(&control, 1);
    assert!(control.wait_until(LIMIT, |s| s.links.iter().any(|l| l.phase == Phase::Silent)).await);
    client.socket.send(Message::Ping("x".into())).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(80), client.socket.next()).await.is_err());
    control.clear("silence");
    client.until_equal(&control).await;
}

#[tokio::test]
async fn a_cut_comes_in_every_manner() {
    for manner in [Manner::Close(1009), Manner::Close(1011), Manner::Fin, Manner::Rst, Manner::MidFrame] {
        let (handle, control, mut client) = ready(2).await;
        control.fault_with(ActiveFault::new(Fault::Cut { after: 5, manner }).times(1));
        edits(&control, 10);
        let end = client.ending().await;
        let last = client.memory.kinds.last().unwrap().clone();
        match (manner, end) {
            (Manner::Close(code), None) => assert_eq!(last, format!("close {code}")),
            (Manner::Rst, Some(tungstenite::Error::Io(error))) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            (Manner::Fin | Manner::MidFrame, Some(tungstenite::Error::Protocol(error))) => {
                assert_eq!(error, tungstenite::error::ProtocolError::ResetWithoutClosingHandshake);
            }
            (manner, end) => panic!("{manner:?} ended with {end:?} after {last}"),
        }
        let mut again = Client::connect(&handle, client.memory.clone()).await;
        again.until_equal(&control).await;
    }
}

#[tokio::test]
async fn the_control_ends_connections_too() {
    for manner in [Manner::Close(1001), Manner::Fin, Manner::Rst] {
        let (_handle, control, mut client) = ready(1).await;
        assert_eq!(control.disconnect(PROCEDURE, manner), 1);
        client.ending().await;
        assert!(control.wait_until(LIMIT, |s| s.open(PROCEDURE) == 0).await);
    }
}

#[tokio::test]
async fn idle_connections_end_in_three_manners_and_a_ping_keeps_them() {
    for manner in [Manner::Close(1000), Manner::Fin, Manner::Silent] {
        let (handle, control) = sandbox(1, |k| {
            k.mirror.idle_close_ms = 300;
            k.mirror.idle_manner = manner;
        })
        .await;
        let mut client = Client::connect(&handle, Memory::new("simple")).await;
        client.until_equal(&control).await;
        let begun = Instant::now();
        for n in 1..=3 {
            tokio::time::timeout(Duration::from_millis(80), std::future::pending::<()>()).await.unwrap_err();
            client.socket.send(Message::Ping("x".into())).await.unwrap();
            assert!(control.wait_until(LIMIT, |s| s.collection(PROCEDURE).pings == n).await);
        }
        if manner == Manner::Silent {
            assert!(control.wait_until(LIMIT, |s| s.links.iter().any(|l| l.phase == Phase::Silent)).await);
            client.socket.send(Message::Ping("x".into())).await.unwrap();
        }
        let end = client.ending().await;
        assert!(begun.elapsed() >= Duration::from_millis(520), "{manner:?} {:?}", begun.elapsed());
        match manner {
            Manner::Close(_) => assert_eq!(client.memory.kinds.last().unwrap(), "close 1000"),
            Manner::Silent => assert!(matches!(end, Some(tungstenite::Error::Io(_))), "{end:?}"),
            _ => assert!(matches!(end, Some(tungstenite::Error::Protocol(_))), "{end:?}"),
        }
    }
}

#[tokio::test]
async fn a_stuck_server_asks_and_goes_no_further() {
    let (handle, control) = sandbox(2, |_| {}).await;
    control.fault(Fault::Stuck);
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until(|m| m.count("protocol-request") > 0 && m.count("init-point-request") > 0).await;
    assert_eq!(client.memory.count("upsert"), 0);
    control.clear("stuck");
    client.until_equal(&control).await;
}

#[tokio::test]
async fn a_client_that_answers_nonsense_or_nothing_is_sent_away() {
    let (handle, _control) = sandbox(1, |k| k.mirror.answer_timeout_ms = 50).await;
    let wrong = Memory { cursor: serde_json::json!("yesterday"), ..Memory::new("simple") };
    let mut client = Client::connect(&handle, wrong).await;
    client.ending().await;
    assert_eq!(client.memory.kinds.last().unwrap(), "close 1008");
    let mut mute = open(&handle, &GOOD).await.unwrap();
    let close = loop {
        match mute.next().await {
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(close, 1008);
}

/// The double itself under every fault at once: whoever only answers, guards by version and comes back ends up with the truth.
#[tokio::test]
async fn everything_at_once_still_adds_up_to_the_truth() {
    let (handle, control) = sandbox(20, |k| {
        k.mirror.reask_every = 5;
        k.mirror.snapshot_ordered = false;
        k.mirror.pipeline_requests = true;
    })
    .await;
    let cut = |after, manner, times| ActiveFault::new(Fault::Cut { after, manner }).times(times);
    control.fault(Fault::Duplicates { percent: 30 });
    control.fault(Fault::Stale { percent: 30, ts: StaleTs::Old });
    control.fault(Fault::Malformed { every: 7 });
    control.fault(Fault::UnknownType { every: 5 });
    control.fault(Fault::Fragments { bytes: 1000 });
    control.fault_with(ActiveFault::new(Fault::HistoryLost).times(2));
    let manners = [Manner::Rst, Manner::Close(1009), Manner::MidFrame, Manner::Fin, Manner::Close(1012), Manner::Rst];
    control.play(&Play { rate_per_s: 500.0, ..Play::default() }).unwrap();
    let mut memory = Memory::new("simple");
    for (n, manner) in (0u32..).zip(manners) {
        control.fault_with(cut(25 + n * 3, manner, 1));
        let mut client = Client::connect(&handle, memory).await;
        client.ending().await;
        memory = client.memory;
    }
    control.play(&Play::default()).unwrap();
    control.clear_all();
    let mut client = Client::connect(&handle, memory).await;
    client.until_equal(&control).await;
    assert_eq!(control.stats().collection(PROCEDURE).snapshots, 3, "the first and two with lost history");
}

#[tokio::test]
async fn a_tail_that_falls_off_the_oplog_is_cut_and_not_skipped() {
    let (_handle, control, mut client) = ready(1).await;
    control.fault(Fault::Silence { after: 0 });
    edits(&control, 1);
    assert!(control.wait_until(LIMIT, |s| s.links.iter().any(|l| l.phase == Phase::Silent)).await);
    edits(&control, 10);
    control.forget_history(PROCEDURE).unwrap();
    control.clear("silence");
    client.ending().await;
    assert_eq!(client.memory.kinds.last().unwrap(), "close 1011");
}
