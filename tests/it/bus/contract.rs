//! What every bus promises.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin::channels::bus::{HistoryLimits, MAX_WORD, RedisBus};
use dzvin_actors::platform::ports::{Appended, Bus, BusEvent, ReadLimit};
use dzvin_protocols::{
    channels::{Extra, Message, Position, Publication},
    platform::{EntityId, StreamName},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::kit::{
    ALL, EVENTS, InCluster, InMemory, InRedis, Kit, World, at, epoch, hub, next_run, publication, run, stream,
};
use crate::support::eventually::{eventually, patience};

macro_rules! all {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise::<super::InMemory>().await; })* }
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise::<super::InRedis>().await; })* }
        mod cluster { $(#[tokio::test] async fn $promise() { super::$promise::<super::InCluster>().await; })* }
    };
}

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
    streams_do_not_touch_each_other,
    an_application_stream_counts_by_itself,
    tops_of_many_are_asked_at_once,
    many_publishers_get_offsets_of_their_own,
    a_word_reaches_who_listens,
    a_word_to_a_node_reaches_it,
    a_node_is_alive_from_the_start,
    a_word_has_a_limit,
);

async fn started<K: Kit>() -> World<K::Bus, K::Server> {
    let world = K::start(HistoryLimits::default()).await;
    world.bus.reset(&stream(), &at("e1", 0)).await.expect("reset");
    world
}

async fn append<B: Bus>(bus: &B, epoch_name: &str, run: &[Publication]) -> Appended {
    bus.append(&stream(), &epoch(epoch_name), run).await.expect("appended")
}

async fn history<B: Bus>(bus: &B) -> Vec<u64> {
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    slice.publications.iter().map(|p| p.offset).collect()
}

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

#[tokio::test]
async fn two_hubs_share_a_stream() {
    let World { bus: one, server, .. } = started::<InRedis>().await;
    let server = server.expect("a server");
    let (two, mut events) = hub(&server.url(), HistoryLimits::default()).await;
    two.subscribe(&stream()).await.expect("subscribed");
    append(&one, "e1", &run(1..=2)).await;
    assert_eq!(append(&two, "e1", &run(3..=3)).await, Appended::Accepted { top: 3 });
    assert_eq!(next_run(&mut events).await.2, run(1..=2));
    assert_eq!(next_run(&mut events).await.2, run(3..=3));
    assert_eq!(history(&one).await, [1, 2, 3]);
    // A reset has no publications to tell of; the others are asked to look.
    one.reset(&stream(), &at("e2", 7)).await.expect("reset");
    let event = timeout(patience(), events.recv()).await.expect("an event");
    assert!(matches!(event, Some(BusEvent::Lost | BusEvent::Begun { .. })), "{event:?}");
}

#[tokio::test]
async fn a_forgotten_script_is_sent_again() {
    let World { bus, server, .. } = started::<InRedis>().await;
    let server = server.expect("a server");
    server.command(&["SCRIPT", "FLUSH"]).await.expect("flushed");
    assert_eq!(append(&bus, "e1", &run(1..=1)).await, Appended::Accepted { top: 1 });
    assert_eq!(history(&bus).await, [1]);
}

#[tokio::test]
async fn rubbish_in_redis_is_cut_off_and_counted() {
    let World { bus, server, .. } = started::<InRedis>().await;
    let server = server.expect("a server");
    append(&bus, "e1", &run(1..=5)).await;
    server.command(&["LSET", "{dz:entities.tender}:history", "2", "9999999999999\nrubbish"]).await.expect("set");
    let slice = bus.read(&stream(), 0, ALL).await.expect("read").expect("known");
    assert!(!slice.complete);
    assert_eq!(slice.publications, run(4..=5));
    assert_eq!(bus.metrics().malformed.get(), 1);
    let after = bus.read(&stream(), 3, ALL).await.expect("read").expect("known");
    assert!(after.complete, "the line behind it moves on");
}

#[tokio::test]
async fn subscribed_means_that_the_server_has_taken_it() {
    let World { bus: near, server, .. } = started::<InRedis>().await;
    let server = server.expect("a server");
    let (proxy, url) = server.proxy().await;
    let (far, mut events) = hub(&url, HistoryLimits::default()).await;
    proxy.delay(Duration::from_millis(20));
    for offset in 1..=5 {
        far.subscribe(&stream()).await.expect("subscribed");
        append(&near, "e1", &run(offset..=offset)).await;
        assert_eq!(next_run(&mut events).await.2, run(offset..=offset));
        far.unsubscribe(&stream()).await.expect("unsubscribed");
    }
}

