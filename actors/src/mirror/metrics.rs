//! The numbers of the links. Labels are the mirror's name and closed sets.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use time::OffsetDateTime;

use super::{handle::LinkHandle, status::LinkState};
use crate::platform::ports::Applied;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    mirror: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sort {
    mirror: String,
    kind: &'static str,
}

type Counts = Family<Of, Counter>;
type Gauges = Family<Of, Gauge>;
type Histograms = Family<Of, Histogram, fn() -> Histogram>;

/// The numbers of all links of this node.
#[derive(Debug, Clone)]
pub struct MirrorMetrics {
    state: Family<Sort, Gauge>,
    frames: Family<Sort, Counter>,
    operations: Family<Sort, Counter>,
    quarantined: Family<Sort, Counter>,
    reconnects: Counts,
    gap: Gauges,
    gaps: Counts,
    over_limit: Counts,
    feed_stuck: Counts,
    budget: Gauges,
    lag: Lags,
    batch: Histograms,
    commit: Histograms,
    rtt: Histograms,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 12))
}

impl MirrorMetrics {
    /// Makes them and gives them to the registry.
    pub fn new(registry: &mut Registry) -> Self {
        let it = Self {
            state: Family::default(),
            frames: Family::default(),
            operations: Family::default(),
            quarantined: Family::default(),
            reconnects: Family::default(),
            gap: Family::default(),
            gaps: Family::default(),
            over_limit: Family::default(),
            feed_stuck: Family::default(),
            budget: Family::default(),
            lag: Lags::default(),
            batch: Family::new_with_constructor(sizes),
            commit: Family::new_with_constructor(seconds),
            rtt: Family::new_with_constructor(seconds),
        };
        let registry = registry.sub_registry_with_prefix("mirror");
        registry.register("state", "1 for the state in which the link is", it.state.clone());
        registry.register("frames", "Frames received by kind", it.frames.clone());
        registry.register("operations", "Operations by what they came to", it.operations.clone());
        registry.register("quarantined", "Frames put aside by reason", it.quarantined.clone());
        registry.register("reconnects", "Connections after the first", it.reconnects.clone());
        registry.register("gap", "1 while a full reconcile is owed: alarm", it.gap.clone());
        registry.register("gaps", "Losses of the upstream's history", it.gaps.clone());
        registry.register("over_limit", "Messages above the limit", it.over_limit.clone());
        registry.register(
            "feed_stuck",
            "Moments that the HTTP feed could not show whole: alarm",
            it.feed_stuck.clone(),
        );
        registry.register("budget_bytes", "Bytes of frames between socket and commit", it.budget.clone());
        registry.register_collector(Box::new(it.lag.clone()));
        registry.register("batch_operations", "Operations in a transaction", it.batch.clone());
        registry.register("commit_seconds", "Time of a transaction", it.commit.clone());
        registry.register("ping_seconds", "Round trip of a ping", it.rtt.clone());
        it
    }

    /// The numbers of one link, looked up once.
    pub(super) fn of(&self, mirror: &Arc<str>, handle: &LinkHandle) -> LinkMetrics {
        self.lag.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(mirror), handle.clone());
        let of = Of { mirror: mirror.to_string() };
        LinkMetrics {
            mirror: Arc::clone(mirror),
            reconnects: self.reconnects.get_or_create(&of).clone(),
            gap: self.gap.get_or_create(&of).clone(),
            gaps: self.gaps.get_or_create(&of).clone(),
            over_limit: self.over_limit.get_or_create(&of).clone(),
            feed_stuck: self.feed_stuck.get_or_create(&of).clone(),
            budget: self.budget.get_or_create(&of).clone(),
            batch: self.batch.get_or_create(&of).clone(),
            commit: self.commit.get_or_create(&of).clone(),
            rtt: self.rtt.get_or_create(&of).clone(),
            all: self.clone(),
        }
    }
}

/// How far behind the links of this node are, told when it is asked for: on a dead link it grows. A link that another node
/// holds says nothing.
#[derive(Debug, Clone, Default)]
struct Lags(Arc<Mutex<BTreeMap<Arc<str>, LinkHandle>>>);

impl Collector for Lags {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How far what is committed is behind the upstream";
        let mut metric = encoder.encode_descriptor("lag_seconds", help, None, MetricType::Gauge)?;
        for (mirror, handle) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let status = handle.status();
            let ours = !matches!(status.state.as_str(), "standby" | "stopped");
            if let Some(lag) = status.lag_at(OffsetDateTime::now_utc()).filter(|_| ours) {
                let labels = [("mirror", &**mirror)];
                ConstGauge::new(Duration::from_millis(lag).as_secs_f64()).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The numbers of one link.
#[derive(Debug, Clone)]
pub(super) struct LinkMetrics {
    pub(super) mirror: Arc<str>,
    pub(super) reconnects: Counter,
    pub(super) gap: Gauge,
    pub(super) gaps: Counter,
    pub(super) over_limit: Counter,
    pub(super) feed_stuck: Counter,
    pub(super) budget: Gauge,
    pub(super) batch: Histogram,
    pub(super) commit: Histogram,
    pub(super) rtt: Histogram,
    all: MirrorMetrics,
}

impl LinkMetrics {
    fn sort(&self, kind: &'static str) -> Sort {
        Sort { mirror: self.mirror.to_string(), kind }
    }

    pub(super) fn state(&self, now: LinkState) {
        for state in LinkState::ALL {
            self.all.state.get_or_create(&self.sort(state.as_str())).set(i64::from(state == now));
        }
    }

    pub(super) fn frames(&self, kind: &'static str, count: u64) {
        self.all.frames.get_or_create(&self.sort(kind)).inc_by(count);
    }

    pub(super) fn quarantined(&self, reason: &'static str) {
        self.all.quarantined.get_or_create(&self.sort(reason)).inc();
    }

    pub(super) fn applied(&self, applied: &Applied) {
        let all = [("changed", applied.changed), ("unchanged", applied.unchanged), ("stale", applied.stale)];
        for (kind, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            self.all.operations.get_or_create(&self.sort(kind)).inc_by(count);
        }
    }
}

/// A count of frames by kind that is given to the metrics once a batch: the hot path touches no map.
#[derive(Debug, Default)]
pub(super) struct FrameCounts([AtomicU64; KINDS.len()]);

const KINDS: [&str; 9] = ["request", "upsert", "update", "delete", "noop", "ping", "error", "unknown", "other"];

impl FrameCounts {
    pub(super) fn add(&self, kind: Option<dzvin_protocols::mirror::FrameKind>) {
        use dzvin_protocols::mirror::FrameKind as F;
        let place = match kind {
            Some(F::ProtocolRequest | F::TimestampRequest | F::InitPointRequest | F::IdsSinceRequest) => 0,
            Some(F::Upsert) => 1,
            Some(F::Update) => 2,
            Some(F::Delete) => 3,
            Some(F::Noop) => 4,
            Some(F::Ping) => 5,
            Some(F::Error) => 6,
            None => 7,
            Some(F::HistoryLost | F::Ignore) => 8,
        };
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn flush(&self, metrics: &LinkMetrics) {
        for (kind, count) in KINDS.iter().zip(&self.0) {
            match count.swap(0, Ordering::Relaxed) {
                0 => {}
                count => metrics.frames(kind, count),
            }
        }
    }
}
