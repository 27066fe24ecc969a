//! `/apps/{id}/...`: the signed HTTP API of the Pusher protocol, for servers of applications and their unmodified libraries.
//!
//! Invariants: nothing is done before the signature over method, path, query and body has been checked; an event is answered
//! when the bus has it; nobody publishes on the hub's own channels, nor on another application's where they are isolated.
//! Refusals are problems, as everywhere: the libraries read the status alone.

mod ask;
mod publish;
mod refusal;
mod signed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dzvin_actors::{
    channels::{Apps, Namespaces},
    platform::ports::{Bus, Presence},
};
use dzvin_protocols::channels::pusher::http_api::PublishLimits;

use crate::identity::guard::Guard;

/// What the API works on.
pub struct PusherApi<B, P> {
    /// Who may call.
    pub apps: Apps,
    /// Where publications go.
    pub bus: Arc<B>,
    /// Who is where.
    pub presence: Arc<P>,
    /// What holds for channels.
    pub namespaces: Arc<Namespaces>,
    /// What one request may publish.
    pub limits: PublishLimits,
    /// Who fails too often.
    pub guard: Guard,
}

/// The routes.
pub fn router<B: Bus, P: Presence>(api: PusherApi<B, P>) -> Router {
    Router::new()
        .route("/apps/{id}/events", post(publish::events))
        .route("/apps/{id}/batch_events", post(publish::batch))
        .route("/apps/{id}/channels", get(ask::channels))
        .route("/apps/{id}/channels/{channel}", get(ask::channel))
        .route("/apps/{id}/channels/{channel}/users", get(ask::users))
        .route("/apps/{id}/channels/{channel}/events", post(publish::legacy))
        .route("/apps/{id}/users/{user}/terminate_connections", post(ask::terminate))
        .with_state(Arc::new(api))
}

/// 200 with a body that is JSON already.
fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
