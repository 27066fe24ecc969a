//! What every store of presence promises of members, numbers and channels.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dzvin::channels::presence::PresenceSettings;
use dzvin_actors::platform::ports::{Crowd, Member, MemberChange, Outcome, Presence};
use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::kit::{
    InCluster, InMemory, InRedis, Kit, LONG, change, channel, clients, counts, each, enter, entering, exit, leaving,
    member, occupy, settings, ticket,
};
use crate::support::eventually::eventually;

each!(
    the_first_and_the_last_of_a_user_are_known,
    said_again_it_changes_nothing,
    what_others_see_may_change,
    changes_are_made_in_their_order,
    an_answer_that_was_lost_is_given_again,
    members_come_in_pages,
    a_crowd_begins_above_and_ends_below,
    one_node_makes_each_edge,
    one_node_has_the_turn,
    channels_are_listed_in_order,
);

async fn the_first_and_the_last_of_a_user_are_known<K: Kit>() {
    let kit = K::start().await;
    let (a, b) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    assert_eq!(enter(&a, "chat", "1", "olha").await, (true, true));
    assert_eq!(enter(&b, "chat", "2", "olha").await, (true, false));
    assert_eq!(enter(&b, "chat", "3", "ivan").await, (true, true));
    assert_eq!(enter(&b, "other", "3", "ivan").await, (true, true), "channels do not touch each other");
    assert_eq!(counts(&a, "chat").await, (3, 2));
    assert_eq!(exit(&a, "chat", "1", "olha").await, (true, false));
    assert_eq!(exit(&b, "chat", "2", "olha").await, (true, true));
    assert_eq!(counts(&a, "chat").await, (1, 1));
    assert_eq!(clients(&a, "chat", 10).await, BTreeSet::from(["3".to_owned()]));
    assert_eq!(exit(&b, "chat", "3", "ivan").await, (true, true));
    assert_eq!(counts(&a, "chat").await, (0, 0));
    assert_eq!(counts(&a, "nowhere").await, (0, 0));
    assert_eq!(counts(&a, "other").await, (1, 1));
}

async fn said_again_it_changes_nothing<K: Kit>() {
    let kit = K::start().await;
    let node = kit.alive(settings(LONG)).await;
    assert_eq!(exit(&node, "chat", "1", "olha").await, (false, true), "it never was there");
    assert_eq!(enter(&node, "chat", "1", "olha").await, (true, true));
    assert_eq!(enter(&node, "chat", "1", "olha").await, (false, true));
    assert_eq!(counts(&node, "chat").await, (1, 1));
    assert_eq!(exit(&node, "chat", "1", "olha").await, (true, true));
    assert_eq!(exit(&node, "chat", "1", "olha").await, (false, true));
    assert_eq!(counts(&node, "chat").await, (0, 0));
    assert_eq!(enter(&node, "chat", "1", "olha").await, (true, true), "it may come back");
    enter(&node, "chat", "2", "olha").await;
    assert_eq!(exit(&node, "chat", "3", "olha").await, (false, false), "others of its user are there");
}

async fn what_others_see_may_change<K: Kit>() {
    let kit = K::start().await;
    let node = kit.alive(settings(LONG)).await;
    enter(&node, "chat", "1", "olha").await;
    let mut info = member("1", "olha").info.clone();
    info.chan_info = Some("{\"mood\": \"ї\\n\", \"n\": 12345678901234567890.10}".into());
    let known = Arc::new(Member { info, told: false, shown: true });
    change(&node, "chat", &[MemberChange::Enter(Arc::clone(&known))]).await;
    let page = node.members(&channel("chat"), 0, 10).await.expect("members");
    assert_eq!(page.members, [known], "as it was said last, to the byte");
    assert_eq!((page.counts.clients, page.counts.users), (1, 1));
}

async fn changes_are_made_in_their_order<K: Kit>() {
    let kit = K::start().await;
    let node = kit.alive(settings(LONG)).await;
    let changes = [
        entering("1", "olha"),
        entering("2", "olha"),
        leaving("1", "olha"),
        leaving("2", "olha"),
        entering("1", "olha"),
        leaving("9", "ivan"),
    ];
    let changed = change(&node, "chat", &changes).await;
    let edges: Vec<_> = changed
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Entered(it) => (it.new, it.first_of_user),
            Outcome::Exited(it) => (it.gone, it.last_of_user),
        })
        .collect();
    assert_eq!(edges, [(true, true), (true, false), (true, false), (true, true), (true, true), (false, true)]);
    assert_eq!((changed.counts.clients, changed.counts.users), (1, 1));
}

