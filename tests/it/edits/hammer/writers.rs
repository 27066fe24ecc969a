//! Writers of the hammer: what each was acknowledged, and what the other node showed right after.

use std::{collections::HashSet, time::Instant};

use rand::random_range;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    COUNTERS, ENTITIES,
    ledger::{Ack, Did, Read, number},
};
use crate::{
    edits::{Answer, DEALS, Writer},
    support::hub::Hub,
};

/// Items of a bulk.
const ITEMS: usize = 8;
pub(super) const STATUSES: [&str; 3] = ["open", "won", "lost"];

/// One writer, at one node, with an eye on the other.
pub(super) struct Hand<'a> {
    own: Writer<'a>,
    other: Writer<'a>,
    name: String,
    /// What makes each of its documents another.
    written: u64,
    pub(super) acks: Vec<Ack>,
    mine: HashSet<(String, u64)>,
    pub(super) reads: Vec<Read>,
    /// Answers that said that somebody else was faster.
    pub(super) conflicts: u64,
    /// Requests that came when the entity was in the trash or gone.
    pub(super) refused: u64,
}

/// The id of an entity: counters first.
pub(super) fn id(n: usize) -> String {
    if n < COUNTERS { format!("counter-{n}") } else { format!("deal-{n}") }
}

fn any() -> String {
    id(random_range(COUNTERS..ENTITIES))
}

fn patch(value: Value) -> Did {
    let Value::Object(patch) = value else { panic!("{value} is no patch") };
    Did::Merge(patch)
}

fn there(seen: &Answer) -> bool {
    seen.status == 200 && !seen.body["doc"].is_null()
}

impl<'a> Hand<'a> {
    pub(super) fn new(n: usize, own: &'a Hub, other: &'a Hub) -> Self {
        let name = format!("writer-{n}");
        let [own, other] = [own, other].map(|hub| Writer::new(hub, &name, "boss"));
        let (acks, mine, reads) = (Vec::new(), HashSet::new(), Vec::new());
        Self { own, other, name, written: 0, acks, mine, reads, conflicts: 0, refused: 0 }
    }

    pub(super) async fn run(mut self, until: Instant) -> Self {
        while Instant::now() < until {
            match random_range(0..100) {
                0..25 => self.count(&id(random_range(0..COUNTERS))).await,
                25..55 => self.change(&any()).await,
                55..70 => self.overwrite(&id(random_range(0..ENTITIES))).await,
                70..82 => self.hide_or_show(&any()).await,
                82..85 => self.purge(&any()).await,
                _ => self.bulk().await,
            }
        }
        self
    }

