//! `GET /api/v1/trace`: what one user's sessions, or one channel, do on every node, as a stream of lines.
//!
//! The node that is asked tells all nodes, and says it again several times within their lease; each follows its own sessions and sends
//! what they tell, over the bus. Invariants: traces of one node are few, a trace ends with its time, with its asker, with the
//! asker's rights and with either node, whoever is the first to notice; what did not fit is counted in the stream; who asked is
//! in the log of every node. Payloads and tokens are in no line, for sessions never tell them.

mod ask;
mod follow;
mod http;
mod rights;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dzvin_actors::{channels::Tracer, platform::ports::Bus};
use dzvin_protocols::channels::{Control, TraceLine};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::bus::AnyBus;

pub use http::router;

/// Traces that may be asked for at this node at once: each costs every node.
const MAX_ASKED: usize = 8;
/// How often a trace is said again: three times within a lease.
const RENEW: Duration = Duration::from_secs(3);
/// How long a node follows without hearing of the asker: as long as a dead node counts as alive.
const LEASE: Duration = Duration::from_secs(10);
/// How long a word may take to the bus.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of lines in one word: a word holds 64 KiB.
const MAX_WORD: usize = 48 * 1024;
/// Words that wait for one asker.
const PARTS: usize = 32;

/// The traces of this node: those it follows, and those that were asked for here.
#[derive(Clone)]
pub struct Traces(Arc<Inner>);

struct Inner {
    bus: Arc<AnyBus>,
    tracer: Tracer,
    /// Where answers go, by trace.
    asked: Mutex<HashMap<Arc<str>, mpsc::Sender<Part>>>,
    /// Until when each is followed here.
    followed: Mutex<HashMap<Arc<str>, watch::Sender<tokio::time::Instant>>>,
    /// The node stops.
    stopping: watch::Sender<bool>,
}

/// What one node told.
struct Part {
    node: Arc<str>,
    before: u64,
    lines: Vec<TraceLine>,
    refused: bool,
}

impl Traces {
    /// Traces of what this node's sessions tell, and of all others on the bus.
    #[must_use]
    pub fn new(bus: Arc<AnyBus>, tracer: Tracer) -> Self {
        let (asked, followed) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { bus, tracer, asked, followed, stopping: watch::channel(false).0 }))
    }

    /// Deals with a word of another node, or of this one. Never waits.
    pub(super) fn told(&self, letter: Control) {
        match letter {
            Control::Trace { id, from, by, target, seconds } => {
                let lease = Duration::from_secs(seconds.into()).min(LEASE);
                follow::follow(self, id, from, &by, &target, lease);
            }
            Control::Untrace { id } => drop(self.followed().remove(&id)),
            Control::Traced { id, node, before, lines, refused } => {
                let asker = self.asked().get(&id).cloned();
                // One who reads too slowly is told how much is missing.
                let _ = asker.is_some_and(|asker| asker.try_send(Part { node, before, lines, refused }).is_ok());
            }
            _ => {}
        }
    }

    /// Ends every trace that was asked for here: the node stops.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Arc<str>, mpsc::Sender<Part>>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Arc<str>, watch::Sender<tokio::time::Instant>>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says a word. False when that node is dead, or the bus is away.
    async fn tell(&self, node: Option<&str>, word: &Control) -> Told {
        match timeout(PATIENCE, self.0.bus.tell(node, word.encode())).await {
            Ok(Ok(true)) => Told::Heard,
            Ok(Ok(false)) => Told::Dead,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a word of a trace was not said");
                Told::Away
            }
            Err(_) => Told::Away,
        }
    }
}

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It was said.
    Heard,
    /// That node is not alive.
    Dead,
    /// The bus is.
    Away,
}
