//! What every bus promises of streams whose positions are given to it.

use std::{sync::Arc, time::Duration};

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::{Appended, Bus, BusEvent, ReadLimit};
use dzvin_protocols::{channels::Publication, platform::StreamName};
use tokio::time::timeout;

use super::kit::{
    ALL, EVENTS, InCluster, InMemory, InRedis, Kit, World, all, append, at, epoch, history, next_run, publication, run,
    started, stream,
};
use crate::support::eventually::{eventually, patience};

all!(
    an_unknown_stream_is_a_gap,
    only_the_next_run_is_taken,
    a_broken_run_is_refused_whole,
    another_epoch_is_a_gap_until_reset,
    a_reset_never_goes_back,
    reading_is_bounded_and_says_when_the_past_is_cut,
    history_is_bounded_by_count,
    history_is_bounded_by_bytes,
    history_is_bounded_by_age,
    a_long_run_goes_whole,
    events_come_in_order_and_only_when_asked_for,
    a_reader_that_lags_is_told,
    one_of_many_appenders_wins,
);

async fn an_unknown_stream_is_a_gap<K: Kit>() {
    let world = K::start(HistoryLimits::default()).await;
    assert_eq!(world.bus.position(&stream()).await.expect("asked"), None);
    assert_eq!(world.bus.read(&stream(), 0, ALL).await.expect("read"), None);
    assert_eq!(append(&world.bus, "e1", &run(1..=1)).await, Appended::Gap { position: None });
    assert_eq!(append(&world.bus, "e1", &[]).await, Appended::Gap { position: None });
}

async fn only_the_next_run_is_taken<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    assert_eq!(append(bus, "e1", &run(1..=3)).await, Appended::Accepted { top: 3 });
    assert_eq!(append(bus, "e1", &run(3..=5)).await, Appended::Duplicate { top: 3 });
    assert_eq!(append(bus, "e1", &run(1..=1)).await, Appended::Duplicate { top: 3 });
    assert_eq!(append(bus, "e1", &run(5..=6)).await, Appended::Gap { position: Some(at("e1", 3)) });
    assert_eq!(append(bus, "e1", &[]).await, Appended::Accepted { top: 3 });
    assert_eq!(append(bus, "e1", &run(4..=4)).await, Appended::Accepted { top: 4 });
    assert_eq!(bus.position(&stream()).await.expect("asked"), Some(at("e1", 4)));
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    assert_eq!(slice.publications, run(1..=4), "as they were given");
}

async fn a_broken_run_is_refused_whole<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    for broken in [[1, 3], [1, 1], [2, 1]] {
        let run: Vec<_> = broken.map(publication).into();
        bus.append(&stream(), &epoch("e1"), &run).await.expect_err("a hole");
    }
    assert_eq!(bus.position(&stream()).await.expect("asked"), Some(at("e1", 0)));
}

async fn another_epoch_is_a_gap_until_reset<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    append(bus, "e1", &run(1..=3)).await;
    assert_eq!(append(bus, "e2", &run(4..=4)).await, Appended::Gap { position: Some(at("e1", 3)) });
    assert_eq!(append(bus, "e2", &[]).await, Appended::Gap { position: Some(at("e1", 3)) });
    bus.reset(&stream(), &at("e2", 1)).await.expect("reset");
    assert_eq!(history(bus).await, [0; 0], "the past is forgotten");
    assert_eq!(append(bus, "e1", &run(4..=4)).await, Appended::Gap { position: Some(at("e2", 1)) });
    assert_eq!(append(bus, "e2", &run(2..=4)).await, Appended::Accepted { top: 4 });
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    assert!(!slice.complete && slice.position == at("e2", 4));
}

async fn a_reset_never_goes_back<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    append(bus, "e1", &run(1..=5)).await;
    for offset in [0, 4, 5] {
        bus.reset(&stream(), &at("e1", offset)).await.expect("reset");
        assert_eq!(history(bus).await, [1, 2, 3, 4, 5], "reset to {offset}");
    }
    bus.reset(&stream(), &at("e1", 9)).await.expect("reset");
    assert_eq!(append(bus, "e1", &run(10..=10)).await, Appended::Accepted { top: 10 });
}

