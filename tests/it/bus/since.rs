//! Recovery: from the bus, else from the log, gap-free or not at all.

use std::sync::Arc;

use dzvin::channels::bus::{HistoryLimits, MemoryBus, RedisBus};
use dzvin_actors::{
    entities::gap::{Cause, HistoryError, Recovered, entity_since, since},
    platform::ports::{Bus, ReadLimit},
};
use dzvin_protocols::{
    channels::{IdKey, Position, Publication},
    entities::INLINE_DOC_LIMIT,
    platform::{EntityId, StreamName},
};
use tokio::sync::mpsc;

use super::{
    fakes::{FakeLog, kind},
    kit::{ALL, at, config, epoch, publication, run},
};

const LIMIT: ReadLimit = ReadLimit { count: 300, bytes: 1 << 20 };

struct Scene {
    bus: Arc<MemoryBus>,
    log: FakeLog,
}

/// A log with so many changes, and a bus that was reset at an offset and has everything after it up to `top`.
async fn scene(log_top: u64, bus_from: u64, bus_top: u64, doc: usize) -> Scene {
    let (sender, _) = mpsc::channel(1);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["tender"]);
    log.commit_of("tender", log_top, doc);
    bus.reset(&stream(), &at("e0", bus_from)).await.expect("reset");
    let run: Vec<_> = logged(&log).await.into_iter().filter(|p| p.offset > bus_from && p.offset <= bus_top).collect();
    bus.append(&stream(), &epoch("e0"), &run).await.expect("appended");
    Scene { bus, log }
}

fn stream() -> StreamName {
    kind("tender").stream()
}

async fn logged(log: &FakeLog) -> Vec<Publication> {
    use dzvin_actors::platform::ports::ChangeLog;
    let slice = log.read(&kind("tender"), 0, ALL).await.expect("read").expect("known");
    slice.changes.iter().map(dzvin_protocols::entities::Change::publication).collect()
}

impl Scene {
    async fn since(&self, after: &Position, limit: ReadLimit) -> Recovered {
        since(self.bus.as_ref(), &self.log, &stream(), after, limit).await.expect("answered")
    }

    async fn complete(&self, after: &Position, limit: ReadLimit) -> (Position, Vec<Publication>) {
        match self.since(after, limit).await {
            Recovered::Complete { position, publications } => (position, publications),
            other => panic!("{other:?}"),
        }
    }

