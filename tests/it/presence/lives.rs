//! What every store of presence promises of lives: whose has ended is buried once, told once, and nobody else is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dzvin::channels::presence::PresenceSettings;
use dzvin_actors::platform::ports::{Buried, Crowd, Life, Presence};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::kit::{
    InCluster, InMemory, InRedis, Kit, LONG, SHORT, bury, change, channel, clients, counts, each, enter, entering,
    exit, occupy, settings, ticket,
};
use crate::support::eventually::eventually;

each!(
    nothing_is_written_before_a_life_begins,
    the_dead_are_buried_once,
    what_was_removed_is_answered_until_it_has_been_told,
    who_came_back_is_not_told_as_gone,
    the_end_of_a_crowd_is_known_to_who_buries_it,
    who_is_buried_begins_anew,
    a_next_life_takes_over_without_a_word,
    who_was_entered_two_lives_ago_is_not_buried,
    who_resigns_is_buried_at_once,
    what_is_held_of_who_resigns_is_buried_later,
    nothing_is_held_for_longer_than_a_lease,
    the_living_are_not_buried,
    names_are_any_text,
);

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
    // Who dies comes last: from then on its lease runs.
    let (b, c) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    let dead = kit.alive(settings(SHORT)).await;
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
    dead.resign(Duration::ZERO).await.expect("resigned");
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
    next.resign(Duration::ZERO).await.expect("resigned");
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
    dead.resign(Duration::ZERO).await.expect("resigned");
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
    dead.resign(Duration::ZERO).await.expect("resigned");
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
    node.resign(Duration::ZERO).await.expect("resigned");
    assert_eq!(left(&bury_all(&[&other], 10).await), [("chat".to_owned(), "1".to_owned(), true)]);
    node.change(&channel("chat"), ticket(), &[entering("1", "olha")]).await.expect_err("it has gone");
}

async fn what_is_held_of_who_resigns_is_buried_later<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(LONG)).await, kit.alive(settings(LONG)).await);
    enter(&node, "chat", "1", "olha").await;
    occupy(&node, "chat", 1).await;
    let resigned = Instant::now();
    node.resign(SHORT).await.expect("resigned");
    node.change(&channel("chat"), ticket(), &[entering("2", "olha")]).await.expect_err("it has gone");
    assert_eq!(bury(&other, 10).await, []);
    assert_eq!(other.channels("", None, 10).await.expect("listed"), [("chat".into(), 1)], "until then it is there");
    // Meanwhile its user comes back elsewhere, and is no news.
    assert_eq!(enter(&other, "chat", "3", "olha").await, (true, false));
    assert_eq!(occupy(&other, "chat", 1).await, (1, 2));
    let mut graves = Vec::new();
    eventually("it is buried", async || {
        graves.extend(bury(&other, 10).await);
        !graves.is_empty()
    })
    .await;
    assert!(resigned.elapsed() >= SHORT * 9 / 10, "{:?}", resigned.elapsed());
    assert_eq!(left(&graves), [("chat".to_owned(), "1".to_owned(), false)]);
    assert_eq!((graves[0].occupied.before, graves[0].occupied.now), (2, 1));
}

async fn nothing_is_held_for_longer_than_a_lease<K: Kit>() {
    let kit = K::start().await;
    let (node, other) = (kit.alive(settings(SHORT)).await, kit.alive(settings(LONG)).await);
    enter(&node, "chat", "1", "olha").await;
    node.resign(LONG).await.expect("resigned");
    eventually("it is buried", async || !bury(&other, 10).await.is_empty()).await;
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
