//! Two nodes that start at once on one address for clients: the slower one is told, and leaves nothing behind.

use std::net::TcpListener;

use crate::support::{eventually::eventually, hub::World, postgres::begin};

#[tokio::test]
async fn who_is_slower_to_a_port_stops_in_order() {
    let world = World { lease_ttl: "60s", ..World::new(1, true).await };
    let mut hub = world.unstarted("a");
    let mut db = world.db.raw().await;
    // It waits here with both addresses taken and neither opened to clients.
    let mut held = begin(&mut db).await;
    sqlx::query("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.expect("locked");
    hub.spawn();
    eventually("it starts", async || hub.get("/readyz").await.is_some_and(|(status, _)| status == 503)).await;
    let faster = TcpListener::bind(hub.addr).expect("nobody listens there yet");
    held.rollback().await.expect("let go");
    assert_eq!(hub.ended().await, Some(71), "{}", hub.log());
    let log = hub.log();
    let told = format!("http.listen: the port {} of 127.0.0.1 is taken", hub.addr.port());
    assert!(log.lines().last().is_some_and(|line| line.contains(&told)), "{log}");
    assert!(log.contains("stopping") && !log.contains("not everything stopped"), "{log}");
    let sql = "SELECT count(*) FROM leases WHERE expires_at > clock_timestamp()";
    let leases: i64 = sqlx::query_scalar(sql).fetch_one(&mut db).await.expect("asked");
    assert_eq!(leases, 0, "others need not wait for them");
    drop(faster);
    hub.start().await;
    assert_eq!(hub.stop().await, Some(0), "{}", hub.log());
}
