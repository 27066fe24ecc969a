//! The orderly end of a node: what it has begun it tells, and what is left of it is another's to bury.
//!
//! Invariant: whom the store has removed for this node is told as gone while there is time for it; nobody is removed any more
//! for whom there might be none.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    super::{
        PresenceEvent, in_time,
        limits::{LAST_WORDS, WRITERS},
        servers,
    },
    BACK, Channel, State,
};
use crate::platform::ports::{Bus, Presence};

impl<P: Presence, B: Bus> State<P, B> {
    pub(in super::super) async fn end(&mut self) {
        self.going.store(true, Relaxed);
        // Questions, and a burial: what that has removed is found by another.
        self.tasks.abort_all();
        if timeout(LAST_WORDS, self.last_words()).await.is_err() {
            tracing::warn!(
                channels = WRITERS - self.writers.available_permits(),
                "presence stops in the middle of calls"
            );
        }
        self.calls.abort_all();
        if !self.args.store.is_shared() {
            self.members_go();
        }
        let resigning = self.args.store.resign(self.hold());
        let _ = in_time(timeout(self.args.limits.command.min(BACK), resigning).await);
    }

    /// Calls that are under way come to their end, and what waits to be said is said: each attempt is the last one of its channel.
    async fn last_words(&mut self) {
        let waits = self.channels.iter().filter(|(_, channel)| channel.has_words());
        let mut waiting: VecDeque<Arc<str>> = waits.map(|(name, _)| Arc::clone(name)).collect();
        loop {
            while !waiting.is_empty() {
                let Ok(place) = Arc::clone(&self.writers).try_acquire_owned() else { break };
                let Some(name) = waiting.pop_front() else { break };
                self.call(name, place);
            }
            if self.writers.available_permits() == WRITERS {
                return;
            }
            let Some(report) = self.reports.recv().await else { return };
            let (name, failed) = (Arc::clone(&report.channel), report.failed);
            self.called(report);
            if !failed && self.channels.get(&name).is_some_and(Channel::has_words) {
                waiting.push_back(name);
            }
        }
    }

    /// How long what is left is not to be buried: servers are told of it by whoever does that, and of nothing that comes back meanwhile.
    fn hold(&self) -> Duration {
        let edges = |(name, channel): (&Arc<str>, &Channel)| servers::channel(name).is_some() || channel.is_occupied();
        if self.args.events.is_some() && self.channels.iter().any(edges) {
            self.args.limits.hold
        } else {
            Duration::ZERO
        }
    }

    /// Nobody comes after this node who would tell servers of the members that it had, goodbyes that are held among them.
    fn members_go(&self) {
        let Some(events) = &self.args.events else { return };
        for (name, channel) in &self.channels {
            let Some(of) = servers::channel(name) else { continue };
            for user in channel.known_users() {
                if events.try_send(PresenceEvent::MemberRemoved { channel: of.into(), user }).is_err() {
                    self.args.metrics.events_lost.inc();
                }
            }
        }
    }
}
