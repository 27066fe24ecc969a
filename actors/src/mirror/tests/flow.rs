//! Questions, batches and cursors.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::{
    fakes::{PATIENCE, doc, noop, until, upsert},
    rig::Rig,
};

#[tokio::test]
async fn a_snapshot_moves_no_cursor_until_it_is_whole() {
    let mut rig = Rig::new("").await;
    let link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    // Any order, any number of times.
    for _ in 0..2 {
        assert_eq!(peer.ask("init-point-request").await, serde_json::Value::Null);
        assert_eq!(peer.ask("timestamp-request").await, serde_json::Value::Null);
        assert_eq!(peer.ask("protocol-request").await, "simple");
    }
    for id in ["a", "b"] {
        peer.send(upsert(id, 5, None)).await;
    }
    rig.store.until("the rows", |world| world.rows.len() == 2).await;
    rig.state("snapshot").await;
    assert!(rig.store.read(|world| world.record.cursor.is_none() && !world.record.snapshot_complete));
    // Cut in the middle of the snapshot: still nothing to answer.
    drop(peer);
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::Value::Null);
    assert_eq!(peer.ask("init-point-request").await, serde_json::Value::Null);
    peer.send(upsert("c", 7, None)).await;
    peer.send(noop(100)).await;
    rig.store.until("the cursor", |world| world.record.snapshot_complete).await;
    rig.state("live").await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::json!([100, 0]));
    assert_eq!(peer.ask("init-point-request").await, "2024-01-01T00:00:07.000000");
    assert!(!rig.store.read(|world| world.record.gap), "no history was lost");
    drop(link);
}

