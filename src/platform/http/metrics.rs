//! What the web server counts. Routes are templates, methods and statuses closed sets.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::platform::telemetry::ResultLabel;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
    method: &'static str,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handshake {
    Done,
    Failed,
    TimedOut,
}

/// Shared by the listeners of the process.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<Request, Counter>,
    seconds: Family<Route, Histogram>,
    pub(super) in_flight: Gauge,
    pub(super) panics: Counter,
    pub(super) connections: Gauge,
    pub(super) accept_errors: Counter,
    pub(super) refused: Counter,
    pub(super) answer_bytes: Gauge,
    pub(super) no_room: Counter,
    pub(super) tls_sessions: Gauge,
    handshakes: Family<ResultLabel, Counter>,
    certificates: Family<ResultLabel, Counter>,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        // 0.5 ms doubling to 16 s: answers from memory at one end, the request timeout at the other.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            in_flight: Gauge::default(),
            panics: Counter::default(),
            connections: Gauge::default(),
            accept_errors: Counter::default(),
            refused: Counter::default(),
            answer_bytes: Gauge::default(),
            no_room: Counter::default(),
            tls_sessions: Gauge::default(),
            handshakes: Family::default(),
            certificates: Family::default(),
        }
    }
}

impl HttpMetrics {
    /// Registers all under `http_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("http");
        registry.register("requests", "Answered requests by route template, method and status", self.requests.clone());
        registry.register(
            "request_seconds",
            "From the headers of a request to those of its answer",
            self.seconds.clone(),
        );
        registry.register("requests_in_flight", "Requests in hand", self.in_flight.clone());
        registry.register("panics", "Handlers that panicked", self.panics.clone());
        registry.register("connections", "Open connections, upgraded ones not counted", self.connections.clone());
        registry.register("accept_errors", "Failed accepts: out of descriptors or memory", self.accept_errors.clone());
        registry.register("connections_waited", "Connections that waited for the limit", self.refused.clone());
        registry.register("answer_bytes", "Room that answers hold in memory", self.answer_bytes.clone());
        registry.register("answers_refused", "Answers for which there was no room in time", self.no_room.clone());
        registry.register("tls_handshakes", "TLS handshakes by result", self.handshakes.clone());
        registry.register("tls_sessions", "Upgraded connections behind TLS", self.tls_sessions.clone());
        registry.register("tls_certificates", "Changed certificates by result", self.certificates.clone());
    }

    pub(super) fn handshake(&self, outcome: Handshake) {
        let result = match outcome {
            Handshake::Done => "done",
            Handshake::Failed => "failed",
            Handshake::TimedOut => "timed_out",
        };
        self.handshakes.get_or_create(&ResultLabel { result }).inc();
    }

    /// A changed certificate was taken over, or could not be.
    pub(super) fn certificate(&self, taken: bool) {
        let result = if taken { "taken" } else { "refused" };
        self.certificates.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn answered(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let (answers, seconds) = self.answers(route, method, status);
        answers.inc();
        seconds.observe(took.as_secs_f64());
    }

    /// Where such answers are counted, for who gives many.
    pub(super) fn answers(&self, route: &str, method: &Method, status: StatusCode) -> (Counter, Histogram) {
        let (route, method, status) = (route.to_owned(), known(method), status.as_u16());
        let answers = self.requests.get_or_create(&Request { route: route.clone(), method, status }).clone();
        (answers, self.seconds.get_or_create(&Route { route, method }).clone())
    }

    /// Answers so far, for tests.
    #[cfg(test)]
    pub(super) fn count(&self, route: &str, method: &'static str, status: u16) -> u64 {
        self.requests.get_or_create(&Request { route: route.to_owned(), method, status }).get()
    }
}

/// A client may invent methods; a label may not.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
