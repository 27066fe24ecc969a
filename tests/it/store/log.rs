//! The change log: order of commits, positions, retention's holes, epochs, wake-ups.

use std::collections::BTreeMap;

use dzvin::entities::{Author, ChangeListener, Entities, EntityOp, Refusal};
use dzvin_actors::platform::ports::{ChangeLog, ReadLimit};
use dzvin_protocols::{channels::IdKey, platform::Kind};
use sqlx::Connection;

use super::{ALL, Store, id, kind, raw, upsert};
use crate::support::postgres::begin;

const BY: Author<'static> = Author { by: "olha", trace: Some("00-aa-bb-01") };

fn op(name: &str, status: &str) -> EntityOp {
    let doc = raw(&format!(r#"{{"status":"{status}"}}"#));
    EntityOp::Upsert { id: id(name), version: "1".into(), doc: doc.into(), derived: None, beside: false }
}

/// Rule 2: the one that wrote its rows first commits last; its offsets are the later ones, and a reader between the two commits
/// sees a log without a hole.
#[tokio::test]
async fn offsets_follow_commits_not_beginnings() {
    let store = Store::new().await;
    let (mut first, mut second) = (store.db.raw().await, store.db.raw().await);
    let mut first = begin(&mut first).await;
    // It begins, and reads, before the other.
    sqlx::query("SELECT count(*) FROM entities").execute(&mut *first).await.expect("read");
    let mut second = begin(&mut second).await;
    store.entities.write(&mut second, &kind(), BY, &[op("late", "x")], Refusal::Fails).await.expect("written");

    let entities = store.entities.clone();
    let ops = [op("early", "x")];
    let write = async {
        entities.write(&mut first, &kind(), BY, &ops, Refusal::Fails).await.expect("written");
        assert_eq!(store.story().await, ["late 1 create"], "nothing of ours before our commit, and no hole");
        first.commit().await.expect("commit");
    };
    let commit = async {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while store.scalar::<i64>(waits).await == 0 {
            tokio::task::yield_now().await;
        }
        assert!(store.log(0).await.changes.is_empty());
        second.commit().await.expect("commit");
    };
    tokio::join!(write, commit);
    assert_eq!(store.story().await, ["late 1 create", "early 1 create"]);
}

#[tokio::test]
async fn a_rolled_back_writer_leaves_no_hole() {
    let store = Store::new().await;
    let mut connection = store.db.raw().await;
    let mut tx = begin(&mut connection).await;
    store.entities.write(&mut tx, &kind(), BY, &[op("a", "x")], Refusal::Fails).await.expect("written");
    tx.rollback().await.expect("rollback");
    store.entities.commit(&kind(), BY, &[op("b", "x")]).await.expect("written");
    assert_eq!(store.story().await, ["b 1 create"]);
}

/// Rule 2: a transaction that stays open in another database, or writes another kind, delays nobody.
#[tokio::test]
async fn long_writers_elsewhere_delay_nothing() {
    let (store, elsewhere) = (Store::new().await, Store::new().await);
    let mut foreign = elsewhere.db.raw().await;
    let mut foreign = begin(&mut foreign).await;
    elsewhere.entities.write(&mut foreign, &kind(), BY, &[op("a", "x")], Refusal::Fails).await.expect("written");
    let mut here = store.db.raw().await;
    let mut here = begin(&mut here).await;
    let other = Kind::new("registry-object").expect("kind");
    store.entities.write(&mut here, &other, BY, &[op("a", "x")], Refusal::Fails).await.expect("written");

    for n in 0..20 {
        store.entities.commit(&kind(), BY, &[op(&n.to_string(), "x")]).await.expect("not delayed by any lock");
        assert_eq!(store.log(n).await.changes.len(), 1, "seen at once");
    }
    here.commit().await.expect("commit");
    foreign.commit().await.expect("commit");
}

/// Writers that meet on the same new ids: nobody's revision is doubled or skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_race_keep_every_sequence() {
    let store = Store::new().await;
    let mut tasks = Vec::new();
    for writer in 0..6 {
        let entities = store.entities.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..15 {
                let ops: Vec<_> = (0..4).map(|n| op(&format!("{round}-{n}"), &format!("{writer}"))).collect();
                entities.commit(&kind(), BY, &ops).await.expect("committed");
            }
        }));
    }
    for task in tasks {
        task.await.expect("joined");
    }
    store.story().await;
    let mut revisions = BTreeMap::<String, u64>::new();
    for change in store.log(0).await.changes {
        let last = revisions.entry(change.id.to_string()).or_default();
        assert_eq!(change.revision, *last + 1, "{}", change.id);
        *last = change.revision;
    }
    assert_eq!(revisions.len(), 60);
}

#[tokio::test]
async fn reads_are_bounded_and_always_get_on() {
    let store = Store::new().await;
    let long = "x".repeat(10_000);
    let ops: Vec<_> = (0..6).map(|n| op(&n.to_string(), &long)).collect();
    store.entities.commit(&kind(), BY, &ops).await.expect("written");
    let read = |after, count, bytes| {
        let entities = store.entities.clone();
        async move { entities.read(&kind(), after, ReadLimit { count, bytes }).await.expect("read").expect("kind") }
    };
    assert_eq!(read(0, 4, usize::MAX).await.changes.len(), 4);
    assert_eq!(read(0, 100, 25_000).await.changes.len(), 2);
    let one = read(3, 100, 1).await;
    assert!(one.complete && one.changes.len() == 1 && one.changes[0].offset == 4);
    assert_eq!(one.changes[0].trace.as_deref(), Some("00-aa-bb-01"));
    let end = read(6, 100, 1).await;
    assert!(end.complete && end.changes.is_empty());
    assert!(!read(7, 100, 1).await.complete, "who is ahead of the log is told so");
    assert!(store.entities.read(&Kind::new("nope").expect("kind"), 0, ALL).await.expect("read").is_none());
}

