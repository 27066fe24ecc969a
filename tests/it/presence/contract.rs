//! What every store of presence promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use dzvin::channels::presence::PresenceSettings;
use dzvin_actors::platform::ports::{Buried, Crowd, Life, Member, Presence};
use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::kit::{
    InCluster, InMemory, InRedis, Kit, LONG, SHORT, bury, change, channel, clients, counts, enter, entering, exit,
    leaving, member, occupy, settings, ticket,
};
use crate::support::eventually::eventually;

macro_rules! each {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[tokio::test] async fn $promise() { super::$promise::<super::InMemory>().await; })* }
        mod redis { $(#[tokio::test] async fn $promise() { super::$promise::<super::InRedis>().await; })* }
        mod cluster { $(#[tokio::test] async fn $promise() { super::$promise::<super::InCluster>().await; })* }
    };
}

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
    nothing_is_written_before_a_life_begins,
    the_dead_are_buried_once,
    what_was_removed_is_answered_until_it_has_been_told,
    who_came_back_is_not_told_as_gone,
    the_end_of_a_crowd_is_known_to_who_buries_it,
    who_is_buried_begins_anew,
    a_next_life_takes_over_without_a_word,
    who_was_entered_two_lives_ago_is_not_buried,
    who_resigns_is_buried_at_once,
    the_living_are_not_buried,
    names_are_any_text,
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
    change(&node, "chat", &[dzvin_actors::platform::ports::MemberChange::Enter(Arc::clone(&known))]).await;
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
            dzvin_actors::platform::ports::Outcome::Entered(it) => (it.new, it.first_of_user),
            dzvin_actors::platform::ports::Outcome::Exited(it) => (it.gone, it.last_of_user),
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

async fn nothing_is_written_before_a_life_begins<K: Kit>() {
    let kit = K::start().await;
    let node = kit.node(settings(LONG)).await;
    node.change(&channel("chat"), ticket(), &[entering("1", "olha")]).await.expect_err("no life");
    node.occupy(&channel("chat"), ticket(), 1).await.expect_err("no life");
    assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: true });
    assert_eq!(node.renew().await.expect("renewed"), Life::Same);
    enter(&node, "chat", "1", "olha").await;
    node.begin();
    node.change(&channel("chat"), ticket(), &[entering("2", "olha")]).await.expect_err("that life is over");
}

/// Burials of several nodes at once, until nothing is left.
async fn bury_all<P: Presence>(nodes: &[&P], limit: usize) -> Vec<Buried> {
    let mut all = Vec::new();
    loop {
        let graves = join_all(nodes.iter().map(|node| bury(*node, limit))).await;
        let graves: Vec<Buried> = graves.into_iter().flatten().collect();
        if graves.is_empty() {
            return all;
        }
        all.extend(graves);
    }
}

fn left(graves: &[Buried]) -> Vec<(String, String, bool)> {
    let left = graves.iter().flat_map(|grave| {
        let name = grave.channel.as_str().to_owned();
        grave.left.iter().map(move |(member, last)| (name.clone(), member.info.client.to_string(), *last))
    });
    let mut left: Vec<_> = left.collect();
    left.sort();
    left
}

