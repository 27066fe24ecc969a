//! Publishing on conditions: once, only what is newer, not too often, or without being kept. What every bus promises of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin::channels::bus::{HistoryLimits, MAX_WORD};
use dzvin_actors::platform::ports::{Across, Bus, BusEvent, Conditions, Offer, Published, UserPace};
use dzvin_protocols::{channels::Position, platform::StreamName};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::{
    kit::{ALL, InCluster, InMemory, InRedis, Kit, World, all, chat, message, next_run},
    offers::{LONG, count, let_through, most, once, pace, place, put, version},
};
use crate::support::eventually::{eventually, patience};

all!(
    the_same_key_is_published_once,
    of_many_at_once_one_is_published,
    a_key_is_forgotten_after_its_window,
    what_is_not_newer_is_left_out,
    a_channel_has_its_pace,
    what_was_published_is_answered_whatever_the_pace_says,
    a_user_has_a_pace,
    what_nothing_keeps_is_told,
    what_is_forgotten_leaves_its_position,
);

async fn the_same_key_is_published_once<K: Kit>() {
    let World { bus, mut events, server: _server } = K::start(HistoryLimits::default()).await;
    bus.subscribe(&chat()).await.expect("subscribed");
    let first = place(&bus, &chat(), 1, &once(7, LONG)).await;
    assert_eq!(first.offset, 1);
    let second = place(&bus, &chat(), 2, &once(8, LONG)).await;
    for n in 3..6 {
        assert_eq!(put(&bus, &chat(), n, &once(7, LONG)).await, Published::Again(Some(first.clone())));
        assert_eq!(put(&bus, &chat(), n, &once(8, LONG)).await, Published::Again(Some(second.clone())));
    }
    let other = StreamName::from_checked("chat.2");
    assert_eq!(place(&bus, &other, 1, &once(7, LONG)).await.offset, 1, "a key is of one channel");
    assert_eq!(place(&bus, &chat(), 9, &Conditions::default()).await.offset, 3);
    assert_eq!((count(&bus, &chat()).await, count(&bus, &other).await), (3, 1));
    let mut heard = Vec::new();
    while heard.last() != Some(&3) {
        heard.extend(next_run(&mut events).await.2.iter().map(|it| it.offset));
    }
    assert_eq!(heard, [1, 2, 3], "and told once");
}

async fn of_many_at_once_one_is_published<K: Kit>() {
    let world = Arc::new(K::start(HistoryLimits::default()).await);
    let putting = (0..50).map(|n| {
        let world = Arc::clone(&world);
        async move { put(&world.bus, &chat(), n, &once(n % 2, LONG)).await }
    });
    let all = join_all(putting).await;
    let published = all.iter().filter(|it| matches!(it, Published::At(_))).count();
    let offsets: std::collections::BTreeSet<_> =
        all.iter().filter_map(|it| it.position().map(|at| at.offset)).collect();
    assert_eq!((published, offsets.len(), count(&world.bus, &chat()).await), (2, 2, 2), "{all:?}");
}

async fn a_key_is_forgotten_after_its_window<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    let short = Duration::from_millis(150);
    place(&bus, &chat(), 0, &once(1, short)).await;
    // One that lives longer behind it, so that what holds them does not end by itself.
    place(&bus, &chat(), 0, &once(2, LONG)).await;
    eventually("it is forgotten", || async {
        matches!(put(&bus, &chat(), 0, &once(1, short)).await, Published::At(_))
    })
    .await;
    assert!(matches!(put(&bus, &chat(), 0, &once(2, LONG)).await, Published::Again(Some(at)) if at.offset == 2));
}

