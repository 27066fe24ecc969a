//! Topics: which streams this node follows, where each stands, and which shards want its channels.
//!
//! Invariants: each publication of a stream is handed to the shards in offset order, each once; what the bus did not tell
//! is fetched from it or from the log; when the past is lost every subscriber is told. Reading runs beside the actor, one
//! reading per stream at a time, so that one slow stream delays no other. Whether a watched user is online is said by words, which nothing
//! keeps: where one may be lost presence is asked how it stands.

mod fetch;
mod hold;
mod numbers;
mod query;
mod readings;
mod shedding;
mod stream;
mod watched;

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Channel, Control, Epoch, Message, Position, Publication, Word},
    platform::{EntityId, StreamName},
};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{Semaphore, mpsc};

use super::{
    Delivery, Hub, Item, Limits, MailboxError, Mailboxes, Metrics, Namespaces, ShardMessage, Shards, Spoken, What,
    presence::{Looked, PresenceMessage},
};
use crate::{
    platform::{
        beat,
        ports::{Bus, BusEvent, ChangeLog, Queries, Query},
    },
    supervise::{Progress, Slot},
};
use fetch::Fetched;
pub use hold::{Conflate, HoldRules};
pub use numbers::Numbers;
use shedding::Shed;
use stream::{Source, Stream, Want};
use watched::Asked;

/// A stream that nobody has wanted for so many checks is left.
const IDLE_CHECKS: u32 = 10;

/// A channel that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachError {
    /// There is no such stream.
    Unknown,
    /// Neither bus nor log could be asked.
    Unavailable,
}

/// What a subscriber is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The position from which deliveries begin.
    pub position: Position,
    /// What stands for the channel's name on this node, for as long as somebody listens.
    pub number: u32,
}

/// What topics are told.
#[derive(Debug)]
pub enum TopicsMessage {
    /// A shard has a subscriber: answered with the stream's position once its events are being followed.
    Attach {
        /// The channel's name.
        channel: Arc<str>,
        /// The same, understood.
        parsed: Channel,
        /// The shard.
        shard: usize,
        /// The subscriber wants patches.
        delta: bool,
        /// From where deliveries begin.
        reply: RpcReplyPort<Result<Attached, AttachError>>,
    },
    /// The same, said again after topics began a new life.
    Present {
        /// The channel's name.
        channel: Arc<str>,
        /// The shard.
        shard: usize,
    },
    /// A shard begins a life: it wants nothing yet.
    Began {
        /// The shard.
        shard: usize,
    },
    /// A shard's last subscriber has left.
    Detach {
        /// The channel's name.
        channel: Arc<str>,
        /// The shard.
        shard: usize,
    },
    /// News from the bus; answered when they are dealt with, which bounds the mailbox.
    Events(Vec<BusEvent>, RpcReplyPort<()>),
    /// Time to compare every stream with the bus.
    Check,
    /// Streams of the application that do not stand where the bus does.
    Behind(Vec<StreamName>),
    /// What was held back of a stream goes out.
    Release(StreamName),
    /// A reading has ended.
    Fetched(StreamName, Fetched),
    /// What a look at watched users found; `None` when presence could not be asked.
    Looked(Vec<Asked>, Option<Looked>),
}

/// The actor.
pub struct Topics<B, L>(PhantomData<fn() -> (B, L)>);

impl<B, L> Default for Topics<B, L> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What topics start with.
pub struct TopicsArgs<B, L> {
    /// The bus.
    pub bus: Arc<B>,
    /// The log.
    pub log: Arc<L>,
    /// Where topics are found.
    pub slot: Slot<TopicsMessage>,
    /// Who wants deliveries.
    pub shards: Shards,
    /// What holds for channels of the application.
    pub namespaces: Arc<Namespaces>,
    /// What stands for names of channels on this node: it outlives topics, for clients know it.
    pub numbers: Numbers,
    /// Who gets commands that came to another node.
    pub mailboxes: Mailboxes,
    /// Which queries there are.
    pub queries: Arc<dyn Queries>,
    /// Who knows which users are online.
    pub presence: Slot<PresenceMessage>,
    /// Who answers what other nodes ask.
    pub letters: mpsc::Sender<Control>,
    /// How often to check, how much to read.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    /// What they show their supervisor.
    pub progress: Progress,
}

