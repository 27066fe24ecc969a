//! The checker of the hammer: what writers were acknowledged, what the database has, and what each subscriber was told, held against
//! each other. Pure: no clock, no socket. That each of its rules can fail stands in `planted`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What is wrong; of each sort a test plants one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// Two writes were acknowledged with the same revision: one of them is lost.
    Shared { id: String, revision: u64 },
    /// A revision of which nobody was told that it is theirs.
    Unowned { id: String, revision: u64 },
    /// A write under `If-Match` that did not come right behind the revision that it named.
    Jumped { id: String, named: u64, revision: u64 },
    /// An acknowledged addition is not in the sum, or one is in it that was not acknowledged.
    Miscounted { id: String, acknowledged: u64, is: Value },
    /// What is there is not what the writes, or the database, come to.
    Differs { id: String, should: Option<State>, is: Option<State> },
    /// A reader was shown less than a writer had been told before.
    Stale { id: String, written: u64, read: u64 },
    /// An offset was left out.
    Gap { at: u64, told: u64 },
    /// An offset came twice.
    Doubled { offset: u64 },
    /// An offset came after a later one.
    Disordered { at: u64, told: u64 },
    /// A publication that does not belong where it was told.
    Stray { told: Value },
}

/// What an acknowledged write did.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Did {
    Put(Value),
    /// A flat patch.
    Merge(Map<String, Value>),
    Trash,
    Restore,
    Purge,
}

/// A write that was acknowledged as a revision of its own.
#[derive(Debug, Clone)]
pub(super) struct Ack {
    pub(super) id: String,
    pub(super) revision: u64,
    /// What `If-Match` named.
    pub(super) named: Option<u64>,
    pub(super) did: Did,
}

/// What one node showed right after another's answer.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) id: String,
    pub(super) written: u64,
    pub(super) read: u64,
}

/// An entity.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) trashed: bool,
    /// `Null` once purged; `None` where only a reference was told.
    pub(super) doc: Option<Value>,
}

pub(super) type Rows = BTreeMap<String, State>;

impl State {
    /// As REST has it.
    fn of_item(item: &Value) -> Self {
        let doc = item.get("doc").cloned();
        Self { revision: number(&item["revision"]), trashed: !item["trashed_at"].is_null(), doc }
    }

    fn of_publication(data: &Value) -> Self {
        let doc = if data["ref"] == true { None } else { Some(data["doc"].clone()) };
        Self { revision: number(&data["revision"]), trashed: data["op"] == "trash", doc }
    }

    fn agrees(&self, other: &Self) -> bool {
        let same = self.doc.is_none() || other.doc.is_none() || self.doc == other.doc;
        (self.revision, self.trashed) == (other.revision, other.trashed) && same
    }

    fn write(&mut self, did: &Did) {
        self.revision += 1;
        match did {
            Did::Put(doc) => self.doc = Some(doc.clone()),
            Did::Merge(patch) => {
                if let Some(doc) = self.doc.as_mut().and_then(Value::as_object_mut) {
                    doc.extend(patch.clone());
                }
            }
            Did::Trash => self.trashed = true,
            Did::Restore => self.trashed = false,
            Did::Purge => (self.trashed, self.doc) = (false, Some(Value::Null)),
        }
    }
}

pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Each acknowledged write is exactly one revision, and one after the other they come to what the database has.
pub(super) fn of_writes(acks: &[Ack], rows: &Rows) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut order: Vec<&Ack> = acks.iter().collect();
    order.sort_by_key(|ack| (&ack.id, ack.revision));
    let mut made = Rows::new();
    for Ack { id, revision, named, did } in order {
        let (id, revision) = (id.clone(), *revision);
        let state = made.entry(id.clone()).or_default();
        if revision <= state.revision {
            faults.push(Fault::Shared { id, revision });
            continue;
        }
        faults.extend((state.revision + 1..revision).map(|revision| Fault::Unowned { id: id.clone(), revision }));
        state.revision = revision - 1;
        state.write(did);
        if let Some(named) = *named
            && named + 1 != revision
        {
            faults.push(Fault::Jumped { id, named, revision });
        }
    }
    faults.extend(differences(&made, rows));
    faults
}

/// Every acknowledged addition to a counter is in its sum.
pub(super) fn of_counters(acks: &[Ack], counters: &[String], rows: &Rows) -> Vec<Fault> {
    let adds = |ack: &&Ack| matches!(&ack.did, Did::Merge(patch) if patch.contains_key("n"));
    let of = |id: &String| {
        let acknowledged = acks.iter().filter(|ack| ack.id == *id).filter(adds).count() as u64;
        let is = rows.get(id).and_then(|row| row.doc.as_ref()).map_or(Value::Null, |doc| doc["n"].clone());
        (is.as_u64() != Some(acknowledged)).then(|| Fault::Miscounted { id: id.clone(), acknowledged, is })
    };
    counters.iter().filter_map(of).collect()
}