async fn the_dead_are_buried_once<K: Kit>() {
    let kit = K::start().await;
    let dead = kit.alive(settings(SHORT)).await;
    let (b, c) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    let changes: Vec<_> = (0..50).map(|n| entering(&format!("dead-{n:02}"), &format!("user-{}", n / 2))).collect();
    change(&dead, "chat", &changes).await;
    change(&dead, "news", &changes[..3]).await;
    enter(&b, "chat", "alive", "user-0").await;
    occupy(&dead, "chat", 50).await;
    occupy(&dead, "news", 3).await;
    occupy(&dead, "quiet", 1).await;
    occupy(&b, "chat", 1).await;
    assert_eq!(bury_all(&[&b, &c], 100).await, [], "its lease has not ended");
    eventually("the lease ends", async || !bury(&b, 1).await.is_empty()).await;
    let graves = bury_all(&[&b, &c, &b], 7).await;
    let gone = left(&graves);
    // One was removed, or one channel, when the waiting ended.
    assert!((52..=53).contains(&gone.len()), "{gone:?}");
    let unique: BTreeSet<_> = gone.iter().map(|(channel, client, _)| (channel, client)).collect();
    assert_eq!(unique.len(), gone.len(), "each once");
    let last = gone.iter().filter(|(channel, _, last)| channel == "chat" && *last).count();
    assert!((23..=24).contains(&last), "one client of each user but the first, who is there still: {last}");
    assert_eq!(counts(&b, "chat").await, (1, 1));
    assert_eq!(counts(&b, "news").await, (0, 0));
    for name in ["news", "quiet"] {
        let edges = graves.iter().filter(|it| it.channel == channel(name) && it.occupied.now == 0);
        assert!(edges.filter(|it| it.occupied.before > 0).count() <= 1, "{name} is vacated once");
    }
    assert_eq!(b.channels("", None, 10).await.expect("listed"), [("chat".into(), 1)]);
    assert_eq!(enter(&b, "news", "1", "user-1").await, (true, true), "nothing of the dead is left");
}

/// One whose burials are another's if they are not told at once.
fn hurried() -> PresenceSettings {
    PresenceSettings { telling: SHORT, ..settings(LONG) }
}

/// Whoever removed it may have died before it said a word, or never heard what it had removed.
async fn what_was_removed_is_answered_until_it_has_been_told<K: Kit>() {
    let kit = K::start().await;
    let dead = kit.alive(settings(LONG)).await;
    let (dies, other) = (kit.alive(hurried()).await, kit.alive(hurried()).await);
    change(&dead, "chat", &[entering("1", "olha"), entering("2", "ivan"), entering("3", "ivan")]).await;
    occupy(&dead, "chat", 3).await;
    occupy(&dead, "alone", 1).await;
    dead.resign().await.expect("resigned");
    let removed = Instant::now();
    let first = dies.bury(100).await.expect("buried");
    assert_eq!((left(&first).len(), first.len()), (3, 2));
    assert!(first.iter().all(|it| it.grave.until > removed && !it.grave.more));
    assert_eq!((bury(&other, 100).await, bury(&dies, 100).await), (vec![], vec![]), "it is being told");
    drop(dies);
    let mut again = Vec::new();
    eventually("another is answered it", async || {
        again.extend(other.bury(100).await.expect("buried"));
        again.len() >= 2
    })
    .await;
    assert!(removed.elapsed() >= SHORT);
    let by_name = |graves: &[Buried]| -> BTreeMap<_, _> {
        let told =
            graves.iter().map(|it| (it.channel.clone(), (left(std::slice::from_ref(it)), it.counts, it.occupied)));
        told.collect()
    };
    assert_eq!(by_name(&again), by_name(&first), "all of it, as it was");
    for it in &again {
        other.close(&it.channel, &it.grave).await.expect("closed");
    }
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(bury(&other, 100).await, [], "once it has been told it is answered to nobody");
    // Said late it closes nothing but what it was said of.
    let next = kit.alive(settings(LONG)).await;
    enter(&next, "chat", "1", "olha").await;
    next.resign().await.expect("resigned");
    let third = other.bury(100).await.expect("buried");
    other.close(&first[0].channel, &first[0].grave).await.expect("closed");
    other.close(&channel("chat"), &first[0].grave).await.expect("closed");
    let mut fourth = Vec::new();
    eventually("it is answered again", async || {
        fourth = other.bury(100).await.expect("buried");
        !fourth.is_empty()
    })
    .await;
    assert_eq!((left(&third).len(), left(&fourth)), (1, left(&third)));
}

