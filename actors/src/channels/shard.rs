//! A shard: one actor per core that owns its sessions and hands them the shared frames.
//!
//! Invariants: a batch is appended to every session first and each touched session is flushed once; a shard's mailbox
//! is bounded, for topics need a permit for each batch and everybody else waits for an answer; when a shard ends, its
//! sessions end with it, and their clients come back to another.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dzvin_protocols::channels::centrifuge::Disconnect;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Delivery, Metrics, What,
    session::{Hub, Incoming, Offered, Session, SessionId, run},
    topics::TopicsMessage,
};
use crate::{
    platform::ports::{Bus, ChangeLog},
    supervise::{Progress, Slot},
};

/// Batches that may wait for one shard: enough to keep it busy, little enough that a stuck one is noticed at once.
const BACKLOG: usize = 64;
/// How long topics wait for a shard that takes nothing. What it misses, its sessions notice at the next check.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most shards of a node: topics keep them as bits of one word.
pub(super) const MAX_SHARDS: usize = 64;

/// A session as others carry it.
#[derive(Debug, Clone)]
pub struct Member(pub(super) Arc<Session>);

impl From<Arc<Session>> for Member {
    fn from(session: Arc<Session>) -> Self {
        Self(session)
    }
}

/// What a shard is told.
#[derive(Debug)]
pub enum ShardMessage {
    /// A new connection.
    Accept(Incoming),
    /// A session wants a channel.
    Join {
        /// The channel.
        channel: Arc<str>,
        /// The session.
        session: Member,
        /// Answered once every later delivery will be offered.
        reply: RpcReplyPort<()>,
    },
    /// A session no longer wants it.
    Leave {
        /// The channel.
        channel: Arc<str>,
        /// The session's number.
        session: u64,
        /// Answered once nothing more will be offered.
        reply: RpcReplyPort<()>,
    },
    /// Frames for subscribers.
    Deliver(Arc<[Delivery]>, OwnedSemaphorePermit),
    /// Topics have begun a new life: tell them the channels.
    Announce,
    /// A session's task has ended.
    Ended(u64),
    /// Closes every session, spread over the time, with the code that lets clients come back.
    Drain {
        /// The time.
        within: Duration,
        /// Answered with how many were closed.
        reply: RpcReplyPort<usize>,
    },
}

/// How others reach one shard.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    /// Its current life.
    pub slot: Slot<ShardMessage>,
    credit: Arc<Semaphore>,
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
        let shard = || ShardHandle { slot: Slot::default(), credit: Arc::new(Semaphore::new(BACKLOG)) };
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

    /// Gives a new connection to the next shard. False when no shard is alive.
    #[must_use]
    pub fn accept(&self, incoming: Incoming) -> bool {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        self.all[index].slot.cast(ShardMessage::Accept(incoming)).is_ok()
    }

    /// Closes every session of the node, spread over the time. Answers how many there were.
    pub async fn drain(&self, within: Duration) -> usize {
        let closing = self.all.iter().map(|shard| {
            let drain = move |reply| ShardMessage::Drain { within, reply };
            shard.slot.call(drain, within + PATIENCE)
        });
        futures_util::future::join_all(closing).await.into_iter().flatten().sum()
    }
}

impl ShardHandle {
    /// Hands over a batch, waiting while the shard's backlog is full.
    pub(super) async fn deliver(&self, batch: Arc<[Delivery]>, metrics: &Metrics) {
        match timeout(PATIENCE, Arc::clone(&self.credit).acquire_owned()).await {
            Ok(Ok(permit)) => {
                metrics.shard_backlog.inc();
                if self.slot.cast(ShardMessage::Deliver(batch, permit)).is_err() {
                    metrics.shard_backlog.dec();
                }
            }
            _ => tracing::error!(batches = BACKLOG, "shard takes no deliveries"),
        }
    }
}

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
    channels: HashMap<Arc<str>, HashMap<SessionId, Arc<Session>>>,
    sessions: HashMap<SessionId, Arc<Session>>,
    tasks: JoinSet<()>,
    dirty: Vec<Arc<Session>>,
}

static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

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
        let slot = &hub.shards.get(index).ok_or("no such shard")?.slot;
        slot.fill(myself, progress.clone());
        Ok(ShardState {
            index,
            hub,
            progress,
            channels: HashMap::new(),
            sessions: HashMap::new(),
            tasks: JoinSet::new(),
            dirty: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The end of a session does not come through the slot.
        let own = matches!(message, ShardMessage::Ended(_));
        let _busy = if own { state.progress.work() } else { state.progress.begin() };
        match message {
            ShardMessage::Accept(incoming) => state.accept(&myself, incoming),
            ShardMessage::Join { channel, session: Member(session), reply } => {
                state.join(channel, session);
                let _ = reply.send(());
            }
            ShardMessage::Leave { channel, session, reply } => {
                state.leave(&channel, session);
                let _ = reply.send(());
            }
            ShardMessage::Deliver(batch, permit) => {
                state.deliver(&batch);
                state.hub.metrics.shard_backlog.dec();
                drop(permit);
            }
            ShardMessage::Announce => {
                for channel in state.channels.keys() {
                    let _ = state
                        .hub
                        .topics
                        .cast(TopicsMessage::Present { channel: Arc::clone(channel), shard: state.index });
                }
            }
            ShardMessage::Ended(session) => state.ended(session),
            ShardMessage::Drain { within, reply } => state.drain(within, reply),
        }
        Ok(())
    }
}