impl<B, L> TopicsArgs<B, L> {
    /// The topics of this node.
    #[must_use]
    pub fn new(hub: &Hub<B, L>, progress: Progress) -> Self {
        Self {
            bus: Arc::clone(&hub.bus),
            log: Arc::clone(&hub.log),
            slot: hub.topics.clone(),
            shards: hub.shards.clone(),
            namespaces: Arc::clone(&hub.namespaces),
            numbers: hub.numbers.clone(),
            mailboxes: hub.mailboxes.clone(),
            queries: Arc::clone(&hub.queries),
            presence: hub.presence.clone(),
            letters: hub.letters.clone(),
            limits: hub.limits.clone(),
            metrics: hub.metrics.clone(),
            progress,
        }
    }
}

/// What topics know.
pub struct TopicsState<B, L> {
    args: TopicsArgs<B, L>,
    streams: HashMap<StreamName, Stream>,
    /// Shards that do not take what they are handed.
    shed: Shed,
    /// A comparison with the bus is under way.
    comparing: bool,
    /// A look at watched users is under way.
    looking: bool,
    /// The life of this node in presence that the last look found.
    life: Option<u64>,
    /// A place for each reading: what a reconnection sets off must not be more than the bus takes at once.
    readings: Arc<Semaphore>,
}

/// Readings at the same time.
const READINGS: usize = 256;

impl<B: Bus, L: ChangeLog> Actor for Topics<B, L> {
    type Msg = TopicsMessage;
    type State = TopicsState<B, L>;
    type Arguments = TopicsArgs<B, L>;

