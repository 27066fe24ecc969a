//! The ports: traits through which actors reach storage, bus and upstreams. `src/` implements them, tests bring doubles.
//!
//! Hot ports are generic parameters bound once in `app`; the futures are `Send` so that they may be spawned. Every method
//! answers within a limit of its own (the implementation sets statement, command and request timeouts).

mod identity;
mod presence;
mod put;
mod queries;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
pub use dzvin_protocols::cdb::{CdbError, FeedPage};
use dzvin_protocols::{
    channels::{Epoch, IdKey, Message, Position, Publication},
    entities::{Change, Filter},
    mirror::{MirrorBatch, parse_time},
    platform::{EntityId, Kind, StreamName},
};
use serde_json::value::RawValue;
use time::OffsetDateTime;

pub use identity::{
    Auditor, AuthError, Authenticator, Identity, Refused, Revoked, ServerSubscription, SubscriptionGrant, TokenMark,
    Verified,
};
pub use presence::{
    Buried, Changed, Counts, Crowd, Entered, Exited, Grave, Life, Member, MemberChange, MemberPage, Occupied, Outcome,
    Presence,
};
pub use put::{Across, ChannelPace, Conditions, Offer, Once, Published, UserPace, Version};
pub use queries::{Queries, Query};

/// The answer of a port.
pub trait Answer<T>: Future<Output = T> + Send {}
impl<T, F: Future<Output = T> + Send> Answer<T> for F {}

/// How much one read may bring: whichever is reached first ends it (at least one publication is brought).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// Publications.
    pub count: usize,
    /// Bytes of their data.
    pub bytes: usize,
}

/// How much of a stream's past the bus keeps: whichever is reached first cuts the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Publications.
    pub count: usize,
    /// Bytes of publications as the bus keeps them.
    pub bytes: usize,
    /// Time since the append.
    pub age: Duration,
}

impl Default for HistoryLimits {
    /// Thirty recoveries of the usual cap of 300 deep; eight megabytes times a few kinds stay far below the hub's
    /// 256 MB; five minutes outlive a restart of browser or node. Older positions recover from the change log.
    fn default() -> Self {
        Self { count: 10_000, bytes: 8 * 1024 * 1024, age: Duration::from_secs(300) }
    }
}

/// Storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or slow; the same call may succeed later.
    #[error("the database is unavailable while {doing}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The lease under which the write was made is no longer ours; nothing was written.
    #[error("the lease {name} is no longer held")]
    LeaseLost {
        /// The lease.
        name: String,
    },
    /// The database refused the statement, whatever the data: a table, a right or a correct query is missing. For people to
    /// mend; nothing of what was to be written may be given up for it.
    #[error("the database refused {doing}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The data itself was refused: the same data will be again, other data will not.
    #[error("the database refused the data while {doing}")]
    Unfit {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The bus did not do what was asked. Always worth another try.
#[derive(Debug, thiserror::Error)]
#[error("the bus is unavailable while {doing}")]
pub struct BusError {
    /// What was being done.
    pub doing: &'static str,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What an append came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// Appended; the stream's top is now this offset.
    Accepted {
        /// The new top.
        top: u64,
    },
    /// The first offset is at or below the top: nothing was appended.
    Duplicate {
        /// The top as it is.
        top: u64,
    },
    /// The first offset is above top + 1, or the bus knows another epoch or nothing at all: nothing was appended.
    Gap {
        /// What the bus knows of the stream.
        position: Option<Position>,
    },
}

/// A run of publications without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Where the stream was when they were read.
    pub position: Position,
    /// In offset order, starting exactly at `after + 1` when `complete`.
    pub publications: Vec<Publication>,
    /// True when every publication after `after` up to the limit or the top is here; false when the past is cut.
    pub complete: bool,
}

/// What a bus tells the nodes. Events are hints: the receiver checks continuity and reads what it missed.
#[derive(Debug, Clone)]
pub enum BusEvent {
    /// New publications of a subscribed stream, in offset order.
    Publications {
        /// The stream.
        stream: StreamName,
        /// Its epoch.
        epoch: Epoch,
        /// At least one.
        publications: Vec<Publication>,
    },
    /// A subscribed stream has begun again: check it.
    Begun {
        /// The stream.
        stream: StreamName,
    },
    /// A word beside the publications of a subscribed stream: who came, who left, an event that nothing keeps.
    Word {
        /// The stream.
        stream: StreamName,
        /// What was said, as it was given.
        word: Bytes,
    },
    /// A word to this node, or to all of them.
    Told(Bytes),
    /// The connection was interrupted or the reader lagged: check every subscribed stream.
    Lost,
}

