//! Presence beside whichever bus the configuration names.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::{
    Buried, BusError, Changed, Counts, Grave, Life, MemberChange, MemberPage, Occupied, Presence,
};
use dzvin_protocols::platform::StreamName;

use super::{super::bus::AnyBus, MemoryPresence, PresenceSettings, RedisPresence};

/// The presence of this process.
#[derive(Debug)]
pub enum AnyPresence {
    /// One node.
    Memory(MemoryPresence),
    /// Many nodes.
    Redis(RedisPresence),
}

impl AnyPresence {
    /// Presence where the bus is.
    #[must_use]
    pub fn beside(bus: &AnyBus, settings: PresenceSettings) -> Self {
        match bus {
            AnyBus::Memory(_) => Self::Memory(MemoryPresence::new(settings)),
            AnyBus::Redis(bus) => Self::Redis(RedisPresence::new(bus, settings)),
        }
    }
}

macro_rules! either {
    ($self:ident, $presence:ident => $call:expr) => {
        match $self {
            Self::Memory($presence) => $call,
            Self::Redis($presence) => $call,
        }
    };
}

impl Presence for AnyPresence {
    fn begin(&self) {
        either!(self, presence => presence.begin());
    }

    async fn renew(&self) -> Result<Life, BusError> {
        either!(self, presence => presence.renew().await)
    }

    fn is_shared(&self) -> bool {
        either!(self, presence => presence.is_shared())
    }

    async fn resign(&self, hold: Duration) -> Result<(), BusError> {
        either!(self, presence => presence.resign(hold).await)
    }

    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        either!(self, presence => presence.change(channel, ticket, changes).await)
    }

    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        either!(self, presence => presence.occupy(channel, ticket, subscribers).await)
    }

    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        either!(self, presence => presence.counts(channel).await)
    }

    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        either!(self, presence => presence.members(channel, from, limit).await)
    }

    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        either!(self, presence => presence.turn(channel, every).await)
    }

    async fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        either!(self, presence => presence.channels(prefix, after, limit).await)
    }

    async fn bury(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        either!(self, presence => presence.bury(limit).await)
    }

    async fn close(&self, channel: &StreamName, grave: &Grave) -> Result<(), BusError> {
        either!(self, presence => presence.close(channel, grave).await)
    }
}
