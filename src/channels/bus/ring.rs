//! The recent past of one stream in memory: bounded by count, bytes and age.

use std::{collections::VecDeque, sync::Arc};

use dzvin_actors::platform::ports::{HistoryLimits, ReadLimit, Slice, Version};
use dzvin_protocols::channels::{Position, Publication};
use tokio::time::Instant;

/// The recent past of a stream.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) position: Position,
    pub(super) limits: HistoryLimits,
    /// Publication and when it was appended; their offsets end at the position's.
    pub(super) entries: VecDeque<(Publication, Instant)>,
    pub(super) bytes: usize,
    /// The last that a publication was said to be.
    pub(super) version: Option<Version>,
}

impl Ring {
    pub(super) fn new(position: Position, limits: HistoryLimits) -> Self {
        Self { position, limits, entries: VecDeque::new(), bytes: 0, version: None }
    }

    /// Forgets the past; where it stands stays.
    pub(super) fn forget(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Where the stream stands, if what it has is as new as this.
    pub(super) fn older(&self, than: &Version) -> Option<Position> {
        let last = self.version.as_ref()?;
        let of_last = than.epoch.is_empty() || than.epoch == last.epoch;
        (of_last && than.number <= last.number).then(|| self.position.clone())
    }

    /// An empty epoch stands for that of the last.
    pub(super) fn note(&mut self, version: &Version) {
        let last = self.version.take().map(|last| last.epoch);
        let epoch = if version.epoch.is_empty() { last.unwrap_or_default() } else { Arc::clone(&version.epoch) };
        self.version = Some(Version { number: version.number, epoch });
    }

    pub(super) fn extend(&mut self, run: &[Publication]) {
        let now = Instant::now();
        for publication in run {
            self.position.offset = publication.offset;
            self.bytes += weight(publication);
            self.entries.push_back((publication.clone(), now));
        }
        self.trim();
    }

    /// What is kept when memory is short.
    pub(super) fn keep_newest(&mut self) {
        self.entries.drain(..self.entries.len().saturating_sub(1));
        self.bytes = self.entries.iter().map(|(publication, _)| weight(publication)).sum();
    }

    pub(super) fn trim(&mut self) {
        let (now, limits) = (Instant::now(), self.limits);
        while let Some((oldest, at)) = self.entries.front() {
            let old = now.saturating_duration_since(*at) > limits.age;
            if self.entries.len() <= limits.count && self.bytes <= limits.bytes && !old {
                break;
            }
            self.bytes -= weight(oldest);
            self.entries.pop_front();
        }
    }

    pub(super) fn slice(&self, after: u64, limit: ReadLimit) -> Slice {
        // Offsets have no gaps, so the place in the ring is arithmetic.
        let first = self.position.offset + 1 - self.entries.len() as u64;
        let start = after.saturating_add(1);
        let skip = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX).min(self.entries.len());
        let mut room = limit.bytes;
        let mut publications = Vec::new();
        for (publication, _) in self.entries.range(skip..).take(limit.count.max(1)) {
            if !publications.is_empty() && publication.size() > room {
                break;
            }
            room = room.saturating_sub(publication.size());
            publications.push(publication.clone());
        }
        Slice { position: self.position.clone(), publications, complete: start >= first }
    }
}

/// What a publication costs in a ring: its data and a little for the rest.
fn weight(publication: &Publication) -> usize {
    publication.size() + publication.id.as_str().len() + size_of::<(Publication, Instant)>()
}
