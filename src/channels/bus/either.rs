//! Whichever bus the configuration names.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_actors::platform::ports::{
    Appended, Bus, BusError, Conditions, HistoryLimits, Offer, Published, ReadLimit, Slice, UserPace,
};
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication},
    platform::StreamName,
};

use super::{BusMetrics, MemoryBus, RedisBus};

/// The bus of this process.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per process")]
pub enum AnyBus {
    /// One node.
    Memory(MemoryBus),
    /// Many nodes.
    Redis(RedisBus),
}

macro_rules! either {
    ($self:ident, $bus:ident => $call:expr) => {
        match $self {
            Self::Memory($bus) => $call,
            Self::Redis($bus) => $call,
        }
    };
}

impl AnyBus {
    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &BusMetrics {
        either!(self, bus => bus.metrics())
    }

    /// Whether it can be asked now; a bus in memory always can.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(bus) => bus.is_connected(),
        }
    }
}

impl Bus for AnyBus {
    async fn append(&self, stream: &StreamName, epoch: &Epoch, run: &[Publication]) -> Result<Appended, BusError> {
        either!(self, bus => bus.append(stream, epoch, run).await)
    }

    async fn reset(&self, stream: &StreamName, position: &Position) -> Result<(), BusError> {
        either!(self, bus => bus.reset(stream, position).await)
    }

    async fn publish(&self, stream: &StreamName, message: Message, keep: &HistoryLimits) -> Result<Position, BusError> {
        either!(self, bus => bus.publish(stream, message, keep).await)
    }

    async fn put(&self, stream: &StreamName, offer: Offer, on: &Conditions) -> Result<Published, BusError> {
        either!(self, bus => bus.put(stream, offer, on).await)
    }

    async fn pace_user(&self, user: &str, pace: UserPace) -> Option<Duration> {
        either!(self, bus => bus.pace_user(user, pace).await)
    }

    async fn forget(&self, stream: &StreamName) -> Result<(), BusError> {
        either!(self, bus => bus.forget(stream).await)
    }

    async fn open(&self, stream: &StreamName) -> Result<Position, BusError> {
        either!(self, bus => bus.open(stream).await)
    }

    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        either!(self, bus => bus.positions(streams).await)
    }

    async fn position(&self, stream: &StreamName) -> Result<Option<Position>, BusError> {
        either!(self, bus => bus.position(stream).await)
    }

    fn parts(&self, streams: Vec<StreamName>) -> Vec<Vec<StreamName>> {
        either!(self, bus => bus.parts(streams))
    }

    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        either!(self, bus => bus.read(stream, after, limit).await)
    }

    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        either!(self, bus => bus.subscribe(stream).await)
    }

    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        either!(self, bus => bus.unsubscribe(stream).await)
    }

    async fn whisper(&self, stream: &StreamName, word: Bytes) -> Result<(), BusError> {
        either!(self, bus => bus.whisper(stream, word).await)
    }

    async fn tell(&self, node: Option<&str>, word: Bytes) -> Result<bool, BusError> {
        either!(self, bus => bus.tell(node, word).await)
    }

    fn node(&self) -> &str {
        either!(self, bus => bus.node())
    }

    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        either!(self, bus => bus.nodes().await)
    }
}
