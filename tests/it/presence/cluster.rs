//! Two nodes' actors over one real Redis: what one of them leaves behind is told by the other, once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dzvin::channels::{
    bus::RedisBus,
    presence::{PresenceSettings, RedisPresence},
};
use dzvin_actors::{
    channels::presence::{
        PresenceActor, PresenceArgs, PresenceEvent, PresenceLimits, PresenceMessage, PresenceMetrics,
    },
    platform::ports::{Bus, BusEvent, Crowd, MemberPage, Presence},
    supervise::{Progress, Slot},
};
use dzvin_protocols::channels::Word;
use ractor::{Actor, ActorRef};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::kit::{bus, channel, member};
use crate::support::{
    eventually::{eventually, patience},
    redis::Redis,
};

const LEASE: Duration = Duration::from_millis(1_000);
const RENEW: Duration = Duration::from_millis(100);
const CROWD: Crowd = Crowd { above: 20, below: 18 };
/// Who tells what it buried is not overtaken in a test that does not want it.
const SETTINGS: PresenceSettings = PresenceSettings { lease: LEASE, crowd: CROWD, telling: Duration::from_secs(60) };

/// A node: its bus, its store and its actor.
struct Node {
    _bus: Arc<RedisBus>,
    words: mpsc::Receiver<BusEvent>,
    events: mpsc::Receiver<PresenceEvent>,
    slot: Slot<PresenceMessage>,
    actor: ActorRef<PresenceMessage>,
    metrics: PresenceMetrics,
}

impl Node {
    async fn start(url: &str) -> Self {
        Self::holding(url, Duration::from_millis(100)).await
    }

    /// One that holds goodbyes for so long.
    async fn holding(url: &str, hold: Duration) -> Self {
        Self::with(url, hold, SETTINGS).await
    }

    async fn with(url: &str, hold: Duration, settings: PresenceSettings) -> Self {
        let (bus, words) = bus(url).await;
        let bus = Arc::new(bus);
        let store = RedisPresence::new(&bus, settings);
        let (slot, metrics) = (Slot::default(), PresenceMetrics::default());
        let (sender, events) = mpsc::channel(10_000);
        let args = PresenceArgs {
            store: Arc::new(store),
            bus: Arc::clone(&bus),
            slot: slot.clone(),
            announce: Arc::new(|| {}),
            counted: Arc::new(|_| false),
            heard: Arc::new(|channel| channel == "chat"),
            events: Some(sender),
            limits: PresenceLimits { step: Duration::from_millis(10), renew: RENEW, hold, ..PresenceLimits::default() },
            metrics: metrics.clone(),
            progress: Progress::default(),
        };
        let (actor, _) = Actor::spawn(None, PresenceActor::default(), args).await.expect("started");
        for name in ["chat", "crowd"] {
            bus.subscribe(&channel(name)).await.expect("subscribed");
        }
        Self { _bus: bus, words, events, slot, actor, metrics }
    }

    fn enter(&self, on: &str, client: &str, user: &str) {
        let enter = PresenceMessage::Enter { channel: on.into(), shard: 0, member: member(client, user) };
        self.slot.cast(enter).expect("it lives");
    }

    fn exit(&self, on: &str, client: &str) {
        let exit = PresenceMessage::Exit { channel: on.into(), shard: 0, client: client.into() };
        self.slot.cast(exit).expect("it lives");
    }

    fn count(&self, on: &str, subscribers: u32) {
        let counts = vec![(on.into(), subscribers)];
        self.slot.cast(PresenceMessage::Counts { shard: 0, counts }).expect("it lives");
    }

    async fn members(&self, on: &str) -> Option<MemberPage> {
        let ask = |reply| PresenceMessage::Members { channel: on.into(), from: 0, limit: 500, reply };
        self.slot.call(ask, patience()).await.expect("it lives").ok()
    }

    /// No goodbye: the actor is killed, and its connections are gone.
    fn die(self) {
        self.actor.kill();
    }

    /// Words heard until one comes that is awaited, as `+client` and `-client`.
    async fn hear(&mut self, until: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut heard = Vec::new();
        let hearing = async {
            while !until(&heard) {
                heard.extend(spoken(self.words.recv().await.expect("a living bus")));
            }
        };
        timeout(patience(), hearing).await.unwrap_or_else(|_| panic!("never heard what was awaited"));
        heard
    }

