//! What the relay counts.

use std::sync::Arc;

use dzvin_protocols::platform::Kind;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Kinds come from the configuration: tens at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: Arc<str>,
}

/// Counters and gauges of one relay; cloning shares them, so that they outlive its restarts.
#[derive(Debug, Clone)]
pub struct RelayMetrics {
    /// 1 on the node that holds the lease.
    pub holder: Gauge,
    /// Times that a node without the lease published because its holder did not.
    pub stepped_in: Counter,
    /// Publications that the bus took from us.
    pub published: Counter,
    /// Runs that were on the bus already.
    pub duplicates: Counter,
    /// Times that the bus was behind, empty or of another epoch, and was refilled from the log.
    pub gaps_healed: Counter,
    /// Epochs renewed: each is an alarm, PostgreSQL went back in time or retention overtook the relay.
    pub epoch_renewals: Counter,
    /// Failed attempts to read or to publish.
    pub errors: Counter,
    /// Publications in one append.
    pub batch: Histogram,
    /// From the commit to the bus, of the oldest change of each run, in seconds.
    pub commit_to_bus: Histogram,
    behind: Family<KindLabel, Gauge>,
    behind_ms: Family<KindLabel, Gauge>,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        let seconds = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
        Self {
            holder: Gauge::default(),
            stepped_in: Counter::default(),
            published: Counter::default(),
            duplicates: Counter::default(),
            gaps_healed: Counter::default(),
            epoch_renewals: Counter::default(),
            errors: Counter::default(),
            batch: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
            commit_to_bus: Histogram::new(seconds),
            behind: Family::default(),
            behind_ms: Family::default(),
        }
    }
}

impl RelayMetrics {
    /// Shows them under `relay_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("relay");
        registry.register("holder", "1 on the node that holds the lease", self.holder.clone());
        registry.register("stepped_in", "Times that a node published without the lease", self.stepped_in.clone());
        registry.register("published", "Publications that the bus took", self.published.clone());
        registry.register("duplicates", "Runs that were on the bus already", self.duplicates.clone());
        registry.register("gaps_healed", "Times that the bus was refilled from the log", self.gaps_healed.clone());
        registry.register("epoch_renewals", "Epochs renewed because the past was lost", self.epoch_renewals.clone());
        registry.register("errors", "Failed attempts to read or to publish", self.errors.clone());
        registry.register("batch_publications", "Publications in one append", self.batch.clone());
        registry.register("commit_to_bus_seconds", "From the commit to the bus", self.commit_to_bus.clone());
        registry.register("lag_offsets", "Offsets that the bus is behind the log", self.behind.clone());
        registry.register("lag_milliseconds", "Age of the oldest unpublished change", self.behind_ms.clone());
    }

    /// How far the bus is behind the log for a kind.
    pub(super) fn lag(&self, kind: &Kind, offsets: u64, milliseconds: i64) {
        let label = KindLabel { kind: kind.as_str().into() };
        self.behind.get_or_create(&label).set(i64::try_from(offsets).unwrap_or(i64::MAX));
        self.behind_ms.get_or_create(&label).set(milliseconds);
    }
}
