//! Recovery: what a stream said after a position, gap-free or not at all.
//!
//! For whom: a subscriber that comes back, and a topic whose events were cut. The bus's cache answers first; a durable
//! stream falls back to the change log, so that Redis may be away or empty.
//!
//! Invariants: `Complete` is every publication from `after + 1` to `position`, none missing, none doubled. It never
//! exceeds the limit: documents give way to references, oldest first, before the answer becomes `Unrecoverable`.
//!
//! Not here: waiting, retrying, subscribing. The caller subscribes first and merges live events by offset. Nor those whom not
//! everything of a kind concerns: `concerns`.

use std::collections::VecDeque;

use dzvin_protocols::{
    channels::{IdKey, Position, Publication},
    entities::{Change, Sight, Undeclared, lean},
    platform::{Kind, StreamName},
};

use crate::platform::ports::{Bus, BusError, ChangeLog, LogSlice, ReadLimit, Slice, StoreError};

/// Whether the past could be brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// Everything after the asked position up to this one.
    Complete {
        /// Where the receiver stands once it has taken the publications.
        position: Position,
        /// In offset order, starting exactly at `after + 1`; empty when there is nothing new.
        publications: Vec<Publication>,
    },
    /// The receiver has to load its state anew and go on from here.
    Unrecoverable {
        /// Where the stream is.
        position: Position,
        /// Why, for metrics and logs.
        cause: Cause,
    },
}

/// Why a position cannot be recovered: a closed set, fit for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It belongs to another life of the stream.
    Epoch,
    /// It is ahead of the log: PostgreSQL went back in time, or the client made it up.
    Ahead,
    /// More publications than the limit lie between, or more changes than are looked through.
    Count,
    /// They do not fit the byte limit even without their documents.
    Bytes,
    /// History and retention have cut what follows it.
    Retention,
    /// Of a query, or of who sees only some rows: something was written that does not tell the fields of the filter.
    Untold,
}

impl Cause {
    /// The spelling in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Ahead => "ahead",
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Retention => "retention",
            Self::Untold => "untold",
        }
    }
}

/// Nobody who knows could be asked. Worth another try, except for an unknown stream.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The bus is away and the stream has no log.
    #[error("the bus cannot be read for recovery")]
    Bus(#[source] BusError),
    /// The bus could not answer alone, and the log is away.
    #[error("the change log cannot be read for recovery")]
    Log(#[source] StoreError),
    /// Neither the bus nor the log has heard of it.
    #[error("unknown stream")]
    Unknown,
}

/// What `stream` said after `after`, within the limit.
///
/// A position ahead of the bus but not of the log is valid (a list read over REST may be newer than the bus): the
/// answer is `Complete` at that very position, and the bus will say the rest.
///
/// # Errors
/// [`HistoryError`] when the question cannot be answered now.
pub async fn since<B: Bus, L: ChangeLog>(
    bus: &B,
    log: &L,
    stream: &StreamName,
    after: &Position,
    limit: ReadLimit,
) -> Result<Recovered, HistoryError> {
    let unsure = match bus.read(stream, after.offset, limit).await {
        Ok(Some(slice)) if slice.position.epoch == after.epoch => match from_bus(slice, after, limit) {
            Verdict::Sure(answer) => return Ok(answer),
            Verdict::Behind(bus) => return behind(log, stream, after, bus).await,
            Verdict::AskLog(position, cause) => Ok(Recovered::Unrecoverable { position, cause }),
        },
        Ok(Some(slice)) => Ok(Recovered::Unrecoverable { position: slice.position, cause: Cause::Epoch }),
        Ok(None) => Err(HistoryError::Unknown),
        Err(error) => Err(HistoryError::Bus(error)),
    };
    let Some(kind) = stream.kind() else { return unsure };
    match (LogWalk { log, kind: &kind, key: None, sight: None }).since(after, limit).await? {
        Some(answer) => Ok(answer),
        None => unsure,
    }
}

/// What one entity's own channel said after `after`: offsets there are revisions, and only the log keeps them.
///
/// The publications carry the kind's offset; their place on this channel is `revision`.
///
/// # Errors
/// [`HistoryError`] when the question cannot be answered now.
pub async fn entity_since<L: ChangeLog>(
    log: &L,
    kind: &Kind,
    key: &IdKey,
    after: &Position,
    limit: ReadLimit,
) -> Result<Recovered, HistoryError> {
    entity_since_seen(log, kind, key, after, limit, None).await
}

/// The same for somebody who does not see everything.
///
/// # Errors
/// As [`entity_since`].
pub async fn entity_since_seen<L: ChangeLog>(
    log: &L,
    kind: &Kind,
    key: &IdKey,
    after: &Position,
    limit: ReadLimit,
    sight: Option<&Sight>,
) -> Result<Recovered, HistoryError> {
    LogWalk { log, kind, key: Some(key), sight }.since(after, limit).await?.ok_or(HistoryError::Unknown)
}

/// What the bus alone can say of a position of its own epoch.
enum Verdict {
    Sure(Recovered),
    /// The bus's position.
    Behind(Position),
    AskLog(Position, Cause),
}

fn from_bus(slice: Slice, after: &Position, limit: ReadLimit) -> Verdict {
    let Slice { position, publications, complete } = slice;
    let Some(distance) = position.offset.checked_sub(after.offset) else { return Verdict::Behind(position) };
    if distance > limit.count as u64 {
        return Verdict::Sure(Recovered::Unrecoverable { position, cause: Cause::Count });
    }
    if !complete {
        return Verdict::AskLog(position, Cause::Retention);
    }
    let bytes: usize = publications.iter().map(Publication::weight).sum();
    if publications.len() as u64 != distance || bytes > limit.bytes {
        return Verdict::AskLog(position, Cause::Bytes);
    }
    Verdict::Sure(Recovered::Complete { position, publications })
}

/// The position is ahead of the bus: the log says whether it is true.
async fn behind<L: ChangeLog>(
    log: &L,
    stream: &StreamName,
    after: &Position,
    bus: Position,
) -> Result<Recovered, HistoryError> {
    let top = match stream.kind() {
        Some(kind) => log.position(&kind).await.map_err(HistoryError::Log)?,
        None => None,
    };
    Ok(match top {
        Some(top) if top.epoch == after.epoch && top.offset >= after.offset => {
            Recovered::Complete { position: after.clone(), publications: Vec::new() }
        }
        Some(top) => {
            let cause = if top.epoch == after.epoch { Cause::Ahead } else { Cause::Epoch };
            Recovered::Unrecoverable { position: top, cause }
        }
        None => Recovered::Unrecoverable { position: bus, cause: Cause::Ahead },
    })
}

/// Reads the log page by page: of a kind by offset, or of one entity by revision.
struct LogWalk<'a, L> {
    log: &'a L,
    kind: &'a Kind,
    key: Option<&'a IdKey>,
    sight: Option<&'a Sight>,
}