async fn an_answer_that_was_lost_is_given_again<K: Kit>() {
    let kit = K::start().await;
    let node = kit.alive(settings(LONG)).await;
    let (chat, first, second, third) = (channel("chat"), ticket(), ticket(), ticket());
    for _ in 0..2 {
        let changed = node.change(&chat, first, &[entering("1", "olha")]).await.expect("changed");
        assert_eq!(format!("{changed:?}").matches("true").count(), 2, "new and first, both times: {changed:?}");
    }
    for _ in 0..2 {
        let occupied = node.occupy(&chat, second, 4).await.expect("occupied");
        assert_eq!((occupied.before, occupied.now), (0, 4));
    }
    for _ in 0..2 {
        let changed = node.change(&chat, third, &[leaving("1", "olha")]).await.expect("changed");
        assert_eq!(format!("{changed:?}").matches("true").count(), 2, "gone and last, both times: {changed:?}");
        assert_eq!(changed.counts.clients, 0);
    }
    let fourth = ticket();
    for _ in 0..2 {
        let occupied = node.occupy(&chat, fourth, 0).await.expect("occupied");
        assert_eq!((occupied.before, occupied.now), (4, 0), "though nothing is left by which to know it");
    }
    node.change(&chat, first, &[entering("1", "olha")]).await.expect_err("overtaken");
    node.occupy(&chat, second, 4).await.expect_err("overtaken");
    assert_eq!(counts(&node, "chat").await, (0, 0));
}

async fn members_come_in_pages<K: Kit>() {
    let kit = K::start().await;
    let node = kit.alive(settings(LONG)).await;
    let names: BTreeSet<String> = (0..1500).map(|n| format!("client-{n}")).collect();
    for chunk in names.iter().collect::<Vec<_>>().chunks(64) {
        let changes: Vec<_> = chunk.iter().map(|name| entering(name, &name[..name.len() - 1])).collect();
        change(&node, "chat", &changes).await;
    }
    for limit in [1, 7, 400, 100_000] {
        let took = Instant::now();
        if limit > 1 {
            assert_eq!(clients(&node, "chat", limit).await, names, "by {limit}");
        } else {
            let page = node.members(&channel("chat"), 0, limit).await.expect("members");
            assert!(page.members.len() < 200 && page.next.is_some(), "{}", page.members.len());
        }
        assert!(took.elapsed() < Duration::from_secs(10));
    }
    let page = node.members(&channel("chat"), 0, 200).await.expect("members");
    assert!(page.members.len() < 400, "about as many as were asked for, not {}", page.members.len());
    let users: BTreeSet<&str> = page.members.iter().map(|member| &*member.info.user).collect();
    assert_eq!(page.by_user().count(), users.len());
    assert!(users.len() < page.members.len(), "some share a user");
    assert_eq!(page.counts.clients, 1500);
    assert_eq!(node.members(&channel("nowhere"), 0, 10).await.expect("members").next, None);
}

async fn a_crowd_begins_above_and_ends_below<K: Kit>() {
    let kit = K::start().await;
    let crowd = PresenceSettings { crowd: Crowd { above: 5, below: 3 }, ..settings(LONG) };
    let (a, b) = (kit.alive(crowd).await, kit.alive(crowd).await);
    let mut seen = Vec::new();
    for n in 0..7 {
        let changed = change(if n % 2 == 0 { &a } else { &b }, "chat", &[entering(&n.to_string(), "u")]).await;
        seen.push(changed.counts.crowded);
    }
    assert_eq!(seen, [false, false, false, false, false, true, true]);
    assert!(b.counts(&channel("chat")).await.expect("counted").crowded);
    seen.clear();
    for n in 0..7 {
        let changed = change(&a, "chat", &[leaving(&n.to_string(), "u")]).await;
        seen.push(changed.counts.crowded);
    }
    assert_eq!(seen, [true, true, true, true, false, false, false], "at three it is one still");
    // That it ended is answered once, and again if the answer was lost.
    for n in 0..6 {
        assert!(!change(&a, "chat", &[entering(&n.to_string(), "u")]).await.counts.ended);
    }
    let mut ended = Vec::new();
    for n in 0..6 {
        let said = ticket();
        for _ in 0..2 {
            let changed = a.change(&channel("chat"), said, &[leaving(&n.to_string(), "u")]).await.expect("changed");
            ended.push(changed.counts.ended);
        }
        assert!(!b.counts(&channel("chat")).await.expect("counted").ended, "nobody else is answered it");
    }
    assert_eq!(ended.iter().filter(|it| **it).count(), 2, "{ended:?}");
    assert_eq!(ended[6..8], [true, true], "the fourth left two");
    assert!(!change(&a, "chat", &[entering("9", "u")]).await.counts.crowded);
}