    async fn pre_start(
        &self,
        myself: ActorRef<TopicsMessage>,
        args: TopicsArgs<B, L>,
    ) -> Result<Self::State, ActorProcessingErr> {
        args.slot.fill(myself.clone(), args.progress.clone());
        args.metrics.streams.set(0);
        beat::tell(myself.clone(), args.limits.check, || TopicsMessage::Check);
        // A life before this one may have left subscribers.
        for index in 0..args.shards.count() {
            let _ = args.shards.get(index).is_some_and(|shard| shard.slot.cast(ShardMessage::Announce).is_ok());
        }
        let readings = Arc::new(Semaphore::new(READINGS));
        Ok(TopicsState {
            args,
            streams: HashMap::new(),
            shed: Shed::default(),
            comparing: false,
            looking: false,
            life: None,
            readings,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<TopicsMessage>,
        message: TopicsMessage,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // Ticks and readings do not come through the slot.
        let own = matches!(
            message,
            TopicsMessage::Check
                | TopicsMessage::Fetched(..)
                | TopicsMessage::Behind(_)
                | TopicsMessage::Release(_)
                | TopicsMessage::Looked(..)
        );
        let _busy = if own { state.args.progress.work() } else { state.args.progress.begin() };
        match message {
            TopicsMessage::Attach { channel, parsed, shard, delta, reply } => match state.source(&parsed) {
                Some((source, query)) => state.attach(&myself, source, Want { channel, shard, delta, query }, reply),
                None => {
                    let _ = reply.send(Err(AttachError::Unknown));
                }
            },
            TopicsMessage::Present { channel, shard } => {
                if let Ok(parsed) = Channel::of_hub(&channel) {
                    match state.source(&parsed) {
                        Some((source, query)) => state.present(&myself, source, query, channel, shard).await,
                        // What it asks is known no more: who listens asks again.
                        None => {
                            let (epoch, what) = (Epoch::new(""), What::Reset);
                            state.deliver(vec![(1 << shard, Delivery { channel, number: 0, epoch, what })]).await;
                        }
                    }
                }
            }
            TopicsMessage::Began { shard } => {
                state.shed.began(shard);
                for stream in state.streams.values_mut() {
                    stream.forget(shard, &state.args.numbers);
                }
            }
            TopicsMessage::Detach { channel, shard } => state.detach(&channel, shard),
            TopicsMessage::Events(events, reply) => {
                state.events(&myself, events).await;
                let _ = reply.send(());
            }
            TopicsMessage::Check => state.check(&myself).await,
            TopicsMessage::Behind(streams) => {
                state.comparing = false;
                streams.iter().for_each(|name| state.read(&myself, name));
            }
            TopicsMessage::Release(name) => state.release(&myself, &name).await,
            TopicsMessage::Fetched(stream, fetched) => state.fetched(&myself, stream, fetched).await,
            TopicsMessage::Looked(asked, found) => state.looked(asked, found).await,
        }
        Ok(())
    }
}

impl<B: Bus, L: ChangeLog> TopicsState<B, L> {
    /// The stream that a channel leads to, and the query that it is. A query that this node does not know leads nowhere.
    fn source(&self, channel: &Channel) -> Option<(Source, Option<Arc<Query>>)> {
        match channel {
            Channel::Entities(kind) | Channel::Entity(kind, _) => Some((Source::Durable(kind.clone()), None)),
            Channel::Query(id) => {
                let query = self.args.queries.known(id)?;
                Some((Source::Durable(query.kind.clone()), Some(query)))
            }
            Channel::Application(name) => Some((Source::Application(StreamName::from_checked(name)), None)),
            Channel::User(_) => Some((Source::Application(StreamName::from_checked(&channel.to_string())), None)),
            Channel::Online(_) => Some((Source::Watched(StreamName::from_checked(&channel.to_string())), None)),
        }
    }

    fn attach(
        &mut self,
        myself: &ActorRef<TopicsMessage>,
        source: Source,
        want: Want,
        reply: RpcReplyPort<Result<Attached, AttachError>>,
    ) {
        let name = source.name();
        let stream = self.streams.entry(name.clone()).or_insert_with(|| {
            Stream::new(source, &self.args.namespaces, self.args.limits.queue_bytes, &self.args.metrics.conflated)
        });
        let number = stream.want(want, &self.args.numbers);
        if let Some(position) = &stream.position {
            let _ = reply.send(Ok(Attached { position: position.clone(), number }));
        } else {
            stream.waiting.push((number, reply));
            self.read(myself, &name);
        }
        self.count();
    }

    /// Subscribers of a life of topics before this one: nobody knows what they missed.
    async fn present(
        &mut self,
        myself: &ActorRef<TopicsMessage>,
        source: Source,
        query: Option<Arc<Query>>,
        channel: Arc<str>,
        shard: usize,
    ) {
        let name = source.name();
        let stream = self.streams.entry(name.clone()).or_insert_with(|| {
            Stream::new(source, &self.args.namespaces, self.args.limits.queue_bytes, &self.args.metrics.conflated)
        });
        stream.present(channel, shard, query, &self.args.numbers);
        let batch = stream.greet();
        if stream.position.is_none() {
            self.read(myself, &name);
        }
        self.count();
        self.deliver(batch).await;
    }

    async fn release(&mut self, myself: &ActorRef<TopicsMessage>, name: &StreamName) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        let batch = stream.release();
        time(myself, name, stream);
        self.deliver(batch).await;
    }

    fn count(&self) {
        self.args.metrics.streams.set(i64::try_from(self.streams.len()).unwrap_or(i64::MAX));
    }

    fn detach(&mut self, channel: &Arc<str>, shard: usize) {
        let Ok(parsed) = Channel::of_hub(channel) else { return };
        let source = self.source(&parsed);
        if let Some(stream) = source.and_then(|(source, _)| self.streams.get_mut(&source.name())) {
            stream.unwant(channel, shard, &self.args.numbers);
        }
    }

    /// What was told in one breath goes out in one: of each stream one run, in one batch.
    async fn events(&mut self, myself: &ActorRef<TopicsMessage>, events: Vec<BusEvent>) {
        let mut lost = false;
        let mut steps = Vec::new();
        let mut last: HashMap<StreamName, usize> = HashMap::new();
        for event in events {
            match event {
                BusEvent::Lost => lost = true,
                BusEvent::Begun { stream } => self.read(myself, &stream),
                BusEvent::Word { stream, word } => {
                    // What is published behind it goes out behind it.
                    last.remove(&stream);
                    steps.push(Step::Word(stream, word));
                }
                BusEvent::Told(word) => self.told(&word),
                BusEvent::Publications { stream, epoch, publications } => {
                    match last.get(&stream).and_then(|at| steps.get_mut(*at)) {
                        Some(Step::Run(_, known, run)) if *known == epoch => run.extend(publications),
                        _ => {
                            last.insert(stream.clone(), steps.len());
                            steps.push(Step::Run(stream, epoch, publications));
                        }
                    }
                }
            }
        }
        let mut batch = Vec::new();
        for step in steps {
            match step {
                Step::Run(name, epoch, publications) => {
                    let Some(stream) = self.streams.get_mut(&name) else { continue };
                    let Some(position) = &stream.position else { continue };
                    if epoch == position.epoch && follow_one_another(position.offset, &publications) {
                        batch.extend(stream.advance(&publications, false));
                        time(myself, &name, stream);
                    } else {
                        self.read(myself, &name);
                    }
                }
                Step::Word(name, word) => {
                    let Some(stream) = self.streams.get_mut(&name) else { continue };
                    batch.extend(heard(stream, &word, &self.args.metrics));
                    time(myself, &name, stream);
                }
            }
        }
        self.deliver(batch).await;
        if lost {
            self.doubt_watched();
            self.check(myself).await;
        }
    }

    /// An order of another node, or of this one, to the sessions of all.
    fn told(&self, word: &Bytes) {
        match Control::decode(word) {
            Ok(Control::Emulate { session, data, from }) => {
                // Who gave the order was told that the node is alive; the client finds out by itself. Whoever guesses is counted
                // where they are.
                if self.args.mailboxes.deliver(session.expose(), data) == Err(MailboxError::Unknown) && from.is_some() {
                    let _ = self.args.letters.try_send(Control::Emulate { session, data: String::new(), from });
                }
            }
            Ok(letter) if letter.is_letter() => {
                // Whoever asks has patience of their own, and asks again.
                let _ = self.args.letters.try_send(letter);
            }
            Ok(order) => {
                self.args.shards.order(&Arc::new(order));
            }
            Err(error) => {
                self.args.metrics.unknown_words.inc();
                tracing::debug!(%error, "an order of another node was not understood");
            }
        }
    }
}

/// Of what was told in one breath, what is one after the other on a stream.
enum Step {
    Run(StreamName, Epoch, Vec<Publication>),
    Word(StreamName, Bytes),
}

/// A word for the subscribers of a stream's own channel.
fn heard(stream: &mut Stream, word: &Bytes, metrics: &Metrics) -> Vec<(u64, Delivery)> {
    match Word::decode(word) {
        Ok(Word::Publication { data, at, trace, extra }) => {
            let data = Bytes::copy_from_slice(data.get().as_bytes());
            let Ok(id) = EntityId::new(stream.source.name().as_str()) else { return Vec::new() };
            let publication = Message { data, at, trace, extra }.publication(id, 0);
            stream.passing(Arc::new(Item::new(0, publication)))
        }
        Ok(spoken) => stream.word(Arc::new(Spoken::new(spoken, word.len()))).into_iter().collect(),
        Err(error) => {
            metrics.unknown_words.inc();
            tracing::debug!(%error, "a word of another node was not understood");
            Vec::new()
        }
    }
}

/// Sees to it that what is held back goes out.
fn time(myself: &ActorRef<TopicsMessage>, name: &StreamName, stream: &mut Stream) {
    let Some(wait) = stream.wait() else { return };
    let (myself, name) = (myself.clone(), name.clone());
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        let _ = myself.cast(TopicsMessage::Release(name));
    });
}

/// Whether a run goes on from a position without a hole; what lies at or below it is known already.
fn follow_one_another(position: u64, run: &[Publication]) -> bool {
    run.first().is_some_and(|first| first.offset <= position.saturating_add(1))
        && run.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1)
}
