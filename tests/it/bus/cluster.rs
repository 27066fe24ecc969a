//! A cluster that changes under live streams: primaries come, and die with and without an heir.

use std::time::Duration;

use dzvin::channels::bus::{HistoryLimits, RedisBus};
use dzvin_actors::platform::ports::{Across, Bus, UserPace};
use dzvin_protocols::{channels::Position, platform::StreamName};
use tokio::{sync::mpsc, time::Instant};

use super::{
    kit::{ALL, EVENTS, config, hub, pair},
    scene::{RETURN, hears, message, publish, scene},
    servers::{Cluster, Server, text},
    slots::{DURABLE, Move, listeners, stream_on},
};
use crate::support::{eventually::eventually, ports::free_port};

#[tokio::test]
async fn a_primary_with_a_replica_fails_over_alone() {
    let mut cluster = Cluster::start(3, 3).await;
    let scene = scene(&cluster.url()).await;
    let home = cluster.owner(DURABLE).await;
    let (here, elsewhere) = (stream_on(&cluster, home).await, stream_on(&cluster, (home + 1) % 3).await);
    let (before, steady) = (publish(&scene.near, &here, 1).await, publish(&scene.near, &elsewhere, 1).await);
    cluster.servers[home].kill();
    scene.commit(20).await;
    scene.follower.reaches(1, 30).await;
    let after = publish(&scene.near, &here, 2).await;
    assert!(after.offset == 1 && after.epoch != before.epoch, "begun anew: {before:?} {after:?}");
    let next = publish(&scene.near, &elsewhere, 2).await;
    assert_eq!((next.epoch, next.offset), (steady.epoch, 2), "the others go on");
    eventually("the other node names it the same", || async {
        scene.far.position(&here).await.is_ok_and(|at| at.as_ref() == Some(&after))
    })
    .await;
    scene.is_whole().await;
    // It comes back as a replica of the one that took over.
    cluster.servers[home].restart().await;
    eventually("it is a replica", || async {
        let info = cluster.servers[home].ask(&["INFO", "replication"]).await;
        info.contains("role:slave") && info.contains("master_link_status:up")
    })
    .await;
    assert_eq!(publish(&scene.far, &here, 3).await.offset, 2);
    scene.is_whole().await;
    scene.ends().await;
}

/// A replica of which something was published that it does not have.
#[tokio::test]
async fn a_replica_that_lags_begins_its_streams_anew() {
    let mut cluster = Cluster::start(3, 3).await;
    let scene = scene(&cluster.url()).await;
    let home = cluster.owner(DURABLE).await;
    let chat = stream_on(&cluster, home).await;
    let known = publish(&scene.near, &chat, 1).await;
    // Full of what it has not read when its primary dies, and then without it: it takes no more from now on.
    let replica = &cluster.servers[home + 3];
    replica.pause(true);
    let seen = publish(&scene.near, &chat, 2).await;
    assert_eq!(seen, Position { epoch: known.epoch.clone(), offset: 2 });
    cluster.servers[home].kill();
    cluster.servers[home + 3].pause(false);
    let after = publish(&scene.far, &chat, 3).await;
    assert!(after.offset == 1 && after.epoch != known.epoch, "{known:?} {after:?}");
    scene.is_whole().await;
    scene.ends().await;
}

#[tokio::test]
async fn while_a_primary_is_away_the_others_go_on() {
    let mut cluster = Cluster::start(3, 0).await;
    let scene = scene(&cluster.url()).await;
    let home = cluster.owner(DURABLE).await;
    let (lost, steady) = (stream_on(&cluster, home).await, stream_on(&cluster, (home + 1) % 3).await);
    let (before, going) = (publish(&scene.near, &lost, 1).await, publish(&scene.near, &steady, 1).await);
    cluster.servers[home].kill();
    let servers = |bus: &RedisBus| (bus.metrics().connected.get(), bus.metrics().servers.get());
    eventually("its end is seen", || async { servers(&scene.near) == (2, 3) && servers(&scene.far) == (2, 3) }).await;
    for n in 2..=50 {
        let position = scene.near.publish(&steady, message(n), &HistoryLimits::default()).await;
        assert_eq!(position.expect("the others take it"), Position { epoch: going.epoch.clone(), offset: n });
    }
    let asked = Instant::now();
    scene.near.publish(&lost, message(2), &HistoryLimits::default()).await.expect_err("nobody has it");
    assert!(asked.elapsed() < Duration::from_millis(250), "nothing waits for it");
    let parts = scene.near.parts(vec![lost.clone(), steady.clone()]);
    assert_eq!(parts.len(), 2, "they fail apart");
    scene.near.positions(&[lost.clone(), steady.clone()]).await.expect_err("not all can be asked");
    assert!(scene.near.positions(std::slice::from_ref(&steady)).await.is_ok());
    // The durable stream lives on the log meanwhile.
    scene.commit(20).await;
    scene.follower.reaches(1, 30).await;
    // A node that begins now has what there is.
    let late = RedisBus::new(config(&cluster.url(), HistoryLimits::default()), mpsc::channel(EVENTS).0);
    eventually("it knows of all, and is connected to two", || async { servers(&late) == (2, 3) }).await;
    assert!(late.is_connected());
    publish(&late, &steady, 51).await;
    drop(late);
    cluster.servers[home].restart().await;
    let back = Instant::now();
    let after = publish(&scene.near, &lost, 3).await;
    assert!(back.elapsed() < RETURN, "took {:?}", back.elapsed());
    assert!(after.offset == 1 && after.epoch != before.epoch, "{before:?} {after:?}");
    scene.is_whole().await;
    scene.ends().await;
}

