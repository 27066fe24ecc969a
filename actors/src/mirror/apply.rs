//! The one place from which a link writes: batches in order, one in flight, tried until they are stored.
//!
//! Invariants: a batch is never dropped and never overtaken; data that the database refuses is narrowed down to the one
//! record, which goes to quarantine, and the rest goes on; a refusal that is not the data's fault is waited out; a batch whose answer was lost is applied again, which versions make harmless.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use dzvin_protocols::{
    mirror::{MirrorBatch, MirrorOp, Quarantined},
    platform::{Kind, trace_id},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{metrics::LinkMetrics, socket::Task};
use crate::{
    cdb::Backoff,
    platform::ports::{Applied, Lease, MirrorStore, StoreError},
};

/// The lease is gone: this node must write nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease is no longer held")]
pub(super) struct LeaseLost;

struct Job {
    batch: MirrorBatch,
    reply: oneshot::Sender<Result<Applied, LeaseLost>>,
}

/// Gives batches to the writing task. Clones share it.
#[derive(Clone)]
pub(super) struct Applier(mpsc::Sender<Job>);

impl Applier {
    /// Starts the task; it ends with the returned guard.
    pub(super) fn start<S: MirrorStore>(
        store: Arc<S>,
        kind: Kind,
        lease: Lease,
        metrics: LinkMetrics,
        limit: Duration,
    ) -> (Self, Task) {
        let (jobs, queue) = mpsc::channel(1);
        let worker = Worker { store, kind, lease, metrics, limit };
        (Self(jobs), Task::spawn(worker.run(queue)))
    }

    /// Stores a batch, however long that takes.
    pub(super) async fn submit(&self, batch: MirrorBatch) -> Result<Applied, LeaseLost> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Job { batch, reply }).await.map_err(|_| LeaseLost)?;
        answer.await.map_err(|_| LeaseLost)?
    }
}

struct Worker<S> {
    store: Arc<S>,
    kind: Kind,
    lease: Lease,
    metrics: LinkMetrics,
    limit: Duration,
}

enum Outcome {
    Done(Applied),
    Refused(String),
    Lost,
}

impl<S: MirrorStore> Worker<S> {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        while let Some(Job { batch, reply }) = queue.recv().await {
            let result = self.store_all(batch).await;
            let lost = result.is_err();
            let _ = reply.send(result);
            if lost {
                return;
            }
        }
    }

    async fn store_all(&self, batch: MirrorBatch) -> Result<Applied, LeaseLost> {
        let mut parts = VecDeque::from([batch]);
        let mut total = Applied::default();
        while let Some(part) = parts.pop_front() {
            match self.store_part(&part).await {
                Outcome::Done(applied) => total += applied,
                Outcome::Lost => return Err(LeaseLost),
                Outcome::Refused(why) => {
                    for smaller in narrowed(part, &why).into_iter().rev() {
                        parts.push_front(smaller);
                    }
                }
            }
        }
        self.metrics.applied(&total);
        Ok(total)
    }

    async fn store_part(&self, part: &MirrorBatch) -> Outcome {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let begun = Instant::now();
            let answer =
                timeout(self.limit, self.store.apply(&self.metrics.mirror, &self.kind, &self.lease, part.clone()))
                    .await;
            let why: String = match answer {
                Ok(Ok(applied)) => {
                    self.metrics.commit.observe(begun.elapsed().as_secs_f64());
                    self.metrics.batch.observe(part.ops.len() as f64);
                    let trace_id = part.trace.as_deref().and_then(trace_id);
                    tracing::debug!(mirror = %self.metrics.mirror, operations = part.ops.len(), changed = applied.changed, trace_id, "batch committed");
                    return Outcome::Done(applied);
                }
                Ok(Err(StoreError::LeaseLost { .. })) => return Outcome::Lost,
                Ok(Err(error @ StoreError::Unfit { .. })) => {
                    let why = chain(&error);
                    if !part.ops.is_empty() || !part.quarantined.is_empty() {
                        return Outcome::Refused(why);
                    }
                    // Only the cursor is left: there is nothing to put aside, so this is for people to mend.
                    why
                }
                Ok(Err(error)) => chain(&error),
                Err(_) => "the store did not answer in time".into(),
            };
            tracing::warn!(mirror = %self.metrics.mirror, operations = part.ops.len(), error = why, "a batch was not stored, trying again");
            sleep(backoff.next(Duration::from_millis(20))).await;
        }
    }
}

/// The error with its causes, for people.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().take(400).collect()
}

/// A refused batch in smaller parts, in order: halves, and at last the one record put aside. Cursor and flags stay with the
/// last part, so they never run ahead of the rows.
fn narrowed(mut batch: MirrorBatch, why: &str) -> Vec<MirrorBatch> {
    match batch.ops.len() {
        0 => {
            tracing::error!(
                count = batch.quarantined.len(),
                error = why,
                "frames in quarantine were refused and are lost"
            );
            batch.quarantined.clear();
            vec![batch]
        }
        1 => {
            for op in batch.ops.drain(..) {
                let (id, raw) = match op {
                    MirrorOp::Upsert(doc) => (doc.id, doc.doc.get().to_owned()),
                    MirrorOp::Set { id, set, .. } => (id, set.get().to_owned()),
                    MirrorOp::Delete { id } => (id, String::new()),
                };
                let record = Quarantined { reason: "refused", detail: why.into(), id: Some(id), raw: raw.into_bytes() };
                batch.quarantined.push(record);
            }
            vec![batch]
        }
        count => {
            let rest = batch.ops.split_off(count / 2);
            let first = MirrorBatch {
                ops: std::mem::replace(&mut batch.ops, rest),
                by: Arc::clone(&batch.by),
                trace: batch.trace.clone(),
                ..MirrorBatch::default()
            };
            vec![first, batch]
        }
    }
}
