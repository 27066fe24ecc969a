//! Frames become a batch: the operations, what is put aside, and the cursor that covers them.

use std::{fmt::Write, sync::Arc};

use dzvin_protocols::mirror::{FrameFault, MirrorBatch, MirrorOp, Quarantined, Sought};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::config::LinkLimits;

/// Most raw bytes that one record takes into quarantine.
const MAX_RAW: usize = 64 * 1024;

/// One place in a batch.
#[derive(Debug)]
pub(super) enum Slot {
    /// Known.
    Op(MirrorOp),
    /// To be fetched over HTTP before the batch is stored, so that the cursor never runs ahead of the object.
    Fetch(Sought),
}

/// What has come since the last batch.
#[derive(Debug, Default)]
pub(super) struct Gather {
    pub(super) slots: Vec<Slot>,
    pub(super) quarantined: Vec<Quarantined>,
    pub(super) cursor: Option<Box<RawValue>>,
    pub(super) snapshot_complete: Option<bool>,
    pub(super) gap: Option<bool>,
    /// Messages above the limit among them.
    pub(super) over_limit: u64,
    /// Cursors to acknowledge one by one.
    pub(super) acks: Vec<Box<RawValue>>,
    pub(super) newest: Option<String>,
    pub(super) frames: usize,
    pub(super) bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Gather {
    /// One more frame, with its place in the budget.
    pub(super) fn count(&mut self, bytes: usize, permit: Option<OwnedSemaphorePermit>) {
        self.frames += 1;
        self.bytes += bytes;
        match (&mut self.permit, permit) {
            (Some(held), Some(more)) => held.merge(more),
            (held @ None, more) => *held = more,
            (Some(_), None) => {}
        }
    }

    /// One more operation.
    pub(super) fn op(&mut self, op: MirrorOp) {
        let version = match &op {
            MirrorOp::Upsert(doc) => Some(&doc.version),
            MirrorOp::Set { version, .. } => version.as_ref(),
            MirrorOp::Delete { .. } => None,
        };
        if let Some(version) = version.filter(|version| Some(*version) > self.newest.as_ref()) {
            self.newest = Some(version.clone());
        }
        self.slots.push(Slot::Op(op));
    }

    /// One record that cannot be used.
    pub(super) fn aside(&mut self, fault: FrameFault, raw: &[u8]) {
        let raw = raw[..raw.len().min(MAX_RAW)].to_vec();
        self.quarantined.push(Quarantined { reason: fault.reason, detail: fault.detail, id: fault.id, raw });
    }

    /// Whether there is anything to store.
    pub(super) fn worth_storing(&self) -> bool {
        !self.slots.is_empty()
            || !self.quarantined.is_empty()
            || self.cursor.is_some()
            || self.gap.is_some()
            || self.snapshot_complete.is_some()
    }

    /// Whether more frames may join.
    pub(super) fn has_room(&self, limits: &LinkLimits) -> bool {
        self.frames < limits.batch_frames && self.bytes < limits.batch_bytes
    }

    /// The batch, its operations given by the caller, and the place in the budget that it keeps until it is stored.
    pub(super) fn into_batch(
        self,
        ops: Vec<MirrorOp>,
        by: &Arc<str>,
        trace: Arc<str>,
    ) -> (MirrorBatch, Option<OwnedSemaphorePermit>) {
        let batch = MirrorBatch {
            ops,
            quarantined: self.quarantined,
            cursor: self.cursor,
            snapshot_complete: self.snapshot_complete,
            gap: self.gap,
            by: Arc::clone(by),
            trace: Some(trace),
        };
        (batch, self.permit)
    }
}

/// A new W3C `traceparent`, sampled.
pub(super) fn traceparent() -> Arc<str> {
    let (trace, span): (u128, u64) = (rand::random(), rand::random());
    let mut text = String::with_capacity(55);
    // Writing into a string cannot fail. Neither id may be zero.
    let _ = write!(text, "00-{:032x}-{:016x}-01", trace.max(1), span.max(1));
    text.into()
}
