//! What happened: counts that tests wait on and people look at. Every change wakes those who wait. Bounded: names of frames come
//! from a fixed set, ended connections leave only their counts.

use crate::world::Ts;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Where a Mirror connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Requests are being answered.
    Asking,
    /// Documents without positions are being sent.
    Snapshot,
    /// Following the oplog.
    Tail,
    /// Half-open or silently dropped.
    Silent,
}

/// One Mirror connection that is open now.
#[derive(Debug, Clone, Serialize)]
pub struct LinkStats {
    /// A number of its own.
    pub id: u64,
    /// Its collection.
    pub collection: String,
    /// Where it is.
    pub phase: Phase,
    /// What the client chose: `simple` or `full`.
    pub protocol: Option<String>,
    /// The cursor it came with.
    pub started_from: Option<Ts>,
    /// The newest position that was sent to it.
    pub sent: Option<Ts>,
    /// Oplog entries before this number have been dealt with.
    pub sequence: u64,
    /// Operations sent to it.
    pub operations: u64,
}

/// Answers to one kind of request.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnswerStats {
    /// Requests sent.
    pub asked: u64,
    /// Answers received.
    pub answered: u64,
    /// The last answer's `data`, as the client spelled it (at most 4 KiB).
    pub last: Option<String>,
}

/// What happened in one collection.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CollectionStats {
    /// Mirror connections ever made.
    pub connections: u64,
    /// Frames sent, by type; `malformed`, `unknown`, `duplicate` and `stale` are counted beside their type.
    pub frames: BTreeMap<&'static str, u64>,
    /// Bytes of frames sent.
    pub bytes: u64,
    /// Snapshots begun.
    pub snapshots: u64,
    /// Snapshots sent to their end.
    pub snapshots_done: u64,
    /// Requests and their answers.
    pub answers: BTreeMap<&'static str, AnswerStats>,
    /// The last cursor that a client answered.
    pub last_cursor: Option<Ts>,
    /// Frames from clients that answer nothing.
    pub unexpected: u64,
    /// Pings received.
    pub pings: u64,
    /// How connections ended.
    pub ends: BTreeMap<String, u64>,
}

/// Everything.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// By collection.
    pub collections: BTreeMap<String, CollectionStats>,
    /// Open Mirror connections.
    pub links: Vec<LinkStats>,
    /// HTTP requests by what was answered (`200`, `429 nginx`, `101`).
    pub requests: BTreeMap<String, u64>,
    /// TCP connections ever accepted.
    pub accepted: u64,
}

impl Stats {
    /// The counts of a collection; empty ones if nothing happened.
    pub fn collection(&self, name: &str) -> CollectionStats {
        self.collections.get(name).cloned().unwrap_or_default()
    }

    /// Frames sent of a type.
    pub fn frames(&self, collection: &str, kind: &str) -> u64 {
        self.collections.get(collection).and_then(|c| c.frames.get(kind)).copied().unwrap_or(0)
    }

    /// Open connections of a collection.
    pub fn open(&self, collection: &str) -> usize {
        self.links.iter().filter(|link| link.collection == collection).count()
    }
}

/// The book that all write into.
#[derive(Debug)]
pub(crate) struct Book {
    stats: Mutex<Stats>,
    version: watch::Sender<u64>,
}

impl Book {
    pub(crate) fn new() -> Self {
        Self { stats: Mutex::default(), version: watch::Sender::new(0) }
    }

    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut Stats) -> T) -> T {
        let out = f(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
        self.version.send_modify(|version| *version += 1);
        out
    }

    pub(crate) fn collection<T>(&self, name: &str, f: impl FnOnce(&mut CollectionStats) -> T) -> T {
        self.change(|stats| match stats.collections.get_mut(name) {
            Some(collection) => f(collection),
            None => f(stats.collections.entry(name.to_owned()).or_default()),
        })
    }

    pub(crate) fn read(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
