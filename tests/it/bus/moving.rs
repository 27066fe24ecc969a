//! Slots that are moved under live streams: positions, keys and words go along.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dzvin::channels::bus::{HistoryLimits, RedisBus};
use dzvin_actors::platform::ports::{Across, Bus, BusEvent, Conditions, Offer, Published};
use dzvin_protocols::{
    channels::{Position, now_micros},
    platform::StreamName,
};
use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{
    kit::{ALL, config, hub, hub_of, pair},
    offers::{LONG, once, pace, place, put},
    scene::{hears, message, publish, scene},
    servers::{Cluster, text},
    slots::{DURABLE, Move, key, listeners, stream_on},
};
use crate::support::eventually::{eventually, patience};

/// Between two publications, so that the history holds them all.
const PACE: Duration = Duration::from_millis(1);

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
    let ((one, _events), (two, mut events)) = pair(&cluster).await;
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

/// Ahead of its slot a publication is told where nobody listens yet; who listens is asked to look.
#[tokio::test]
async fn what_goes_ahead_of_its_slot_is_told() {
    let cluster = Cluster::start(3, 0).await;
    let ((one, _events), (two, mut events)) = pair(&cluster).await;
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

/// While a slot is on its way nothing new can be made at the old place, and the new one would wait for what it lacks.
#[tokio::test]
async fn what_begins_while_its_slot_is_moved_need_not_wait_for_the_end() {
    let cluster = Cluster::start(3, 0).await;
    let mut patient = config(&cluster.url(), HistoryLimits::default());
    patient.command_timeout = Duration::from_secs(2);
    let (one, _events) = hub_of(patient).await;
    let (two, mut events) = hub(&cluster.url(), HistoryLimits::default()).await;
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
            let on = once(1, LONG);
            let put = place(&one, &name, 9, &on);
            tokio::pin!(put);
            timeout(Duration::from_millis(500), &mut put).await.expect_err("it waits");
            moving.carries_keys().await;
            assert_eq!(put.await.offset, published + 1);
        } else {
            assert_eq!(place(&one, &name, 9, &once(1, LONG)).await.offset, 1);
        }
        let begun = Instant::now();
        let next = place(&one, &name, 10, &once(2, LONG)).await;
        assert_eq!(next.offset, published + 2);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let again = put(&one, &name, 10, &once(2, LONG)).await;
        assert_eq!(again, Published::Again(Some(next.clone())), "and is remembered");
        // Words as well, whether or not they need a key.
        two.subscribe(&name).await.expect("subscribed");
        for (word, on) in
            [("one", once(3, LONG)), ("two", pace(1_000, Across::Cluster)), ("three", Conditions::default())]
        {
            assert_eq!(one.put(&name, Offer::Passing(word.into()), &on).await.expect("followed"), Published::Told);
            hears(&mut events, word.as_bytes()).await;
        }
        moving.ends().await;
        assert_eq!(two.position(&name).await.expect("followed"), Some(next));
        let slice = one.read(&name, published, ALL).await.expect("followed").expect("known");
        assert_eq!(slice.publications.len(), 2, "{slice:?}");
        let published = put(&one, &name, 10, &once(2, LONG)).await;
        assert!(matches!(published, Published::Again(Some(_))), "{published:?}");
    }
}

/// A word with a key that runs ahead of its slot, and then nobody may say it where the slot still is.
#[tokio::test]
async fn a_word_that_was_not_said_is_said_when_it_is_offered_again() {
    let cluster = Cluster::start(3, 0).await;
    let ((one, _events), (two, mut events)) = pair(&cluster).await;
    let chat = stream_on(&cluster, 0).await;
    two.subscribe(&chat).await.expect("subscribed");
    let tell =
        async |bus: &RedisBus, key: u64| bus.put(&chat, Offer::Passing(key.to_string().into()), &once(key, LONG)).await;
    let told = async |bus: &RedisBus, key: u64| tell(bus, key).await.expect("answered");
    let may_say = async |right: &str| cluster.servers[0].ok(&["ACL", "SETUSER", "default", right]).await;
    let moving = Move::begins(&cluster, &key(&chat), 0, 1).await;
    may_say("-spublish").await;
    for key in 1..=3 {
        tell(&one, key).await.expect_err("it may not be said");
    }
    assert_eq!(one.metrics().keys.get(), 3, "they are remembered");
    may_say("+spublish").await;
    // By whichever node, and once.
    assert_eq!((told(&one, 1).await, told(&two, 2).await), (Published::Told, Published::Told));
    assert_eq!((told(&two, 1).await, told(&one, 2).await), (Published::Again(None), Published::Again(None)));
    // Of many at once one says it; to the others it was said before, or is being said.
    let all = join_all((0..20).map(|n| told(if n % 2 == 0 { &one } else { &two }, 4))).await;
    assert_eq!(all.iter().filter(|it| **it == Published::Told).count(), 1, "{all:?}");
    let others = all.iter().all(|it| !matches!(it, Published::At(_) | Published::Older(_)));
    assert!(others && told(&one, 4).await == Published::Again(None), "{all:?}");
    moving.carries_keys().await;
    moving.ends().await;
    // The slot has come to its place; what was not said still is not.
    let (tag, to) = (format!("{{dz:{chat}}}:keys"), &cluster.servers[1]);
    assert_eq!(eventually("it can be said", async || tell(&one, 3).await.ok()).await, Published::Told);
    assert_eq!(told(&two, 3).await, Published::Again(None));
    for word in ["1", "2", "4", "3"] {
        hears(&mut events, word.as_bytes()).await;
    }
    // Whoever died in the middle of it keeps it from nobody.
    let field = format!("k{}\u{3}", "\0".repeat(15));
    let known = to.ask(&["HGET", &tag, &field]).await;
    let (ends, _) = text(&known).split_once(' ').expect("when it ends");
    let claimed = u64::try_from(now_micros() / 1_000).expect("a time") + 1_000;
    to.ask(&["HSET", &tag, &field, &format!("{ends} 0 unsaid {claimed}")]).await;
    let wait = told(&one, 3).await;
    assert!(matches!(wait, Published::TooMany { wait } if wait <= Duration::from_secs(1)), "{wait:?}");
    eventually("it is said once more", async || told(&one, 3).await == Published::Told).await;
    hears(&mut events, b"3").await;
    assert_eq!(told(&one, 3).await, Published::Again(None));
}

/// Says one word after the other until it is stopped, and answers those that were said: some that need nothing of Redis, some with a
/// key, some that are counted.
async fn says(bus: Arc<RedisBus>, name: StreamName, stop: watch::Receiver<bool>, count: Arc<AtomicUsize>) -> Vec<u64> {
    let mut said = Vec::new();
    for n in 0.. {
        if *stop.borrow() {
            break;
        }
        let word = Offer::Passing(n.to_string().into());
        let told = match n % 3 {
            0 => bus.whisper(&name, n.to_string().into()).await.is_ok(),
            1 => bus.put(&name, word, &once(n, LONG)).await.is_ok(),
            _ => bus.put(&name, word, &pace(1_000_000, Across::Cluster)).await.is_ok(),
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
