//! The composition root: the whole system on one page, in start order.
//!
//! Start: store, being alone (without Redis), bus, topics, shards, relay, mirrors, then accept. Stop is the reverse. Nothing here decides anything
//! that a room could decide; it binds ports to what stands behind them.

mod error;
mod mirrors;
mod reload;
mod settings;

use std::{
    collections::HashSet,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Extension;
use dzvin_actors::{
    channels::{
        Apps, Handlers, Hub, Mailboxes, Metrics, Notices, Numbers, Reader, ReaderArgs, Shard, ShardArgs, Shards,
        Topics, TopicsArgs, Tracer, Users,
        presence::{PresenceActor, PresenceArgs, PresenceEvent, PresenceLimits, PresenceMetrics},
    },
    entities::{RelayArgs, RelayConfig, RelayHandle, RelayMetrics},
    platform::ports::{Authenticator, Revoked},
    supervise::{ChildSpec, Settings, Slot, Supervisor, SupervisorMetrics},
};
use dzvin_protocols::channels::{Control, Whose};
use prometheus_client::registry::Registry;
use ractor::Actor;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
};

use self::mirrors::Links;
pub(crate) use self::settings::database_options;
pub use self::{error::AppError, reload::Reloader};
use crate::{
    channels::{
        self,
        bus::AnyBus,
        presence::AnyPresence,
        pusher::{http::PusherApi, webhooks::WebhookArgs},
    },
    console,
    entities::{self, ChangeListener, Entities, Retention, queries::StoredQueries},
    identity::{
        ApiKeys, Verifier,
        revocations::{self, RevocationStore},
    },
    mirror::{self, Mirrors},
    platform::{
        alone::{Alone, AloneError},
        config::Config,
        db::Database,
        http::{
            AnswerRoom, Certificates, Check, HttpMetrics, Origins, Pair, Plumbing, Readiness, Serving, internal_router,
            listen, plumb, serve,
        },
        lease::PgLeases,
        telemetry,
    },
};

/// Events that may wait between the bus and topics; what does not fit the bus replaces by one word, and topics read on.
const BUS_EVENTS: usize = 1024;
/// Questions and answers of other nodes that may wait: operators ask, a few at a time.
const LETTERS: usize = 256;
/// Events of presence that may wait to be handed on.
const EDGES: usize = 1024;
/// What clients and servers are told.
const VERSION: &str = concat!("dzvin ", env!("CARGO_PKG_VERSION"));
/// Shards or topics that are busy for so long without a step are stuck.
const STUCK: Duration = Duration::from_secs(60);

/// The database is asked for leases at least once in a third of their time, and within this with the default one. Without an
/// answer for so long a call hangs.
const SILENCE: Duration = Duration::from_secs(10);

/// A node that runs.
pub struct App {
    root: Supervisor,
    shards: Shards,
    readiness: Arc<Readiness>,
    /// Ends what is no actor: servers, listener, maintenance.
    stop: watch::Sender<Phase>,
    tasks: JoinSet<()>,
    database: Database,
    /// Told when another node serves the database, and there is no Redis.
    displaced: watch::Receiver<bool>,
    grace: Duration,
    reloader: Reloader,
    /// Where clients are served.
    pub address: std::net::SocketAddr,
    /// Where operators are served.
    pub internal_address: std::net::SocketAddr,
}

/// What the tasks beside the actors are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Clients are no longer accepted.
    Closing,
    /// Everything ends.
    Ending,
}

