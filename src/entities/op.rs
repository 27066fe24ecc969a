//! Operations on entities, and what is made of them before the database is asked: checked, hashed, the declared fields found.

use std::sync::Arc;

use dzvin_protocols::{
    entities::{Derived, check},
    mirror::{MirrorOp, VersionedDoc},
    platform::EntityId,
};
use serde_json::value::RawValue;

use super::{KindSpec, edit::Edit};

/// Longest version that is kept: a timestamp has 27 characters; the index behind it has a limit of its own at 2700 bytes.
pub const MAX_VERSION: usize = 128;

/// One operation on one entity, whoever asks for it.
#[derive(Debug, Clone)]
pub enum EntityOp {
    /// The whole document.
    Upsert {
        /// The entity.
        id: EntityId,
        /// Compares as text.
        version: String,
        /// Raw; checked, if something is derived from it.
        doc: Arc<RawValue>,
        /// What is kept beside it, where that was derived already.
        derived: Option<Derived>,
        /// Read beside the stream: of the stored version it says only that the upstream shows it.
        beside: bool,
    },
    /// Fields to be merged into what is stored.
    Set {
        /// The entity.
        id: EntityId,
        /// The version, if it is known.
        version: Option<String>,
        /// Dotted paths and their values.
        set: Arc<RawValue>,
    },
    /// To the trash.
    Trash(EntityId),
    /// The upstream no longer shows it.
    Missing {
        /// The entity.
        id: EntityId,
        /// What was stored when it was looked for.
        version: String,
    },
    /// The upstream shows it again, content unknown.
    Found(EntityId),
    /// The document is destroyed, the tombstone keeps the revision.
    Purge(EntityId),
    /// What somebody asks for under conditions; what is refused changes nothing.
    Edit(Arc<Edit>),
}

impl EntityOp {
    /// The entity.
    #[must_use]
    pub fn id(&self) -> &EntityId {
        match self {
            Self::Upsert { id, .. } | Self::Set { id, .. } | Self::Missing { id, .. } => id,
            Self::Trash(id) | Self::Found(id) | Self::Purge(id) => id,
            Self::Edit(edit) => &edit.id,
        }
    }

    /// Bytes of what it brings.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.raw().map_or(0, |raw| raw.get().len())
    }

    /// Whether it brings no document of its own to tell the declared fields by.
    pub(super) fn needs_fields(&self) -> bool {
        !matches!(self, Self::Upsert { beside: false, .. } | Self::Set { .. })
    }

    /// Bytes that are still to be checked and hashed.
    pub(super) fn unread(&self) -> usize {
        // Edits are judged with what is stored.
        let later = matches!(self, Self::Upsert { derived: Some(_), .. } | Self::Edit(_));
        if later { 0 } else { self.bytes() }
    }

    pub(super) fn raw(&self) -> Option<&RawValue> {
        match self {
            Self::Upsert { doc: raw, .. } | Self::Set { set: raw, .. } => Some(raw),
            Self::Edit(edit) => edit.raw().map(|raw| &**raw),
            _ => None,
        }
    }

    fn version(&self) -> Option<&str> {
        match self {
            Self::Upsert { version, .. } => Some(version),
            Self::Set { version, .. } => version.as_deref(),
            _ => None,
        }
    }
}

impl From<MirrorOp> for EntityOp {
    fn from(op: MirrorOp) -> Self {
        match op {
            MirrorOp::Upsert(VersionedDoc { id, version, doc, derived, beside }) => {
                Self::Upsert { id, version, doc, derived, beside }
            }
            MirrorOp::Set { id, set, version } => Self::Set { id, version, set },
            MirrorOp::Delete { id } => Self::Trash(id),
        }
    }
}

pub(super) fn derive(spec: &KindSpec, doc: &RawValue) -> Derived {
    Derived::of(doc, spec.fields(), &spec.version_paths)
}

/// An operation that was checked, with what is derived from what it brings.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub op: EntityOp,
    /// Of an upsert's document.
    pub derived: Option<Derived>,
    /// Why it is put aside: code and text.
    pub unfit: Option<(&'static str, String)>,
}

/// Checks and hashes; the costly part of a batch that needs no database.
pub(super) fn prepare(spec: &KindSpec, mut op: EntityOp) -> Prepared {
    let derived = match &mut op {
        EntityOp::Upsert { derived, .. } => derived.take(),
        _ => None,
    };
    let unfit = match (op.raw(), op.version()) {
        // Judged with what is stored: there is somebody to be told.
        _ if matches!(op, EntityOp::Edit(_)) => None,
        (_, Some(version)) if version.len() > MAX_VERSION || version.chars().any(char::is_control) => {
            Some(("bad_version", format!("a version is at most {MAX_VERSION} bytes without control characters")))
        }
        (Some(raw), _) if derived.is_none() => check(raw).err().map(|unfit| (unfit.code(), unfit.to_string())),
        _ => None,
    };
    let derived = derived.or_else(|| match &op {
        EntityOp::Upsert { doc, .. } if unfit.is_none() => Some(derive(spec, doc)),
        _ => None,
    });
    Prepared { op, derived, unfit }
}
