//! A subscriber that loses nothing: events, a comparison of positions now and then, and `since` for what is missing.
//! What `topics` does, in its shortest form; here it is the checker.

use std::{sync::Arc, time::Duration};

use dzvin_actors::{
    entities::gap::{Recovered, since},
    platform::ports::{Bus, BusEvent, ReadLimit},
};
use dzvin_protocols::{
    channels::{Epoch, Position, Publication},
    platform::StreamName,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::fakes::FakeLog;
use crate::support::eventually::eventually;

const COMPARE: Duration = Duration::from_millis(50);
const LIMIT: ReadLimit = ReadLimit { count: 100_000, bytes: 64 << 20 };

/// What a follower has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Epoch and offset of every publication, in the order of delivery.
    pub all: Vec<(Epoch, u64)>,
    /// Times that it had to load its state anew, and where it went on from.
    pub reloads: Vec<Position>,
    /// Publications that came only by recovery.
    pub healed: usize,
}

pub struct Follower {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Begins at a position that it is told, as one who loaded a list over REST.
    pub async fn start<B: Bus>(
        bus: Arc<B>,
        events: mpsc::Receiver<BusEvent>,
        log: FakeLog,
        stream: StreamName,
        position: Position,
    ) -> Self {
        // An error stands: the bus subscribes when it can.
        let _ = bus.subscribe(&stream).await;
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(Walk { bus, log, stream, position, seen: sender }.walk(events));
        Self { seen, task }
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until it has come as far as that, and checks that it got there without a hole, a double or a reload.
    pub async fn reaches(&self, from: u64, top: u64) {
        self.comes_to(top).await;
        let seen = self.seen();
        assert_eq!(seen.reloads, [], "nothing was lost for good");
        let offsets: Vec<_> = seen.all.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(offsets, (from..=top).collect::<Vec<_>>(), "each once and in order");
    }

    pub async fn comes_to(&self, top: u64) {
        eventually(&format!("the follower sees {top}"), || async {
            self.seen.borrow().all.last().is_some_and(|(_, offset)| *offset >= top)
        })
        .await;
    }
}

struct Walk<B> {
    bus: Arc<B>,
    log: FakeLog,
    stream: StreamName,
    position: Position,
    seen: watch::Sender<Seen>,
}

impl<B: Bus> Walk<B> {
    async fn walk(mut self, mut events: mpsc::Receiver<BusEvent>) {
        let mut compare = interval(COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(BusEvent::Publications { stream, epoch, publications }) if stream == self.stream => {
                        self.hear(epoch, publications).await;
                    }
                    Some(BusEvent::Publications { .. } | BusEvent::Word { .. } | BusEvent::Told(_)) => {}
                    Some(BusEvent::Lost | BusEvent::Begun { .. }) => self.compare().await,
                    None => return,
                },
                _ = compare.tick() => self.compare().await,
            }
        }
    }

    async fn hear(&mut self, epoch: Epoch, publications: Vec<Publication>) {
        let next = self.position.offset + 1;
        if epoch != self.position.epoch || publications[0].offset > next {
            return self.heal().await;
        }
        let new: Vec<_> = publications.into_iter().filter(|p| p.offset >= next).collect();
        self.take(&new, false);
    }

    async fn compare(&mut self) {
        match self.bus.position(&self.stream).await {
            Ok(Some(top)) if top.epoch == self.position.epoch && top.offset <= self.position.offset => {}
            Ok(_) | Err(_) => self.heal().await,
        }
    }

    async fn heal(&mut self) {
        match since(self.bus.as_ref(), &self.log, &self.stream, &self.position, LIMIT).await {
            Ok(Recovered::Complete { publications, position }) => {
                self.take(&publications, true);
                assert_eq!(position, self.position, "complete up to what it says");
            }
            Ok(Recovered::Unrecoverable { position, .. }) => {
                self.seen.send_modify(|seen| seen.reloads.push(position.clone()));
                self.position = position;
            }
            // Nobody can be asked now: the next comparison tries again.
            Err(_) => {}
        }
    }

    fn take(&mut self, publications: &[Publication], healed: bool) {
        if publications.is_empty() {
            return;
        }
        for publication in publications {
            assert_eq!(publication.offset, self.position.offset + 1, "a hole or a double");
            self.position.offset += 1;
        }
        let epoch = self.position.epoch.clone();
        self.seen.send_modify(|seen| {
            seen.healed += if healed { publications.len() } else { 0 };
            seen.all.extend(publications.iter().map(|p| (epoch.clone(), p.offset)));
        });
    }
}