/// Carries publications between nodes and keeps their recent history.
///
/// Contract (one conformance suite holds every implementation to it): `append` is atomic per stream and accepts only a run
/// that starts at top + 1 within the known epoch; history is bounded by count, age and bytes; events of a subscribed
/// stream arrive in order or not at all.
pub trait Bus: Send + Sync + 'static {
    /// Appends a run of consecutive offsets.
    fn append(
        &self,
        stream: &StreamName,
        epoch: &Epoch,
        run: &[Publication],
    ) -> impl Answer<Result<Appended, BusError>>;
    /// Forgets the stream and starts it again so that the next offset accepted is `position.offset + 1`.
    /// Does nothing when the stream is already in that epoch at or above that offset.
    fn reset(&self, stream: &StreamName, position: &Position) -> impl Answer<Result<(), BusError>>;
    /// Appends a message at top + 1 of an application's stream, whose positions are the bus's own, and answers where it went. A
    /// stream that is not known begins with a new epoch. Once answered it is with the bus: nothing that the bus survives
    /// loses it.
    fn publish(
        &self,
        stream: &StreamName,
        message: Message,
        keep: &HistoryLimits,
    ) -> impl Answer<Result<Position, BusError>>;
    /// The same on conditions, or without keeping it. Conditions and publication are one step: of many nodes that offer the same
    /// at once one publishes it, and all are answered alike.
    fn put(&self, stream: &StreamName, offer: Offer, on: &Conditions) -> impl Answer<Result<Published, BusError>>;
    /// Counts one more of what a user publishes or calls, whatever the channel; how long to wait when that is one too many, and then
    /// it is not counted. While nobody can be asked what the user does on other nodes, this node counts alone: nobody is locked out,
    /// and nobody goes uncounted.
    fn pace_user(&self, user: &str, pace: UserPace) -> impl Answer<Option<Duration>>;
    /// Forgets what is kept of an application's stream. Its position stays, so that whoever has everything goes on undisturbed, and
    /// whoever comes back from before is told that the past is lost.
    fn forget(&self, stream: &StreamName) -> impl Answer<Result<(), BusError>>;
    /// Where an application's stream stands; one that is not known begins now, with a new epoch.
    fn open(&self, stream: &StreamName) -> impl Answer<Result<Position, BusError>>;
    /// The top of each stream, `None` for what the bus knows nothing of; as few round trips as it takes.
    fn positions(&self, streams: &[StreamName]) -> impl Answer<Result<Vec<Option<Position>>, BusError>>;
    /// The same streams in parts of those that can be asked for their positions together: one, unless the bus is spread over
    /// servers of which some may be away.
    fn parts(&self, streams: Vec<StreamName>) -> Vec<Vec<StreamName>> {
        vec![streams]
    }
    /// The top of the stream; `None` when the bus knows nothing of it.
    fn position(&self, stream: &StreamName) -> impl Answer<Result<Option<Position>, BusError>>;
    /// What follows offset `after`; `None` when the bus knows nothing of the stream.
    fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> impl Answer<Result<Option<Slice>, BusError>>;
    /// Asks for the events of a stream on this node. Returns once publications appended from now on will be told.
    fn subscribe(&self, stream: &StreamName) -> impl Answer<Result<(), BusError>>;
    /// Ends it.
    fn unsubscribe(&self, stream: &StreamName) -> impl Answer<Result<(), BusError>>;
    /// Says a word to every node that listens to the stream, this one included if it does. Nothing keeps it: a node that is
    /// away meanwhile never hears it.
    fn whisper(&self, stream: &StreamName, word: Bytes) -> impl Answer<Result<(), BusError>>;
    /// Says a word to one node, or to all of them, this one included. Nothing keeps it. False when that node is not alive.
    fn tell(&self, node: Option<&str>, word: Bytes) -> impl Answer<Result<bool, BusError>>;
    /// This node's name on the bus: unguessable, another one in each life of the process.
    fn node(&self) -> &str;
    /// The nodes that are alive, this one included; a dead one is missing within its lease.
    fn nodes(&self) -> impl Answer<Result<Vec<Arc<str>>, BusError>>;
}

