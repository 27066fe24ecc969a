//! A real Redis that is killed, emptied, cut, stalled and refused under a relay on one node and a follower on another.
//! After each, the follower has seen every offset once and in order, and nothing was lost for good.

use std::time::Duration;

use dzvin_actors::platform::ports::Bus;
use tokio::time::{Instant, timeout};

use super::{
    fakes::kind,
    kit::at,
    scene::{self, Scene},
};
use crate::support::{eventually::eventually, proxy::Proxy, redis::Redis};

/// Relay and follower have a hub each, both through the proxy; ten changes are through.
async fn scene() -> (Redis, Proxy, Scene) {
    let server = Redis::start().await;
    let (proxy, url) = server.proxy().await;
    (server, proxy, scene::scene(&url).await)
}

#[tokio::test]
async fn killed_before_a_save() {
    let (mut server, _proxy, scene) = scene().await;
    server.save().await;
    scene.commit(30).await;
    scene.follower.reaches(1, 40).await;
    server.kill();
    scene.commit(5).await;
    // On what was saved at ten: the bus went back in time, the log did not.
    server.restart().await;
    scene.is_whole().await;
    assert!(scene.relay.metrics.gaps_healed.get() > 0);
}

#[tokio::test]
async fn killed_and_started_with_nothing() {
    let (mut server, _proxy, scene) = scene().await;
    scene.commit(100).await;
    server.restart_empty().await;
    scene.commit(5).await;
    scene.is_whole().await;
}

#[tokio::test]
async fn emptied_while_publishing() {
    let (server, _proxy, scene) = scene().await;
    for _ in 0..10 {
        scene.commit(20).await;
        server.flush().await;
    }
    scene.is_whole().await;
}

#[tokio::test]
async fn emptied_while_idle() {
    let (server, _proxy, scene) = scene().await;
    server.flush().await;
    let stream = kind("tender").stream();
    eventually("it is filled again without a change", || async {
        scene.far.position(&stream).await.is_ok_and(|p| p == Some(at("e0", 10)))
    })
    .await;
    scene.is_whole().await;
}

#[tokio::test]
async fn cut_while_publishing_and_subscribing() {
    let (_server, proxy, scene) = scene().await;
    for _ in 0..15 {
        scene.commit(10).await;
        proxy.cut();
        let _ = scene.far.unsubscribe(&kind("tender").stream()).await;
        let _ = scene.far.subscribe(&kind("tender").stream()).await;
        scene.commit(3).await;
        // Between cuts long enough to come back now and then, and too short to always.
        let top = scene.log.top("tender").offset;
        let _ = timeout(Duration::from_millis(60), scene.follower.comes_to(top)).await;
    }
    scene.is_whole().await;
    assert!(scene.far.metrics().connections.get() > 1, "it was really cut");
}

#[tokio::test]
async fn stalled_with_open_connections() {
    let (_server, proxy, scene) = scene().await;
    proxy.stall(true);
    scene.commit(50).await;
    eventually("both give the connection up", || async { !scene.near.is_connected() && !scene.far.is_connected() })
        .await;
    let asked = Instant::now();
    scene.far.position(&kind("tender").stream()).await.expect_err("no connection");
    assert!(asked.elapsed() < Duration::from_millis(100), "it fails at once");
    // The follower lives on the log meanwhile.
    scene.follower.reaches(1, 60).await;
    proxy.stall(false);
    scene.is_whole().await;
}

#[tokio::test]
async fn refused_for_a_while() {
    let (_server, proxy, scene) = scene().await;
    proxy.refuse(true);
    proxy.cut();
    scene.commit(50).await;
    scene.follower.reaches(1, 60).await;
    eventually("it tries again and again", || async { scene.near.metrics().failures.get() > 3 }).await;
    proxy.refuse(false);
    scene.is_whole().await;
}

#[tokio::test]
async fn slow_but_alive() {
    let (_server, proxy, scene) = scene().await;
    let connections = scene.near.metrics().connections.get();
    proxy.delay(Duration::from_millis(5));
    scene.commit(100).await;
    scene.is_whole().await;
    assert_eq!(scene.near.metrics().connections.get(), connections, "slow is not dead");
}
