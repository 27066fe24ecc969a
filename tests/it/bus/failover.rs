//! Whole hubs behind Sentinel, and unmodified clients of theirs: a primary is killed whose replica lags.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde_json::{Value, json};

use super::sentinel::{is_primary, watched};
use crate::{
    hub::{
        returns::{RETURN, assert_whole, bus_is, followed, reached},
        server::{API_KEY, ask, call, with_key},
    },
    support::{
        eventually::{eventually, patience},
        hub::{Hub, KEY, World},
        node::Script,
    },
};

const CHANNEL: &str = "chat.1";
/// Who leaves while the replica lags.
const LEFT: &str = "petro";
/// Who comes then: the replica does not know, and it is said again.
const CAME: &str = "taras";

/// Within which what a replica had of those who left is gone.
const LEASE: Duration = Duration::from_secs(5);

fn rules() -> String {
    let chat = "[channels.namespaces.chat]\nsubscribe = \"signed_in\"\npresence = true\njoin_leave = true\n";
    format!("[channels]\npresence_lease = \"{}s\"\n{}", LEASE.as_secs(), with_key(chat))
}

/// A publication that a hub has acknowledged, and where it said that it is.
#[derive(Debug, Clone, PartialEq)]
struct Place {
    epoch: String,
    offset: u64,
    n: u64,
}

/// A server of the application that asks one node after the other, and gives each publication to one of them once.
#[derive(Default)]
struct Backend {
    offered: u64,
    taken: Vec<Place>,
    refused: u64,
}

impl Backend {
    /// Until so many more are taken.
    async fn publishes(&mut self, hubs: &[Hub; 2], count: usize) {
        let all = self.taken.len() + count;
        eventually("it is published", async || {
            self.offered += 1;
            let n = self.offered;
            let body = json!({"channel": CHANNEL, "data": {"n": n}});
            let (status, _, answer) = call(&hubs[n as usize % 2], "publish", &body).await;
            match status {
                200 => {
                    let place = &answer["result"];
                    let offset = place["offset"].as_u64().expect("an offset");
                    self.taken.push(Place { epoch: place["epoch"].as_str().expect("an epoch").to_owned(), offset, n });
                }
                status => {
                    assert_eq!(status, 503, "{answer}");
                    self.refused += 1;
                }
            }
            self.taken.len() == all
        })
        .await;
    }

    fn last(&self) -> &Place {
        self.taken.last().expect("something is published")
    }
}

/// Clients of the channel (`tests/clients/listeners.mjs`).
struct Listeners(Script);

impl Listeners {
    async fn start(hub: &Hub) -> Self {
        let (url, millis) = (format!("http://{}", hub.addr), patience().as_millis().to_string());
        let args = ["--url", &url, "--signing", KEY, "--apikey", API_KEY, "--only", CHANNEL, "--timeout", &millis];
        Self(Script::start("listeners.mjs", &args, None).await)
    }

    async fn join(&mut self, name: &str, hub: &Hub) {
        self.0.ask(json!({"ask": "join", "name": name, "url": format!("http://{}", hub.addr)}), "joined").await;
    }

    async fn leave(&mut self, name: &str) {
        self.0.ask(json!({"ask": "leave", "name": name}), "left").await;
    }

    async fn ledgers(&mut self) -> Vec<(String, Vec<Value>)> {
        let told = self.0.ask(json!({"ask": "ledgers"}), "ledgers").await;
        let all = told["all"].as_object().expect("ledgers").iter();
        all.map(|(name, ledger)| (name.clone(), ledger.as_array().expect("a ledger").clone())).collect()
    }

    /// Waits until these have heard this publication.
    async fn hear(&mut self, names: &[&str], last: &Place) {
        eventually(&format!("all have heard {last:?}"), async || {
            let ledgers = self.ledgers().await;
            let of = |name: &str| ledgers.iter().find(|(of, _)| of == name).expect("one of them");
            names.iter().all(|name| of(name).1.iter().any(|entry| entry["n"] == last.n))
        })
        .await;
    }
}

