//! What a run of operations makes of the stored rows: pure, no I/O.
//!
//! Invariants: every operation is counted once; revisions of an entity are consecutive however many operations meet it in
//! one batch; the same content under a newer version is stored without a change; what is older than the stored version is
//! dropped; what storage would refuse is put aside alone.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use dzvin_actors::platform::ports::Applied;
use dzvin_protocols::{
    entities::{Derived, FieldChange, Fields, INLINE_DOC_LIMIT, Op, Values, check, merge_set},
    mirror::Quarantined,
    platform::EntityId,
};
use serde_json::value::RawValue;

use super::{
    KindSpec,
    difference::difference,
    edit::{Edit, EditAction, Outcome, Refused, Signature},
    op::{EntityOp, Prepared, derive},
    write::TURN_BYTES,
};

/// A document's text: as it came, or as it was stored, which needs no second check.
#[derive(Debug, Clone)]
pub(super) enum Doc {
    New(Arc<RawValue>),
    Stored(Arc<str>),
}

impl Doc {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::New(raw) => raw.get(),
            Self::Stored(text) => text,
        }
    }

    /// `None`: it is no JSON.
    pub(super) fn raw(&self) -> Option<Cow<'_, RawValue>> {
        match self {
            Self::New(raw) => Some(Cow::Borrowed(raw)),
            Self::Stored(text) => RawValue::from_string(text.to_string()).ok().map(Cow::Owned),
        }
    }

    pub(super) fn into_raw(self) -> Option<Arc<RawValue>> {
        match self {
            Self::New(raw) => Some(raw),
            Self::Stored(text) => RawValue::from_string(text.to_string()).ok().map(Into::into),
        }
    }
}

/// An entity as it is stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    /// 0: there is no row.
    pub revision: i64,
    pub version: Option<String>,
    pub hash: Option<Vec<u8>>,
    /// Read only when it is needed.
    pub doc: Option<Doc>,
    /// Of a document that this run brought, or of the stored one where it was asked for.
    pub filterable: Option<String>,
    pub size: usize,
    pub trashed: bool,
    pub missing: bool,
    pub purged: bool,
}

impl Stored {
    /// The declared fields, where they are known.
    pub(super) fn values<'a>(&'a self, spec: &'a KindSpec) -> Option<Values<'a>> {
        match (&self.doc, &self.filterable) {
            (Some(doc), _) => Some(Values::of(doc.text(), spec.fields())),
            // Of a document too large to be told: what is not there is taken for nothing, or everybody who asks for nothing would have
            // to recover. Should it not be derived yet, who is told fetches the document, and is refused there.
            (None, Some(stored)) => Some(Values::of_stored(stored, spec.fields())),
            (None, None) => None,
        }
    }
}

/// A row of the change log to be.
#[derive(Debug)]
pub(super) struct NewChange {
    pub id: EntityId,
    pub revision: i64,
    pub op: Op,
    pub changed: Vec<String>,
    /// A JSON object, when something declared differs.
    pub before: Option<String>,
    pub doc: Option<Doc>,
    /// The declared fields before and after.
    pub fields: Option<String>,
    /// In whose name, where it is not the run's.
    pub by: Option<Signature>,
    /// Bytes of the document, where the entity is known from the change alone: neither an upstream's, nor still in the trash.
    pub told: Option<usize>,
}

impl NewChange {
    fn forget(&mut self) {
        (self.doc, self.before) = (None, None);
        self.changed.clear();
    }
}

/// A row of entities to be.
#[derive(Debug)]
pub(super) struct NewState {
    pub id: EntityId,
    /// The entity's last change, which has its revision: the place in the run, from 1; 0 when nothing but document and
    /// version changed.
    pub change: usize,
    pub version: Option<String>,
    pub hash: Option<Vec<u8>>,
    /// Only when it differs from what is stored.
    pub doc: Option<Doc>,
    /// Of that document.
    pub filterable: Option<String>,
    /// The words of that document, where the kind has texts.
    pub words: Option<String>,
    pub size: usize,
    pub trashed: bool,
    pub missing: bool,
    /// There is no row yet.
    pub fresh: bool,
}