#[tokio::test]
async fn every_new_connection_is_told() {
    let World { server, .. } = started::<InRedis>().await;
    let server = server.expect("a server");
    let (proxy, url) = server.proxy().await;
    let (bus, mut events) = hub(&url, HistoryLimits::default()).await;
    for connection in 1..=4 {
        let event = timeout(patience(), events.recv()).await.expect("an event");
        assert!(matches!(event, Some(BusEvent::Lost)), "{event:?}");
        assert_eq!(bus.metrics().connections.get(), connection);
        // An error is a wish that stands.
        proxy.cut();
        let _ = bus.subscribe(&stream()).await;
    }
    eventually("connected", || async { bus.position(&stream()).await.is_ok() }).await;
    append(&bus, "e1", &run(1..=1)).await;
    assert_eq!(next_run(&mut events).await.2, run(1..=1));
}

/// The next word of either kind; what else comes is passed over.
async fn next_word(events: &mut mpsc::Receiver<BusEvent>) -> BusEvent {
    loop {
        let event = timeout(patience(), events.recv()).await.expect("a word").expect("a living bus");
        if matches!(event, BusEvent::Word { .. } | BusEvent::Told(_)) {
            return event;
        }
    }
}

async fn a_word_reaches_who_listens<K: Kit>() {
    let World { bus, mut events, server: _server } = started::<K>().await;
    bus.whisper(&stream(), Bytes::from_static(b"nobody listens")).await.expect("said");
    bus.subscribe(&stream()).await.expect("subscribed");
    // What looks like an event, what is nothing at all, and what ends the longest.
    for word in [&b"e1\n\0\0\0\x05"[..], b"", b"\x01\x01\n", &[0xff; MAX_WORD]] {
        bus.whisper(&stream(), Bytes::copy_from_slice(word)).await.expect("said");
        let heard = next_word(&mut events).await;
        assert!(
            matches!(&heard, BusEvent::Word { stream: of, word: said } if *of == stream() && *said == word),
            "{heard:?}"
        );
    }
    bus.unsubscribe(&stream()).await.expect("unsubscribed");
    bus.whisper(&stream(), Bytes::from_static(b"nobody listens any more")).await.expect("said");
    bus.tell(None, Bytes::from_static(b"the end")).await.expect("told");
    assert!(matches!(next_word(&mut events).await, BusEvent::Told(word) if word == "the end"), "nothing before it");
    assert_eq!(bus.position(&stream()).await.expect("asked"), Some(at("e1", 0)), "no word is a publication");
}

async fn a_word_to_a_node_reaches_it<K: Kit>() {
    let World { bus, mut events, server: _server } = K::start(HistoryLimits::default()).await;
    eventually("it listens", || async { bus.tell(Some(bus.node()), Bytes::new()).await.expect("told") }).await;
    assert!(bus.tell(Some(bus.node()), Bytes::from_static(b"to me")).await.expect("told"));
    assert!(bus.tell(None, Bytes::from_static(b"to all")).await.expect("told"));
    for nobody in ["", "0123456789abcdef0123456789abcdef", "all", "*", "a\n}{\0"] {
        assert!(!bus.tell(Some(nobody), Bytes::from_static(b"to nobody")).await.expect("told"), "{nobody:?}");
    }
    assert!(bus.tell(Some(bus.node()), Bytes::from_static(b"the end")).await.expect("told"));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "the end") {
        if let BusEvent::Told(word) = next_word(&mut events).await
            && !word.is_empty()
        {
            heard.push(word);
        }
    }
    assert_eq!(heard, ["to me", "to all", "the end"]);
}

async fn a_node_is_alive_from_the_start<K: Kit>() {
    let world = K::start(HistoryLimits::default()).await;
    assert_eq!(world.bus.nodes().await.expect("asked"), [Arc::from(world.bus.node())]);
}

async fn a_word_has_a_limit<K: Kit>() {
    let world = K::start(HistoryLimits::default()).await;
    let long = Bytes::from(vec![b'x'; MAX_WORD + 1]);
    world.bus.whisper(&stream(), long.clone()).await.expect_err("too long");
    world.bus.tell(None, long).await.expect_err("too long");
}

