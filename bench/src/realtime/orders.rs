//! What the generator is told, and what it answers: lines of JSON.

use super::usage::Look;
use crate::sample::Samples;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What stands for the number in the name of a channel.
const PLACE: &str = "{n}";

/// How clients of a server speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Dialect {
    /// Centrifuge's JSON.
    Centrifuge,
    /// The channel is in the path, and every message is a publication: nchan, and the floor.
    Raw,
    /// Pusher's protocol 7.
    Pusher,
}

/// How publications are brought to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Api {
    /// Centrifugo's: `/api/publish` and `/api/batch`.
    Centrifugo,
    /// The payload is posted to the channel's address: nchan, and the floor; the floor also takes many at once.
    Raw,
    /// Pusher's: `/apps/{id}/events` and `/apps/{id}/batch_events`, signed.
    Pusher,
}

/// The names of some channels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Names {
    /// A name with `{n}` for the number.
    pub(crate) pattern: String,
    /// How many there are.
    pub(crate) count: usize,
}

impl Names {
    /// The name of one; the numbers go round.
    pub(crate) fn name(&self, n: usize) -> String {
        self.pattern.replace(PLACE, &(n % self.count.max(1)).to_string())
    }
}

/// What is published, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The servers; the connections go round them.
    pub(crate) addresses: Vec<String>,
    /// How they are told.
    pub(crate) api: Api,
    /// The value of the header `Authorization`, if any.
    pub(crate) authorization: Option<String>,
    /// Where to, one after the other.
    pub(crate) names: Names,
    /// Bytes of one payload.
    pub(crate) payload: usize,
    /// Publications in one request; above one the server's batch is used.
    pub(crate) batch: usize,
    /// Requests under way at a time, each on a connection of its own.
    pub(crate) in_flight: usize,
}

/// What the generator is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Connect and subscribe, each to one channel.
    Open {
        /// The servers; clients go round them.
        addresses: Vec<String>,
        /// How to speak.
        dialect: Dialect,
        /// The channels; clients go round them.
        names: Names,
        /// How many clients.
        count: usize,
        /// A file with one token a line.
        tokens: Option<PathBuf>,
        /// How many may be on their way at a time; zero for all.
        concurrency: usize,
        /// Processes to look at before and after.
        pids: Vec<u32>,
    },
    /// Publish, and wait until all has come.
    Flow {
        /// What.
        plan: Plan,
        /// Requests a second, each with its due time; zero for as fast as they are accepted.
        rate: f64,
        /// How long.
        seconds: f64,
        /// Processes to look at before and after.
        pids: Vec<u32>,
    },
    /// Only answer pings.
    Rest {
        /// How long.
        seconds: f64,
        /// Processes to look at before and after.
        pids: Vec<u32>,
    },
    /// Leave.
    Close,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Half of all are below.
    pub(crate) p50: f64,
    /// 99 of 100.
    pub(crate) p99: f64,
    /// 999 of 1000.
    pub(crate) p999: f64,
    /// The slowest.
    pub(crate) max: f64,
}

impl From<&Samples> for Spread {
    fn from(samples: &Samples) -> Self {
        Self { p50: samples.ms(50.0), p99: samples.ms(99.0), p999: samples.ms(99.9), max: samples.ms(100.0) }
    }
}

/// What it answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why it was not done.
    pub(crate) error: Option<String>,
    /// What one client or publication met first that it should not have.
    pub(crate) why: Option<String>,
    /// Clients that are subscribed now.
    pub(crate) subscribed: usize,
    /// Clients that were not let in.
    pub(crate) refused: usize,
    /// Clients that were cut off later.
    pub(crate) cut: usize,
    /// Publications that were accepted.
    pub(crate) published: usize,
    /// Publications that were not.
    pub(crate) failed: usize,
    /// Deliveries that should have come.
    pub(crate) expected: usize,
    /// Deliveries that came.
    pub(crate) deliveries: usize,
    /// Pings that were answered.
    pub(crate) pings: usize,
    /// From the beginning to the last receipt.
    pub(crate) seconds: f64,
    /// From when a publication was due, or from when a client began to connect, to its receipt or its subscription.
    pub(crate) spread: Spread,
    /// From when a publication was due to its acceptance.
    pub(crate) accepted: Spread,
    /// How late requests were written; part of both.
    pub(crate) late: Spread,
    /// What each process used, in the order asked for.
    pub(crate) used: Vec<Look>,
}

impl Answer {
    /// What the first process used.
    pub(crate) fn server(&self) -> Look {
        self.used.first().copied().unwrap_or_default()
    }

    /// Microseconds of processor time for each delivery.
    pub(crate) fn us_per_delivery(&self) -> f64 {
        self.server().cpu_us / self.deliveries.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round() {
        let names = Names { pattern: "bench.{n}".to_owned(), count: 2 };
        assert_eq!([0, 1, 2].map(|n| names.name(n)), ["bench.0", "bench.1", "bench.0"]);
        assert_eq!(Names { pattern: "one".to_owned(), count: 7 }.name(3), "one");
    }

    #[test]
    fn a_spread_is_of_samples() {
        let samples: Samples = (1..=1000).map(|n| n * 1000).collect();
        let spread = Spread::from(&samples);
        assert_eq!((spread.p50, spread.p99, spread.p999, spread.max), (500.0, 990.0, 999.0, 1000.0));
    }
}
