//! Unmodified `pusher-js` at two hubs over a Redis Cluster that changes: a slot of each of their channels is moved, a primary dies and
//! its replica takes over. Nothing recovers on this wire: what a client missed it is told by a new connection, and never otherwise.

use std::collections::{BTreeSet, HashMap};

use dzvin_protocols::channels::pusher::{Credentials, http_api::sign_query};
use serde_json::{Value, json};

use super::{KEY, SECRET, assert_discreet, rules};
use crate::{
    bus::{
        servers::Cluster,
        slots::{Move, listeners},
    },
    hub::returns::Writer,
    support::{
        eventually::eventually,
        hub::{Hub, World},
        node::Script,
    },
};

const CHANGES: &str = "private-entities.note";

/// Who come while something changes.
const NEW: [&str; 3] = ["taras", "lesia", "ostap"];

/// Where a stream's keys and words are.
fn channel(stream: &str) -> String {
    format!("{{dzvin:{stream}}}:events")
}

/// What clients were told, by their names.
type Ledgers = Vec<(String, Value)>;

/// Two hubs over a cluster, their clients, and who publishes to them. Their three channels are on one primary.
struct Scene {
    home: usize,
    hubs: [Hub; 2],
    news: String,
    room: String,
    writer: Writer,
    clients: Script,
    /// Events that were offered, and those of them that a hub has taken.
    offered: u64,
    taken: Vec<u64>,
    there: BTreeSet<&'static str>,
    _world: World,
}

