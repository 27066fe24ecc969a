//! A shard: one actor per core that owns its sessions and hands them the shared frames.
//!
//! Invariants: what waits is appended to every session first, and then each touched session is flushed once; a single frame is
//! written at once. Batches wait in a queue of their own, bounded by permits, so that all of them can be taken together; the
//! mailbox is bounded, for everybody else waits for an answer. When a shard ends, its sessions end with it, and their clients
//! come back to another.

mod delivering;
mod message;
mod seats;
mod spread;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use dzvin_protocols::channels::{ConnectionInfo, Control, Whose, centrifuge::Disconnect};
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use slab::Slab;
use tokio::task::{JoinSet, yield_now};

use super::{
    presence::PresenceMessage,
    roster::Roster,
    session::{ClientId, Connection, Hub, Incoming, Online, Session, SessionId, Shared, now, run},
    shards::Queue,
    topics::TopicsMessage,
    wheel::Wheel,
};
use crate::{
    platform::{
        beat,
        ports::{Bus, ChangeLog},
    },
    supervise::Progress,
};
use message::Joining;
pub use message::{Counted, Left, ShardMessage};
use seats::ChannelState;
use spread::spread;

/// Between two sessions that are told to come back: a few clients must not hold up a stop for its whole grace.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The actor.
pub struct Shard<B, L>(std::marker::PhantomData<fn() -> (B, L)>);

impl<B, L> Default for Shard<B, L> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

/// What a shard starts with.
pub struct ShardArgs<B, L> {
    /// Its place among the node's shards.
    pub index: usize,
    /// What its sessions need.
    pub hub: Arc<Hub<B, L>>,
    /// What it shows its supervisor.
    pub progress: Progress,
}

/// What a shard owns.
pub struct ShardState<B, L> {
    index: usize,
    hub: Arc<Hub<B, L>>,
    progress: Progress,
    queue: Queue,
    /// Numbers of channels by name.
    names: HashMap<Arc<str>, u32>,
    channels: Slab<ChannelState>,
    sessions: Roster,
    tasks: JoinSet<()>,
    dirty: Vec<Arc<Session>>,
    /// Channels of the application whose number of subscribers has changed since presence was told, where anybody wants to know.
    recounted: HashMap<Arc<str>, u32>,
    /// The node stops: nobody is taken any more.
    closed: bool,
    /// Who waits for the last session's end, and how many there were.
    drained: Option<(usize, RpcReplyPort<usize>)>,
}

