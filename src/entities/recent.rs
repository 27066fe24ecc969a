//! What this node has just committed, still in memory, so that the relay need not read back what the node wrote a
//! millisecond ago.
//!
//! Invariants: only what is committed comes in; per kind one run without a hole, of one epoch; bounded in bytes: what does
//! not fit is forgotten whole, and the log is asked instead. Losing all of it costs a read, never a change.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dzvin_actors::platform::ports::{LogSlice, ReadLimit};
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::Change,
    platform::{EntityId, Kind},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Bytes of documents over all kinds: two of the largest batches. A relay that is further behind reads the log.
const MAX_RECENT_BYTES: usize = 8 * 1024 * 1024;
/// What a change costs besides its document and the names in it.
const OVERHEAD_BYTES: usize = 512;

/// What one transaction writes to the log, until it is committed. Above the limit it is dropped: the log has it.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    runs: Vec<(Epoch, Vec<Change>)>,
    bytes: usize,
    lost: bool,
}

impl Logged {
    /// One more run of changes.
    pub(super) fn add(&mut self, epoch: Epoch, changes: Vec<Change>) {
        self.bytes += changes.iter().map(cost).sum::<usize>();
        self.runs.push((epoch, changes));
        self.bound();
    }

    /// Nothing of an entity is told of which the same transaction has destroyed the document.
    pub(super) fn forget(&mut self, id: &EntityId) {
        for change in self.runs.iter_mut().flat_map(|(_, changes)| changes).filter(|change| change.id == *id) {
            change.doc = None;
            change.changed.clear();
        }
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.runs.append(&mut other.runs);
        self.bytes += other.bytes;
        self.lost |= other.lost;
        self.bound();
    }

