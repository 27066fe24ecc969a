//! What is counted of webhooks. Labels are the configured applications and closed sets.

use std::{sync::Arc, time::Duration};

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
struct Of {
    app: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Came {
    app: String,
    #[prometheus(flatten)]
    result: ResultLabel,
}

/// Why events were not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// More waited than may.
    Full,
    /// The receiver did not take them in time.
    GaveUp,
    /// The node stopped before it could be told.
    Stopped,
}

impl Lost {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::GaveUp => "gave_up",
            Self::Stopped => "stopped",
        }
    }
}

/// Shared by all webhooks of a node.
#[derive(Debug, Clone)]
pub(super) struct WebhookMetrics {
    told: Family<Of, Counter>,
    lost: Family<Came, Counter>,
    attempts: Family<Came, Counter>,
    waiting: Family<Of, Gauge>,
    bytes: Family<Of, Gauge>,
    seconds: Histogram,
    overrun: Counter,
    backlog: Gauge,
}

impl WebhookMetrics {
    /// `overrun` counts what did not fit between sessions and the sender.
    pub(super) fn new(overrun: Counter) -> Self {
        Self {
            told: Family::default(),
            lost: Family::default(),
            attempts: Family::default(),
            waiting: Family::default(),
            bytes: Family::default(),
            // 1 ms to 16 s: below is the loopback, above is the limit of an attempt.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            overrun,
            backlog: Gauge::default(),
        }
    }

    /// Names the metrics under `webhook_`.
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("webhook");
        registry.register("events", "Events that receivers have taken", self.told.clone());
        registry.register("events_lost", "Events that receivers will not hear, by why", self.lost.clone());
        registry.register("attempts", "Requests to receivers by result", self.attempts.clone());
        registry.register("waiting", "Events that wait for receivers", self.waiting.clone());
        registry.register("waiting_bytes", "Bytes of events that wait for receivers", self.bytes.clone());
        registry.register("attempt_seconds", "From a request to the end of its answer", self.seconds.clone());
        registry.register("notices_lost", "Notices that did not fit before the sender", self.overrun.clone());
        registry.register("notices", "Notices that wait for the sender", self.backlog.clone());
    }

    pub(super) fn backlog(&self, waiting: usize) {
        self.backlog.set(gauge(waiting));
    }

    /// The counters of one application's webhooks.
    pub(super) fn of(&self, app: &Arc<str>) -> LineMetrics {
        LineMetrics { all: self.clone(), of: Of { app: app.to_string() } }
    }
}

/// Of one application.
#[derive(Debug, Clone)]
pub(super) struct LineMetrics {
    all: WebhookMetrics,
    of: Of,
}

impl LineMetrics {
    fn came(&self, result: &'static str) -> Came {
        Came { app: self.of.app.clone(), result: ResultLabel { result } }
    }

    pub(super) fn told(&self, events: usize) {
        self.all.told.get_or_create(&self.of).inc_by(events as u64);
    }

    pub(super) fn lost(&self, events: usize, why: Lost) {
        self.all.lost.get_or_create(&self.came(why.as_str())).inc_by(events as u64);
    }

    pub(super) fn attempted(&self, result: &'static str, took: Duration) {
        self.all.attempts.get_or_create(&self.came(result)).inc();
        self.all.seconds.observe(took.as_secs_f64());
    }

    /// More or fewer wait now.
    pub(super) fn waits(&self, events: i64, bytes: i64) {
        self.all.waiting.get_or_create(&self.of).inc_by(events);
        self.all.bytes.get_or_create(&self.of).inc_by(bytes);
    }
}

fn gauge(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
