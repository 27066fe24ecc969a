//! A real Redis that forgets, restarts and goes away under the store.

use std::{collections::BTreeSet, time::Duration};

use dzvin::channels::presence::{PresenceSettings, RedisPresence};
use dzvin_actors::platform::ports::{BusError, Life, Presence};
use futures_util::future::join_all;

use super::kit::{
    InRedis, Kit, LONG, SHORT, bury, bus, change, channel, clients, counts, enter, entering, exit, occupy, settings,
    ticket,
};
use crate::support::eventually::eventually;

/// Every key that is there.
async fn keys(kit: &InRedis) -> String {
    kit.server.command(&["KEYS", "*"]).await.expect("answered")
}

async fn answered<T>(what: &str, asking: impl AsyncFn() -> Result<T, BusError>) -> T {
    eventually(what, async || asking().await.ok()).await
}

#[tokio::test]
async fn what_was_forgotten_is_entered_again_without_a_word() {
    let kit = InRedis::start().await;
    let node = kit.alive(settings(LONG)).await;
    enter(&node, "chat", "1", "olha").await;
    occupy(&node, "chat", 1).await;
    kit.server.flush().await;
    // Said before it is known that all is lost.
    enter(&node, "chat", "2", "olha").await;
    assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: false });
    assert_eq!(enter(&node, "chat", "1", "olha").await, (true, false));
    assert_eq!(enter(&node, "chat", "2", "olha").await, (false, false));
    assert_eq!(occupy(&node, "chat", 2).await, (0, 2));
    assert_eq!(node.renew().await.expect("renewed"), Life::Same);
    assert_eq!(clients(&node, "chat", 10).await, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    assert_eq!(node.channels("", None, 10).await.expect("listed"), [("chat".into(), 2)]);
    for client in ["1", "2"] {
        exit(&node, "chat", client, "olha").await;
    }
    occupy(&node, "chat", 0).await;
    let left = keys(&kit).await;
    assert!(!left.contains("of:") && !left.contains("members") && !left.contains("channels"), "{left}");
}

#[tokio::test]
async fn a_restarted_server_is_another() {
    let mut kit = InRedis::start().await;
    let node = kit.alive(settings(SHORT * 10)).await;
    change(&node, "chat", &[entering("old", "olha"), entering("stays", "ivan")]).await;
    kit.server.save().await;
    enter(&node, "chat", "new", "petro").await;
    kit.server.restart().await;
    // It has the node's life as it was saved, and lacks what came after.
    let life = answered("it is renewed", async || node.renew().await).await;
    assert_eq!(life, Life::Anew { told: false });
    assert_eq!(enter(&node, "chat", "stays", "ivan").await, (false, true));
    assert_eq!(enter(&node, "chat", "new", "petro").await, (true, true));
    let mut gone = Vec::new();
    eventually("what the last life left is buried", async || {
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        gone.extend(bury(&node, 10).await);
        !gone.is_empty()
    })
    .await;
    assert_eq!(gone[0].left.iter().map(|(it, _)| &*it.info.client).collect::<Vec<_>>(), ["old"]);
    assert_eq!(counts(&node, "chat").await, (2, 2));
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_said_again() {
    let kit = InRedis::start().await;
    let (proxy, url) = kit.server.proxy().await;
    let bus = bus(&url).await.0;
    let node = RedisPresence::new(&bus, settings(LONG));
    assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: true });
    enter(&node, "chat", "1", "olha").await;
    kit.server.flush().await;
    for _ in 0..20 {
        // Heard, and cut before the answer, more often than not.
        let (renewed, ()) = futures_util::future::join(node.renew(), async {
            tokio::task::yield_now().await;
            proxy.cut();
        })
        .await;
        match renewed {
            Ok(Life::Anew { told }) => {
                assert!(!told);
                return;
            }
            Ok(Life::Same) => panic!("what was lost is not known as such"),
            Err(_) => eventually("it is connected", async || bus.is_connected()).await,
        }
    }
    let life = answered("it is renewed", async || node.renew().await).await;
    assert_eq!(life, Life::Anew { told: false });
}