impl<B: Bus, L: ChangeLog> ShardState<B, L> {
    fn accept(&mut self, myself: &ActorRef<ShardMessage>, incoming: Incoming) {
        let id = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
        let (session, leftover) =
            Session::new(id, incoming, self.hub.limits.queue_bytes, self.hub.metrics.queue_bytes.clone());
        self.sessions.insert(id, Arc::clone(&session));
        self.hub.metrics.sessions.inc();
        let (hub, shard, farewell) = (Arc::clone(&self.hub), self.index, Farewell(id, myself.clone()));
        self.tasks.spawn(async move {
            let _farewell = farewell;
            run(hub, session, shard, leftover).await;
        });
    }

    fn join(&mut self, channel: Arc<str>, session: Arc<Session>) {
        // A session that ended meanwhile would never be forgotten.
        if !self.sessions.contains_key(&session.id) {
            return;
        }
        let members = self.channels.entry(channel).or_insert_with(|| {
            self.hub.metrics.channels.inc();
            HashMap::new()
        });
        if members.insert(session.id, session).is_none() {
            self.hub.metrics.subscriptions.inc();
        }
    }

    fn leave(&mut self, channel: &Arc<str>, session: SessionId) {
        let Some(members) = self.channels.get_mut(channel) else { return };
        if members.remove(&session).is_some() {
            self.hub.metrics.subscriptions.dec();
        }
        if members.is_empty() {
            self.forget(channel);
        }
    }

    fn forget(&mut self, channel: &Arc<str>) {
        self.channels.remove(channel);
        self.hub.metrics.channels.dec();
        let _ = self.hub.topics.cast(TopicsMessage::Detach { channel: Arc::clone(channel), shard: self.index });
    }

    /// Two phases: append everything, then flush each touched session once.
    fn deliver(&mut self, batch: &[Delivery]) {
        let mut oldest = i64::MAX;
        let mut frames = 0;
        for delivery in batch {
            let Some(members) = self.channels.get_mut(&delivery.channel) else { continue };
            let before = members.len();
            members.retain(|_, session| {
                let (offered, touched) = session.offer(delivery);
                if let Offered::Queued(queued) = offered {
                    frames += queued;
                }
                if touched {
                    self.dirty.push(Arc::clone(session));
                }
                offered != Offered::Ended
            });
            let ended = before - members.len();
            self.hub.metrics.subscriptions.dec_by(i64::try_from(ended).unwrap_or(0));
            self.hub.metrics.insufficient.inc_by(ended as u64);
            if members.is_empty() {
                self.forget(&delivery.channel);
            }
            if let What::Items(items) = &delivery.what {
                oldest = oldest.min(items.first().map_or(i64::MAX, |item| item.at));
            }
        }
        for session in self.dirty.drain(..) {
            session.flush();
        }
        if frames > 0 {
            self.hub.metrics.deliveries.inc_by(frames);
            self.hub.metrics.commit_to_write.observe(seconds_since(oldest));
        }
    }

    fn ended(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.hub.metrics.sessions.dec();
        for channel in session.channels() {
            self.leave(&channel, id);
        }
        while let Some(result) = self.tasks.try_join_next() {
            if let Err(error) = result
                && error.is_panic()
            {
                self.hub.metrics.panics.inc();
                tracing::error!(%error, "a session panicked");
            }
        }
    }

    /// Closing all at once would bring all back at once.
    fn drain(&mut self, within: Duration, reply: RpcReplyPort<usize>) {
        let sessions: Vec<Arc<Session>> = self.sessions.values().cloned().collect();
        tokio::spawn(async move {
            let pause = (within / u32::try_from(sessions.len().max(1)).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
            for session in &sessions {
                session.close(Disconnect::Shutdown);
                sleep(pause).await;
            }
            let _ = reply.send(sessions.len());
        });
    }
}

/// Tells the shard that a session's task is over, however it ended.
struct Farewell(SessionId, ActorRef<ShardMessage>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.1.cast(ShardMessage::Ended(self.0));
    }
}

/// Age of a moment given in microseconds since 1970, by our clock; never negative.
fn seconds_since(micros: i64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    now.saturating_sub(then).as_secs_f64()
}
