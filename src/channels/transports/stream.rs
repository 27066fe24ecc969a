//! Answers that go on: lines, and server-sent events. What the client says first comes with the request.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use dzvin_actors::channels::{Incoming, Wire};
use dzvin_protocols::channels::centrifuge::Form;
use serde::Deserialize;

use super::{
    Transports, form_of,
    pipe::{Stream, client_frame},
};
use crate::platform::http::{ClientAddress, Problem, pipe};

/// What stands before the first event: it makes proxies and polyfills open the stream at once, and says nothing.
const GREETING: &[u8] = b"\r\n";
/// A hint to nginx and its kin: each piece is to be handed on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a browser's `EventSource`, which has no body, says in the address.
#[derive(Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    cf_connect: String,
}

/// `POST /connection/http_stream`.
pub(super) async fn lines(
    State(transports): State<Arc<Transports>>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let (wire, kind) = match form_of(&headers) {
        Form::Json => (Wire::StreamJson, "application/json"),
        Form::Protobuf => (Wire::StreamProtobuf, "application/octet-stream"),
    };
    transports.open((&headers, address), wire, &body).map(|stream| answer(stream, kind))
}

/// `GET` or `POST /connection/sse`.
pub(super) async fn events(
    State(transports): State<Arc<Transports>>,
    Query(said): Query<Said>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let stream = transports.open((&headers, address), Wire::EventSource, &first(said, body))?;
    Ok(answer(stream, "text/event-stream; charset=utf-8"))
}

/// `GET` or `POST /connection/uni_sse`. Who says nothing is nobody, which the session judges.
pub(super) async fn only_events(
    State(transports): State<Arc<Transports>>,
    Query(said): Query<Said>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let first = Some(first(said, body)).filter(|it| !it.is_empty()).unwrap_or(Bytes::from_static(b"{}"));
    let stream = transports.open((&headers, address), Wire::OneWayEventSource, &first)?;
    Ok(answer(stream, "text/event-stream; charset=utf-8"))
}

/// Who asks: the headers, and the client's address where it is known.
type Asking<'a> = (&'a HeaderMap, Option<Extension<ClientAddress>>);

fn first(said: Said, body: Bytes) -> Bytes {
    if body.is_empty() { said.cf_connect.into() } else { body }
}

impl Transports {
    /// Begins a session that has been told this.
    fn open(&self, (headers, address): Asking<'_>, wire: Wire, first: &[u8]) -> Result<Stream, Problem> {
        self.endpoint.check_origin(headers)?;
        let form = if wire == Wire::StreamProtobuf { Form::Protobuf } else { Form::Json };
        if first.is_empty() || (form == Form::Json && std::str::from_utf8(first).is_err()) {
            let detail = "the body, or cf_connect in the address, must be the connect command";
            return Err(Problem::bad_request("connect_expected", detail));
        }
        if first.len() > self.max_message {
            return Err(Problem::new(
                axum::http::StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "the connect command is above the limit",
            ));
        }
        let permit = self.endpoint.admit(address.map(|Extension(address)| address))?;
        let (ours, theirs) = pipe().map_err(|error| {
            let detail = "this node has no room for another connection; try again soon";
            Problem::unavailable("too_many_sessions", detail).caused_by(error)
        })?;
        let greeting = if matches!(wire, Wire::EventSource | Wire::OneWayEventSource) { GREETING } else { b"" };
        let stream = Stream::new(ours, greeting);
        let (mailbox, stream) = if wire == Wire::OneWayEventSource {
            (None, stream)
        } else {
            let (mailbox, arriving) = self.mailboxes.open();
            (Some(mailbox), stream.with_commands(form, arriving))
        };
        let leftover = client_frame(form, first);
        if !self.endpoint.shards.accept(Incoming {
            socket: theirs.into(),
            leftover,
            greeting: Bytes::new(),
            wire,
            permit,
            mailbox,
            admission: None,
        }) {
            let detail = "this node takes no connections at the moment; try again soon";
            return Err(Problem::unavailable("no_sessions", detail));
        }
        Ok(stream)
    }
}

/// Nobody on the way may keep, join or compress what is to be read at once.
fn answer(stream: Stream, kind: &'static str) -> Response {
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "private, no-cache, no-store, no-transform, must-revalidate"),
        (X_ACCEL_BUFFERING, "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