/// A run of changes out of the log.
#[derive(Debug, Clone)]
pub struct LogSlice {
    /// The stream's position in the same snapshot.
    pub position: Position,
    /// In offset order (revision order for one entity).
    pub changes: Vec<Change>,
    /// False when retention has cut what follows `after`.
    pub complete: bool,
}

/// The change log of durable streams: what the relay publishes and what recovery falls back to.
pub trait ChangeLog: Send + Sync + 'static {
    /// Whether there is an entity of this key that meets a filter now. A log that cannot tell says no.
    fn shows(&self, _kind: &Kind, _key: &IdKey, _rows: &Filter) -> impl Answer<Result<bool, StoreError>> {
        async { Ok(false) }
    }
    /// Every kind with the position of its stream.
    fn positions(&self) -> impl Answer<Result<Vec<(Kind, Position)>, StoreError>>;
    /// The position of one kind's stream; `None` for an unknown kind.
    fn position(&self, kind: &Kind) -> impl Answer<Result<Option<Position>, StoreError>>;
    /// Changes of a kind after offset `after`. `None` for an unknown kind.
    fn read(&self, kind: &Kind, after: u64, limit: ReadLimit) -> impl Answer<Result<Option<LogSlice>, StoreError>>;
    /// Changes of one entity after revision `after`; the position's offset is its newest revision (0: no such entity).
    fn read_entity(
        &self,
        kind: &Kind,
        key: &IdKey,
        after: u64,
        limit: ReadLimit,
    ) -> impl Answer<Result<Option<LogSlice>, StoreError>>;
    /// Kinds of which this node has just committed changes that are still in memory; `None` when some are not, and the log
    /// has to be asked. Answers at once.
    fn fresh(&self) -> Option<Vec<Kind>> {
        None
    }
    /// What this node itself committed right after the position, from memory: committed, without a hole, of the same epoch.
    /// `None` when it has to be read. What lies at or below the position is forgotten.
    fn recent(&self, _kind: &Kind, _after: &Position, _limit: ReadLimit) -> Option<LogSlice> {
        None
    }
    /// Gives the stream a new epoch, if it still has the given one: the past is declared lost. Answers the position.
    fn renew_epoch(&self, kind: &Kind, old: &Epoch) -> impl Answer<Result<Option<Position>, StoreError>>;
}

/// A lease that was granted to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What it is for: `relay`, `mirror.{name}`.
    pub name: Arc<str>,
    /// Grows with every change of owner; each write under the lease carries it.
    pub term: i64,
    /// How long it lasts from the moment the request was *sent*, by the holder's monotonic clock.
    pub ttl: Duration,
}

/// Leases in the database, by its clock.
pub trait Leases: Send + Sync + 'static {
    /// Takes the lease if it is free, expired or already ours (then it is prolonged and keeps its term).
    fn acquire(&self, name: &str, ttl: Duration) -> impl Answer<Result<Option<Lease>, StoreError>>;
    /// Gives it back so that another node need not wait for its end.
    fn release(&self, lease: &Lease) -> impl Answer<Result<(), StoreError>>;
}

/// What the store remembers of a Mirror.
#[derive(Debug, Clone, Default)]
pub struct MirrorRecord {
    /// The committed cursor, as the dialect spells it.
    pub cursor: Option<Box<RawValue>>,
    /// True once a frame with a cursor followed the snapshot: only then does the init point mean anything.
    pub snapshot_complete: bool,
    /// The largest version among the stored rows.
    pub newest_version: Option<String>,
    /// True while a full reconcile is owed: the upstream's history was lost and the pass has not ended.
    pub gap: bool,
}

/// What one batch came to. Every operation of the batch is counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Operations that made a change.
    pub changed: u64,
    /// Stored, but the content is the same: nothing was fanned out.
    pub unchanged: u64,
    /// Older than what is stored: dropped.
    pub stale: u64,
    /// Put aside.
    pub quarantined: u64,
    /// Of those, sets that could not be merged: these entities are not what the upstream has. The gap mark was set with them.
    pub unmerged: u64,
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.stale += other.stale;
        self.quarantined += other.quarantined;
        self.unmerged += other.unmerged;
    }
}

