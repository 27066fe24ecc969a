//! The numbers of one egress address: who waits at the governor, and what came of the requests.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of [`EgressMetrics::answered`]: a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    outcome: &'static str,
}

/// What is counted behind one egress address.
#[derive(Debug, Clone, Default)]
pub struct EgressMetrics {
    pub(super) waiting: Gauge,
    pub(super) free: Gauge,
    requests: Family<Of, Counter>,
}

impl EgressMetrics {
    /// Registers them under `cdb_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cdb");
        registry.register("waiting", "Who waits for a turn at the governor", self.waiting.clone());
        registry.register("free_connections", "Connections that the governor could still give", self.free.clone());
        registry.register("requests", "Requests to the upstream by outcome", self.requests.clone());
    }

    /// Counts a request by its status; 0: there was no answer.
    pub fn answered(&self, status: u16) {
        self.count(match status {
            200..=299 => "ok",
            401 | 403 => "forbidden",
            404 | 410 => "not_found",
            429 => "too_many",
            0 | 408 | 500..=599 => "failed",
            _ => "refused",
        });
    }

    /// Counts a request that the governor did not let out.
    pub fn crowded(&self) {
        self.count("crowded");
    }

    /// How many requests had this outcome.
    #[must_use]
    pub fn requests(&self, outcome: &'static str) -> u64 {
        self.requests.get(&Of { outcome }).map_or(0, |count| count.get())
    }

    fn count(&self, outcome: &'static str) {
        self.requests.get_or_create(&Of { outcome }).inc();
    }
}

/// So many more (or fewer, below zero) for as long as this lives.
#[derive(Debug)]
pub(super) struct Held {
    gauge: Gauge,
    by: i64,
}

impl Held {
    pub(super) fn new(gauge: &Gauge, by: i64) -> Self {
        gauge.inc_by(by);
        Self { gauge: gauge.clone(), by }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.dec_by(self.by);
    }
}
