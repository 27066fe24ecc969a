//! What publishing on conditions makes a node and Redis remember: its limits, what nodes share of it, and what an outage does to it.

use std::time::Duration;

use dzvin::channels::bus::{HistoryLimits, MemoryBus, RedisBus};
use dzvin_actors::platform::ports::{Across, Bus, Conditions, Published, UserPace};
use dzvin_protocols::platform::StreamName;
use futures_util::future::join_all;
use tokio::{sync::mpsc, time::Instant};

use super::{
    kit::{EVENTS, InRedis, Kit, World, chat, config, far, hub, hub_of},
    offers::{LONG, count, kept, let_through, most, once, once_by, pace, place, put, version},
};
use crate::support::{
    eventually::{eventually, patience},
    redis::Redis,
};

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

async fn with_keys(most: usize) -> (RedisBus, Redis) {
    let server = Redis::start().await;
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

async fn two() -> (RedisBus, RedisBus, Redis) {
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
    let (proxy, far, _events) = far(&server, HistoryLimits::default()).await;
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
