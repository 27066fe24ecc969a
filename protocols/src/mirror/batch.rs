//! What a Mirror's frames ask of the store: one batch, applied in one transaction with the cursor that covers it.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::{entities::Derived, platform::EntityId};

/// A whole document with the two things that every write needs.
#[derive(Debug, Clone)]
pub struct VersionedDoc {
    /// The entity.
    pub id: EntityId,
    /// The upstream's version in a form that compares as text: a newer one is never smaller.
    pub version: String,
    /// The document, raw and checked.
    pub doc: Arc<RawValue>,
    /// What storage keeps beside it, where somebody had the time to derive it; else the store does.
    pub derived: Option<Derived>,
    /// It was read beside the stream, some time before it is stored: it counts only when it is newer than what is stored, for
    /// the stream may have moved the same version to the trash meanwhile.
    pub beside: bool,
}

impl VersionedDoc {
    /// A document from which nothing was derived yet.
    #[must_use]
    pub fn new(id: EntityId, version: String, doc: Box<RawValue>) -> Self {
        Self { id, version, doc: doc.into(), derived: None, beside: false }
    }
}

/// One operation on one entity.
#[derive(Debug, Clone)]
pub enum MirrorOp {
    /// The whole document.
    Upsert(VersionedDoc),
    /// Fields to be merged into the stored document (full protocol). Keys may be dotted paths.
    Set {
        /// The entity.
        id: EntityId,
        /// The object of `$set`, raw.
        set: Arc<RawValue>,
        /// The version, if the set names one.
        version: Option<String>,
    },
    /// The upstream deleted it: the entity goes to the trash.
    Delete {
        /// The entity.
        id: EntityId,
    },
}

/// Bytes that could not be used, kept for people.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// A stable code: `unknown_type`, `malformed`, `bad_text`, `no_id`, `over_limit`...
    pub reason: &'static str,
    /// For people.
    pub detail: String,
    /// The entity, if it could be read: an over-limit object is fetched by it.
    pub id: Option<EntityId>,
    /// The raw bytes, cut to a limit by the store.
    pub raw: Vec<u8>,
}

/// What one transaction covers.
#[derive(Debug, Clone, Default)]
pub struct MirrorBatch {
    /// In the order in which they came; one entity may occur more than once.
    pub ops: Vec<MirrorOp>,
    /// Frames put aside.
    pub quarantined: Vec<Quarantined>,
    /// The cursor of the last frame that had one; `None` leaves the committed one.
    pub cursor: Option<Box<RawValue>>,
    /// Set once a cursor followed the snapshot, unset when a snapshot begins again.
    pub snapshot_complete: Option<bool>,
    /// The gap mark: set when history was lost, unset when the reconcile has ended.
    pub gap: Option<bool>,
    /// Who is named in the changes: `mirror:{name}`.
    pub by: Arc<str>,
    /// W3C `traceparent` of the batch.
    pub trace: Option<Arc<str>>,
}
