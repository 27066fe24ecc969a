//! The composition root: the whole system on one page, in start order.
//!
//! Start: store, being alone (without Redis), bus, topics, shards, relay, mirrors, then accept. Stop is the reverse. Nothing here
//! decides anything that a room could decide; it binds ports to what stands behind them.

mod actors;
mod background;
mod error;
mod front;
mod grants;
mod ground;
mod mirrors;
mod reload;
mod routes;
mod settings;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, middleware::from_fn_with_state};
use dzvin_actors::{
    channels::{Notices, Shards},
    supervise::{Settings, Supervisor, SupervisorMetrics},
};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

pub(crate) use self::settings::{database_options, dialect, judge};
use self::{
    background::{Background, Phase},
    front::Front,
    ground::Ground,
    mirrors::Links,
    routes::House,
};
pub use self::{error::AppError, reload::Reloader};
use crate::{
    channels::{self, presence::AnyPresence, pusher::webhooks::WebhookArgs},
    console::{self, Console},
    entities::{self, queries::StoredQueries},
    identity::{ApiKeys, Verifier, accounts, audit, revocations},
    mirror::{self, Mirrors},
    platform::{alone::AloneError, config::Config, db::Database, http::Readiness},
};

/// Events that may wait between the bus and topics; what does not fit the bus replaces by one word, and topics read on.
const BUS_EVENTS: usize = 1024;
/// Questions and answers of other nodes that may wait: operators ask, a few at a time.
const LETTERS: usize = 256;
/// Events of presence that may wait to be handed on.
const EDGES: usize = 1024;
/// What clients and servers are told.
const VERSION: &str = concat!("dzvin ", env!("CARGO_PKG_VERSION"));

/// A node that runs.
pub struct App {
    root: Supervisor,
    shards: Shards,
    readiness: Arc<Readiness>,
    /// What is no actor.
    background: Background,
    database: Database,
    /// Told when another node serves the database, and there is no Redis.
    displaced: watch::Receiver<bool>,
    grace: Duration,
    reloader: Reloader,
    /// Where clients are served.
    pub address: SocketAddr,
    /// Where operators are served.
    pub internal_address: SocketAddr,
}