/// Where the rows and the cursor of a Mirror live.
pub trait MirrorStore: Send + Sync + 'static {
    /// What is remembered; a Mirror never seen gets an empty record. Takes the row for this lease: writes of an older term fail from now on.
    fn open(&self, mirror: &str, kind: &Kind, lease: &Lease) -> impl Answer<Result<MirrorRecord, StoreError>>;
    /// Rows, changes, quarantine and cursor in ONE transaction under the lease's term.
    fn apply(
        &self,
        mirror: &str,
        kind: &Kind,
        lease: &Lease,
        batch: MirrorBatch,
    ) -> impl Answer<Result<Applied, StoreError>>;
    /// Stored ids whose version is at or after the given one, oldest first, bounded: the answer to `ids-since-timestamp`
    /// and one page of the reconcile. `after` continues a page. Without what is in the trash or marked as missing.
    fn ids_since(
        &self,
        kind: &Kind,
        version: &str,
        after: Option<&str>,
        limit: usize,
    ) -> impl Answer<Result<Vec<(EntityId, String)>, StoreError>>;
    /// Marks or unmarks entities that the upstream no longer shows. A mark is for the version that was looked for: an entity
    /// that has come back with another one meanwhile is not marked.
    fn mark_missing(
        &self,
        kind: &Kind,
        lease: &Lease,
        missing: &[(EntityId, String)],
        found: &[EntityId],
    ) -> impl Answer<Result<(), StoreError>>;
    /// Records the state of a Mirror for every node to show.
    fn note_state(&self, mirror: &str, lease: &Lease, status: &MirrorStatus) -> impl Answer<Result<(), StoreError>>;
}

/// What a link says of itself: `GET /api/v1/mirrors` on any node.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct MirrorStatus {
    /// `standby`, `connecting`, `handshaking`, `snapshot`, `live`, `gap`, `reconciling`, `backoff`, `forbidden`, `over_limit`, `stopped`.
    pub state: String,
    /// Why, for people; never a secret.
    pub reason: Option<String>,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// Age of the newest applied frame's cursor when it was committed, in milliseconds; who shows it asks for [`Self::lag_at`].
    pub lag_ms: Option<u64>,
    /// The moment up to which everything is committed, RFC 3339.
    #[serde(default)]
    pub cursor_at: Option<String>,
    /// When something was committed last, RFC 3339.
    #[serde(default)]
    pub committed_at: Option<String>,
    /// Operations that made a change since start of the link.
    pub applied: u64,
    /// Operations whose content was already there.
    pub unchanged: u64,
    /// Operations older than what is stored.
    pub stale: u64,
    /// Frames put aside.
    pub quarantined: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// The last error, for people; never a secret.
    pub last_error: Option<String>,
    /// When the last frame of any kind came, RFC 3339.
    pub last_frame_at: Option<String>,
    /// The limit in force.
    pub max_message_bytes: u64,
    /// Objects to be fetched over HTTP because their message was over the limit.
    pub over_limit_pending: u64,
}

impl MirrorStatus {
    /// How far behind the link is at this moment, in milliseconds. While frames flow and all that came is committed it is as
    /// far behind as it was at the commit; a link that is cut off, or cannot store, falls behind with the clock.
    #[must_use]
    pub fn lag_at(&self, now: OffsetDateTime) -> Option<u64> {
        let flows = matches!(self.state.as_str(), "live" | "gap" | "reconciling");
        match self.cursor_at.as_deref().and_then(parse_time) {
            Some(at) if !flows || self.last_frame_at > self.committed_at => {
                u64::try_from((now - at).whole_milliseconds().max(0)).ok()
            }
            _ => self.lag_ms,
        }
    }
}

/// The central database over HTTP, as far as a Mirror needs it.
pub trait CdbApi: Send + Sync + 'static {
    /// One object by id; `None` when the upstream does not know it (404).
    fn object(&self, id: &EntityId) -> impl Answer<Result<Option<Bytes>, CdbError>>;
    /// One page of the feed: objects whose `dateModified` is at or after the given moment, ascending; empty when none.
    fn modified_since(&self, since: &str, limit: usize) -> impl Answer<Result<FeedPage, CdbError>>;
}
