//! A kind that is held back and told as one: whatever happens in between, readers come to what the log says.

use std::collections::{BTreeMap, HashMap};

use dzvin_protocols::{
    channels::{Epoch, Extra, QueryId, fossil},
    entities::{FieldChange, Filter, Op, Shown, Sight, Values, told_by_query},
    platform::EntityId,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::channels::{
    ChannelRules, Conflate, HoldRules,
    viewer::Viewer,
    wire::{Data, Shape, Wire},
};

const ENTITIES: u8 = 3;

fn kind() -> Kind {
    Kind::new("deal").expect("a kind")
}

fn namespaces(conflate: Conflate) -> Namespaces {
    let rules = HoldRules { every: Duration::from_secs(3600), conflate };
    Namespaces::new(ChannelRules::default(), HashMap::new()).with_kinds(HashMap::from([(kind(), rules)]))
}

/// What there is: of each entity its revision and its status.
#[derive(Default)]
struct Log {
    all: Vec<Publication>,
    now: BTreeMap<String, (u64, Option<u8>)>,
}

fn values(of: Option<u8>) -> Option<Values<'static>> {
    let declared = ["status".to_owned()];
    of.map(|of| Values::of(&json!({"status": of.to_string()}).to_string(), &declared).into_owned())
}

impl Log {
    fn commit(&mut self, id: u8, is: Option<u8>) {
        let (id, offset) = (format!("e{id}"), self.top() + 1);
        let (revision, was) = self.now.get(&id).copied().unwrap_or_default();
        let (revision, op) = (revision + 1, if is.is_none() { Op::Trash } else { Op::Update });
        self.now.insert(id.clone(), (revision, is));
        let data = json!({"id": id, "revision": revision, "op": op.as_str(), "changed": ["status", format!("f{}", offset % 3)],
            "doc": {"status": is.unwrap_or_default().to_string(), "text": "a text that is the same in all of them, so that patches are shorter"}});
        let fields = Some(FieldChange::new(values(was), values(is)).encode().into());
        let extra = Some(Arc::new(Extra { fields, ..Extra::default() }));
        let (id, data) = (EntityId::new(&id).expect("an id"), Bytes::from(data.to_string()));
        self.all.push(Publication { offset, id, revision, at: 0, data, trace: None, extra });
    }

    fn top(&self) -> u64 {
        self.all.len() as u64
    }

    fn run(&self, after: u64, to: u64) -> &[Publication] {
        &self.all[after as usize..to as usize]
    }
}

/// A subscriber, by the live rule.
struct Reader {
    channel: Arc<str>,
    filter: Option<Filter>,
    viewer: Option<Viewer>,
    /// Which entity alone.
    only: Option<&'static str>,
    /// What its session waits for; of one entity it is a revision.
    next: u64,
    /// The last offset that its client was told: from there it comes back.
    told: u64,
    /// While it is away nothing reaches it.
    away: bool,
    /// Its connection breaks behind so many of the next publications.
    breaks: Option<usize>,
    /// What it was shown last, for patches.
    seen: (u64, Vec<u8>),
    known: BTreeMap<String, (u64, Option<u8>)>,
    ended: u32,
}

impl Reader {
    fn new(channel: &str, filter: Option<&str>, rows: Option<&str>, only: Option<&'static str>) -> Self {
        let parse = |filter: &str| Filter::parse(filter).expect("a filter");
        let viewer = rows.map(|rows| Viewer {
            sight: Arc::new(Sight::new(None, Some(parse(rows)))),
            rewritten: prometheus_client::metrics::counter::Counter::default(),
        });
        let (filter, seen) = (filter.map(parse), (0, Vec::new()));
        let (channel, known) = (channel.into(), BTreeMap::new());
        Self { channel, filter, viewer, only, next: 1, told: 0, away: false, breaks: None, seen, known, ended: 0 }
    }

    fn take(&mut self, offset: u64, data: &[u8]) {
        let told: Value = serde_json::from_slice(data).expect("json");
        let (id, revision) = (told["id"].as_str().expect("an id"), told["revision"].as_u64().expect("a revision"));
        if self.known.get(id).is_some_and(|(known, _)| *known >= revision) {
            return;
        }
        let gone = told["op"] == "trash" || told["query"] == "leave" || told["hidden"] == true;
        let status = told["doc"]["status"].as_str().and_then(|status| status.parse().ok());
        assert!(gone || status.is_some(), "{offset}: {told}");
        self.known.insert(id.to_owned(), (revision, status.filter(|_| !gone)));
    }

