//! What is counted on channels. Labels are closed sets.

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

/// A close code: our own, `client` for every other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloseLabel {
    /// The code.
    pub code: u16,
}

/// A command or push by its protocol name, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommandLabel {
    /// The protocol's name of the command.
    pub command: &'static str,
    /// The error's number; 0 for success.
    pub error: u16,
}

/// How a recovery ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RecoveryLabel {
    /// `recovered`; `unrecovered`; `postponed`: the client is to ask again.
    pub result: &'static str,
    /// Why not: one of [`Cause`](crate::entities::gap::Cause), `sight` (the position is of another view), `empty` (the one publication
    /// that matters is gone), `slow` (it has not read what waits for it). Empty where all was recovered.
    pub cause: &'static str,
}

/// The metrics of the room.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Sessions now.
    pub sessions: Gauge,
    /// Subscriptions now.
    pub subscriptions: Gauge,
    /// Channels with subscribers now, counted once per shard.
    pub channels: Gauge,
    /// Streams that this node follows.
    pub streams: Gauge,
    /// Frames handed to sessions.
    pub deliveries: Counter,
    /// Closed connections by code; 0 when the client went by itself.
    pub closed: Family<CloseLabel, Counter>,
    /// Commands by name and error.
    pub commands: Family<CommandLabel, Counter>,
    /// Recoveries by result.
    pub recoveries: Family<RecoveryLabel, Counter>,
    /// Runs of publications that were missed on the bus and fetched afterwards.
    pub gaps_healed: Counter,
    /// Streams whose past was lost, so that their subscribers had to recover.
    pub resets: Counter,
    /// Subscriptions that had to recover because an offset did not follow.
    pub insufficient: Counter,
    /// Publications that were rewritten for those who do not see everything: once for each mask and form.
    pub rewritten: Counter,
    /// Publications that were left out of what is held back, because a later one replaced them.
    pub conflated: Counter,
    /// Bytes that are held back of all streams, looked at with the positions.
    pub held_bytes: Gauge,
    /// Watched users whose coming or going was found by asking, for no word of it was heard.
    pub watch_mended: Counter,
    /// Words and orders of other nodes that were not understood.
    pub unknown_words: Counter,
    /// Sessions that ended by a panic.
    pub panics: Counter,
    /// Deliveries that wait for shards, in batches.
    pub shard_backlog: Gauge,
    /// Events of the bus that wait for topics.
    pub bus_backlog: Gauge,
    /// Bytes that wait for sockets that are full.
    pub queue_bytes: Gauge,
    /// From the commit to the write on the sockets, in seconds, once per batch and shard.
    pub commit_to_write: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            sessions: Gauge::default(),
            subscriptions: Gauge::default(),
            channels: Gauge::default(),
            streams: Gauge::default(),
            deliveries: Counter::default(),
            closed: Family::default(),
            commands: Family::default(),
            recoveries: Family::default(),
            gaps_healed: Counter::default(),
            resets: Counter::default(),
            insufficient: Counter::default(),
            rewritten: Counter::default(),
            conflated: Counter::default(),
            held_bytes: Gauge::default(),
            watch_mended: Counter::default(),
            unknown_words: Counter::default(),
            panics: Counter::default(),
            shard_backlog: Gauge::default(),
            bus_backlog: Gauge::default(),
            queue_bytes: Gauge::default(),
            // 0.5 ms to 16 s: below is noise of the clocks, above is an outage.
            commit_to_write: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Names the metrics under `dzvin_`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sessions", "Client connections now", self.sessions.clone());
        registry.register("subscriptions", "Subscriptions now", self.subscriptions.clone());
        registry.register("channels", "Channels with subscribers now, per shard", self.channels.clone());
        registry.register("streams", "Streams that this node follows", self.streams.clone());
        registry.register("deliveries", "Frames handed to sessions", self.deliveries.clone());
        registry.register("sessions_closed", "Closed connections by close code", self.closed.clone());
        registry.register("commands", "Client commands by name and error code", self.commands.clone());
        registry.register("recoveries", "Recoveries by result and cause", self.recoveries.clone());
        registry.register("gaps_healed", "Runs missed on the bus and fetched afterwards", self.gaps_healed.clone());
        registry.register("stream_resets", "Streams whose past was lost", self.resets.clone());
        registry.register("insufficient_state", "Subscriptions told to recover", self.insufficient.clone());
        registry.register(
            "masked_publications",
            "Publications rewritten, once per mask and form",
            self.rewritten.clone(),
        );
        registry.register("conflated_publications", "Publications that later ones replaced", self.conflated.clone());
        registry.register("held_bytes", "Bytes held back of all streams", self.held_bytes.clone());
        registry.register(
            "watch_mended",
            "Watched users found to have come or gone without a word",
            self.watch_mended.clone(),
        );
        registry.register("unknown_words", "Words of other nodes that were not understood", self.unknown_words.clone());
        registry.register("session_panics", "Sessions that ended by a panic", self.panics.clone());
        registry.register("shard_backlog", "Batches that wait for shards", self.shard_backlog.clone());
        registry.register("bus_backlog", "Events of the bus that wait for topics", self.bus_backlog.clone());
        registry.register("queue_bytes", "Bytes that wait for sockets that are full", self.queue_bytes.clone());
        registry.register("commit_to_write_seconds", "From commit to socket", self.commit_to_write.clone());
    }
}
