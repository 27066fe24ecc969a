//! `POST /api/{method}`: the server API, in the dialect of Centrifugo's, so that its client libraries work as they are.
//!
//! Invariants: a publication is answered when the bus has it; nobody publishes on the hub's own channels. Every answer is 200
//! with `result` (`replies` to a batch) or `error`, but for a caller without rights, a body that is no request, and a bus that is away.

mod caller;
mod control;
mod methods;
mod nodes;
mod present;
mod publish;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use dzvin_actors::channels::{Apps, Namespaces};
use dzvin_protocols::channels::centrifuge::ErrorCode;
use serde::Serialize;

use self::caller::ApiCaller;
pub use self::nodes::Nodes;
use super::{bus::AnyBus, presence::AnyPresence};
use crate::{
    identity::ApiKeys,
    platform::http::{Problem, TraceContext},
};

/// What the API works on.
#[derive(Debug, Clone)]
pub struct ServerApi {
    /// Where publications go.
    pub bus: Arc<AnyBus>,
    /// What holds for their channels.
    pub namespaces: Arc<Namespaces>,
    /// Whose clients are shown the last publication of cache channels.
    pub apps: Apps,
    /// Who is on which channel.
    pub presence: Arc<AnyPresence>,
    /// Whether it is kept how many subscribers channels have.
    pub occupancy: bool,
    /// What one call may ask.
    pub limits: ApiLimits,
    /// Keys of servers.
    pub keys: ApiKeys,
    /// All nodes, for `info`.
    pub nodes: Nodes,
}

/// What one call may ask.
#[derive(Debug, Clone, Copy)]
pub struct ApiLimits {
    /// Publications, clients or channels of one page.
    pub page: usize,
    /// Commands of one batch, and channels of one broadcast.
    pub batch: usize,
    /// Longest name of a channel, in bytes.
    pub name: usize,
    /// How long a publisher's key is remembered.
    pub idempotency: Duration,
}

/// The routes.
pub fn router(api: ServerApi) -> Router {
    Router::new().route("/api/{method}", post(call)).with_state(Arc::new(api))
}

/// Why a method did not do what was asked.
#[derive(Debug)]
enum Refusal {
    /// An error of the protocol, in the answer.
    Error(ErrorCode),
    /// An answer of HTTP.
    Problem(Problem),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

async fn call(
    State(api): State<Arc<ServerApi>>,
    Path(method): Path<String>,
    caller: ApiCaller,
    headers: HeaderMap,
    trace: Option<Extension<TraceContext>>,
    body: Bytes,
) -> Result<Response, Problem> {
    // A trace that nobody began would only make every frame longer.
    let trace = trace.filter(|_| headers.contains_key("traceparent")).map(|trace| trace.0.traceparent().into());
    let request = methods::Call { api: &api, caller: &caller, trace };
    let json = match request.dispatch(&method, &body).await {
        Ok(answer) => answer,
        Err(Refusal::Error(error)) => refusal(error),
        Err(Refusal::Problem(problem)) => return Err(problem),
    };
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `{"error":{"code":107,"message":"bad request"}}`.
fn refusal(error: ErrorCode) -> String {
    format!("{{\"error\":{{\"code\":{},\"message\":\"{}\"}}}}", error.code(), error.message())
}

fn json(value: &impl Serialize) -> String {
    // Our own types of strings and numbers: serialising them into memory cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}