    /// By the log, from where it stands to somewhere at or behind where topics do.
    fn recover(&mut self, log: &Log, to: u64) {
        let mut last = (0, Vec::new());
        self.next = self.told + 1;
        for publication in log.run(0, to) {
            let offset = if self.only.is_some() { publication.revision } else { publication.offset };
            if offset < self.next || self.only.is_some_and(|only| publication.id.as_str() != only) {
                continue;
            }
            let Some(told) = self.judged(publication) else { continue };
            self.take(offset, &told.data);
            // What the session takes for shared with everybody.
            last = if self.viewer.is_none() { (offset, told.data.to_vec()) } else { (0, Vec::new()) };
        }
        let revisions = || log.run(0, to).iter().filter(|it| self.only == Some(it.id.as_str())).count() as u64;
        let reached = if self.only.is_some() { revisions() } else { to };
        self.told = self.told.max(reached);
        (self.next, self.seen, self.away) = (self.told + 1, last, false);
    }

    /// The list as it is now; what is told after `since`, which may be before it, is heard.
    fn load(&mut self, log: &Log, since: u64) {
        let rows = |state: &Option<u8>| state.filter(|it| self.shows(Some(*it)));
        self.known = log.now.iter().map(|(id, (revision, state))| (id.clone(), (*revision, rows(state)))).collect();
        let revision = |only| log.run(0, since).iter().filter(|it| it.id.as_str() == only).count() as u64;
        self.told = self.only.map_or(since, revision);
        (self.next, self.seen, self.away) = (self.told + 1, (0, Vec::new()), false);
    }

    fn judged(&self, publication: &Publication) -> Option<Publication> {
        let mut told = publication.clone();
        if let Some(filter) = &self.filter {
            let fields = publication.extra.as_ref().and_then(|it| it.fields.as_deref()).and_then(FieldChange::parse);
            told = told_by_query(publication, filter.concern(&fields.expect("told")).expect("declared")?);
        }
        self.viewer.as_ref().map_or(Some(told.clone()), |viewer| viewer.sight.tell(&told).expect("told"))
    }

    fn shows(&self, state: Option<u8>) -> bool {
        let here = FieldChange::new(values(state), values(state));
        let holds = |filter: &Filter| filter.concern(&here).expect("declared").is_some();
        self.filter.as_ref().is_none_or(holds)
            && self.viewer.as_ref().is_none_or(|viewer| viewer.sight.rows().is_none_or(holds))
    }

    fn hear(&mut self, delivery: &Delivery) {
        if self.away || delivery.channel != self.channel {
            return;
        }
        match &delivery.what {
            What::Items(items) => {
                items.iter().for_each(|item| self.show(delivery, item));
                self.away |= self.breaks.take().is_some();
            }
            What::Top(top) => self.away |= *top >= self.next,
            What::Passed { after, .. } if *after >= self.next => self.away = true,
            What::Passed { to, .. } => self.next = self.next.max(to + 1),
            _ => self.away = true,
        }
        self.ended += u32::from(self.away);
    }