    /// What else has come, once the nodes have had the time to say more.
    async fn rest(&mut self) -> Vec<String> {
        tokio::time::sleep(RENEW * 5).await;
        std::iter::from_fn(|| self.words.try_recv().ok()).filter_map(spoken).collect()
    }
}

fn spoken(event: BusEvent) -> Option<String> {
    let BusEvent::Word { stream, word } = event else { return None };
    let word = match Word::decode(&word).expect("a word") {
        Word::Join { info, first } => format!("+{}{}", info.client, if first { "!" } else { "" }),
        Word::Leave { info, last } => format!("-{}{}", info.client, if last { "!" } else { "" }),
        Word::Count { subscribers } => format!("#{subscribers}"),
        Word::Anew { turn, .. } => format!("anew {turn}"),
        Word::Event { .. } | Word::Publication { .. } => panic!("nobody says events here"),
    };
    Some(format!("{stream} {word}"))
}

#[tokio::test]
async fn a_node_that_dies_without_goodbye_is_told_as_gone_once() {
    let redis = Redis::start().await;
    let (mut a, mut b) = (Node::start(&redis.url()).await, Node::start(&redis.url()).await);
    let c = Node::start(&redis.url()).await;
    for n in 0..10 {
        c.enter("chat", &format!("dead-{n}"), &format!("user-{n}"));
    }
    c.count("chat", 10);
    c.count("alone", 1);
    a.enter("chat", "alive", "user-0");
    a.count("chat", 1);
    a.hear(|heard| heard.len() == 11).await;
    b.hear(|heard| heard.len() == 11).await;
    let died = Instant::now();
    c.die();
    let heard = a.hear(|heard| heard.len() == 10).await;
    assert!(died.elapsed() < LEASE + RENEW + Duration::from_secs(2), "{:?}", died.elapsed());
    let mut heard: Vec<_> = heard.into_iter().chain(a.rest().await).collect();
    heard.sort();
    let mut expected: Vec<_> = (1..10).map(|n| format!("chat -dead-{n}!")).collect();
    expected.insert(0, "chat -dead-0".to_owned());
    assert_eq!(heard, expected, "each once; the first one's user is there still");
    let mut others = b.rest().await;
    others.sort();
    assert_eq!(others, expected, "every node hears it");
    assert_eq!(a.metrics.buried.get() + b.metrics.buried.get(), 10);
    assert_eq!(b.members("chat").await.expect("asked").counts.clients, 1);
    let events: Vec<_> = std::iter::from_fn(|| a.events.try_recv().or_else(|_| b.events.try_recv()).ok()).collect();
    let vacated =
        |name: &str| events.iter().filter(|event| **event == PresenceEvent::Vacated { channel: name.into() }).count();
    assert_eq!((vacated("alone"), vacated("chat")), (1, 0));
    let removed = events.iter().filter(|event| matches!(event, PresenceEvent::MemberRemoved { .. })).count();
    assert_eq!(removed, 9);
}

/// The node that buried it dies before it has said a word.
#[tokio::test]
async fn what_was_buried_and_not_told_another_node_tells() {
    let redis = Redis::start().await;
    let (ears, mut words) = bus(&redis.url()).await;
    ears.subscribe(&channel("chat")).await.expect("subscribed");
    let c = Node::start(&redis.url()).await;
    c.enter("chat", "1", "olha");
    c.enter("chat", "2", "ivan");
    c.count("chat", 2);
    c.count("alone", 1);
    let mut hear = async || loop {
        let word = timeout(patience(), words.recv()).await.expect("heard").expect("a living bus");
        if let Some(word) = spoken(word) {
            return word;
        }
    };
    assert_eq!([hear().await, hear().await], ["chat +1!", "chat +2!"]);
    eventually("it is with the store", async || c.metrics.waiting.get() + c.metrics.writing.get() == 0).await;
    c.die();
    let dies = RedisPresence::new(&ears, PresenceSettings { telling: LEASE, ..SETTINGS });
    let mut buried = Vec::new();
    eventually("it is buried", async || {
        dies.renew().await.expect("renewed");
        buried.extend(dies.bury(100).await.expect("buried"));
        // Two channels, and what servers are told of one.
        buried.len() == 3
    })
    .await;
    drop(dies);
    let mut a = Node::start(&redis.url()).await;
    let mut heard = [hear().await, hear().await];
    heard.sort();
    assert_eq!(heard, ["chat -1!", "chat -2!"]);
    let mut told = Vec::new();
    eventually("servers are told", async || {
        told.extend(std::iter::from_fn(|| a.events.try_recv().ok()));
        told.len() == 4
    })
    .await;
    for name in ["chat", "alone"] {
        assert!(told.contains(&PresenceEvent::Vacated { channel: name.into() }), "{told:?}");
    }
    for user in ["olha", "ivan"] {
        let gone = PresenceEvent::MemberRemoved { channel: "chat".into(), user: user.into() };
        assert!(told.contains(&gone), "{told:?}");
    }
    eventually("all is closed", async || a.metrics.graves.get() == 0 && a.metrics.channels.get() == 0).await;
    let rest = a.rest().await;
    assert!(rest.len() <= 2, "it heard no more than was said: {rest:?}");
    assert!(a.events.is_empty());
}

