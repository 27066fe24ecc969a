//! What several hands do at once, and what hostile or unlucky clients cost.

use std::{
    io::{Read, Write},
    time::Instant,
};

use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::channels::{
    Delivery, Item, What, Wire,
    metrics::{CloseLabel, RecoveryLabel},
    presence::PresenceMessage,
    session::{Connection, Offered, Seat, Session, Shared, Terms, subscriptions::Going},
};

const KIB: usize = 1024;

fn entity(n: usize) -> Value {
    json!({"id": n + 2, "subscribe": {"channel": format!("entity.procedure.e{n}"), "recover": true, "epoch": "e1"}})
}

/// Entities `e0`... with fifty revisions of 30 KB each: more than a socket and a queue hold together.
fn heavy(node: &Node, entities: usize) {
    for n in 0..entities {
        (0..50).for_each(|_| node.world.commit_sized(&format!("e{n}"), 30_000));
    }
}

fn limits() -> Limits {
    Limits { recovery: ReadLimit { count: 5_000, bytes: 4 * KIB * KIB }, ..Limits::default() }
}

/// An empty permit means that the session, with its socket, is held by nobody.
#[tokio::test]
async fn a_subscription_that_cannot_settle_leaves_nothing_behind() {
    let node = Node::start(Limits { queue_bytes: 64 * KIB, ..limits() }).await;
    heavy(&node, 12);
    let sessions = Arc::new(Semaphore::new(1));
    let mut client = Client::over(node.socket(&sessions).await).await.connected("reader").await;
    for n in 0..12 {
        client.send(entity(n)).await;
    }
    let slow = CloseLabel { code: 3008 };
    eventually("slow", || async { node.hub.metrics.closed.get_or_create(&slow).get() == 1 }).await;
    drop(client);
    eventually("the session is let go", || async { sessions.available_permits() == 1 }).await;
    assert_eq!((node.hub.metrics.subscriptions.get(), node.hub.metrics.channels.get()), (0, 0));
}

/// One that does read gets all of them, one after the other.
#[tokio::test]
async fn recoveries_wait_for_one_another() {
    let node = Node::start(Limits { queue_bytes: 2 * KIB * KIB, command: PATIENCE * 5, ..limits() }).await;
    heavy(&node, 12);
    let mut client = node.client().await.connected("reader").await;
    for n in 0..12 {
        client.send(entity(n)).await;
    }
    for n in 0..12 {
        let reply = client.receive().await;
        assert_eq!(reply["subscribe"]["publications"].as_array().map_or(0, Vec::len), 50, "of {n}");
    }
}

/// Above the queue's limit the answer is to try again, never a close that leads to the same recovery again: once the client has read
/// what waits for it, it recovers all.
#[tokio::test]
async fn recoveries_that_do_not_fit_the_queue_are_postponed() {
    let node = Node::start(Limits { queue_bytes: 2 * KIB * KIB, command: Duration::from_secs(1), ..limits() }).await;
    heavy(&node, 12);
    let mut client = node.client().await.connected("reader").await;
    for n in 0..12 {
        client.send(entity(n)).await;
    }
    eventually("one waited in vain", || async { recoveries(&node, "postponed", "slow") > 0 }).await;
    let mut postponed = Vec::new();
    for n in 0..12 {
        let reply = client.receive().await;
        assert_eq!(reply["id"], n + 2, "{}", reply.to_string().get(..200).unwrap_or_default());
        if reply["error"] == json!({"code": 111, "message": "too many requests", "temporary": true}) {
            postponed.push(n);
        } else {
            assert_eq!(missed(&reply), 50);
        }
    }
    assert!(!postponed.is_empty() && !postponed.contains(&0), "{postponed:?}");
    for n in &postponed {
        assert_eq!(missed(&client.ask(entity(*n)).await), 50);
    }
    let told = ["count", "bytes", "slow"].map(|cause| recoveries(&node, "unrecovered", cause));
    assert_eq!((recoveries(&node, "recovered", ""), told), (12, [0; 3]));
}

/// Publications of a reply that says that it has recovered all.
fn missed(reply: &Value) -> usize {
    assert_eq!(reply["subscribe"]["recovered"], true);
    reply["subscribe"]["publications"].as_array().map_or(0, Vec::len)
}

fn recoveries(node: &Node, result: &'static str, cause: &'static str) -> u64 {
    node.hub.metrics.recoveries.get_or_create(&RecoveryLabel { result, cause }).get()
}