async fn what_is_not_newer_is_left_out<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    // Above what a double counts exactly.
    let large = 1 << 60;
    let begun = place(&bus, &chat(), 1, &version(large + 1, "")).await;
    let older = |offset| Published::Older(Position { epoch: begun.epoch.clone(), offset });
    for number in [1, large, large + 1] {
        assert_eq!(put(&bus, &chat(), 2, &version(number, "")).await, older(1), "{number}");
    }
    assert_eq!(place(&bus, &chat(), 2, &version(large + 2, "")).await.offset, 2);
    assert_eq!(place(&bus, &chat(), 3, &Conditions::default()).await.offset, 3, "what has no version is always new");
    assert_eq!(place(&bus, &chat(), 4, &version(5, "b")).await.offset, 4, "another epoch");
    assert_eq!(put(&bus, &chat(), 5, &version(5, "b")).await, older(4));
    assert_eq!(put(&bus, &chat(), 5, &version(5, "")).await, older(4), "that of the last");
    assert_eq!(place(&bus, &chat(), 5, &version(6, "")).await.offset, 5);
    assert_eq!(put(&bus, &chat(), 6, &version(6, "b")).await, older(5));
    // A key remembers that answer as well, whatever comes between.
    let both = |number| Conditions { once: once(3, LONG).once, ..version(number, "b") };
    assert_eq!(put(&bus, &chat(), 6, &both(6)).await, older(5));
    assert_eq!(put(&bus, &chat(), 6, &both(7)).await, Published::Again(Some(Position { offset: 5, ..begun.clone() })));
    assert_eq!(count(&bus, &chat()).await, 5);
    let most = place(&bus, &StreamName::from_checked("chat.2"), 1, &version(u64::MAX, "b")).await;
    assert_eq!(most.offset, 1);
}

async fn a_channel_has_its_pace<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    for (across, first) in [(Across::Cluster, "chat.3"), (Across::Node, "chat.5")] {
        let (one, two) = (StreamName::from_checked(first), StreamName::from_checked(&format!("{first}.b")));
        // One a second: a test that is slow has more of them.
        let begun = Instant::now();
        let all = join_all((0..20).map(|_| async { put(&bus, &one, 1, &pace(2, across)).await })).await;
        let most = 2 + usize::try_from(begun.elapsed().as_secs() * 2 + 2).expect("small");
        let published = all.iter().filter(|it| matches!(it, Published::At(_))).count();
        assert!((2..=most).contains(&published), "{across:?} {published} of {all:?}");
        let waits = all.iter().filter_map(|it| match it {
            Published::TooMany { wait } => Some(*wait),
            _ => None,
        });
        let least = Duration::from_millis(1);
        assert!(waits.clone().count() + published == 20 && waits.clone().all(|it| it >= least && it.as_secs() < 1));
        assert_eq!(count(&bus, &one).await, published, "what is refused is not there");
        place(&bus, &two, 1, &pace(2, across)).await;
        eventually("time gives it back", || async {
            matches!(put(&bus, &one, 1, &pace(2, across)).await, Published::At(_))
        })
        .await;
    }
    // What was published before is answered, and does not count.
    let name = StreamName::from_checked("chat.4");
    let on = Conditions { once: once(1, LONG).once, ..pace(1, Across::Cluster) };
    let first = place(&bus, &name, 1, &on).await;
    for _ in 0..5 {
        assert_eq!(put(&bus, &name, 1, &on).await, Published::Again(Some(first.clone())));
    }
}

/// What is not new uses nothing up, and is answered when nothing is left.
async fn what_was_published_is_answered_whatever_the_pace_says<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    for (across, name) in [(Across::Cluster, "chat.6"), (Across::Node, "chat.7")] {
        let name = StreamName::from_checked(name);
        // One in a hundred seconds would be a fraction; two a second of which a slow machine gets some back.
        let keyed = |key| Conditions { once: once(key, LONG).once, ..pace(2, across) };
        let numbered = |number| Conditions { version: version(number, "").version, ..pace(2, across) };
        let first = place(&bus, &name, 1, &keyed(1)).await;
        for n in 0..20 {
            assert_eq!(put(&bus, &name, n, &keyed(1)).await, Published::Again(Some(first.clone())), "{across:?}");
        }
        let second = place(&bus, &name, 2, &numbered(5)).await;
        for n in 0..20 {
            assert_eq!(put(&bus, &name, n, &numbered(5)).await, Published::Older(second.clone()), "{across:?}");
        }
        eventually("all is used up", || async {
            matches!(put(&bus, &name, 3, &pace(2, across)).await, Published::TooMany { .. })
        })
        .await;
        let count = count(&bus, &name).await;
        assert_eq!(put(&bus, &name, 4, &keyed(1)).await, Published::Again(Some(first)), "{across:?}");
        assert!(matches!(put(&bus, &name, 4, &numbered(4)).await, Published::Older(at) if at.offset == count as u64));
        let word = bus.put(&name, Offer::Passing("word".into()), &keyed(1)).await.expect("answered");
        assert!(matches!(word, Published::Again(Some(_))), "{word:?}");
    }
    // Nor does a channel begin for what is too early.
    let name = StreamName::from_checked("chat.8");
    let of_nobody = Conditions { once: once(1, LONG).once, ..pace(1, Across::Node) };
    let told = bus.put(&name, Offer::Passing("word".into()), &of_nobody).await.expect("answered");
    assert_eq!(told, Published::Told);
    let begins = Conditions { once: once(2, LONG).once, ..pace(1, Across::Node) };
    if matches!(put(&bus, &name, 1, &begins).await, Published::TooMany { .. }) {
        assert_eq!(bus.position(&name).await.expect("asked"), None);
    }
}

