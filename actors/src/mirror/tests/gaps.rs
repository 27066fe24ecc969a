//! What is owed: when a gap begins, what shows it, and what ends it.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    fakes::{noop, until, upsert},
    rig::{Peer, Rig},
};
use crate::{mirror::Token, platform::ports::CdbError};

/// Four make a pass of the feed give up: a page of ten cannot be halved more often.
fn unusable(rig: &Rig) {
    rig.api.errors.lock().unwrap().extend((0..4).map(|_| CdbError::Unusable("500".into())));
}

async fn close_1009(mut peer: Peer) {
    let frame = CloseFrame { code: CloseCode::Size, reason: "too big".into() };
    futures_util::SinkExt::send(&mut peer.0, Message::Close(Some(frame))).await.expect("sent");
}

async fn failed(rig: &Rig, said: &str) {
    until("a pass that failed", || rig.handle.status().last_error.is_some_and(|error| error.contains(said))).await;
}

/// Both are seen before either is stored.
#[tokio::test]
async fn without_http_a_gap_ends_with_the_snapshot_that_began_it() {
    let mut rig = Rig::new("").await;
    rig.http = false;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.ask("timestamp-request").await;
    *rig.store.delay.lock().unwrap() = std::time::Duration::from_millis(300);
    peer.send("keeps the store busy").await;
    rig.store.until("it is busy", |world| world.in_flight > 0).await;
    peer.send(upsert("a", 5, None)).await;
    peer.send(noop(900)).await;
    rig.store.until("stored", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == "[900,0]")).await;
    assert!(rig.store.read(|world| world.record.snapshot_complete && !world.record.gap), "a whole snapshot ends it");
    rig.state("live").await;
}

/// Message too big for the upstream, and HTTP fails as well: what was missed is fetched when HTTP is back.
#[tokio::test]
async fn a_partial_pass_that_failed_is_still_wanted() {
    let mut rig = Rig::new("").await;
    rig.committed("[1704067200,0]", "2024-01-01T00:00:00.000000Z");
    rig.api.put("missed", 5, "http");
    unusable(&rig);
    let _link = rig.start().await;
    close_1009(rig.mirror.peer().await).await;
    failed(&rig, "500").await;
    until("fetched in the end", || {
        rig.handle.resume(None);
        rig.store.read(|world| world.rows.contains_key("missed"))
    })
    .await;
}

