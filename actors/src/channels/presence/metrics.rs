//! What presence counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The metrics of presence; cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct PresenceMetrics {
    /// Channels of which something is known here.
    pub channels: Gauge,
    /// Clients that this node has entered or still has to say goodbye for.
    pub clients: Gauge,
    /// Channels that wait for their turn with the store.
    pub waiting: Gauge,
    /// Calls that are with the store.
    pub writing: Gauge,
    /// Channels of which it is not known what the last call came to.
    pub doubts: Gauge,
    /// Words that wait to be said.
    pub unsaid: Gauge,
    /// Questions that wait.
    pub questions: Gauge,
    /// Channels that are to be looked at later: empty here, and perhaps not for long, or large and to be counted.
    pub due: Gauge,
    /// Goodbyes that are held before servers of applications are told of them.
    pub held: Gauge,
    /// What burials removed and this node has still to tell.
    pub graves: Gauge,
    /// 1 while the store counts as away.
    pub away: Gauge,
    /// Calls to the store that failed.
    pub failures: Counter,
    /// Words said.
    pub words: Counter,
    /// Words given up.
    pub words_lost: Counter,
    /// Events for which nobody had room.
    pub events_lost: Counter,
    /// Lives of this node in the store, the first included.
    pub lives: Counter,
    /// Clients of dead nodes that this node told as gone.
    pub buried: Counter,
}

impl PresenceMetrics {
    /// Shows them under `presence_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("presence");
        registry.register("channels", "Channels of which presence knows something here", self.channels.clone());
        registry.register("clients", "Clients that this node has entered", self.clients.clone());
        registry.register("waiting", "Channels that wait for their turn with the store", self.waiting.clone());
        registry.register("writing", "Calls that are with the store", self.writing.clone());
        registry.register("doubts", "Channels whose last call has no known outcome", self.doubts.clone());
        registry.register("unsaid", "Words that wait to be said", self.unsaid.clone());
        registry.register("questions", "Questions that wait", self.questions.clone());
        registry.register("due", "Channels that presence will look at later", self.due.clone());
        registry.register("held", "Goodbyes of which servers of applications are not told yet", self.held.clone());
        registry.register("graves", "What burials removed and this node has still to tell", self.graves.clone());
        registry.register("away", "1 while the store counts as away", self.away.clone());
        registry.register("failures", "Calls to the store that failed", self.failures.clone());
        registry.register("words", "Words said", self.words.clone());
        registry.register("words_lost", "Words given up", self.words_lost.clone());
        registry.register("events_lost", "Events for which there was no room", self.events_lost.clone());
        registry.register("lives", "Lives of this node in the store", self.lives.clone());
        registry.register("buried", "Clients of dead nodes told as gone by this one", self.buried.clone());
    }
}
