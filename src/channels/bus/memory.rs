//! The bus of a single node: a ring per stream.
//!
//! Invariants: one lock guards rings, subscriptions and the order of events, and is never held across an await; an
//! append never waits for the receiver of events: what does not fit its queue is replaced by one `Lost`, sent as soon
//! as there is room, after everything that it stands for. What the application publishes does wait, kept or not: whoever publishes
//! faster than this node delivers is held back, for beyond its history nothing would bring back what was lost.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use dzvin_actors::platform::ports::{
    Appended, Bus, BusError, BusEvent, Conditions, HistoryLimits, Offer, Published, ReadLimit, Slice, UserPace, Version,
};
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication},
    platform::{EntityId, StreamName},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    BusMetrics, MAX_KEYS, Unnamed, check_run, check_told, check_word,
    keys::{self, Keys},
    new_epoch, new_node,
    paces::{Paces, Person, person},
    ring::Ring,
};

/// Most streams that are remembered. Durable streams are as few as kinds; the rest is for the application, whose empty
/// streams give way first.
const MAX_STREAMS: usize = 100_000;
/// Most bytes of history of all streams together: a quarter of a small node. Above it the stream that grows keeps its newest
/// publication alone.
const MAX_BYTES: i64 = 256 * 1024 * 1024;

/// Between two looks through all rings: a hundred thousand take some milliseconds.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a publication waits for those before it: as long as a command of a client may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bus that lives and dies with its process.
#[derive(Debug)]
pub struct MemoryBus {
    limits: HistoryLimits,
    state: Mutex<State>,
    events: Events,
    metrics: BusMetrics,
    node: Arc<str>,
    paces: Paces<StreamName>,
    user_paces: Paces<Person>,
}

#[derive(Debug)]
struct State {
    rings: HashMap<StreamName, Ring>,
    subscribed: HashSet<StreamName>,
    /// What publishers' keys were answered.
    answers: Keys<(StreamName, [u8; 16]), Option<Position>>,
    /// When all rings were last looked through for what is too old.
    swept: Option<Instant>,
}

/// The node does not get its events delivered.
#[derive(Debug, thiserror::Error)]
#[error("this node has not delivered for {PATIENCE:?} what was published before")]
struct Behind;

/// More streams than [`MAX_STREAMS`], all with history.
#[derive(Debug, thiserror::Error)]
#[error("the memory bus holds {MAX_STREAMS} streams already")]
struct TooManyStreams;

impl MemoryBus {
    /// An empty bus. `events` is read by one receiver on this node.
    #[must_use]
    pub fn new(limits: HistoryLimits, events: mpsc::Sender<BusEvent>) -> Self {
        let metrics = BusMetrics::default();
        metrics.connected.set(1);
        metrics.servers.set(1);
        let state = State {
            rings: HashMap::new(),
            subscribed: HashSet::new(),
            answers: Keys::new(MAX_KEYS, metrics.keys.clone()),
            swept: None,
        };
        Self {
            limits,
            state: Mutex::new(state),
            paces: Paces::new(metrics.paced.clone()),
            user_paces: Paces::new(metrics.paced_users.clone()),
            events: Events { sender: events, owed: Arc::default(), metrics: metrics.clone() },
            metrics,
            node: new_node(),
        }
    }