impl App {
    /// Starts a node. The schema must be up to date.
    ///
    /// # Errors
    /// [`AppError`] says in one line what is wrong and what to do.
    pub async fn start(config: &Config, verifier: Arc<Verifier>) -> Result<Self, AppError> {
        // Ports first: a second node on the same address must not touch anything.
        let listener = listen("http.listen", config.http.listen)?;
        let internal = listen("http.internal_listen", config.http.internal_listen)?;
        let pair = config.http.tls.as_ref().map(Pair::read).transpose().map_err(AppError::tls)?;
        let mut rooms = Registry::with_prefix("dzvin");
        let registry = &mut rooms;
        let (stop, phase) = watch::channel(Phase::Running);
        let mut tasks = JoinSet::new();

        // Served before anything is waited for: whoever asks meanwhile is told that we are starting.
        let (readiness, metrics) = (Arc::new(Readiness::default()), Arc::new(OnceLock::new()));
        let http_metrics = HttpMetrics::default();
        http_metrics.register(registry);
        let serving = Serving::new(&config.http, config.shutdown.grace, http_metrics.clone());
        let ops = internal_router(Arc::clone(&readiness), scrape(&metrics));
        let ops = plumb(ops, Plumbing::new(&config.http, http_metrics.clone()));
        let addresses = (address(&listener)?, address(&internal)?);
        tasks.spawn(serve(internal, ops, serving.clone(), reached(phase.clone(), Phase::Ending)));
        let certificates = pair.map(|pair| Certificates::new(pair, http_metrics.clone()));
        if let Some(certificates) = certificates.clone() {
            let ending = reached(phase.clone(), Phase::Ending);
            tasks.spawn(async move {
                tokio::select! {
                    () = certificates.keep_fresh() => {}
                    () = ending => {}
                }
            });
        }

        let db = settings::database_options(config)?;
        let direct = db.listen.clone().unwrap_or_else(|| db.connect.clone());
        let database = Database::new(db);
        database.register(registry);
        let owner: Arc<str> = database.node().into();
        database.guard_identity().await.map_err(AppError::database)?;
        let displaced = if config.redis.url.is_none() {
            let alone = Alone::claim(direct, &owner).await?;
            keep_alone(alone, &mut tasks, phase.clone())
        } else {
            watch::channel(false).1
        };
        let entities = Entities::open(database.clone(), settings::kinds(config)?).await.map_err(AppError::database)?;
        entities.register(registry);
        let leases = Arc::new(PgLeases::new(database.clone(), Arc::clone(&owner)));
        tasks.spawn(ChangeListener::new(database.clone()).run(reached(phase.clone(), Phase::Ending)));
        let retention = Retention { days: config.changes.retention_days };
        tasks.spawn(entities.clone().keep_derived(reached(phase.clone(), Phase::Ending)));
        tasks.spawn(entities.clone().keep_maintained(retention, reached(phase.clone(), Phase::Ending)));

        verifier.register(registry);
        let (known, counted) = (verifier.revocations().clone(), verifier.metrics().clone());
        let revocations = RevocationStore::new(database.clone(), known, counted);
        revocations.load().await.map_err(AppError::database)?;
        tasks.spawn(revocations.clone().keep(reached(phase.clone(), Phase::Ending)));
        let mut revoked = verifier.revocations().changes();
        tasks.spawn(Arc::clone(&verifier).keep(reached(phase.clone(), Phase::Ending)));

        let (events, told) = mpsc::channel(BUS_EVENTS);
        let bus = Arc::new(settings::bus(config, events).await?);
        bus.metrics().register(registry);

        let supervision = SupervisorMetrics::default();
        supervision.register(registry);
        let settings = Settings { name: "root".into(), grace: config.shutdown.grace };
        let root = Supervisor::root(settings, supervision).await.map_err(AppError::internal)?;

        // Whoever only reads must not keep a batch, a lease or the relay waiting for a connection.
        let readers = entities.for_readers();
        let queries = StoredQueries::new(readers.clone());
        queries.register(registry);
        let (letters, received) = mpsc::channel(LETTERS);
        let (notices, noticed) = Notices::new();
        let hub = hub(config, &bus, &readers, &queries, &verifier, letters, &notices)?;
        hub.metrics.register(registry);
        registry.register(
            "mailboxes",
            "Sessions whose commands come by requests of their own",
            hub.mailboxes.gauge().clone(),
        );
        let (shards, over) = (hub.shards.clone(), reached(phase.clone(), Phase::Ending));
        tasks.spawn(async move {
            tokio::select! {
                () = end_revoked(&mut revoked, &shards) => {}
                () = over => {}
            }
        });
        let presence = Arc::new(AnyPresence::beside(&bus, settings::presence_store(config)));
        // Before those whose events it tells, so that it stops after them.
        let webhooks = WebhookArgs::new(hub.apps.clone(), (notices.clone(), noticed), settings::webhooks(config));
        let webhooks = webhooks.map_err(AppError::internal)?;
        webhooks.register(registry);
        root.start(webhooks.child()).await?;
        let (edges, edge) = mpsc::channel(EDGES);
        let over = reached(phase.clone(), Phase::Ending);
        tasks.spawn(async move {
            tokio::select! {
                () = notices.follow(edge) => {}
                () = over => {}
            }
        });
        start_channels(&root, &hub, told).await?;
        start_presence(&root, &hub, &presence, settings::presence(config), edges, registry).await?;
        start_relay(&root, &bus, &entities, &leases, &database, registry, &mut tasks, phase.clone(), config.leases.ttl)
            .await?;
        let links = Links::start(config, &root, &entities, &leases, registry).await?;

        look_at(&readiness, &bus, &database, config.leases.ttl.max(SILENCE), &links);
        let endpoint = channels::Endpoint {
            shards: hub.shards.clone(),
            admission: channels::Admission::new(&config.channels),
            allowed_origins: Origins::new(&config.http.allowed_origins),
            tls: config.http.tls.is_some(),
        };
        endpoint.admission.register(registry);
        let refusals = channels::Refusals::new(config.channels.max_refused_emulations_per_second);
        refusals.register(registry);
        let transports = channels::Transports {
            refusals,
            endpoint: endpoint.clone(),
            bus: Arc::clone(&bus),
            mailboxes: hub.mailboxes.clone(),
            max_message: hub.limits.message,
        };
        let keys = ApiKeys::default();
        keys.replace(&config.identity.api_keys).map_err(|error| AppError::config("identity.api_keys", error))?;
        let port = addresses.0.port();
        let nodes = channels::api::Nodes::new(Arc::clone(&bus), hub.shards.clone(), hub.metrics.clone(), VERSION, port);
        let server_api = channels::api::ServerApi {
            bus: Arc::clone(&bus),
            namespaces: Arc::clone(&hub.namespaces),
            presence: Arc::clone(&presence),
            occupancy: hub.limits.occupancy,
            limits: settings::api_limits(config),
            keys: keys.clone(),
            nodes: nodes.clone(),
        };
        let pusher_api = PusherApi {
            apps: hub.apps.clone(),
            bus: Arc::clone(&bus),
            presence,
            namespaces: Arc::clone(&hub.namespaces),
            limits: settings::publish_limits(config),
        };
        let connections = channels::Connections::new(Arc::clone(&bus), hub.shards.clone());
        let traces = channels::Traces::new(Arc::clone(&bus), hub.tracer.clone());
        hub.tracer.metrics().register(registry);
        let (stopping, over) = (traces.clone(), reached(phase.clone(), Phase::Closing));
        tasks.spawn(async move {
            over.await;
            stopping.stop();
        });
        let corresponding = channels::correspond(connections.clone(), traces.clone(), nodes, received);
        let over = reached(phase.clone(), Phase::Ending);
        tasks.spawn(async move {
            tokio::select! {
                () = corresponding => {}
                () = over => {}
            }
        });
        let reloader = Reloader::new(&verifier, keys, &hub.apps, &links, &hub.shards, config)
            .with_edge(endpoint.admission.clone(), certificates.clone());
        let room = AnswerRoom::new(&config.http, http_metrics.clone());
        let mirrors = mirror::MirrorsState { mirrors: Mirrors::new(readers.clone()), owner, resume: Arc::new(links) };
        let api = entities::router(readers, room.clone())
            .merge(entities::queries::router(queries, room))
            .merge(mirror::router(mirrors))
            .merge(channels::api::router(server_api))
            .merge(channels::connections_router(connections))
            .merge(channels::trace_router(traces));
        let api = api.merge(revocations::router(revocations)).layer(Extension(verifier));
        let signing = channels::pusher::auth::Signing {
            apps: hub.apps.clone(),
            namespaces: Arc::clone(&hub.namespaces),
            auth: Arc::clone(&hub.auth),
        };
        let public = api
            .merge(channels::pusher::router(endpoint.clone(), hub.apps.clone()))
            .merge(channels::pusher::auth::router(signing))
            .merge(channels::pusher::http::router(pusher_api))
            .merge(channels::router(endpoint))
            .merge(transports.router())
            .merge(console::router());
        let public = plumb(public, Plumbing::new(&config.http, http_metrics));
        // Set once, here.
        let _ = metrics.set(Box::new(telemetry::scrape(rooms)) as Scrape);
        tasks.spawn(serve(listener, public, serving.behind(certificates), reached(phase, Phase::Closing)));
        readiness.ready();
        let shards = hub.shards.clone();
        let (address, internal_address) = addresses;
        let grace = config.shutdown.grace;
        Ok(Self {
            root,
            shards,
            readiness,
            stop,
            tasks,
            database,
            displaced,
            grace,
            reloader,
            address,
            internal_address,
        })
    }

