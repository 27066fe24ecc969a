//! Partitions of the change log.

use dzvin::entities::{Partitions, Retention};
use dzvin_actors::platform::ports::ChangeLog;
use dzvin_protocols::channels::IdKey;
use time::{Date, Duration, OffsetDateTime};

use super::{ALL, Store, id, kind, upsert};

fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

async fn partitions(store: &Store) -> i64 {
    store.scalar("SELECT count(*) FROM pg_inherits WHERE inhparent = 'changes'::regclass").await
}

#[tokio::test]
async fn they_are_made_ahead_and_only_once() {
    let store = Store::new().await;
    let before = partitions(&store).await;
    let keep = Retention::default();
    let done = store.entities.maintain(keep, today() + Duration::days(3)).await.expect("maintained");
    assert!(done.made >= 3 && done.dropped == 0, "{done:?}");
    assert_eq!(partitions(&store).await, before + i64::from(done.made));
    let again = store.entities.maintain(keep, today() + Duration::days(3)).await.expect("maintained");
    assert_eq!(again, Partitions { made: 0, dropped: 0 });
}

/// The schema that tests copy may have been made yesterday, with the partitions of yesterday.
pub(super) async fn up_to_date(store: &Store) {
    store.entities.maintain(Retention { days: 20_000 }, today()).await.expect("maintained");
}

/// A missing partition never stops writing, and what landed in the default one is moved to its place.
#[tokio::test]
async fn a_missing_day_lands_in_the_default_partition_and_is_moved() {
    let store = Store::new().await;
    up_to_date(&store).await;
    let day: String = store.scalar("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").await;
    let drop = format!("DROP TABLE changes_{day}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop)).execute(store.database.pool()).await.expect("drop");
    store.apply(vec![upsert("a", "1", "x")]).await;
    assert_eq!(store.scalar::<i64>("SELECT count(*) FROM changes_default").await, 1);
    assert_eq!(store.story().await, ["a 1 create"]);
    assert_eq!(store.entities.maintain(Retention::default(), today()).await.expect("maintained").made, 1);
    assert_eq!(store.scalar::<i64>("SELECT count(*) FROM changes_default").await, 0);
    store.apply(vec![upsert("a", "2", "y")]).await;
    assert_eq!(store.story().await, ["a 1 create", "a 2 update"]);
}

/// Retention drops whole days; the log says that the past is cut, the tombstones and entities keep their revisions.
#[tokio::test]
async fn retention_cuts_the_past_and_says_so() {
    let store = Store::new().await;
    up_to_date(&store).await;
    store.apply(vec![upsert("a", "1", "x"), upsert("b", "1", "x")]).await;
    // Three days ago, as the clock of then would have had it.
    let past = "WITH d AS (DELETE FROM changes RETURNING *)
                INSERT INTO changes (kind, \"offset\", day, id, revision, op, at, by, changed, doc, size)
                SELECT kind, \"offset\", day - 3, id, revision, op, at - interval '3 days', by, changed, doc, size FROM d";
    sqlx::query(past).execute(store.database.pool()).await.expect("moved back");
    store.apply(vec![upsert("a", "2", "y")]).await;
    assert_eq!(store.story().await.len(), 3);

    let done = store.entities.maintain(Retention { days: 4 }, today()).await.expect("maintained");
    assert_eq!((done.made, done.dropped), (1, 0), "the day that the default partition held");
    let done = store.entities.maintain(Retention { days: 2 }, today()).await.expect("maintained");
    assert_eq!(done.dropped, 1);

    let cut = store.log(0).await;
    assert!(!cut.complete && cut.changes.len() == 1 && cut.changes[0].offset == 3);
    assert!(store.log(2).await.complete);
    let of = |name: &'static str, after| {
        let entities = store.entities.clone();
        async move { entities.read_entity(&kind(), &IdKey::of(&id(name)), after, ALL).await.expect("read").expect("kind") }
    };
    assert!(!of("a", 0).await.complete);
    assert!(of("a", 1).await.complete);
    let b = of("b", 0).await;
    assert!(!b.complete && b.changes.is_empty() && b.position.offset == 1);
    store.apply(vec![upsert("b", "2", "y")]).await;
    assert_eq!(of("b", 1).await.changes[0].revision, 2, "revisions go on");
}