#[tokio::test]
async fn a_burial_whose_answer_was_lost_is_answered_again() {
    let kit = InRedis::start().await;
    let hurried = PresenceSettings { telling: SHORT, ..settings(LONG) };
    let (proxy, url) = kit.server.proxy().await;
    let bus = bus(&url).await.0;
    let (near, far) = (kit.alive(hurried).await, RedisPresence::new(&bus, hurried));
    assert_eq!(far.renew().await.expect("renewed"), Life::Anew { told: true });
    // The server knows the scripts by this one.
    let first = kit.alive(settings(LONG)).await;
    enter(&first, "news", "0", "petro").await;
    first.resign(Duration::ZERO).await.expect("resigned");
    assert_eq!(bury(&near, 10).await.len(), 1);
    let dead = kit.alive(settings(LONG)).await;
    change(&dead, "chat", &[entering("1", "olha"), entering("2", "ivan")]).await;
    occupy(&dead, "chat", 2).await;
    dead.resign(Duration::ZERO).await.expect("resigned");
    proxy.cut_after(Some("grave:"));
    eventually("it is removed, and the answer lost", async || {
        assert!(far.bury(10).await.unwrap_or_default().is_empty(), "no answer comes through");
        counts(&near, "chat").await == (0, 0)
    })
    .await;
    let (mut gone, mut vacated) = (BTreeSet::new(), 0);
    eventually("another is answered it", async || {
        for grave in bury(&near, 10).await {
            gone.extend(grave.left.iter().map(|(it, last)| (it.info.client.to_string(), *last)));
            vacated += usize::from(grave.occupied.before == 2 && grave.occupied.now == 0);
        }
        gone.len() == 2 && vacated == 1
    })
    .await;
    proxy.cut_after(None);
    let rested = eventually("it is connected", async || far.bury(10).await.ok()).await;
    assert_eq!(rested, [], "it has been told");
}

#[tokio::test]
async fn while_the_server_is_away_calls_fail_at_once() {
    let mut kit = InRedis::start().await;
    let node = kit.alive(settings(LONG)).await;
    enter(&node, "chat", "1", "olha").await;
    kit.server.kill();
    eventually("it is known to be away", async || node.counts(&channel("chat")).await.is_err()).await;
    let asked = std::time::Instant::now();
    for _ in 0..100 {
        node.change(&channel("chat"), ticket(), &[entering("2", "ivan")]).await.expect_err("away");
        node.renew().await.expect_err("away");
        node.bury(10).await.expect_err("away");
    }
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    kit.server.restart_empty().await;
    let life = answered("it is renewed", async || node.renew().await).await;
    assert_eq!(life, Life::Anew { told: false });
    assert_eq!(enter(&node, "chat", "1", "olha").await, (true, true));
}

#[tokio::test]
async fn who_ends_while_the_list_of_lives_is_lost_is_buried_all_the_same() {
    let kit = InRedis::start().await;
    let (node, dead) = (kit.alive(settings(SHORT)).await, kit.alive(settings(SHORT)).await);
    enter(&node, "chat", "1", "olha").await;
    enter(&dead, "chat", "2", "ivan").await;
    occupy(&dead, "news", 1).await;
    // As a server of a cluster loses it on which nothing else lies.
    for name in ["presence", "dying", "buried", "left"] {
        kit.server.command(&["DEL", &format!("{{dz:nodes}}:{name}")]).await.expect("answered");
    }
    drop(dead);
    assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: false });
    assert_eq!(bury(&node, 10).await, [], "it has a lease's time to come back");
    assert_eq!(enter(&node, "chat", "1", "olha").await, (false, true));
    let (mut gone, mut vacated) = (Vec::new(), 0);
    eventually("it is buried", async || {
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        for grave in bury(&node, 10).await {
            gone.extend(grave.left.iter().map(|(it, last)| (it.info.client.to_string(), *last)));
            vacated += usize::from(grave.occupied.before == 1 && grave.occupied.now == 0);
        }
        !gone.is_empty() && vacated > 0
    })
    .await;
    assert_eq!((gone, vacated), (vec![("2".to_owned(), true)], 1));
    assert_eq!(clients(&node, "chat", 10).await, BTreeSet::from(["1".to_owned()]));
    eventually("the copies of the list have the living alone", async || {
        node.renew().await.expect("renewed");
        bury(&node, 10).await;
        kit.server.command(&["SCARD", "{dz:roll:0}"]).await.expect("answered") == ":1\r\n"
    })
    .await;
}