#[tokio::test]
async fn a_channel_is_asked_for_once_and_only_while_wanted() {
    let cluster = Cluster::shared().await;
    let ((one, _events), (two, _others)) = pair(&cluster).await;
    let name = StreamName::from_checked("only.here");
    let channel = format!("{{dz:{name}}}:events");
    let owner = &cluster.servers[cluster.owner(&channel).await];
    for _ in 0..3 {
        one.subscribe(&name).await.expect("subscribed");
    }
    assert_eq!(listeners(owner, &channel).await, 1, "once for a node, however often it is asked for");
    two.subscribe(&name).await.expect("subscribed");
    assert_eq!(listeners(owner, &channel).await, 2);
    one.unsubscribe(&name).await.expect("unsubscribed");
    eventually("one is gone", || async { listeners(owner, &channel).await == 1 }).await;
    drop(two);
    eventually("none is left", || async { listeners(owner, &channel).await == 0 }).await;
    assert_eq!(text(&owner.ask(&["PUBSUB", "CHANNELS", "{dz:*"]).await), "", "nothing goes over the whole cluster");
}

/// A primary that has nothing yet is followed already; what is moved to it first is not lost.
#[tokio::test]
async fn a_new_primary_takes_its_first_slot() {
    let cluster = Cluster::start(2, 0).await;
    let scene = scene(&cluster.url()).await;
    let bus = free_port().to_string();
    let new =
        Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "800"]).await;
    let mut cluster = cluster;
    cluster.servers[0].ok(&["CLUSTER", "MEET", "127.0.0.1", &new.port.to_string(), &bus]).await;
    cluster.servers.push(new);
    eventually("both nodes follow it", || async {
        scene.near.metrics().connected.get() == 3 && scene.far.metrics().connected.get() == 3
    })
    .await;
    eventually("all know it", || async {
        cluster.servers[2].ask(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok")
    })
    .await;
    let home = cluster.owner(DURABLE).await;
    let moving = Move::begins(&cluster, DURABLE, home, 2).await;
    moving.carries_keys().await;
    scene.commit(20).await;
    moving.ends().await;
    scene.is_whole().await;
    assert_eq!(listeners(&cluster.servers[2], DURABLE).await, 1);
    scene.ends().await;
}

/// A server may end subscriptions without losing the slot: nothing but its count of them tells.
#[tokio::test]
async fn subscriptions_that_a_server_ended_are_made_again() {
    let cluster = Cluster::start(3, 0).await;
    let scene = scene(&cluster.url()).await;
    let home = cluster.owner(DURABLE).await;
    let (slot, id) = (cluster.slot(DURABLE).await.to_string(), cluster.id(home).await);
    for _ in 0..3 {
        cluster.servers[home].ok(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]).await;
        assert_eq!(listeners(&cluster.servers[home], DURABLE).await, 0);
        scene.commit(5).await;
        scene.is_whole().await;
        assert_eq!(listeners(&cluster.servers[home], DURABLE).await, 1);
    }
    let connections = scene.far.metrics().connections.get();
    assert_eq!(connections, 3, "without a new connection");
    scene.ends().await;
}

/// The rights that the manual names, and nothing beyond.
#[tokio::test]
async fn the_rights_of_the_manual_are_enough() {
    const RIGHTS: &str = "~{dz:* &{dz:* -@all +@read +@write +@scripting +@pubsub +@connection +time -@dangerous +info +cluster|nodes +asking";
    let manual = include_str!("../../../docs/OPERATIONS.md");
    assert!(manual.contains(&RIGHTS.replace("dz:", "dzvin:")), "they are the manual's");
    let cluster = Cluster::start(3, 0).await;
    let mut words = vec!["ACL", "SETUSER", "hub", "on", ">one"];
    words.extend(RIGHTS.split(' '));
    for server in &cluster.servers {
        server.ok(&words).await;
        server.ok(&["ACL", "SETUSER", "default", "off"]).await;
    }
    let single = Server::start(&[]).await;
    single.ok(&words).await;
    single.ok(&["ACL", "SETUSER", "default", "off"]).await;
    let with = |url: &str| url.replace("://", "://hub:one@");
    for url in [with(&cluster.url()), format!("redis://hub:one@{}", single.address())] {
        let (bus, mut events) = hub(&url, HistoryLimits::default()).await;
        let chat = StreamName::from_checked("chat.1");
        bus.subscribe(&chat).await.expect("subscribed");
        let at = publish(&bus, &chat, 1).await;
        assert_eq!(bus.open(&chat).await.expect("opened"), at);
        assert_eq!(bus.position(&chat).await.expect("asked"), Some(at.clone()));
        assert!(bus.read(&chat, 0, ALL).await.expect("read").is_some());
        bus.reset(&StreamName::from_checked("entities.plan"), &at).await.expect("reset");
        bus.whisper(&chat, "word".into()).await.expect("said");
        hears(&mut events, b"word").await;
        eventually("it listens", || async { bus.tell(Some(bus.node()), "me".into()).await.expect("told") }).await;
        assert_eq!(bus.nodes().await.expect("asked").len(), 1);
        let pace = UserPace { per_second: 1, across: Across::Cluster };
        assert_eq!((bus.pace_user("olha", pace).await, bus.metrics().paced_alone.get()), (None, 0));
        bus.unsubscribe(&chat).await.expect("unsubscribed");
    }
}
