//! What is counted of the audit.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Whose share of the room it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShareLabel {
    share: &'static str,
}

/// Rows that wait, and what did not come to be one.
#[derive(Debug, Clone, Default)]
pub(super) struct AuditMetrics {
    rows: Family<ShareLabel, Gauge>,
    lost: Family<ShareLabel, Counter>,
    pub(super) errors: Counter,
}

impl AuditMetrics {
    /// Registers all under `audit_`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("audit");
        registry.register("rows", "Rows of the audit into which refusals are counted now", self.rows.clone());
        registry.register("lost", "Refusals for which the audit had no room", self.lost.clone());
        registry.register("errors", "Failed attempts to write refusals, or to remove old rows", self.errors.clone());
    }

    pub(super) fn held(&self, shares: [(&'static str, usize); 2]) {
        for (share, rows) in shares {
            self.rows.get_or_create(&ShareLabel { share }).set(i64::try_from(rows).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn lost(&self, share: &'static str) {
        self.lost.get_or_create(&ShareLabel { share }).inc();
    }
}
