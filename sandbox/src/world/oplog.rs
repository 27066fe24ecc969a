//! The bounded log of a collection's writes. Entries have consecutive sequence numbers (ours) and growing positions (MongoDB's).
//! What falls off the end is gone: a reader behind it has lost its history and is told so, never skipped over.

use super::{Document, Ts};
use crate::config::WorldKnobs;
use std::collections::VecDeque;
use std::sync::Arc;

/// What was written.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A whole document; `set` is what changed where it was an edit, `prev` the version before.
    Write { doc: Arc<Document>, prev: Option<Arc<Document>>, set: Option<Arc<str>> },
    /// A document went away.
    Delete { id: Arc<str> },
    /// Nothing, but time went on.
    Noop,
}

/// One entry.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) ts: Ts,
    pub(crate) op: Op,
}

impl Entry {
    fn cost(&self) -> usize {
        let op = match &self.op {
            Op::Write { doc, set, .. } => doc.body.kept_bytes() + set.as_ref().map_or(0, |set| set.len()),
            Op::Delete { id } => id.len(),
            Op::Noop => 0,
        };
        op + 64
    }
}

/// The log.
#[derive(Debug)]
pub(crate) struct Oplog {
    entries: VecDeque<Entry>,
    start: u64,
    bytes: usize,
    /// The newest position that is no longer in the log: a cursor at it can still be followed, one before it cannot.
    floor: Ts,
    top: Ts,
}

impl Oplog {
    pub(crate) fn new(origin: Ts) -> Self {
        Self { entries: VecDeque::new(), start: 0, bytes: 0, floor: origin, top: origin }
    }

    /// Sequence number that the next entry will have.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    /// The newest position.
    pub(crate) fn top(&self) -> Ts {
        self.top
    }

    /// The position that the next entry written at this time will have.
    pub(crate) fn next_ts(&self, now: i64) -> Ts {
        self.top.next(now)
    }

    pub(crate) fn append(&mut self, ts: Ts, op: Op, knobs: &WorldKnobs) {
        let entry = Entry { ts, op };
        self.bytes += entry.cost();
        self.top = ts;
        self.entries.push_back(entry);
        while self.entries.len() > knobs.oplog_entries || self.bytes > knobs.oplog_bytes {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        self.bytes -= entry.cost();
        self.start += 1;
        self.floor = entry.ts;
        true
    }

    /// Forgets everything, so that only a cursor at the very top could go on; with `leap` not even that one.
    pub(crate) fn forget(&mut self, leap: bool) {
        while self.drop_oldest() {}
        if leap {
            self.top = Ts { seconds: self.top.seconds.saturating_add(1), increment: 1 };
            self.floor = self.top;
        }
    }

    /// The sequence number to go on from after `ts`; `None` if that position is not in the log.
    pub(crate) fn find(&self, ts: Ts) -> Option<u64> {
        if ts < self.floor || ts > self.top {
            return None;
        }
        let behind = self.entries.partition_point(|entry| entry.ts <= ts);
        Some(self.start + behind as u64)
    }

    /// Up to `max` entries from a sequence number on; `None` if it has fallen off.
    pub(crate) fn read(&self, from: u64, max: usize) -> Option<Vec<Entry>> {
        let skip = usize::try_from(from.checked_sub(self.start)?).ok()?;
        Some(self.entries.iter().skip(skip).take(max).cloned().collect())
    }

    /// Entries kept and the bytes they cost.
    pub(crate) fn kept(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(writes: u32, keep: usize) -> Oplog {
        let knobs = WorldKnobs { oplog_entries: keep, ..WorldKnobs::default() };
        let mut log = Oplog::new(Ts { seconds: 9, increment: 9 });
        for _ in 0..writes {
            let ts = log.next_ts(10_000_000);
            log.append(ts, Op::Noop, &knobs);
        }
        log
    }

    fn ts(increment: u32) -> Ts {
        Ts { seconds: 10, increment }
    }

    #[test]
    fn a_cursor_is_followed_only_while_nothing_after_it_was_dropped() {
        let log = log(10, 4);
        assert_eq!(log.kept().0, 4);
        assert_eq!(log.end(), 10);
        assert_eq!(log.find(ts(5)), None);
        assert_eq!(log.find(ts(6)), Some(6), "the newest dropped one: nothing after it is missing");
        assert_eq!(log.find(ts(8)), Some(8));
        assert_eq!(log.find(ts(10)), Some(10));
        assert_eq!(log.find(ts(11)), None, "a cursor from the future");
        assert!(log.read(5, 9).is_none());
        assert_eq!(log.read(6, 9).unwrap().len(), 4);
        assert_eq!(log.read(10, 9).unwrap().len(), 0);
    }

    #[test]
    fn forgetting_loses_every_older_cursor() {
        let mut log = log(3, 100);
        log.forget(false);
        assert_eq!(log.find(ts(3)), Some(3));
        log.forget(true);
        assert_eq!(log.find(ts(3)), None);
        assert!(log.next_ts(0) > log.top());
        assert_eq!(log.find(log.top()), Some(3));
    }

    #[test]
    fn bytes_bound_the_log_too() {
        let knobs = WorldKnobs { oplog_bytes: 64 * 3, ..WorldKnobs::default() };
        let mut log = Oplog::new(Ts { seconds: 1, increment: 1 });
        for _ in 0..10 {
            let next = log.next_ts(0);
            log.append(next, Op::Noop, &knobs);
        }
        assert_eq!(log.kept(), (3, 192));
    }
}
