//! What every bus promises of words beside the streams, and of the nodes that say them.

use std::sync::Arc;

use bytes::Bytes;
use dzvin::channels::bus::{HistoryLimits, MAX_WORD, RedisBus};
use dzvin_actors::platform::ports::{Bus, BusEvent};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::kit::{InCluster, InMemory, InRedis, Kit, World, all, at, far, hub, started, stream};
use crate::support::eventually::{eventually, patience};

all!(a_word_reaches_who_listens, a_word_to_a_node_reaches_it, a_node_is_alive_from_the_start, a_word_has_a_limit,);

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
    let (proxy, two, _events) = far(&server, HistoryLimits::default()).await;
    eventually("it listens", || async { one.tell(Some(two.node()), "hello".into()).await.expect("told") }).await;
    proxy.refuse(true);
    proxy.cut();
    eventually("the cut is seen", || async { !one.tell(Some(two.node()), "hello?".into()).await.expect("told") }).await;
    proxy.refuse(false);
    eventually("it comes back", || async { one.tell(Some(two.node()), "hello!".into()).await.expect("told") }).await;
}
