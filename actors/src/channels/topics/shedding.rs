//! Handing batches to the shards, of which one may be stuck.
//!
//! Invariants: each shard gets its batches in their order. Whoever takes a batch at once has it before anybody is waited for. A shard whose
//! backlog is full is waited for, so that one that is only busy loses nothing; one that has used up that patience gets no more
//! of it until it takes a batch again. What it does not take it misses, and its subscribers are told at the next check.

use std::sync::Arc;

use futures_util::future::join_all;

use super::TopicsState;
use crate::{
    channels::Delivery,
    platform::ports::{Bus, ChangeLog},
};

/// Shards that do not take what they are handed, as bits.
#[derive(Debug, Default)]
pub(super) struct Shed {
    /// Their subscribers have missed something and have to be told.
    owed: u64,
    /// They did not take their last batch either: nobody waits for them.
    stuck: u64,
}

impl Shed {
    /// Whose subscribers have to be told, which is done now.
    pub(super) fn take_owed(&mut self) -> u64 {
        std::mem::take(&mut self.owed)
    }

    /// A shard begins a life.
    pub(super) fn began(&mut self, shard: usize) {
        self.stuck &= !(1 << shard);
    }

    /// A shard has taken a batch.
    fn took(&mut self, shard: usize) {
        if self.stuck & (1 << shard) != 0 {
            self.stuck &= !(1 << shard);
            tracing::info!(shard, "shard takes deliveries again");
        }
    }

    /// It has not.
    fn missed(&mut self, shard: usize) {
        if self.stuck & (1 << shard) == 0 {
            tracing::error!(shard, "shard takes no deliveries; its subscribers will have to recover");
        }
        self.owed |= 1 << shard;
        self.stuck |= 1 << shard;
    }
}

impl<B: Bus, L: ChangeLog> TopicsState<B, L> {
    /// Hands each shard the deliveries that it wants; most often all want all, and share one batch.
    pub(super) async fn deliver(&mut self, batch: Vec<(u64, Delivery)>) {
        let Some(all) = batch.iter().map(|(shards, _)| *shards).reduce(|a, b| a | b) else { return };
        let shared = batch.iter().all(|(shards, _)| *shards == all);
        let whole: Arc<[Delivery]> =
            if shared { batch.iter().map(|(_, delivery)| delivery.clone()).collect() } else { Arc::new([]) };
        let mut full = Vec::new();
        for index in (0..self.args.shards.count()).filter(|index| all & (1 << index) != 0) {
            let Some(shard) = self.args.shards.get(index) else { continue };
            let wanted = if shared {
                Arc::clone(&whole)
            } else {
                batch.iter().filter(|(shards, _)| shards & (1 << index) != 0).map(|(_, d)| d.clone()).collect()
            };
            if shard.offer(&wanted, &self.args.metrics) {
                self.shed.took(index);
            } else if self.shed.stuck & (1 << index) != 0 {
                self.shed.missed(index);
            } else {
                full.push((index, wanted));
            }
        }
        if full.is_empty() {
            return;
        }
        let (shards, patience, metrics) = (&self.args.shards, self.args.limits.command, &self.args.metrics);
        let waiting = full.into_iter().filter_map(|(index, wanted)| {
            let shard = shards.get(index)?;
            Some(async move { (index, shard.deliver(wanted, patience, metrics).await) })
        });
        for (index, taken) in join_all(waiting).await {
            if taken {
                self.shed.took(index);
            } else {
                self.shed.missed(index);
            }
        }
    }
}