/// What one client was told, held against what was taken: from where a subscription begins offsets grow by one, in one epoch, each with
/// what was said there, up to the last of all. Where it does not go on from the last the client was told so, by a beginning that is
/// not recovered, and loads what it shows: that many are answered. Nothing keeps what is said of who comes and goes for a node that has
/// no ears: behind the `last` that was taken before the primary died, and before such a beginning, one word of each user may be missing.
fn judge(name: &str, ledger: &[Value], taken: &[Place], last: &Place) -> usize {
    let (mut at, mut told, mut words, mut twice) = ((String::new(), 0), 0, HashMap::new(), BTreeSet::new());
    for entry in ledger {
        if let Some(began) = entry.get("began") {
            let place = (began["epoch"].as_str().expect("an epoch").to_owned(), began["offset"].as_u64().expect("one"));
            if began["recovered"] == true {
                assert!(twice.is_empty(), "{name} is told twice of {twice:?}: {ledger:?}");
                assert_eq!(place.0, at.0, "{name} goes on where it was: {ledger:?}");
                continue;
            }
            told += usize::from(began["recovered"] == false);
            at = place;
            words.clear();
            twice.clear();
        } else if let Some(offset) = entry["offset"].as_u64() {
            assert!(twice.is_empty(), "{name} is told twice of {twice:?}: {ledger:?}");
            assert_eq!(offset, at.1 + 1, "{name} has a hole or a double: {ledger:?}");
            at.1 = offset;
            let place = Place { epoch: at.0.clone(), offset, n: entry["n"].as_u64().expect("a number") };
            let said = taken.iter().find(|it| it.n == place.n);
            assert!(said.is_none_or(|said| *said == place), "{name} heard {place:?}, of which was said {said:?}");
        } else if let Some((word, user)) = ["join", "leave"].iter().find_map(|it| Some((*it, entry[*it].as_str()?))) {
            // The replica has who has left, and says it once more.
            if words.insert(user, word) == Some(word) && ![LEFT, CAME].contains(&user) {
                let deaf = at == (last.epoch.clone(), last.offset);
                assert!(deaf && twice.insert(user), "{name} is told twice of the {word} of {user}: {ledger:?}");
            }
        }
    }
    assert!(twice.is_empty(), "{name} is told twice of {twice:?}: {ledger:?}");
    let last = taken.last().expect("something was taken");
    assert_eq!(at, (last.epoch.clone(), last.offset), "{name} is where the stream is: {ledger:?}");
    told
}

/// Who is there, as both nodes say.
async fn present(hubs: &[Hub; 2], names: &[&str]) {
    for hub in hubs {
        eventually(&format!("{names:?} are there"), async || {
            let answer = ask(hub, "presence", &json!({"channel": CHANNEL})).await;
            let members = answer["result"]["presence"].as_object();
            let users: Option<Vec<_>> = members.map(|all| all.values().filter_map(|it| it["user"].as_str()).collect());
            users.is_some_and(|users| {
                users.len() == names.len() && BTreeSet::from_iter(users) == BTreeSet::from_iter(names.iter().copied())
            })
        })
        .await;
    }
}

#[tokio::test]
async fn clients_of_whole_hubs_are_recovered_or_told_when_a_replica_that_lags_takes_over() {
    // A primary that a busy machine holds up for a moment is not dead.
    let mut redis = watched(&[], "sentinel down-after-milliseconds main 2000").await;
    let mut world = World::new(0, false).await;
    world.redis_url = Some(redis.url());
    world.mirrors.push_str(&rules());
    let (mut writer, hubs, _front, mut followers) = followed(&mut world).await;
    let (mut backend, mut listeners) = (Backend::default(), Listeners::start(&hubs[0]).await);
    for (name, hub) in [("olha", 0), ("ivan", 0), (LEFT, 1), ("maria", 1)] {
        listeners.join(name, &hubs[hub]).await;
    }
    backend.publishes(&hubs, 10).await;
    listeners.hear(&["olha", "ivan", LEFT, "maria"], backend.last()).await;
    present(&hubs, &["olha", "ivan", LEFT, "maria"]).await;

    // The replica has all until here, and nothing of what clients see now: publications, one who comes and one who goes.
    let between = redis.between().await;
    let position = ["HGET", "{dzvin:chat.1}:position", "top"];
    eventually("the replica has it", async || redis.replica.ask(&position).await == "$2\r\n10\r\n").await;
    between.stall(true);
    backend.publishes(&hubs, 5).await;
    writer.write(20).await;
    listeners.join(CAME, &hubs[0]).await;
    listeners.leave(LEFT).await;
    let there = ["olha", "ivan", "maria", CAME];
    present(&hubs, &there).await;
    backend.publishes(&hubs, 5).await;
    listeners.hear(&there, backend.last()).await;
    reached(&mut followers, &writer).await;
    redis.primary.kill();
    writer.write(20).await;
    assert_eq!(backend.refused, 0, "nothing was refused while there was a primary");
    let last = backend.last().clone();
    backend.publishes(&hubs, 1).await;
    is_primary(&redis.replica).await;
    assert!(backend.refused > 0, "and while there was none nothing was taken that could be lost");
    assert_ne!(backend.last().epoch, last.epoch, "what it lacks cannot be known");
    bus_is(&hubs, "ok").await;
    writer.write(20).await;
    let took = reached(&mut followers, &writer).await;
    assert!(took < RETURN, "another server is the primary: {took:?}");

    backend.publishes(&hubs, 10).await;
    listeners.hear(&there, backend.last()).await;
    let ledgers = listeners.ledgers().await;
    for (name, ledger) in &ledgers {
        if name != LEFT {
            assert_eq!(judge(name, ledger, &backend.taken, &last), 1, "{name} is told once: {ledger:?}");
        }
    }
    present(&hubs, &there).await;
    assert_whole(&followers.finish().await);
    for hub in &hubs {
        assert_eq!(hub.metric("dzvin_actor_restarts").await, 0.0, "nothing in it had to begin again");
    }
    for name in there {
        listeners.leave(name).await;
    }
    present(&hubs, &[]).await;
    for hub in &hubs {
        eventually("nothing is left of them", async || {
            hub.metric("dzvin_presence_clients").await == 0.0 && hub.metric("dzvin_channels").await == 0.0
        })
        .await;
    }
}
