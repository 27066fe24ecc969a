//! The transports beside the WebSocket of both directions: an HTTP answer that goes on or server-sent events, with the
//! client's commands in requests of their own (`POST /emulation`), and WebSocket and events for clients that only listen.
//!
//! A session does not know the difference: it has one end of a pipe, whose other end an HTTP answer is made of. What it
//! writes is framed for the transport already; what the client says is put before it as WebSocket frames. Invariants: who may
//! come is judged as for the WebSocket; nothing is buffered here beyond one piece of the pipe, so a client that does not read
//! fills the pipe, then the session's bounded queue, and is closed as slow.

mod emulation;
mod pipe;
mod refusals;
mod stream;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::HeaderMap,
    response::Response,
    routing::{get, post},
};
use dzvin_actors::channels::{Mailboxes, Wire};
use dzvin_protocols::channels::centrifuge::Form;

pub use self::refusals::Refusals;
use super::{
    bus::AnyBus,
    endpoint::{Endpoint, upgrade},
};
use crate::platform::http::{Problem, media_type};

/// What these endpoints need.
#[derive(Debug, Clone)]
pub struct Transports {
    /// Who takes connections, and from whom.
    pub endpoint: Endpoint,
    /// The way to sessions of other nodes.
    pub bus: Arc<AnyBus>,
    /// Sessions of this node that get their commands here.
    pub mailboxes: Mailboxes,
    /// The largest body: that of a client's message.
    pub max_message: usize,
    /// How often commands may be for sessions that are not there.
    pub refusals: Refusals,
}

impl Transports {
    /// The routes.
    pub fn router(self) -> Router {
        let max_message = self.max_message;
        Router::new()
            .route("/connection/http_stream", post(stream::lines))
            .route("/connection/sse", get(stream::events).post(stream::events))
            .route("/connection/uni_sse", get(stream::only_events).post(stream::only_events))
            .route("/connection/uni_websocket", get(only_frames))
            .route("/emulation", post(emulation::emulate))
            .layer(DefaultBodyLimit::max(max_message))
            .with_state(Arc::new(self))
    }
}

/// `GET /connection/uni_websocket`: the first text frame says who it is, as JSON; after that only the hub speaks.
async fn only_frames(State(transports): State<Arc<Transports>>, request: Request) -> Result<Response, Problem> {
    upgrade(&transports.endpoint, request, |endpoint, headers, _| {
        endpoint.check_origin(headers)?;
        Ok((None, Wire::OneWayWebSocket, None))
    })
}

/// The form of a body. What is not said to be bytes is JSON: pages that must do without a preflight call it plain text.
fn form_of(headers: &HeaderMap) -> Form {
    if media_type(headers) == "application/octet-stream" { Form::Protobuf } else { Form::Json }
}
