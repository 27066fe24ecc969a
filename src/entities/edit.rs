//! Edits: what people and other systems do to an entity of a local kind, under the conditions that they name.
//!
//! Invariants: conditions are judged on the row as it is locked, so of two who ask for the same revision one is refused; what is refused
//! changes nothing; nobody changes a value that they do not see, nor learns it by trying. An entity of which something is hidden may go to
//! the trash, and be purged by whoever may purge.

use std::sync::Arc;

use dzvin_protocols::{
    channels::Epoch,
    entities::{Filter, JsonPatch, JsonPatchError, Mask, Unfit, Values, check, merge_patch},
    platform::EntityId,
};
use serde_json::value::RawValue;

use super::{KindSpec, Violation, fold::Stored, write::MAX_EDIT_BYTES};

/// Largest document of a local kind. Those of an upstream may be larger; these are written by people and forms.
pub const MAX_LOCAL_DOC: usize = 1024 * 1024;

/// One edit of one entity.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The entity.
    pub id: EntityId,
    /// What is done.
    pub action: EditAction,
    /// What must be there.
    pub expected: Expect,
    /// What the writer sees of the kind.
    pub sees: Arc<Sees>,
    /// In whose name, where it is not that of all that is written with it.
    pub by: Option<Signature>,
}

/// In whose name something is done: an [`Author`](super::Author) that is kept.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The user.
    pub by: Arc<str>,
    /// W3C `traceparent`.
    pub trace: Option<Arc<str>>,
}

/// What is done to an entity.
#[derive(Debug, Clone)]
pub enum EditAction {
    /// The whole document of one that is not there.
    Create(Arc<RawValue>),
    /// The whole document, whether or not one is there.
    Put(Arc<RawValue>),
    /// JSON Merge Patch.
    Merge(Arc<RawValue>),
    /// JSON Patch.
    Patch(Arc<RawValue>),
    /// To the trash.
    Trash,
    /// Out of the trash.
    Restore,
    /// The document is destroyed, in the log as well.
    Purge,
}

impl EditAction {
    /// The audit's name for it, by whether something comes into being.
    pub(super) fn told(&self, creates: bool) -> &'static str {
        match self {
            Self::Create(_) => "entities.create",
            Self::Put(_) if creates => "entities.create",
            Self::Put(_) | Self::Merge(_) | Self::Patch(_) => "entities.update",
            Self::Trash => "entities.trash",
            Self::Restore => "entities.restore",
            Self::Purge => "entities.purge",
        }
    }

    /// Whether it destroys the document.
    #[must_use]
    pub fn is_purge(&self) -> bool {
        matches!(self, Self::Purge)
    }
}

/// What must be there for an edit to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there, and perhaps nothing.
    #[default]
    Anything,
    /// Some revision.
    Something,
    /// One of these.
    OneOf(Vec<Expected>),
}

impl Expect {
    /// Whether what was met may have been of this epoch.
    pub(super) fn is_of(&self, epoch: &Epoch) -> bool {
        let fits = |it: &Expected| it.epoch.as_ref().is_none_or(|it| it == epoch);
        !matches!(self, Self::OneOf(all) if !all.iter().any(fits))
    }
}

/// A revision that a writer has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The revision.
    pub revision: i64,
    /// Of the stream when it was seen, where that is known: after a restored backup the same number may be another content.
    pub epoch: Option<Epoch>,
}

/// What a writer sees.
#[derive(Debug, Clone, Default)]
pub struct Sees {
    /// `None`: every row.
    pub rows: Option<Filter>,
    /// What is hidden of each.
    pub mask: Option<Arc<Mask>>,
}

/// What an edit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The entity's revision behind the edit.
    pub revision: i64,
    /// Whether it was not there before.
    pub created: bool,
    /// Whether it is another one now.
    pub changed: bool,
}

/// Why an edit was not done, in words for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such entity, or the writer does not see it.
    #[error("there is no such entity")]
    Absent,
    /// There is one already.
    #[error("there is an entity of this id already")]
    Present,
    /// It is in the trash.
    #[error("the entity is in the trash: restore it first")]
    InTrash,
    /// Another revision is there.
    #[error("somebody else changed the entity: its revision is {0} now")]
    Revision(i64),
    /// What is hidden from the writer would change.
    #[error("this would change or tell what is hidden from you")]
    Hidden,
    /// The writer would not see it any more.
    #[error("you would not see the entity as it would be")]
    OutOfSight,
    /// The document, or what it comes to, cannot be stored.
    #[error("{0}")]
    Unfit(Unfit),
    /// It breaks the schema of its kind.
    #[error("the document does not fit the schema of its kind{}", told(.0))]
    Mismatch(Vec<Violation>),
    /// Together with those before it, it handles more than one request may.
    #[error("one request reads and writes documents of at most {} MiB: send fewer at once", MAX_EDIT_BYTES / 1024 / 1024)]
    TooMuch,
    /// Above [`MAX_LOCAL_DOC`].
    #[error("a document has at most {MAX_LOCAL_DOC} bytes")]
    TooLarge,
    /// The patch does not fit.
    #[error("{0}")]
    Patch(JsonPatchError),
}

impl Refused {
    /// The stable code by which clients know it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Absent => "unknown_entity",
            Self::Present => "entity_exists",
            Self::InTrash => "in_trash",
            Self::Revision(_) => "revision_conflict",
            Self::Hidden => "hidden_field",
            Self::OutOfSight => "out_of_sight",
            Self::Unfit(_) => "unfit_document",
            Self::Mismatch(_) => "schema_mismatch",
            Self::TooMuch => "bulk_too_large",
            Self::TooLarge => "document_too_large",
            Self::Patch(error) if error.why.is_malformed() => "bad_patch",
            Self::Patch(_) => "patch_failed",
        }
    }

    /// What breaks the schema, where that is the reason.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Mismatch(violations) => violations,
            _ => &[],
        }
    }

    /// The revision that is there, where that is the reason.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Revision(revision) => Some(revision.unsigned_abs()),
            _ => None,
        }
    }
}