/// What the run comes to.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub changes: Vec<NewChange>,
    pub states: Vec<NewState>,
    pub quarantined: Vec<Quarantined>,
    pub applied: Applied,
    /// Entities that came into being.
    pub created: u64,
    /// Largest version stored.
    pub newest: Option<String>,
    /// What each edit came to, in their order; what was refused has changed nothing.
    pub edits: Vec<Result<Outcome, Refused>>,
    /// Bytes of documents that edits have read and made.
    pub edited: usize,
    /// What is left for another turn, for edits have handled as much as one may.
    pub rest: Vec<Prepared>,
}

#[derive(Default)]
struct State {
    stored: Stored,
    fresh: bool,
    /// Order of first appearance, so that rows are written in a steady order.
    change: usize,
    new_doc: bool,
    dirty: bool,
}

/// Applies the operations in their order.
pub(super) fn fold(spec: &KindSpec, stored: HashMap<EntityId, Stored>, ops: Vec<Prepared>) -> Folded {
    let mut states: HashMap<EntityId, State> = stored
        .into_iter()
        .map(|(id, stored)| (id, State { fresh: stored.revision == 0, stored, ..State::default() }))
        .collect();
    let mut out = Folded::default();
    let mut ops = ops.into_iter();
    while out.edited < TURN_BYTES {
        let Some(Prepared { op, derived, unfit }) = ops.next() else { break };
        if let Some((reason, detail)) = unfit {
            out.put_aside(reason, detail, &op);
            continue;
        }
        let id = op.id().clone();
        let state = states.entry(id.clone()).or_insert_with(|| State { fresh: true, ..State::default() });
        match op {
            EntityOp::Upsert { version, beside: true, .. } if state.stored.version.as_ref() == Some(&version) => {
                out.found(spec, &id, state);
            }
            EntityOp::Upsert { version, doc, .. } => {
                let derived = derived.unwrap_or_else(|| derive(spec, &doc));
                out.upsert(spec, &id, state, Some(version), &doc, derived);
            }
            EntityOp::Set { ref version, ref set, .. } => match merged(spec, state, set) {
                Ok((doc, derived)) => out.upsert(spec, &id, state, version.clone(), &doc, derived),
                Err((reason, detail)) => {
                    // What the merge came to may be unfit to be stored: then the upstream's own document is as well.
                    out.applied.unmerged += u64::from(matches!(reason, NO_BASE | BAD_BASE | BAD_SET));
                    out.put_aside(reason, detail, &op);
                }
            },
            EntityOp::Trash(_) => out.hide(spec, &id, state, |stored| &mut stored.trashed),
            // It has come back since it was looked for.
            EntityOp::Missing { version, .. } if state.stored.version.as_ref() != Some(&version) => {
                out.applied.unchanged += 1;
            }
            EntityOp::Missing { .. } => out.hide(spec, &id, state, |stored| &mut stored.missing),
            EntityOp::Found(_) => out.found(spec, &id, state),
            EntityOp::Purge(_) => out.purge(spec, &id, state),
            EntityOp::Edit(edit) => {
                let done = out.edit(spec, &id, state, &edit);
                out.edits.push(done);
            }
        }
    }
    out.rest = ops.collect();
    let mut dirty: Vec<_> = states.into_iter().filter(|(_, state)| state.dirty).collect();
    // Locks are taken in one order by every writer.
    dirty.sort_by(|a, b| a.0.cmp(&b.0));
    out.states = dirty.into_iter().map(|(id, state)| state.into_row(spec, id)).collect();
    out
}