async fn reading_is_bounded_and_says_when_the_past_is_cut<K: Kit>() {
    let world = started::<K>().await;
    let bus = &world.bus;
    bus.reset(&stream(), &at("e1", 10)).await.expect("reset");
    append(bus, "e1", &run(11..=200)).await;
    let read = async |after, count, bytes| {
        let slice = bus.read(&stream(), after, ReadLimit { count, bytes }).await.expect("read").expect("known");
        assert_eq!(slice.position, at("e1", 200));
        (slice.publications.first().map(|p| p.offset), slice.publications.len(), slice.complete)
    };
    assert_eq!(read(10, 1000, 1 << 20).await, (Some(11), 190, true));
    assert_eq!(read(99, 7, 1 << 20).await, (Some(100), 7, true));
    assert_eq!(read(99, 0, 0).await, (Some(100), 1, true), "at least one");
    assert_eq!(read(9, 1000, 1 << 20).await, (Some(11), 190, false));
    assert_eq!(read(200, 5, 5).await, (None, 0, true));
    assert_eq!(read(u64::MAX, 5, 5).await, (None, 0, true));
    let (_, some, complete) = read(10, 1000, 1000).await;
    assert!(complete && (2..100).contains(&some), "{some} in a thousand bytes");
}

async fn history_is_bounded_by_count<K: Kit>() {
    let world = K::start(HistoryLimits { count: 3, ..HistoryLimits::default() }).await;
    let bus = &world.bus;
    bus.reset(&stream(), &at("e1", 0)).await.expect("reset");
    append(bus, "e1", &run(1..=2)).await;
    append(bus, "e1", &run(3..=6)).await;
    assert_eq!(history(bus).await, [4, 5, 6]);
    assert_eq!(append(bus, "e1", &run(7..=7)).await, Appended::Accepted { top: 7 });
    assert_eq!(history(bus).await, [5, 6, 7]);
}

async fn history_is_bounded_by_bytes<K: Kit>() {
    let world = K::start(HistoryLimits { bytes: 4096, ..HistoryLimits::default() }).await;
    let bus = &world.bus;
    bus.reset(&stream(), &at("e1", 0)).await.expect("reset");
    for offset in 1..=9 {
        append(bus, "e1", &[thousand(offset)]).await;
    }
    assert_eq!(history(bus).await, [7, 8, 9]);
    let huge = Publication { data: vec![b'x'; 5000].into(), ..publication(10) };
    assert_eq!(append(bus, "e1", &[huge]).await, Appended::Accepted { top: 10 });
    assert_eq!(history(bus).await, [0; 0]);
    append(bus, "e1", &[thousand(11)]).await;
    assert_eq!(history(bus).await, [11], "the count of bytes came back to nothing");
}

async fn history_is_bounded_by_age<K: Kit>() {
    let limits = HistoryLimits { age: Duration::from_millis(200), bytes: 4096, ..HistoryLimits::default() };
    let world = K::start(limits).await;
    let bus = &world.bus;
    bus.reset(&stream(), &at("e1", 0)).await.expect("reset");
    append(bus, "e1", &[1, 2, 3].map(thousand)).await;
    assert_eq!(history(bus).await, [1, 2, 3]);
    eventually("the history is too old", || async { history(bus).await.is_empty() }).await;
    let slice = bus.read(&stream(), 2, ALL).await.expect("read").expect("the position outlives it");
    assert!(slice.position == at("e1", 3) && !slice.complete);
    let top = bus.read(&stream(), 3, ALL).await.expect("read").expect("known");
    assert!(top.complete, "who has all has lost nothing");
    assert_eq!(append(bus, "e1", &[4, 5, 6].map(thousand)).await, Appended::Accepted { top: 6 });
    assert_eq!(history(bus).await, [4, 5, 6], "what was too old counts no more");
}

/// A publication of a thousand bytes and a little.
fn thousand(offset: u64) -> Publication {
    Publication { data: vec![b'x'; 1000].into(), ..publication(offset) }
}