#[tokio::test]
async fn a_batch_above_the_queue_is_no_slowness_of_the_client() {
    let node = Node::start(Limits { queue_bytes: 64 * KIB, ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    (0..60).for_each(|_| node.world.commit_sized("a", 4_000));
    node.tell_run(1, 60).await;
    assert_eq!(client.offsets(60).await, (1..=60).collect::<Vec<_>>());
}

fn items(offset: u64, size: usize) -> Delivery {
    let frame = dzvin_protocols::channels::websocket::text_frame(&vec![b' '; size]);
    let what = What::Items([Item::framed(offset, frame)].into());
    Delivery { channel: "entity.procedure.a".into(), number: 0, epoch: Epoch::new("e1"), what }
}

/// What did not fit the buffer of a recovering subscription is a gap even when nothing follows it.
#[tokio::test]
async fn an_overflow_while_recovering_is_told() {
    let node = Node::start(Limits::default()).await;
    let _busy = node.client().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let (_client, server) =
        tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("permit");
    let incoming = Incoming {
        socket: server.expect("accept").0.into(),
        leftover: bytes::Bytes::new(),
        greeting: bytes::Bytes::new(),
        wire: Wire::CentrifugeJson,
        permit: permit.into(),
        mailbox: None,
        admission: None,
    };
    let (limits, waiting) = (Limits { queue_bytes: 64 * KIB, ..Limits::default() }, Gauge::default());
    let (connection, _reading) = Connection::split(incoming);
    let shared = Shared { limits: &limits, waiting: &waiting, tracer: &node.hub.tracer };
    let session = Session::new(1, connection, shared);
    let (channel, epoch, seat): (Arc<str>, _, _) =
        ("entity.procedure.a".into(), Epoch::new("e1"), Seat { channel: 5, member: 0 });
    for (covered, stays) in [(1, false), (2, true), (3, true)] {
        assert!(
            session.begin(&channel, Terms::default()) && session.seat(&channel, seat) && !session.seat(&channel, seat)
        );
        assert_eq!(session.offer(4, &mut 0, &items(1, 10), false), (Offered::Gone, false), "another channel");
        assert_eq!(session.offer(5, &mut 7, &items(1, 10), true), (Offered::Skipped, false), "a wrong hint");
        assert_eq!(session.offer(5, &mut 0, &items(2, 100 * KIB), true), (Offered::Skipped, false));
        let going = Going { channel: Arc::clone(&channel), epoch: epoch.clone(), from: covered, seen: 0, online: None };
        let (_, over) = session.settle(vec![going], &[b"{}"]);
        assert_eq!(over, if stays { vec![] } else { vec![(Arc::clone(&channel), Some(seat))] });
        assert_eq!(session.end(&channel).is_some(), stays, "the past was read up to {covered}");
    }
}

#[tokio::test]
async fn topics_that_begin_again_lose_no_subscriber_of_one_entity() {
    let node = Node::start(Limits::default()).await;
    node.publish("a").await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entity.procedure.a")).await["subscribe"]["offset"], 1);
    // Committed and published while nobody follows.
    node.hub.topics.get().expect("topics").stop_and_wait(None, None).await.expect("stopped");
    node.world.commit("a");
    *node.world.bus_top.lock().unwrap() = 2;
    node.topics_again().await;
    let push = client.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    let again =
        json!({"id": 3, "subscribe": {"channel": "entity.procedure.a", "recover": true, "epoch": "e1", "offset": 1}});
    assert_eq!(client.ask(again).await["subscribe"]["publications"][0]["offset"], 2);
}

/// A shard that takes nothing misses batches; its subscribers are told, those of single entities as well.
#[tokio::test]
async fn a_batch_that_a_shard_did_not_take_is_told() {
    let short = Duration::from_millis(20);
    let node = Node::start(Limits { command: short, check: short, ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    assert_eq!(client.ask(subscribe("entity.procedure.a")).await["subscribe"]["offset"], json!(null));
    let stuck = node.hub.shards.get(0).expect("a shard").hold().await;
    node.publish("a").await;
    drop(stuck);
    let push = client.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
}

/// Two shards that live, and on each a subscriber.
async fn two_shards(limits: Limits) -> (Node, [Client; 2]) {
    let node = Node::with_shards(limits, 2).await;
    node.life_of(1).await;
    let mut clients = [node.client().await.connected("reader").await, node.client().await.connected("reader").await];
    for client in &mut clients {
        client.ask(subscribe("entities.procedure")).await;
    }
    (node, clients)
}

#[tokio::test]
async fn nobody_waits_for_a_shard_of_others() {
    // Longer than all tests of the process: it looks in a beat that began with the first of them.
    let (node, [mut one, mut two]) =
        two_shards(Limits { command: PATIENCE * 10, check: PATIENCE * 1_000, ..Limits::default() }).await;
    let busy = node.hub.shards.get(0).expect("a shard").hold().await;
    let heard = async {
        assert_eq!(two.offsets(1).await, [1], "at once");
        drop(busy);
    };
    tokio::join!(node.publish("a"), heard);
    assert_eq!(one.offsets(1).await, [1], "one that is only busy loses nothing");
}

#[tokio::test]
async fn a_stuck_shard_uses_up_its_patience_once() {
    let patience = Duration::from_millis(300);
    let (node, [mut one, mut two]) =
        two_shards(Limits { command: patience, check: PATIENCE * 1_000, ..Limits::default() }).await;
    let stuck = node.hub.shards.get(0).expect("a shard").hold().await;
    let began = Instant::now();
    for offset in 1..=60 {
        node.publish("a").await;
        assert_eq!(two.offsets(1).await, [offset]);
    }
    assert!(began.elapsed() < patience * 30, "{:?} of {:?}", began.elapsed(), patience * 60);
    drop(stuck);
    // It takes the next, in which its subscriber sees that something is missing.
    node.publish("a").await;
    let push = one.receive().await;
    assert_eq!(push["push"]["unsubscribe"]["code"], 2500, "{push}");
    let reply = one.ask(recover("e1", 0)).await;
    assert_eq!(reply["subscribe"]["publications"].as_array().map(Vec::len), Some(61), "{reply}");
    // And is waited for as ever.
    let busy = node.hub.shards.get(0).expect("a shard").hold().await;
    let heard = async {
        assert_eq!(two.offsets(2).await, [61, 62]);
        drop(busy);
    };
    tokio::join!(node.publish("a"), heard);
    assert_eq!(one.offsets(1).await, [62]);
}

#[tokio::test]
async fn a_stream_wanted_again_while_it_is_left_is_followed() {
    let node = Node::start(Limits { check: Duration::from_millis(5), ..Limits::default() }).await;
    let gate = node.world.leaving.acquire().await.expect("gate");
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    client.ask(json!({"id": 3, "unsubscribe": {"channel": "entities.procedure"}})).await;
    let leaving = || async { node.world.waiting_to_leave.load(Ordering::SeqCst) == 1 };
    eventually("idle, and being left", leaving).await;
    client.send(subscribe("entities.procedure")).await;
    // Whoever answers before the bus was left has asked it too early.
    let early = timeout(Duration::from_millis(100), client.receive()).await;
    drop(gate);
    eventually("left", || async { node.world.left.load(Ordering::SeqCst) == 1 }).await;
    let reply = match early {
        Ok(reply) => reply,
        Err(_) => client.receive().await,
    };
    assert_eq!(reply["subscribe"]["recoverable"], true, "{reply}");
    assert!(node.world.subscribed.lock().unwrap().contains(&kind().stream()), "its events are asked for");
}

#[tokio::test]
async fn streams_that_do_not_exist_leave_nothing_on_the_bus() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("all").await;
    for n in 0..20 {
        assert_eq!(client.ask(subscribe(&format!("entities.no-such-{n}"))).await["error"]["code"], 102);
    }
    assert_eq!(node.world.subscribed.lock().unwrap().len(), 0);
    eventually("forgotten", || async { node.hub.metrics.channels.get() == 0 && node.hub.metrics.streams.get() == 0 })
        .await;
}

/// A frame full of commands that each wait for a log that is away.
#[tokio::test]
async fn a_client_that_left_is_not_served_to_the_end() {
    let node = Node::start(Limits { command: Duration::from_millis(300), ..Limits::default() }).await;
    node.world.hanging.store(true, Ordering::SeqCst);
    let mut client = node.client().await.connected("reader").await;
    let all: Vec<String> = (0..100).map(|n| entity(n).to_string()).collect();
    client.0.send(all.join("\n").into()).await.expect("sent");
    client.receive().await;
    drop(client);
    eventually("gone", || async { node.hub.metrics.sessions.get() == 0 }).await;
}

/// While commands wait, pongs lie unread: that is no silence of the client.
#[tokio::test]
async fn a_client_is_not_silent_while_we_are_busy() {
    let short = Duration::from_millis(20);
    let node = Node::start(Limits { ping: short, pong: short, command: short * 20, ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    node.world.hanging.store(true, Ordering::SeqCst);
    client.send(entity(0)).await;
    let reply = loop {
        match client.receive().await {
            ping if ping == json!({}) => client.send(ping).await,
            other => break other,
        }
    };
    assert_eq!(reply["id"], 2, "{reply}");
}

/// Answers to one reading may be more than the queue holds: only a full socket is a slow client.
#[tokio::test]
async fn large_answers_in_a_row_close_nobody() {
    let queue_bytes = 64 * KIB;
    let history = ReadLimit { count: 300, bytes: 60 * KIB };
    let node = Node::start(Limits { queue_bytes, history, ..Limits::default() }).await;
    (0..2).for_each(|_| node.world.commit_sized("a", 25_000));
    let mut client = node.client().await.connected("reader").await;
    let ask = |id: u64| json!({"id": id, "history": {"channel": "entities.procedure", "limit": 10}}).to_string();
    client.0.send((2..6).map(ask).collect::<Vec<_>>().join("\n").into()).await.expect("sent");
    let mut answered = Vec::new();
    while answered.len() < 4 {
        let text = match timeout(PATIENCE, client.0.next()).await.expect("in time").expect("open").expect("well formed")
        {
            tungstenite::Message::Text(text) => text,
            other => panic!("{other:?}"),
        };
        answered.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json")["id"].clone()));
    }
    assert_eq!(answered, [2, 3, 4, 5]);
}

/// While a command waits for the log, what the socket takes is written.
#[tokio::test]
async fn a_command_that_waits_does_not_hold_up_publications() {
    let queue_bytes = 64 * KIB * KIB;
    let node = Node::start(Limits { queue_bytes, command: PATIENCE * 6, ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    node.world.hanging.store(true, Ordering::SeqCst);
    client.send(entity(0)).await;
    for n in 1..=400 {
        node.world.commit_sized("b", 30_000);
        node.tell(n).await;
    }
    eventually("the socket is full", || async { node.hub.metrics.queue_bytes.get() > 0 }).await;
    assert_eq!(client.offsets(400).await, (1..=400).collect::<Vec<_>>());
}

/// Frames without end, faster than they are read: time goes on for the flooder, and for everybody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_stops_no_clock() {
    let node = Node::start(Limits { connect: Duration::from_secs(2), ..Limits::default() }).await;
    let flooder = node.socket(&Arc::new(Semaphore::new(1))).await.into_std().expect("socket");
    flooder.set_nonblocking(false).expect("blocking");
    let flood = std::thread::spawn(move || {
        let mut flooder = flooder;
        // Pongs that nobody asked for, without payload: six bytes each.
        let pongs = [0x8a, 0x80, 0, 0, 0, 0].repeat(64 * KIB);
        let began = Instant::now();
        while began.elapsed() < PATIENCE * 2 {
            if flooder.write_all(&pongs).is_err() {
                return true;
            }
        }
        false
    });
    let mut other = node.client().await.connected("reader").await;
    assert_eq!(other.ask(json!({"id": 4, "ping": {}})).await, json!({"id": 4, "ping": {}}));
    assert!(tokio::task::spawn_blocking(|| flood.join().expect("flood")).await.expect("joined"), "the flooder stays");
}

#[tokio::test]
async fn a_connection_goes_to_a_shard_that_lives() {
    let node = Node::with_shards(Limits::default(), 3).await;
    for _ in 0..3 {
        node.client().await.connected("reader").await;
    }
}

#[tokio::test]
async fn a_shard_that_dies_takes_its_own_with_it_and_nothing_else() {
    let node = Node::start(Limits { check: Duration::from_millis(5), ..Limits::default() }).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    client.ask(subscribe("entity.procedure.a")).await;
    let metrics = &node.hub.metrics;
    assert_eq!((metrics.sessions.get(), metrics.subscriptions.get(), metrics.channels.get()), (1, 2, 2));
    node.hub.shards.get(0).expect("a shard").slot.get().expect("alive").kill();
    while timeout(PATIENCE, client.0.next()).await.expect("the socket closes").is_some_and(|read| read.is_ok()) {}
    node.shard().await;
    eventually("nothing is counted", || async {
        (metrics.sessions.get(), metrics.subscriptions.get(), metrics.channels.get()) == (0, 0, 0)
    })
    .await;
    eventually("nothing is followed", || async { metrics.streams.get() == 0 }).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    node.publish("a").await;
    assert_eq!(client.offsets(1).await, [1]);
}

/// Answered when everybody has been told and has gone; whoever comes later is not taken.
#[tokio::test]
async fn a_drain_ends_with_the_last_goodbye() {
    for count in [0, 1, 100] {
        let node = Node::start(Limits::default()).await;
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(node.client().await.connected("reader").await);
        }
        let reading = clients.into_iter().map(|mut client| tokio::spawn(async move { client.receive().await }));
        let reading: Vec<_> = reading.collect();
        assert_eq!(node.hub.shards.drain(Duration::from_millis(20)).await, count);
        assert_eq!(node.hub.metrics.sessions.get(), 0);
        for read in reading {
            assert_eq!(read.await.expect("read"), json!({"close": 3001}));
        }
        let mut late = node.client().await;
        assert!(timeout(PATIENCE, late.0.next()).await.expect("closed").is_none_or(|read| read.is_err()));
    }
}

#[tokio::test]
async fn a_clients_close_code_is_no_label() {
    let node = Node::start(Limits::default()).await;
    for code in 4000..4010u16 {
        let mut client = node.client().await.connected("reader").await;
        let frame = tungstenite::protocol::CloseFrame { code: code.into(), reason: "".into() };
        client.0.close(Some(frame)).await.expect("closed");
        assert_eq!(client.receive().await, json!({"close": code}), "it is echoed");
    }
    eventually("counted", || async { node.hub.metrics.closed.get_or_create(&CloseLabel { code: 0 }).get() == 10 })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_panic_is_counted_at_once_and_ends_that_session_alone() {
    let node = Node::start(Limits::default()).await;
    let mut neighbour = node.client().await.connected("reader").await;
    neighbour.ask(subscribe("entities.procedure")).await;
    for n in 1..=50 {
        let mut client = node.client().await;
        client.send(json!({"id": 1, "connect": {"token": "panics"}})).await;
        eventually("counted", || async { node.hub.metrics.panics.get() == n }).await;
    }
    eventually("they are gone", || async { node.hub.metrics.sessions.get() == 1 }).await;
    node.publish("a").await;
    assert_eq!(neighbour.offsets(1).await, [1], "whoever sat beside them still receives");
}

#[tokio::test]
async fn rights_that_end_with_a_new_token_end_subscriptions() {
    let node = Node::start(Limits::default()).await;
    let mut client = node.client().await.connected("reader").await;
    client.ask(subscribe("entities.procedure")).await;
    let reply = client.ask(json!({"id": 5, "refresh": {"token": "reader"}})).await;
    assert_eq!(reply["id"], 5, "the same rights: nothing ends");
    node.publish("a").await;
    assert_eq!(client.offsets(1).await, [1]);
    client.send(json!({"id": 6, "refresh": {"token": "nobody"}})).await;
    let mut got = [client.receive().await, client.receive().await];
    got.sort_by_key(|reply| reply["id"].as_u64());
    assert_eq!(got[0]["push"]["unsubscribe"]["code"], 2000, "{got:?}");
    assert_eq!(got[1]["id"], 6);
    node.publish("a").await;
    assert_eq!(client.ask(json!({"id": 7, "ping": {}})).await["id"], 7, "nothing came between");
}

/// Bytes after the client's last word, and then its end: no hang, no panic.
#[tokio::test]
async fn a_half_closed_socket_ends_its_session() {
    let node = Node::start(Limits::default()).await;
    let socket = node.socket(&Arc::new(Semaphore::new(1))).await.into_std().expect("socket");
    socket.set_nonblocking(false).expect("blocking");
    eventually("accepted", || async { node.hub.metrics.sessions.get() == 1 }).await;
    let mut socket = socket;
    socket.write_all(&[0x81]).expect("half a header");
    socket.shutdown(std::net::Shutdown::Write).expect("half closed");
    eventually("ended", || async { node.hub.metrics.sessions.get() == 0 }).await;
    assert_eq!(socket.read(&mut [0; 8]).unwrap_or(0), 0);
}

/// The word that it has come, as everything on the channel, would be lost to a node that does not listen yet.
#[tokio::test]
async fn nobody_comes_in_before_the_node_listens() {
    let node = Node::start(Limits::default()).await;
    let (seen, mut came) = tokio::sync::mpsc::channel(1);
    let world = Arc::clone(&node.world);
    let doorman = move |message| {
        if let PresenceMessage::Enter { channel, .. } = message {
            let listening = world.subscribed.lock().unwrap().contains(&StreamName::from_checked(&channel));
            seen.try_send(listening).expect("watched");
        }
    };
    node.presence(doorman).await;
    let mut client = node.client().await.connected("reader").await;
    assert!(client.ask(subscribe("chat.1")).await["subscribe"].is_object());
    assert_eq!(timeout(PATIENCE, came.recv()).await.expect("in time"), Some(true));
}
