//! The front of the house: how it is served, and what operators are shown from the first moment on.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use prometheus_client::registry::Registry;

use super::{
    AppError,
    background::{Background, Phase},
    mirrors::Links,
};
use crate::{
    channels::{self, bus::AnyBus},
    platform::{
        config::Config,
        db::Database,
        http::{
            AnswerRoom, Bound, Certificates, Check, HttpMetrics, Pair, Plumbing, Readiness, Serving, internal_router,
            listen, plumb, serve,
        },
        telemetry,
    },
};

/// The database is asked for leases at least once in a third of their time, and within this with the default one. Without an
/// answer for so long a call hangs.
const SILENCE: Duration = Duration::from_secs(10);

type Scrape = Box<dyn Fn() -> Result<String, fmt::Error> + Send + Sync>;

/// Both addresses, and what is served on them. A second node on the same ones finds the one for operators taken.
pub(super) struct Front {
    /// Not opened before the node is ready: who is refused asks another, who waits in its queue does not.
    public: Bound,
    /// Where clients are served.
    pub(super) address: SocketAddr,
    /// Where operators are served.
    pub(super) internal_address: SocketAddr,
    pub(super) readiness: Arc<Readiness>,
    pub(super) certificates: Option<Certificates>,
    serving: Serving,
    metrics: HttpMetrics,
    /// Nothing until all rooms have registered theirs.
    scrape: Arc<OnceLock<Scrape>>,
}

impl Front {
    /// Takes both addresses. Operators are served at once: whoever asks meanwhile is told that we are starting.
    pub(super) fn open(
        config: &Config,
        registry: &mut Registry,
        background: &mut Background,
    ) -> Result<Self, AppError> {
        let public = Bound::new("http.listen", config.http.listen)?;
        let internal = listen("http.internal_listen", config.http.internal_listen)?;
        let pair = config.http.tls.as_ref().map(Pair::read).transpose().map_err(AppError::tls)?;
        let metrics = HttpMetrics::default();
        metrics.register(registry);
        let front = Self {
            address: public.addr,
            internal_address: internal.local_addr().map_err(AppError::internal)?,
            public,
            readiness: Arc::default(),
            certificates: pair.map(|pair| Certificates::new(pair, metrics.clone())),
            serving: Serving::new(&config.http, config.shutdown.grace, metrics.clone()),
            metrics,
            scrape: Arc::default(),
        };
        let scrape = Arc::clone(&front.scrape);
        let scrape = move || scrape.get().map_or_else(|| Ok("# EOF\n".to_owned()), |scrape| scrape());
        let ops = internal_router(Arc::clone(&front.readiness), scrape);
        let ops = plumb(ops, Plumbing::new(&config.http, front.metrics.clone()));
        background.run(serve(internal, ops, front.serving.clone(), background.reached(Phase::Ending)));
        if let Some(certificates) = front.certificates.clone() {
            background.keep(async move { certificates.keep_fresh().await });
        }
        Ok(front)
    }

    /// Room for what is answered.
    pub(super) fn answer_room(&self, config: &Config) -> AnswerRoom {
        AnswerRoom::new(&config.http, self.metrics.clone())
    }

    /// What readiness tells.
    pub(super) fn look_at(&self, config: &Config, bus: &Arc<AnyBus>, database: &Database, links: &Links) {
        let (bus, database, links) = (Arc::clone(bus), database.clone(), links.clone());
        let silence = config.leases.ttl.max(SILENCE);
        self.readiness.add("bus", move || {
            if bus.is_connected() { Check::ok() } else { Check::down("redis is away; changes are read from the log") }
        });
        self.readiness.add("database", move || {
            if database.contact().is_fresh(silence) { Check::ok() } else { Check::down("postgresql does not answer") }
        });
        self.readiness.add("mirrors", move || links.check());
    }

    /// Serves clients, and says that the node is ready. All rooms have registered their metrics.
    pub(super) fn serve(
        self,
        config: &Config,
        public: Router,
        endpoint: channels::Endpoint,
        rooms: Registry,
        background: &mut Background,
    ) -> Result<(), AppError> {
        let listener = self.public.listen()?;
        let plumbing = Plumbing::new(&config.http, self.metrics);
        let express = channels::express(endpoint, &plumbing);
        let public = plumb(public, plumbing);
        // Set once, here.
        let _ = self.scrape.set(Box::new(telemetry::scrape(rooms)));
        let serving = self.serving.behind(self.certificates).with_express(express);
        background.run(serve(listener, public, serving, background.reached(Phase::Closing)));
        self.readiness.ready();
        Ok(())
    }
}
