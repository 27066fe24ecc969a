//! One collection: documents as raw text, ordered by their version and by their date, and the oplog of what was written.
//! Invariant: every document is in all three maps; a write changes them and appends to the oplog under one lock.

use super::oplog::{Op, Oplog};
use super::{Ts, stamp};
use crate::body::Body;
use crate::config::WorldKnobs;
use crate::error::WorldError;
use crate::{clock, json};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A document as it stands in the database.
#[derive(Debug)]
pub(crate) struct Document {
    /// `_id`.
    pub(crate) id: Arc<str>,
    /// The text.
    pub(crate) body: Body,
    /// `_lastModified` in microseconds; grows with every write of the collection.
    pub(crate) last_modified: i64,
    /// `dateModified` in microseconds: what the HTTP feed is ordered by.
    pub(crate) date_modified: i64,
    /// Where it was written; `None` for what was there from the start.
    pub(crate) ts: Option<Ts>,
}

/// One row of the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TruthRow {
    /// `_id`.
    pub id: String,
    /// `_lastModified` as it is spelled in the document.
    pub last_modified: String,
    /// Where it was written.
    pub ts: Option<Ts>,
    /// The document's length in bytes.
    pub bytes: usize,
    /// The document's text; empty where only versions were asked for.
    pub raw: String,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// `_id`.
    pub id: String,
    /// The write's position.
    pub ts: Ts,
    /// The document's `_lastModified`, empty for a delete.
    pub last_modified: String,
    /// The document's length in bytes.
    pub bytes: usize,
}

/// A question to the HTTP feed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub(crate) from: i64,
    pub(crate) backward: bool,
    pub(crate) limit: usize,
}

type Order = BTreeSet<(i64, Arc<str>)>;

/// The collection.
#[derive(Debug)]
pub(crate) struct Collection {
    docs: HashMap<Arc<str>, Arc<Document>>,
    by_version: Order,
    by_date: Order,
    pub(crate) oplog: Oplog,
    last_modified: i64,
}

impl Collection {
    pub(crate) fn new(now: i64) -> Self {
        let seconds = u32::try_from(now / 1_000_000).unwrap_or(u32::MAX);
        let oplog = Oplog::new(Ts { seconds, increment: 0 });
        Self { docs: HashMap::new(), by_version: Order::new(), by_date: Order::new(), oplog, last_modified: 0 }
    }

    /// Puts a document there as if it always had been: stamped with its own date, not in the oplog.
    pub(crate) fn seed(&mut self, text: &str, now: i64, knobs: &WorldKnobs) -> Result<(), WorldError> {
        let id = stamp::id_of(text).ok_or_else(|| WorldError::NotAnObject("a seed needs an id".to_owned()))?;
        let date = stamp::date_of(text).unwrap_or(now);
        let mut edits = stamp::edits(text, date, None, knobs);
        edits.push(("_id".to_owned(), json::quote(&id)));
        let text = stamp::apply(text, &edits)?;
        self.check(&id, text.len(), knobs)?;
        self.last_modified = self.last_modified.max(date);
        let doc =
            Document { id: id.into(), body: Body::new(&text), last_modified: date, date_modified: date, ts: None };
        self.place(&Arc::new(doc));
        Ok(())
    }

    /// Goes on from an earlier world: its oplog ended at `top`, and only who has read it to there can follow this one.
    pub(crate) fn begin_at(&mut self, top: Ts) {
        self.oplog = Oplog::new(top);
    }

    /// Puts a document there as an earlier world left it: the text as it is with its own stamps, not in the oplog.
    pub(crate) fn restore(&mut self, id: &str, text: &str, knobs: &WorldKnobs) -> Result<(), WorldError> {
        self.check(id, text.len(), knobs)?;
        let stamped = knobs.last_modified.as_deref().and_then(|name| clock::parse(&json::get_string(text, &[name])?));
        let date = stamp::date_of(text);
        let at = stamped.map(|(micros, _)| micros).or(date).unwrap_or_default();
        self.last_modified = self.last_modified.max(at);
        let doc = Document {
            id: id.into(),
            body: Body::new(text),
            last_modified: at,
            date_modified: date.unwrap_or(at),
            ts: None,
        };
        self.place(&Arc::new(doc));
        Ok(())
    }

