//! Batches of a Mirror: revisions, suppression, versions, trash, quarantine, fencing, large documents.

use std::time::Duration;

use dzvin_actors::platform::ports::{Applied, ChangeLog, Leases, LogSlice, MirrorStatus, MirrorStore, StoreError};
use dzvin_protocols::{
    channels::{IdKey, Position},
    entities::{Change, INLINE_DOC_LIMIT, Op},
    mirror::{MirrorBatch, MirrorOp, Quarantined},
};

use super::{ALL, Store, batch, id, kind, raw, upsert, upsert_raw};
use crate::support::eventually::eventually;

#[tokio::test]
async fn revisions_are_consecutive_within_and_across_batches() {
    let store = Store::new().await;
    let applied = store.apply(vec![upsert("a", "1", "x"), upsert("b", "1", "x"), upsert("a", "2", "y")]).await;
    assert_eq!(applied, Applied { changed: 3, ..Applied::default() });
    store.apply(vec![MirrorOp::Delete { id: id("a") }, upsert("a", "3", "y"), upsert("b", "2", "z")]).await;
    assert_eq!(
        store.story().await,
        ["a 1 create", "b 1 create", "a 2 update", "a 3 trash", "a 4 restore", "b 2 update"]
    );
    let slice = store.log(0).await;
    let update = &slice.changes[2];
    // A version that moves is not what changed, but it is a field that did.
    assert_eq!(update.changed, ["dateModified", "status"]);
    assert_eq!(update.doc.as_ref().expect("inline").get(), doc_of("a", "2", "y"));
    assert_eq!(&*update.by, "mirror:m");
    let before: String = store.scalar("SELECT before::text FROM changes WHERE \"offset\" = 3").await;
    assert_eq!(before, r#"{"status":"x"}"#);
}

fn doc_of(id: &str, version: &str, status: &str) -> String {
    let MirrorOp::Upsert(it) = upsert(id, version, status) else { unreachable!() };
    it.doc.get().to_owned()
}

#[tokio::test]
async fn the_same_content_makes_no_change_but_is_stored() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    let applied = store.apply(vec![upsert("a", "2", "x"), upsert("a", "2", "x")]).await;
    assert_eq!(applied, Applied { unchanged: 2, ..Applied::default() });
    assert_eq!(store.story().await, ["a 1 create"]);
    let doc: String = store.scalar("SELECT doc FROM entities").await;
    assert_eq!(doc, doc_of("a", "2", "x"));
    assert_eq!(store.scalar::<String>("SELECT version FROM entities").await, "2");
    // And a change followed by the same content in one batch keeps the later document.
    store.apply(vec![upsert("a", "3", "y"), upsert("a", "4", "y")]).await;
    assert_eq!(store.scalar::<String>("SELECT doc FROM entities").await, doc_of("a", "4", "y"));
    assert_eq!(store.story().await, ["a 1 create", "a 2 update"]);
}

#[tokio::test]
async fn what_is_older_is_dropped() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "2", "x")]).await;
    let applied = store.apply(vec![upsert("a", "1", "old"), upsert("a", "3", "y"), upsert("a", "2", "old")]).await;
    assert_eq!(applied, Applied { changed: 1, stale: 2, ..Applied::default() });
    assert_eq!(store.scalar::<String>("SELECT fields->>'status' FROM entities").await, "y");
}

#[tokio::test]
async fn deletes_trash_and_repeat_quietly() {
    let store = Store::new().await;
    let delete = || MirrorOp::Delete { id: id("a") };
    assert_eq!(store.apply(vec![delete()]).await, Applied { unchanged: 1, ..Applied::default() });
    store.apply(vec![upsert("a", "1", "x"), delete(), delete()]).await;
    assert_eq!(store.story().await, ["a 1 create", "a 2 trash"]);
    assert!(store.scalar::<bool>("SELECT trashed_at = at AND doc IS NOT NULL FROM entities").await);
    store.apply(vec![upsert("a", "1", "x")]).await;
    assert_eq!(store.story().await[2], "a 3 restore");
    assert!(store.scalar::<bool>("SELECT trashed_at IS NULL FROM entities").await);
}

