//! Edits of several people at once: those that come while one transaction of a kind is under way go into the next one together, so that they
//! wait for one flush of the database and not for one after the other.
//!
//! Invariants: each is judged as if it were alone, in the order in which they came; what is refused of one changes nothing of another;
//! nobody is answered before the commit; where a record of one is refused by the database, each is tried by itself; whoever has gone away before
//! it was begun has asked for nothing. At most one transaction of a kind is under way on a node. A leader that dies lets all go who wait: then
//! nobody knows.
//!
//! Not here: requests with several edits, or with a key for repetition. They have transactions of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicI64},
    time::Duration,
};

use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::platform::Kind;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Author, Entities,
    edit::{Edit, Refused},
    editing::{EditError, Edited, MAX_TOGETHER, Ran, Run},
    idempotency::Answer,
    write::TURN_BYTES,
};
use crate::identity::audit::Who;

/// Most edits of a kind that wait: at a millisecond each they are as long under way as anybody waits.
const MAX_WAITING: usize = 4_096;
/// Most bytes that they bring: eight transactions of the largest size.
const MAX_WAITING_BYTES: usize = 8 * TURN_BYTES;
/// Longest wait for an answer: the turn, and a transaction that is tried again.
const PATIENCE: Duration = Duration::from_secs(20);
const DOING: &str = "editing entities";

struct Waiting {
    edit: Edit,
    who: Who,
    tell: oneshot::Sender<Result<Edited, EditError>>,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.edit.raw().map_or(0, |raw| raw.get().len())
    }
}

/// Those of one kind, and the bytes that they bring.
#[derive(Default)]
struct Queue {
    edits: VecDeque<Waiting>,
    bytes: usize,
}

/// The edits that wait, by kind; a kind that is there has somebody at work.
#[derive(Default)]
pub(super) struct Combined {
    queues: Mutex<HashMap<Kind, Queue>>,
    waiting: Gauge<i64, AtomicI64>,
}

impl Combined {
    fn queues(&self) -> MutexGuard<'_, HashMap<Kind, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait, of all kinds.
    pub(super) fn gauge(&self) -> Gauge<i64, AtomicI64> {
        self.waiting.clone()
    }

    /// Adds one; answers whether nobody is at work yet, or `None` when too many wait.
    fn push(&self, kind: &Kind, one: Waiting) -> Option<bool> {
        let mut queues = self.queues();
        let idle = !queues.contains_key(kind);
        let queue = queues.entry(kind.clone()).or_default();
        if queue.edits.len() >= MAX_WAITING || queue.bytes > MAX_WAITING_BYTES {
            return None;
        }
        queue.bytes += one.bytes();
        queue.edits.push_back(one);
        self.waiting.inc();
        Some(idle)
    }

    /// The next ones; none: the work is over.
    fn take(&self, kind: &Kind) -> Vec<Waiting> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(kind) else { return Vec::new() };
        // Whoever has been told that it takes too long, or has gone, may have asked again: of what is not begun nothing is done.
        let before = queue.edits.len();
        queue.edits.retain(|one| !one.tell.is_closed());
        let mut bytes = 0;
        let fitting = queue.edits.iter().take(MAX_TOGETHER).take_while(|one| {
            bytes += one.bytes();
            bytes <= TURN_BYTES
        });
        let count = fitting.count().max(1).min(queue.edits.len());
        let next: Vec<_> = queue.edits.drain(..count).collect();
        queue.bytes = queue.edits.iter().map(Waiting::bytes).sum();
        self.waiting.dec_by(signed(before - queue.edits.len()));
        if next.is_empty() {
            queues.remove(kind);
        }
        next
    }

    fn forget(&self, kind: &Kind) {
        let left = self.queues().remove(kind);
        self.waiting.dec_by(left.map_or(0, |queue| signed(queue.edits.len())));
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// At work on a kind.
struct Leader {
    combined: Arc<Combined>,
    kind: Kind,
}

/// In order nothing is left; after a panic those who wait are let go, and the next one who comes leads.
impl Drop for Leader {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.combined.forget(&self.kind);
        }
    }
}

impl Entities {
    /// Does one edit, perhaps together with those of others.
    pub(super) async fn edit_together(&self, kind: &Kind, edit: Edit, who: Who) -> Result<Edited, EditError> {
        let gone = |why: &'static str| StoreError::Unavailable { doing: DOING, source: why.into() };
        let (tell, told) = oneshot::channel();
        let idle = self.combined.push(kind, Waiting { edit, who, tell });
        if idle.ok_or_else(|| gone("too many edits of the kind wait"))? {
            // A task of its own: whoever asked may go away, and others wait.
            tokio::spawn(self.clone().lead(Leader { combined: Arc::clone(&self.combined), kind: kind.clone() }));
        }
        match timeout(PATIENCE, told).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(gone("the edit was given up").into()),
            Err(_) => Err(gone("the edit takes too long").into()),
        }
    }

    async fn lead(self, leader: Leader) {
        loop {
            let group = leader.combined.take(&leader.kind);
            if group.is_empty() {
                return;
            }
            self.run_together(&leader.kind, group).await;
        }
    }

    async fn run_together(&self, kind: &Kind, group: Vec<Waiting>) {
        // Each has its own.
        let author = Author { by: "", trace: None };
        let mut edits = Vec::with_capacity(group.len());
        let (mut who, mut tells) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for one in group {
            edits.push(one.edit);
            who.push(one.who);
            tells.push(one.tell);
        }
        match self
            .run_in_turn(&Run { kind, author, edits: &edits, who: &who, atomic: false, key: None, shows: true })
            .await
        {
            Ok(ran) => answer_each(ran, tells),
            Err(EditError::Store(StoreError::Unavailable { source, .. })) => {
                let why = source.to_string();
                for tell in tells {
                    let error = StoreError::Unavailable { doing: DOING, source: why.clone().into() };
                    let _ = tell.send(Err(error.into()));
                }
            }
            // One of them is at fault, or they are too large together.
            Err(_) => {
                let open = edits.iter().zip(&who).zip(tells).filter(|(_, tell)| !tell.is_closed());
                for ((edit, who), tell) in open {
                    let (edits, who) = (std::slice::from_ref(edit), std::slice::from_ref(who));
                    match self
                        .run_in_turn(&Run { kind, author, edits, who, atomic: false, key: None, shows: true })
                        .await
                    {
                        Ok(ran) => answer_each(ran, vec![tell]),
                        Err(error) => drop(tell.send(Err(error))),
                    }
                }
            }
        }
    }
}

fn answer_each(ran: Ran, tells: Vec<oneshot::Sender<Result<Edited, EditError>>>) {
    let Ran { answer: Answer { items, position }, came, mut rows, .. } = ran;
    rows.resize(items.len(), None);
    for (((tell, item), came), row) in tells.into_iter().zip(items).zip(came).zip(rows) {
        let answer = Answer { items: vec![item], position: position.clone() };
        let done = came.map(|_| Edited { answer, row, replayed: false });
        // Whoever asked may have gone away.
        let _ = tell.send(done.map_err(|refused: Refused| EditError::Refused { index: 0, refused }));
    }
}