#[tokio::test]
async fn what_redis_forgot_is_there_again_and_nobody_hears_of_it() {
    let mut redis = Redis::start().await;
    let (mut a, b) = (Node::start(&redis.url()).await, Node::start(&redis.url()).await);
    a.enter("chat", "1", "olha");
    a.count("chat", 1);
    b.enter("chat", "2", "ivan");
    b.count("chat", 1);
    a.hear(|heard| heard.len() == 2).await;
    redis.flush().await;
    eventually("all are there again", async || a.members("chat").await.is_some_and(|page| page.members.len() == 2))
        .await;
    // Gone, and back with nothing, while clients come and go.
    redis.kill();
    eventually("it is known to be away", async || a.metrics.away.get() + b.metrics.away.get() == 2).await;
    for n in 0..3_000 {
        b.enter(&format!("brief-{n}"), "x", "petro");
        b.exit(&format!("brief-{n}"), "x");
    }
    b.exit("chat", "2");
    b.enter("chat", "3", "petro");
    redis.restart_empty().await;
    eventually("all are there again", async || {
        let page = a.members("chat").await.unwrap_or_default();
        let mut clients: Vec<_> = page.members.iter().map(|it| it.info.client.to_string()).collect();
        clients.sort();
        clients == ["1", "3"]
    })
    .await;
    // Until a node listens again it hears nothing: words wait for nobody.
    eventually("both listen again", async || {
        redis.command(&["PUBSUB", "NUMSUB", "{dz:chat}:events"]).await.is_ok_and(|told| told.ends_with(":2\r\n"))
    })
    .await;
    b.enter("chat", "4", "later");
    let heard = a.hear(|heard| heard.iter().any(|word| word == "chat +4!")).await;
    let mut heard: Vec<_> = heard.into_iter().chain(a.rest().await).collect();
    heard.retain(|word| word != "chat -2!" && word != "chat +3!");
    assert_eq!(heard, ["chat +4!"], "what was there stays without a word");
    // One channel, of whose members servers are told as well.
    eventually("nothing else is left", async || b.metrics.channels.get() == 2).await;
}