impl<B: Bus, L: ChangeLog> Actor for Shard<B, L> {
    type Msg = ShardMessage;
    type State = ShardState<B, L>;
    type Arguments = ShardArgs<B, L>;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMessage>,
        args: ShardArgs<B, L>,
    ) -> Result<Self::State, ActorProcessingErr> {
        let ShardArgs { index, hub, progress } = args;
        // What a life before this one wanted is wanted by nobody.
        let _ = hub.topics.cast(TopicsMessage::Began { shard: index });
        let _ = hub.presence.cast(PresenceMessage::Began { shard: index });
        let handle = hub.shards.get(index).ok_or("no such shard")?;
        handle.slot.fill(myself.clone(), progress.clone());
        let queue = handle.queue.clone();
        let limits = &hub.limits;
        let wheel = Wheel::new(limits.ping.min(limits.pong).min(limits.connect), now());
        beat::tell(myself.clone(), wheel.step(), || ShardMessage::Tick);
        Ok(ShardState {
            index,
            hub,
            progress,
            queue,
            names: HashMap::new(),
            channels: Slab::new(),
            sessions: Roster::new(wheel),
            tasks: JoinSet::new(),
            dirty: Vec::new(),
            recounted: HashMap::new(),
            closed: false,
            drained: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // These do not come through the slot.
        let own = matches!(message, ShardMessage::Ended(_) | ShardMessage::Tick);
        let _busy = if own { state.progress.work() } else { state.progress.begin() };
        match message {
            ShardMessage::Accept(incoming) => state.accept(&myself, incoming),
            ShardMessage::Join { channel, session: Joining(session), reply } => {
                state.join(&channel, session);
                let _ = reply.send(());
            }
            ShardMessage::Enter { channel, session: Joining(session), member, reply } => {
                state.enter(&channel, &session, member);
                let _ = reply.send(());
            }
            ShardMessage::Leave(Left { session, seat }, reply) => {
                state.leave(seat, session);
                let _ = reply.send(());
            }
            ShardMessage::Online(Joining(session), reply) => {
                // Of one that ended meanwhile nobody would say that it is gone.
                if state.sessions.get(session.id).is_some() {
                    state.enter_online(&session);
                }
                let _ = reply.send(());
            }
            ShardMessage::Deliver => {
                // Whoever is ready to publish does so first, and what they publish leaves together.
                yield_now().await;
                state.deliver().await;
            }
            ShardMessage::Arm(session, at) => state.sessions.arm(session, at),
            ShardMessage::Tick => {
                state.tick();
                // Should a word have been lost, what waits does not wait for another.
                state.deliver().await;
            }
            ShardMessage::Announce => {
                for channel in state.names.keys() {
                    let _ = state
                        .hub
                        .topics
                        .cast(TopicsMessage::Present { channel: Arc::clone(channel), shard: state.index });
                }
            }
            ShardMessage::Present => state.present(),
            ShardMessage::Ended(session) => state.ended(session),
            ShardMessage::Drain { within, reply } => state.drain(within, reply),
            ShardMessage::Survey { whose, after, limit, reply } => {
                let _ = reply.send(state.survey(&whose, after, limit));
            }
            ShardMessage::Count(reply) => {
                let _ = reply.send(state.count());
            }
            ShardMessage::Control(order) => state.control(&order),
            ShardMessage::Hush => state.hush(),
            ShardMessage::Recall { within } => {
                state.close_all(within, |session| session.close_unsaid(Disconnect::ForceReconnect));
            }
        }
        Ok(())
    }
}

impl<B: Bus, L: ChangeLog> ShardState<B, L> {
    fn accept(&mut self, myself: &ActorRef<ShardMessage>, incoming: Incoming) {
        if self.closed {
            return;
        }
        let (connection, reading) = Connection::split(incoming);
        let hub = &self.hub;
        let shared = Shared { limits: &hub.limits, waiting: &hub.metrics.queue_bytes, tracer: &hub.tracer };
        let session = self.sessions.add(|id| Session::new(id, connection, shared));
        let id = session.id;
        self.hub.metrics.sessions.inc();
        let (hub, shard, farewell) = (Arc::clone(&self.hub), self.index, Farewell(id, myself.clone()));
        self.tasks.spawn(async move {
            let _farewell = farewell;
            let talk = run(Arc::clone(&hub), Arc::clone(&session), shard, reading);
            if AssertUnwindSafe(talk).catch_unwind().await.is_err() {
                hub.metrics.panics.inc();
                tracing::error!(client = %session.client, user = session.user(), "a session panicked");
            }
        });
    }

    fn tick(&mut self) {
        for (id, seat) in self.sessions.turn(now(), &self.hub.limits) {
            self.leave(seat, id);
        }
        self.tell_counts();
    }

    fn ended(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.hub.metrics.sessions.dec();
        session.tell_end();
        if let Some(Online { channel, member }) = session.online().cloned() {
            let client = Arc::clone(&member.info.client);
            let _ = self.hub.presence.cast(PresenceMessage::Exit { channel, shard: self.index, client });
        }
        for seat in session.seats() {
            self.leave(seat, id);
        }
        while self.tasks.try_join_next().is_some() {}
        if self.sessions.is_empty()
            && let Some((count, reply)) = self.drained.take()
        {
            let _ = reply.send(count);
        }
    }

    fn survey(&self, whose: &Whose, after: Option<ClientId>, limit: usize) -> (Vec<ConnectionInfo>, bool) {
        // Never more of them than are asked for, and one, however many there are.
        let (mut first, mut more) = (BTreeMap::new(), false);
        for session in self.sessions.iter().filter(|it| Some(it.client) > after && it.is_meant(whose)) {
            if first.len() >= limit && first.last_key_value().is_none_or(|(last, _)| *last < session.client) {
                more = true;
                continue;
            }
            first.insert(session.client, session);
            if first.len() > limit {
                first.pop_last();
                more = true;
            }
        }
        (first.values().map(|session| session.describe()).collect(), more)
    }

    fn count(&self) -> Counted {
        let users = self.sessions.iter().filter_map(|session| session.user_name()).filter(|user| !user.is_empty());
        let users: HashSet<Arc<str>> = users.collect();
        (users.into_iter().collect(), self.names.keys().cloned().collect())
    }

    /// Hands an order to the sessions that it is about: they know what to do with it.
    fn control(&mut self, order: &Control) {
        let concerned: Vec<Arc<Session>> =
            self.sessions.iter().filter(|session| session.is_concerned(order)).cloned().collect();
        for session in concerned {
            for seat in session.obey(order) {
                self.leave(seat, session.id);
            }
            session.flush();
            // Its end may have been moved nearer.
            self.sessions.arm(session.id, session.arm());
        }
    }

    fn drain(&mut self, within: Duration, reply: RpcReplyPort<usize>) {
        self.closed = true;
        if self.sessions.is_empty() {
            let _ = reply.send(0);
            return;
        }
        self.drained = Some((self.sessions.len(), reply));
        self.close_all(within, |session| session.close(Disconnect::Shutdown));
    }

    /// Closing all at once would bring all back at once.
    fn close_all(&self, within: Duration, close: fn(&Session)) {
        let sessions: Vec<Arc<Session>> = self.sessions.iter().cloned().collect();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let within = within.min(LONGEST_PAUSE.saturating_mul(count));
        tokio::spawn(spread(sessions, within, move |session| close(&session)));
    }

    /// Ends at once what shows entities, for it shows them by rights that no longer hold.
    fn hush(&mut self) {
        let sessions: Vec<Arc<Session>> = self.sessions.iter().cloned().collect();
        for session in sessions {
            for seat in session.hush() {
                self.leave(seat, session.id);
            }
        }
    }
}

/// What this life counted is over with it.
impl<B, L> Drop for ShardState<B, L> {
    fn drop(&mut self) {
        let metrics = &self.hub.metrics;
        // What waits is for sessions that end now, and its permits are for the next life.
        self.queue.take();
        let subscriptions = self.channels.iter().map(|(_, channel)| channel.members.len()).sum();
        for (gauge, count) in [
            (&metrics.sessions, self.sessions.len()),
            (&metrics.channels, self.channels.len()),
            (&metrics.subscriptions, subscriptions),
        ] {
            gauge.dec_by(i64::try_from(count).unwrap_or(0));
        }
    }
}

/// Tells the shard that a session's task is over, however it ended.
struct Farewell(SessionId, ActorRef<ShardMessage>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.1.cast(ShardMessage::Ended(self.0));
    }
}