    async fn lost(&self, after: &Position, limit: ReadLimit) -> (Position, Cause) {
        match self.since(after, limit).await {
            Recovered::Unrecoverable { position, cause } => (position, cause),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_bus_answers_alone_when_it_can() {
    let scene = scene(20, 0, 20, 20).await;
    let (all, calls) = (logged(&scene.log).await, scene.log.calls());
    assert_eq!(scene.complete(&at("e0", 15), LIMIT).await, (at("e0", 20), all[15..].to_vec()));
    assert_eq!(scene.complete(&at("e0", 20), LIMIT).await, (at("e0", 20), vec![]));
    assert_eq!(scene.lost(&at("e0", 5), ReadLimit { count: 14, ..LIMIT }).await, (at("e0", 20), Cause::Count));
    assert_eq!(scene.log.calls(), calls, "the log was not asked");
}

#[tokio::test]
async fn the_log_answers_what_the_bus_has_forgotten() {
    let scene = scene(20, 10, 20, 20).await;
    let all = logged(&scene.log).await;
    assert_eq!(scene.complete(&at("e0", 3), LIMIT).await, (at("e0", 20), all[3..].to_vec()));
    scene.log.cut("tender", 5);
    assert_eq!(scene.complete(&at("e0", 5), LIMIT).await.1, all[5..]);
    assert_eq!(scene.lost(&at("e0", 4), LIMIT).await, (at("e0", 20), Cause::Retention));
}

#[tokio::test]
async fn ahead_of_the_bus_is_well_and_ahead_of_the_log_is_not() {
    let scene = scene(20, 0, 12, 20).await;
    assert_eq!(scene.complete(&at("e0", 20), LIMIT).await, (at("e0", 20), vec![]));
    assert_eq!(scene.complete(&at("e0", 15), LIMIT).await, (at("e0", 15), vec![]), "the bus will say the rest");
    assert_eq!(scene.lost(&at("e0", 21), LIMIT).await, (at("e0", 20), Cause::Ahead));
    assert_eq!(scene.lost(&at("e0", u64::MAX), LIMIT).await, (at("e0", 20), Cause::Ahead));
}

#[tokio::test]
async fn another_life_is_lost_unless_the_log_has_begun_it() {
    let scene = scene(20, 0, 20, 20).await;
    for foreign in ["", "_", "e1"] {
        assert_eq!(scene.lost(&at(foreign, 20), LIMIT).await, (at("e0", 20), Cause::Epoch), "{foreign}");
    }
    scene.bus.reset(&stream(), &at("older", 3)).await.expect("reset");
    assert_eq!(scene.complete(&at("e0", 18), LIMIT).await.1.len(), 2, "the bus is the one of another life");
}

#[tokio::test]
async fn documents_give_way_to_references_oldest_first() {
    let scene = scene(50, 0, 50, INLINE_DOC_LIMIT - 10).await;
    let limit = ReadLimit { count: 300, bytes: 10 * INLINE_DOC_LIMIT };
    let (position, publications) = scene.complete(&at("e0", 0), limit).await;
    assert_eq!((position, publications.len()), (at("e0", 50), 50));
    let is_reference = |p: &Publication| p.data.ends_with(br#""ref":true}"#);
    let first_full = publications.iter().position(|p| !is_reference(p)).expect("some fit");
    assert!(publications[first_full..].iter().all(|p| !is_reference(p)), "the newest keep theirs");
    let size = |all: &[Publication]| all.iter().map(Publication::weight).sum::<usize>();
    let fits = size(&publications);
    let one_more = logged(&scene.log).await[first_full - 1].weight() - publications[first_full - 1].weight();
    assert!(fits <= limit.bytes && fits + one_more > limit.bytes, "as many as fit: {fits}");
    assert_eq!(scene.lost(&at("e0", 0), ReadLimit { bytes: 1000, ..limit }).await.1, Cause::Bytes);
}

#[tokio::test]
async fn a_stream_of_the_application_has_only_the_bus() {
    let scene = scene(1, 0, 1, 20).await;
    let chat = StreamName::from_checked("chat.1");
    let ask = async |after: Position, limit| since(scene.bus.as_ref(), &scene.log, &chat, &after, limit).await;
    assert!(matches!(ask(at("a", 0), LIMIT).await, Err(HistoryError::Unknown)));
    scene.bus.reset(&chat, &at("a", 5)).await.expect("reset");
    scene.bus.append(&chat, &epoch("a"), &run(6..=8)).await.expect("appended");
    let complete = Recovered::Complete { position: at("a", 8), publications: vec![publication(8)] };
    assert_eq!(ask(at("a", 7), LIMIT).await.expect("answered"), complete);
    for (after, limit, cause) in [
        (at("a", 4), LIMIT, Cause::Retention),
        (at("a", 9), LIMIT, Cause::Ahead),
        (at("b", 8), LIMIT, Cause::Epoch),
        (at("a", 5), ReadLimit { bytes: 20, ..LIMIT }, Cause::Bytes),
    ] {
        let lost = Recovered::Unrecoverable { position: at("a", 8), cause };
        assert_eq!(ask(after, limit).await.expect("answered"), lost);
    }
}

#[tokio::test]
async fn the_log_answers_while_the_bus_is_away() {
    let (sender, _) = mpsc::channel(1);
    let bus = RedisBus::new(config("redis://127.0.0.1:1", HistoryLimits::default()), sender);
    let log = FakeLog::with(&["tender"]);
    log.commit("tender", 5);
    let answer = since(&bus, &log, &stream(), &at("e0", 3), LIMIT).await.expect("answered");
    assert!(matches!(answer, Recovered::Complete { publications, .. } if publications.len() == 2));
    let chat = since(&bus, &log, &StreamName::from_checked("chat"), &at("e0", 3), LIMIT).await;
    assert!(matches!(chat, Err(HistoryError::Bus(_))));
    log.away(true);
    let nobody = since(&bus, &log, &stream(), &at("e0", 3), LIMIT).await;
    assert!(matches!(nobody, Err(HistoryError::Log(_))));
}

#[tokio::test]
async fn one_entity_recovers_by_revisions() {
    let log = FakeLog::with(&["tender"]);
    log.commit("tender", 30);
    let id = IdKey::of(&EntityId::new("id-1").expect("an id"));
    let ask = async |after| entity_since(&log, &kind("tender"), &id, &at("e0", after), LIMIT).await.expect("answered");
    let Recovered::Complete { position, publications } = ask(7).await else { panic!("complete") };
    assert_eq!(position, at("e0", 10));
    let revisions: Vec<_> = publications.iter().map(|p| p.revision).collect();
    assert_eq!(revisions, [8, 9, 10]);
    assert!(matches!(ask(11).await, Recovered::Unrecoverable { cause: Cause::Ahead, .. }));
    let unknown = entity_since(&log, &kind("plan"), &id, &at("e0", 0), LIMIT).await;
    assert!(matches!(unknown, Err(HistoryError::Unknown)));
}