#[tokio::test]
async fn a_crowd_on_two_nodes_is_told_as_a_number() {
    let redis = Redis::start().await;
    let (mut a, b) = (Node::start(&redis.url()).await, Node::start(&redis.url()).await);
    for n in 0..200 {
        let node = if n % 2 == 0 { &a } else { &b };
        node.enter("crowd", &format!("{n}"), "olha");
        node.count("crowd", n / 2 + 1);
    }
    let heard = a.hear(|heard| heard.iter().any(|word| word.contains('#'))).await;
    let heard: Vec<_> = heard.into_iter().chain(a.rest().await).collect();
    let joins = heard.iter().filter(|word| word.contains('+')).count();
    let counts = heard.iter().filter(|word| word.contains('#')).count();
    // Calls take many clients at once, and what is over the limit when one ends is not told.
    assert!(joins <= 20, "{joins} joins");
    assert!((1..=2).contains(&counts), "{counts} counts in less than five seconds");
    eventually("all are there", async || {
        b.members("crowd").await.is_some_and(|page| page.counts.clients == 200 && page.counts.crowded)
    })
    .await;
    // What a client makes of the words: its list, which it fetches when it is told to begin anew.
    let (mut list, mut anew): (BTreeSet<String>, Option<usize>) = (BTreeSet::new(), None);
    let known = |page: MemberPage| page.members.iter().map(|it| it.info.client.to_string()).collect::<BTreeSet<_>>();
    for word in &heard {
        if let Some(client) = word.strip_prefix("crowd +") {
            list.insert(client.trim_end_matches('!').to_owned());
        }
    }
    for n in 0..190 {
        let node = if n % 2 == 0 { &a } else { &b };
        node.exit("crowd", &format!("{n}"));
        if n == 185 {
            eventually("the crowd has ended", async || {
                b.members("crowd").await.is_some_and(|page| page.counts.clients == 14 && !page.counts.crowded)
            })
            .await;
        }
    }
    a.enter("crowd", "later", "ivan");
    let truth: BTreeSet<_> = (190..200).map(|n| n.to_string()).chain(["later".to_owned()]).collect();
    let mut told = Vec::new();
    let turns = async {
        while told.len() < 20 {
            let Some(word) = spoken(a.words.recv().await.expect("a living bus")) else { continue };
            let word = word.strip_prefix("crowd ").expect("of it").to_owned();
            let client = word.get(1..).unwrap_or_default().trim_end_matches('!').to_owned();
            match word.as_bytes()[0] {
                b'+' => drop(list.insert(client)),
                b'-' => drop(list.remove(&client)),
                b'a' => {
                    // This one's is the third turn.
                    if word == "anew 2" {
                        anew = Some(list.len());
                        list = known(b.members("crowd").await.expect("asked"));
                    }
                    told.push(word);
                }
                _ => {}
            }
        }
    };
    timeout(patience(), turns).await.expect("each has its turn");
    assert_eq!(told, (0..20).map(|turn| format!("anew {turn}")).collect::<Vec<_>>(), "once over both nodes");
    assert!(anew.is_some());
    assert_eq!(list, truth, "no ghost, and nobody is missing");
    assert!(a.rest().await.iter().all(|word| !word.contains("anew")));
}

/// A node that stops in order leaves nothing to wait for.
#[tokio::test]
async fn a_node_that_stops_is_told_as_gone_at_once() {
    let redis = Redis::start().await;
    let (mut a, b) = (Node::start(&redis.url()).await, Node::start(&redis.url()).await);
    b.enter("chat", "1", "olha");
    a.hear(|heard| heard.len() == 1).await;
    let stopped = Instant::now();
    b.actor.stop_and_wait(None, Some(patience())).await.expect("stopped");
    assert_eq!(a.hear(|heard| heard.len() == 1).await, ["chat -1!"]);
    assert!(stopped.elapsed() < LEASE, "{:?}", stopped.elapsed());
}

/// A node that is restarted: its clients come to the other within the hold, and those who do not are told as gone when that is over.
#[tokio::test]
async fn what_a_node_that_stops_held_another_holds_for_servers() {
    let redis = Redis::start().await;
    // As long as everything before the end of it may take on a slow machine.
    let (hold, settings) = (Duration::from_secs(9), PresenceSettings { lease: Duration::from_secs(60), ..SETTINGS });
    let (mut a, b) = (Node::with(&redis.url(), hold, settings).await, Node::with(&redis.url(), hold, settings).await);
    for (client, user) in [("1", "olha"), ("2", "ivan"), ("3", "petro")] {
        b.enter("chat", client, user);
    }
    b.count("chat", 3);
    b.count("alone", 1);
    a.hear(|heard| heard.len() == 3).await;
    eventually("it is with the store", async || b.metrics.waiting.get() + b.metrics.writing.get() == 0).await;
    // Two have left when it stops, and one is there still.
    b.exit("chat", "1");
    b.exit("chat", "2");
    b.count("chat", 0);
    assert_eq!(a.hear(|heard| heard.len() == 2).await, ["chat -1!", "chat -2!"]);
    let stopped = Instant::now();
    b.actor.stop_and_wait(None, Some(patience())).await.expect("stopped");
    let heard = a.rest().await;
    assert!(heard.is_empty(), "{heard:?}");
    assert!(a.events.is_empty(), "nothing is over yet: {:?}", a.events.try_recv());
    a.enter("chat", "4", "olha");
    a.count("chat", 1);
    let mut told = Vec::new();
    eventually("servers are told", async || {
        told.extend(std::iter::from_fn(|| a.events.try_recv().ok()));
        told.len() >= 3
    })
    .await;
    assert!(stopped.elapsed() > hold - RENEW * 5, "{:?}", stopped.elapsed());
    let mut heard = a.rest().await;
    heard.sort();
    assert_eq!(heard, ["chat +4!", "chat -3!"]);
    told.extend(std::iter::from_fn(|| a.events.try_recv().ok()));
    let removed = |user: &str| PresenceEvent::MemberRemoved { channel: "chat".into(), user: user.into() };
    for event in [removed("ivan"), removed("petro"), PresenceEvent::Vacated { channel: "alone".into() }] {
        assert!(told.contains(&event), "{event:?}: {told:?}");
    }
    assert_eq!(told.len(), 3, "who came back was never away, and neither was the channel empty: {told:?}");
}

