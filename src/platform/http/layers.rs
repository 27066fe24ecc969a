//! What every request passes through: trace, limits, panics contained, errors as problems, headers, metrics.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, StreamExt};
use hyper::body::{Frame, SizeHint};
use prometheus_client::metrics::gauge::Gauge;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument;

use super::{
    HttpMetrics, Origins, Problem, TraceContext,
    address::Proxies,
    compress::compress,
    headers::{DZVIN_POSITION, IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED},
    trace::{REQUEST_ID, TRACEPARENT},
    xml::{self, Xml},
};
use crate::platform::config::Http;

/// Most of a plain-text refusal that is kept as the detail of its problem.
const MAX_DETAIL: usize = 1024;
/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
/// How long the rest of a body that no handler read is waited for: a proxy that buffers sends it at once.
const DRAIN: Duration = Duration::from_secs(5);

/// Limits and counters of [`plumb`].
#[derive(Debug, Clone)]
pub struct Plumbing {
    /// Largest request body.
    pub max_body: usize,
    /// Longest handling of a request, up to the headers of its answer.
    pub request_timeout: Duration,
    /// Origins whose pages may call us.
    pub allowed_origins: Origins,
    /// Who is believed when it names somebody else.
    pub(super) proxies: Proxies,
    /// Counters.
    pub metrics: HttpMetrics,
    xml: Xml,
}

impl Plumbing {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &Http, metrics: HttpMetrics) -> Self {
        let (max_body, request_timeout) = (config.max_body, config.request_timeout);
        let (allowed_origins, proxies) = (Origins::new(&config.allowed_origins), Proxies::new(config));
        let xml = Xml::new(config, metrics.clone());
        Self { max_body, request_timeout, allowed_origins, proxies, metrics, xml }
    }
}

/// Puts the plumbing under a finished router: call it last, once. The router's own fallback, if any, is replaced.
pub fn plumb(router: Router, plumbing: Plumbing) -> Router {
    let router = router
        .fallback(|request: Request| async move { not_found(request.uri().path()) })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(DefaultBodyLimit::max(plumbing.max_body));
    let router = match cors(&plumbing.allowed_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    compress(router.layer(from_fn_with_state(Arc::new(plumbing), pass)))
}

fn not_found(path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    Problem::not_found("not_found", format!("there is nothing at {shown}"))
}

fn cors(origins: &Origins) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = if origins.is_any() {
        AllowOrigin::any()
    } else {
        let origins = origins.clone();
        AllowOrigin::predicate(move |origin, _| origin.to_str().is_ok_and(|origin| origins.allows(origin)))
    };
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        IDEMPOTENCY_KEY,
        REQUEST_ID,
        TRACEPARENT,
    ];
    let exposed =
        [header::ETAG, header::LOCATION, header::RETRY_AFTER, DZVIN_POSITION, IDEMPOTENCY_REPLAYED, REQUEST_ID];
    let cors = CorsLayer::new().allow_origin(allowed).allow_methods(methods).allow_headers(headers);
    Some(cors.expose_headers(exposed).max_age(PREFLIGHT_AGE))
}

/// Counts a request in hand, however it ends.
struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn pass(State(plumbing): State<Arc<Plumbing>>, mut request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    plumbing.metrics.in_flight.inc();
    let _in_flight = InFlight(plumbing.metrics.in_flight.clone());
    let trace = TraceContext::of(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let client = peer.map(|peer| plumbing.proxies.client(peer, request.headers()));
    let span = tracing::info_span!(
        "request", %method, route,
        address = client.map(tracing::field::display),
        request_id = &*trace.request_id, trace_id = %format_args!("{:032x}", trace.trace_id),
        // Filled in by whoever learns who asks.
        user = tracing::field::Empty,
    );
    request.extensions_mut().insert(trace.clone());
    if let Some(client) = client {
        request.extensions_mut().insert(client);
    }
    async {
        let in_xml = xml::wanted(request.headers());
        let mut response = as_problem(answer(&plumbing, request, next).await).await;
        if in_xml {
            response = plumbing.xml.response(response).await;
        }
        secure(&mut response, &trace);
        let (status, took) = (response.status(), started.elapsed());
        plumbing.metrics.answered(&route, &method, status, took);
        tracing::debug!(status = status.as_u16(), took_us = took.as_micros() as u64, "request answered");
        response
    }
    .instrument(span)
    .await
}

async fn answer(plumbing: &Plumbing, request: Request, next: Next) -> Response {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: u64| length > plumbing.max_body as u64) {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    let unread = Unread::default();
    let request = if request.body().is_end_stream() { request } else { request.map(|body| unread.lend(body)) };
    let run = async {
        match plumbing.xml.request(request, plumbing.max_body).await {
            Ok(request) => next.run(request).await,
            Err(problem) => problem.into_response(),
        }
    };
    let handled = AssertUnwindSafe(run).catch_unwind();
    let handled = tokio::time::timeout(plumbing.request_timeout, handled).await;
    unread.drain(plumbing.max_body).await;
    match handled {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            plumbing.metrics.panics.inc();
            let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref().cloned());
            let text: String = text.unwrap_or_else(|| "no text".to_owned());
            Problem::internal(format!("a handler panicked: {text}")).into_response()
        }
        Err(_) => Problem::unavailable("request_timeout", "the request took too long, try again").into_response(),
    }
}

/// The request's body, kept while the handler reads it: what the handler left is read before the answer goes out. An answer
/// before the end of the body closes the connection, and a proxy that is still sending tells its client of a bad gateway.
#[derive(Clone, Default)]
struct Unread(Arc<Mutex<Option<Body>>>);

impl Unread {
    fn lend(&self, body: Body) -> Body {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        Body::new(self.clone())
    }

    /// Reads the rest, but no more than one body's worth and not for long; whoever sends more is cut.
    async fn drain(&self, limit: usize) {
        let Some(body) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // What came in excess or too late is the sender's loss.
        let _ = tokio::time::timeout(DRAIN, read_away(body, limit)).await;
    }
}

/// Reads and forgets up to so many bytes.
async fn read_away(body: Body, limit: usize) {
    let mut pieces = body.into_data_stream();
    let mut left = limit;
    while let Some(Ok(piece)) = pieces.next().await {
        let Some(rest) = left.checked_sub(piece.len()) else { return };
        left = rest;
    }
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

/// Refusals that the framework makes itself (an extractor, a limit, a method) are plain text or empty: they become problems.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, MAX_DETAIL).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    if status.is_server_error() {
        return Problem::new(status, "internal", "something went wrong on our side").caused_by(text).into_response();
    }
    let (code, fallback) = refusal(status);
    let detail = if text.is_empty() { fallback.to_owned() } else { text };
    Problem::new(status, code, detail).allow(parts.headers.get(header::ALLOW).cloned()).into_response()
}

fn refusal(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::BAD_REQUEST => ("bad_request", "the request is malformed"),
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this address"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this address does not know the method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the request's body is above the limit"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "the request's media type is not known here"),
        StatusCode::UNPROCESSABLE_ENTITY => ("unprocessable", "the request's content cannot be used"),
        _ => ("refused", "the request was refused"),
    }
}

/// Defaults that a handler may set otherwise: pages of the console bring a policy of their own.
fn secure(response: &mut Response<Body>, trace: &TraceContext) {
    const DEFAULTS: [(HeaderName, &str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    let headers = response.headers_mut();
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if let Ok(id) = HeaderValue::from_str(&trace.request_id) {
        headers.insert(REQUEST_ID, id);
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
