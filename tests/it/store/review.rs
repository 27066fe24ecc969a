//! What a hostile look at the store found: each test failed once.

use std::time::Duration;

use dzvin::{
    entities::{Entities, Retention},
    platform::db::{Database, DbOptions, MIGRATING},
};
use dzvin_actors::platform::ports::{ChangeLog, MirrorStore, ReadLimit, StoreError};
use dzvin_protocols::mirror::Quarantined;
use futures_util::FutureExt;
use sqlx::{Connection, Executor, Row};
use time::OffsetDateTime;

use super::{Store, batch, kind, partitions::up_to_date, spec, upsert};
use crate::support::{eventually::eventually, postgres::begin};

async fn run(store: &Store, sql: &'static str) {
    sqlx::raw_sql(sql).execute(store.database.pool()).await.expect(sql);
}

/// Until so many backends of this database wait for a lock.
async fn waiting(store: &Store, count: i64) {
    let mut raw = store.db.raw().await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("they wait", async || sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut raw).await.expect(sql) >= count)
        .await;
}

/// Readers that stand still, as many as there are connections for them, never keep a batch, a lease or the relay waiting.
#[tokio::test]
async fn readers_never_starve_the_writer() {
    let store = Store::new().await;
    let mut blocker = store.db.raw().await;
    let mut held = begin(&mut blocker).await;
    held.execute("LOCK TABLE kinds IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let readers = store.entities.for_readers();
    let all: Vec<_> = (0..40)
        .map(|_| {
            let readers = readers.clone();
            tokio::spawn(async move { readers.kinds().await.is_ok() })
        })
        .collect();
    waiting(&store, i64::from(DbOptions::new("postgres:///").expect("options").readers())).await;
    let applied = tokio::time::timeout(Duration::from_secs(3), store.try_apply(vec![upsert("a", "1", "x")])).await;
    assert_eq!(applied.expect("not kept waiting").expect("applied").changed, 1);
    held.commit().await.expect("commit");
    for reader in all {
        assert!(reader.await.expect("joined"), "readers wait for their turn");
    }
}

/// A transaction that is given up before the server has begun it, as by an actor that is killed, is open on no connection of a pool:
/// whoever is handed it next would work in it, uncommitted and with its locks held.
#[tokio::test]
async fn nobody_inherits_a_transaction_that_was_given_up_while_it_began() {
    let store = Store::new().await;
    for warm in [false, true] {
        let database = store.db.database();
        // Given up as soon as the server has to answer; where it has at once, once more.
        if warm {
            let mut writer = database.writer().await.expect("a connection");
            while let Some(begun) = writer.begin().now_or_never() {
                begun.expect("begun");
            }
        } else {
            let mut lent = database.lend().await.expect("a connection");
            while let Some(begun) = lent.begin().now_or_never() {
                begun.expect("begun");
            }
        }
        let pool = database.pool();
        eventually("given back or closed", async || pool.num_idle() == pool.size() as usize).await;
        // Not prepared: what is said in one message is of one moment, if it is a transaction of its own.
        let row = sqlx::raw_sql("SELECT transaction_timestamp() = statement_timestamp()").fetch_one(pool).await;
        assert!(row.expect("asked").get::<bool, _>(0), "a transaction is open, warm: {warm}");
    }
}

/// What is wrong with the schema or the rights is not the data's fault: the caller must wait, and put nothing aside.
#[tokio::test]
async fn a_missing_table_is_not_the_fault_of_the_data() {
    let store = Store::new().await;
    run(&store, "ALTER TABLE entities RENAME TO elsewhere").await;
    let error = store.try_apply(vec![upsert("a", "1", "x")]).await.expect_err("no table");
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    run(&store, "ALTER TABLE elsewhere RENAME TO entities; ALTER TABLE mirrors ADD CHECK (changed < 1)").await;
    let error = store.try_apply(vec![upsert("a", "1", "x")]).await.expect_err("refused");
    assert!(matches!(error, StoreError::Unfit { .. }), "{error:?}");
}

/// Rule 11: a copy, or a restored dump, in the same cluster has the same system identifier and timeline, and is still
/// another past.
#[tokio::test]
async fn a_restored_copy_in_the_same_cluster_renews_every_epoch() {
    let store = Store::new().await;
    store.database.guard_identity().await.expect("first");
    let before = store.entities.positions().await.expect("read");
    // As pg_restore --clean makes the tables anew.
    run(
        &store,
        "CREATE TABLE restored (LIKE streams INCLUDING ALL); INSERT INTO restored SELECT * FROM streams; \
         DROP TABLE streams; ALTER TABLE restored RENAME TO streams",
    )
    .await;
    store.database.guard_identity().await.expect("second");
    let after = store.entities.positions().await.expect("read");
    assert!(before.iter().zip(&after).all(|(b, a)| b.1.epoch != a.1.epoch && b.1.offset == a.1.offset), "{after:?}");
    store.database.guard_identity().await.expect("third");
    assert_eq!(store.entities.positions().await.expect("read"), after, "once");
    assert_eq!(store.database.metrics().identity_changes.get(), 1);
}

/// What this process remembers of days ends with the epoch: a restored database may run on an earlier clock.
#[tokio::test]
async fn days_are_forgotten_with_their_epoch() {
    let store = Store::new().await;
    run(&store, "UPDATE streams SET at = now() + interval '2 days'").await;
    store.apply(vec![upsert("a", "1", "x")]).await;
    assert_eq!(store.log(0).await.changes.len(), 1);
    run(&store, "TRUNCATE changes; TRUNCATE entities; UPDATE streams SET at = now(), top = 0, epoch = new_epoch()")
        .await;
    store.apply(vec![upsert("a", "1", "x"), upsert("a", "2", "y")]).await;
    let rest = store.log(1).await;
    assert!(rest.complete && rest.changes.len() == 1, "{rest:?}");
}

/// Rows of many days in the default partition take longer to move than any request may: they are moved all the same.
#[tokio::test]
async fn partitions_are_maintained_beyond_the_statement_timeout() {
    let store = Store::new().await;
    up_to_date(&store).await;
    let mut options = DbOptions::at(store.db.connect_options());
    options.statement_timeout = Duration::from_secs(1);
    let entities = Entities::open(Database::new(options), vec![spec(kind())]).await.expect("kinds");
    run(&store, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1.2); RETURN OLD; END $$; \
         CREATE TRIGGER slow BEFORE DELETE ON changes_default FOR EACH ROW EXECUTE FUNCTION slow(); \
         INSERT INTO changes (kind, \"offset\", day, id, revision, op, at, by, changed, size) \
         SELECT 'procedure', n, '2001-01-01', 'a', n, 'update', now(), 'x', '{}', 0 FROM generate_series(1, 2) n").await;
    let done =
        entities.maintain(Retention { days: 20_000 }, OffsetDateTime::now_utc().date()).await.expect("maintained");
    assert_eq!(done.made, 1);
    assert_eq!(store.scalar::<i64>("SELECT count(*) FROM changes_default").await, 0);
}

/// Two nodes that migrate together: the second waits for the first, however long an index takes.
#[tokio::test]
async fn a_migration_waits_for_the_one_under_way() {
    let store = Store::new().await;
    let mut other = store.db.raw().await;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATING).execute(&mut other).await.expect("locked");
    let mut options = DbOptions::at(store.db.connect_options());
    (options.lock_timeout, options.statement_timeout) = (Duration::from_millis(500), Duration::from_secs(1));
    let database = Database::new(options);
    let migrating = tokio::spawn(async move { database.migrate().await });
    // Longer than either limit.
    sqlx::query("SELECT pg_sleep(1.5)").execute(&mut other).await.expect("slept");
    assert!(!migrating.is_finished(), "it waits");
    other.close().await.expect("unlocked");
    migrating.await.expect("joined").expect("migrated");
}

