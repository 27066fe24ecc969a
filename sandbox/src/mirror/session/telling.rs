//! The server tells: the repair of a full client, the snapshot, the tail, and the faults that strike around an operation.

use super::{BATCH, End, Session, end, gone};
use crate::config::Manner;
use crate::faults::{Fault, Faults, StaleTs};
use crate::mirror::frames::{self, Frame, IDS_SINCE, Speller, TIMESTAMP};
use crate::stats::Phase;
use crate::world::{Document, Entry, Op, Ts};
use rand::Rng;
use rand::seq::SliceRandom;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Ids taken from one answer.
const MAX_IDS: usize = 10_000;

impl Session {
    /// Repairs a full client: it names what it changed since a little before its cursor, and is told how those stand.
    pub(super) async fn repair(&mut self, cursor: Ts) -> Result<(), End> {
        let since = Ts { seconds: cursor.seconds.saturating_sub(60), increment: 0 };
        self.ask(IDS_SINCE, Some(since)).await?;
        let mut answers = HashMap::new();
        self.answers(&mut answers).await?;
        let ids: Vec<String> =
            answers.get(IDS_SINCE).and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default();
        for id in ids.into_iter().take(MAX_IDS) {
            let doc = self.shelf_read(|c| c.get(&id))?;
            let speller = Speller(&self.knobs.mirror);
            let frame = doc.map_or_else(|| speller.delete(&id, None), |doc| speller.upsert(doc, None));
            self.operation(frame, None).await?;
        }
        Ok(())
    }

    /// Sends every document from the point on, without positions; gives the sequence number at which the tail goes on.
    pub(super) async fn snapshot(&mut self, point: Option<i64>) -> Result<u64, End> {
        self.note(|link| link.phase = Phase::Snapshot);
        self.shared.book.collection(&self.collection, |c| c.snapshots += 1);
        let (mut docs, next, top) = self.shelf_read(|c| (c.since(point), c.oplog.end(), c.oplog.top()))?;
        if !self.knobs.mirror.snapshot_ordered {
            docs.shuffle(&mut self.rng);
        }
        for doc in docs {
            let frame = Speller(&self.knobs.mirror).upsert(doc, None);
            self.operation(frame, None).await?;
        }
        if self.knobs.mirror.snapshot_end_noop {
            let frame = Speller(&self.knobs.mirror).noop(top);
            self.operation(frame, None).await?;
        }
        self.flush().await?;
        self.shared.book.collection(&self.collection, |c| c.snapshots_done += 1);
        Ok(next)
    }

    pub(super) async fn tail(&mut self, mut next: u64) -> Result<(), End> {
        self.note(|link| {
            link.phase = Phase::Tail;
            link.sequence = next;
        });
        let mut reask = 0;
        loop {
            self.top.borrow_and_update();
            let Some(entries) = self.shelf_read(|c| c.oplog.read(next, BATCH))? else {
                return end(Manner::Close(1011), "the tail fell off the oplog");
            };
            let idle = entries.is_empty();
            for entry in entries {
                self.entry(entry).await?;
                next += 1;
                reask += 1;
                if self.knobs.mirror.reask_every > 0 && reask >= self.knobs.mirror.reask_every {
                    reask = 0;
                    self.ask(TIMESTAMP, None).await?;
                }
            }
            self.flush().await?;
            self.note(|link| link.sequence = next);
            if idle {
                self.event(None).await?;
            } else {
                self.look_up().await?;
            }
        }
    }

    async fn entry(&mut self, entry: Entry) -> Result<(), End> {
        let speller = Speller(&self.knobs.mirror);
        let ts = entry.ts;
        match entry.op {
            Op::Write { doc, prev, set: Some(set) } if self.full => {
                let frame = speller.update(&doc.id, &set, ts);
                self.operation(frame, prev).await
            }
            Op::Write { doc, prev, .. } => {
                let frame = speller.upsert(doc, Some(ts));
                self.operation(frame, prev).await
            }
            Op::Delete { id } if self.full => {
                let frame = speller.delete(&id, Some(ts));
                self.operation(frame, None).await
            }
            Op::Delete { .. } => Ok(()),
            Op::Noop => {
                let frame = speller.noop(ts);
                self.operation(frame, None).await
            }
        }
    }

