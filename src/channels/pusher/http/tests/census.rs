//! A double of presence: what a test sets, and it can be away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dzvin_actors::platform::ports::{
    Buried, BusError, Changed, Counts, Grave, Life, Member, MemberChange, MemberPage, Occupied, Presence,
};
use dzvin_protocols::{channels::centrifuge::ClientInfo, platform::StreamName};

use crate::channels::presence::{MemoryPresence, PresenceSettings};

/// Presence that can be away.
#[derive(Debug)]
pub(super) struct Census {
    store: MemoryPresence,
    tickets: AtomicU64,
    pub(super) away: AtomicBool,
}

impl Census {
    pub(super) fn new() -> Self {
        let store = MemoryPresence::new(PresenceSettings::default());
        Self { store, tickets: AtomicU64::new(0), away: AtomicBool::new(false) }
    }

    /// So many subscribers, and a client for each of these users.
    pub(super) async fn set(&self, channel: &str, subscribers: u64, users: &[&str]) {
        self.store.renew().await.expect("alive");
        let (stream, ticket) = (StreamName::from_checked(channel), || self.tickets.fetch_add(1, Relaxed) + 1);
        self.store.occupy(&stream, ticket(), subscribers).await.expect("told");
        let member = |(n, user): (usize, &&str)| {
            let info =
                ClientInfo { user: (*user).into(), client: format!("c{n}").into(), conn_info: None, chan_info: None };
            MemberChange::Enter(Arc::new(Member { info, told: true, shown: true }))
        };
        let changes: Vec<_> = users.iter().enumerate().map(member).collect();
        self.store.change(&stream, ticket(), &changes).await.expect("told");
    }

    fn here(&self) -> Result<&MemoryPresence, BusError> {
        if self.away.load(Relaxed) { Err(BusError { doing: "asking", source: "away".into() }) } else { Ok(&self.store) }
    }
}

impl Presence for Census {
    fn begin(&self) {
        self.store.begin();
    }
    async fn renew(&self) -> Result<Life, BusError> {
        self.here()?.renew().await
    }
    fn is_shared(&self) -> bool {
        true
    }

    async fn resign(&self, hold: Duration) -> Result<(), BusError> {
        self.here()?.resign(hold).await
    }
    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        self.here()?.change(channel, ticket, changes).await
    }
    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        self.here()?.occupy(channel, ticket, subscribers).await
    }
    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        self.here()?.counts(channel).await
    }
    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        self.here()?.members(channel, from, limit).await
    }
    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        self.here()?.turn(channel, every).await
    }
    async fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        self.here()?.channels(prefix, after, limit).await
    }
    async fn bury(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        self.here()?.bury(limit).await
    }
    async fn close(&self, channel: &StreamName, grave: &Grave) -> Result<(), BusError> {
        self.here()?.close(channel, grave).await
    }
}