/// Rule 8: what is put aside for people is kept without its secrets.
#[tokio::test]
async fn quarantine_keeps_no_secret() {
    let store = Store::new().await;
    let of = |raw: &[u8], detail: &str| Quarantined {
        reason: "malformed",
        detail: detail.into(),
        id: None,
        raw: raw.to_vec(),
    };
    let mut it = batch(vec![]);
    it.quarantined = vec![
        of(
            br#"{"type":"odd","data":{"acc_token":"s3cret","acc\u005ftoken":"s3cret","a":1}}"#,
            "GET /x?acc_token=s3cret",
        ),
        of(b"\xff\xfe{\"ownerToken\":\"s3cret\"}", ""),
        of(b"\xff\xfe", "plain"),
    ];
    store.mirrors.apply("m", &kind(), &store.lease, it).await.expect("applied");
    let kept: Vec<(Vec<u8>, String)> = sqlx::query_as("SELECT raw, detail FROM quarantine ORDER BY number")
        .fetch_all(store.database.pool())
        .await
        .expect("rows");
    for (raw, detail) in &kept {
        assert!(!String::from_utf8_lossy(raw).contains("s3cret") && !detail.contains("s3cret"), "{detail}");
    }
    assert_eq!(kept[2].0, b"\xff\xfe", "without a secret every byte is kept");
}

/// A read that is bounded by count goes on where it ended, also across days.
#[tokio::test]
async fn reads_cross_midnight() {
    let store = Store::new().await;
    run(&store, "UPDATE streams SET at = now() - interval '1 day'").await;
    for n in 1..=4 {
        store.apply(vec![upsert("a", &n.to_string(), &n.to_string())]).await;
        run(&store, "UPDATE streams SET at = at + interval '1 day'").await;
    }
    for after in 0..4 {
        let limit = ReadLimit { count: 1, bytes: usize::MAX };
        let slice = store.entities.read(&kind(), after, limit).await.expect("read").expect("kind");
        assert_eq!(slice.changes[0].offset, after + 1);
    }
}