/// A page that is loaded anew comes back on whichever node: servers hear neither that its user left nor that it came.
#[tokio::test]
async fn a_user_who_comes_back_on_another_node_never_left_for_servers() {
    let redis = Redis::start().await;
    let hold = Duration::from_secs(3);
    let (mut a, mut b) = (Node::holding(&redis.url(), hold).await, Node::holding(&redis.url(), hold).await);
    let members = |nodes: [&mut Node; 2]| -> Vec<PresenceEvent> {
        nodes.into_iter().flat_map(|node| std::iter::from_fn(|| node.events.try_recv().ok())).collect()
    };
    let (channel, user): (Arc<str>, Arc<str>) = ("chat".into(), "olha".into());
    let added = PresenceEvent::MemberAdded { channel: Arc::clone(&channel), user: Arc::clone(&user) };
    let removed = PresenceEvent::MemberRemoved { channel, user };
    a.enter("chat", "1", "olha");
    b.hear(|heard| heard.len() == 1).await;
    eventually("it is told", async || a.metrics.channels.get() == 2 && !a.events.is_empty()).await;
    assert_eq!(members([&mut a, &mut b]), [added]);
    for n in 1..5 {
        let (from, to) = if n % 2 == 1 { (&a, &mut b) } else { (&b, &mut a) };
        from.exit("chat", &n.to_string());
        let gone = format!("chat -{n}!");
        to.hear(|heard| heard.last() == Some(&gone)).await;
        to.enter("chat", &(n + 1).to_string(), "olha");
        // It was there before its goodbye there was over.
        eventually("it is over", async || from.metrics.held.get() == 0 && from.metrics.channels.get() == 0).await;
        assert_eq!(members([&mut a, &mut b]), [], "{n}");
    }
    a.exit("chat", "5");
    eventually("it is told", async || !a.events.is_empty()).await;
    assert_eq!(members([&mut a, &mut b]), [removed]);
}

/// An outage in which every lease ends. Whoever comes back first must not take the others for dead.
async fn outage(redis: &mut Redis, held: bool) {
    let (mut a, b) = (Node::start(&redis.url()).await, Node::start(&redis.url()).await);
    let dead = Node::start(&redis.url()).await;
    for (node, client) in [(&a, "1"), (&b, "2"), (&dead, "3")] {
        node.enter("chat", client, client);
        node.count("chat", 1);
    }
    a.hear(|heard| heard.len() == 3).await;
    a.rest().await;
    if held {
        redis.hold(true);
    } else {
        redis.save().await;
        redis.kill();
    }
    dead.die();
    eventually("it is known to be away", async || a.metrics.away.get() + b.metrics.away.get() == 2).await;
    tokio::time::sleep(LEASE * 2).await;
    if held {
        redis.hold(false);
    } else {
        redis.restart().await;
    }
    let back = Instant::now();
    let heard = a.hear(|heard| heard.iter().any(|word| word == "chat -3!")).await;
    let took = back.elapsed();
    let heard: Vec<_> = heard.into_iter().chain(a.rest().await).collect();
    assert_eq!(heard, ["chat -3!"], "those who live are not told as gone, nor as come");
    assert!(took > LEASE / 2 && took < LEASE * 3, "one lease after the outage, not {took:?}");
    let members = a.members("chat").await.expect("asked");
    assert_eq!(members.counts.clients, 2);
    let events: Vec<_> = std::iter::from_fn(|| a.events.try_recv().ok()).collect();
    assert!(!events.contains(&PresenceEvent::Vacated { channel: "chat".into() }), "{events:?}");
}

#[tokio::test]
async fn while_redis_hangs_for_longer_than_the_lease_nobody_dies_but_the_dead() {
    outage(&mut Redis::start().await, true).await;
}

#[tokio::test]
async fn while_redis_is_away_for_longer_than_the_lease_nobody_dies_but_the_dead() {
    outage(&mut Redis::start().await, false).await;
}
