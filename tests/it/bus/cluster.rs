//! A cluster that changes under live streams: slots are moved, primaries die with and without an heir.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dzvin::channels::bus::{HistoryLimits, RedisBus};
use dzvin_actors::platform::ports::{Across, Bus, BusEvent, ChannelPace, Conditions, Offer, Once, Published, UserPace};
use dzvin_protocols::{channels::Position, platform::StreamName};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    kit::{ALL, EVENTS, config, hub, hub_of},
    scene::{RETURN, hears, message, publish, scene},
    servers::{Cluster, Server, text},
};
use crate::support::eventually::{eventually, patience};

/// Between two publications, so that the history holds them all.
const PACE: Duration = Duration::from_millis(1);

const DURABLE: &str = "{dz:entities.tender}:events";

fn key(name: &StreamName) -> String {
    format!("{{dz:{name}}}:position")
}

/// An application's stream that this server has.
async fn stream_on(cluster: &Cluster, owner: usize) -> StreamName {
    for n in 0.. {
        let name = StreamName::from_checked(&format!("chat.{n}"));
        if cluster.owner(&key(&name)).await == owner {
            return name;
        }
    }
    unreachable!("every server has some")
}

async fn listeners(server: &Server, channel: &str) -> u64 {
    let answer = server.ask(&["PUBSUB", "SHARDNUMSUB", channel]).await;
    answer.trim_end().rsplit_once(':').and_then(|(_, n)| n.parse().ok()).expect("a number")
}

/// A slot on its way from one server to another.
struct Move<'a> {
    cluster: &'a Cluster,
    slot: String,
    from: &'a Server,
    to: &'a Server,
    ids: [String; 2],
}

impl<'a> Move<'a> {
    async fn begins(cluster: &'a Cluster, key: &str, from: usize, to: usize) -> Self {
        let (slot, ids) = (cluster.slot(key).await.to_string(), [cluster.id(from).await, cluster.id(to).await]);
        let (from, to) = (&cluster.servers[from], &cluster.servers[to]);
        to.ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]]).await;
        from.ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]]).await;
        Self { cluster, slot, from, to, ids }
    }

    async fn carries_keys(&self) {
        loop {
            let keys = self.from.ask(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).await;
            let keys: Vec<&str> = keys.split("\r\n").filter(|part| part.starts_with('{')).collect();
            if keys.is_empty() {
                return;
            }
            let port = self.to.port.to_string();
            let command = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            self.from.ask(&[command.as_slice(), &keys].concat()).await;
        }
    }

    async fn ends(self) {
        self.to.ok(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        self.from.ok(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        // Told to all, as tools do. The new owner hears it for the second time, and ends all subscriptions to it once more.
        for server in &self.cluster.servers {
            let _ = server.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.ids[1]]).await;
        }
    }
}

/// Publishes one after the other until it is stopped, and says where each went.
struct Publishing(JoinHandle<()>, mpsc::UnboundedReceiver<Position>);

impl Publishing {
    fn begins(bus: &Arc<RedisBus>, name: &StreamName) -> Self {
        let (bus, name, (sender, positions)) = (Arc::clone(bus), name.clone(), mpsc::unbounded_channel());
        let task = tokio::spawn(async move {
            for n in 1.. {
                if let Ok(position) = bus.publish(&name, message(n), &HistoryLimits::default()).await {
                    let _ = sender.send(position);
                }
                tokio::time::sleep(PACE).await;
            }
        });
        Self(task, positions)
    }

    async fn comes_to(&mut self, count: u64) {
        while self.1.recv().await.expect("it goes on").offset < count {}
    }

    /// Where the last went; all in one epoch, one after the other but for what was published and not answered.
    async fn ends(mut self, first: &Position) -> Position {
        self.0.abort();
        let mut last = first.clone();
        while let Some(position) = self.1.recv().await {
            assert!(position.epoch == last.epoch && position.offset > last.offset, "{last:?} {position:?}");
            last = position;
        }
        last
    }
}

