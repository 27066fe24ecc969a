//! One stream as this node follows it: of a kind, or of the application.

use std::{collections::HashMap, sync::Arc};

use dzvin_protocols::{
    channels::{Channel, Position, Publication},
    platform::{Kind, StreamName},
};
use ractor::RpcReplyPort;

use super::AttachError;
use crate::channels::{Delivery, Item, What};

/// A stream by where its positions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The change log.
    Durable(Kind),
    /// The bus.
    Application(StreamName),
}

impl Source {
    /// The stream that a channel leads to.
    pub(super) fn of(channel: &Channel) -> Self {
        match channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => Self::Durable(kind.clone()),
            // Nothing leads here until it is known what it asks.
            Channel::Query(id) => Self::Application(StreamName::from_checked(id.as_str())),
            Channel::Application(name) => Self::Application(StreamName::from_checked(name)),
        }
    }

    pub(super) fn name(&self) -> StreamName {
        match self {
            Self::Durable(kind) => kind.stream(),
            Self::Application(name) => name.clone(),
        }
    }
}

/// A stream with the channels that lead to it: its own, and of a kind those of single entities.
pub(super) struct Stream {
    pub(super) source: Source,
    /// `None` until it has been opened.
    pub(super) position: Option<Position>,
    pub(super) waiting: Vec<RpcReplyPort<Result<Position, AttachError>>>,
    pub(super) reading: bool,
    pub(super) again: bool,
    whole: Arc<str>,
    /// Which shards want a channel, as bits.
    wanted: HashMap<Arc<str>, u64>,
    /// Channels, with their shard, whose subscribers come from a life of topics before this one.
    presented: Vec<(Arc<str>, usize)>,
    idle: u32,
}

impl Stream {
    pub(super) fn new(source: Source) -> Self {
        let whole = source.name().as_str().into();
        Self {
            source,
            position: None,
            waiting: Vec::new(),
            reading: false,
            again: false,
            whole,
            wanted: HashMap::new(),
            presented: Vec::new(),
            idle: 0,
        }
    }

    pub(super) fn want(&mut self, channel: Arc<str>, shard: usize) {
        *self.wanted.entry(channel).or_default() |= 1 << shard;
        self.idle = 0;
    }

    pub(super) fn unwant(&mut self, channel: &Arc<str>, shard: usize) {
        if let Some(shards) = self.wanted.get_mut(channel) {
            *shards &= !(1 << shard);
            if *shards == 0 {
                self.wanted.remove(channel);
            }
        }
    }

    /// The same of a shard whose subscribers may have missed something.
    pub(super) fn present(&mut self, channel: Arc<str>, shard: usize) {
        self.presented.push((Arc::clone(&channel), shard));
        self.want(channel, shard);
    }

    /// Tells those that were presented where the stream stands, once that is known. Of single entities only the log
    /// knows: their subscribers recover from it.
    pub(super) fn greet(&mut self) -> Vec<(u64, Delivery)> {
        let Some(Position { epoch, offset }) = &self.position else { return Vec::new() };
        let greeting = |(channel, shard): (Arc<str>, usize)| {
            let what = if channel == self.whole { What::Top(*offset) } else { What::Reset };
            (1 << shard, Delivery { channel, epoch: epoch.clone(), what })
        };
        self.presented.drain(..).map(greeting).collect()
    }

    /// A shard wants nothing any more.
    pub(super) fn forget(&mut self, shard: usize) {
        self.presented.retain(|(_, of)| *of != shard);
        self.wanted.retain(|_, shards| {
            *shards &= !(1 << shard);
            *shards != 0
        });
    }

    pub(super) fn is_wanted(&self) -> bool {
        !(self.wanted.is_empty() && self.waiting.is_empty())
    }

    /// For how many checks nobody has wanted it.
    pub(super) fn idle_for(&mut self) -> u32 {
        self.idle = if self.is_wanted() { 0 } else { self.idle + 1 };
        self.idle
    }

    /// Takes what is new of a run that follows the position, and encodes it once per channel.
    pub(super) fn advance(&mut self, publications: &[Publication]) -> Vec<(u64, Delivery)> {
        let Some(position) = &mut self.position else { return Vec::new() };
        let fresh: Vec<&Publication> = publications.iter().skip_while(|p| p.offset <= position.offset).collect();
        let Some(last) = fresh.last() else { return Vec::new() };
        position.offset = last.offset;
        let epoch = position.epoch.clone();
        let mut batch = Vec::new();
        if let Some(shards) = self.wanted.get(&self.whole) {
            let items = fresh.iter().map(|p| Item::new(p.offset, (*p).clone())).collect();
            batch.push((
                *shards,
                Delivery { channel: Arc::clone(&self.whole), epoch: epoch.clone(), what: What::Items(items) },
            ));
        }
        if let Source::Durable(kind) = &self.source
            && self.wanted.len() > batch.len()
        {
            for publication in fresh {
                let channel = Channel::of_entity(kind, &publication.id).to_string();
                let Some((channel, shards)) = self.wanted.get_key_value(channel.as_str()) else { continue };
                let items = Arc::new([Item::new(publication.revision, publication.clone())]);
                batch.push((
                    *shards,
                    Delivery { channel: Arc::clone(channel), epoch: epoch.clone(), what: What::Items(items) },
                ));
            }
        }
        batch
    }

    /// Stands at a new position whose past is unknown: every subscriber must recover.
    pub(super) fn reset(&mut self, position: Position) -> Vec<(u64, Delivery)> {
        self.position = Some(position);
        self.resets(u64::MAX)
    }

    /// Tells every subscriber of these shards to recover.
    pub(super) fn resets(&self, of: u64) -> Vec<(u64, Delivery)> {
        let Some(position) = &self.position else { return Vec::new() };
        let concerned = self.wanted.iter().filter(|(_, shards)| **shards & of != 0);
        let told = |(channel, shards): (&Arc<str>, &u64)| {
            (shards & of, Delivery { channel: Arc::clone(channel), epoch: position.epoch.clone(), what: What::Reset })
        };
        concerned.map(told).collect()
    }

    /// Where the kind's own channel stands, for its subscribers to compare.
    pub(super) fn top(&self) -> Option<(u64, Delivery)> {
        let (position, shards) = (self.position.as_ref()?, self.wanted.get(&self.whole)?);
        let what = What::Top(position.offset);
        Some((*shards, Delivery { channel: Arc::clone(&self.whole), epoch: position.epoch.clone(), what }))
    }
}
