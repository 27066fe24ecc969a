//! Who sits on which channel of a shard, and what topics and presence are told of it.
//!
//! Invariant: a channel is known as long as somebody sits there; topics hear of its end, and presence of each who has been
//! entered and leaves.

use std::sync::Arc;

use dzvin_protocols::channels::{Channel, Epoch};
use slab::Slab;

use super::ShardState;
use crate::{
    channels::{
        presence::PresenceMessage,
        session::{Hub, Online, Seat, Session, SessionId},
        topics::TopicsMessage,
    },
    platform::ports::{Bus, ChangeLog, Member},
};

/// A channel with its subscribers of this shard, close together: walking over them is most of the work.
pub(super) struct ChannelState {
    pub(super) name: Arc<str>,
    pub(super) members: Slab<Seated>,
    /// Where the stream stood when all of them last compared: nobody goes back, so whoever is still here need not again.
    pub(super) compared: Option<(Epoch, u64)>,
}

/// A subscriber.
pub(super) struct Seated {
    pub(super) session: Arc<Session>,
    /// Where in the session the subscription was found last.
    pub(super) hint: u32,
    /// What presence has been told of it.
    pub(super) member: Option<Arc<Member>>,
}

impl<B: Bus, L: ChangeLog> ShardState<B, L> {
    pub(super) fn join(&mut self, name: &Arc<str>, session: Arc<Session>) {
        // A session that ended meanwhile would never be forgotten.
        if self.sessions.get(session.id).is_none() {
            return;
        }
        let number = match self.names.get(name) {
            Some(number) => *number,
            None => {
                let state = ChannelState { name: Arc::clone(name), members: Slab::new(), compared: None };
                let number = narrow(self.channels.insert(state));
                self.names.insert(Arc::clone(name), number);
                self.hub.metrics.channels.inc();
                number
            }
        };
        let Some(channel) = self.channels.get_mut(number as usize) else { return };
        let entry = channel.members.vacant_entry();
        if session.seat(name, Seat { channel: number, member: narrow(entry.key()) }) {
            entry.insert(Seated { session, hint: 0, member: None });
            channel.compared = None;
            self.hub.metrics.subscriptions.inc();
            self.recount(number);
        } else if channel.members.is_empty() {
            self.forget(number);
        }
    }

    pub(super) fn enter(&mut self, name: &Arc<str>, session: &Session, member: Arc<Member>) {
        let Some(seat) = session.seat_of(name) else { return };
        let seated =
            self.channels.get_mut(seat.channel as usize).and_then(|it| it.members.get_mut(seat.member as usize));
        let Some(seated) = seated.filter(|seated| seated.session.id == session.id) else { return };
        seated.member = Some(Arc::clone(&member));
        let channel = Arc::clone(name);
        let _ = self.hub.presence.cast(PresenceMessage::Enter { channel, shard: self.index, member });
    }

    pub(super) fn leave(&mut self, seat: Seat, session: SessionId) {
        let Some(channel) = self.channels.get_mut(seat.channel as usize) else { return };
        let member = seat.member as usize;
        if channel.members.get(member).is_some_and(|seated| seated.session.id == session) {
            let left = channel.members.remove(member);
            self.hub.metrics.subscriptions.dec();
            self.hub.exit(self.index, &channel.name, &left);
        }
        let empty = channel.members.is_empty();
        self.recount(seat.channel);
        if empty {
            self.forget(seat.channel);
        }
    }

    /// How many subscribers a channel has now, for presence to know at the next tick.
    pub(super) fn recount(&mut self, number: u32) {
        if !self.hub.limits.occupancy && self.hub.apps.are_none() {
            return;
        }
        let Some(ChannelState { name, members, .. }) = self.channels.get(number as usize) else { return };
        if matches!(Channel::of_hub(name), Ok(Channel::Application(_))) {
            self.recounted.insert(Arc::clone(name), narrow(members.len()));
        }
    }

    pub(super) fn tell_counts(&mut self) {
        if !self.recounted.is_empty() {
            let counts = self.recounted.drain().collect();
            let _ = self.hub.presence.cast(PresenceMessage::Counts { shard: self.index, counts });
        }
    }

    /// Tells presence that the user of a session is online, if it is.
    pub(super) fn enter_online(&self, session: &Session) {
        let Some(Online { channel, member }) = session.online().cloned() else { return };
        let _ = self.hub.presence.cast(PresenceMessage::Enter { channel, shard: self.index, member });
    }

    /// Everything that presence has to know of this shard.
    pub(super) fn present(&mut self) {
        for (_, ChannelState { name, members, .. }) in &self.channels {
            for (_, seated) in members {
                let Some(member) = seated.member.clone() else { continue };
                let channel = Arc::clone(name);
                let _ = self.hub.presence.cast(PresenceMessage::Enter { channel, shard: self.index, member });
            }
        }
        self.sessions.iter().for_each(|session| self.enter_online(session));
        let all: Vec<u32> = self.channels.iter().map(|(number, _)| narrow(number)).collect();
        all.into_iter().for_each(|number| self.recount(number));
        self.tell_counts();
    }

    pub(super) fn forget(&mut self, number: u32) {
        let Some(ChannelState { name, .. }) = self.channels.try_remove(number as usize) else { return };
        self.names.remove(&name);
        self.hub.metrics.channels.dec();
        let _ = self.hub.topics.cast(TopicsMessage::Detach { channel: name, shard: self.index });
    }
}

impl<B, L> Hub<B, L> {
    /// Tells presence that a subscriber has left.
    pub(super) fn exit(&self, shard: usize, channel: &Arc<str>, left: &Seated) {
        let Some(member) = &left.member else { return };
        let (channel, client) = (Arc::clone(channel), Arc::clone(&member.info.client));
        let _ = self.presence.cast(PresenceMessage::Exit { channel, shard, client });
    }
}

/// Keys of a slab are its places; there is no memory for more than this.
fn narrow(key: usize) -> u32 {
    u32::try_from(key).unwrap_or(u32::MAX)
}