    /// What puts a changed configuration into force.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Runs until `stop` is ready, then stops in order; or until a restart budget is used up.
    ///
    /// # Errors
    /// [`AppError::Meltdown`] when an actor could not be kept alive, [`AppError::NotAlone`] when another node took this
    /// one's place.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), AppError> {
        let mut displaced = self.displaced.clone();
        let displaced = async move {
            if displaced.wait_for(|displaced| *displaced).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let end = tokio::select! {
            () = stop => Ok(()),
            meltdown = self.root.meltdown() => Err(AppError::Meltdown(meltdown)),
            () = displaced => Err(AppError::NotAlone(AloneError::Another)),
        };
        self.stop().await;
        end
    }

    /// The supervisor of every actor, for drills.
    #[must_use]
    pub fn supervisor(&self) -> &Supervisor {
        &self.root
    }

    /// The reverse of the start, within one grace period.
    async fn stop(&mut self) {
        tracing::info!("stopping");
        self.readiness.stopping();
        self.stop.send_replace(Phase::Closing);
        let orderly = async {
            let closed = self.shards.drain(self.grace / 2).await;
            tracing::info!(sessions = closed, "sessions were told to come back");
            self.root.stop().await;
            self.stop.send_replace(Phase::Ending);
            while self.tasks.join_next().await.is_some() {}
            self.database.close().await;
        };
        if tokio::time::timeout(self.grace, orderly).await.is_err() {
            tracing::warn!(grace = ?self.grace, "not everything stopped within the grace period");
        }
    }
}