impl<L: ChangeLog> LogWalk<'_, L> {
    async fn page(&self, after: u64, limit: ReadLimit) -> Result<Option<LogSlice>, HistoryError> {
        match self.key {
            None => self.log.read(self.kind, after, limit).await,
            Some(key) => self.log.read_entity(self.kind, key, after, limit).await,
        }
        .map_err(HistoryError::Log)
    }

    fn place(&self, change: &Change) -> u64 {
        if self.key.is_some() { change.revision } else { change.offset }
    }

    /// `None` when the log does not know the stream.
    async fn since(&self, after: &Position, limit: ReadLimit) -> Result<Option<Recovered>, HistoryError> {
        let mut fold = Fold::new(limit.bytes);
        let mut at = after.offset;
        // The first page's top: what is committed meanwhile comes over the bus.
        let mut target: Option<Position> = None;
        loop {
            let room = target.as_ref().map_or(limit.count as u64, |t| t.offset - at);
            let page = ReadLimit { count: usize::try_from(room).unwrap_or(usize::MAX), bytes: limit.bytes };
            let Some(slice) = self.page(at, page).await? else { return Ok(None) };
            let cut = |cause| Ok(Some(Recovered::Unrecoverable { position: slice.position.clone(), cause }));
            if slice.position.epoch != after.epoch {
                return cut(Cause::Epoch);
            }
            let target = target.get_or_insert_with(|| slice.position.clone());
            let Some(distance) = target.offset.checked_sub(after.offset) else { return cut(Cause::Ahead) };
            if distance > limit.count as u64 {
                return cut(Cause::Count);
            }
            let from = at;
            for change in slice.changes.iter().take_while(|c| self.place(c) <= target.offset) {
                if self.place(change) != at + 1 {
                    return cut(Cause::Retention);
                }
                at += 1;
                let fits = match self.sight {
                    None => fold.push(change),
                    Some(sight) => match sight.tell(&change.publication()) {
                        Ok(told) => told.is_none_or(|told| {
                            let reference = lean(&told);
                            fold.push_both(told, reference)
                        }),
                        Err(Undeclared) => return cut(Cause::Untold),
                    },
                };
                if !fits {
                    return cut(Cause::Bytes);
                }
            }
            if at == target.offset {
                return Ok(Some(Recovered::Complete { position: target.clone(), publications: fold.finish() }));
            }
            if !slice.complete || at == from {
                return cut(Cause::Retention);
            }
        }
    }
}

/// Publications within a byte limit: the oldest documents give way to references as newer ones come.
pub(super) struct Fold {
    limit: usize,
    bytes: usize,
    lean: Vec<Publication>,
    /// Full publication and its reference, newest last.
    full: VecDeque<(Publication, Publication)>,
}

impl Fold {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, lean: Vec::new(), full: VecDeque::new() }
    }

    /// False when nothing is left that could give way.
    fn push(&mut self, change: &Change) -> bool {
        self.push_both(change.publication(), change.reference())
    }

    pub(super) fn push_both(&mut self, full: Publication, reference: Publication) -> bool {
        self.bytes += full.weight();
        self.full.push_back((full, reference));
        while self.bytes > self.limit {
            let Some((full, reference)) = self.full.pop_front() else { return false };
            self.bytes = self.bytes - full.weight() + reference.weight();
            self.lean.push(reference);
        }
        true
    }

    pub(super) fn finish(mut self) -> Vec<Publication> {
        self.lean.extend(self.full.into_iter().map(|(full, _)| full));
        self.lean
    }
}