async fn the_end_of_a_crowd_is_known_to_who_buries_it<K: Kit>() {
    let kit = K::start().await;
    let crowd = PresenceSettings { crowd: Crowd { above: 5, below: 3 }, ..hurried() };
    let (dead, node) = (kit.alive(crowd).await, kit.alive(crowd).await);
    let changes: Vec<_> = (0..7).map(|n| entering(&n.to_string(), "u")).collect();
    change(&dead, "chat", &changes).await;
    dead.resign().await.expect("resigned");
    let buried = node.bury(100).await.expect("buried");
    assert!(buried.len() == 1 && buried[0].counts.ended, "{buried:?}");
    let mut again = Vec::new();
    eventually("it is answered again", async || {
        again.extend(bury(&node, 100).await);
        !again.is_empty()
    })
    .await;
    assert!(again[0].counts.ended);
}

async fn who_came_back_is_not_told_as_gone<K: Kit>() {
    let kit = K::start().await;
    let (dead, node) = (kit.alive(settings(LONG)).await, kit.alive(hurried()).await);
    change(&dead, "chat", &[entering("1", "olha"), entering("2", "ivan"), entering("3", "petro")]).await;
    occupy(&dead, "chat", 3).await;
    occupy(&dead, "again", 1).await;
    dead.resign().await.expect("resigned");
    let lost = node.bury(100).await.expect("buried");
    assert_eq!(left(&lost).iter().filter(|(.., last)| *last).count(), 3);
    // A node that was only cut off enters its clients again; another client of a user comes; subscribers come.
    assert_eq!(enter(&node, "chat", "1", "olha").await, (true, true));
    assert_eq!(enter(&node, "chat", "9", "ivan").await, (true, true));
    assert_eq!(occupy(&node, "again", 4).await, (0, 4));
    let mut graves = Vec::new();
    eventually("it is answered again", async || {
        graves.extend(bury(&node, 100).await);
        graves.len() >= 2
    })
    .await;
    let chat = |client: &str, last| ("chat".to_owned(), client.to_owned(), last);
    assert_eq!(left(&graves), [chat("2", false), chat("3", true)]);
    let edge = |name| {
        let it = graves.iter().find(|it| it.channel == channel(name)).expect("told").occupied;
        (it.before, it.now)
    };
    assert_eq!((edge("chat"), edge("again")), ((3, 0), (1, 4)), "vacated is only what is empty still");
}

async fn who_is_buried_begins_anew<K: Kit>() {
    let kit = K::start().await;
    let (frozen, other) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    enter(&frozen, "chat", "1", "olha").await;
    occupy(&frozen, "chat", 1).await;
    let mut graves = Vec::new();
    eventually("it is buried", async || {
        graves.extend(bury(&other, 10).await);
        !graves.is_empty()
    })
    .await;
    assert_eq!(left(&graves), [("chat".to_owned(), "1".to_owned(), true)]);
    let vacated = graves.iter().filter(|it| it.occupied.before == 1 && it.occupied.now == 0).count();
    assert_eq!(vacated, 1);
    frozen.change(&channel("chat"), ticket(), &[entering("2", "olha")]).await.expect_err("it has lapsed");
    assert_eq!(frozen.renew().await.expect("renewed"), Life::Anew { told: true });
    assert_eq!(enter(&frozen, "chat", "1", "olha").await, (true, true), "it was told as gone, so it comes anew");
    assert_eq!(occupy(&frozen, "chat", 1).await, (0, 1));
    assert_eq!(bury_all(&[&other], 10).await, []);
}

