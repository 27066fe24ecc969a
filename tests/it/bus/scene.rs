//! A relay on one node, a follower on another, and an application's stream beside it, over whatever Redis is made of.

use std::{sync::Arc, time::Duration};

use dzvin::channels::bus::{HistoryLimits, RedisBus};
use dzvin_actors::{
    entities::Role,
    platform::ports::{Bus, BusEvent},
};
use dzvin_protocols::{
    channels::{Message, Position},
    platform::StreamName,
};
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

use super::{
    fakes::{FakeLeases, FakeLog, kind},
    follower::Follower,
    kit::{at, hub},
    relay::{Running, impatient, relay},
};
use crate::support::eventually::eventually;

/// Within which a subscriber knows what it lost, once connectivity is back (rule 1 of the design).
pub const RETURN: Duration = Duration::from_secs(5);

pub struct Scene {
    pub log: FakeLog,
    pub near: Arc<RedisBus>,
    pub far: Arc<RedisBus>,
    pub relay: Running,
    pub follower: Follower,
    /// Tasks that ran before.
    tasks: usize,
}

/// Ten changes are through.
pub async fn scene(url: &str) -> Scene {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (near, _) = hub(url, HistoryLimits::default()).await;
    let (far, events) = hub(url, HistoryLimits::default()).await;
    let (near, far, log) = (Arc::new(near), Arc::new(far), FakeLog::with(&["tender"]));
    let follower = Follower::start(Arc::clone(&far), events, log.clone(), kind("tender").stream(), at("e0", 0)).await;
    let relay = relay(&near, &log, FakeLeases::default(), impatient()).await;
    relay.is(Role::Holder).await;
    let scene = Scene { log, near, far, relay, follower, tasks };
    scene.commit(10).await;
    scene.follower.reaches(1, 10).await;
    scene
}

impl Scene {
    pub async fn commit(&self, count: u64) {
        for _ in 0..count {
            self.log.commit("tender", 1);
            self.relay.handle.wake();
            tokio::task::yield_now().await;
        }
    }

    /// Everything is seen, in time, and the bus itself is where the log is; what comes now comes as an event again.
    pub async fn is_whole(&self) {
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
        eventually("events arrive again", || async {
            let healed = self.follower.seen().healed;
            self.commit(1).await;
            self.follower.comes_to(self.log.top("tender").offset).await;
            self.follower.seen().healed == healed
        })
        .await;
        self.follower.reaches(1, self.log.top("tender").offset).await;
    }

    /// Ends everything; nothing is left running.
    pub async fn ends(self) {
        let Self { log: _, near, far, relay, follower, tasks } = self;
        relay.stop().await;
        drop((near, far, follower));
        eventually("every task has ended", || async { Handle::current().metrics().num_alive_tasks() <= tasks }).await;
    }
}

pub fn message(n: u64) -> Message {
    Message { data: format!("{{\"n\":{n}}}").into_bytes().into(), at: 5, trace: None, extra: None }
}

/// Publishes as soon as the bus takes it.
pub async fn publish(bus: &RedisBus, name: &StreamName, n: u64) -> Position {
    eventually("it is published", || async { bus.publish(name, message(n), &HistoryLimits::default()).await.ok() })
        .await
}

/// The next word that is one of these bytes.
pub async fn hears(events: &mut mpsc::Receiver<BusEvent>, expected: &[u8]) {
    let heard = async {
        loop {
            match events.recv().await.expect("a living bus") {
                BusEvent::Word { word, .. } | BusEvent::Told(word) if word == expected => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(crate::support::eventually::patience(), heard).await.expect("the word comes");
}
