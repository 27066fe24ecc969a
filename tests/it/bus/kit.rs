//! A bus to test, whichever it is, and words to speak of it.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dzvin::channels::bus::{HistoryLimits, MemoryBus, RedisBus, RedisConfig};
use dzvin_actors::platform::ports::{Appended, Bus, BusEvent, ReadLimit};
use dzvin_protocols::{
    channels::{Epoch, Extra, Message, Position, Publication},
    platform::{EntityId, StreamName},
};
use tokio::{sync::mpsc, time::timeout};

use super::servers::Cluster;
use crate::support::{eventually::patience, proxy::Proxy, redis::Redis};

/// Room for events of a test that does not read them at once.
pub const EVENTS: usize = 64;
/// More than any test writes.
pub const ALL: ReadLimit = ReadLimit { count: 1_000_000, bytes: usize::MAX >> 1 };

/// A bus, its events, and what it stands on.
pub struct World<B, S = Option<Redis>> {
    pub bus: B,
    pub events: mpsc::Receiver<BusEvent>,
    pub server: S,
}

/// How to get one.
pub trait Kit {
    type Bus: Bus;
    type Server;
    fn start(limits: HistoryLimits) -> impl Future<Output = World<Self::Bus, Self::Server>>;
}

pub struct InMemory;
pub struct InRedis;
pub struct InCluster;

impl Kit for InMemory {
    type Bus = MemoryBus;
    type Server = Option<Redis>;
    async fn start(limits: HistoryLimits) -> World<MemoryBus> {
        let (sender, events) = mpsc::channel(EVENTS);
        World { bus: MemoryBus::new(limits, sender), events, server: None }
    }
}

impl Kit for InRedis {
    type Bus = RedisBus;
    type Server = Option<Redis>;
    async fn start(limits: HistoryLimits) -> World<RedisBus> {
        let server = Redis::start().await;
        let (bus, events) = hub(&server.url(), limits).await;
        World { bus, events, server: Some(server) }
    }
}

/// Worlds of one cluster differ by their prefix.
impl Kit for InCluster {
    type Bus = RedisBus;
    type Server = Arc<Cluster>;
    async fn start(limits: HistoryLimits) -> World<RedisBus, Arc<Cluster>> {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let server = Cluster::shared().await;
        let mut config = config(&server.url(), limits);
        config.prefix = format!("dz{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        // Three servers for each of many tests at once.
        config.command_timeout = Duration::from_secs(2);
        let (bus, events) = hub_of(config).await;
        World { bus, events, server }
    }
}

/// Impatient, so that a test of a stalled network does not take seconds.
pub fn config(url: &str, limits: HistoryLimits) -> RedisConfig {
    let mut config = RedisConfig::new(url, "dz").expect("a url");
    config.limits = limits;
    config.heartbeat = Duration::from_millis(50);
    config.lease = Duration::from_secs(2);
    config.command_timeout = Duration::from_millis(300);
    config.connect_timeout = Duration::from_millis(500);
    config.max_backoff = Duration::from_millis(100);
    config
}

/// A node as a test of the bus has it: its bus, and what that tells.
pub type Node = (RedisBus, mpsc::Receiver<BusEvent>);

/// One more node on the same Redis, connected.
pub async fn hub(url: &str, limits: HistoryLimits) -> Node {
    hub_of(config(url, limits)).await
}

/// Two nodes over a cluster.
pub async fn pair(cluster: &Cluster) -> (Node, Node) {
    let url = cluster.url();
    (hub(&url, HistoryLimits::default()).await, hub(&url, HistoryLimits::default()).await)
}

/// One that is connected through a proxy.
pub async fn far(server: &Redis, limits: HistoryLimits) -> (Proxy, RedisBus, mpsc::Receiver<BusEvent>) {
    let (proxy, url) = server.proxy().await;
    let (bus, events) = hub(&url, limits).await;
    (proxy, bus, events)
}

/// One that may never be connected.
pub fn bare(url: &str) -> RedisBus {
    RedisBus::new(config(url, HistoryLimits::default()), mpsc::channel(EVENTS).0)
}

pub async fn hub_of(config: RedisConfig) -> Node {
    let (sender, events) = mpsc::channel(EVENTS);
    let bus = RedisBus::new(config, sender);
    timeout(patience(), bus.connected()).await.expect("connected");
    (bus, events)
}

pub fn stream() -> StreamName {
    StreamName::from_checked("entities.tender")
}

pub fn epoch(name: &str) -> Epoch {
    Epoch::new(name)
}

pub fn at(epoch_name: &str, offset: u64) -> Position {
    Position { epoch: epoch(epoch_name), offset }
}

pub fn publication(offset: u64) -> Publication {
    Publication {
        offset,
        id: EntityId::new(&format!("id-{offset}")).expect("an id"),
        revision: offset + 1,
        at: 1_700_000_000_000_000,
        // What must survive Lua and the framing: newlines, NUL, bytes above 127.
        data: format!("{{\"n\":{offset},\"ї\":\"\n\0\"}}").into_bytes().into(),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        extra: None,
    }
}

pub fn run(offsets: RangeInclusive<u64>) -> Vec<Publication> {
    offsets.map(publication).collect()
}

/// The next event of publications; `Lost` may come before it.
pub async fn next_run(events: &mut mpsc::Receiver<BusEvent>) -> (StreamName, Epoch, Vec<Publication>) {
    loop {
        match timeout(patience(), events.recv()).await.expect("an event").expect("a living bus") {
            BusEvent::Publications { stream, epoch, publications } => return (stream, epoch, publications),
            BusEvent::Lost | BusEvent::Begun { .. } | BusEvent::Word { .. } | BusEvent::Told(_) => {}
        }
    }
}

/// Holds every bus to these promises.
macro_rules! all {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise::<super::InMemory>().await; })* }
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise::<super::InRedis>().await; })* }
        mod cluster { $(#[tokio::test] async fn $promise() { super::$promise::<super::InCluster>().await; })* }
    };
}
pub(super) use all;

pub async fn started<K: Kit>() -> World<K::Bus, K::Server> {
    let world = K::start(HistoryLimits::default()).await;
    world.bus.reset(&stream(), &at("e1", 0)).await.expect("reset");
    world
}

pub async fn append<B: Bus>(bus: &B, epoch_name: &str, run: &[Publication]) -> Appended {
    bus.append(&stream(), &epoch(epoch_name), run).await.expect("appended")
}

pub async fn history<B: Bus>(bus: &B) -> Vec<u64> {
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    slice.publications.iter().map(|p| p.offset).collect()
}

pub fn chat() -> StreamName {
    StreamName::from_checked("chat.1")
}

pub fn message(n: u64) -> Message {
    let tags = BTreeMap::from([("n".to_owned(), n.to_string())]).try_into().expect("tags");
    let data = format!("{{\"n\":{n},\"ї\":\"\\n\"}}").into_bytes().into();
    Message { data, at: 5, trace: None, extra: Some(Arc::new(Extra { tags, ..Extra::default() })) }
}