    fn show(&mut self, delivery: &Delivery, item: &Item) {
        if self.away || item.offset < self.next {
            return;
        }
        if item.offset - item.skips > self.next {
            self.away = true;
            return;
        }
        self.next = item.offset + 1;
        let (part, shown) = match &self.viewer {
            None => (item, Shown::Whole),
            Some(viewer) => match item.seen_by(viewer).expect("told") {
                Some(it) => it,
                None => return,
            },
        };
        let data = if part.follows(self.seen.0) { Data::Patch } else { Data::Full };
        let frame = part.frame(delivery, Wire::StreamJson, Shape::centrifuge(false, data));
        let text = std::str::from_utf8(frame).expect("text").trim().to_owned();
        let told: Value = serde_json::from_str(&text).expect("json");
        let told = &told["push"]["pub"];
        match &mut self.breaks {
            Some(0) => return self.away = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.told = told["offset"].as_u64().unwrap_or(self.told);
        let text = told["data"].as_str().expect("a text").as_bytes();
        let data = match told["delta"] == true {
            true => fossil::apply(&self.seen.1, text, 1 << 20).expect("a patch of what was seen"),
            false => text.to_vec(),
        };
        assert_eq!(data, part.publication.data, "{told}");
        self.take(item.offset, &data);
        self.seen = if shown == Shown::Whole { (item.offset, data) } else { (0, Vec::new()) };
    }

    fn assert_knows(&self, log: &Log) {
        let shown = |id: &&String| self.only.is_none_or(|only| only == *id);
        for id in log.now.keys().filter(shown) {
            let truth = log.now[id].1.filter(|it| self.shows(Some(*it)));
            let known = self.known.get(id).and_then(|(_, state)| *state);
            assert_eq!(known, truth, "{id} on {} with {:?}: {:?}", self.channel, self.viewer, self.known);
        }
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Commit(u8, Option<u8>),
    /// The bus tells so many.
    Tell(u64),
    Release,
    Check,
    /// What goes out next is lost.
    Lose,
    Leave(usize),
    /// Its connection breaks in the middle of what goes out next.
    Break(usize, usize),
    /// Comes back: `true` where the log stands, else where topics do.
    Back(usize, bool),
    /// Loads the list and listens from there, or from where topics stand.
    Load(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..8_usize;
    let step = prop_oneof![
        8 => (0..ENTITIES, proptest::option::weighted(0.8, 0..3_u8)).prop_map(|(id, is)| Step::Commit(id, is)),
        5 => (1..6_u64).prop_map(Step::Tell),
        2 => Just(Step::Release),
        1 => Just(Step::Check),
        1 => Just(Step::Lose),
        1 => who.clone().prop_map(Step::Leave),
        2 => (who.clone(), 0..3_usize).prop_map(|(n, after)| Step::Break(n, after)),
        2 => (who.clone(), any::<bool>()).prop_map(|(n, far)| Step::Back(n, far)),
        1 => (who, any::<bool>()).prop_map(|(n, far)| Step::Load(n, far)),
    ];
    proptest::collection::vec(step, 1..80)
}

struct Scene {
    stream: Stream,
    readers: Vec<Reader>,
    log: Log,
    loses: bool,
}

impl Scene {
    fn new(conflate: Conflate) -> Self {
        let mut stream = Stream::new(Source::Durable(kind()), &namespaces(conflate), 1024 * 1024, &Counter::default());
        let (numbers, mut readers) = (Numbers::default(), Vec::new());
        let rows = Some(r#"{"status":["0","1"]}"#);
        for (filter, rows, only) in [
            (None, None, None),
            (None, rows, None),
            (Some(r#"{"status":"1"}"#), None, None),
            (Some(r#"{"status":"1"}"#), rows, None),
            (Some(r#"{"not":{"status":"1"}}"#), rows, None),
            (Some(r#"{"status":{"gte":1}}"#), None, None),
            (None, None, Some("e0")),
            (None, rows, Some("e1")),
        ] {
            let query = filter.map(|filter| {
                let filter = Filter::parse(filter).expect("a filter");
                Arc::new(Query { id: QueryId::of(&kind(), &filter), kind: kind(), filter })
            });
            let channel = match (&query, only) {
                (Some(query), _) => format!("query.{}", query.id),
                (None, Some(id)) => Channel::of_entity(&kind(), &EntityId::new(id).expect("an id")).to_string(),
                (None, None) => "entities.deal".to_owned(),
            };
            let reader = Reader::new(&channel, filter, rows, only);
            let channel = Arc::clone(&reader.channel);
            stream.want(Want { channel, shard: 0, delta: true, query }, &numbers);
            readers.push(reader);
        }
        stream.stand(Position { epoch: Epoch::new("e"), offset: 0 });
        Self { stream, readers, log: Log::default(), loses: false }
    }

    fn position(&self) -> u64 {
        self.stream.position.as_ref().map_or(0, |it| it.offset)
    }

    fn deliver(&mut self, batch: &[(u64, Delivery)]) {
        if batch.is_empty() || std::mem::take(&mut self.loses) {
            return;
        }
        for (_, delivery) in batch {
            self.readers.iter_mut().for_each(|reader| reader.hear(delivery));
        }
    }

    fn tell(&mut self, count: u64) {
        let at = self.position();
        // Now and then what is known is told again.
        let run = self.log.run(at.saturating_sub(count % 2), (at + count).min(self.log.top())).to_vec();
        let batch = self.stream.advance(&run, false);
        self.deliver(&batch);
    }

    fn check(&mut self) {
        let mut batch: Vec<_> = self.stream.top().into_iter().collect();
        batch.extend(self.stream.pass_queries());
        self.deliver(&batch);
    }

    fn step(&mut self, step: &Step) {
        let (top, at) = (self.log.top(), self.position());
        match step {
            Step::Commit(id, is) => self.log.commit(*id, *is),
            Step::Tell(count) => self.tell(*count),
            Step::Release => {
                let batch = self.stream.release_now();
                self.deliver(&batch);
            }
            Step::Check => self.check(),
            Step::Lose => self.loses = true,
            Step::Leave(n) => self.readers[*n].away = true,
            Step::Break(n, after) => self.readers[*n].breaks = Some(*after),
            Step::Back(n, far) => {
                if self.readers[*n].away {
                    self.readers[*n].recover(&self.log, if *far { top } else { at });
                }
            }
            Step::Load(n, far) => self.readers[*n].load(&self.log, if *far { top } else { at }),
        }
    }

    fn tell_all(&mut self) {
        self.tell(u64::from(u32::MAX));
        let batch = self.stream.release_now();
        self.deliver(&batch);
        self.check();
    }

    /// Everything is told, and whoever was sent to recover does.
    fn settle(&mut self) {
        self.loses = false;
        self.tell_all();
        let top = self.log.top();
        for reader in self.readers.iter_mut().filter(|it| it.away || it.only.is_some()) {
            // Of one entity nobody is told where it stands: a gap is found by what comes next.
            reader.recover(&self.log, top);
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_everybody_comes_to_what_the_log_says(steps in steps(), conflate: bool) {
        let mut scene = Scene::new(if conflate { Conflate::Entity } else { Conflate::Nothing });
        steps.iter().for_each(|step| scene.step(step));
        scene.settle();
        scene.readers.iter().for_each(|reader| reader.assert_knows(&scene.log));
    }

    /// Whom nothing is lost has no gap, however much is left out, and of one entity as well.
    #[test]
    fn what_is_left_out_is_no_gap(steps in steps()) {
        let mut scene = Scene::new(Conflate::Entity);
        let quiet = steps.iter().filter(|it| matches!(it, Step::Commit(..) | Step::Tell(_) | Step::Release | Step::Check));
        quiet.for_each(|step| scene.step(step));
        scene.tell_all();
        for reader in &scene.readers {
            prop_assert_eq!(reader.ended, 0, "{}", reader.channel);
            reader.assert_knows(&scene.log);
        }
    }
}

/// Of a hundred changes of three entities in one go three are told.
#[test]
fn each_entity_goes_out_once_in_a_while() {
    let mut scene = Scene::new(Conflate::Entity);
    for n in 0..100_u8 {
        scene.log.commit(n % ENTITIES, Some(n % 2));
    }
    scene.tell(1);
    let run = scene.log.run(1, 100).to_vec();
    assert!(scene.stream.advance(&run, false).is_empty() && scene.stream.held() > 0);
    let told = |batch: &[(u64, Delivery)], channel: &str| -> Vec<(u64, u64)> {
        let of = batch.iter().find(|(_, it)| &*it.channel == channel).expect("told");
        let What::Items(items) = &of.1.what else { panic!("items") };
        items.iter().map(|it| (it.skips, it.offset)).collect()
    };
    let batch = scene.stream.release_now();
    assert_eq!(told(&batch, "entities.deal"), [(96, 98), (0, 99), (0, 100)]);
    assert_eq!(told(&batch, "entity.deal.e0"), [(32, 34)], "by its revisions");
    assert_eq!(scene.stream.held(), 0);
    scene.deliver(&batch);
    scene.check();
    assert!(scene.readers.iter().all(|it| !it.away));
}