/// The comparison waits for a person; the alarm does not.
#[tokio::test]
async fn a_gap_is_shown_though_nothing_can_be_compared() {
    let mut rig = Rig::new("").await;
    rig.committed("[1704067200,0]", "2024-01-01T00:00:00.000000Z");
    rig.api.errors.lock().unwrap().push_back(CdbError::Forbidden("no right".into()));
    let _link = rig.start().await;
    close_1009(rig.mirror.peer().await).await;
    failed(&rig, "no right").await;
    rig.handle.set_max_message_bytes(1 << 21);
    let mut peer = rig.mirror.peer().await;
    peer.ask("timestamp-request").await;
    peer.send(upsert("a", 5, None)).await;
    rig.state("gap").await;
    assert!(rig.metrics().contains(r#"mirror_gap{mirror="test"} 1"#), "{}", rig.metrics());
    assert_eq!(rig.api.pages.load(Ordering::SeqCst), 1, "403 is not repeated");
    rig.handle.set_token(Some(Token::new("newer")));
    rig.store.until("healed", |world| !world.record.gap).await;
}

/// A gap that is on its way to the store when an earlier one is healed.
#[tokio::test]
async fn the_end_of_a_pass_takes_no_newer_gap_away() {
    let mut rig = Rig::new("").await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    rig.store.world.lock().unwrap().record.gap = true;
    let gate = Arc::new(Semaphore::new(0));
    *rig.api.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.ask("timestamp-request").await;
    until("the first pass", || rig.api.pages.load(Ordering::SeqCst) == 1).await;
    *rig.store.delay.lock().unwrap() = std::time::Duration::from_millis(300);
    peer.send(upsert("a", 5, None)).await;
    rig.store.until("the new gap is being stored", |world| world.in_flight > 0).await;
    gate.add_permits(1);
    until("the second pass", || rig.api.pages.load(Ordering::SeqCst) == 2).await;
    let gaps = |world: &super::fakes::World| world.batches.iter().filter_map(|batch| batch.3).collect::<Vec<_>>();
    rig.store.until("the new gap is stored", |world| gaps(world).contains(&true)).await;
    assert_eq!(rig.store.read(gaps), [true], "only a pass that began after it ends it");
    gate.add_permits(10);
    rig.store.until("healed", |world| gaps(world).ends_with(&[false])).await;
}

/// A part of the answer would look like the whole of it.
#[tokio::test]
async fn what_changed_since_is_told_whole_or_not_at_all() {
    let mut rig = Rig::new(r#"{"protocol":"full"}"#).await;
    rig.config.limits.answer_ids = 3;
    rig.committed("[1704067200,0]", "2024-01-01T00:00:05.000000Z");
    let row = |n: u32| (format!("n{n}"), (format!("2024-01-01T00:00:0{n}.000000Z"), super::fakes::doc("n", n, "")));
    rig.store.world.lock().unwrap().rows.extend((0..3).map(row));
    let question = r#"{"type":"ids-since-timestamp-request","data":null,"ts":[1704067200,0]}"#;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    rig.store.away.store(true, Ordering::SeqCst);
    peer.send(question).await;
    peer.gone().await;
    rig.store.away.store(false, Ordering::SeqCst);
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::json!([1_704_067_200, 0]), "it is asked again");
    peer.send(question).await;
    let answer = peer.text().await.expect("an answer");
    assert!(answer.contains(r#"["n0","n1","n2"]"#), "{answer}");
    // One more than fits: asked again, it would never fit.
    rig.store.world.lock().unwrap().rows.extend([row(3)]);
    peer.send(question).await;
    peer.gone().await;
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::Value::Null, "a snapshot comes instead");
    assert!(rig.store.read(|world| world.batches.iter().any(|batch| batch.3 == Some(true))));
}

/// More have vanished than one pass asks for: the debt stays until all are marked, and no pass asks for them again.
#[tokio::test]
async fn a_gap_ends_when_everything_was_checked() {
    let mut rig = Rig::new("").await;
    rig.config.limits.checks = 3;
    rig.committed("[50,1]", "2024-01-01T00:00:05.000000Z");
    {
        let mut world = rig.store.world.lock().unwrap();
        world.record.gap = true;
        world.rows.extend((0..5).map(|n| (format!("n{n}"), ("1".to_owned(), super::fakes::doc("n", n, "")))));
    }
    let _link = rig.start().await;
    failed(&rig, "not in the feed").await;
    assert!(rig.store.read(|world| world.record.gap && world.missing.len() == 3));
    until("the next pass", || {
        rig.handle.resume(None);
        rig.store.read(|world| !world.record.gap)
    })
    .await;
    assert_eq!(rig.store.read(|world| world.missing.len()), 5);
    assert_eq!(rig.api.objects.load(Ordering::SeqCst), 5);
}

/// Fields of a document that is not here: the comparison brings it.
#[tokio::test]
async fn what_cannot_be_merged_is_compared() {
    let mut rig = Rig::new(r#"{"protocol":"full"}"#).await;
    rig.committed("[50,1]", "2024-01-01T00:00:05.000000Z");
    rig.api.put("c", 9, "whole");
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(r#"{"type":"update","data":{"_id":"c","$set":{"x":1}},"ts":[60,0]}"#).await;
    rig.store.until("it is here", |world| world.rows.contains_key("c") && !world.record.gap).await;
}
