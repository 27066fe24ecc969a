//! What the hub's doors stand on: for clients, for servers, for operators.

use std::sync::Arc;

use axum::Router;
use dzvin_protocols::channels::Control;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{
    actors::Node,
    background::{Background, Phase},
    settings,
};
use crate::{
    channels::{self, bus::AnyBus, presence::AnyPresence, pusher},
    identity::{ApiKeys, guard::Guard},
    platform::{config::Config, http::Origins},
};

/// What is behind the doors.
pub(super) struct House {
    pub(super) hub: Arc<Node>,
    pub(super) bus: Arc<AnyBus>,
    pub(super) presence: Arc<AnyPresence>,
    /// Of servers.
    pub(super) keys: ApiKeys,
    /// Who fails too often.
    pub(super) guard: Guard,
    /// Who else there is.
    pub(super) nodes: channels::api::Nodes,
}

impl House {
    /// Where sessions come in, whatever they speak.
    pub(super) fn endpoint(&self, config: &Config, registry: &mut Registry) -> channels::Endpoint {
        let endpoint = channels::Endpoint {
            shards: self.hub.shards.clone(),
            admission: channels::Admission::new(&config.channels),
            allowed_origins: Origins::new(&config.http.allowed_origins),
            tls: config.http.tls.is_some(),
        };
        endpoint.admission.register(registry);
        endpoint
    }

    /// What sessions connect to, and what signs for them.
    pub(super) fn clients(
        &self,
        config: &Config,
        endpoint: channels::Endpoint,
        refusals: channels::Refusals,
    ) -> Router {
        let transports = channels::Transports {
            refusals,
            endpoint: endpoint.clone(),
            bus: Arc::clone(&self.bus),
            mailboxes: self.hub.mailboxes.clone(),
            max_message: self.hub.limits.message,
        };
        let signing = pusher::auth::Signing {
            apps: self.hub.apps.clone(),
            namespaces: Arc::clone(&self.hub.namespaces),
            auth: Arc::clone(&self.hub.auth),
        };
        let pusher_api = pusher::http::PusherApi {
            apps: self.hub.apps.clone(),
            bus: Arc::clone(&self.bus),
            presence: Arc::clone(&self.presence),
            namespaces: Arc::clone(&self.hub.namespaces),
            limits: settings::publish_limits(config),
            guard: self.guard.clone(),
        };
        pusher::router(endpoint.clone(), self.hub.apps.clone())
            .merge(pusher::auth::router(signing))
            .merge(pusher::http::router(pusher_api))
            .merge(channels::router(endpoint))
            .merge(transports.router())
    }

    /// What servers call.
    pub(super) fn servers(&self, config: &Config) -> Router {
        channels::api::router(channels::api::ServerApi {
            bus: Arc::clone(&self.bus),
            namespaces: Arc::clone(&self.hub.namespaces),
            apps: self.hub.apps.clone(),
            presence: Arc::clone(&self.presence),
            occupancy: self.hub.limits.occupancy,
            limits: settings::api_limits(config),
            keys: self.keys.clone(),
            nodes: self.nodes.clone(),
        })
    }

    /// Who listens, here and on the other nodes.
    pub(super) fn audience(&self) -> Arc<channels::Audience> {
        Arc::new(channels::Audience::new(Arc::clone(&self.bus), self.hub.shards.clone()))
    }

    /// What operators ask about sessions, here and on the other nodes, whose letters these are.
    pub(super) fn operators(
        &self,
        refusals: channels::Refusals,
        letters: mpsc::Receiver<Control>,
        background: &mut Background,
    ) -> Router {
        let connections = channels::Connections::new(Arc::clone(&self.bus), self.hub.shards.clone());
        let traces = channels::Traces::new(Arc::clone(&self.bus), self.hub.tracer.clone());
        let (stopping, closing) = (traces.clone(), background.reached(Phase::Closing));
        background.run(async move {
            closing.await;
            stopping.stop();
        });
        background.keep(channels::correspond(
            connections.clone(),
            traces.clone(),
            refusals,
            self.nodes.clone(),
            letters,
        ));
        channels::connections_router(connections).merge(channels::trace_router(traces))
    }
}
