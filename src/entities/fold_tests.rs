//! The fold against a model: an entity as five plain facts, one operation at a time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::entities::{Source, op::prepare};

const IDS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Plain {
    /// Content, version.
    Upsert(u8, u8),
    /// The same, read beside the stream.
    Beside(u8, u8),
    /// Content, version if it is known.
    Set(u8, Option<u8>),
    Trash,
    /// The version that was looked for.
    Missing(u8),
    Found,
    Purge,
    /// What storage refuses.
    Unfit,
}

fn plain() -> impl Strategy<Value = (usize, Plain)> {
    let op = prop_oneof![
        4 => (0u8..3, 0u8..4).prop_map(|(c, v)| Plain::Upsert(c, v)),
        2 => (0u8..3, 0u8..4).prop_map(|(c, v)| Plain::Beside(c, v)),
        2 => (0u8..3, proptest::option::of(0u8..4)).prop_map(|(c, v)| Plain::Set(c, v)),
        1 => Just(Plain::Trash),
        2 => (0u8..4).prop_map(Plain::Missing),
        1 => Just(Plain::Found),
        1 => Just(Plain::Purge),
        1 => Just(Plain::Unfit),
    ];
    (0..IDS.len(), op)
}

/// What is expected of one entity.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    revision: i64,
    version: Option<String>,
    content: Option<u8>,
    trashed: bool,
    missing: bool,
}

#[derive(Debug, Default, PartialEq)]
struct Expected {
    changes: Vec<(String, i64, Op)>,
    applied: Applied,
}

impl Model {
    fn hold(&mut self, content: u8, version: Option<String>, out: &mut Expected) -> Option<Op> {
        if matches!((&version, &self.version), (Some(new), Some(old)) if new < old) {
            out.applied.stale += 1;
            return None;
        }
        let hidden = self.trashed || self.missing;
        let op = match self.content {
            None => Op::Create,
            Some(_) if hidden => Op::Restore,
            Some(old) if old == content => {
                self.version = version.or(self.version.take());
                out.applied.unchanged += 1;
                return None;
            }
            Some(_) => Op::Update,
        };
        let version = version.or(self.version.take());
        *self = Self { revision: self.revision, version, content: Some(content), trashed: false, missing: false };
        Some(op)
    }

    fn step(&mut self, op: &Plain, out: &mut Expected) -> Option<Op> {
        let live = self.content.is_some();
        let done = match op {
            Plain::Upsert(content, version) => return self.hold(*content, Some(version.to_string()), out),
            Plain::Beside(content, version) if self.version != Some(version.to_string()) => {
                return self.hold(*content, Some(version.to_string()), out);
            }
            Plain::Set(content, version) if live => return self.hold(*content, version.map(|v| v.to_string()), out),
            Plain::Set(..) | Plain::Unfit => {
                out.applied.unmerged += u64::from(matches!(op, Plain::Set(..)));
                out.applied.quarantined += 1;
                return None;
            }
            Plain::Trash if live && !self.trashed => {
                self.trashed = true;
                Some(Op::Trash)
            }
            Plain::Missing(version)
                if live && !self.trashed && !self.missing && self.version == Some(version.to_string()) =>
            {
                self.missing = true;
                Some(Op::Trash)
            }
            Plain::Beside(..) | Plain::Found if self.missing => {
                self.missing = false;
                Some(if self.trashed { Op::Trash } else { Op::Restore })
            }
            Plain::Purge if live => {
                *self = Self { revision: self.revision, version: self.version.take(), ..Self::default() };
                Some(Op::Purge)
            }
            _ => None,
        };
        out.applied.unchanged += u64::from(done.is_none());
        done
    }
}

fn expected(ops: &[(usize, Plain)]) -> (BTreeMap<String, Model>, Expected) {
    let (mut models, mut out) = (BTreeMap::<String, Model>::new(), Expected::default());
    for (id, op) in ops {
        let model = models.entry(IDS[*id].to_owned()).or_default();
        if let Some(op) = model.step(op, &mut out) {
            model.revision += 1;
            out.applied.changed += 1;
            out.changes.push((IDS[*id].to_owned(), model.revision, op));
        }
    }
    models.retain(|_, model| model.revision > 0);
    (models, out)
}

