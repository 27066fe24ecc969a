//! Entities in the database and over REST: documents, their change log, and the positions of both.
//!
//! Invariants: entity row, change row and stream top are written in one transaction; writers of a kind are ordered by its
//! `streams` row, so offsets have no gaps and follow commits; a revision is one more than the one before. Documents are
//! raw text and pass through untouched. What a Mirror asks for is in `crate::mirror`; publishing is the relay's.

mod combine;
mod cursor;
mod declare;
mod derive;
mod difference;
mod edit;
mod editing;
mod fold;
mod http;
mod idempotency;
mod kinds;
mod lens;
mod list;
mod listener;
mod log;
mod many;
mod newest;
mod op;
mod partitions;
pub mod queries;
mod query;
mod recent;
mod rows;
pub mod rpc;
mod schema;
mod seen;
mod sorts;
mod trash;
mod write;

pub use declare::{DeclareError, Declared, Declaring, Examined, Unfitting, Version};
pub use difference::MAX_CHANGED_NAME;
pub use dzvin_protocols::entities::MAX_FIELD_VALUE;
pub use edit::{Edit, EditAction, Expect, Expected, MAX_LOCAL_DOC, Outcome, Refused, Sees, Signature};
pub use editing::{EditError, Edited, Edits, MAX_EDITS};
pub use http::{DEFAULT_LIMIT, MAX_LIMIT, router};
pub use idempotency::{Answer, IdempotencyKey, MAX_IDEMPOTENCY_KEY, Told, ToldRefusal};
pub use kinds::{KindRow, KindSpec, MAX_KINDS, Origin, Redeclared, Source};
pub use list::{Filters, ListPage, Listing, SCAN_ROWS, Search, Trash};
pub use listener::ChangeListener;
pub use op::{EntityOp, MAX_VERSION};
pub use partitions::{PARTITIONS_AHEAD, Partitions, Retention};
pub use query::{EntityRow, HistoryRow};
pub use schema::{Schema, SchemaError};
pub use trash::RETENTION;
pub(crate) use write::Attempt;
pub use write::{Author, Refusal, TURN_BYTES, TURN_OPS, WriteError, Written};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use dzvin_protocols::{
    channels::Epoch,
    platform::{Kind, problem::ProblemValue as Violation},
};
use prometheus_client::registry::Registry;
use time::Date;
use tokio::sync::{Notify, Semaphore, watch};

use self::{combine::Combined, cursor::Cursors, kinds::Kinds, recent::Recent};
use crate::platform::db::Database;

/// Most entities that others refer to in one answer: as many as a page has of its own.
pub const MAX_EXPANDED: usize = 200;

/// The channel on which nodes tell each other of commits.
pub(crate) const NOTIFY_CHANNEL: &str = "dzvin_changes";

/// The store of entities and their change log. Cheap to clone.
#[derive(Clone)]
pub struct Entities {
    database: Database,
    kinds: Arc<watch::Sender<Arc<Kinds>>>,
    /// Another node, or program, says that it has declared a kind.
    told_of_kinds: Arc<Notify>,
    /// Per kind, of its stream's epoch, an offset and its day: days follow offsets, so what comes after lies in that day's
    /// partition or later.
    days: Arc<Mutex<Days>>,
    recent: Arc<Recent>,
    /// Turns of those who edit: they leave connections to Mirrors, leases and the relay.
    edits: Arc<Semaphore>,
    /// Edits that go together.
    combined: Arc<Combined>,
    cursors: Arc<Cursors>,
}

type Days = HashMap<Kind, (Epoch, u64, Date)>;

impl Entities {
    /// The database behind.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Registers what is kept in memory.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(recent::Held(Arc::clone(&self.recent))));
        registry.register("entities_edits_waiting", "Edits that wait to be written together", self.combined.gauge());
    }

    /// The same entities for those who only read, on connections of their own: REST and recovery.
    #[must_use]
    pub fn for_readers(&self) -> Self {
        Self { database: self.database.for_readers(), ..self.clone() }
    }

    fn cursors(&self) -> &Cursors {
        &self.cursors
    }
}