impl App {
    /// Starts a node. The schema must be up to date.
    ///
    /// # Errors
    /// [`AppError`] says in one line what is wrong and what to do.
    pub async fn start(config: &Config, verifier: Arc<Verifier>) -> Result<Self, AppError> {
        settings::judge(config)?;
        let mut rooms = Registry::with_prefix("dzvin");
        let registry = &mut rooms;
        let mut background = Background::new();
        // Ports first: a second node on the same address must not touch anything.
        let front = Front::open(config, registry, &mut background)?;
        let ground = Ground::lay(config, registry, &mut background).await?;
        let revocations = ground.revocations(&verifier, registry, &mut background).await?;
        let accounts = ground.accounts(&verifier, &revocations, &mut background);
        grants::take(&ground.entities, &verifier);
        let revoked = verifier.revocations().changes();
        let told = audit::Notes::default();
        let audited = ground.audit(config, &told, registry, &mut background);

        let (events, heard) = mpsc::channel(BUS_EVENTS);
        let bus = Arc::new(settings::bus(config, events).await?);
        bus.metrics().register(registry);
        let supervision = SupervisorMetrics::default();
        supervision.register(registry);
        let settings = Settings { name: "root".into(), grace: config.shutdown.grace };
        let root = Supervisor::root(settings, supervision).await.map_err(AppError::internal)?;

        // Whoever only reads must not keep a batch, a lease or the relay waiting for a connection.
        let readers = ground.entities.for_readers();
        let queries = StoredQueries::new(readers.clone());
        queries.register(registry);
        background.keep(queries.clone().keep_used());
        let (letters, received) = mpsc::channel(LETTERS);
        let (notices, noticed) = Notices::new();
        let hub = actors::hub(config, &bus, &readers, &queries, (&verifier, &told), letters, &notices)?;
        hub.metrics.register(registry);
        hub.tracer.metrics().register(registry);
        let gauge = hub.mailboxes.gauge().clone();
        registry.register("mailboxes", "Sessions whose commands come by requests of their own", gauge);
        background.keep(ground::end_revoked(revoked, hub.shards.clone()));
        background.keep(grants::follow(ground.entities.clone(), Arc::clone(&verifier), hub.shards.clone()));
        let presence = Arc::new(AnyPresence::beside(&bus, settings::presence_store(config)));
        // Before those whose events it tells, so that it stops after them.
        let webhooks = WebhookArgs::new(hub.apps.clone(), (notices.clone(), noticed), settings::webhooks(config));
        let webhooks = webhooks.map_err(AppError::internal)?;
        webhooks.register(registry);
        root.start(webhooks.child()).await?;
        let (edges, edge) = mpsc::channel(EDGES);
        background.keep(notices.clone().follow(edge));
        actors::start_channels(&root, &hub, heard).await?;
        actors::start_presence(&root, &hub, &presence, settings::presence(config), edges, registry).await?;
        actors::start_relay(&root, &bus, &ground, registry, &mut background, config.leases.ttl).await?;
        let links = Links::start(config, &root, &ground.entities, &ground.leases, registry).await?;
        front.look_at(config, &bus, &ground.database, &links);

        let keys = ApiKeys::default();
        settings::replace_api_keys(&keys, config)?;
        let port = front.address.port();
        let nodes = channels::api::Nodes::new(Arc::clone(&bus), hub.shards.clone(), hub.metrics.clone(), VERSION, port);
        let guard = verifier.guard().clone();
        let house = House { hub: Arc::clone(&hub), bus: Arc::clone(&bus), presence, keys: keys.clone(), guard, nodes };
        let endpoint = house.endpoint(config, registry);
        let refusals = channels::Refusals::new(config.channels.max_refused_emulations_per_second);
        refusals.register(registry);
        let console = Console::new(config.identity.login.as_ref());
        let reloader = Reloader::new(&verifier, keys, (&hub.apps, &notices), &links, &hub.shards, config).with_edge(
            endpoint.admission.clone(),
            front.certificates.clone(),
            console.clone(),
        );
        let room = front.answer_room(config);
        let owner = Arc::clone(&ground.owner);
        let mirrors = mirror::MirrorsState { mirrors: Mirrors::new(readers.clone()), owner, resume: Arc::new(links) };
        let api = entities::router(ground.entities.clone(), room.clone())
            .merge(entities::queries::router(queries, house.audience(), room))
            .merge(mirror::router(mirrors))
            .merge(house.operators(refusals.clone(), received, &mut background))
            .merge(house.servers(config))
            .merge(revocations::router(revocations))
            .merge(accounts::router(accounts))
            .merge(audit::router(audited))
            .layer(Extension(verifier));
        let public = api.merge(house.clients(config, endpoint.clone(), refusals)).merge(console::router(console));
        let public = public.layer(from_fn_with_state(told, audit::note));
        let mut app = Self {
            root,
            shards: hub.shards.clone(),
            readiness: Arc::clone(&front.readiness),
            background,
            database: ground.database,
            displaced: ground.displaced,
            grace: config.shutdown.grace,
            reloader,
            address: front.address,
            internal_address: front.internal_address,
        };
        if let Err(taken) = front.serve(config, public, endpoint, rooms, &mut app.background) {
            // Another node began at the same moment and was faster: it need not wait for what this one holds.
            app.stop().await;
            return Err(taken);
        }
        Ok(app)
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
        self.background.begin(Phase::Closing);
        let orderly = async {
            let closed = self.shards.drain(self.grace / 2).await;
            tracing::info!(sessions = closed, "sessions were told to come back");
            self.root.stop().await;
            self.background.begin(Phase::Ending);
            self.background.ended().await;
            self.database.close().await;
        };
        if tokio::time::timeout(self.grace, orderly).await.is_err() {
            tracing::warn!(grace = ?self.grace, "not everything stopped within the grace period");
        }
    }
}