    /// Writes a whole document, stamped with the time of the write. `date` overrides `dateModified`.
    pub(crate) fn put(
        &mut self,
        text: &str,
        now: i64,
        date: Option<i64>,
        knobs: &WorldKnobs,
    ) -> Result<Written, WorldError> {
        self.put_filled(text, 0, now, date, knobs)
    }

    /// The same with so many bytes of filling in its member `x_filling`, which are never written out here.
    pub(crate) fn put_filled(
        &mut self,
        text: &str,
        fill: usize,
        now: i64,
        date: Option<i64>,
        knobs: &WorldKnobs,
    ) -> Result<Written, WorldError> {
        let id = stamp::id_of(text).ok_or_else(|| WorldError::NotAnObject("it has no _id".to_owned()))?;
        let at = self.tick(now);
        let date = date.unwrap_or(at);
        let mut edits = stamp::edits(text, at, Some(date), knobs);
        edits.push(("_id".to_owned(), json::quote(&id)));
        let text = stamp::apply(text, &edits)?;
        let body = match json::members(&text)?.into_iter().find(|m| m.key == "x_filling") {
            Some(member) if fill > 0 => Body::filled(&text, member.value.start + 1, fill),
            _ => Body::new(&text),
        };
        self.store(id.into(), body, at, date, None, now, knobs)
    }

    /// Writes a text as it is, under an id that is given: no stamps, no checks of its content.
    pub(crate) fn put_verbatim(
        &mut self,
        id: &str,
        text: &str,
        now: i64,
        knobs: &WorldKnobs,
    ) -> Result<Written, WorldError> {
        let at = self.tick(now);
        let date = stamp::date_of(text).unwrap_or(at);
        self.store(id.into(), Body::new(text), at, date, None, now, knobs)
    }

    /// Sets members (dotted paths allowed) of a document that exists.
    pub(crate) fn patch(&mut self, id: &str, set: &str, now: i64, knobs: &WorldKnobs) -> Result<Written, WorldError> {
        let old = self.get(id).ok_or_else(|| WorldError::NoObject(id.to_owned()))?;
        let mut edits: Vec<(String, String)> = json::members(set)?
            .into_iter()
            .map(|m| (m.key, set[m.value].to_owned()))
            .filter(|(k, _)| k != "_id")
            .collect();
        let at = self.tick(now);
        let text = old.body.text();
        edits.extend(stamp::edits(&text, at, Some(at), knobs));
        let text = stamp::apply(&text, &edits)?;
        let members: Vec<String> = edits
            .iter()
            .map(|(path, value)| match path.split_once('.') {
                Some((first, _)) if !knobs.dotted_set => (first, json::get(&text, &[first]).unwrap_or("null")),
                _ => (path.as_str(), value.as_str()),
            })
            .map(|(path, value)| format!("{}:{value}", json::quote(path)))
            .collect();
        let set = format!("{{{}}}", dedup(members).join(","));
        self.store(old.id.clone(), Body::new(&text), at, at, Some(set.into()), now, knobs)
    }

    /// Takes a document out.
    pub(crate) fn delete(&mut self, id: &str, now: i64, knobs: &WorldKnobs) -> Result<Written, WorldError> {
        let old = self.docs.remove(id).ok_or_else(|| WorldError::NoObject(id.to_owned()))?;
        self.by_version.remove(&(old.last_modified, old.id.clone()));
        self.by_date.remove(&(old.date_modified, old.id.clone()));
        let ts = self.oplog.next_ts(now);
        self.oplog.append(ts, Op::Delete { id: old.id.clone() }, knobs);
        Ok(Written { id: id.to_owned(), ts, last_modified: String::new(), bytes: 0 })
    }

    /// Writes that time went on.
    pub(crate) fn noop(&mut self, now: i64, knobs: &WorldKnobs) -> Ts {
        let ts = self.oplog.next_ts(now);
        self.oplog.append(ts, Op::Noop, knobs);
        ts
    }