#[tokio::test]
async fn nodes_hear_one_another_and_see_one_die() {
    let World { bus: one, events: mut first, server } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (two, mut second) = hub(&server.url(), HistoryLimits::default()).await;
    let mut both = [Arc::<str>::from(one.node()), Arc::from(two.node())];
    both.sort_unstable();
    let sorted = async |bus: &RedisBus| {
        let mut nodes = bus.nodes().await.expect("asked");
        nodes.sort_unstable();
        nodes
    };
    assert_eq!(sorted(&one).await, both);
    eventually("it listens", || async { one.tell(Some(two.node()), "hello".into()).await.expect("told") }).await;
    assert!(matches!(next_word(&mut second).await, BusEvent::Told(word) if word == "hello"));
    eventually("both listen", || async { two.tell(Some(one.node()), "ready".into()).await.expect("told") }).await;
    assert!(matches!(next_word(&mut first).await, BusEvent::Told(word) if word == "ready"));
    assert!(one.tell(None, "all".into()).await.expect("told"));
    for events in [&mut first, &mut second] {
        assert!(matches!(next_word(events).await, BusEvent::Told(word) if word == "all"));
    }
    // Alive for longer than a lease, for it says so again and again.
    let begun = Instant::now();
    eventually("a lease passes", || async {
        assert_eq!(sorted(&one).await, both);
        begun.elapsed() > one.config().lease * 2
    })
    .await;
    let dead = two.node().to_owned();
    let begun = Instant::now();
    drop(two);
    eventually("the dead is missing", || async { one.nodes().await.expect("asked") == [Arc::from(one.node())] }).await;
    assert!(begun.elapsed() < one.config().lease * 2, "within its lease");
    assert!(!one.tell(Some(&dead), "hello?".into()).await.expect("told"));
    let remembered = server.command(&["ZSCORE", "{dz:nodes}:alive", &dead]).await.expect("asked");
    assert!(remembered.starts_with('$') && !remembered.starts_with("$-1"), "it is still to be found: {remembered}");
}

/// Alive by its lease, and with no ear: who asks is not told that the word arrived.
#[tokio::test]
async fn a_node_that_is_cut_off_is_not_told() {
    let World { bus: one, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (proxy, url) = server.proxy().await;
    let (two, _events) = hub(&url, HistoryLimits::default()).await;
    eventually("it listens", || async { one.tell(Some(two.node()), "hello".into()).await.expect("told") }).await;
    proxy.refuse(true);
    proxy.cut();
    eventually("the cut is seen", || async { !one.tell(Some(two.node()), "hello?".into()).await.expect("told") }).await;
    proxy.refuse(false);
    eventually("it comes back", || async { one.tell(Some(two.node()), "hello!".into()).await.expect("told") }).await;
}

#[tokio::test]
async fn a_channel_is_asked_for_once_and_only_while_wanted() {
    let World { bus, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (two, _events) = hub(&server.url(), HistoryLimits::default()).await;
    let listeners = async || server.command(&["PUBSUB", "NUMSUB", "{dz:entities.tender}:events"]).await.expect("asked");
    let count = |n: u32| format!("*2\r\n$27\r\n{{dz:entities.tender}}:events\r\n:{n}\r\n");
    assert_eq!(listeners().await, count(0));
    for _ in 0..3 {
        bus.subscribe(&stream()).await.expect("subscribed");
    }
    assert_eq!(listeners().await, count(1), "once for a node, however often it is asked for");
    two.subscribe(&stream()).await.expect("subscribed");
    assert_eq!(listeners().await, count(2));
    bus.unsubscribe(&stream()).await.expect("unsubscribed");
    eventually("one is gone", || async { listeners().await == count(1) }).await;
    drop(two);
    eventually("none is left", || async { listeners().await == count(0) }).await;
}

fn chat() -> StreamName {
    StreamName::from_checked("chat.1")
}

fn message(n: u64) -> Message {
    let tags = BTreeMap::from([("n".to_owned(), n.to_string())]).try_into().expect("tags");
    let data = format!("{{\"n\":{n},\"ї\":\"\\n\"}}").into_bytes().into();
    Message { data, at: 5, trace: None, extra: Some(Arc::new(Extra { tags, info: None })) }
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
