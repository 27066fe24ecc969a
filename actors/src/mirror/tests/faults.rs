//! What goes wrong: refusals, sizes, silence, a slow store, lost leases.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ractor::Actor;
use tokio::time::{Instant, timeout};

use super::{
    fakes::{FakeStore, Node, PATIENCE, doc, noop, until, upsert},
    rig::{Rig, TestLink},
};
use crate::{mirror::Token, platform::ports::CdbError};

fn big(id: &str, second: u32, cursor: u64, bytes: usize) -> String {
    let doc = doc(id, second, &"x".repeat(bytes));
    format!(r#"{{"type":"upsert","data":{doc},"ts":[{cursor},0]}}"#)
}

#[tokio::test]
async fn a_message_above_the_limit_comes_over_http() {
    let mut rig = Rig::new(r#"{"max_message_bytes":4096}"#).await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    rig.api.put("big", 2, "from http");
    rig.api.errors.lock().unwrap().push_back(CdbError::Failed("502".into()));
    peer.send(upsert("a", 1, Some(1))).await;
    peer.send(big("big", 2, 2, 8000)).await;
    peer.send(upsert("z", 3, Some(3))).await;
    rig.store.until("the last", |world| world.rows.contains_key("z")).await;
    rig.store.read(|world| {
        assert_eq!(world.rows["big"].1, doc("big", 2, "from http"));
        assert_eq!(world.quarantined, [("over_limit".to_owned(), Some("big".to_owned()))]);
        let of = |id: &str| world.batches.iter().position(|batch| batch.0.contains(&id.to_owned()));
        assert!(of("a") <= of("big") && of("big") <= of("z"), "in order");
        let covering = &world.batches[of("big").unwrap()];
        assert!(covering.1.as_deref() >= Some("[2,0]"), "the cursor passes with the object, not before it");
    });
    rig.state("live").await;
    assert_eq!(rig.handle.status().over_limit_pending, 0);
    // Raised live: the same message passes.
    rig.handle.set_max_message_bytes(16_000);
    peer.send(big("big", 4, 4, 8000)).await;
    rig.store.until("whole", |world| world.rows["big"].1.len() > 8000).await;
    assert_eq!(rig.mirror.handshakes.load(Ordering::SeqCst), 1, "one connection did it all");
}

#[tokio::test]
async fn an_object_that_cannot_be_fetched_is_owed() {
    let mut rig = Rig::new(r#"{"max_message_bytes":4096}"#).await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    rig.api.errors.lock().unwrap().push_back(CdbError::Refused { status: 400, message: "no".into() });
    rig.api.put("big", 2, "later");
    peer.send(big("big", 2, 2, 8000)).await;
    rig.store
        .until("the debt is committed with the cursor", |world| {
            world.batches.iter().any(|batch| batch.3 == Some(true) && batch.1.as_deref() == Some("[2,0]"))
        })
        .await;
    rig.store.until("and paid", |world| world.rows.contains_key("big") && !world.record.gap).await;
}

/// HTTP is behind the stream, or does not know the object at all: that is a debt, not an answer.
#[tokio::test]
async fn an_object_that_http_shows_older_is_owed() {
    for shown in [Some("older"), None] {
        let mut rig = Rig::new(r#"{"max_message_bytes":4096}"#).await;
        let _link = rig.start().await;
        let mut peer = rig.mirror.peer().await;
        if let Some(note) = shown {
            rig.api.put("big", 1, note);
        }
        peer.send(big("big", 2, 2, 8000)).await;
        rig.store.until("the debt", |world| world.batches.iter().any(|batch| batch.3 == Some(true))).await;
        assert_eq!(rig.store.read(|world| world.rows.contains_key("big")), shown.is_some());
        rig.api.put("big", 2, "newer");
        rig.handle.resume(None);
        rig.store.until("the debt is paid", |world| !world.record.gap).await;
    }
}

/// A replica that lags a little is waited for.
#[tokio::test]
async fn an_object_that_http_shows_soon_is_not_owed() {
    let mut rig = Rig::new(r#"{"max_message_bytes":4096}"#).await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(big("big", 2, 2, 8000)).await;
    until("it was asked for", || rig.api.objects.load(Ordering::SeqCst) > 0).await;
    rig.api.put("big", 2, "soon");
    rig.store.until("it is here", |world| world.rows.contains_key("big")).await;
    assert!(!rig.store.read(|world| world.record.gap));
}

#[tokio::test]
async fn above_the_ceiling_http_fills_in_and_nothing_loops() {
    let mut rig = Rig::new(r#"{"max_message_bytes":1024}"#).await;
    rig.committed("[1704067200,0]", "2024-01-01T00:00:00.000000Z");
    let _link = rig.start().await;
    rig.api.put("huge", 5, "from http");
    rig.api.put("after", 6, "from http");
    let mut peer = rig.mirror.peer().await;
    let _ = futures_util::SinkExt::send(
        &mut peer.0,
        tokio_tungstenite::tungstenite::Message::text(big("huge", 5, 9, 50_000)),
    )
    .await;
    rig.state("over_limit").await;
    rig.store.until("over http", |world| world.rows.contains_key("huge") && world.rows.contains_key("after")).await;
    let handshakes = rig.mirror.handshakes.load(Ordering::SeqCst);
    // At least a second of rest, whatever happens.
    assert!(timeout(Duration::from_millis(800), rig.mirror.peers.recv()).await.is_err());
    assert_eq!(rig.mirror.handshakes.load(Ordering::SeqCst), handshakes);
    // The operator raises the limit: at once again.
    rig.handle.set_max_message_bytes(100_000);
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("timestamp-request").await.to_string(), "[1704067200,0]", "the cursor did not run ahead");
    peer.send(big("huge", 5, 9, 50_000)).await;
    rig.store.until("the cursor", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == "[9,0]")).await;
}

#[tokio::test]
async fn a_close_with_1009_is_the_same_class() {
    use tokio_tungstenite::tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    };
    let mut rig = Rig::new("").await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    let frame = CloseFrame { code: CloseCode::Size, reason: "too big".into() };
    futures_util::SinkExt::send(&mut peer.0, Message::Close(Some(frame))).await.expect("sent");
    rig.state("over_limit").await;
    assert!(rig.handle.status().reason.is_some_and(|reason| reason.contains("1009")));
    rig.handle.resume(None);
    let _peer = rig.mirror.peer().await;
}

#[tokio::test]
async fn a_refusal_waits_for_a_new_token() {
    let mut rig = Rig::new(r#"{"auth":{"scheme":"Bearer "}}"#).await;
    rig.mirror.status.send_replace(403);
    let _link = rig.start().await;
    rig.state("forbidden").await;
    assert!(timeout(Duration::from_millis(500), rig.mirror.peers.recv()).await.is_err());
    assert_eq!(rig.mirror.handshakes.load(Ordering::SeqCst), 1, "never repeated by itself");
    assert_eq!(rig.leases.holder(), Some(1), "and no other node repeats it either");
    rig.handle.resume(None);
    until("asked again", || rig.mirror.handshakes.load(Ordering::SeqCst) == 2).await;
    rig.state("forbidden").await;
    rig.mirror.status.send_replace(101);
    rig.handle.set_token(Some(Token::new("newer")));
    let mut peer = rig.mirror.peer().await;
    peer.send(noop(1)).await;
    rig.state("live").await;
    assert_eq!(*rig.mirror.token.lock().unwrap(), "Bearer newer");
    assert!(!format!("{:?} {:?}", rig.handle, rig.handle.status()).contains("newer"), "no secret is printed");
}

/// Neither another reign nor another limit is a reason to offer the same token again.
#[tokio::test]
async fn a_refused_token_is_not_offered_again() {
    let mut rig = Rig::new("").await;
    rig.mirror.status.send_replace(403);
    let _link = rig.start().await;
    rig.state("forbidden").await;
    rig.handle.set_max_message_bytes(1 << 21);
    rig.node.away.store(true, Ordering::SeqCst);
    rig.state("standby").await;
    rig.node.away.store(false, Ordering::SeqCst);
    rig.state("forbidden").await;
    assert_eq!(rig.mirror.handshakes.load(Ordering::SeqCst), 1);
    rig.handle.resume(None);
    until("the operator's word is one try", || rig.mirror.handshakes.load(Ordering::SeqCst) == 2).await;
    rig.state("forbidden").await;
    rig.mirror.status.send_replace(101);
    rig.handle.set_token(Some(Token::new("newer")));
    let _peer = rig.mirror.peer().await;
}

#[tokio::test]
async fn too_many_waits_a_second() {
    let mut rig = Rig::new("").await;
    rig.mirror.status.send_replace(429);
    let _link = rig.start().await;
    rig.state("backoff").await;
    let begun = Instant::now();
    rig.mirror.status.send_replace(101);
    let _peer = rig.mirror.peer().await;
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_failing_upstream_is_tried_again() {
    let mut rig = Rig::new("").await;
    rig.mirror.status.send_replace(503);
    let _link = rig.start().await;
    until("a few tries", || rig.mirror.handshakes.load(Ordering::SeqCst) >= 3).await;
    rig.mirror.status.send_replace(101);
    let _peer = rig.mirror.peer().await;
    assert!(rig.handle.status().last_error.is_some_and(|error| error.contains("503")));
}

#[tokio::test]
async fn a_store_that_is_away_holds_the_upstream_back() {
    let mut rig = Rig::new(r#"{"heartbeat":{"ping_s":1,"any_frame_s":60}}"#).await;
    rig.config.limits.budget_bytes = 64 * 1024;
    rig.config.limits.batch_bytes = 16 * 1024;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(noop(1)).await;
    rig.state("live").await;
    rig.store.away.store(true, Ordering::SeqCst);
    // Far more than budget and socket buffers hold: 26 MB.
    let (mut to, mut from) = futures_util::StreamExt::split(peer.0);
    let total = 800u32;
    let sending = tokio::spawn(async move {
        for n in 0..total {
            let text = big(&format!("n{n}"), n, u64::from(n) + 2, 32 * 1024);
            futures_util::SinkExt::send(&mut to, tokio_tungstenite::tungstenite::Message::text(text))
                .await
                .expect("sent");
        }
        to
    });
    let mut pings = 0;
    while pings < 2 {
        let message = timeout(PATIENCE, futures_util::StreamExt::next(&mut from)).await.expect("pings go on");
        pings += u32::from(message.expect("open").expect("open").is_ping());
    }
    assert!(!sending.is_finished(), "the upstream is held back");
    assert_eq!(rig.store.read(|world| world.rows.len()), 0);
    rig.store.away.store(false, Ordering::SeqCst);
    rig.store.until("all of it", |world| world.rows.len() == total as usize).await;
    assert!(
        rig.store.read(|world| world.batches.iter().all(|batch| batch.0.len() <= 2)),
        "batches stay in their bytes"
    );
    assert_eq!(rig.mirror.handshakes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_the_database_refuses_is_narrowed_down() {
    let mut rig = Rig::new("").await;
    *rig.store.poison.lock().unwrap() = Some("n13".into());
    *rig.store.delay.lock().unwrap() = Duration::from_millis(5);
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    for n in 0..100 {
        peer.send(upsert(&format!("n{n}"), n, Some(u64::from(n) + 1))).await;
    }
    rig.store
        .until("the rest", |world| {
            world.rows.len() == 99 && world.record.cursor.as_ref().is_some_and(|c| c.get() == "[100,0]")
        })
        .await;
    assert_eq!(rig.store.read(|world| world.quarantined.clone()), [("refused".to_owned(), Some("n13".to_owned()))]);
}

/// A database that lacks a table or a right refuses every batch: nothing is put aside, everything waits.
#[tokio::test]
async fn what_is_not_the_datas_fault_is_waited_for() {
    let mut rig = Rig::new("").await;
    rig.store.broken.store(true, Ordering::SeqCst);
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    for n in 0..10 {
        peer.send(upsert(&format!("n{n}"), n, Some(u64::from(n) + 1))).await;
    }
    let tries = Arc::clone(&rig.store);
    until("several tries", || tries.tries.load(Ordering::SeqCst) >= 8).await;
    rig.store.broken.store(false, Ordering::SeqCst);
    rig.store.until("all of it", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == "[10,0]")).await;
    assert_eq!(rig.store.read(|world| (world.rows.len(), world.quarantined.len())), (10, 0));
}

#[tokio::test]
async fn silence_is_death() {
    let mut rig = Rig::new(r#"{"heartbeat":{"ping_s":1,"any_frame_s":2}}"#).await;
    let _link = rig.start().await;
    // The first peer never reads, so it never answers a ping; nothing closes the transport.
    let _mute = rig.mirror.peer().await;
    let begun = Instant::now();
    let mut peer = rig.mirror.peer().await;
    assert!(begun.elapsed() > Duration::from_secs(1));
    assert!(rig.handle.status().last_error.is_some_and(|error| error.contains("silent")));
    // The second only answers pings, and that is life enough.
    let alive = timeout(Duration::from_secs(4), peer.text()).await;
    assert!(alive.is_err(), "still open: {alive:?}");
}

#[tokio::test]
async fn the_socket_closes_before_the_lease_ends_and_another_node_takes_over() {
    let mut rig = Rig::new("").await;
    let _first = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(noop(7)).await;
    rig.store.until("the cursor", |world| world.record.snapshot_complete).await;
    let first = std::sync::Arc::clone(&rig.node);
    rig.node = Node::new(&rig.leases, 2);
    rig.handle = crate::mirror::LinkHandle::new(tokio::sync::watch::Sender::new(None), 1 << 20);
    let _second = rig.start().await;
    rig.state("standby").await;
    assert!(timeout(Duration::from_secs(1), rig.mirror.peers.recv()).await.is_err(), "one socket in the cluster");
    // The first node is cut off from the database.
    let begun = Instant::now();
    first.away.store(true, Ordering::SeqCst);
    peer.gone().await;
    assert_eq!(rig.leases.holder(), Some(1), "the socket is closed while the lease still runs");
    let mut peer = rig.mirror.peer().await;
    assert_eq!(rig.leases.holder(), Some(2));
    assert!(begun.elapsed() < Duration::from_secs(5), "length of the lease and a poll");
    assert_eq!(peer.ask("timestamp-request").await, serde_json::json!([7, 0]));
}

#[tokio::test]
async fn a_panic_is_seen_by_the_supervisor() {
    let mut rig = Rig::new("").await;
    rig.store.panics.store(true, Ordering::SeqCst);
    let parts = rig.parts();
    let (actor, task) = Actor::spawn(None, TestLink::default(), parts).await.expect("spawned");
    timeout(PATIENCE, task).await.expect("ends").expect("joined");
    assert_eq!(actor.get_status(), ractor::ActorStatus::Stopped);
    // The same handle serves the restarted one.
    rig.store.panics.store(false, Ordering::SeqCst);
    let _link = rig.start().await;
    let _peer = rig.mirror.peer().await;
    rig.state("handshaking").await;
}

/// How long the link itself takes for an object, the store costing nothing: the floor of SQL is far above it.
#[tokio::test]
async fn the_path_is_fast() {
    let mut rig = Rig::new("").await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    let count = 3_000u32;
    let begun = Instant::now();
    for n in 0..count {
        peer.send(big(&format!("n{n}"), n % 3000, u64::from(n) + 1, 3000)).await;
    }
    rig.store.until("all", |world| world.rows.len() == count as usize).await;
    let each = begun.elapsed() / count;
    println!("{each:?} an object, sender included, debug build");
    assert!(each < Duration::from_millis(3), "{each:?}");
    let _: &FakeStore = &rig.store;
}
