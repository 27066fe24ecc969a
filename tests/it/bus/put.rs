//! Publishing on conditions: once, only what is newer, not too often, or without being kept.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin::channels::bus::{HistoryLimits, MAX_WORD, MemoryBus, RedisBus};
use dzvin_actors::platform::ports::{
    Across, Bus, BusEvent, ChannelPace, Conditions, Offer, Once, Published, UserPace, Version,
};
use dzvin_protocols::{channels::Position, platform::StreamName};
use futures_util::future::join_all;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::kit::{
    ALL, EVENTS, InCluster, InMemory, InRedis, Kit, World, all, chat, config, hub, hub_of, message, next_run,
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

const LONG: Duration = Duration::from_secs(60);

fn once(key: u8, window: Duration) -> Conditions {
    once_by(1, key, window)
}

fn once_by(publisher: u64, key: u8, window: Duration) -> Conditions {
    Conditions { once: Some(Once { key: [key; 16], window, publisher }), ..Conditions::default() }
}

fn version(number: u64, epoch: &str) -> Conditions {
    Conditions { version: Some(Version { number, epoch: epoch.into() }), ..Conditions::default() }
}

fn pace(per_second: u32, across: Across) -> Conditions {
    Conditions { pace: Some(ChannelPace { per_second, across }), ..Conditions::default() }
}

fn kept(n: u64) -> Offer {
    Offer::Kept(message(n), HistoryLimits::default())
}

async fn put<B: Bus>(bus: &B, stream: &StreamName, n: u64, on: &Conditions) -> Published {
    bus.put(stream, kept(n), on).await.expect("answered")
}

async fn place<B: Bus>(bus: &B, stream: &StreamName, n: u64, on: &Conditions) -> Position {
    match put(bus, stream, n, on).await {
        Published::At(position) => position,
        other => panic!("{other:?}"),
    }
}

async fn count<B: Bus>(bus: &B, stream: &StreamName) -> usize {
    bus.read(stream, 0, ALL).await.expect("read").map_or(0, |slice| slice.publications.len())
}

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
        async move { put(&world.bus, &chat(), n, &once(u8::try_from(n % 2).expect("small"), LONG)).await }
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

/// How many of so many at once are let through.
async fn let_through<B: Bus>(bus: &B, user: &str, pace: UserPace, count: usize) -> usize {
    let asked = join_all((0..count).map(|_| bus.pace_user(user, pace))).await;
    assert!(asked.iter().flatten().all(|wait| !wait.is_zero() && wait.as_secs() < 1), "{asked:?}");
    asked.iter().filter(|wait| wait.is_none()).count()
}

/// At most, when so much time has passed.
fn most(per_second: u32, begun: Instant) -> usize {
    let grown = begun.elapsed().as_millis() * u128::from(per_second) / 1000;
    per_second as usize + usize::try_from(grown).expect("small") + 1
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

/// So many and no more, and what is too many for the keys is published without one.
async fn keys_have_a_limit<B: Bus>(bus: &B, keys: impl Fn() -> i64) {
    let short = Duration::from_secs(2);
    assert_eq!(place(bus, &chat(), 1, &once(1, short)).await.offset, 1);
    assert_eq!(place(bus, &StreamName::from_checked("chat.2"), 1, &once(2, short)).await.offset, 1);
    assert_eq!(keys(), 2);
    assert!(matches!(put(bus, &chat(), 1, &once(3, short)).await, Published::TooMany { .. }));
    assert!(matches!(put(bus, &chat(), 1, &once(1, short)).await, Published::Again(Some(at)) if at.offset == 1));
    assert_eq!(keys(), 2, "what is answered takes no other");
    assert_eq!(place(bus, &chat(), 1, &Conditions::default()).await.offset, 2);
    eventually("there is room again", || async {
        matches!(put(bus, &chat(), 1, &once(3, short)).await, Published::At(_))
    })
    .await;
    assert!(keys() <= 2);
}

#[tokio::test]
async fn keys_have_a_limit_in_memory() {
    let bus = MemoryBus::new(HistoryLimits::default(), mpsc::channel(EVENTS).0).with_keys(2);
    keys_have_a_limit(&bus, || bus.metrics().keys.get()).await;
    assert_eq!(bus.metrics().repeated.get(), 1);
}

#[tokio::test]
async fn keys_have_a_limit_over_redis() {
    let World { server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let mut config = config(&server.url(), HistoryLimits::default());
    config.max_keys = 2;
    let (bus, _events) = hub_of(config).await;
    keys_have_a_limit(&bus, || bus.metrics().keys.get()).await;
}

/// Whoever publishes on very many channels leaves room for others.
async fn a_publisher_has_a_share<B: Bus>(bus: &B, keys: impl Fn() -> i64) {
    let broadcast = async |publisher, key| {
        let mut taken = 0;
        for n in 0..20 {
            let name = StreamName::from_checked(&format!("chat.{publisher}.{n}"));
            match put(bus, &name, 1, &once_by(publisher, key, LONG)).await {
                Published::At(_) => taken += 1,
                Published::TooMany { .. } | Published::Again(_) => {}
                other => panic!("{other:?}"),
            }
        }
        taken
    };
    assert_eq!([broadcast(1, 1).await, broadcast(1, 1).await, broadcast(1, 2).await], [12, 0, 0]);
    assert_eq!([broadcast(2, 1).await, broadcast(3, 1).await], [3, 1], "others have three of four of what is left");
    assert_eq!(keys(), 16);
}

#[tokio::test]
async fn a_publisher_has_a_share_in_memory() {
    let bus = MemoryBus::new(HistoryLimits::default(), mpsc::channel(EVENTS).0).with_keys(16);
    a_publisher_has_a_share(&bus, || bus.metrics().keys.get()).await;
}

async fn with_keys(most: usize) -> (RedisBus, crate::support::redis::Redis) {
    let server = crate::support::redis::Redis::start().await;
    let mut config = config(&server.url(), HistoryLimits::default());
    config.max_keys = most;
    (hub_of(config).await.0, server)
}

#[tokio::test]
async fn a_publisher_has_a_share_over_redis() {
    let (bus, _server) = with_keys(16).await;
    a_publisher_has_a_share(&bus, || bus.metrics().keys.get()).await;
}

/// What one node published another answers, though it may remember nothing more.
#[tokio::test]
async fn a_node_without_room_answers_what_another_published() {
    let (full, server) = with_keys(1).await;
    let (other, _events) = hub(&server.url(), HistoryLimits::default()).await;
    place(&full, &chat(), 1, &once(1, LONG)).await;
    let second = place(&other, &chat(), 2, &once(2, LONG)).await;
    for _ in 0..3 {
        assert_eq!(put(&full, &chat(), 3, &once(2, LONG)).await, Published::Again(Some(second.clone())));
        assert!(matches!(put(&full, &chat(), 3, &once(3, LONG)).await, Published::TooMany { .. }));
    }
    assert_eq!((count(&full, &chat()).await, full.metrics().keys.get()), (2, 1));
}

/// What never left takes no place, and what may have arrived takes one, however often it is tried.
#[tokio::test]
async fn an_outage_takes_no_places() {
    let (bus, mut server) = with_keys(4).await;
    place(&bus, &chat(), 1, &once(1, LONG)).await;
    server.hold(true);
    let stalled = Instant::now();
    bus.put(&chat(), kept(2), &once(2, LONG)).await.expect_err("no answer");
    eventually("the connection is given up", || async { !bus.is_connected() }).await;
    assert!(stalled.elapsed() < patience());
    for key in 2..100 {
        bus.put(&chat(), kept(2), &once(key, LONG)).await.expect_err("not connected");
    }
    assert_eq!(bus.metrics().keys.get(), 2, "the first, and the one that may have arrived");
    server.kill();
    server.restart_empty().await;
    eventually("it is published", || async { bus.put(&chat(), kept(2), &once(2, LONG)).await.is_ok() }).await;
    assert_eq!(bus.metrics().keys.get(), 2);
    place(&bus, &chat(), 3, &once(3, LONG)).await;
}

/// A clock that is set back may not stop what refills with time.
#[tokio::test]
async fn a_clock_that_was_set_back_stops_nothing() {
    let World { bus, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (on, user) = (pace(5, Across::Cluster), UserPace { per_second: 5, across: Across::Cluster });
    place(&bus, &chat(), 1, &on).await;
    assert_eq!(bus.pace_user("olha", user).await, None);
    let keys = server.command(&["KEYS", "{dz:user:*}:pace"]).await.expect("asked");
    let key = keys.split("\r\n").find(|part| part.starts_with('{')).expect("a key");
    let ahead =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_millis() + 3_600_000;
    for key in ["{dz:chat.1}:position", key] {
        server.command(&["HSET", key, "tokens", "-7", "refilled", &ahead.to_string()]).await.expect("set");
        server.command(&["PERSIST", key]).await.expect("set");
    }
    match put(&bus, &chat(), 2, &on).await {
        Published::TooMany { wait } => assert!(wait <= Duration::from_millis(200), "{wait:?}"),
        other => panic!("nothing was left: {other:?}"),
    }
    assert!(bus.pace_user("olha", user).await.is_some_and(|wait| wait <= Duration::from_millis(200)));
    eventually("it refills", || async { matches!(put(&bus, &chat(), 2, &on).await, Published::At(_)) }).await;
    eventually("it refills", || async { bus.pace_user("olha", user).await.is_none() }).await;
}

/// As while the window is being made shorter on one node after the other.
#[tokio::test]
async fn a_shorter_window_cuts_no_longer_promise() {
    let (one, two, server) = two().await;
    let first = place(&one, &chat(), 1, &once(1, LONG)).await;
    place(&two, &chat(), 2, &once(2, Duration::from_millis(100))).await;
    let left = server.command(&["PTTL", "{dz:chat.1}:keys"]).await.expect("asked");
    let left: u64 = left.trim_start_matches(':').trim_end().parse().expect("a number");
    assert!(left > 30_000, "{left} ms are left of a minute");
    eventually("the shorter one ends", || async {
        matches!(put(&two, &chat(), 2, &once(2, Duration::from_millis(100))).await, Published::At(_))
    })
    .await;
    assert_eq!(put(&two, &chat(), 3, &once(1, LONG)).await, Published::Again(Some(first)));
}

/// Counted together while Redis can be asked, and by each node alone while it cannot.
#[tokio::test]
async fn nodes_share_the_pace_of_a_user() {
    let (one, two, mut server) = two().await;
    let cluster = UserPace { per_second: 6, across: Across::Cluster };
    let begun = Instant::now();
    let both = join_all([&one, &two].map(|bus| let_through(bus, "olha", cluster, 30))).await;
    let admitted: usize = both.iter().sum();
    assert!((6..=most(6, begun)).contains(&admitted), "{both:?} of both together");
    assert_eq!((one.metrics().paced_alone.get(), two.metrics().paced_alone.get()), (0, 0));
    assert_eq!((one.metrics().paced_users.get(), two.metrics().paced_users.get()), (1, 1));
    let left = server.command(&["KEYS", "*"]).await.expect("asked");
    assert!(!left.contains("olha"), "{left}");
    eventually("nothing is left of who rests", || async {
        !server.command(&["KEYS", "*"]).await.expect("asked").contains(":pace")
    })
    .await;
    server.kill();
    eventually("it is known to be away", || async { !one.is_connected() && !two.is_connected() }).await;
    for bus in [&one, &two] {
        let begun = Instant::now();
        let admitted = let_through(bus, "ivan", cluster, 30).await;
        assert!((6..=most(6, begun)).contains(&admitted), "{admitted} of one node alone");
        assert!(bus.metrics().paced_alone.get() >= 6, "and that is seen");
    }
}

async fn two() -> (RedisBus, RedisBus, crate::support::redis::Redis) {
    let World { bus, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (other, _events) = hub(&server.url(), HistoryLimits::default()).await;
    (bus, other, server)
}

#[tokio::test]
async fn nodes_share_keys_versions_and_paces() {
    let (one, two, server) = two().await;
    let all = join_all((0..40).map(|n| {
        let bus = if n % 2 == 0 { &one } else { &two };
        async move { put(bus, &chat(), n, &once(1, LONG)).await }
    }))
    .await;
    let published = all.iter().filter(|it| matches!(it, Published::At(_))).count();
    assert_eq!((published, count(&two, &chat()).await), (1, 1), "{all:?}");
    assert_eq!(one.metrics().repeated.get() + two.metrics().repeated.get(), 39);
    place(&one, &chat(), 1, &version(7, "")).await;
    assert!(matches!(put(&two, &chat(), 1, &version(7, "")).await, Published::Older(_)));
    let name = StreamName::from_checked("chat.9");
    let begun = Instant::now();
    let both = join_all([&one, &two].map(|bus| {
        join_all((0..20).map(|n| {
            let name = name.clone();
            async move { put(bus, &name, n, &pace(4, Across::Cluster)).await }
        }))
    }))
    .await;
    let admitted = both.iter().flatten().filter(|it| matches!(it, Published::At(_))).count();
    let most = 4 + usize::try_from(begun.elapsed().as_millis() / 250 + 1).expect("small");
    assert!((4..=most).contains(&admitted), "{admitted} of both together");
    let alone = StreamName::from_checked("chat.10");
    for bus in [&one, &two] {
        for n in 0..4 {
            place(bus, &alone, n, &pace(4, Across::Node)).await;
        }
    }
    assert_eq!(one.metrics().paced.get(), 1);
    // What is remembered ends with its window, though nobody comes any more.
    place(&one, &alone, 1, &once(1, Duration::from_millis(100))).await;
    eventually("the keys are gone", || async {
        server.command(&["EXISTS", "{dz:chat.10}:keys"]).await.expect("asked") == ":0\r\n"
    })
    .await;
}

/// The answer was lost, or late: nobody knows whether it was published, and with its key it may be offered again.
#[tokio::test]
async fn a_publication_whose_answer_was_lost_is_offered_again() {
    let World { bus: near, server, .. } = InRedis::start(HistoryLimits::default()).await;
    let server = server.expect("a server");
    let (proxy, url) = server.proxy().await;
    let (far, _events) = hub(&url, HistoryLimits::default()).await;
    place(&far, &chat(), 0, &once(0, LONG)).await;
    let lost = async || far.put(&chat(), kept(1), &once(1, LONG)).await.expect_err("too late");
    eventually("it is there, and its answer is lost", async || {
        proxy.delay(Duration::ZERO);
        eventually("connected", || async { far.is_connected() }).await;
        // Longer than one command may take, on the way there and back.
        proxy.delay(Duration::from_millis(200));
        lost().await;
        count(&near, &chat()).await == 2
    })
    .await;
    for _ in 0..5 {
        lost().await;
    }
    assert_eq!(far.metrics().keys.get(), 2, "a key that is offered again is counted once");
    proxy.delay(Duration::ZERO);
    let offered =
        eventually("it can be asked again", || async { far.put(&chat(), kept(1), &once(1, LONG)).await.ok() });
    assert!(matches!(offered.await, Published::Again(Some(at)) if at.offset == 2));
    assert_eq!(count(&near, &chat()).await, 2);
}
