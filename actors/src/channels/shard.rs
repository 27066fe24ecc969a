//! A shard: one actor per core that owns its sessions and hands them the shared frames.
//!
//! Invariants: a batch is appended to every session first and each touched session is flushed once; a shard's mailbox
//! is bounded, for topics need a permit for each batch and everybody else waits for an answer; when a shard ends, its
//! sessions end with it, and their clients come back to another.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dzvin_protocols::channels::centrifuge::Disconnect;
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
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
/// What sessions take to say goodbye after the last was told to.
const FAREWELLS: Duration = Duration::from_secs(5);
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
    Deliver(Arc<[Delivery]>, Credit),
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
    /// Closes the sessions of now, spread over the time, with the code that makes clients connect again at once.
    Recall {
        /// The time.
        within: Duration,
    },
}

/// A batch's place in the backlog; given back with the message, wherever that ends.
#[derive(Debug)]
pub struct Credit {
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
        let all = u32::try_from(BACKLOG).expect("few");
        Arc::clone(&self.credit).acquire_many_owned(all).await.expect("open")
    }

    /// Hands over a batch, waiting while the shard's backlog is full. False when it took none: its sessions have missed
    /// something. A shard between two lives has no sessions.
    pub(super) async fn deliver(&self, batch: Arc<[Delivery]>, patience: Duration, metrics: &Metrics) -> bool {
        let Ok(Ok(permit)) = timeout(patience, Arc::clone(&self.credit).acquire_owned()).await else {
            tracing::error!(batches = BACKLOG, "shard takes no deliveries");
            return false;
        };
        metrics.shard_backlog.inc();
        let credit = Credit { _permit: permit, backlog: metrics.shard_backlog.clone() };
        let _ = self.slot.cast(ShardMessage::Deliver(batch, credit));
        true
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
    /// The node stops: nobody is taken any more.
    closed: bool,
    /// Who waits for the last session's end, and how many there were.
    drained: Option<(usize, RpcReplyPort<usize>)>,
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
        // What a life before this one wanted is wanted by nobody.
        let _ = hub.topics.cast(TopicsMessage::Began { shard: index });
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
            ShardMessage::Deliver(batch, credit) => {
                state.deliver(&batch);
                drop(credit);
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
            ShardMessage::Recall { within } => state.close_all(within, Disconnect::ForceReconnect),
        }
        Ok(())
    }
}

impl<B: Bus, L: ChangeLog> ShardState<B, L> {
    fn accept(&mut self, myself: &ActorRef<ShardMessage>, incoming: Incoming) {
        if self.closed {
            return;
        }
        let id = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
        let (session, leftover) =
            Session::new(id, incoming, self.hub.limits.queue_bytes, self.hub.metrics.queue_bytes.clone());
        self.sessions.insert(id, Arc::clone(&session));
        self.hub.metrics.sessions.inc();
        let (hub, shard, farewell) = (Arc::clone(&self.hub), self.index, Farewell(id, myself.clone()));
        self.tasks.spawn(async move {
            let _farewell = farewell;
            let metrics = hub.metrics.clone();
            let talk = run(hub, Arc::clone(&session), shard, leftover);
            if AssertUnwindSafe(talk).catch_unwind().await.is_err() {
                metrics.panics.inc();
                tracing::error!(client = session.client, user = session.user(), "a session panicked");
            }
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
        let (mut frames, mut told) = (0, 0);
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
                told += u64::from(offered == Offered::Ended);
                !matches!(offered, Offered::Ended | Offered::Gone)
            });
            let ended = before - members.len();
            self.hub.metrics.subscriptions.dec_by(i64::try_from(ended).unwrap_or(0));
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
        self.hub.metrics.insufficient.inc_by(told);
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
        while self.tasks.try_join_next().is_some() {}
        if self.sessions.is_empty()
            && let Some((count, reply)) = self.drained.take()
        {
            let _ = reply.send(count);
        }
    }

    fn drain(&mut self, within: Duration, reply: RpcReplyPort<usize>) {
        self.closed = true;
        if self.sessions.is_empty() {
            let _ = reply.send(0);
            return;
        }
        self.drained = Some((self.sessions.len(), reply));
        self.close_all(within, Disconnect::Shutdown);
    }

    /// Closing all at once would bring all back at once.
    fn close_all(&self, within: Duration, why: Disconnect) {
        let sessions: Vec<Arc<Session>> = self.sessions.values().cloned().collect();
        let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let within = within.min(LONGEST_PAUSE.saturating_mul(count));
        tokio::spawn(spread(sessions, within, move |session| session.close(why)));
    }
}

/// What this life counted is over with it.
impl<B, L> Drop for ShardState<B, L> {
    fn drop(&mut self) {
        let metrics = &self.hub.metrics;
        let subscriptions = self.channels.values().map(HashMap::len).sum();
        for (gauge, count) in [
            (&metrics.sessions, self.sessions.len()),
            (&metrics.channels, self.channels.len()),
            (&metrics.subscriptions, subscriptions),
        ] {
            gauge.dec_by(i64::try_from(count).unwrap_or(0));
        }
    }
}

/// Does something to each, evenly over the time: however many there are, and however coarse the clock is.
async fn spread<T>(all: Vec<T>, within: Duration, each: impl Fn(T) + Send) {
    let (began, count) = (Instant::now(), all.len().max(1));
    for (n, one) in all.into_iter().enumerate() {
        sleep_until(began + within.mul_f64(n as f64 / count as f64)).await;
        each(one);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_are_spread_over_the_time_and_no_more() {
        for count in [0, 1, 3, 10_000] {
            let (began, within) = (Instant::now(), Duration::from_millis(900));
            let seen = std::sync::Mutex::new(Vec::new());
            spread((0..count).collect(), within, |n: usize| seen.lock().expect("lock").push((n, began.elapsed())))
                .await;
            assert!(began.elapsed() <= within, "{count} took {:?}", began.elapsed());
            let seen = seen.into_inner().expect("seen");
            assert_eq!(seen.len(), count);
            assert!(
                count < 3 || seen[count / 3].1 <= within / 3 + Duration::from_millis(2),
                "not all at once at the end"
            );
            assert!(
                count < 3 || seen[count * 2 / 3].1 >= within * 2 / 3 - Duration::from_millis(2),
                "nor at the start"
            );
        }
    }
}
