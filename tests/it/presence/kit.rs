//! A store to test, whichever it is, with as many nodes as a test wants, and words to speak of it.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dzvin::channels::{
    bus::{RedisBus, RedisConfig},
    presence::{MemoryPresence, PresenceSettings, RedisPresence},
};
use dzvin_actors::platform::ports::{
    Buried, BusEvent, Changed, Counts, Crowd, Entered, Exited, Life, Member, MemberChange, Outcome, Presence,
};
use dzvin_protocols::{channels::centrifuge::ClientInfo, platform::StreamName};

use tokio::{sync::mpsc, time::timeout};

use crate::{
    bus::servers::Cluster,
    support::{eventually::patience, redis::Redis},
};

/// A lease that no test outlives by accident.
pub const LONG: Duration = Duration::from_secs(3600);
/// One that tests wait for.
pub const SHORT: Duration = Duration::from_secs(2);

pub fn settings(lease: Duration) -> PresenceSettings {
    PresenceSettings { lease, crowd: Crowd::default(), telling: LONG }
}

/// Nodes of one cluster.
pub trait Kit: Sized {
    type Store: Presence;
    fn start() -> impl Future<Output = Self>;
    /// One more node; its life has not begun.
    fn node(&self, settings: PresenceSettings) -> impl Future<Output = Self::Store>;
    /// One more whose life has.
    fn alive(&self, settings: PresenceSettings) -> impl Future<Output = Self::Store> {
        async move {
            let node = self.node(settings).await;
            assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: true });
            node
        }
    }
}

pub struct InMemory(Mutex<Option<MemoryPresence>>);

impl Kit for InMemory {
    type Store = MemoryPresence;
    async fn start() -> Self {
        Self(Mutex::default())
    }
    async fn node(&self, settings: PresenceSettings) -> MemoryPresence {
        let mut first = self.0.lock().unwrap();
        first.get_or_insert_with(|| MemoryPresence::new(settings)).beside(settings)
    }
}

pub struct InRedis {
    pub server: Redis,
    buses: Mutex<Vec<RedisBus>>,
}

impl Kit for InRedis {
    type Store = RedisPresence;
    async fn start() -> Self {
        Self { server: Redis::start().await, buses: Mutex::default() }
    }
    async fn node(&self, settings: PresenceSettings) -> RedisPresence {
        let bus = bus_of(patient(&self.server.url(), "dz")).await.0;
        let node = RedisPresence::new(&bus, settings);
        self.buses.lock().unwrap().push(bus);
        node
    }
}

/// Worlds of one cluster differ by their prefix.
pub struct InCluster {
    server: Arc<Cluster>,
    prefix: String,
    buses: Mutex<Vec<RedisBus>>,
}

impl Kit for InCluster {
    type Store = RedisPresence;
    async fn start() -> Self {
        Self { server: Cluster::shared().await, prefix: format!("presence{}", ticket()), buses: Mutex::default() }
    }
    async fn node(&self, settings: PresenceSettings) -> RedisPresence {
        let bus = bus_of(patient(&self.server.url(), &self.prefix)).await.0;
        let node = RedisPresence::new(&bus, settings);
        self.buses.lock().unwrap().push(bus);
        node
    }
}

/// Impatient, so that tests of outages do not take long.
fn config(url: &str, prefix: &str) -> RedisConfig {
    let mut config = RedisConfig::new(url, prefix).expect("a url");
    config.heartbeat = Duration::from_millis(50);
    config.command_timeout = Duration::from_millis(300);
    config.connect_timeout = Duration::from_millis(500);
    config.max_backoff = Duration::from_millis(100);
    config
}

/// Where nothing is away: servers share the machine with those of many tests.
fn patient(url: &str, prefix: &str) -> RedisConfig {
    let mut config = config(url, prefix);
    config.command_timeout = Duration::from_secs(2);
    config
}