impl Edit {
    /// The bytes that it brings.
    pub(super) fn raw(&self) -> Option<&Arc<RawValue>> {
        match &self.action {
            EditAction::Create(raw) | EditAction::Put(raw) | EditAction::Merge(raw) | EditAction::Patch(raw) => {
                Some(raw)
            }
            EditAction::Trash | EditAction::Restore | EditAction::Purge => None,
        }
    }

    /// Whether the stored document has to be read: to be changed, to be compared, to be told, or to know who sees it. What is stored
    /// beside it may lack a field that was declared lately.
    pub(super) fn needs_document(&self, inline: bool) -> bool {
        let judged = self.sees.rows.is_some();
        match self.action {
            EditAction::Create(_) => judged,
            EditAction::Put(_) | EditAction::Merge(_) | EditAction::Patch(_) => true,
            EditAction::Trash | EditAction::Restore | EditAction::Purge => judged || inline,
        }
    }

    /// Whether it may be done to what is stored.
    pub(super) fn judge(&self, spec: &KindSpec, stored: &Stored) -> Result<(), Refused> {
        let there = stored.revision > 0 && !stored.purged;
        if there && !self.shows(stored.values(spec).as_ref()) {
            return Err(Refused::Absent);
        }
        let creates = matches!(self.action, EditAction::Create(_) | EditAction::Put(_));
        let may_be_absent = creates && self.expected == Expect::Anything;
        if !there && !may_be_absent {
            return Err(Refused::Absent);
        }
        if there && matches!(self.action, EditAction::Create(_)) {
            return Err(Refused::Present);
        }
        if matches!(&self.expected, Expect::OneOf(all) if all.iter().all(|it| it.revision != stored.revision)) {
            return Err(Refused::Revision(stored.revision));
        }
        let changes = matches!(self.action, EditAction::Put(_) | EditAction::Merge(_) | EditAction::Patch(_));
        if there && stored.trashed && changes {
            return Err(Refused::InTrash);
        }
        Ok(())
    }

    /// The document that it comes to, from the stored one; `None` where it brings none.
    pub(super) fn document(&self, spec: &KindSpec, old: Option<&RawValue>) -> Result<Option<Arc<RawValue>>, Refused> {
        let mask = self.sees.mask.as_deref();
        let new: Arc<RawValue> = match (&self.action, old) {
            (EditAction::Put(_), Some(_)) if mask.is_some() => return Err(Refused::Hidden),
            (EditAction::Create(doc) | EditAction::Put(doc), _) => Arc::clone(doc),
            (EditAction::Merge(patch), Some(old)) => self.merged(old, patch)?.into(),
            (EditAction::Patch(patch), Some(old)) => self.patched(old, patch)?.into(),
            (EditAction::Merge(_) | EditAction::Patch(_), None) => return Err(Refused::Absent),
            _ => return Ok(None),
        };
        if new.get().len() > MAX_LOCAL_DOC {
            return Err(Refused::TooLarge);
        }
        check(&new).map_err(Refused::Unfit)?;
        if mask.is_some_and(|mask| !leaves_alone(mask, old, &new)) {
            return Err(Refused::Hidden);
        }
        let violations = spec.schema.as_ref().map(|schema| schema.violations(new.get(), mask)).unwrap_or_default();
        if violations.is_empty() { Ok(Some(new)) } else { Err(Refused::Mismatch(violations)) }
    }

    fn merged(&self, old: &RawValue, patch: &RawValue) -> Result<Box<RawValue>, Refused> {
        check(patch).map_err(Refused::Unfit)?;
        // Whether or not the value is the one that is hidden: else it could be guessed.
        if self.sees.mask.as_ref().is_some_and(|mask| mask.is_reached_by(patch.get(), old.get())) {
            return Err(Refused::Hidden);
        }
        Ok(merge_patch(old, patch))
    }

    fn patched(&self, old: &RawValue, patch: &RawValue) -> Result<Box<RawValue>, Refused> {
        let patch = JsonPatch::read(patch).map_err(Refused::Patch)?;
        // A copy or a test would tell what is hidden.
        if self.sees.mask.as_ref().is_some_and(|mask| patch.pointers().any(|place| mask.touches(place))) {
            return Err(Refused::Hidden);
        }
        patch.apply(old, MAX_LOCAL_DOC).map_err(Refused::Patch)
    }

    /// Whether the writer sees an entity with these declared fields.
    pub(super) fn shows(&self, values: Option<&Values<'_>>) -> bool {
        let Some(rows) = &self.sees.rows else { return true };
        let Some(values) = values else { return false };
        rows.evaluate(&|field| values.value(field)) == Some(true)
    }
}

/// The first fault, for whoever reads no list.
fn told(violations: &[Violation]) -> String {
    violations.first().map(|it| format!(": {} {}", it.pointer, it.detail)).unwrap_or_default()
}

/// Whether all that is hidden is as it was. What cannot be walked is not.
fn leaves_alone(mask: &Mask, old: Option<&RawValue>, new: &RawValue) -> bool {
    let before = old.map_or(Some(Vec::new()), |old| mask.hidden(old.get()));
    before.is_some() && before == mask.hidden(new.get())
}