    #[allow(clippy::too_many_arguments)]
    fn store(
        &mut self,
        id: Arc<str>,
        body: Body,
        at: i64,
        date: i64,
        set: Option<Arc<str>>,
        now: i64,
        knobs: &WorldKnobs,
    ) -> Result<Written, WorldError> {
        let bytes = body.len();
        self.check(&id, bytes, knobs)?;
        let ts = self.oplog.next_ts(now);
        let doc = Document { id, body, last_modified: at, date_modified: date, ts: Some(ts) };
        let doc = Arc::new(doc);
        let prev = self.place(&doc);
        self.oplog.append(ts, Op::Write { doc: doc.clone(), prev, set }, knobs);
        Ok(Written { id: doc.id.to_string(), ts, last_modified: clock::bare(at), bytes })
    }

    fn place(&mut self, doc: &Arc<Document>) -> Option<Arc<Document>> {
        let prev = self.docs.insert(doc.id.clone(), doc.clone());
        if let Some(prev) = &prev {
            self.by_version.remove(&(prev.last_modified, prev.id.clone()));
            self.by_date.remove(&(prev.date_modified, prev.id.clone()));
        }
        self.by_version.insert((doc.last_modified, doc.id.clone()));
        self.by_date.insert((doc.date_modified, doc.id.clone()));
        prev
    }

    fn check(&self, id: &str, bytes: usize, knobs: &WorldKnobs) -> Result<(), WorldError> {
        let over = |what, asked, limit| Err(WorldError::TooMuch { what, asked, limit });
        if bytes > knobs.max_document {
            return over("the document's length", bytes, knobs.max_document);
        }
        if self.docs.len() >= knobs.max_objects && !self.docs.contains_key(id) {
            return over("the number of objects", self.docs.len() + 1, knobs.max_objects);
        }
        Ok(())
    }