    /// The same, which remembers so many publishers' keys at once.
    #[must_use]
    pub fn with_keys(self, most: usize) -> Self {
        self.state().answers = Keys::new(most, self.metrics.keys.clone());
        self
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &BusMetrics {
        &self.metrics
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the rings are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, stream: &StreamName, epoch: &Epoch, run: &[Publication]) -> Appended {
        let mut state = self.state();
        self.sweep(&mut state);
        let State { rings, subscribed, .. } = &mut *state;
        let Some(ring) = rings.get_mut(stream) else { return Appended::Gap { position: None } };
        let top = ring.position.offset;
        let Some(first) = run.first().map(|p| p.offset).or_else(|| top.checked_add(1)) else {
            return Appended::Duplicate { top };
        };
        if ring.position.epoch != *epoch || first > top.saturating_add(1) {
            return Appended::Gap { position: Some(ring.position.clone()) };
        }
        if first <= top {
            return Appended::Duplicate { top };
        }
        self.extend(ring, run);
        let top = ring.position.offset;
        if !run.is_empty() && subscribed.contains(stream) {
            let (stream, epoch, publications) = (stream.clone(), epoch.clone(), run.to_vec());
            self.events.offer(BusEvent::Publications { stream, epoch, publications });
        }
        Appended::Accepted { top }
    }

    fn extend(&self, ring: &mut Ring, run: &[Publication]) {
        let before = ring.bytes;
        ring.extend(run);
        if self.metrics.history_bytes.get() + gauge(ring.bytes) - gauge(before) > MAX_BYTES {
            ring.keep_newest();
        }
        self.metrics.appended.inc_by(run.len() as u64);
        self.metrics.history_bytes.inc_by(gauge(ring.bytes) - gauge(before));
    }

    /// All in one step: what the conditions say, the offer itself, and the memory of it.
    fn put_now(
        &self,
        stream: &StreamName,
        offer: Step,
        on: &Conditions,
        room: Option<mpsc::Permit<'_, BusEvent>>,
    ) -> Result<Published, TooManyStreams> {
        let mut state = self.state();
        self.sweep(&mut state);
        let now = Instant::now();
        if let Some(once) = &on.once {
            if let Some(answer) = state.answers.find(&(stream.clone(), once.key), now) {
                self.metrics.repeated.inc();
                return Ok(Published::Again(answer.clone()));
            }
            if !state.answers.has_room(once.publisher, now) {
                return Ok(Published::TooMany { wait: keys::WAIT });
            }
        }
        let older = on.version.as_ref().and_then(|version| state.rings.get(stream)?.older(version));
        if older.is_none()
            && let Some(wait) = on.pace.and_then(|pace| self.paces.wait(stream, pace.per_second))
        {
            return Ok(Published::TooMany { wait });
        }
        let published = match (older, offer) {
            (Some(position), _) => Published::Older(position),
            (None, Step::Append(id, message, keep)) => {
                Published::At(self.publish_now(&mut state, stream, id, message, &keep, on.version.as_ref(), room)?)
            }
            (None, Step::Tell(word)) => {
                if state.subscribed.contains(stream) {
                    let event = BusEvent::Word { stream: stream.clone(), word };
                    match room {
                        Some(room) => room.send(event),
                        None => self.events.offer(event),
                    }
                }
                Published::Told
            }
        };
        if let Some(once) = &on.once {
            let name = (stream.clone(), once.key);
            state.answers.keep(name, published.position().cloned(), once.publisher, once.window, now);
        }
        Ok(published)
    }

    #[allow(clippy::too_many_arguments, reason = "one step, called in one place")]
    fn publish_now(
        &self,
        state: &mut State,
        stream: &StreamName,
        id: EntityId,
        message: Message,
        keep: &HistoryLimits,
        version: Option<&Version>,
        room: Option<mpsc::Permit<'_, BusEvent>>,
    ) -> Result<Position, TooManyStreams> {
        let State { rings, subscribed, .. } = state;
        if !rings.contains_key(stream) {
            self.begin(rings, subscribed, stream, Position { epoch: new_epoch(), offset: 0 })?;
        }
        let Some(ring) = rings.get_mut(stream) else { return Err(TooManyStreams) };
        ring.limits = *keep;
        if let Some(version) = version {
            ring.note(version);
        }
        let publication = message.publication(id, ring.position.offset + 1);
        self.extend(ring, std::slice::from_ref(&publication));
        let position = ring.position.clone();
        if subscribed.contains(stream) {
            let (stream, epoch, publications) = (stream.clone(), position.epoch.clone(), vec![publication]);
            let event = BusEvent::Publications { stream, epoch, publications };
            match room {
                Some(room) => room.send(event),
                None => self.events.offer(event),
            }
        }
        Ok(position)
    }

    /// Streams to which nobody comes any more keep what is too old until somebody looks: when memory is short, at most every
    /// few seconds.
    fn sweep(&self, state: &mut State) {
        let due = state.swept.is_none_or(|at| at.elapsed() > SWEEP);
        if self.metrics.history_bytes.get() > MAX_BYTES / 2 && due {
            state.swept = Some(Instant::now());
            state.rings.values_mut().for_each(Ring::trim);
            self.metrics.history_bytes.set(state.rings.values().map(|ring| gauge(ring.bytes)).sum());
        }
    }

    /// Makes room for one more stream, and begins it.
    fn begin(
        &self,
        rings: &mut HashMap<StreamName, Ring>,
        subscribed: &HashSet<StreamName>,
        stream: &StreamName,
        position: Position,
    ) -> Result<(), TooManyStreams> {
        if rings.len() >= MAX_STREAMS {
            rings.values_mut().for_each(Ring::trim);
            rings.retain(|name, ring| !ring.entries.is_empty() || subscribed.contains(name));
            self.metrics.history_bytes.set(rings.values().map(|ring| gauge(ring.bytes)).sum());
            if rings.len() >= MAX_STREAMS {
                return Err(TooManyStreams);
            }
        }
        rings.insert(stream.clone(), Ring::new(position, self.limits));
        self.metrics.streams.set(gauge(rings.len()));
        Ok(())
    }

    fn reset_now(&self, stream: &StreamName, position: &Position) -> Result<(), TooManyStreams> {
        let mut state = self.state();
        let State { rings, subscribed, .. } = &mut *state;
        match rings.get(stream) {
            Some(ring) if ring.position.epoch == position.epoch && ring.position.offset >= position.offset => {
                return Ok(());
            }
            Some(_) | None => {}
        }
        let before = rings.remove(stream).map_or(0, |ring| ring.bytes);
        self.metrics.history_bytes.dec_by(gauge(before));
        self.begin(rings, subscribed, stream, position.clone())?;
        if subscribed.contains(stream) {
            self.events.offer(BusEvent::Lost);
        }
        Ok(())
    }

    fn read_now(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Option<Slice> {
        let mut state = self.state();
        let ring = state.rings.get_mut(stream)?;
        let before = ring.bytes;
        ring.trim();
        self.metrics.history_bytes.dec_by(gauge(before) - gauge(ring.bytes));
        Some(ring.slice(after, limit))
    }
}

impl Bus for MemoryBus {
    async fn append(&self, stream: &StreamName, epoch: &Epoch, run: &[Publication]) -> Result<Appended, BusError> {
        check_run(run)?;
        Ok(self.append_now(stream, epoch, run))
    }

    async fn reset(&self, stream: &StreamName, position: &Position) -> Result<(), BusError> {
        self.reset_now(stream, position).map_err(|e| BusError { doing: "reset", source: Box::new(e) })
    }

    async fn publish(&self, stream: &StreamName, message: Message, keep: &HistoryLimits) -> Result<Position, BusError> {
        let published = self.put(stream, Offer::Kept(message, *keep), &Conditions::default()).await?;
        // Without conditions there is nothing else that it could come to.
        published.position().cloned().ok_or(BusError { doing: "publish", source: Box::new(Unnamed) })
    }

    async fn put(&self, stream: &StreamName, offer: Offer, on: &Conditions) -> Result<Published, BusError> {
        let failed = |source| BusError { doing: "publish", source };
        let step = match offer {
            Offer::Passing(word) => {
                check_word("publish", &word)?;
                Step::Tell(word)
            }
            Offer::Kept(message, keep) => {
                let id = EntityId::new(stream.as_str()).map_err(|_| failed(Box::new(Unnamed)))?;
                Step::Append(id, message, keep)
            }
        };
        let followed = self.state().subscribed.contains(stream);
        let room = if followed {
            let room = timeout(PATIENCE, self.events.sender.reserve()).await;
            // Without a receiver nobody has to be told.
            room.map_err(|_| failed(Box::new(Behind)))?.ok()
        } else {
            None
        };
        self.put_now(stream, step, on, room).map_err(|e| failed(Box::new(e)))
    }

    async fn pace_user(&self, user: &str, pace: UserPace) -> Option<Duration> {
        self.user_paces.wait(&person(user), pace.per_second)
    }

    async fn forget(&self, stream: &StreamName) -> Result<(), BusError> {
        if let Some(ring) = self.state().rings.get_mut(stream) {
            self.metrics.history_bytes.dec_by(gauge(ring.bytes));
            ring.forget();
        }
        Ok(())
    }

    async fn open(&self, stream: &StreamName) -> Result<Position, BusError> {
        let mut state = self.state();
        let State { rings, subscribed, .. } = &mut *state;
        if let Some(ring) = rings.get(stream) {
            return Ok(ring.position.clone());
        }
        let position = Position { epoch: new_epoch(), offset: 0 };
        let begun = self.begin(rings, subscribed, stream, position.clone());
        begun.map_err(|e| BusError { doing: "open", source: Box::new(e) })?;
        Ok(position)
    }

    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let state = self.state();
        Ok(streams.iter().map(|stream| state.rings.get(stream).map(|ring| ring.position.clone())).collect())
    }

    async fn position(&self, stream: &StreamName) -> Result<Option<Position>, BusError> {
        Ok(self.state().rings.get(stream).map(|ring| ring.position.clone()))
    }

    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        Ok(self.read_now(stream, after, limit))
    }

    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        let mut state = self.state();
        state.subscribed.insert(stream.clone());
        self.metrics.subscriptions.set(gauge(state.subscribed.len()));
        Ok(())
    }

    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        let mut state = self.state();
        state.subscribed.remove(stream);
        self.metrics.subscriptions.set(gauge(state.subscribed.len()));
        Ok(())
    }

    async fn whisper(&self, stream: &StreamName, word: Bytes) -> Result<(), BusError> {
        check_word("whisper", &word)?;
        let state = self.state();
        if state.subscribed.contains(stream) {
            self.events.offer(BusEvent::Word { stream: stream.clone(), word });
        }
        Ok(())
    }

    async fn tell(&self, node: Option<&str>, word: Bytes) -> Result<bool, BusError> {
        check_told(node, &word)?;
        let here = node.is_none_or(|node| *node == *self.node);
        if here {
            let _state = self.state();
            self.events.offer(BusEvent::Told(word));
        }
        Ok(here)
    }

    fn node(&self) -> &str {
        &self.node
    }

    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        Ok(vec![Arc::clone(&self.node)])
    }
}

