//! What a bus counts.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters and gauges of one bus; cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct BusMetrics {
    /// Servers that commands can be sent to: 1 unless Redis is a cluster.
    pub connected: Gauge,
    /// Servers that hold the streams: the primaries of a cluster, else 1.
    pub servers: Gauge,
    /// Connections made, the first included.
    pub connections: Counter,
    /// Connections that failed or were given up.
    pub failures: Counter,
    /// Publications appended by this node.
    pub appended: Counter,
    /// Times that events were replaced by `Lost`.
    pub lost: Counter,
    /// Streams known to this node's memory (memory bus only).
    pub streams: Gauge,
    /// Bytes of history in this node's memory (memory bus only).
    pub history_bytes: Gauge,
    /// Streams that this node is subscribed to.
    pub subscriptions: Gauge,
    /// Messages from the bus that were not in our form.
    pub malformed: Counter,
    /// Publishers' keys that this node has remembered.
    pub keys: Gauge,
    /// Publications that had been published before under the same key.
    pub repeated: Counter,
    /// Channels whose pace this node counts by itself.
    pub paced: Gauge,
    /// Users whose pace this node counts.
    pub paced_users: Gauge,
    /// Times that this node counted a user alone, for Redis could not be asked.
    pub paced_alone: Counter,
    /// Words that wait until all nodes listen where their slot has come to.
    pub words_held: Gauge,
    /// Words that were not said, for too many waited, or their slot went on and on.
    pub words_refused: Counter,
}

impl BusMetrics {
    /// Shows them under `bus_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("bus");
        registry.register("connected", "Servers that commands can be sent to", self.connected.clone());
        registry.register("servers", "Servers that hold the streams", self.servers.clone());
        registry.register("connections", "Connections made, the first included", self.connections.clone());
        registry.register("connection_failures", "Connections that failed or were given up", self.failures.clone());
        registry.register("publications_appended", "Publications appended by this node", self.appended.clone());
        registry.register("events_lost", "Times that events were replaced by a check of positions", self.lost.clone());
        registry.register("streams", "Streams in this node's memory", self.streams.clone());
        registry.register("history_bytes", "Bytes of history in this node's memory", self.history_bytes.clone());
        registry.register("subscriptions", "Streams that this node is subscribed to", self.subscriptions.clone());
        registry.register("malformed", "Messages from the bus that were not in our form", self.malformed.clone());
        registry.register("idempotency_keys", "Publishers' keys that this node has remembered", self.keys.clone());
        let repeated = "Publications that had been published before under the same key";
        registry.register("publications_repeated", repeated, self.repeated.clone());
        registry.register("paced_channels", "Channels whose pace this node counts by itself", self.paced.clone());
        registry.register("paced_users", "Users whose pace this node counts", self.paced_users.clone());
        let alone = "Times that this node counted a user alone, for Redis could not be asked";
        registry.register("users_paced_alone", alone, self.paced_alone.clone());
        let held = "Words that wait until all nodes listen where their slot of the cluster has come to";
        registry.register("words_held", held, self.words_held.clone());
        let refused = "Words that were not said, for too many waited or their slot was moved again and again";
        registry.register("words_refused", refused, self.words_refused.clone());
    }
}