    /// The next `_lastModified`: the time, but never twice the same.
    fn tick(&mut self, now: i64) -> i64 {
        self.last_modified = now.max(self.last_modified + 1);
        self.last_modified
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Document>> {
        self.docs.get(id).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.docs.len()
    }

    /// All documents with `_lastModified >= from`, in that order.
    pub(crate) fn since(&self, from: Option<i64>) -> Vec<Arc<Document>> {
        let from = (from.unwrap_or(i64::MIN), Arc::from(""));
        self.by_version.range(from..).filter_map(|(_, id)| self.docs.get(id)).cloned().collect()
    }

    /// One page of the HTTP feed.
    pub(crate) fn page(&self, query: Query) -> Vec<Arc<Document>> {
        let pick = |(_, id): &(i64, Arc<str>)| self.docs.get(id).cloned();
        if query.backward {
            let until = (query.from.saturating_add(1), Arc::from(""));
            self.by_date.range(..until).rev().take(query.limit).filter_map(pick).collect()
        } else {
            let from = (query.from, Arc::from(""));
            self.by_date.range(from..).take(query.limit).filter_map(pick).collect()
        }
    }

    /// Every document, ordered by id; without the texts if only the versions are wanted.
    pub(crate) fn truth(&self, texts: bool) -> Vec<TruthRow> {
        let mut rows: Vec<TruthRow> = self
            .docs
            .values()
            .map(|doc| TruthRow {
                id: doc.id.to_string(),
                last_modified: clock::bare(doc.last_modified),
                ts: doc.ts,
                bytes: doc.body.len(),
                raw: if texts { doc.body.text() } else { String::new() },
            })
            .collect();
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        rows
    }
}

fn dedup(mut members: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    members.retain(|member| seen.insert(member.clone()));
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collection() -> Collection {
        Collection::new(1_000_000_000)
    }

    #[test]
    fn versions_and_positions_grow_even_when_the_clock_stands() {
        let (mut c, knobs) = (collection(), WorldKnobs::default());
        let a = c.put(r#"{"_id":"a","n":1.10}"#, 5_000_000_000, None, &knobs).unwrap();
        let b = c.patch("a", r#"{"n":2.20,"_id":"zzz","deep.er":1}"#, 5_000_000_000, &knobs).unwrap();
        assert!(b.ts > a.ts && b.last_modified > a.last_modified);
        let text = c.get("a").unwrap().body.text();
        assert_eq!(json::get(&text, &["n"]), Some("2.20"));
        assert_eq!(json::get(&text, &["deep", "er"]), Some("1"));
        assert_eq!(json::get_string(&text, &["_lastModified"]), Some(b.last_modified));
        let Some(Op::Write { set: Some(set), prev: Some(_), .. }) = c.oplog.read(1, 1).unwrap().pop().map(|e| e.op)
        else {
            panic!("not an edit");
        };
        assert_eq!(json::get(&set, &["deep"]), Some("{\"er\":1}"));
        assert!(json::get(&set, &["_meta", "systemDateModified"]).is_some() && json::get(&set, &["_id"]).is_none());
    }

    #[test]
    fn an_earlier_world_goes_on_where_it_stopped() {
        let (mut old, knobs) = (collection(), WorldKnobs::default());
        old.put(r#"{"_id":"a","n":1.10}"#, 5_000_000_000, None, &knobs).unwrap();
        let last = old.patch("a", r#"{"n":2.20}"#, 5_000_000_000, &knobs).unwrap();
        let mut new = Collection::new(9_000_000_000);
        new.begin_at(last.ts);
        for row in old.truth(true) {
            new.restore(&row.id, &row.raw, &knobs).unwrap();
        }
        let without_ts =
            |c: &Collection| c.truth(true).into_iter().map(|r| (r.id, r.last_modified, r.raw)).collect::<Vec<_>>();
        assert_eq!(without_ts(&new), without_ts(&old));
        assert_eq!(new.oplog.find(last.ts), Some(0), "who has read everything follows");
        assert_eq!(new.oplog.find(Ts { seconds: 1, increment: 1 }), None, "who has not, lost its history");
        // The clock may even have gone back since.
        let next = new.patch("a", r#"{"n":3}"#, 4_000_000_000, &knobs).unwrap();
        assert!(next.ts > last.ts && next.last_modified > last.last_modified);
    }

    #[test]
    fn equal_dates_are_all_on_the_page_and_the_start_is_inclusive() {
        let (mut c, knobs) = (collection(), WorldKnobs::default());
        for n in 0..5 {
            c.put(&format!("{{\"_id\":\"{n}\"}}"), 0, Some(7_000), &knobs).unwrap();
        }
        c.put("{\"_id\":\"late\"}", 0, Some(8_000), &knobs).unwrap();
        let ids = |q| c.page(q).iter().map(|d| d.id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(Query { from: 7_000, backward: false, limit: 100 }).len(), 6);
        assert_eq!(ids(Query { from: 7_001, backward: false, limit: 100 }), ["late"]);
        assert_eq!(ids(Query { from: 8_000, backward: true, limit: 2 }), ["late", "4"]);
    }

    #[test]
    fn the_truth_is_what_the_oplog_adds_up_to() {
        let (mut c, knobs) = (collection(), WorldKnobs::default());
        c.seed(r#"{"_id":"s","dateModified":"2020-01-01T00:00:00.000000Z"}"#, 0, &knobs).unwrap();
        c.put(r#"{"_id":"a"}"#, 0, None, &knobs).unwrap();
        c.put_verbatim("b", r#"{"_id":"b","x":"\u0000"}"#, 0, &knobs).unwrap();
        c.delete("a", 0, &knobs).unwrap();
        let truth = c.truth(true);
        assert_eq!(truth.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["b", "s"]);
        assert_eq!(truth[0].raw, r#"{"_id":"b","x":"\u0000"}"#);
        assert!(truth[1].ts.is_none() && truth[1].last_modified == "2020-01-01T00:00:00.000000");
        assert_eq!(c.oplog.end(), 3);
        assert_eq!(c.delete("a", 0, &knobs), Err(WorldError::NoObject("a".to_owned())));
        let one = WorldKnobs { max_objects: 2, ..knobs };
        assert!(matches!(c.put("{\"_id\":\"z\"}", 0, None, &one), Err(WorldError::TooMuch { .. })));
    }
}