    fn next(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    fn document(&mut self) -> Value {
        let (status, n) = (STATUSES[random_range(0..STATUSES.len())], self.next());
        json!({"status": status, "owner": self.name, &self.name: n, "text": "word ".repeat(random_range(0..40))})
    }

    /// A change that nobody else makes.
    fn mark(&mut self) -> Value {
        json!({ &self.name: self.next() })
    }

    /// Notes what was done, and asks the other node for it.
    async fn done(&mut self, id: &str, revision: u64, named: Option<u64>, did: Did) {
        self.mine.insert((id.to_owned(), revision));
        self.acks.push(Ack { id: id.to_owned(), revision, named, did });
        let there = self.other.get(&format!("{DEALS}/{id}")).await;
        self.reads.push(Read { id: id.to_owned(), written: revision, read: number(&there.body["revision"]) });
    }

    /// Whether it was done; a refusal that writers who meet may get is counted, and any other is a fault.
    async fn settle(&mut self, id: &str, answer: &Answer, named: Option<u64>, did: Did) -> bool {
        match (answer.status, answer.body["code"].as_str()) {
            (200 | 201, _) => self.done(id, number(&answer.body["revision"]), named, did).await,
            (412, Some("revision_conflict" | "entity_exists")) => self.conflicts += 1,
            (404, Some("unknown_entity")) | (409, Some("in_trash")) => self.refused += 1,
            _ => panic!("{}: {}", answer.status, answer.body),
        }
        answer.status < 300
    }

    /// Adds one, however often somebody else is faster.
    async fn count(&mut self, id: &str) {
        loop {
            let seen = self.own.get(&format!("{DEALS}/{id}")).await;
            let n = number(&seen.is(200).body["doc"]["n"]);
            let add = json!({"n": n + 1});
            let answer = self.own.merge(id, &add, Some(&seen.tag())).await;
            if self.settle(id, &answer, Some(number(&seen.body["revision"])), patch(add)).await {
                return;
            }
        }
    }

    /// Reads it, and makes something of it under `If-Match` until that is done.
    async fn change(&mut self, id: &str) {
        loop {
            let seen = self.own.get(&format!("{DEALS}/{id}")).await;
            let named = number(&seen.body["revision"]);
            // As a tag, or as a bare revision.
            let tag = if named.is_multiple_of(2) { seen.tag() } else { named.to_string() };
            let done = if !there(&seen) {
                let doc = self.document();
                let answer = self.own.put(id, &doc, Some(("if-none-match", "*"))).await;
                self.settle(id, &answer, None, Did::Put(doc)).await
            } else if !seen.body["trashed_at"].is_null() {
                let answer = self.under(Method::POST, &format!("{id}/restore"), &tag).await;
                self.settle(id, &answer, Some(named), Did::Restore).await
            } else if random_range(0..2) == 0 {
                let doc = self.document();
                let answer = self.own.put(id, &doc, Some(("if-match", &tag))).await;
                self.settle(id, &answer, Some(named), Did::Put(doc)).await
            } else {
                let mark = self.mark();
                let answer = self.own.merge(id, &mark, Some(&tag)).await;
                self.settle(id, &answer, Some(named), patch(mark)).await
            };
            if done {
                return;
            }
        }
    }

    /// Without having looked: a member of its own, in one way of patching or the other, or of what is no counter the whole.
    async fn overwrite(&mut self, id: &str) {
        let way = random_range(if id.starts_with("counter") { 1 } else { 0 }..3);
        let (answer, did) = if way == 0 {
            let doc = self.document();
            (self.own.put(id, &doc, None).await, Did::Put(doc))
        } else if way == 1 {
            let mark = self.mark();
            (self.own.merge(id, &mark, None).await, patch(mark))
        } else {
            let (mark, path) = (self.mark(), format!("/{}", self.name));
            let add = json!([{"op": "add", "path": path, "value": mark[&self.name]}]);
            (self.own.patch(id, &add).await, patch(mark))
        };
        self.settle(id, &answer, None, did).await;
    }

    /// To the trash or back, by what it sees or blindly.
    async fn hide_or_show(&mut self, id: &str) {
        let seen = self.own.get(&format!("{DEALS}/{id}")).await;
        let (named, hidden) = (number(&seen.body["revision"]), !seen.body["trashed_at"].is_null());
        if !there(&seen) {
            return;
        }
        let (method, path, did) = if hidden {
            (Method::POST, format!("{id}/restore"), Did::Restore)
        } else {
            (Method::DELETE, id.to_owned(), Did::Trash)
        };
        if random_range(0..2) == 0 {
            let answer = self.under(method, &path, &named.to_string()).await;
            self.settle(id, &answer, Some(named), did).await;
            return;
        }
        let answer = self.own.send(method, &format!("{DEALS}/{path}"), &[], String::new()).await;
        // Where it was so already the answer is what somebody has done before, perhaps this one.
        let others = answer.status == 200 && answer.body["by"] != *self.name;
        if !others && !self.mine.contains(&(id.to_owned(), number(&answer.body["revision"]))) {
            self.settle(id, &answer, None, did).await;
        }
    }

    async fn purge(&mut self, id: &str) {
        let answer = self.own.delete(id, "?purge=true").await;
        if self.settle(id, &answer, None, Did::Purge).await && random_range(0..2) == 0 {
            self.change(id).await;
        }
    }

    async fn under(&self, method: Method, path: &str, tag: &str) -> Answer {
        self.own.send(method, &format!("{DEALS}/{path}"), &[("if-match", tag)], String::new()).await
    }

    /// Several at once of what has changed last, all or each by itself.
    async fn bulk(&mut self) {
        let mut page = self.own.get(&format!("{DEALS}?limit={ITEMS}")).await;
        let seen = page.is(200).body["items"].as_array().expect("items").clone();
        let items: Vec<_> = seen.iter().map(|seen| self.item(seen)).collect();
        let told: Vec<&Value> = items.iter().map(|(item, ..)| item).collect();
        let atomic = random_range(0..2) == 0;
        page = self.own.bulk(&json!({"atomic": atomic, "items": told})).await;
        let refused = |code: &Value| ["revision_conflict", "in_trash", "unknown_entity"].iter().any(|it| *code == **it);
        if page.status != 200 {
            assert!(atomic && refused(&page.body["code"]), "{}", page.body);
            self.conflicts += 1;
            return;
        }
        let answers = page.body["items"].as_array().expect("items").clone();
        for ((item, named, did), answer) in items.into_iter().zip(answers) {
            if number(&answer["status"]) < 300 {
                let id = item["id"].as_str().expect("an id").to_owned();
                self.done(&id, number(&answer["revision"]), named, did).await;
            } else {
                assert!(refused(&answer["code"]), "{answer}");
                self.refused += 1;
            }
        }
    }

    /// What to do with one of a list.
    fn item(&mut self, seen: &Value) -> (Value, Option<u64>, Did) {
        let (id, named) = (&seen["id"], number(&seen["revision"]));
        let of = |op: &str, conditional: bool, more: Value| {
            let mut item = json!({"op": op, "id": id});
            let all = item.as_object_mut().expect("an object");
            all.extend(more.as_object().expect("an object").clone());
            if conditional {
                all.insert("if_match".to_owned(), json!(named));
            }
            (item, conditional.then_some(named))
        };
        let with = |(item, named), did| (item, named, did);
        let counter = id.as_str().is_some_and(|id| id.starts_with("counter"));
        match random_range(if counter { 6 } else { 0 }..10) {
            0 if seen["doc"].is_null() => {
                let doc = self.document();
                with(of("put", false, json!({"doc": doc})), Did::Put(doc))
            }
            0 => with(of("purge", true, json!({})), Did::Purge),
            1..3 if seen["trashed_at"].is_null() => with(of("trash", true, json!({})), Did::Trash),
            1..3 => with(of("restore", true, json!({})), Did::Restore),
            3..6 => {
                let doc = self.document();
                with(of("put", true, json!({"doc": doc})), Did::Put(doc))
            }
            n => {
                let mark = self.mark();
                with(of("merge", n % 2 == 0, json!({"patch": mark})), patch(mark))
            }
        }
    }
}
