//! How others reach the shards of a node: a place for each one's present life, and the batches that wait for it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dzvin_protocols::channels::Control;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Delivery, Metrics, ShardMessage, session::Incoming};
use crate::supervise::Slot;

/// Batches that may wait for one shard: enough to keep it busy, little enough that a stuck one is noticed at once.
const BACKLOG: u32 = 64;
/// KiB that may wait for one shard, whatever they are: a batch of large publications takes the place of several.
const BACKLOG_KIB: u32 = 32 * 1024;
/// What sessions take to say goodbye after the last was told to.
const FAREWELLS: Duration = Duration::from_secs(5);
/// Most shards of a node: topics keep them as bits of one word.
const MAX_SHARDS: usize = 64;

/// A batch's place in the backlog; given back with the batch, wherever that ends.
#[derive(Debug)]
pub(super) struct Credit {
    _permit: OwnedSemaphorePermit,
    backlog: Gauge,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.backlog.dec();
    }
}

/// How others reach one shard.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    /// Its current life.
    pub slot: Slot<ShardMessage>,
    credit: Arc<Semaphore>,
    pub(super) queue: Queue,
    /// A fault of tests: it takes batches and loses them.
    #[cfg(test)]
    pub(super) loses: Arc<std::sync::atomic::AtomicBool>,
}

/// Batches that wait, each with its permit.
pub(super) type Batches = Vec<(Arc<[Delivery]>, Credit)>;

/// Where they wait. Never more than there are permits.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<Mutex<Batches>>);

impl Queue {
    /// True when it was empty: then the shard has to be told.
    fn push(&self, batch: Arc<[Delivery]>, credit: Credit) -> bool {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push((batch, credit));
        queue.len() == 1
    }

    pub(super) fn take(&self) -> Batches {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The shards of a node.
#[derive(Debug, Clone)]
pub struct Shards {
    all: Arc<[ShardHandle]>,
    next: Arc<AtomicUsize>,
}

impl Shards {
    /// `count` shards, at least one and at most 64.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let shard = || ShardHandle {
            slot: Slot::default(),
            credit: Arc::new(Semaphore::new(BACKLOG_KIB as usize)),
            queue: Queue::default(),
            #[cfg(test)]
            loses: Arc::default(),
        };
        Self { all: (0..count.clamp(1, MAX_SHARDS)).map(|_| shard()).collect(), next: Arc::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&ShardHandle> {
        self.all.get(index)
    }

    /// Gives a new connection to the next shard that is alive. False when none is.
    #[must_use]
    pub fn accept(&self, incoming: Incoming) -> bool {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (before, after) = self.all.split_at(first);
        let alive = after.iter().chain(before).find(|shard| shard.slot.get().is_some());
        alive.is_some_and(|shard| shard.slot.cast(ShardMessage::Accept(incoming)).is_ok())
    }

    /// Closes every session of the node, spread over the time, and takes no more. Answers how many there were, once they
    /// have said goodbye.
    pub async fn drain(&self, within: Duration) -> usize {
        let closing = self.all.iter().map(|shard| {
            let drain = move |reply| ShardMessage::Drain { within, reply };
            shard.slot.call(drain, within + FAREWELLS)
        });
        futures_util::future::join_all(closing).await.into_iter().flatten().sum()
    }

    /// Gives an order to the sessions of this node that it is about.
    pub fn order(&self, order: &Arc<Control>) {
        for shard in self.all.iter() {
            // A shard between two lives has no sessions.
            let _ = shard.slot.cast(ShardMessage::Control(Arc::clone(order)));
        }
    }

    /// Has every shard tell presence, which has begun a new life, who is on which channel.
    pub fn present(&self) {
        for shard in self.all.iter() {
            // A shard between two lives has no sessions.
            let _ = shard.slot.cast(ShardMessage::Present);
        }
    }

    /// Shows every session of now nothing more of the hub's own channels: what it would be shown may be what it may not see any more.
    /// To be followed by [`Self::recall`].
    pub fn hush(&self) {
        for shard in self.all.iter() {
            // A shard between two lives has no sessions.
            let _ = shard.slot.cast(ShardMessage::Hush);
        }
    }

    /// Has every session of now begin again, spread over the time: what it was granted may no longer hold. The shards take
    /// this in order with connections, so nobody who signed in earlier is left out.
    pub fn recall(&self, within: Duration) {
        for shard in self.all.iter() {
            // A shard between two lives has no sessions.
            let _ = shard.slot.cast(ShardMessage::Recall { within });
        }
    }
}

impl ShardHandle {
    /// As long as this is held the shard takes nothing.
    #[cfg(test)]
    pub(super) async fn hold(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.credit).acquire_many_owned(BACKLOG_KIB).await.expect("open")
    }

    /// Hands over a batch if the shard's backlog has room for it now. A shard between two lives has no sessions.
    pub(super) fn offer(&self, batch: &Arc<[Delivery]>, metrics: &Metrics) -> bool {
        let Ok(permit) = Arc::clone(&self.credit).try_acquire_many_owned(share(batch)) else { return false };
        self.put(Arc::clone(batch), permit, metrics);
        true
    }

    /// Hands over a batch, waiting while the shard's backlog is full. False when it took none: its sessions have missed
    /// something.
    pub(super) async fn deliver(&self, batch: Arc<[Delivery]>, patience: Duration, metrics: &Metrics) -> bool {
        let room = timeout(patience, Arc::clone(&self.credit).acquire_many_owned(share(&batch))).await;
        let Ok(Ok(permit)) = room else { return false };
        self.put(batch, permit, metrics);
        true
    }

    fn put(&self, batch: Arc<[Delivery]>, permit: OwnedSemaphorePermit, metrics: &Metrics) {
        #[cfg(test)]
        if self.loses.load(Ordering::SeqCst) {
            return;
        }
        metrics.shard_backlog.inc();
        let credit = Credit { _permit: permit, backlog: metrics.shard_backlog.clone() };
        if self.queue.push(batch, credit) && self.slot.cast(ShardMessage::Deliver).is_err() {
            self.queue.take();
        }
    }
}

/// What a batch takes of a backlog.
fn share(batch: &[Delivery]) -> u32 {
    let bytes: usize = batch.iter().map(Delivery::size).sum();
    u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(BACKLOG_KIB / BACKLOG, BACKLOG_KIB)
}