#[tokio::test]
async fn one_entity_reads_by_revision() {
    let store = Store::new().await;
    for status in ["x", "y", "z"] {
        store.entities.commit(&kind(), BY, &[op("ключ", status), op("b", status)]).await.expect("written");
    }
    let key = IdKey::of(&id("ключ"));
    assert!(key.is_hashed());
    let found = store.entities.resolve(&kind(), &key).await.expect("resolved").expect("known");
    let slice = store.entities.read_entity(&kind(), &key, 1, ALL).await.expect("read").expect("kind");
    assert!(slice.complete && slice.position.offset == 3);
    assert_eq!(slice.changes.iter().map(|c| (c.revision, c.offset)).collect::<Vec<_>>(), [(2, 3), (3, 5)]);
    let nobody =
        store.entities.read_entity(&kind(), &IdKey::of(&id("nobody")), 0, ALL).await.expect("read").expect("kind");
    assert!(nobody.complete && nobody.position.offset == 0 && nobody.changes.is_empty());
    assert_eq!(nobody.position.epoch, slice.position.epoch);
    assert_eq!(found, id("ключ"));
    let none = store.entities.resolve(&kind(), &IdKey::of(&id("інший"))).await.expect("resolved");
    assert_eq!(none, None);
}

#[tokio::test]
async fn an_epoch_is_renewed_once() {
    let store = Store::new().await;
    store.entities.commit(&kind(), BY, &[op("a", "x")]).await.expect("written");
    let old = store.entities.position(&kind()).await.expect("read").expect("kind");
    let new = store.entities.renew_epoch(&kind(), &old.epoch).await.expect("renewed").expect("kind");
    assert!(new.epoch != old.epoch && new.offset == 1);
    let again = store.entities.renew_epoch(&kind(), &old.epoch).await.expect("renewed").expect("kind");
    assert_eq!(again, new, "only from the epoch that was meant");
    let all = store.entities.positions().await.expect("read");
    assert_eq!(all.len(), 2);
    assert!(all.contains(&(kind(), new)));
}

/// Rule 11: another system identifier or timeline gives every stream a new epoch, on a connection that is made later too.
#[tokio::test]
async fn a_database_that_is_another_one_renews_every_epoch() {
    let store = Store::new().await;
    store.database.guard_identity().await.expect("first");
    let first = store.entities.positions().await.expect("read");
    store.database.guard_identity().await.expect("the same");
    assert_eq!(store.entities.positions().await.expect("read"), first);

    for forged in ["timeline = timeline + 1", "system_identifier = '1'"] {
        let before = store.entities.positions().await.expect("read");
        let mut raw = store.db.raw().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE database_identity SET {forged}")))
            .execute(&mut raw)
            .await
            .expect("forge");
        // Connections of before end, as a failover ends them.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::query(end).execute(&mut raw).await.expect("terminate");
        raw.close().await.expect("close");
        let after = loop {
            if let Ok(after) = store.entities.positions().await {
                break after;
            }
        };
        assert!(before.iter().zip(&after).all(|(b, a)| b.1.epoch != a.1.epoch && b.1.offset == a.1.offset), "{forged}");
    }
    assert_eq!(store.database.metrics().identity_changes.get(), 2);
}

#[tokio::test]
async fn commits_wake_this_node_and_others() {
    let store = Store::new().await;
    let elsewhere = store.db.database();
    let (mut here, mut there) = (store.database.commits(), elsewhere.commits());
    let listening = Entities::open(elsewhere, Vec::new()).await.expect("opens");
    let listener = tokio::spawn(ChangeListener::new(listening).run(std::future::pending()));
    there.changed().await.expect("listening");
    store.apply(vec![upsert("a", "1", "x")]).await;
    here.changed().await.expect("here");
    there.changed().await.expect("there");

    // A cut connection wakes, because a notification may have been missed, and listens again.
    let mut raw = store.db.raw().await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    sqlx::query(cut).execute(&mut raw).await.expect("cut");
    there.changed().await.expect("after the cut");
    loop {
        store.apply(vec![upsert("a", "2", "y"), upsert("a", "2", "x")]).await;
        if there.has_changed().expect("alive") {
            break;
        }
    }
    listener.abort();
}

#[tokio::test]
async fn sessions_never_skip_the_sync() {
    let store = Store::new().await;
    let settings: (String, String, String) = sqlx::query_as(
        "SELECT current_setting('synchronous_commit'), current_setting('statement_timeout'), current_setting('lock_timeout')",
    )
    .fetch_one(store.database.pool())
    .await
    .expect("settings");
    assert_eq!(settings, ("on".into(), "15s".into(), "5s".into()));
}

#[tokio::test]
async fn kinds_are_declared_again_without_losing_positions() {
    let store = Store::new().await;
    store.entities.commit(&kind(), BY, &[op("a", "x")]).await.expect("written");
    let before = store.entities.position(&kind()).await.expect("read");
    let again = Entities::open(store.database.clone(), vec![super::spec(kind())]).await.expect("kinds");
    assert_eq!(again.position(&kind()).await.expect("read"), before);
    assert_eq!(again.kinds().await.expect("kinds").len(), 2);
}
