//! What supervision counts. Labels are the children's names and the closed set of causes.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What ended a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A handler panicked.
    Panic,
    /// A handler answered with an error.
    Error,
    /// It stopped by itself.
    End,
    /// Somebody killed it.
    Kill,
    /// It made no progress, and we killed it.
    Stuck,
    /// It could not be started.
    Start,
}

impl Cause {
    /// The word in logs and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Error => "error",
            Self::End => "end",
            Self::Kill => "kill",
            Self::Stuck => "stuck",
            Self::Start => "start",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name(pub(super) Arc<str>);

impl EncodeLabelValue for Cause {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Child {
    child: Name,
}

impl Child {
    pub(super) fn new(name: &Arc<str>) -> Self {
        Self { child: Name(Arc::clone(name)) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Death {
    child: Name,
    cause: Cause,
}

/// Shared by every supervisor of the process.
#[derive(Debug, Clone, Default)]
pub struct SupervisorMetrics {
    deaths: Family<Death, Counter>,
    restarts: Family<Death, Counter>,
    alive: Family<Child, Gauge>,
    mailbox: Family<Child, Gauge>,
    meltdowns: Family<Child, Counter>,
}

impl SupervisorMetrics {
    /// Registers all under `actor_*`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("actor_deaths", "Supervised actors that ended, by cause", self.deaths.clone());
        registry.register("actor_restarts", "Supervised actors started again, by cause", self.restarts.clone());
        registry.register("actor_alive", "1 while the supervised actor runs", self.alive.clone());
        registry.register("actor_mailbox", "Messages that wait for the supervised actor", self.mailbox.clone());
        registry.register("actor_meltdowns", "Restart budgets that were used up", self.meltdowns.clone());
    }

    pub(super) fn death(&self, name: &Arc<str>, cause: Cause) {
        self.deaths.get_or_create(&Death { child: Name(Arc::clone(name)), cause }).inc();
    }

    pub(super) fn restart(&self, name: &Arc<str>, cause: Cause) {
        self.restarts.get_or_create(&Death { child: Name(Arc::clone(name)), cause }).inc();
    }

    pub(super) fn alive(&self, name: &Arc<str>, alive: bool) {
        self.alive.get_or_create(&Child::new(name)).set(i64::from(alive));
    }

    pub(super) fn mailbox(&self, name: &Arc<str>, waiting: u64) {
        self.mailbox.get_or_create(&Child::new(name)).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    pub(super) fn meltdown(&self, name: &Arc<str>) {
        self.meltdowns.get_or_create(&Child::new(name)).inc();
    }

    /// Deaths of a child by one cause.
    #[must_use]
    pub fn deaths(&self, name: &str, cause: Cause) -> u64 {
        self.deaths.get_or_create(&Death { child: Name(name.into()), cause }).get()
    }

    /// Restarts of a child after one cause.
    #[must_use]
    pub fn restarts(&self, name: &str, cause: Cause) -> u64 {
        self.restarts.get_or_create(&Death { child: Name(name.into()), cause }).get()
    }

    /// Whether the child runs.
    #[must_use]
    pub fn is_alive(&self, name: &str) -> bool {
        self.alive.get_or_create(&Child::new(&name.into())).get() == 1
    }
}