/// Has those who live on a token that is revoked look at it: within a second of the word, on every node, for each hears it by itself.
async fn end_revoked(changes: &mut broadcast::Receiver<Revoked>, shards: &Shards) {
    loop {
        let mut users = HashSet::new();
        match changes.recv().await {
            Ok(revoked) => users.insert(revoked.user),
            // Nobody knows who was meant: everybody looks.
            Err(broadcast::error::RecvError::Lagged(_)) => users.insert(None),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        // What comes in a burst is looked at once.
        loop {
            match changes.try_recv() {
                Ok(revoked) => users.insert(revoked.user),
                Err(broadcast::error::TryRecvError::Lagged(_)) => users.insert(None),
                Err(_) => break,
            };
        }
        if users.contains(&None) {
            users = HashSet::from([None]);
        }
        for user in users {
            shards.order(&Arc::new(Control::Recheck { whose: Whose { user, ..Whose::default() } }));
        }
    }
}

/// Holds on to being alone until everything has ended, so that the next node begins after this one.
fn keep_alone(alone: Alone, tasks: &mut JoinSet<()>, phase: watch::Receiver<Phase>) -> watch::Receiver<bool> {
    let (tell, displaced) = watch::channel(false);
    tasks.spawn(async move {
        tokio::select! {
            error = alone.keep() => {
                tracing::error!(%error, "this node has to end");
                tell.send_replace(true);
            }
            () = reached(phase, Phase::Ending) => {}
        }
    });
    displaced
}

type Node = Hub<AnyBus, Entities>;

fn hub(
    config: &Config,
    bus: &Arc<AnyBus>,
    readers: &Entities,
    queries: &StoredQueries,
    verifier: &Arc<Verifier>,
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

async fn start_channels(
    root: &Supervisor,
    hub: &Arc<Node>,
    told: mpsc::Receiver<dzvin_actors::platform::ports::BusEvent>,
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

async fn start_presence(
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
        let (shards, apps) = (node.shards.clone(), node.apps.clone());
        let args = PresenceArgs {
            store: Arc::clone(&store),
            bus: Arc::clone(&node.bus),
            slot: node.presence.clone(),
            announce: Arc::new(move || shards.present()),
            counted: Arc::new(move |channel| apps.counts(channel)),
            events: Some(edges.clone()),
            limits: limits.clone(),
            metrics: metrics.clone(),
            progress: spawner.progress.clone(),
        };
        async move { Ok(Actor::spawn_linked(None, PresenceActor::default(), args, spawner.supervisor).await?.0.get_cell()) }
    });
    Ok(root.start(presence.stuck_after(STUCK)).await?)
}

#[allow(clippy::too_many_arguments, reason = "the root hands each room what it stands on")]
async fn start_relay(
    root: &Supervisor,
    bus: &Arc<AnyBus>,
    entities: &Entities,
    leases: &Arc<PgLeases>,
    database: &Database,
    registry: &mut Registry,
    tasks: &mut JoinSet<()>,
    phase: watch::Receiver<Phase>,
    lease_ttl: Duration,
) -> Result<(), AppError> {
    let metrics = RelayMetrics::default();
    metrics.register(registry);
    let handle = RelayHandle::default();
    let args = RelayArgs {
        config: RelayConfig { lease_ttl, ..RelayConfig::default() },
        bus: Arc::clone(bus),
        log: Arc::new(entities.clone()),
        leases: Arc::clone(leases),
        metrics,
        handle: handle.clone(),
    };
    let mut commits = database.commits();
    tasks.spawn(async move {
        let waking = async {
            let mut heard = 0;
            while commits.changed().await.is_ok() {
                let elsewhere = commits.borrow_and_update().elsewhere;
                if std::mem::replace(&mut heard, elsewhere) == elsewhere {
                    handle.wake_here();
                } else {
                    handle.wake();
                }
            }
        };
        tokio::select! {
            () = waking => {}
            () = reached(phase, Phase::Ending) => {}
        }
    });
    Ok(root.start(args.child()).await?)
}

type Scrape = Box<dyn Fn() -> Result<String, std::fmt::Error> + Send + Sync>;

/// What operators are shown of the metrics: nothing until all rooms have theirs.
fn scrape(metrics: &Arc<OnceLock<Scrape>>) -> impl Fn() -> Result<String, std::fmt::Error> + Send + Sync + 'static {
    let metrics = Arc::clone(metrics);
    move || metrics.get().map_or_else(|| Ok("# EOF\n".to_owned()), |scrape| scrape())
}

fn look_at(readiness: &Readiness, bus: &Arc<AnyBus>, database: &Database, silence: Duration, links: &Links) {
    let (bus, database, links) = (Arc::clone(bus), database.clone(), links.clone());
    readiness.add("bus", move || {
        if bus.is_connected() { Check::ok() } else { Check::down("redis is away; changes are read from the log") }
    });
    readiness.add("database", move || {
        if database.contact().is_fresh(silence) { Check::ok() } else { Check::down("postgresql does not answer") }
    });
    readiness.add("mirrors", move || links.check());
}

fn address(listener: &TcpListener) -> Result<std::net::SocketAddr, AppError> {
    listener.local_addr().map_err(AppError::internal)
}

/// Ends when the phase has come.
async fn reached(mut phase: watch::Receiver<Phase>, wanted: Phase) {
    // A sender that is gone ends everything as well.
    let _ = phase.wait_for(|now| *now >= wanted).await;
}