#[tokio::test]
async fn resuming_answers_what_is_committed_and_loses_nothing() {
    let mut rig = Rig::new("").await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    let _link = rig.start().await;
    let mut sent = BTreeMap::new();
    for round in 0..5u32 {
        let mut peer = rig.mirror.peer().await;
        // Shuffled: the init point is asked although the cursor is good.
        assert_eq!(peer.ask("init-point-request").await.as_str().map(str::len), Some(26));
        let committed = rig.store.read(|world| world.record.cursor.clone().unwrap());
        assert_eq!(peer.ask("timestamp-request").await.to_string(), committed.get().replace(' ', ""));
        for n in 0..300 {
            let (id, second) = (format!("id{}", n % 40), round * 300 + n);
            peer.send(upsert(&id, second, Some(u64::from(100 + second)))).await;
            sent.insert(id.clone(), doc(&id, second, ""));
        }
        // A good Mirror sends again what was not committed; this one waits instead.
        let last = format!("[{},0]", 100 + round * 300 + 299);
        rig.store.until("the last cursor", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == last)).await;
    }
    let stored: BTreeMap<_, _> =
        rig.store.read(|world| world.rows.iter().map(|(id, (_, doc))| (id.clone(), doc.clone())).collect());
    assert_eq!(stored, sent);
    let (batches, cursors) = rig.store.read(|world| {
        let cursors: Vec<u64> = world
            .batches
            .iter()
            .map(|b| b.1.as_ref().unwrap()[1..].split(',').next().unwrap().parse().unwrap())
            .collect();
        (world.batches.len(), cursors)
    });
    assert!(cursors.is_sorted(), "in order");
    assert!(batches < 1500, "frames were gathered: {batches}");
    let status = rig.handle.status();
    assert_eq!((status.applied, status.reconnects), (1500, 4));
    assert!(!rig.store.read(|world| world.record.gap));
    assert!(rig.metrics().contains(r#"mirror_frames_total{mirror="test",kind="upsert"} 1500"#), "{}", rig.metrics());
}

#[tokio::test]
async fn the_full_protocol_merges_and_deletes() {
    let mut rig = Rig::new(r#"{"protocol":"full"}"#).await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("protocol-request").await, "full");
    peer.send(upsert("a", 1, Some(1))).await;
    peer.send(upsert("b", 2, Some(2))).await;
    peer.send(r#"{"type":"update","data":{"_id":"a","$set":{"x.y":1.50}},"ts":[3,0]}"#).await;
    peer.send(r#"{"type":"delete","data":{"_id":"b"},"ts":[4,0]}"#).await;
    // More than $set is fetched.
    rig.api.put("c", 9, "whole");
    peer.send(r#"{"type":"update","data":{"_id":"c","$unset":{"x":1}},"ts":[5,0]}"#).await;
    rig.store.until("all", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == "[5,0]")).await;
    let (a, c, trash) = rig.store.read(|w| (w.rows["a"].1.clone(), w.rows["c"].1.clone(), w.trash.clone()));
    assert!(a.ends_with(r#""x":{"y":1.50}}"#), "{a}");
    assert_eq!((c, trash), (doc("c", 9, "whole"), vec!["b".to_owned()]));
    peer.send(r#"{"type":"ids-since-timestamp-request","data":null,"ts":[1704067201,0]}"#).await;
    let answer: serde_json::Value = serde_json::from_str(&peer.text().await.expect("an answer")).unwrap();
    assert_eq!(answer["data"], serde_json::json!(["a", "c"]), "inclusive");
}

#[tokio::test]
async fn what_cannot_be_used_is_put_aside_and_the_cursor_goes_on() {
    let mut rig = Rig::new("").await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(r#"{"type":"novelty","data":{"_id":"n"},"ts":[1,0]}"#).await;
    peer.send("no json").await;
    peer.send(r#"{"type":"upsert","data":{"_id":"z","t":"\u0000","dateModified":"2024-01-01T00:00:00Z"},"ts":[2,0]}"#)
        .await;
    peer.send(r#"{"type":"upsert","data":{"dateModified":"2024-01-01T00:00:00Z"},"ts":"odd"}"#).await;
    peer.send(format!(
        r#"{{"type":"upsert","data":{{"_id":"d","x":{}1{}}},"ts":[3,0]}}"#,
        "[".repeat(9000),
        "]".repeat(9000)
    ))
    .await;
    {
        use futures_util::SinkExt;
        peer.0.send(tokio_tungstenite::tungstenite::Message::binary(vec![0xff, 0xfe])).await.expect("sent");
    }
    peer.send(upsert("good", 1, Some(4))).await;
    rig.store.until("the good one", |world| world.rows.contains_key("good")).await;
    let mut reasons: Vec<_> = rig.store.read(|world| world.quarantined.iter().map(|it| it.0.clone()).collect());
    reasons.sort();
    assert_eq!(reasons, ["bad_cursor", "bad_text", "malformed", "malformed", "no_id", "too_deep", "unknown_type"]);
    assert_eq!(rig.handle.status().quarantined, 7);
    assert!(rig.metrics().contains(r#"mirror_quarantined_total{mirror="test",kind="bad_text"} 1"#));
}

#[tokio::test]
async fn lost_history_is_a_gap_that_is_healed_over_http() {
    let mut rig = Rig::new("").await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    {
        let mut world = rig.store.world.lock().unwrap();
        for id in ["stays", "vanished"] {
            world.rows.insert(id.into(), ("2024-01-01T00:00:01.000000Z".into(), doc(id, 1, "")));
        }
    }
    for n in 0..35 {
        // Many share a moment at the edge of a page of ten.
        rig.api.put(&format!("n{n}"), 10 + n / 9, "http");
    }
    rig.api.put("stays", 1, "");
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::json!([50, 1]));
    peer.send(upsert("stays", 1, None)).await;
    rig.store.until("the gap is committed", |world| world.batches.iter().any(|batch| batch.3 == Some(true))).await;
    assert_eq!(peer.ask("timestamp-request").await, serde_json::Value::Null, "a broken snapshot must begin again");
    peer.send(noop(900)).await;
    rig.store.until("the gap is closed", |world| world.batches.iter().any(|batch| batch.3 == Some(false))).await;
    rig.state("live").await;
    rig.store.until("the cursor", |world| world.record.snapshot_complete).await;
    rig.store.read(|world| {
        assert_eq!(world.rows.len(), 37, "everything that the feed shows, and what vanished stays");
        assert_eq!(world.missing, ["vanished"]);
        assert!(!world.record.gap);
        assert!(world.trash.is_empty(), "never a delete");
        assert_eq!(world.beside.len(), 36, "and what HTTP shows never overrules the stream");
    });
    assert_eq!(peer.ask("timestamp-request").await, serde_json::json!([900, 0]));
    let metrics = rig.metrics();
    assert!(
        metrics.contains(r#"mirror_gaps_total{mirror="test"} 1"#) && metrics.contains(r#"mirror_gap{mirror="test"} 0"#)
    );
}

/// Deleted after an interrupted snapshot had shown it and before the next one began: no frame ever tells.
#[tokio::test]
async fn what_was_deleted_between_two_snapshots_is_found() {
    let mut rig = Rig::new(r#"{"protocol":"full"}"#).await;
    let _link = rig.start().await;
    for again in [false, true] {
        let mut peer = rig.mirror.peer().await;
        assert_eq!(peer.ask("timestamp-request").await, serde_json::Value::Null);
        if again {
            rig.api.put("a", 5, "");
            peer.send(noop(100)).await;
            rig.store.until("the snapshot is whole", |world| world.record.snapshot_complete).await;
            rig.store.until("the deleted one is marked", |world| world.missing == ["b"] && !world.record.gap).await;
            rig.store
                .read(|world| assert!(world.batches.iter().any(|batch| batch.3 == Some(true)), "a gap, committed"));
            return;
        }
        for id in ["a", "b"] {
            peer.send(upsert(id, 5, None)).await;
        }
        rig.store.until("the rows", |world| world.rows.len() == 2).await;
        assert!(!rig.store.read(|world| world.record.gap), "the first snapshot follows nothing");
    }
}

#[tokio::test]
async fn the_full_protocol_is_compared_now_and_then_too() {
    let mut rig = Rig::new(r#"{"protocol":"full"}"#).await;
    rig.config.reconcile.interval = Duration::from_millis(100);
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.send(upsert("left-out", 1, Some(1))).await;
    rig.store.until("marked", |world| world.missing == ["left-out"]).await;
}

#[tokio::test]
async fn a_gap_survives_the_owner() {
    let mut rig = Rig::new("").await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    rig.store.world.lock().unwrap().record.gap = true;
    rig.api.put("late", 9, "http");
    let _link = rig.start().await;
    let _peer = rig.mirror.peer().await;
    rig.store.until("healed", |world| !world.record.gap && world.rows.contains_key("late")).await;
}

#[tokio::test]
async fn the_simple_protocol_marks_what_vanished_now_and_then() {
    let mut rig = Rig::new("").await;
    rig.config.reconcile.interval = Duration::from_millis(100);
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    rig.api.put("a", 1, "");
    peer.send(upsert("a", 1, Some(1))).await;
    peer.send(upsert("b", 1, Some(2))).await;
    rig.store.until("marked", |world| world.missing == ["b"]).await;
    rig.api.put("b", 1, "");
    rig.store.until("unmarked", |world| world.missing.is_empty()).await;
    assert!(rig.store.read(|world| world.rows.len() == 2 && world.trash.is_empty()));
}

#[tokio::test]
async fn a_quiet_stream_that_resumed_is_live() {
    let mut rig = Rig::new("").await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.ask("timestamp-request").await;
    rig.state("live").await;
    until("noted", || rig.store.read(|world| world.noted.contains(&"live".to_owned()))).await;
}

/// What is shown of a link that is cut off, and of one that cannot store, is how old its data is by now.
#[tokio::test]
async fn lag_grows_on_a_dead_link() {
    let mut rig = Rig::new("").await;
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    let lag = |rig: &Rig, later: i64| {
        rig.handle.status().lag_at(time::OffsetDateTime::now_utc() + time::Duration::seconds(later)).unwrap_or_default()
    };
    let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap();
    peer.send(noop(now)).await;
    rig.store.until("the cursor", |world| world.record.cursor.is_some()).await;
    until("committed", || rig.handle.status().committed_at.is_some()).await;
    rig.state("live").await;
    assert!(lag(&rig, 600) < 60_000, "a quiet stream is not behind");
    rig.store.away.store(true, Ordering::SeqCst);
    peer.send(noop(now + 1)).await;
    until("what came is not stored", || lag(&rig, 600) > 500_000).await;
    rig.store.away.store(false, Ordering::SeqCst);
    rig.store.until("stored", |world| world.batches.len() > 1).await;
    until("no longer behind", || lag(&rig, 600) < 60_000).await;
    rig.mirror.status.send_replace(503);
    drop(peer);
    rig.state("backoff").await;
    assert!(lag(&rig, 600) > 500_000);
    let metrics = rig.metrics();
    assert!(metrics.contains(r#"mirror_lag_seconds{mirror="test"}"#), "{metrics}");
}

#[tokio::test]
async fn other_handshakes_speak_first() {
    let dialect = r#"{"handshake":{"mode":"client_sends_subscribe","template":"{\"go\":{protocol},\"from\":{cursor}}"},
        "ack":{"mode":"batch","template":"{\"ack\":{cursor}}"}}"#;
    let mut rig = Rig::new(dialect).await;
    rig.committed("[50,1]", "2024-01-01T00:00:01.000000Z");
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    assert_eq!(peer.text().await.as_deref(), Some(r#"{"go":"simple","from":[50,1]}"#));
    peer.send(upsert("a", 1, Some(60))).await;
    assert_eq!(peer.text().await.as_deref(), Some(r#"{"ack":[60,0]}"#));
    assert!(rig.store.read(|world| world.rows.contains_key("a")), "acknowledged only when committed");
}

#[tokio::test]
async fn the_recorder_writes_no_secret() {
    let mut rig = Rig::new("").await;
    let path = std::env::temp_dir().join(format!("dzvin-tap-{}-{:x}.jsonl", std::process::id(), rand::random::<u64>()));
    rig.config.tap = Some(crate::mirror::TapRules { path: path.clone(), frames: 3 });
    let _link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    peer.ask("protocol-request").await;
    peer.send(r#"{"type":"noop","acc_token":"s3cret","u":"/x?acc_token=s3cret"}"#).await;
    for cursor in 1..5 {
        peer.send(noop(cursor)).await;
    }
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("three lines", || read().lines().count() == 3).await;
    rig.store.until("all frames", |world| world.record.cursor.as_ref().is_some_and(|c| c.get() == "[4,0]")).await;
    let text = read();
    std::fs::remove_file(&path).expect("removed");
    assert!(text.lines().count() == 3 && text.contains("acc_token") && !text.contains("s3cret"), "{text}");
    assert!(text.contains(r#""direction":"out""#));
}

#[tokio::test]
async fn stopping_closes_in_order_and_gives_the_lease_back() {
    let mut rig = Rig::new("").await;
    let link = rig.start().await;
    let mut peer = rig.mirror.peer().await;
    *rig.store.delay.lock().unwrap() = Duration::from_millis(50);
    for n in 0..20 {
        peer.send(upsert(&format!("n{n}"), n, Some(u64::from(n) + 1))).await;
    }
    rig.store.until("the first batch", |world| !world.batches.is_empty() || world.in_flight > 0).await;
    let stopping = tokio::time::timeout(PATIENCE, link.stop());
    let (stopped, ()) = tokio::join!(stopping, peer.gone());
    stopped.expect("in time");
    assert!(rig.leases.free());
    assert_eq!(rig.handle.status().state, "stopped");
    let handshakes = rig.mirror.handshakes.load(Ordering::SeqCst);
    assert_eq!(handshakes, 1);
}