/// The bus of one more node, connected.
pub async fn bus(url: &str) -> (RedisBus, mpsc::Receiver<BusEvent>) {
    bus_of(config(url, "dz")).await
}

/// A store beside those of whole hubs.
pub async fn beside_hubs(server: &Redis, settings: PresenceSettings) -> (RedisPresence, RedisBus) {
    let bus = bus_of(patient(&server.url(), "dzvin")).await.0;
    (RedisPresence::new(&bus, settings), bus)
}

async fn bus_of(config: RedisConfig) -> (RedisBus, mpsc::Receiver<BusEvent>) {
    let (sender, events) = mpsc::channel(1024);
    let bus = RedisBus::new(config, sender);
    timeout(patience(), bus.connected()).await.expect("connected");
    (bus, events)
}

static TICKETS: AtomicU64 = AtomicU64::new(0);

pub fn ticket() -> u64 {
    TICKETS.fetch_add(1, Ordering::Relaxed) + 1
}

pub fn channel(name: &str) -> StreamName {
    StreamName::from_checked(name)
}

pub fn member(client: &str, user: &str) -> Arc<Member> {
    let info = ClientInfo { user: user.into(), client: client.into(), conn_info: None, chan_info: None };
    Arc::new(Member { info, told: true, shown: true })
}

pub fn entering(client: &str, user: &str) -> MemberChange {
    MemberChange::Enter(member(client, user))
}

pub fn leaving(client: &str, user: &str) -> MemberChange {
    MemberChange::Exit { client: client.into(), user: user.into() }
}

pub async fn change<P: Presence>(store: &P, on: &str, changes: &[MemberChange]) -> Changed {
    store.change(&channel(on), ticket(), changes).await.expect("changed")
}

/// New, and first of its user.
pub async fn enter<P: Presence>(store: &P, on: &str, client: &str, user: &str) -> (bool, bool) {
    match change(store, on, &[entering(client, user)]).await.outcomes[..] {
        [Outcome::Entered(Entered { first_of_user, new })] => (new, first_of_user),
        ref other => panic!("{other:?}"),
    }
}

/// Gone, and last of its user.
pub async fn exit<P: Presence>(store: &P, on: &str, client: &str, user: &str) -> (bool, bool) {
    match change(store, on, &[leaving(client, user)]).await.outcomes[..] {
        [Outcome::Exited(Exited { gone, last_of_user })] => (gone, last_of_user),
        ref other => panic!("{other:?}"),
    }
}

/// What is found of the dead, all of which is told.
pub async fn bury<P: Presence>(store: &P, limit: usize) -> Vec<Buried> {
    let graves = store.bury(limit).await.expect("buried");
    for it in &graves {
        store.close(&it.channel, &it.grave).await.expect("closed");
    }
    graves
}

/// Before, and now.
pub async fn occupy<P: Presence>(store: &P, on: &str, subscribers: u64) -> (u64, u64) {
    let occupied = store.occupy(&channel(on), ticket(), subscribers).await.expect("occupied");
    (occupied.before, occupied.now)
}

pub async fn counts<P: Presence>(store: &P, on: &str) -> (u64, u64) {
    let Counts { clients, users, .. } = store.counts(&channel(on)).await.expect("counted");
    (clients, users)
}

/// The clients of a channel, page by page.
pub async fn clients<P: Presence>(store: &P, on: &str, limit: usize) -> BTreeSet<String> {
    let (mut all, mut from) = (BTreeSet::new(), 0);
    loop {
        let page = store.members(&channel(on), from, limit).await.expect("members");
        all.extend(page.members.iter().map(|member| member.info.client.to_string()));
        match page.next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

/// Each of these promises, of every store.
macro_rules! each {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise::<super::InMemory>().await; })* }
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise::<super::InRedis>().await; })* }
        mod cluster { $(#[tokio::test] async fn $promise() { super::$promise::<super::InCluster>().await; })* }
    };
}
pub(super) use each;