#[tokio::test]
async fn a_set_is_merged_and_without_a_base_put_aside() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    let set = |id_: &str, set: &str| MirrorOp::Set { id: id(id_), set: raw(set).into(), version: Some("2".into()) };
    let applied =
        store.apply(vec![set("a", r#"{"value.amount":1.10,"status":"y"}"#), set("nobody", r#"{"status":"y"}"#)]).await;
    assert_eq!(applied, Applied { changed: 1, quarantined: 1, unmerged: 1, ..Applied::default() });
    assert!(store.scalar::<bool>("SELECT gap FROM mirrors").await, "a comparison is owed");
    let doc: String = store.scalar("SELECT doc FROM entities").await;
    assert_eq!(doc, r#"{"_id":"a","status":"y","value":{"amount":1.10},"dateModified":"1"}"#);
    let before: String = store.scalar("SELECT before::text FROM changes WHERE revision = 2").await;
    assert_eq!(before, r#"{"status":"x","value.amount":904.240}"#);
    assert_eq!(store.scalar::<String>("SELECT reason || ' ' || id FROM quarantine").await, "no_base nobody");
}

#[tokio::test]
async fn one_bad_record_is_put_aside_and_the_rest_goes_on() {
    let store = Store::new().await;
    let long = "v".repeat(200);
    let mut it = batch(vec![
        upsert("a", "1", "x"),
        upsert_raw("nul", "1", r#"{"t":"a\u0000b"}"#),
        upsert_raw("half", "1", r#"{"t":"\ud83d"}"#),
        upsert_raw("list", "1", "[1]"),
        upsert_raw("version", &long, "{}"),
        upsert("b", "1", "x"),
    ]);
    it.quarantined.push(Quarantined {
        reason: "unknown_type",
        detail: "\0?".into(),
        id: None,
        raw: b"{\"type\":0}".to_vec(),
    });
    it.cursor = Some(raw("[7,1]"));
    let applied = store.mirrors.apply("m", &kind(), &store.lease, it).await.expect("applied");
    assert_eq!(applied, Applied { changed: 2, quarantined: 5, ..Applied::default() });
    assert_eq!(store.story().await, ["a 1 create", "b 1 create"]);
    let reasons: Vec<String> = sqlx::query_scalar("SELECT reason FROM quarantine ORDER BY reason")
        .fetch_all(store.database.pool())
        .await
        .expect("quarantine");
    assert_eq!(reasons, ["bad_text", "bad_text", "bad_version", "not_object", "unknown_type"]);
    let kept: Vec<u8> = store.scalar("SELECT raw FROM quarantine WHERE id = 'nul'").await;
    assert_eq!(kept, br#"{"t":"a\u0000b"}"#);
    assert_eq!(store.scalar::<String>("SELECT cursor FROM mirrors").await, "[7,1]");
}

/// Whatever our own checks let through and the database refuses is found out by savepoints.
#[tokio::test]
async fn what_only_the_database_refuses_is_put_aside_alone() {
    let store = Store::new().await;
    sqlx::raw_sql("ALTER TABLE entities ADD CHECK (doc NOT LIKE '%poison%')")
        .execute(store.database.pool())
        .await
        .expect("check");
    let applied = store.apply(vec![upsert("a", "1", "x"), upsert("p", "1", "poison"), upsert("a", "2", "y")]).await;
    assert_eq!(applied, Applied { changed: 2, quarantined: 1, ..Applied::default() });
    assert_eq!(store.story().await, ["a 1 create", "a 2 update"]);
    assert_eq!(store.scalar::<String>("SELECT reason || ' ' || id FROM quarantine").await, "refused p");
    assert_eq!(store.database.metrics().refused_records.get(), 1);
}

#[tokio::test]
async fn quarantine_is_bounded() {
    let store = Store::new().await;
    let of = |n: usize| Quarantined { reason: "malformed", detail: "d".repeat(9000), id: None, raw: vec![7; n] };
    let mut it = batch(vec![]);
    it.quarantined = (0..1_005).map(|_| of(1)).collect();
    it.quarantined.push(of(dzvin::mirror::MAX_RAW_BYTES + 5));
    store.mirrors.apply("m", &kind(), &store.lease, it).await.expect("applied");
    assert_eq!(store.scalar::<i64>("SELECT count(*) FROM quarantine").await, dzvin::mirror::MAX_QUARANTINED);
    let row: (i32, i64) = sqlx::query_as("SELECT length(raw), bytes FROM quarantine ORDER BY number DESC LIMIT 1")
        .fetch_one(store.database.pool())
        .await
        .expect("row");
    assert_eq!(row, (262_144, 262_149));
}

#[tokio::test]
async fn a_lost_lease_writes_nothing() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    store.leases.release(&store.lease).await.expect("release");
    let newer = store.leases.acquire("mirror.m", Duration::from_secs(60)).await.expect("leases").expect("free");
    assert!(newer.term > store.lease.term);
    // Until the next owner opens the Mirror, the earlier one still covers its own work.
    store.apply(vec![upsert("a", "2", "y")]).await;
    store.mirrors.open("m", &kind(), &newer).await.expect("open");

    let lost = |result: Result<_, StoreError>| matches!(result, Err(StoreError::LeaseLost { .. }));
    assert!(lost(store.try_apply(vec![upsert("a", "3", "z")]).await.map(|_| ())));
    assert!(lost(store.mirrors.note_state("m", &store.lease, &MirrorStatus::default()).await));
    assert!(lost(store.mirrors.mark_missing(&kind(), &store.lease, &[(id("a"), "1".into())], &[]).await));
    assert!(lost(store.mirrors.open("m", &kind(), &store.lease).await.map(|_| ())));
    assert_eq!(store.story().await, ["a 1 create", "a 2 update"]);
    assert_eq!(store.scalar::<i64>("SELECT changed FROM mirrors").await, 2);
}

/// A takeover in the middle of a batch: the old owner finds its term gone at the end, and nothing of the batch stays.
#[tokio::test]
async fn a_takeover_undoes_the_batch_under_way() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    // Holds the entity's row, so that the batch stands still in its middle.
    let mut blocker = store.db.raw().await;
    sqlx::raw_sql("BEGIN; SELECT FROM entities WHERE id = 'a' FOR UPDATE").execute(&mut blocker).await.expect("block");
    let newer = dzvin_actors::platform::ports::Lease { term: store.lease.term + 1, ..store.lease.clone() };
    let (applied, record) = tokio::join!(store.try_apply(vec![upsert("a", "2", "y"), upsert("b", "2", "y")]), async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock')";
        eventually("the batch waits", async || store.scalar::<bool>(waits).await).await;
        let record = store.mirrors.open("m", &kind(), &newer).await;
        sqlx::raw_sql("COMMIT").execute(&mut blocker).await.expect("commit");
        record
    });
    assert!(matches!(applied, Err(StoreError::LeaseLost { .. })), "{applied:?}");
    assert_eq!(record.expect("open").newest_version.as_deref(), Some("1"), "the new owner goes on from here");
    assert_eq!(store.story().await, ["a 1 create"], "nothing of it stayed");
    let start = Position { offset: 0, ..store.log(0).await.position };
    let recent = store.entities.recent(&kind(), &start, ALL).expect("what was committed before");
    assert_eq!(recent.changes.len(), 1, "nor was it handed to the relay");
}

/// The relay takes what was just committed from memory: it must be what a reader of the log finds, to the byte.
#[tokio::test]
async fn what_is_handed_to_the_relay_is_what_the_log_holds() {
    let store = Store::new().await;
    let large = upsert_raw("large", "1", &format!(r#"{{"_id":"large","t":"{}"}}"#, "x".repeat(INLINE_DOC_LIMIT)));
    store.apply(vec![upsert("a", "1", "x"), upsert("b", "1", "x"), large.clone()]).await;
    let again = upsert_raw("a", "3", r#"{"status":"y","_id":"a","value":{"amount":904.240},"dateModified":"3"}"#);
    let set = MirrorOp::Set { id: id("b"), set: raw(r#"{"status":"z"}"#).into(), version: Some("2".into()) };
    let delete = |id_: &str| MirrorOp::Delete { id: id(id_) };
    // An entity twice in a batch; the same content written otherwise behind a change; large and small trash; back again.
    store.apply(vec![upsert("a", "2", "y"), again, set, delete("b"), delete("large")]).await;
    store.apply(vec![upsert("b", "3", "w"), upsert("c", "1", "x"), upsert("c", "2", "y")]).await;
    let doc: String = store.scalar("SELECT doc FROM entities WHERE id = 'a'").await;
    assert_eq!(
        doc, r#"{"status":"y","_id":"a","value":{"amount":904.240},"dateModified":"3"}"#,
        "the later text is stored"
    );

    let log = store.log(0).await;
    let recent = store.entities.recent(&kind(), &Position { offset: 0, ..log.position.clone() }, ALL).expect("all");
    assert_eq!(recent.position, log.position);
    assert_eq!(format!("{:#?}", recent.changes), format!("{:#?}", log.changes));
    let publications = |slice: &LogSlice| slice.changes.iter().map(Change::publication).collect::<Vec<_>>();
    assert_eq!(publications(&recent), publications(&log));
    assert_eq!(log.changes.len(), 10);
}

#[tokio::test]
async fn cursor_and_marks_commit_with_the_rows() {
    let store = Store::new().await;
    let it = MirrorBatch {
        cursor: Some(raw("[1700000000, 3]")),
        snapshot_complete: Some(true),
        gap: Some(true),
        ..batch(vec![upsert("a", "2026-01-02", "x"), upsert("b", "2026-01-01", "x")])
    };
    store.mirrors.apply("m", &kind(), &store.lease, it).await.expect("applied");
    store.apply(vec![]).await;
    let record = store.mirrors.open("m", &kind(), &store.lease).await.expect("open");
    assert_eq!(record.cursor.expect("cursor").get(), "[1700000000, 3]");
    assert!(record.snapshot_complete && record.gap);
    assert_eq!(record.newest_version.as_deref(), Some("2026-01-02"));
    let other = dzvin_protocols::platform::Kind::new("registry-object").expect("kind");
    let record = store.mirrors.open("m", &other, &store.lease).await.expect("open");
    assert!(record.cursor.is_none() && !record.snapshot_complete, "a cursor of another collection means nothing");
}

#[tokio::test]
async fn what_vanished_is_marked_and_comes_back() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x"), upsert("b", "1", "x"), upsert("c", "2", "x")]).await;
    let (m, k) = (&store.mirrors, kind());
    let at = |id_, version: &str| (id(id_), version.to_owned());
    // c has come back with a newer version since it was looked for.
    let missing = [at("a", "1"), at("b", "1"), at("c", "1"), at("nobody", "1")];
    m.mark_missing(&k, &store.lease, &missing, &[]).await.expect("marked");
    m.mark_missing(&k, &store.lease, &[at("a", "1")], &[id("b"), id("c")]).await.expect("marked");
    store.apply(vec![upsert("a", "1", "x")]).await;
    assert_eq!(store.story().await[3..], ["a 2 trash", "b 2 trash", "b 3 restore", "a 3 restore"]);
    assert_eq!(store.scalar::<i64>("SELECT count(*) FROM entities WHERE missing_since IS NOT NULL").await, 0);

    let since = |version, after, limit| m.ids_since(&k, version, after, limit);
    let ids = |page: Vec<(_, String)>| page.into_iter().map(|(id, v)| format!("{id}{v}")).collect::<Vec<_>>();
    assert_eq!(ids(since("1", None, 2).await.expect("ids")), ["a1", "b1"]);
    assert_eq!(ids(since("1", Some("b"), 2).await.expect("ids")), ["c2"]);
    assert_eq!(ids(since("2", None, 9).await.expect("ids")), ["c2"]);
}

#[tokio::test]
async fn an_object_of_seven_and_a_half_megabytes_passes() {
    let store = Store::new().await;
    let big = |version: &str, fill: &str| {
        let doc =
            format!(r#"{{"status":"x","text":"{}","dateModified":"{version}"}}"#, fill.repeat(7_500_000 / fill.len()));
        upsert_raw("big", version, &doc)
    };
    let applied = store.apply(vec![big("1", "ab"), upsert("a", "1", "x"), big("2", "cd"), big("3", "cd")]).await;
    assert_eq!(applied, Applied { changed: 3, unchanged: 1, ..Applied::default() });
    assert_eq!(store.story().await, ["big 1 create", "a 1 create", "big 2 update"]);
    let slice = store.log(0).await;
    assert!(slice.changes[0].doc.is_none() && slice.changes[1].doc.is_some());
    assert!(slice.changes[0].publication().data.len() < INLINE_DOC_LIMIT);
    assert_eq!(store.scalar::<i32>("SELECT octet_length(doc) FROM entities WHERE id = 'big'").await / 1_000_000, 7);
    // Merging into it, and throwing it away, work without its document in the log.
    let set = MirrorOp::Set { id: id("big"), set: raw(r#"{"status":"y"}"#).into(), version: None };
    store.apply(vec![set, MirrorOp::Delete { id: id("big") }]).await;
    assert_eq!(store.story().await[3..], ["big 3 update", "big 4 trash"]);
}

#[tokio::test]
async fn a_tombstone_keeps_the_revision() {
    let store = Store::new().await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    let author = dzvin::entities::Author { by: "olha", trace: None };
    let purge = [dzvin::entities::EntityOp::Purge(id("a"))];
    store.entities.commit(&kind(), author, &purge).await.expect("purged");
    assert!(store.scalar::<bool>("SELECT doc IS NULL AND fields = '{}' AND hash IS NULL FROM entities").await);
    store.apply(vec![upsert("a", "1", "x")]).await;
    assert_eq!(store.story().await, ["a 1 create", "a 2 purge", "a 3 create"]);
    let slice = store.entities.read_entity(&kind(), &IdKey::of(&id("a")), 1, ALL).await.expect("read").expect("kind");
    assert_eq!(slice.changes.iter().map(|c| c.op).collect::<Vec<_>>(), [Op::Purge, Op::Create]);
}

#[tokio::test]
async fn field_names_of_any_text_are_kept() {
    let store = Store::new().await;
    store.apply(vec![upsert_raw("a", "1", r#"{"x":1}"#)]).await;
    store.apply(vec![upsert_raw("a", "2", r#"{"q\"\\,{}":1,"NULL":2,"":3,"ї\n":4,"x":1}"#)]).await;
    assert_eq!(store.log(1).await.changes[0].changed, ["", "NULL", "q\"\\,{}", "ї\n"]);
}