    fn bound(&mut self) {
        if self.lost || self.bytes > MAX_RECENT_BYTES {
            *self = Self { lost: true, ..Self::default() };
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Tails>);

#[derive(Debug, Default)]
struct Tails {
    kinds: HashMap<Kind, Tail>,
    bytes: usize,
    /// Something was committed that is not here.
    lost: bool,
}

#[derive(Debug)]
struct Tail {
    epoch: Epoch,
    changes: VecDeque<Change>,
}

fn cost(change: &Change) -> usize {
    let names: usize = change.changed.iter().map(|name| size_of::<String>() + name.len()).sum();
    let fields = change.fields.as_ref().map_or(0, |fields| fields.len());
    OVERHEAD_BYTES + names + fields + change.doc.as_ref().map_or(0, |doc| doc.get().len())
}

impl Recent {
    fn tails(&self) -> MutexGuard<'_, Tails> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what one transaction committed to a kind's stream.
    pub(super) fn take(&self, kind: &Kind, logged: Logged) {
        if logged.lost {
            self.lost();
        }
        logged.runs.into_iter().for_each(|(epoch, changes)| self.push(kind, &epoch, changes));
    }

    fn push(&self, kind: &Kind, epoch: &Epoch, changes: Vec<Change>) {
        let Some(first) = changes.first().map(|change| change.offset) else { return };
        let mut tails = self.tails();
        let last = tails.kinds.get(kind).and_then(|tail| Some((tail.epoch.clone(), tail.changes.back()?.offset)));
        match last {
            None => {}
            Some((known, last)) if known == *epoch && first == last + 1 => {}
            // Two writers of a kind, the later one here first; or a database that went back unnoticed. Only the log knows.
            Some((known, last)) if known == *epoch && first <= last => {
                tails.forget(kind);
                tails.lost = true;
                return;
            }
            Some(_) => tails.forget(kind),
        }
        tails.bytes += changes.iter().map(cost).sum::<usize>();
        let tail =
            tails.kinds.entry(kind.clone()).or_insert_with(|| Tail { epoch: epoch.clone(), changes: VecDeque::new() });
        tail.changes.extend(changes);
        if tails.bytes > MAX_RECENT_BYTES {
            *tails = Tails { lost: true, ..Tails::default() };
        }
    }

    /// Notes that something was, or may have been, committed that is not here.
    pub(super) fn lost(&self) {
        self.tails().lost = true;
    }

    fn bytes(&self) -> usize {
        self.tails().bytes
    }

    /// Kinds with something in memory; `None` when something else has to be looked for in the log. Told once.
    pub(super) fn fresh(&self) -> Option<Vec<Kind>> {
        let mut tails = self.tails();
        (!std::mem::take(&mut tails.lost)).then(|| tails.kinds.keys().cloned().collect())
    }

    /// What follows the position; forgets what does not.
    pub(super) fn after(&self, kind: &Kind, after: &Position, limit: ReadLimit) -> Option<LogSlice> {
        let mut tails = self.tails();
        if tails.kinds.get(kind).is_some_and(|tail| tail.epoch != after.epoch) {
            tails.forget(kind);
        }
        let tail = tails.kinds.get_mut(kind)?;
        let old = tail.changes.iter().take_while(|change| change.offset <= after.offset).count();
        let freed: usize = tail.changes.drain(..old).map(|change| cost(&change)).sum();
        let first = tail.changes.front().map(|change| change.offset);
        let top = tail.changes.back().map_or(after.offset, |change| change.offset);
        let mut bytes = 0;
        let fitting = tail.changes.iter().take(limit.count.max(1)).take_while(|change| {
            bytes += cost(change);
            bytes <= limit.bytes || bytes == cost(change)
        });
        let changes: Vec<Change> = fitting.cloned().collect();
        let empty = tail.changes.is_empty();
        tails.bytes -= freed;
        if empty {
            tails.kinds.remove(kind);
        }
        let position = Position { epoch: after.epoch.clone(), offset: top };
        first.is_none_or(|first| first == after.offset + 1).then_some(LogSlice { position, changes, complete: true })
    }
}

impl Tails {
    fn forget(&mut self, kind: &Kind) {
        if let Some(tail) = self.kinds.remove(kind) {
            self.bytes -= tail.changes.iter().map(cost).sum::<usize>();
        }
    }
}

/// Its size, asked for when somebody scrapes.
#[derive(Debug)]
pub(super) struct Held(pub(super) Arc<Recent>);

impl Collector for Held {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Bytes of changes that this node committed and keeps for its relay";
        let held = ConstGauge::new(i64::try_from(self.0.bytes()).unwrap_or(i64::MAX));
        held.encode(encoder.encode_descriptor("entities_recent_bytes", help, None, MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use dzvin_protocols::{entities::Op, platform::EntityId};
    use serde_json::value::RawValue;
    use sqlx::types::time::OffsetDateTime;

    use super::*;

    const ALL: ReadLimit = ReadLimit { count: 1000, bytes: usize::MAX };

    fn kind() -> Kind {
        Kind::new("procedure").expect("a kind")
    }

    fn run(offsets: RangeInclusive<u64>, bytes: usize) -> Vec<Change> {
        let one = |offset| Change {
            kind: kind(),
            id: EntityId::new("a").expect("an id"),
            revision: offset,
            offset,
            op: Op::Update,
            at: OffsetDateTime::UNIX_EPOCH,
            by: "x".into(),
            changed: Vec::new(),
            doc: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).ok().map(Into::into),
            trace: None,
            fields: None,
        };
        offsets.map(one).collect()
    }

    fn offsets(recent: &Recent, epoch: &str, after: u64, limit: ReadLimit) -> Option<Vec<u64>> {
        let slice = recent.after(&kind(), &Position { epoch: Epoch::new(epoch), offset: after }, limit)?;
        Some(slice.changes.iter().map(|change| change.offset).collect())
    }

    #[test]
    fn a_run_is_told_until_it_is_asked_beyond() {
        let (recent, epoch) = (Recent::default(), Epoch::new("e"));
        recent.push(&kind(), &epoch, run(5..=6, 10));
        recent.push(&kind(), &epoch, run(7..=9, 10));
        assert_eq!(recent.fresh(), Some(vec![kind()]));
        assert_eq!(offsets(&recent, "e", 3, ALL), None, "4 is not here");
        assert_eq!(offsets(&recent, "e", 4, ReadLimit { count: 2, ..ALL }), Some(vec![5, 6]));
        assert_eq!(offsets(&recent, "e", 4, ReadLimit { bytes: 1, ..ALL }), Some(vec![5]), "one at least");
        assert_eq!(offsets(&recent, "e", 6, ALL), Some(vec![7, 8, 9]));
        assert_eq!(offsets(&recent, "e", 9, ALL), Some(vec![]), "nothing newer");
        assert_eq!((recent.bytes(), recent.fresh()), (0, Some(vec![])), "and nothing is kept");
    }

    #[test]
    fn a_hole_or_another_epoch_starts_again() {
        let (recent, epoch) = (Recent::default(), Epoch::new("e"));
        recent.push(&kind(), &epoch, run(1..=2, 10));
        recent.push(&kind(), &epoch, run(4..=4, 10));
        assert_eq!(offsets(&recent, "e", 2, ALL), None, "3 is not here");
        assert_eq!(recent.fresh(), Some(vec![kind()]));
        recent.push(&kind(), &epoch, run(3..=3, 10));
        assert_eq!((recent.fresh(), recent.bytes()), (None, 0), "what came late sends the relay to the log");
        recent.push(&kind(), &Epoch::new("f"), run(5..=5, 10));
        assert_eq!(offsets(&recent, "f", 4, ALL), Some(vec![5]));
        assert_eq!(offsets(&recent, "e", 4, ALL), None);
        assert_eq!((recent.bytes(), recent.fresh()), (0, Some(vec![])), "of another epoch nothing is kept");
    }

    #[test]
    fn a_transaction_beyond_the_limit_is_not_kept() {
        let (recent, mut logged) = (Recent::default(), Logged::default());
        for n in 0..9 {
            logged.add(Epoch::new("e"), run(n + 1..=n + 1, MAX_RECENT_BYTES / 8));
        }
        assert!(logged.runs.is_empty());
        recent.take(&kind(), logged);
        assert_eq!((recent.fresh(), recent.bytes()), (None, 0));
    }

    #[test]
    fn what_does_not_fit_is_said_once_to_be_elsewhere() {
        let (recent, epoch) = (Recent::default(), Epoch::new("e"));
        recent.push(&kind(), &epoch, run(1..=9, MAX_RECENT_BYTES / 8));
        assert_eq!((recent.bytes(), recent.fresh()), (0, None));
        assert_eq!(recent.fresh(), Some(vec![]));
        recent.lost();
        assert_eq!(recent.fresh(), None);
    }
}
