//! What every bus promises of the application's streams, whose positions are its own.

use std::sync::Arc;

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::Bus;
use dzvin_protocols::{
    channels::Position,
    platform::{EntityId, StreamName},
};

use super::kit::{
    ALL, InCluster, InMemory, InRedis, Kit, World, all, append, at, chat, hub, message, next_run, started, stream,
};
use crate::support::eventually::eventually;

all!(
    streams_do_not_touch_each_other,
    an_application_stream_counts_by_itself,
    tops_of_many_are_asked_at_once,
    many_publishers_get_offsets_of_their_own,
);

async fn streams_do_not_touch_each_other<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    let names = ["entities.plan", "a}b", "{x}", "ї", "entities.tender:history"].map(StreamName::from_checked);
    for (n, name) in names.iter().enumerate() {
        for m in 0..=n as u64 {
            bus.publish(name, message(m), &HistoryLimits::default()).await.expect("published");
        }
    }
    for (n, name) in names.iter().enumerate() {
        let known = bus.position(name).await.expect("asked").map(|at| at.offset);
        assert_eq!(known, Some(n as u64 + 1), "{name}");
    }
    assert_eq!(bus.position(&stream()).await.expect("asked"), Some(at("e1", 0)));
}

async fn an_application_stream_counts_by_itself<K: Kit>() {
    let World { bus, mut events, server: _server } = K::start(HistoryLimits::default()).await;
    let keep = HistoryLimits { count: 3, ..HistoryLimits::default() };
    let begun = bus.open(&chat()).await.expect("opened");
    assert_eq!((begun.offset, bus.open(&chat()).await.expect("again")), (0, begun.clone()), "it is begun once");
    bus.subscribe(&chat()).await.expect("subscribed");
    for n in 1..=5 {
        let position = bus.publish(&chat(), message(n), &keep).await.expect("published");
        assert_eq!(position, Position { epoch: begun.epoch.clone(), offset: n });
        let (name, epoch, run) = next_run(&mut events).await;
        assert_eq!((name, epoch), (chat(), begun.epoch.clone()));
        let id = EntityId::new("chat.1").expect("id");
        assert_eq!(run, [message(n).publication(id, n)], "as it was given, at its place");
    }
    let slice = bus.read(&chat(), 2, ALL).await.expect("read").expect("known");
    assert_eq!((slice.publications.len(), slice.complete), (3, true), "what its own rules keep");
    assert!(!bus.read(&chat(), 1, ALL).await.expect("read").expect("known").complete);
    let fresh = bus.publish(&StreamName::from_checked("chat.2"), message(1), &keep).await.expect("published");
    assert!(fresh.offset == 1 && fresh.epoch != begun.epoch, "who publishes first begins the stream");
}

async fn tops_of_many_are_asked_at_once<K: Kit>() {
    let world = started::<K>().await;
    let names: Vec<StreamName> = (0..1_100).map(|n| StreamName::from_checked(&format!("chat.{n}"))).collect();
    for name in names.iter().step_by(2) {
        world.bus.publish(name, message(1), &HistoryLimits::default()).await.expect("published");
    }
    let tops = world.bus.positions(&names).await.expect("asked");
    assert_eq!(tops.len(), names.len());
    for (n, top) in tops.iter().enumerate() {
        assert_eq!(top.as_ref().map(|at| at.offset), (n % 2 == 0).then_some(1), "{n}");
    }
    assert_eq!(world.bus.positions(&[stream()]).await.expect("asked"), [Some(at("e1", 0))]);
}

async fn many_publishers_get_offsets_of_their_own<K: Kit>() {
    let world = Arc::new(K::start(HistoryLimits::default()).await);
    let publishing = (0..50).map(|n| {
        let world = Arc::clone(&world);
        async move { world.bus.publish(&chat(), message(n), &HistoryLimits::default()).await.expect("published").offset }
    });
    let mut offsets = futures_util::future::join_all(publishing).await;
    offsets.sort_unstable();
    assert_eq!(offsets, (1..=50).collect::<Vec<_>>());
}

/// A replica that took over may lack what was published last: its offsets must not mean something else in the same epoch.
#[tokio::test]
async fn another_primary_begins_application_streams_anew() {
    let World { bus, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let keep = HistoryLimits::default();
    let before = bus.publish(&chat(), message(1), &keep).await.expect("published");
    append(&bus, "e1", &[]).await;
    bus.reset(&stream(), &at("e1", 7)).await.expect("reset");
    // The same data under another replication id is what a replica has that was made a primary. Connections live on.
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("a replica");
    server.command(&["REPLICAOF", "NO", "ONE"]).await.expect("a primary again");
    eventually("it is not what was known", || async { matches!(bus.position(&chat()).await, Ok(None)) }).await;
    let (other, _events) = hub(&server.url(), keep).await;
    assert_eq!(other.read(&chat(), 0, ALL).await.expect("read"), None);
    let after = other.publish(&chat(), message(2), &keep).await.expect("published");
    assert!(after.offset == 1 && after.epoch != before.epoch, "{before:?} {after:?}");
    for offset in [2, 4] {
        let one = bus.publish(&chat(), message(offset), &keep).await.expect("published");
        let two = other.publish(&chat(), message(offset + 1), &keep).await.expect("published");
        assert_eq!((one, two), (at_epoch(&after, offset), at_epoch(&after, offset + 1)), "both name it the same");
    }
    let after = at_epoch(&after, 5);
    assert_eq!(other.open(&chat()).await.expect("opened"), after);
    assert_eq!(
        other.position(&stream()).await.expect("asked"),
        Some(at("e1", 7)),
        "durable streams have their own epochs"
    );
}

fn at_epoch(of: &Position, offset: u64) -> Position {
    Position { epoch: of.epoch.clone(), offset }
}