#[tokio::test]
async fn a_slot_that_is_moved_takes_its_streams_along() {
    let cluster = Cluster::start(3, 0).await;
    let scene = scene(&cluster.url()).await;
    let home = cluster.owner(DURABLE).await;
    let (to, stream) = ((home + 1) % 3, StreamName::from_checked("entities.tender"));
    let chat = stream_on(&cluster, home).await;
    let first = publish(&scene.near, &chat, 0).await;
    scene.far.subscribe(&chat).await.expect("subscribed");
    let mut publishing = Publishing::begins(&scene.near, &chat);
    publishing.comes_to(50).await;
    for key in [key(&stream), key(&chat)] {
        let moving = Move::begins(&cluster, &key, home, to).await;
        scene.commit(20).await;
        // Ahead of its slot: who listens is still at the old place.
        moving.carries_keys().await;
        scene.commit(20).await;
        let top = scene.log.top("tender").offset;
        scene.follower.reaches(1, top).await;
        moving.ends().await;
        scene.commit(20).await;
    }
    scene.is_whole().await;
    eventually("each node listens at the new place, once", || async {
        listeners(&cluster.servers[to], DURABLE).await == 1 && listeners(&cluster.servers[home], DURABLE).await == 0
    })
    .await;
    eventually("publications go on", || async {
        scene.near.position(&chat).await.is_ok_and(|at| at.is_some_and(|at| at.offset > 100))
    })
    .await;
    let last = publishing.ends(&first).await;
    eventually("the other node knows the same", || async {
        scene
            .far
            .position(&chat)
            .await
            .is_ok_and(|at| at.is_some_and(|at| at.epoch == first.epoch && at.offset >= last.offset))
    })
    .await;
    let all = scene.far.read(&chat, 0, ALL).await.expect("read").expect("known");
    assert!(all.complete, "nothing was lost on the way");
    assert_eq!(all.publications.len() as u64, all.position.offset);
    // From now on it is the new primary's: the end of the old one takes nothing with it.
    eventually("it has been taken over", || async {
        let _ = scene.far.positions(std::slice::from_ref(&chat)).await;
        cluster.servers[to].ask(&["HGET", &key(&chat), "keeper"]).await.starts_with("$8")
    })
    .await;
    scene.ends().await;
}