/// An outage of half a lease ends some leases and not others: whoever comes back first must not bury who is about to.
#[tokio::test]
async fn when_nobody_has_renewed_for_half_a_lease_nobody_is_buried_yet() {
    let kit = InRedis::start().await;
    let (node, other) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    enter(&node, "chat", "1", "olha").await;
    enter(&other, "chat", "2", "ivan").await;
    let lives = kit.server.command(&["ZRANGE", "{dz:nodes}:presence", "0", "-1"]).await.expect("answered");
    let lives: Vec<&str> = lives.split("\r\n").filter(|part| part.ends_with(".1")).collect();
    assert_eq!(lives.len(), 2, "{lives:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_millis();
    let (own, others) = {
        // Whose is whose: the one that is renewed has the later end.
        kit.server.command(&["ZADD", "{dz:nodes}:presence", "1", lives[0], "1", lives[1]]).await.expect("answered");
        kit.server
            .command(&["ZADD", "{dz:nodes}:presence", &(now + 1_000_000_000).to_string(), "keeps-others"])
            .await
            .expect("answered");
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        kit.server.command(&["ZREM", "{dz:nodes}:presence", "keeps-others"]).await.expect("answered");
        let last = kit.server.command(&["ZREVRANGE", "{dz:nodes}:presence", "0", "0"]).await.expect("answered");
        if last.contains(lives[0]) { (lives[0], lives[1]) } else { (lives[1], lives[0]) }
    };
    let lease = LONG.as_millis();
    let until = async |left: u128| {
        let (ended, newest) = ((now - 1_000).to_string(), (now + left).to_string());
        let set = ["ZADD", "{dz:nodes}:presence", &ended, others, &newest, own];
        kit.server.command(&set).await.expect("answered");
    };
    // Renewed last more than half a lease ago, and the other's lease has ended.
    until(lease * 2 / 5).await;
    assert_eq!(node.renew().await.expect("renewed"), Life::Same);
    assert_eq!(bury(&node, 10).await, [], "it has a lease in which to come back");
    assert_eq!(other.renew().await.expect("renewed"), Life::Same);
    // Renewed lately: it is the other that was away.
    until(lease * 4 / 5).await;
    assert_eq!(node.renew().await.expect("renewed"), Life::Same);
    let buried = bury(&node, 10).await;
    assert!(buried.iter().any(|grave| grave.left.iter().any(|(it, _)| &*it.info.client == "2")), "{buried:?}");
}

#[tokio::test]
async fn answers_are_kept_of_those_who_may_still_ask() {
    let kit = InRedis::start().await;
    let node = kit.alive(settings(LONG)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_millis();
    // Nodes that left the channel, of now and of long ago.
    for n in 0..20 {
        for (name, at) in [("now", now), ("old", 1)] {
            let (life, answer) = (format!("{name}{n}.1"), format!("{n} o 0 1 0 @{at}"));
            kit.server.command(&["HSET", "{dz:chat}:answers", &life, &answer]).await.expect("answered");
        }
    }
    kit.server.command(&["HSET", "{dz:chat}:answers", "older.1", "1 o 0 1 0"]).await.expect("answered");
    enter(&node, "chat", "1", "olha").await;
    let kept = kit.server.command(&["HKEYS", "{dz:chat}:answers"]).await.expect("answered");
    assert_eq!((kept.matches("now").count(), kept.matches("old").count()), (20, 0), "{kept}");
    assert!(kept.starts_with("*21"), "{kept}");
}

#[tokio::test]
async fn nothing_is_left_of_who_came_and_went() {
    let kit = InRedis::start().await;
    let (dead, node) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    for name in ["a", "b}c", "ї"] {
        enter(&node, name, "1", "olha").await;
        occupy(&node, name, 1).await;
        enter(&dead, name, "2", "ivan").await;
        occupy(&dead, name, 1).await;
        exit(&node, name, "1", "olha").await;
        occupy(&node, name, 0).await;
        dead.renew().await.expect("renewed");
    }
    let mut gone = 0;
    eventually("the dead is buried", async || {
        gone += bury(&node, 100).await.len();
        gone == 3 && bury(&node, 100).await.is_empty()
    })
    .await;
    let left = keys(&kit).await;
    for kept in ["members", "users", "of:", "occupancy", "channels", "crowd", "grave", ":dying"] {
        assert!(!left.contains(kept), "{kept}: {left}");
    }
    // Answers go by themselves.
    let time = kit.server.command(&["PTTL", "{dz:a}:answers"]).await.expect("answered");
    let time: i64 = time[1..].trim().parse().expect("a number");
    assert!((1..=600_000).contains(&time), "{time}");
}

/// Scripts that the server has run so far.
async fn scripts(kit: &InRedis) -> u64 {
    let stats = kit.server.command(&["INFO", "commandstats"]).await.expect("answered");
    let calls = |line: &str| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse::<u64>().ok();
    stats.lines().find_map(|line| calls(line.trim())).unwrap_or(0)
}

#[tokio::test]
async fn a_list_of_channels_costs_the_same_however_many_users_are_watched() {
    const WATCHED: usize = 2_000;
    let kit = InRedis::start().await;
    let node = kit.alive(settings(LONG)).await;
    let names: Vec<String> = (0..WATCHED).map(|n| format!("#online-/user {n}")).collect();
    for some in names.chunks(100) {
        join_all(some.iter().map(|name| enter(&node, name, "1", "olha"))).await;
    }
    for name in ["!", "#online", "#online.x", "chat", "news"] {
        occupy(&node, name, 1).await;
    }
    let before = scripts(&kit).await;
    let listed = node.channels("", None, 1_000).await.expect("listed");
    let named: Vec<&str> = listed.iter().map(|(name, _)| &**name).collect();
    assert_eq!(named, ["!", "#online", "#online.x", "chat", "news"]);
    assert_eq!(node.channels("#online-", None, 10).await.expect("listed"), []);
    assert_eq!(node.channels("#on", None, 1).await.expect("listed"), [("#online".into(), 1)]);
    let asked = scripts(&kit).await - before;
    assert!(asked < 40, "{asked} scripts for five channels beside {WATCHED} users");
}