async fn a_user_has_a_pace<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    for across in [Across::Cluster, Across::Node] {
        let pace = UserPace { per_second: 4, across };
        let long = format!("{across:?} {}", "ї".repeat(10_000));
        for user in ["olha", "a b}{\0\r\n", &long] {
            let user = format!("{user} {across:?}");
            let begun = Instant::now();
            let admitted = let_through(&bus, &user, pace, 20).await;
            assert!((4..=most(4, begun)).contains(&admitted), "{admitted} {across:?}");
            eventually("time gives it back", || async { bus.pace_user(&user, pace).await.is_none() }).await;
        }
        assert_eq!(bus.pace_user("ivan", pace).await, None);
    }
}

async fn what_nothing_keeps_is_told<K: Kit>() {
    let World { bus, mut events, server: _server } = K::start(HistoryLimits::default()).await;
    let tell = async |word: &'static [u8], on: &Conditions| {
        bus.put(&chat(), Offer::Passing(Bytes::from_static(word)), on).await.expect("answered")
    };
    assert_eq!(tell(b"nobody listens", &once(1, LONG)).await, Published::Told);
    assert_eq!(bus.position(&chat()).await.expect("asked"), None, "it begins no stream");
    bus.subscribe(&chat()).await.expect("subscribed");
    let begun = bus.open(&chat()).await.expect("opened");
    assert_eq!(tell(b"nobody listens", &once(1, LONG)).await, Published::Again(None));
    assert_eq!(tell(b"heard", &once(2, LONG)).await, Published::Told);
    let on = pace(1, Across::Cluster);
    assert_eq!(tell(b"the end", &on).await, Published::Told);
    assert!(matches!(tell(b"one too many", &on).await, Published::TooMany { .. }));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|last| last != "the end") {
        match timeout(patience(), events.recv()).await.expect("a word").expect("a living bus") {
            BusEvent::Word { stream, word } if stream == chat() => heard.push(word),
            BusEvent::Publications { .. } => panic!("it has no offset"),
            _ => {}
        }
    }
    assert_eq!(heard, ["heard", "the end"]);
    assert_eq!(bus.position(&chat()).await.expect("asked"), Some(begun));
    let long = Offer::Passing(vec![b'x'; MAX_WORD + 1].into());
    bus.put(&chat(), long, &Conditions::default()).await.expect_err("too long");
}

async fn what_is_forgotten_leaves_its_position<K: Kit>() {
    let World { bus, server: _server, .. } = K::start(HistoryLimits::default()).await;
    bus.forget(&chat()).await.expect("nothing to forget");
    assert_eq!(bus.position(&chat()).await.expect("asked"), None);
    for n in 1..=3 {
        place(&bus, &chat(), n, &version(n, "")).await;
    }
    let top = bus.position(&chat()).await.expect("asked").expect("known");
    bus.forget(&chat()).await.expect("forgotten");
    assert_eq!(bus.position(&chat()).await.expect("asked"), Some(top.clone()));
    let read = async |after| bus.read(&chat(), after, ALL).await.expect("read").expect("known");
    assert_eq!((read(0).await.publications.len(), read(0).await.complete), (0, false), "the past is gone");
    assert!(!read(2).await.complete && read(3).await.complete, "who has everything has lost nothing");
    assert!(matches!(put(&bus, &chat(), 3, &version(3, "")).await, Published::Older(_)), "it is known what was there");
    let keep = HistoryLimits { bytes: 400, ..HistoryLimits::default() };
    for n in 4..=5 {
        let at = bus.publish(&chat(), message(n), &keep).await.expect("published");
        assert_eq!(at, Position { offset: n, ..top.clone() });
    }
    let after = read(3).await;
    assert_eq!((after.publications.len(), after.complete), (2, true), "the bytes of what is gone are not counted");
}