async fn one_node_makes_each_edge<K: Kit>() {
    let kit = K::start().await;
    let nodes = join_all((0..4).map(|_| kit.alive(settings(LONG)))).await;
    for round in 0..50 {
        let (up, down) = (
            join_all(nodes.iter().map(|node| occupy(node, "chat", 3))).await,
            join_all(nodes.iter().map(|node| occupy(node, "chat", 0))).await,
        );
        let edges = |all: &[(u64, u64)], edge: fn(&(u64, u64)) -> bool| all.iter().filter(|it| edge(it)).count();
        assert_eq!(edges(&up, |it| it.0 == 0 && it.1 > 0), 1, "round {round}: {up:?}");
        assert_eq!(edges(&down, |it| it.0 > 0 && it.1 == 0), 1, "round {round}: {down:?}");
        assert_eq!(up.iter().map(|it| it.1).max(), Some(12));
    }
    assert_eq!(occupy(&nodes[0], "chat", 2).await, (0, 2));
    assert_eq!(occupy(&nodes[0], "chat", 5).await, (2, 5), "what a node says replaces what it said");
}

async fn one_node_has_the_turn<K: Kit>() {
    let kit = K::start().await;
    let (a, b) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    occupy(&a, "chat", 3).await;
    occupy(&b, "chat", 4).await;
    let chat = channel("chat");
    for _ in 0..10 {
        let every = Duration::from_millis(60);
        let turns = join(a.turn(&chat, every), b.turn(&chat, every)).await;
        let mut told = [turns.0.expect("asked"), turns.1.expect("asked")];
        told.sort_unstable();
        assert!(told == [None, Some(7)] || told == [None, None], "{told:?}");
    }
    eventually("another turn comes", async || a.turn(&chat, Duration::from_millis(60)).await.expect("asked").is_some())
        .await;
}

async fn channels_are_listed_in_order<K: Kit>() {
    let kit = K::start().await;
    let (a, b) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    let mut expected = BTreeMap::new();
    for n in 0..150_u64 {
        let name = format!("chat.{n}");
        let node = if n % 3 == 0 { &a } else { &b };
        occupy(node, &name, n % 5 + 1).await;
        let mut subscribers = n % 5 + 1;
        if n % 7 == 0 {
            occupy(if n % 3 == 0 { &b } else { &a }, &name, 10).await;
            subscribers += 10;
        }
        expected.insert(name, subscribers);
    }
    for name in ["chat", "chat.ї", "news.1", "chau"] {
        occupy(&a, name, 1).await;
    }
    expected.insert("chat.ї".to_owned(), 1);
    occupy(&b, "chat.gone", 1).await;
    occupy(&b, "chat.gone", 0).await;
    // A member alone is no subscriber, and who is online is in no list whatever was said of it.
    enter(&b, "chat.member", "1", "olha").await;
    enter(&a, "#online-/olha", "1", "olha").await;
    occupy(&b, "#online-own/ivan", 1).await;
    for limit in [1, 10, 1000] {
        let (mut listed, mut after) = (Vec::new(), None::<Arc<str>>);
        loop {
            let part = a.channels("chat.", after.as_deref(), limit).await.expect("listed");
            assert!(part.len() <= limit);
            let Some((last, _)) = part.last() else { break };
            after = Some(Arc::clone(last));
            listed.extend(part);
        }
        let listed: Vec<_> = listed.into_iter().map(|(name, subscribers)| (name.to_string(), subscribers)).collect();
        assert_eq!(listed, expected.clone().into_iter().collect::<Vec<_>>(), "by {limit}");
    }
    let all = b.channels("", None, 10_000).await.expect("listed");
    assert_eq!(all.len(), expected.len() + 3);
    assert!(all.is_sorted());
    assert_eq!(b.channels("#online-own/", None, 10).await.expect("listed"), []);
    assert_eq!(b.channels("", Some("#online-/olha"), 10_000).await.expect("listed"), all);
    assert_eq!(b.channels("nothing", None, 10).await.expect("listed"), []);
    assert_eq!(b.channels("chat.", Some("zzz"), 10).await.expect("listed"), [], "after all of them");
    assert_eq!(b.channels("news.", Some("chat."), 10).await.expect("listed").len(), 1, "before all of them");
}
