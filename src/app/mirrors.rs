//! The links of this node, one per configured Mirror, behind one governor for the egress address that they share.

use std::{collections::BTreeMap, future::Future, path::Path, pin::Pin, sync::Arc, time::Duration};

use dzvin_actors::{
    cdb::{EgressLimits, Governor},
    mirror::{Link, LinkConfig, LinkHandle, LinkLimits, LinkParts, MirrorMetrics, ReconcileRules, TapRules, Token},
    supervise::{ChildSpec, Supervisor},
};
use prometheus_client::registry::Registry;
use ractor::Actor;
use tokio::sync::watch;

use super::{AppError, settings};
use crate::{
    cdb::{CdbClient, CdbConfig, CdbLimits},
    entities::Entities,
    mirror::{Mirrors, Resume, Resumed},
    platform::{
        config::{self, Config, MirrorConfig},
        http::Check,
        lease::PgLeases,
    },
};

type Parts = LinkParts<Mirrors, PgLeases, CdbClient>;

/// The links by the Mirror's name.
#[derive(Clone)]
pub(super) struct Links {
    handles: Arc<BTreeMap<String, LinkHandle>>,
    /// Where a link's token and message limit are read again.
    source: Option<Arc<Path>>,
}

impl Links {
    pub(super) async fn start(
        config: &Config,
        root: &Supervisor,
        entities: &Entities,
        leases: &Arc<PgLeases>,
        registry: &mut Registry,
    ) -> Result<Self, AppError> {
        let metrics = MirrorMetrics::new(registry);
        // Every Mirror holds one of the connections for good.
        let governor = Arc::new(Governor::new(EgressLimits {
            per_second: config.cdb.per_second,
            per_minute: config.cdb.per_minute,
            burst: config.cdb.burst,
            connections: config.cdb.connections.max(config.mirrors.len() + 4),
            ..EgressLimits::default()
        }));
        governor.metrics().register(registry);
        let store = Arc::new(Mirrors::new(entities.clone()));
        let mut handles = BTreeMap::new();
        for mirror in &config.mirrors {
            let parts = parts(mirror, config.leases.ttl, &store, leases, &governor, &metrics)?;
            handles.insert(mirror.name.to_string(), parts.handle.clone());
            let link = ChildSpec::new(format!("mirror-{}", mirror.name), move |spawner| {
                let parts = parts.clone();
                async move { Ok(Actor::spawn_linked(None, Link::default(), parts, spawner.supervisor).await?.0.get_cell()) }
            });
            root.start(link).await?;
        }
        Ok(Self { handles: Arc::new(handles), source: config.source.as_deref().map(Arc::from) })
    }

    /// A changed token ends the wait of a forbidden link; a changed limit is in force with the next message.
    pub(super) fn update(&self, mirror: &MirrorConfig, max_message_bytes: usize) {
        let Some(handle) = self.handles.get(mirror.name.as_str()) else { return };
        handle.set_token(token(mirror));
        handle.set_max_message_bytes(max_message_bytes);
    }

    /// What readiness shows; it decides nothing.
    pub(super) fn check(&self) -> Check {
        let troubled = |(name, handle): (&String, &LinkHandle)| {
            let status = handle.status();
            let well = matches!(status.state.as_str(), "live" | "snapshot" | "standby" | "handshaking" | "connecting");
            (!well).then(|| format!("{name} is {}", status.state))
        };
        match self.handles.iter().filter_map(troubled).reduce(|all, one| format!("{all}, {one}")) {
            None => Check::ok(),
            Some(detail) => Check::down(detail),
        }
    }
}

impl Resume for Links {
    fn resume<'a>(
        &'a self,
        mirror: &'a str,
        trace: Option<Arc<str>>,
    ) -> Pin<Box<dyn Future<Output = Resumed> + Send + 'a>> {
        Box::pin(async move {
            let Some(handle) = self.handles.get(mirror).filter(|handle| handle.status().state != "standby") else {
                return Resumed::NotHere;
            };
            if let Err(why) = self.read_again(mirror).await {
                tracing::warn!(mirror, why, "the configuration was not read again");
                return Resumed::Unreadable(why);
            }
            // The span of the request says who did it.
            tracing::info!(mirror, "the link is told to go on");
            handle.resume(trace);
            Resumed::Told
        })
    }
}

impl Links {
    /// Takes up the token and the message limit that the configuration has now. Nothing is said to a link that has them.
    async fn read_again(&self, mirror: &str) -> Result<(), String> {
        let Some(source) = self.source.clone() else { return Ok(()) };
        let config = tokio::task::spawn_blocking(move || config::load(Some(&source))).await;
        let config = config.map_err(|_| "reading it failed".to_owned())?.map_err(|error| error.to_string())?;
        let Some(mirror) = config.mirrors.iter().find(|it| it.name.as_str() == mirror) else {
            return Err(format!("it no longer has the mirror {mirror}"));
        };
        let dialect = settings::dialect(mirror).map_err(|error| error.to_string())?;
        self.update(mirror, dialect.max_message_bytes);
        Ok(())
    }
}

fn token(mirror: &MirrorConfig) -> Option<Token> {
    mirror.token.as_ref().map(|token| Token::new(token.expose()))
}

fn parts(
    mirror: &MirrorConfig,
    lease_ttl: Duration,
    store: &Arc<Mirrors>,
    leases: &Arc<PgLeases>,
    governor: &Arc<Governor>,
    metrics: &MirrorMetrics,
) -> Result<Parts, AppError> {
    let dialect = Arc::new(settings::dialect(mirror)?);
    let token = watch::Sender::new(token(mirror));
    let cdb = mirror.api_url.as_ref().map(|url| {
        let config = CdbConfig {
            base_url: url.expose().to_owned(),
            dialect: Arc::clone(&dialect),
            platform_version: mirror.platform_version.clone(),
            token: token.subscribe(),
            limits: CdbLimits::default(),
        };
        CdbClient::new(config, Arc::clone(governor))
            .map_err(|error| AppError::config(format!("mirrors.{}.api_url", mirror.name), error))
    });
    let config = LinkConfig {
        name: mirror.name.as_str().into(),
        kind: mirror.kind.clone(),
        url: mirror.url.expose().to_owned(),
        platform_version: mirror.platform_version.clone(),
        reconcile: ReconcileRules {
            interval: mirror.reconcile.interval,
            pause: mirror.reconcile.pause,
            page: mirror.reconcile.page,
        },
        tap: mirror.tap.as_ref().map(|tap| TapRules { path: tap.path.clone(), frames: tap.frames }),
        // Asked for often enough that a takeover comes within one and a half of the term.
        limits: LinkLimits { lease_ttl, standby_poll: lease_ttl / 5, ..LinkLimits::default() },
        dialect: Arc::clone(&dialect),
        fields: store.fields(&mirror.kind),
    };
    let handle = LinkHandle::new(token, dialect.max_message_bytes);
    Ok(LinkParts {
        config,
        store: Arc::clone(store),
        leases: Arc::clone(leases),
        cdb: cdb.transpose()?.map(Arc::new),
        governor: Arc::clone(governor),
        metrics: metrics.clone(),
        handle,
    })
}