async fn a_long_run_goes_whole<K: Kit>() {
    let mut world = started::<K>().await;
    world.bus.subscribe(&stream()).await.expect("subscribed");
    let long: Vec<_> = (1..=400)
        .map(|n| Publication { data: vec![b'x'; 32 * 1024 / (n as usize % 7 + 1)].into(), ..publication(n) })
        .collect();
    assert_eq!(append(&world.bus, "e1", &long).await, Appended::Accepted { top: 400 });
    let mut heard = Vec::new();
    while heard.len() < long.len() {
        heard.extend(next_run(&mut world.events).await.2);
    }
    assert_eq!(heard, long);
}

async fn events_come_in_order_and_only_when_asked_for<K: Kit>() {
    let World { bus, mut events, server: _server } = started::<K>().await;
    append(&bus, "e1", &run(1..=1)).await;
    bus.subscribe(&stream()).await.expect("subscribed");
    append(&bus, "e1", &run(2..=3)).await;
    append(&bus, "e1", &run(4..=4)).await;
    assert_eq!(next_run(&mut events).await, (stream(), epoch("e1"), run(2..=3)));
    assert_eq!(next_run(&mut events).await, (stream(), epoch("e1"), run(4..=4)));
    bus.unsubscribe(&stream()).await.expect("unsubscribed");
    append(&bus, "e1", &run(5..=5)).await;
    let other = StreamName::from_checked("entities.plan");
    bus.subscribe(&other).await.expect("subscribed");
    bus.reset(&other, &at("e1", 0)).await.expect("reset");
    bus.append(&other, &epoch("e1"), &run(1..=1)).await.expect("appended");
    assert_eq!(next_run(&mut events).await, (other, epoch("e1"), run(1..=1)), "nothing of 5 before it");
}

async fn a_reader_that_lags_is_told<K: Kit>() {
    let World { bus, mut events, server: _server } = started::<K>().await;
    bus.subscribe(&stream()).await.expect("subscribed");
    // More than both queues hold; the appender is not held up by a reader that does not read.
    let all = EVENTS as u64 + 600;
    for offset in 1..=all {
        let appended = timeout(patience(), append(&bus, "e1", &run(offset..=offset))).await.expect("not blocked");
        assert_eq!(appended, Appended::Accepted { top: offset });
    }
    let (mut last, mut lost_after) = (0, None);
    while last < all {
        match timeout(patience(), events.recv()).await.expect("an event").expect("a living bus") {
            BusEvent::Lost | BusEvent::Begun { .. } => lost_after = Some(last),
            BusEvent::Word { .. } | BusEvent::Told(_) => {}
            BusEvent::Publications { publications, .. } => {
                let first = publications[0].offset;
                assert!(first == last + 1 || lost_after == Some(last), "{first} after {last} without a word");
                last = publications.last().expect("not empty").offset;
            }
        }
        if last > 0 && lost_after == Some(last) && bus.position(&stream()).await.expect("asked") == Some(at("e1", all))
        {
            // What `Lost` stands for is there to be read.
            let rest = bus.read(&stream(), last, ALL).await.expect("read").expect("known");
            assert!(rest.complete && rest.publications.len() as u64 == all - last);
            break;
        }
    }
    assert!(lost_after.is_some_and(|after| after > 0), "it lagged after {lost_after:?}");
}

async fn one_of_many_appenders_wins<K: Kit>() {
    let bus = Arc::new(started::<K>().await);
    for round in 0..20 {
        let appenders = (0..8).map(|_| {
            let world = Arc::clone(&bus);
            async move { append(&world.bus, "e1", &run(round * 5 + 1..=round * 5 + 5)).await }
        });
        let answers = futures_util::future::join_all(appenders).await;
        let top = round * 5 + 5;
        let won = answers.iter().filter(|a| **a == Appended::Accepted { top }).count();
        let lost = answers.iter().filter(|a| **a == Appended::Duplicate { top }).count();
        assert_eq!((won, lost), (1, 7), "{answers:?}");
    }
    assert_eq!(history(&bus.bus).await, (1..=100).collect::<Vec<_>>());
}
