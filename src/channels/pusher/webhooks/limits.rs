//! How much waits for a receiver, how large a batch is, and how long it is tried.

use std::time::Duration;

use dzvin_actors::supervise::Backoff;

/// Limits of every webhook; they have no keys in the configuration, tests bring their own.
#[derive(Debug, Clone, Copy)]
pub struct WebhookLimits {
    /// From the first event of a batch to its sending: channels that fill together are told together, and nobody waits longer
    /// than he would notice.
    pub gather: Duration,
    /// Events of one batch: what handlers of the hosted service are used to.
    pub batch_events: usize,
    /// Bytes of one batch: what every web framework takes without being asked to.
    pub batch_bytes: usize,
    /// Events that wait for one webhook. Five minutes of three hundred events a second; the oldest give way.
    pub waiting_events: usize,
    /// Their bytes: client events are as large as clients make them.
    pub waiting_bytes: usize,
    /// How long a batch is tried before it is given up: what the protocol promises.
    pub patience: Duration,
    /// Waits between the attempts.
    pub backoff: Backoff,
    /// TCP and TLS of one attempt.
    pub connect: Duration,
    /// One attempt from the request to the end of the answer: a handler that works longer should have answered first.
    pub attempt: Duration,
    /// Bytes of an answer that are read, so that the connection can be used again; nobody looks at them.
    pub answer: usize,
    /// How long the same channel's missing last event is not told again.
    pub miss_again: Duration,
    /// What is left of the orderly stop for a last attempt.
    pub farewell: Duration,
}

impl Default for WebhookLimits {
    fn default() -> Self {
        Self {
            gather: Duration::from_millis(250),
            batch_events: 100,
            batch_bytes: 256 * 1024,
            waiting_events: 100_000,
            waiting_bytes: 16 * 1024 * 1024,
            patience: Duration::from_secs(300),
            backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) },
            connect: Duration::from_secs(5),
            attempt: Duration::from_secs(10),
            answer: 64 * 1024,
            miss_again: Duration::from_secs(10),
            farewell: Duration::from_secs(3),
        }
    }
}
