//! What a bus promises over Redis alone: several hubs, connections that break, scripts that are forgotten.

use std::time::Duration;

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::{Appended, Bus, BusEvent};
use tokio::time::timeout;

use super::kit::{ALL, InRedis, Kit, World, append, at, far, history, hub, next_run, run, started, stream};
use crate::support::eventually::{eventually, patience};

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
    let (proxy, far, mut events) = far(&server, HistoryLimits::default()).await;
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
    let (proxy, bus, mut events) = far(&server, HistoryLimits::default()).await;
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
