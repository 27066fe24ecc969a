//! DESIGN 6: without Redis there is one node.

use std::time::{Duration, Instant};

use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
};

async fn refused(hub: &mut Hub) {
    assert_eq!(hub.ended().await, Some(78), "{}", hub.log());
    let log = hub.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("another node without Redis serves this database; set redis.url"), "{log}");
}

#[tokio::test]
async fn a_second_node_without_redis_is_refused() {
    let world = World::new(1, false).await;
    let mut first = world.hub("a").await;
    let mut second = world.unstarted("b");
    second.spawn();
    refused(&mut second).await;
    assert_eq!(first.get("/readyz").await.expect("the first serves on").0, 200);
    // A killed node's place is free at once.
    first.kill().await;
    let began = Instant::now();
    second.start().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    first.spawn();
    refused(&mut first).await;
    assert_eq!(second.stop().await, Some(0), "{}", second.log());
    first.start().await;
}

#[tokio::test]
async fn with_redis_there_may_be_many() {
    let world = World::new(1, true).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    for hub in hubs {
        assert_eq!(hub.get("/readyz").await.expect("answers").0, 200);
    }
}

/// The connection that holds the lock is lost: the node takes it again, and another is refused still.
#[tokio::test]
async fn a_lost_lock_is_taken_again() {
    let world = World::new(1, false).await;
    let mut first = world.hub("a").await;
    let mut db = world.db.raw().await;
    let ended: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'dzvin alone%'",
    )
    .fetch_one(&mut db)
    .await
    .expect("ended");
    assert_eq!(ended, 1);
    eventually("taken again", async || first.log().contains("alone again")).await;
    let mut second = world.unstarted("b");
    second.spawn();
    refused(&mut second).await;
    assert_eq!(first.stop().await, Some(0), "{}", first.log());
}

/// Another node took the lock while the first one could not: the first one ends and says why.
#[tokio::test]
async fn a_node_that_was_displaced_ends() {
    let world = World::new(1, false).await;
    let mut first = world.hub("a").await;
    let mut db = world.db.raw().await;
    let taken = eventually("the lock changes hands", async || {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'dzvin alone%'";
        sqlx::query(sql).execute(&mut db).await.expect("ended");
        let sql = "SELECT pg_try_advisory_lock(431551310190)";
        sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut db).await.expect("asked").then_some(())
    });
    taken.await;
    refused(&mut first).await;
}
