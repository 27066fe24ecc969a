//! A real Redis that is killed, emptied, cut, stalled and refused under a relay on one node and a follower on another.
//! After each, the follower has seen every offset once and in order, and nothing was lost for good.

use std::{sync::Arc, time::Duration};

use dzvin::channels::bus::{HistoryLimits, RedisBus};
use dzvin_actors::{entities::Role, platform::ports::Bus};
use tokio::time::{Instant, timeout};

use super::{
    fakes::{FakeLeases, FakeLog, kind},
    follower::Follower,
    kit::{at, hub},
    relay::{Running, impatient, relay},
};
use crate::support::{eventually::eventually, proxy::Proxy, redis::Redis};

/// Within which a subscriber knows what it lost, once connectivity is back (rule 1 of the design).
const RETURN: Duration = Duration::from_secs(5);

struct Scene {
    server: Redis,
    proxy: Proxy,
    log: FakeLog,
    near: Arc<RedisBus>,
    far: Arc<RedisBus>,
    relay: Running,
    follower: Follower,
}

/// Relay and follower have a hub each, both through the proxy; ten changes are through.
async fn scene() -> Scene {
    let server = Redis::start().await;
    let (proxy, url) = server.proxy().await;
    let (near, _) = hub(&url, HistoryLimits::default()).await;
    let (far, events) = hub(&url, HistoryLimits::default()).await;
    let (near, far, log) = (Arc::new(near), Arc::new(far), FakeLog::with(&["tender"]));
    let follower = Follower::start(Arc::clone(&far), events, log.clone(), kind("tender").stream(), at("e0", 0)).await;
    let relay = relay(&near, &log, FakeLeases::default(), impatient()).await;
    relay.is(Role::Holder).await;
    let scene = Scene { server, proxy, log, near, far, relay, follower };
    scene.commit(10).await;
    scene.follower.reaches(1, 10).await;
    scene
}

impl Scene {
    async fn commit(&self, count: u64) {
        for _ in 0..count {
            self.log.commit("tender", 1);
            self.relay.handle.wake();
            tokio::task::yield_now().await;
        }
    }

    /// Everything is seen, in time, and the bus itself is where the log is.
    async fn is_whole(&self) {
        let top = self.log.top("tender");
        let begun = Instant::now();
        self.follower.reaches(1, top.offset).await;
        assert!(begun.elapsed() < RETURN, "took {:?}", begun.elapsed());
        let stream = kind("tender").stream();
        for bus in [&self.near, &self.far] {
            eventually("the bus is where the log is", || async {
                bus.position(&stream).await.is_ok_and(|p| p.as_ref() == Some(&top))
            })
            .await;
        }
        assert_eq!(self.log.renewals("tender"), 0, "the past was not lost");
        // Live again: what comes now comes as an event, not only by comparison.
        eventually("events arrive again", || async {
            let healed = self.follower.seen().healed;
            self.commit(1).await;
            self.follower.comes_to(self.log.top("tender").offset).await;
            self.follower.seen().healed == healed
        })
        .await;
        self.follower.reaches(1, self.log.top("tender").offset).await;
    }
}

#[tokio::test]
async fn killed_before_a_save() {
    let mut scene = scene().await;
    scene.server.save().await;
    scene.commit(30).await;
    scene.follower.reaches(1, 40).await;
    scene.server.kill();
    scene.commit(5).await;
    // On what was saved at ten: the bus went back in time, the log did not.
    scene.server.restart().await;
    scene.is_whole().await;
    assert!(scene.relay.metrics.gaps_healed.get() > 0);
}

#[tokio::test]
async fn killed_and_started_with_nothing() {
    let mut scene = scene().await;
    scene.commit(100).await;
    scene.server.restart_empty().await;
    scene.commit(5).await;
    scene.is_whole().await;
}

#[tokio::test]
async fn emptied_while_publishing() {
    let scene = scene().await;
    for _ in 0..10 {
        scene.commit(20).await;
        scene.server.flush().await;
    }
    scene.is_whole().await;
}

#[tokio::test]
async fn emptied_while_idle() {
    let scene = scene().await;
    scene.server.flush().await;
    let stream = kind("tender").stream();
    eventually("it is filled again without a change", || async {
        scene.far.position(&stream).await.is_ok_and(|p| p == Some(at("e0", 10)))
    })
    .await;
    scene.is_whole().await;
}

#[tokio::test]
async fn cut_while_publishing_and_subscribing() {
    let scene = scene().await;
    for _ in 0..15 {
        scene.commit(10).await;
        scene.proxy.cut();
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
    let scene = scene().await;
    scene.proxy.stall(true);
    scene.commit(50).await;
    eventually("both give the connection up", || async { !scene.near.is_connected() && !scene.far.is_connected() })
        .await;
    let asked = Instant::now();
    scene.far.position(&kind("tender").stream()).await.expect_err("no connection");
    assert!(asked.elapsed() < Duration::from_millis(100), "it fails at once");
    // The follower lives on the log meanwhile.
    scene.follower.reaches(1, 60).await;
    scene.proxy.stall(false);
    scene.is_whole().await;
}

#[tokio::test]
async fn refused_for_a_while() {
    let scene = scene().await;
    scene.proxy.refuse(true);
    scene.proxy.cut();
    scene.commit(50).await;
    scene.follower.reaches(1, 60).await;
    eventually("it tries again and again", || async { scene.near.metrics().failures.get() > 3 }).await;
    scene.proxy.refuse(false);
    scene.is_whole().await;
}

#[tokio::test]
async fn slow_but_alive() {
    let scene = scene().await;
    let connections = scene.near.metrics().connections.get();
    scene.proxy.delay(Duration::from_millis(5));
    scene.commit(100).await;
    scene.is_whole().await;
    assert_eq!(scene.near.metrics().connections.get(), connections, "slow is not dead");
}