#[tokio::test]
async fn words_arrive_after_their_slot_was_moved() {
    let cluster = Cluster::start(3, 0).await;
    let (one, _events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let (two, mut events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let chat = StreamName::from_checked("chat.1");
    two.subscribe(&chat).await.expect("subscribed");
    one.whisper(&chat, "before".into()).await.expect("said");
    hears(&mut events, b"before").await;
    let nodes = "{dz:nodes}:alive";
    for key in [key(&chat).as_str(), nodes] {
        let home = cluster.owner(key).await;
        let moving = Move::begins(&cluster, key, home, (home + 1) % 3).await;
        moving.carries_keys().await;
        moving.ends().await;
    }
    eventually("said where it is heard", async || {
        one.whisper(&chat, "after".into()).await.expect("said");
        tokio::time::timeout(Duration::from_millis(50), hears(&mut events, b"after")).await.is_ok()
    })
    .await;
    eventually("told where it is heard", || async { one.tell(Some(two.node()), "you".into()).await.expect("told") })
        .await;
    hears(&mut events, b"you").await;
    let begun = Instant::now();
    eventually("both stay alive for longer than a lease", || async {
        assert_eq!(one.nodes().await.expect("asked").len(), 2);
        begun.elapsed() > one.config().lease * 2
    })
    .await;
}

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
    let (one, _events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let (two, _events) = hub(&cluster.url(), HistoryLimits::default()).await;
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
    let bus = super::servers::free_port().to_string();
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

/// Ahead of its slot a publication is told where nobody listens yet; who listens is asked to look.
#[tokio::test]
async fn what_goes_ahead_of_its_slot_is_told() {
    let cluster = Cluster::start(3, 0).await;
    let (one, _events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let (two, mut events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let chat = stream_on(&cluster, 0).await;
    let first = publish(&one, &chat, 1).await;
    two.subscribe(&chat).await.expect("subscribed");
    let moving = Move::begins(&cluster, &key(&chat), 0, 1).await;
    moving.carries_keys().await;
    for n in 2..=4 {
        while events.try_recv().is_ok() {}
        let position = one.publish(&chat, message(n), &HistoryLimits::default()).await.expect("followed");
        assert_eq!(position, Position { epoch: first.epoch.clone(), offset: n });
        let told = tokio::time::timeout(patience(), async {
            while !matches!(events.recv().await, Some(BusEvent::Begun { stream }) if stream == chat) {}
        });
        told.await.expect("told");
        let slice = two.read(&chat, n - 1, ALL).await.expect("followed").expect("known");
        assert!(slice.complete && slice.publications.len() == 1, "{slice:?}");
        assert_eq!(two.position(&chat).await.expect("followed"), Some(position));
    }
    moving.ends().await;
    eventually("it listens at the new place", || async {
        listeners(&cluster.servers[1], &format!("{{dz:{chat}}}:events")).await == 1
    })
    .await;
}

fn once(key: u64) -> Conditions {
    let mut short = [0; 16];
    short[..8].copy_from_slice(&key.to_be_bytes());
    let once = Once { key: short, window: Duration::from_secs(60), publisher: 1 };
    Conditions { once: Some(once), ..Conditions::default() }
}

/// While a slot is on its way nothing new can be made at the old place, and the new one would wait for what it lacks.
#[tokio::test]
async fn what_begins_while_its_slot_is_moved_need_not_wait_for_the_end() {
    let cluster = Cluster::start(3, 0).await;
    let mut patient = config(&cluster.url(), HistoryLimits::default());
    patient.command_timeout = Duration::from_secs(2);
    let (one, _events) = hub_of(patient).await;
    let (two, mut events) = hub(&cluster.url(), HistoryLimits::default()).await;
    let kept = |n| Offer::Kept(message(n), HistoryLimits::default());
    let at = |published: Published| match published {
        Published::At(position) => position,
        other => panic!("{other:?}"),
    };
    // Nothing of the first is anywhere; the second has a history and no keys yet; the history of the third has ended.
    let tag = |name: &StreamName| format!("{{dz:{name}}}");
    let (begins, keyless, quiet) = ("chat.begins", "chat.keyless", "chat.quiet");
    for (name, published) in [(begins, 0), (keyless, 2), (quiet, 2)] {
        let name = StreamName::from_checked(name);
        let home = cluster.owner(&key(&name)).await;
        for n in 0..published {
            publish(&one, &name, n).await;
        }
        if name.as_str() == quiet {
            cluster.servers[home].ask(&["DEL", &format!("{}:history", tag(&name))]).await;
        }
        let moving = Move::begins(&cluster, &key(&name), home, (home + 1) % 3).await;
        if published > 0 {
            // By halves: there it cannot be made, and what is there must not be left behind.
            let on = once(1);
            let put = one.put(&name, kept(9), &on);
            tokio::pin!(put);
            timeout(Duration::from_millis(500), &mut put).await.expect_err("it waits");
            moving.carries_keys().await;
            assert_eq!(at(put.await.expect("followed")).offset, published + 1);
        } else {
            assert_eq!(at(one.put(&name, kept(9), &once(1)).await.expect("followed")).offset, 1);
        }
        let begun = Instant::now();
        let next = at(one.put(&name, kept(10), &once(2)).await.expect("followed"));
        assert_eq!(next.offset, published + 2);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let again = one.put(&name, kept(10), &once(2)).await.expect("followed");
        assert_eq!(again, Published::Again(Some(next.clone())), "and is remembered");
        // Words as well, whether or not they need a key.
        let paced = ChannelPace { per_second: 1_000, across: Across::Cluster };
        let paced = Conditions { pace: Some(paced), ..Conditions::default() };
        two.subscribe(&name).await.expect("subscribed");
        for (word, on) in [("one", once(3)), ("two", paced), ("three", Conditions::default())] {
            assert_eq!(one.put(&name, Offer::Passing(word.into()), &on).await.expect("followed"), Published::Told);
            hears(&mut events, word.as_bytes()).await;
        }
        moving.ends().await;
        assert_eq!(two.position(&name).await.expect("followed"), Some(next));
        let slice = one.read(&name, published, ALL).await.expect("followed").expect("known");
        assert_eq!(slice.publications.len(), 2, "{slice:?}");
        let published = one.put(&name, kept(10), &once(2)).await.expect("followed");
        assert!(matches!(published, Published::Again(Some(_))), "{published:?}");
    }
}

/// Says one word after the other until it is stopped, and answers those that were said: some that need nothing of Redis, some with a
/// key, some that are counted.
async fn says(bus: Arc<RedisBus>, name: StreamName, stop: watch::Receiver<bool>, count: Arc<AtomicUsize>) -> Vec<u64> {
    let paced = ChannelPace { per_second: 1_000_000, across: Across::Cluster };
    let paced = Conditions { pace: Some(paced), ..Conditions::default() };
    let mut said = Vec::new();
    for n in 0.. {
        if *stop.borrow() {
            break;
        }
        let word = Offer::Passing(n.to_string().into());
        let told = match n % 3 {
            0 => bus.whisper(&name, n.to_string().into()).await.is_ok(),
            1 => bus.put(&name, word, &once(n)).await.is_ok(),
            _ => bus.put(&name, word, &paced).await.is_ok(),
        };
        if told {
            said.push(n);
            count.store(said.len(), Ordering::SeqCst);
        }
        tokio::time::sleep(PACE).await;
    }
    said
}

/// Every word, until the last.
fn listens(mut events: mpsc::Receiver<BusEvent>) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut heard = Vec::new();
        while let Some(event) = events.recv().await {
            let BusEvent::Word { word, .. } = event else { continue };
            match std::str::from_utf8(&word).expect("text") {
                "the end" => break,
                word => heard.push(word.parse().expect("a number")),
            }
        }
        heard
    })
}

/// Between two owners there is a time in which a node has looked for the new one and others have not.
#[tokio::test]
async fn no_word_is_lost_while_its_slot_is_moved() {
    let cluster = Cluster::start(3, 0).await;
    // What a slow machine takes for a command is not what is asked here.
    let mut patient = config(&cluster.url(), HistoryLimits::default());
    (patient.command_timeout, patient.heartbeat) = (Duration::from_secs(2), Duration::from_millis(200));
    let (one, _events) = hub_of(patient.clone()).await;
    let one = Arc::new(one);
    let chat = stream_on(&cluster, 0).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let (bus, events) = hub_of(patient.clone()).await;
        bus.subscribe(&chat).await.expect("subscribed");
        others.push((bus, listens(events)));
    }
    publish(&one, &chat, 1).await;
    let ((stop, stopped), count) = (watch::channel(false), Arc::new(AtomicUsize::new(0)));
    let saying = tokio::spawn(says(Arc::clone(&one), chat.clone(), stopped, Arc::clone(&count)));
    let more = async || {
        let before = count.load(Ordering::SeqCst);
        eventually("more is said", || async { count.load(Ordering::SeqCst) >= before + 9 }).await;
    };
    more().await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let moving = Move::begins(&cluster, &key(&chat), from, to).await;
        moving.carries_keys().await;
        more().await;
        moving.ends().await;
        eventually("everybody listens at the new place", || async {
            listeners(&cluster.servers[to], &format!("{{dz:{chat}}}:events")).await == 2
        })
        .await;
        more().await;
    }
    stop.send_replace(true);
    let said = saying.await.expect("said");
    eventually("the last is said", || async { one.whisper(&chat, "the end".into()).await.is_ok() }).await;
    for (_bus, heard) in others {
        let heard = timeout(patience(), heard).await.expect("the last is heard").expect("heard");
        let missing: Vec<_> = said.iter().filter(|n| !heard.contains(n)).collect();
        assert!(missing.is_empty(), "of {} words {missing:?} were lost", said.len());
        assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "each once, and in order: {heard:?}");
    }
    assert_eq!(one.metrics().words_refused.get(), 0);
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
