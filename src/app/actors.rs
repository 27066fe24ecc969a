//! The actors that every node has, and the hub that they share.

use std::{sync::Arc, time::Duration};

use dzvin_actors::{
    channels::{
        Apps, Handlers, Hub, Mailboxes, Metrics, Notices, Numbers, Reader, ReaderArgs, Shard, ShardArgs, Shards,
        Topics, TopicsArgs, Tracer, Users,
        presence::{PresenceActor, PresenceArgs, PresenceEvent, PresenceLimits, PresenceMetrics},
    },
    entities::{RelayArgs, RelayConfig, RelayHandle, RelayMetrics},
    platform::ports::{Authenticator, BusEvent},
    supervise::{ChildSpec, Slot, Supervisor},
};
use dzvin_protocols::channels::Control;
use prometheus_client::registry::Registry;
use ractor::Actor;
use tokio::sync::mpsc;

use super::{AppError, VERSION, background::Background, ground::Ground, settings};
use crate::{
    channels::{bus::AnyBus, presence::AnyPresence},
    entities::{self, Entities, queries::StoredQueries},
    identity::{Verifier, audit},
    platform::config::Config,
};

/// Shards or topics that are busy for so long without a step are stuck.
const STUCK: Duration = Duration::from_secs(60);

pub(super) type Node = Hub<AnyBus, Entities>;

pub(super) fn hub(
    config: &Config,
    bus: &Arc<AnyBus>,
    readers: &Entities,
    queries: &StoredQueries,
    (verifier, audit): (&Arc<Verifier>, &audit::Notes),
    letters: mpsc::Sender<Control>,
    notices: &Notices,
) -> Result<Arc<Node>, AppError> {
    let apps = Apps::default();
    settings::replace_apps(&apps, config)?;
    let shards = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Arc::new(Hub {
        bus: Arc::clone(bus),
        log: Arc::new(readers.clone()),
        auth: Arc::clone(verifier) as Arc<dyn Authenticator>,
        audit: Arc::new(audit.clone()),
        topics: Slot::default(),
        shards: Shards::new(shards),
        limits: settings::limits(config),
        namespaces: Arc::new(settings::namespaces(config)),
        numbers: Numbers::default(),
        users: Users::default(),
        handlers: Handlers::new(entities::rpc::handlers(readers)),
        apps,
        presence: Slot::default(),
        observer: Arc::new(notices.clone()),
        tracer: Tracer::default(),
        mailboxes: Mailboxes::default(),
        queries: Arc::new(queries.clone()),
        letters,
        metrics: Metrics::default(),
        version: VERSION.to_owned(),
    }))
}

pub(super) async fn start_channels(
    root: &Supervisor,
    hub: &Arc<Node>,
    told: mpsc::Receiver<BusEvent>,
) -> Result<(), AppError> {
    let node = Arc::clone(hub);
    let topics = ChildSpec::new("topics", move |spawner| {
        let args = TopicsArgs::new(&node, spawner.progress.clone());
        async move { Ok(Actor::spawn_linked(None, Topics::default(), args, spawner.supervisor).await?.0.get_cell()) }
    });
    root.start(topics.stuck_after(STUCK)).await?;
    for index in 0..hub.shards.count() {
        let node = Arc::clone(hub);
        let shard = ChildSpec::new(format!("shard-{index}"), move |spawner| {
            let args = ShardArgs { index, hub: Arc::clone(&node), progress: spawner.progress.clone() };
            async move { Ok(Actor::spawn_linked(None, Shard::default(), args, spawner.supervisor).await?.0.get_cell()) }
        });
        root.start(shard.stuck_after(STUCK)).await?;
    }
    let (events, slot, metrics) = (Arc::new(tokio::sync::Mutex::new(told)), hub.topics.clone(), hub.metrics.clone());
    let reader = ChildSpec::new("bus-reader", move |spawner| {
        let args = ReaderArgs {
            events: Arc::clone(&events),
            topics: slot.clone(),
            metrics: metrics.clone(),
            progress: spawner.progress.clone(),
        };
        async move { Ok(Actor::spawn_linked(None, Reader, args, spawner.supervisor).await?.0.get_cell()) }
    });
    Ok(root.start(reader.stuck_after(STUCK)).await?)
}

pub(super) async fn start_presence(
    root: &Supervisor,
    hub: &Arc<Node>,
    store: &Arc<AnyPresence>,
    limits: PresenceLimits,
    edges: mpsc::Sender<PresenceEvent>,
    registry: &mut Registry,
) -> Result<(), AppError> {
    let metrics = PresenceMetrics::default();
    metrics.register(registry);
    let (node, store) = (Arc::clone(hub), Arc::clone(store));
    let presence = ChildSpec::new("presence", move |spawner| {
        let (shards, apps, hearing) = (node.shards.clone(), node.apps.clone(), node.apps.clone());
        let args = PresenceArgs {
            store: Arc::clone(&store),
            bus: Arc::clone(&node.bus),
            slot: node.presence.clone(),
            announce: Arc::new(move || shards.present()),
            counted: Arc::new(move |channel| apps.counts(channel)),
            heard: Arc::new(move |channel| hearing.hear_members(channel)),
            events: Some(edges.clone()),
            limits: limits.clone(),
            metrics: metrics.clone(),
            progress: spawner.progress.clone(),
        };
        async move { Ok(Actor::spawn_linked(None, PresenceActor::default(), args, spawner.supervisor).await?.0.get_cell()) }
    });
    Ok(root.start(presence.stuck_after(STUCK)).await?)
}

pub(super) async fn start_relay(
    root: &Supervisor,
    bus: &Arc<AnyBus>,
    ground: &Ground,
    registry: &mut Registry,
    background: &mut Background,
    lease_ttl: Duration,
) -> Result<(), AppError> {
    let metrics = RelayMetrics::default();
    metrics.register(registry);
    let handle = RelayHandle::default();
    // A node that is alone hears of every commit from itself. Only one of which it does not know whether it was done may take so long,
    // well below the five seconds within which a change is to be seen.
    let ask_every = if matches!(**bus, AnyBus::Memory(_)) { 3 } else { 1 };
    let args = RelayArgs {
        config: RelayConfig { lease_ttl, ask_every, ..RelayConfig::default() },
        bus: Arc::clone(bus),
        log: Arc::new(ground.entities.clone()),
        leases: Arc::clone(&ground.leases),
        metrics,
        handle: handle.clone(),
    };
    let mut commits = ground.database.commits();
    background.keep(async move {
        let mut heard = 0;
        while commits.changed().await.is_ok() {
            let elsewhere = commits.borrow_and_update().elsewhere;
            if std::mem::replace(&mut heard, elsewhere) == elsewhere {
                handle.wake_here();
            } else {
                handle.wake();
            }
        }
    });
    Ok(root.start(args.child()).await?)
}