impl Scene {
    async fn start(cluster: &Cluster) -> Self {
        let home = cluster.owner(&channel("entities.note")).await;
        let on_it = async |name: &str| {
            for n in 0.. {
                let name = format!("{name}.{n}");
                if cluster.owner(&channel(&name)).await == home {
                    return name;
                }
            }
            unreachable!("every server has some")
        };
        let (news, room) = (on_it("news").await, on_it("presence-room").await);
        let mut world = World::new(0, false).await;
        world.redis_url = Some(cluster.url());
        let writer = Writer::new(&mut world).await;
        // Numbers of subscribers are no words of a member, and are told again and again.
        let rules = rules().replace("subscription_counts = true", "");
        let rules = format!("[channels]\npresence_lease = \"5s\"\n{rules}");
        let (a, b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
        let token = World::token("viewer");
        let args = ["--key", KEY, "--secret", SECRET, "--token", &token, "--news", &news, "--room", &room];
        let clients =
            Script::start("pusher-stay.mjs", &[args.as_slice(), &["--changes", CHANGES]].concat(), None).await;
        let (offered, taken, there) = (0, Vec::new(), BTreeSet::new());
        let hubs = [a, b];
        let mut it = Self { home, hubs, news, room, writer, clients, offered, taken, there, _world: world };
        for (name, hub) in [("olha", 0), ("ivan", 0), ("petro", 1), ("maria", 1)] {
            it.join(name, hub).await;
        }
        it.is_right().await;
        it.tells(3).await;
        it.are_heard().await;
        it
    }

    async fn join(&mut self, name: &'static str, hub: usize) {
        let url = format!("http://{}", self.hubs[hub].addr);
        self.clients.ask(json!({"ask": "join", "name": name, "url": url}), "joined").await;
        self.there.insert(name);
    }

    async fn leave(&mut self, name: &'static str) {
        self.clients.ask(json!({"ask": "leave", "name": name}), "left").await;
        self.there.remove(name);
    }

    /// Calls the signed API of a hub.
    async fn call(&self, hub: usize, method: &str, path: &str, body: String) -> (u16, Value) {
        let credentials = Credentials::new(KEY, SECRET).expect("key");
        let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");
        let path = format!("/apps/main/{path}");
        let query = sign_query(method, &path, &[], body.as_bytes(), &credentials, now);
        let url = format!("http://{}{path}?{query}", self.hubs[hub].addr);
        let method = method.parse().expect("a method");
        let answer = reqwest::Client::new().request(method, url).body(body).send().await.expect("answered");
        (answer.status().as_u16(), answer.json().await.expect("json"))
    }

    /// Offers one event, to one node and then to the other; whether it was taken.
    async fn offers(&mut self) -> bool {
        self.offered += 1;
        let (n, data) = (self.offered, json!({"n": self.offered}).to_string());
        let body = json!({"name": "told", "channel": self.news, "data": data}).to_string();
        let (status, answer) = self.call(usize::from(n % 2 == 0), "POST", "events", body).await;
        assert!([200, 503].contains(&status), "{status} {answer}");
        if status == 200 {
            self.taken.push(n);
        }
        status == 200
    }

    /// So many events that are taken, and a change of the durable stream with each.
    async fn tells(&mut self, count: usize) {
        for _ in 0..count {
            eventually("it is published", async || self.offers().await).await;
            self.writer.write(1).await;
        }
    }

    async fn ledgers(&mut self) -> Ledgers {
        let told = self.clients.ask(json!({"ask": "ledgers"}), "ledgers").await;
        told["all"].as_object().expect("ledgers").clone().into_iter().collect()
    }

    /// Those who are there have heard the last event and the last change.
    async fn are_heard(&mut self) {
        let last = [(self.news.clone(), *self.taken.last().expect("one")), (CHANGES.to_owned(), self.writer.written)];
        let there = self.there.clone();
        eventually(&format!("all have heard {last:?}"), async || {
            let ledgers = self.ledgers().await;
            let has = |told: &Value, (channel, n): &(String, u64)| {
                told.as_array().expect("a list").iter().any(|it| it["heard"] == **channel && it["n"] == *n)
            };
            let mut here = ledgers.iter().filter(|(name, _)| there.contains(name.as_str()));
            here.all(|(_, it)| last.iter().all(|last| has(&it["told"], last)))
        })
        .await;
    }

    /// Both nodes and every client know who is there.
    async fn is_right(&mut self) {
        let users: BTreeSet<String> = self.there.iter().map(ToString::to_string).collect();
        for hub in 0..2 {
            eventually(&format!("{users:?} are there"), async || {
                let (status, answer) =
                    self.call(hub, "GET", &format!("channels/{}/users", self.room), String::new()).await;
                let listed = answer["users"].as_array().into_iter().flatten();
                let listed: BTreeSet<_> = listed.filter_map(|it| it["id"].as_str().map(ToOwned::to_owned)).collect();
                status == 200 && listed == users
            })
            .await;
        }
        eventually(&format!("clients show {users:?}"), async || {
            let ledgers = self.ledgers().await;
            let mut here = ledgers.iter().filter(|(name, _)| users.contains(name));
            here.all(|(_, it)| {
                let shown: BTreeSet<String> = serde_json::from_value(it["members"].clone()).expect("a list");
                shown == users && has_all(&it["told"])
            })
        })
        .await;
    }

    /// Holds every ledger against what was taken; answers how many connections each client had.
    async fn judged(&mut self) -> Vec<(String, usize)> {
        let ledgers = self.ledgers().await;
        let of = |(name, it): &(String, Value)| {
            let told = it["told"].as_array().expect("a list");
            follows(name, told, &self.news, |n, last| {
                self.taken.iter().copied().find(|it| *it > last).is_none_or(|it| it >= n)
            });
            follows(name, told, CHANGES, |n, last| n == last + 1);
            is_consistent(name, told);
            (name.clone(), told.iter().filter(|it| it.get("connected").is_some()).count())
        };
        ledgers.iter().map(of).collect()
    }
}

/// Whether the connection that a client has now has its three channels.
fn has_all(told: &Value) -> bool {
    let told = told.as_array().expect("a list");
    let now = told.rsplit(|it| it.get("connected").is_some()).next().expect("a connection");
    now.iter().filter(|it| it.get("subscribed").is_some()).count() == 3
}

/// Events of a channel come in order and each once, and none is left out while the client has the channel.
fn follows(name: &str, told: &[Value], channel: &str, next: impl Fn(u64, u64) -> bool) {
    let (mut last, mut anew) = (0, true);
    for entry in told {
        anew |= entry["subscribed"] == *channel;
        if entry["heard"] == *channel {
            let n = entry["n"].as_u64().expect("a number");
            assert!(n > last, "{name} hears {n} of {channel} after {last}: {told:?}");
            assert!(anew || next(n, last), "{name} misses what is between {last} and {n} of {channel}: {told:?}");
            (last, anew) = (n, false);
        }
    }
}

/// Nobody is told twice of the same coming or going. The first word of somebody may be older than the list that came before it.
fn is_consistent(name: &str, told: &[Value]) {
    let mut words = HashMap::new();
    for entry in told {
        if !entry["members"].is_null() {
            words.clear();
        }
        if let Some((word, user)) = ["added", "removed"].iter().find_map(|it| Some((*it, entry[*it].as_str()?))) {
            assert!(words.insert(user, word) != Some(word), "{user} is {word} twice, as {name} is told: {told:?}");
        }
        assert!(entry.get("refused").is_none_or(|_| entry["status"] == 503), "{name} is refused for good: {entry}");
    }
}

/// Positions, words and members go along: no client notices.
#[tokio::test]
async fn pusher_clients_do_not_notice_that_their_slots_are_moved() {
    let cluster = Cluster::start(3, 0).await;
    let mut scene = Scene::start(&cluster).await;
    let (home, to) = (scene.home, (scene.home + 1) % 3);
    let streams = [scene.news.clone(), scene.room.clone(), "entities.note".to_owned()].map(|it| channel(&it));
    for (stream, comes, goes) in
        [(&streams[0], NEW[0], "ivan"), (&streams[1], NEW[1], "petro"), (&streams[2], NEW[2], NEW[0])]
    {
        assert_eq!(listeners(&cluster.servers[home], stream).await, 2, "both nodes are there");
        let moving = Move::begins(&cluster, stream, home, to).await;
        scene.tells(3).await;
        scene.join(comes, 1).await;
        moving.carries_keys().await;
        scene.tells(3).await;
        moving.ends().await;
        scene.leave(goes).await;
        scene.tells(3).await;
        scene.are_heard().await;
        scene.is_right().await;
    }
    for stream in &streams {
        assert_eq!(listeners(&cluster.servers[to], stream).await, 2, "both nodes are at the new place");
    }
    for (name, connections) in scene.judged().await {
        assert_eq!(connections, 1, "{name} was sent away, or refused for longer than the hub waits");
    }
    scene.hubs.iter().for_each(assert_discreet);
}

/// What a replica that takes over may lack cannot be known: clients are told to come back, and nobody on the list has left meanwhile.
#[tokio::test]
async fn pusher_clients_go_on_where_a_replica_has_taken_over() {
    let mut cluster = Cluster::start(3, 3).await;
    let mut scene = Scene::start(&cluster).await;
    scene.join("taras", 0).await;
    scene.leave("ivan").await;
    scene.is_right().await;
    cluster.servers[scene.home].kill();
    assert!(!scene.offers().await, "nobody has it");
    scene.writer.write(3).await;
    scene.tells(3).await;
    scene.join("lesia", 1).await;
    scene.leave("petro").await;
    scene.is_right().await;
    scene.tells(5).await;
    scene.are_heard().await;
    for (name, connections) in scene.judged().await {
        // Those who were there before and after.
        assert!(connections > 1 || !["olha", "maria", "taras"].contains(&&*name), "{name} was not told");
    }
    scene.hubs.iter().for_each(assert_discreet);
}
