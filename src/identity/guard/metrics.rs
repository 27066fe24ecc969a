//! What is counted of those who fail.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(super) struct GuardMetrics {
    sources: Gauge,
    refused: Family<SourceLabel, Counter>,
}

impl GuardMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("guard");
        registry.register("sources", "Addresses, and tokens at them, whose failures are counted", self.sources.clone());
        registry.register("refused", "Attempts that were not looked at", self.refused.clone());
    }

    pub(super) fn sources(&self, count: usize) {
        self.sources.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn refused(&self, source: &'static str) {
        self.refused.get_or_create(&SourceLabel { source }).inc();
    }
}