    /// Sends one operation with whatever faults strike around it.
    pub(super) async fn operation(&mut self, frame: Frame, prev: Option<Arc<Document>>) -> Result<(), End> {
        let faults = self.faults.borrow().clone();
        let ts = frame.ts;
        if faults.0.is_empty() {
            self.send(&frame).await?;
        } else {
            self.before(&faults, ts).await?;
            self.send(&frame).await?;
            self.after(&faults, frame, prev).await?;
        }
        self.operations += 1;
        let operations = self.operations;
        self.note(|link| {
            link.operations = operations;
            link.sent = ts.max(link.sent);
        });
        if operations.is_multiple_of(BATCH as u64) {
            self.look_up().await?;
        }
        Ok(())
    }

    async fn before(&mut self, faults: &Faults, ts: Option<Ts>) -> Result<(), End> {
        let find = |name| faults.find(name, &self.collection);
        let due = |every: u32| self.operations.is_multiple_of(u64::from(every.max(1)));
        let mut extra = Vec::new();
        if let Some(active) = find("malformed")
            && let Fault::Malformed { every } = active.fault
            && due(every)
            && active.strike()
        {
            extra.push(frames::malformed(self.operations));
        }
        if let Some(active) = find("unknown-type")
            && let Fault::UnknownType { every } = active.fault
            && due(every)
            && active.strike()
        {
            extra.push(Speller(&self.knobs.mirror).unknown(ts.unwrap_or(Ts { seconds: 1, increment: 1 })));
        }
        if let Some(active) = find("cut")
            && let Fault::Cut { after, manner } = active.fault
            && self.operations >= u64::from(after)
            && active.strike()
        {
            return end(manner, "a cut");
        }
        let silence = find("silence").is_some_and(|active| {
            matches!(active.fault, Fault::Silence { after } if self.operations >= u64::from(after)) && active.strike()
        });
        for frame in extra {
            self.send(&frame).await?;
        }
        if silence { self.silence().await } else { Ok(()) }
    }

    async fn after(&mut self, faults: &Faults, frame: Frame, prev: Option<Arc<Document>>) -> Result<(), End> {
        let (ts, chance) = (frame.ts, self.rng.random_range(0..100u8));
        if let Some(active) = faults.find("duplicates", &self.collection)
            && let Fault::Duplicates { percent } = active.fault
            && chance < percent
            && active.strike()
        {
            self.send(&frame.counted("duplicate")).await?;
        }
        if let Some((active, prev)) = faults.find("stale", &self.collection).zip(prev)
            && let Fault::Stale { percent, ts: which } = active.fault
            && chance < percent
            && active.strike()
        {
            let ts = match which {
                StaleTs::Old => prev.ts,
                StaleTs::Same => ts,
                StaleTs::Null => None,
            };
            let frame = Speller(&self.knobs.mirror).upsert(prev, ts).counted("stale");
            self.send(&frame).await?;
        }
        Ok(())
    }

    /// Half-open: no byte in either direction until the fault is taken away.
    async fn silence(&mut self) -> Result<(), End> {
        self.flush().await?;
        let mut was = Phase::Tail;
        self.note(|link| was = std::mem::replace(&mut link.phase, Phase::Silent));
        let collection = self.collection.clone();
        let over = self.faults.wait_for(|faults| faults.find("silence", &collection).is_none()).await.is_ok();
        self.note(|link| link.phase = was);
        self.active = Instant::now();
        if over { Ok(()) } else { Err(gone("the sandbox stops")) }
    }
}