/// An offer whose stream has been looked at.
enum Step {
    Append(EntityId, Message, HistoryLimits),
    Tell(Bytes),
}

/// The way to the receiver of events.
#[derive(Debug)]
struct Events {
    sender: mpsc::Sender<BusEvent>,
    /// A `Lost` is waiting for room; until it has it, events are dropped because it stands for them.
    owed: Arc<Mutex<bool>>,
    metrics: BusMetrics,
}

impl Events {
    /// Called under the bus's lock, so that the order of events is the order of appends.
    fn offer(&self, event: BusEvent) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if *owed || !matches!(self.sender.try_send(event), Err(mpsc::error::TrySendError::Full(_))) {
            return;
        }
        *owed = true;
        self.metrics.lost.inc();
        let (sender, debt) = (self.sender.clone(), Arc::clone(&self.owed));
        tokio::spawn(async move {
            let permit = sender.reserve().await;
            // Cleared before it is sent: whatever is appended from here on is told by itself.
            *debt.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if let Ok(permit) = permit {
                permit.send(BusEvent::Lost);
            }
        });
    }
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::channels::Word;
    use futures_util::FutureExt;

    use super::*;

    fn message() -> Message {
        Message { data: Bytes::from_static(b"{}"), at: 0, trace: None, extra: None }
    }

    /// Of either kind: nothing is dropped, for whoever publishes waits, and nobody is told that something is lost.
    #[tokio::test]
    async fn whoever_publishes_faster_than_is_delivered_is_held_back() {
        for passing in [false, true] {
            let (sender, mut events) = mpsc::channel(2);
            let bus = MemoryBus::new(HistoryLimits::default(), sender);
            let stream = StreamName::from_checked("chat.1");
            let offer = || match passing {
                false => Offer::Kept(message(), HistoryLimits::default()),
                true => Offer::Passing(Word::of_message(&message()).expect("a word").encode()),
            };
            let on = Conditions::default();
            for _ in 0..10 {
                bus.put(&stream, offer(), &on).await.expect("nobody follows it");
            }
            bus.subscribe(&stream).await.expect("subscribed");
            for _ in 0..2 {
                bus.put(&stream, offer(), &on).await.expect("there is room");
            }
            let mut waits = Box::pin(bus.put(&stream, offer(), &on));
            assert!((&mut waits).now_or_never().is_none(), "passing: {passing}");
            events.recv().await.expect("an event");
            waits.await.expect("there is room again");
            for _ in 0..2 {
                let event = events.recv().await.expect("an event");
                assert!(!matches!(event, BusEvent::Lost), "{event:?}");
            }
            assert!(bus.metrics.lost.get() == 0 && events.recv().now_or_never().is_none(), "passing: {passing}");
        }
    }
}
