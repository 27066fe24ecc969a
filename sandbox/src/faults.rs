//! What can be made to go wrong. A fault stays on until it is switched off or used up; it may be bound to one collection. Which
//! frames a `percent` hits is decided by the connection's seeded generator, so a run can be repeated.

use crate::config::Manner;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a repeated older version carries as its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StaleTs {
    /// The position at which it was written: behind what was already sent.
    #[default]
    Old,
    /// The position of the newer version.
    Same,
    /// None, as in a snapshot.
    Null,
}

/// A fault with its parameters. In JSON its name is the field `fault`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// The upgrade is answered with this status (403 as JSON; 429, 502, 503 and 504 as NGINX's HTML).
    Handshake {
        /// The status.
        status: u16,
    },
    /// The upgrade is never answered.
    HandshakeHang,
    /// Operations are sent twice.
    Duplicates {
        /// Of a hundred operations.
        percent: u8,
    },
    /// After a newer version the older one is sent again.
    Stale {
        /// Of a hundred edits.
        percent: u8,
        /// With which position.
        #[serde(default)]
        ts: StaleTs,
    },
    /// Messages come as WebSocket fragments of so many bytes.
    Fragments {
        /// Payload bytes of a fragment.
        bytes: usize,
    },
    /// Frames are text no more: the opcode says binary.
    Binary,
    /// Bytes leave slowly.
    Slow {
        /// So many a second.
        bytes_per_s: usize,
    },
    /// Half-open: connected, but nothing is said and nothing is read any more.
    Silence {
        /// After so many operations.
        #[serde(default)]
        after: u32,
    },
    /// The connection ends.
    Cut {
        /// After so many operations.
        after: u32,
        /// In this manner.
        manner: Manner,
    },
    /// Malformed JSON among the operations.
    Malformed {
        /// Before every so many operations.
        every: u32,
    },
    /// Frames of a type that nobody knows.
    UnknownType {
        /// Before every so many operations.
        every: u32,
    },
    /// No cursor is in the oplog any more: everybody gets the snapshot.
    HistoryLost,
    /// The server asks, but never gets to the data.
    Stuck,
    /// The HTTP API answers with a server error.
    Http {
        /// Of a hundred requests.
        percent: u8,
        /// The status.
        status: u16,
    },
    /// The HTTP API takes its time.
    HttpSlow {
        /// So many milliseconds.
        ms: u64,
    },
}

impl Fault {
    /// The name used in the control API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Handshake { .. } => "handshake",
            Self::HandshakeHang => "handshake-hang",
            Self::Duplicates { .. } => "duplicates",
            Self::Stale { .. } => "stale",
            Self::Fragments { .. } => "fragments",
            Self::Binary => "binary",
            Self::Slow { .. } => "slow",
            Self::Silence { .. } => "silence",
            Self::Cut { .. } => "cut",
            Self::Malformed { .. } => "malformed",
            Self::UnknownType { .. } => "unknown-type",
            Self::HistoryLost => "history-lost",
            Self::Stuck => "stuck",
            Self::Http { .. } => "http",
            Self::HttpSlow { .. } => "http-slow",
        }
    }

    /// All names.
    pub const NAMES: [&'static str; 15] = [
        "handshake",
        "handshake-hang",
        "duplicates",
        "stale",
        "fragments",
        "binary",
        "slow",
        "silence",
        "cut",
        "malformed",
        "unknown-type",
        "history-lost",
        "stuck",
        "http",
        "http-slow",
    ];
}

/// A fault that is on.
#[derive(Debug, Clone, Serialize)]
pub struct ActiveFault {
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
    /// Where; everywhere if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// How often it will still strike; without end if none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "left")]
    times: Option<Arc<AtomicU32>>,
}

fn left<S: serde::Serializer>(times: &Option<Arc<AtomicU32>>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_some(&times.as_ref().map(|times| times.load(Ordering::Relaxed)))
}

impl ActiveFault {
    /// Everywhere, without end.
    pub fn new(fault: Fault) -> Self {
        Self { fault, collection: None, times: None }
    }

    /// Only on this collection.
    #[must_use]
    pub fn on(mut self, collection: &str) -> Self {
        self.collection = Some(collection.to_owned());
        self
    }

    /// Only so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(Arc::new(AtomicU32::new(times)));
        self
    }

    /// Counts one strike; false if it is used up.
    pub(crate) fn strike(&self) -> bool {
        let Some(times) = &self.times else { return true };
        times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// The faults that are on, one of each name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(pub(crate) BTreeMap<&'static str, ActiveFault>);

impl Faults {
    /// The fault of this name, if it is on for this collection.
    pub(crate) fn find(&self, name: &str, collection: &str) -> Option<&ActiveFault> {
        self.0.get(name).filter(|active| active.collection.as_deref().is_none_or(|c| c == collection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_agree_with_the_json() {
        for name in Fault::NAMES {
            let text = format!(
                r#"{{"fault":"{name}","status":503,"percent":5,"bytes":7,"bytes_per_s":9,"after":1,"manner":"rst","every":3,"ms":1}}"#
            );
            let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            // Only the fields that the fault knows, found by leaving out what it complains about.
            let mut fields = all.clone();
            let fault = loop {
                match serde_json::from_value::<Fault>(fields.clone().into()) {
                    Ok(fault) => break fault,
                    Err(error) => {
                        let text = error.to_string();
                        let key = fields.keys().find(|k| text.contains(&format!("unknown field `{k}`"))).cloned();
                        fields.remove(&key.unwrap_or_else(|| panic!("{name}: {text}")));
                    }
                }
            };
            assert_eq!(fault.name(), name);
        }
    }

    #[test]
    fn a_fault_is_used_up_and_bound_to_its_collection() {
        let active = ActiveFault::new(Fault::Binary).on("a").times(2);
        let faults = Faults([("binary", active)].into());
        assert!(faults.find("binary", "b").is_none());
        let found = faults.find("binary", "a").unwrap();
        assert_eq!([found.strike(), found.strike(), found.strike()], [true, true, false]);
        assert_eq!(serde_json::to_value(found).unwrap()["times"], 0);
    }
}