type Unfit = (&'static str, String);

const NO_BASE: &str = "no_base";
const BAD_BASE: &str = "bad_base";
const BAD_SET: &str = "bad_set";

fn merged(spec: &KindSpec, state: &State, set: &RawValue) -> Result<(Arc<RawValue>, Derived), Unfit> {
    let Some(doc) = &state.stored.doc else {
        return Err((NO_BASE, "fields were set of a document that is not here".to_owned()));
    };
    let base = doc.raw().ok_or_else(|| (BAD_BASE, "what is stored is no JSON".to_owned()))?;
    let doc = merge_set(&base, set).map_err(|error| (BAD_SET, error.to_string()))?;
    // Paths may nest what each by itself was fit.
    check(&doc).map_err(|unfit| (unfit.code(), unfit.to_string()))?;
    let derived = derive(spec, &doc);
    Ok((doc.into(), derived))
}

impl Folded {
    fn put_aside(&mut self, reason: &'static str, detail: String, op: &EntityOp) {
        let raw = op.raw().map(|raw| raw.get().as_bytes().to_vec()).unwrap_or_default();
        self.quarantined.push(Quarantined { reason, detail, id: Some(op.id().clone()), raw });
        self.applied.quarantined += 1;
    }

    fn upsert(
        &mut self,
        spec: &KindSpec,
        id: &EntityId,
        state: &mut State,
        version: Option<String>,
        doc: &Arc<RawValue>,
        derived: Derived,
    ) {
        if matches!((&version, &state.stored.version), (Some(new), Some(old)) if new < old) {
            self.applied.stale += 1;
            return;
        }
        self.newest = self.newest.take().max(version.clone());
        let stored = &mut state.stored;
        let exists = stored.revision > 0 && !stored.purged;
        let same = exists && stored.hash.as_deref() == Some(&derived.hash[..]);
        let hidden = stored.trashed || stored.missing;
        if same && !hidden && (version.is_none() || version == stored.version) {
            self.applied.unchanged += 1;
            return;
        }
        let old = if same { None } else { stored.doc.take() };
        stored.version = version.or(stored.version.take());
        stored.hash = Some(derived.hash.to_vec());
        let known = stored.filterable.take();
        stored.filterable = Some(derived.filterable);
        stored.size = doc.get().len();
        stored.doc = Some(Doc::New(Arc::clone(doc)));
        state.new_doc = true;
        state.dirty = true;
        if same && !hidden {
            self.applied.unchanged += 1;
            return;
        }
        let op = match (exists, hidden) {
            (false, _) => Op::Create,
            (true, true) => Op::Restore,
            (true, false) => Op::Update,
        };
        (stored.trashed, stored.missing, stored.purged) = (false, false, false);
        self.created += u64::from(op == Op::Create);
        let old = old.filter(|_| exists);
        let old = old.as_ref().map(|old| Fields::of(old.text()));
        let (changed, before) = old.as_ref().map(|old| difference(spec, old, doc.get())).unwrap_or_default();
        // What is stored may lack what was declared lately; the document does not.
        let was = match (&old, &known) {
            (Some(old), _) => Some(Values::of_fields(old, spec.fields())),
            (None, Some(known)) => Some(Values::of_stored(known, spec.fields())),
            (None, None) => None,
        };
        let tells = op != Op::Update || was.is_some();
        let change = FieldChange::new(was.filter(|_| op == Op::Update), state.stored.values(spec));
        let fields = tells.then(|| change.encode());
        self.change(id, state, Told { op, changed, before, fields });
    }

    fn hide(&mut self, spec: &KindSpec, id: &EntityId, state: &mut State, mark: impl Fn(&mut Stored) -> &mut bool) {
        // What is in the trash is gone already, and said to be.
        if state.stored.revision == 0 || state.stored.purged || state.stored.trashed || *mark(&mut state.stored) {
            self.applied.unchanged += 1;
            return;
        }
        let told = Told::gone(spec, Op::Trash, state);
        *mark(&mut state.stored) = true;
        self.change(id, state, told);
    }

    fn found(&mut self, spec: &KindSpec, id: &EntityId, state: &mut State) {
        self.show(spec, id, state, |stored| &mut stored.missing);
    }

    fn show(&mut self, spec: &KindSpec, id: &EntityId, state: &mut State, mark: impl Fn(&mut Stored) -> &mut bool) {
        if !std::mem::take(mark(&mut state.stored)) {
            self.applied.unchanged += 1;
            return;
        }
        let told = if state.shown() { Told::back(spec, state) } else { Told::gone(spec, Op::Trash, state) };
        self.change(id, state, told);
    }

    fn edit(&mut self, spec: &KindSpec, id: &EntityId, state: &mut State, edit: &Edit) -> Result<Outcome, Refused> {
        let old = state.stored.doc.clone();
        self.edited += old.as_ref().map_or(0, |old| old.text().len());
        edit.judge(spec, &state.stored)?;
        let document = edit.document(spec, old.as_ref().and_then(Doc::raw).as_deref())?;
        let (created, before) = (self.created, state.stored.revision);
        match (&edit.action, document) {
            (_, Some(doc)) => {
                self.edited += doc.get().len();
                if !edit.shows(Some(&Values::of(doc.get(), spec.fields()))) {
                    return Err(Refused::OutOfSight);
                }
                let derived = derive(spec, &doc);
                self.upsert(spec, id, state, None, &doc, derived);
            }
            (EditAction::Restore, None) => self.show(spec, id, state, |stored| &mut stored.trashed),
            (EditAction::Purge, None) => self.purge(spec, id, state),
            (_, None) => self.hide(spec, id, state, |stored| &mut stored.trashed),
        }
        let (revision, changed) = (state.stored.revision, state.stored.revision != before);
        if let Some(change) = self.changes.last_mut().filter(|_| changed) {
            change.by.clone_from(&edit.by);
        }
        Ok(Outcome { revision, created: self.created > created, changed })
    }

    fn purge(&mut self, spec: &KindSpec, id: &EntityId, state: &mut State) {
        if state.stored.revision == 0 || state.stored.purged {
            self.applied.unchanged += 1;
            return;
        }
        let (told, revision) = (Told::gone(spec, Op::Purge, state), state.stored.revision);
        state.stored = Stored { revision, version: state.stored.version.take(), purged: true, ..Stored::default() };
        state.new_doc = false;
        // What this run has made of it before is destroyed as well: nothing of it is to be told once the purge is.
        self.changes.iter_mut().filter(|change| change.id == *id).for_each(NewChange::forget);
        self.change(id, state, told);
    }

    fn change(&mut self, id: &EntityId, state: &mut State, told: Told) {
        let Told { op, changed, before, fields } = told;
        state.stored.revision += 1;
        state.dirty = true;
        self.applied.changed += 1;
        // What a publication does not carry is not kept a second time: many edits of one large document are many revisions of it.
        let doc = state.stored.doc.clone().filter(|doc| doc.text().len() <= INLINE_DOC_LIMIT);
        let Stored { revision, size, missing, trashed, ref version, .. } = state.stored;
        let told = (!missing && version.is_none() && (!trashed || op == Op::Trash)).then_some(size);
        self.changes.push(NewChange { id: id.clone(), revision, op, changed, before, doc, fields, by: None, told });
        state.change = self.changes.len();
    }
}

/// What a change tells beside the document.
struct Told {
    op: Op,
    changed: Vec<String>,
    before: Option<String>,
    fields: Option<String>,
}

impl Told {
    /// Of one that is not there afterwards.
    fn gone(spec: &KindSpec, op: Op, state: &State) -> Self {
        let shown = state.shown();
        let was = state.stored.values(spec).filter(|_| shown);
        // What was there, and of which nobody knows how, may have been anything.
        let tells = !shown || was.is_some();
        let fields = tells.then(|| FieldChange::new(was, None).encode());
        Self { op, changed: Vec::new(), before: None, fields }
    }

    /// Of one that is there again as it was.
    fn back(spec: &KindSpec, state: &State) -> Self {
        let fields = state.stored.values(spec).map(|is| FieldChange::new(None, Some(is)).encode());
        Self { op: Op::Restore, changed: Vec::new(), before: None, fields }
    }
}

impl State {
    /// Neither in the trash nor missing nor purged.
    fn shown(&self) -> bool {
        self.stored.revision > 0 && !(self.stored.trashed || self.stored.missing || self.stored.purged)
    }

    fn into_row(self, spec: &KindSpec, id: EntityId) -> NewState {
        let Stored { version, hash, doc, filterable, size, trashed, missing, .. } = self.stored;
        let doc = doc.filter(|_| self.new_doc);
        NewState {
            id,
            change: self.change,
            version,
            hash,
            words: doc.as_ref().and_then(|doc| spec.vector(doc.text())),
            doc,
            filterable,
            size,
            trashed,
            missing,
            fresh: self.fresh,
        }
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