/// Whoever asks after an answer sees at least what the answer told.
pub(super) fn of_reads(reads: &[Read]) -> Vec<Fault> {
    let stale = reads.iter().filter(|it| it.read < it.written).cloned();
    stale.map(|Read { id, written, read }| Fault::Stale { id, written, read }).collect()
}

fn differences(should: &Rows, is: &Rows) -> Vec<Fault> {
    let ids: BTreeSet<&String> = should.keys().chain(is.keys()).collect();
    let of = |id: &String| {
        let (should, is) = (should.get(id), is.get(id));
        let same = should.zip(is).is_some_and(|(should, is)| should.agrees(is));
        (!same).then(|| Fault::Differs { id: id.clone(), should: should.cloned(), is: is.cloned() })
    };
    ids.into_iter().filter_map(of).collect()
}

/// What a subscriber follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Follows {
    /// `entities.{kind}`: offsets grow by one.
    Kind,
    /// `entity.{kind}.{id}`: offsets are revisions.
    Entity(String),
    /// `query.{id}` of the entities with this status: offsets jump.
    Query(&'static str),
}

impl Follows {
    fn shows(&self, id: &str, state: &State) -> bool {
        match self {
            Self::Kind => true,
            Self::Entity(own) => own == id,
            Self::Query(status) => !state.trashed && state.doc.as_ref().is_some_and(|doc| doc["status"] == *status),
        }
    }

    fn is_of(&self, offset: u64, data: &Value) -> bool {
        match self {
            Self::Kind => data["offset"] == offset,
            Self::Entity(id) => data["id"] == **id && data["revision"] == offset,
            Self::Query(_) => {
                data["offset"] == offset && ["enter", "change", "leave"].iter().any(|word| data["query"] == **word)
            }
        }
    }
}

/// What one subscriber has: a list over REST, and from then on nothing but what its channel brings.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) follows: Follows,
    /// The offset up to which it was told.
    pub(super) at: u64,
    rows: Rows,
    /// Of all that was ever here the newest revision: what has left does not come back with old news.
    known: BTreeMap<String, u64>,
    /// Offsets since the list.
    offsets: BTreeSet<u64>,
    /// Publications in all.
    pub(super) told: u64,
    faults: Vec<Fault>,
}

impl Ledger {
    pub(super) fn new(follows: Follows) -> Self {
        let (rows, known, offsets, faults) = (Rows::new(), BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { follows, at: 0, rows, known, offsets, told: 0, faults }
    }

    /// Begins with items of REST and the position of their first page.
    pub(super) fn begin(&mut self, at: u64, items: &[Value]) {
        self.at = at;
        self.offsets.clear();
        let row = |item: &Value| (text(&item["id"]), State::of_item(item));
        self.rows = items.iter().map(row).collect();
        self.known = self.rows.iter().map(|(id, state)| (id.clone(), state.revision)).collect();
    }

    /// Takes a publication as it came, live or recovered.
    pub(super) fn take(&mut self, publication: &Value) {
        let (offset, data) = (number(&publication["offset"]), &publication["data"]);
        let (at, jumps) = (self.at, matches!(self.follows, Follows::Query(_)));
        self.told += 1;
        if !self.follows.is_of(offset, data) {
            self.faults.push(Fault::Stray { told: publication.clone() });
        }
        if !self.offsets.insert(offset) {
            self.faults.push(Fault::Doubled { offset });
        } else if offset <= at {
            self.faults.push(Fault::Disordered { at, told: offset });
        } else if !jumps && offset != at + 1 {
            self.faults.push(Fault::Gap { at, told: offset });
        }
        self.at = at.max(offset);
        let (id, state) = (text(&data["id"]), State::of_publication(data));
        let known = self.known.entry(id.clone()).or_default();
        if state.revision <= *known {
            return;
        }
        *known = state.revision;
        if data["query"] == "leave" {
            self.rows.remove(&id);
        } else {
            self.rows.insert(id, state);
        }
    }

    /// What was wrong on the way, and what it has that is not as the database has it.
    pub(super) fn faults(&self, rows: &Rows) -> Vec<Fault> {
        let shown = rows.iter().filter(|(id, state)| self.follows.shows(id, state));
        let should: Rows = shown.map(|(id, state)| (id.clone(), state.clone())).collect();
        self.faults.iter().cloned().chain(differences(&should, &self.rows)).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