fn spec() -> KindSpec {
    KindSpec { version_paths: vec!["v".into()], ..declared("procedure", Source::Mirrored, &["c"]) }
}

fn declared(kind: &str, source: Source, fields: &[&str]) -> KindSpec {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    let kind = dzvin_protocols::platform::Kind::new(kind).expect("kind");
    KindSpec::new(kind, source, dzvin_protocols::entities::Declaration { fields, ..Default::default() })
        .expect("a kind")
}

fn prepared(spec: &KindSpec, id: usize, op: &Plain) -> Prepared {
    let raw = |text: String| Arc::from(RawValue::from_string(text).expect("json"));
    let id = EntityId::new(IDS[id]).expect("id");
    let op = match op {
        Plain::Upsert(content, version) | Plain::Beside(content, version) => EntityOp::Upsert {
            id,
            version: version.to_string(),
            doc: raw(format!(r#"{{"c":{content},"v":{version}}}"#)),
            derived: None,
            beside: matches!(op, Plain::Beside(..)),
        },
        Plain::Set(content, version) => {
            EntityOp::Set { id, version: version.map(|v| v.to_string()), set: raw(format!(r#"{{"c":{content}}}"#)) }
        }
        Plain::Trash => EntityOp::Trash(id),
        Plain::Missing(version) => EntityOp::Missing { id, version: version.to_string() },
        Plain::Found => EntityOp::Found(id),
        Plain::Purge => EntityOp::Purge(id),
        Plain::Unfit => {
            let doc = raw(r#"{"c":"\u0000"}"#.into());
            EntityOp::Upsert { id, version: "9".into(), doc, derived: None, beside: false }
        }
    };
    prepare(spec, op)
}

/// What the statements of `rows` do with a row, in memory.
fn keep(rows: &mut HashMap<EntityId, Stored>, state: NewState, changes: &[NewChange]) {
    let row = rows.entry(state.id).or_default();
    assert_eq!(state.fresh, row.revision == 0, "a row is new or it is not");
    let last = state.change.checked_sub(1).map(|place| &changes[place]);
    let purged = last.is_some_and(|change| change.op == Op::Purge);
    if last.is_none() {
        assert!(state.doc.is_some(), "what is stored silently has a document");
    } else {
        (row.trashed, row.missing, row.hash) = (state.trashed, state.missing, state.hash);
        row.purged = if state.doc.is_some() { false } else { purged || row.purged };
    }
    row.revision = last.map_or(row.revision, |change| change.revision);
    (row.version, row.size) = (state.version, state.size);
    row.doc = match state.doc {
        Some(doc) => Some(Doc::Stored(doc.text().into())),
        None if purged => None,
        None => row.doc.take(),
    };
}

fn content(row: &Stored) -> Option<u8> {
    let doc = row.doc.as_ref()?;
    Fields::of(doc.text()).value_at("c")?.parse().ok()
}

/// The comparison fetched it, then the stream deleted it, then what was fetched is stored.
#[test]
fn what_was_read_before_a_delete_brings_nothing_back() {
    let spec = spec();
    let run = |ops: &[Plain]| {
        let ops = ops.iter().map(|op| prepared(&spec, 0, op)).collect();
        let folded = fold(&spec, HashMap::new(), ops);
        (folded.states[0].trashed, folded.changes.iter().map(|change| change.op).collect::<Vec<_>>())
    };
    let trashed = [Plain::Upsert(1, 2), Plain::Trash];
    let and = |last: Plain| [&trashed[..], &[last]].concat();
    assert_eq!(run(&and(Plain::Beside(1, 2))), (true, vec![Op::Create, Op::Trash]));
    assert_eq!(run(&and(Plain::Beside(2, 1))), (true, vec![Op::Create, Op::Trash]));
    assert_eq!(
        run(&and(Plain::Beside(1, 3))),
        (false, vec![Op::Create, Op::Trash, Op::Restore]),
        "it came into being again"
    );
    assert_eq!(
        run(&and(Plain::Upsert(1, 2))),
        (false, vec![Op::Create, Op::Trash, Op::Restore]),
        "the stream itself is right"
    );
    let missing = [Plain::Upsert(1, 2), Plain::Missing(2), Plain::Beside(1, 2)];
    assert_eq!(run(&missing), (false, vec![Op::Create, Op::Trash, Op::Restore]), "it is shown again");
}

proptest! {
    /// However the operations are cut into batches: the same rows, the same log, each operation counted once.
    #[test]
    fn every_cut_of_a_run_comes_to_what_the_model_says(
        ops in proptest::collection::vec(plain(), 0..40),
        cuts in proptest::collection::vec(1usize..9, 40),
    ) {
        let spec = spec();
        let (models, wanted) = expected(&ops);
        let (mut rows, mut got) = (HashMap::<EntityId, Stored>::new(), Expected::default());
        let (mut rest, mut cuts) = (&ops[..], cuts.into_iter());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cuts.next().unwrap_or(40).min(rest.len()));
            rest = later;
            let met = |id: &EntityId| now.iter().any(|(n, _)| IDS[*n] == id.as_str());
            let stored = rows.iter().filter(|(id, _)| met(id)).map(|(id, row)| (id.clone(), row.clone())).collect();
            let folded = fold(&spec, stored, now.iter().map(|(id, op)| prepared(&spec, *id, op)).collect());
            prop_assert_eq!(folded.applied.quarantined as usize, folded.quarantined.len());
            let last: HashMap<_, _> = folded.changes.iter().enumerate().map(|(n, c)| (c.id.clone(), n + 1)).collect();
            for state in &folded.states {
                prop_assert_eq!(state.change, last.get(&state.id).copied().unwrap_or(0), "the row points at its last change");
            }
            prop_assert!(last.keys().all(|id| folded.states.iter().any(|state| state.id == *id)), "no change without a row");
            prop_assert!(folded.states.is_sorted_by(|a, b| a.id < b.id), "rows are written in one order");
            got.applied += folded.applied.clone();
            got.changes.extend(folded.changes.iter().map(|c| (c.id.to_string(), c.revision, c.op)));
            for state in folded.states {
                keep(&mut rows, state, &folded.changes);
            }
        }
        prop_assert_eq!(&got, &wanted);
        let all = &got.applied;
        prop_assert_eq!((all.changed + all.unchanged + all.stale + all.quarantined) as usize, ops.len());
        let stored: BTreeMap<_, _> = rows.iter().map(|(id, row)| {
            let model = Model { revision: row.revision, version: row.version.clone(), content: content(row), trashed: row.trashed, missing: row.missing };
            (id.to_string(), model)
        }).collect();
        prop_assert_eq!(stored, models);
    }
}

/// A field that was declared lately, and is not derived of this row yet, is not said to be nothing: rows would be shown by it.
#[test]
fn what_is_not_derived_yet_is_not_told() {
    let spec = declared("deal", Source::Local, &["owner", "secret"]);
    let rows = dzvin_protocols::entities::Filter::parse(r#"{"secret":null}"#).expect("a filter");
    let doc = || Some(Doc::Stored(r#"{"owner":"me","secret":"yes"}"#.into()));
    let id = EntityId::new("a").expect("id");
    for (doc, op) in [(doc(), EntityOp::Trash(id.clone())), (doc(), EntityOp::Purge(id.clone()))] {
        let stored = Stored { revision: 1, doc, filterable: Some(r#"{"owner":"me"}"#.to_owned()), ..Stored::default() };
        let folded = fold(&spec, [(id.clone(), stored)].into(), vec![prepare(&spec, op)]);
        let fields = folded.changes[0].fields.as_deref().expect("told");
        let change = FieldChange::parse(fields).expect("ours");
        assert_eq!(
            rows.concern(&change).map_err(drop),
            Ok(None),
            "{fields}: the document says that the row was not seen"
        );
    }
}