async fn a_next_life_takes_over_without_a_word<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    let everyone = [entering("stays", "olha"), entering("left", "ivan"), entering("leaves", "petro")];
    change(&node, "chat", &everyone).await;
    occupy(&node, "chat", 3).await;
    occupy(&node, "empty", 1).await;
    node.begin();
    assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: true });
    assert_eq!(enter(&node, "chat", "stays", "olha").await, (false, true), "it was never gone");
    assert_eq!(exit(&node, "chat", "leaves", "petro").await, (true, true), "of whichever life");
    assert_eq!(occupy(&node, "chat", 1).await, (3, 1), "not both lives' numbers together");
    let mut graves = Vec::new();
    eventually("what the last life left is buried", async || {
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        graves.extend(bury(&other, 10).await);
        !left(&graves).is_empty() && graves.iter().any(|it| it.channel == channel("empty"))
    })
    .await;
    assert_eq!(left(&graves), [("chat".to_owned(), "left".to_owned(), true)]);
    assert_eq!(clients(&other, "chat", 10).await, BTreeSet::from(["stays".to_owned()]));
    assert_eq!(other.channels("", None, 10).await.expect("listed"), [("chat".into(), 1)]);
}

async fn who_was_entered_two_lives_ago_is_not_buried<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    change(&node, "chat", &[entering("stays", "olha"), entering("left", "ivan")]).await;
    for _ in 0..2 {
        node.begin();
        assert_eq!(node.renew().await.expect("renewed"), Life::Anew { told: true });
    }
    assert_eq!(enter(&node, "chat", "stays", "olha").await, (false, true));
    let mut graves = Vec::new();
    eventually("what the first life left is buried", async || {
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        graves.extend(bury(&other, 10).await);
        !graves.is_empty()
    })
    .await;
    graves.extend(bury_all(&[&other], 10).await);
    assert_eq!(left(&graves), [("chat".to_owned(), "left".to_owned(), true)]);
    assert_eq!(counts(&other, "chat").await, (1, 1));
}

async fn who_resigns_is_buried_at_once<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    enter(&node, "chat", "1", "olha").await;
    node.resign().await.expect("resigned");
    assert_eq!(left(&bury_all(&[&other], 10).await), [("chat".to_owned(), "1".to_owned(), true)]);
    node.change(&channel("chat"), ticket(), &[entering("1", "olha")]).await.expect_err("it has gone");
}

async fn the_living_are_not_buried<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    enter(&node, "chat", "1", "olha").await;
    let begun = Instant::now();
    while begun.elapsed() < SHORT * 3 {
        assert_eq!(node.renew().await.expect("renewed"), Life::Same);
        assert_eq!(bury(&other, 10).await, []);
        tokio::time::sleep(SHORT / 20).await;
    }
    assert_eq!(counts(&other, "chat").await, (1, 1));
}

/// Channel names are checked elsewhere; users and what is said of them are whatever a token says.
async fn names_are_any_text<K: Kit>() {
    let kit = K::start().await;
    let dead = kit.alive(settings(SHORT)).await;
    let node = kit.alive(settings(LONG)).await;
    let users = ["", "\t", "1\t2\t3", "ї\n", "0", "'\"{}", "a b", "\0", "+", "-"];
    for (n, user) in users.iter().enumerate() {
        assert_eq!(enter(&dead, "chat", &format!("{n}\t\n"), user).await, (true, true), "{user:?}");
        assert_eq!(enter(&dead, "chat", &format!("{n}"), user).await, (true, false), "{user:?}");
        assert_eq!(exit(&dead, "chat", &format!("{n}"), user).await, (true, false), "{user:?}");
        dead.renew().await.expect("renewed");
    }
    let page = node.members(&channel("chat"), 0, 100).await.expect("members");
    let known: BTreeSet<&str> = page.members.iter().map(|member| &*member.info.user).collect();
    assert_eq!(known, BTreeSet::from(users));
    let mut graves = Vec::new();
    eventually("it is buried", async || {
        graves.extend(bury(&node, 100).await);
        !graves.is_empty()
    })
    .await;
    let gone = left(&graves);
    assert!(gone.len() == users.len() && gone.iter().all(|(_, _, last)| *last), "{gone:?}");
}
