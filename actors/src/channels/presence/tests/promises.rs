//! What the actor promises, one by one. The clock is paused: what takes seconds takes none.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::channels::Word;
use ractor::concurrency::sleep;

use super::{
    super::{
        PresenceEvent, PresenceMessage,
        limits::{AWAY_AFTER, MAX_QUESTIONS, WRITERS},
        questions::{Looked, PresenceError},
        servers,
    },
    fakes::{Fake, Mood, Scene, grave, member},
};
use crate::platform::ports::{Buried, Counts, Crowd, Member, Occupied};

const SECOND: Duration = Duration::from_secs(1);

async fn scene() -> Scene {
    let scene = Scene::start(Fake::default()).await;
    scene.pass(SECOND).await;
    scene
}

fn occupied(channel: &str) -> PresenceEvent {
    PresenceEvent::Occupied { channel: channel.into() }
}

fn vacated(channel: &str) -> PresenceEvent {
    PresenceEvent::Vacated { channel: channel.into() }
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_is_told_with_its_user() {
    let mut scene = scene().await;
    scene.enter("room", "1", "olha");
    scene.enter("room", "2", "olha");
    scene.exit("room", "1");
    scene.pass(SECOND).await;
    scene.exit("room", "2");
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.said("room"), ["+1!", "+2", "-1", "-2!"]);
    // While a call is under way others wait: who comes and goes meanwhile was never there.
    for _ in 0..3 {
        scene.enter("busy", "1", "olha");
        scene.enter("busy", "2", "olha");
        scene.exit("busy", "2");
    }
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.said("busy"), ["+1!"]);
    scene.enter("room", "3", "ivan");
    scene.pass(SECOND).await;
    scene.enter("room", "4", "ivan");
    scene.pass(SECOND).await;
    scene.exit("room", "3");
    scene.pass(SECOND).await;
    scene.exit("room", "4");
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.said("room")[4..], ["+3!", "+4", "-3", "-4!"]);
    let room: Arc<str> = "room".into();
    let added = |name| PresenceEvent::MemberAdded { channel: Arc::clone(&room), user: Arc::from(name) };
    let removed = |name| PresenceEvent::MemberRemoved { channel: Arc::clone(&room), user: Arc::from(name) };
    scene.exit("busy", "1");
    scene.pass(SECOND * 4).await;
    // Goodbyes are held, and those of other channels are nobody's business.
    assert_eq!(scene.events(), [added("olha"), added("ivan"), removed("olha"), removed("ivan")]);
    assert_eq!(scene.metrics.channels.get() + scene.metrics.clients.get(), 0, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_to_be_told_is_known_all_the_same() {
    let scene = scene().await;
    let quiet = Member { info: member("1", "olha").info.clone(), told: false, shown: true };
    scene.tell(PresenceMessage::Enter { channel: "chat".into(), shard: 0, member: Arc::new(quiet) });
    assert_eq!(scene.members("chat").await.expect("asked").members.len(), 1);
    scene.exit("chat", "1");
    assert_eq!(scene.members("chat").await.expect("asked").members.len(), 0);
    assert_eq!(scene.fake.said("chat"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_question_comes_after_all_that_was_entered_before() {
    let scene = scene().await;
    for n in 0..1_000 {
        scene.enter("chat", &n.to_string(), "olha");
    }
    let page = scene.members("chat").await.expect("asked");
    assert_eq!(page.members.len(), 1_000);
    let ask = |reply| PresenceMessage::Stats { channel: "chat".into(), reply };
    scene.exit("chat", "7");
    let counts = scene.slot.call(ask, SECOND).await.expect("asked").expect("answered");
    assert_eq!((counts.clients, counts.users), (999, 1));
    let ask = |reply| PresenceMessage::Roster { channel: "chat".into(), most: 10, reply };
    scene.enter("chat", "x", "ivan");
    let roster = scene.slot.call(ask, SECOND).await.expect("asked").expect("answered");
    assert!(roster.complete && roster.members.len() == 2, "two users: {roster:?}");
    let ask = |reply| PresenceMessage::Roster { channel: "chat".into(), most: 1, reply };
    let roster = scene.slot.call(ask, SECOND).await.expect("asked").expect("answered");
    assert!(!roster.complete && roster.members.len() == 1 && roster.counts.users == 2);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_is_told_as_a_number_now_and_then() {
    let fake = Fake::default();
    fake.kept().crowd = Crowd { above: 10, below: 8 };
    let mut scene = Scene::start(fake).await;
    scene.pass(SECOND).await;
    for n in 0..10 {
        scene.enter("room", &n.to_string(), &n.to_string());
        scene.pass(SECOND / 10).await;
    }
    assert_eq!(scene.fake.said("room").len(), 10);
    scene.count("room", 12);
    scene.enter("room", "10", "10");
    scene.enter("room", "11", "11");
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.said("room")[10..], ["#12"]);
    scene.exit("room", "11");
    scene.count("room", 11);
    scene.pass(SECOND * 20).await;
    assert_eq!(scene.fake.said("room").len(), 12, "the number alone");
    for n in 0..4 {
        scene.exit("room", &n.to_string());
        scene.pass(SECOND).await;
    }
    // At eight it is a crowd still; the fourth makes it seven, and is told.
    let said = scene.fake.said("room");
    let end = said.iter().position(|word| word == "-3!").expect("it is told");
    assert!(said[12..end].iter().all(|word| word.starts_with('#')), "{said:?}");
    // Who missed the others begins anew, one part after the other.
    scene.pass(SECOND * 30).await;
    let said = scene.fake.said("room");
    let anew: Vec<_> = said[end + 1..].iter().filter(|word| !word.starts_with('#')).cloned().collect();
    assert_eq!(anew, (0..20).map(|turn| format!("anew {turn}/20")).collect::<Vec<_>>());
    let ago: Vec<u64> = scene
        .fake
        .kept()
        .words
        .iter()
        .filter_map(|(_, word)| if let Word::Anew { ago, .. } = word { Some(*ago) } else { None })
        .collect();
    assert!(ago.is_sorted() && ago[0] < 500 && (9_500..11_000).contains(&ago[19]), "{ago:?}");
    // One that is a crowd again before all have had their turn begins with the first when that has ended.
    let before = scene.fake.said("room").len();
    for n in 20..26 {
        scene.enter("room", &n.to_string(), &n.to_string());
    }
    scene.pass(SECOND).await;
    for n in 20..26 {
        scene.exit("room", &n.to_string());
    }
    scene.pass(SECOND * 2).await;
    for n in 30..36 {
        scene.enter("room", &n.to_string(), &n.to_string());
    }
    scene.pass(SECOND * 20).await;
    let said = scene.fake.said("room");
    let anew = said[before..].iter().filter(|word| word.starts_with("anew")).count();
    assert!((1..10).contains(&anew), "{said:?}");
    for n in 30..36 {
        scene.exit("room", &n.to_string());
    }
    scene.pass(SECOND * 20).await;
    let said = scene.fake.said("room");
    assert_eq!(said[before..].iter().filter(|word| word.starts_with("anew")).count(), anew + 20);
    let events = scene.events();
    let of = |wanted: fn(&PresenceEvent) -> bool| events.iter().filter(|event| wanted(event)).count();
    assert_eq!(of(|event| matches!(event, PresenceEvent::MemberAdded { .. })), 24, "servers hear of each");
    assert_eq!(of(|event| matches!(event, PresenceEvent::MemberRemoved { .. })), 17);
}

#[tokio::test(start_paused = true)]
async fn an_empty_channel_is_held_for_a_while() {
    let mut scene = scene().await;
    scene.count("chat", 3);
    scene.pass(SECOND).await;
    assert_eq!(scene.events(), [occupied("chat")]);
    scene.count("chat", 0);
    scene.pass(SECOND * 2).await;
    scene.count("chat", 1);
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.events(), [], "somebody came back");
    assert_eq!(scene.fake.kept().occupied["chat"], 1);
    scene.count("chat", 0);
    scene.pass(SECOND * 2).await;
    assert_eq!(scene.events(), []);
    scene.pass(SECOND * 2).await;
    assert_eq!(scene.events(), [vacated("chat")]);
    scene.count("brief", 1);
    scene.count("brief", 0);
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.events(), [occupied("brief"), vacated("brief")]);
    assert_eq!(scene.metrics.channels.get(), 0);
}

/// A page that is loaded anew leaves and comes back, while others of the channel see it go: servers hear of neither.
#[tokio::test(start_paused = true)]
async fn a_user_who_comes_back_at_once_never_left_for_servers() {
    let mut scene = scene().await;
    let member_added = |user: &str| PresenceEvent::MemberAdded { channel: "room".into(), user: user.into() };
    let member_removed = |user: &str| PresenceEvent::MemberRemoved { channel: "room".into(), user: user.into() };
    scene.enter("room", "1", "olha");
    scene.pass(SECOND).await;
    assert_eq!(scene.events(), [member_added("olha")]);
    for (gone, back) in [("1", "2"), ("2", "2"), ("2", "3")] {
        scene.exit("room", gone);
        scene.pass(SECOND * 2).await;
        scene.enter("room", back, "olha");
        scene.pass(SECOND * 10).await;
    }
    assert_eq!(scene.fake.said("room"), ["+1!", "-1!", "+2!", "-2!", "+2!", "-2!", "+3!"], "at once");
    assert_eq!(scene.events(), []);
    // One of two connections, and then the other; while somebody else comes.
    scene.enter("room", "4", "olha");
    scene.exit("room", "3");
    scene.pass(SECOND * 4).await;
    scene.exit("room", "4");
    scene.pass(SECOND * 2).await;
    scene.enter("room", "5", "ivan");
    scene.pass(SECOND / 2).await;
    assert_eq!(scene.events(), [member_added("ivan")], "not yet");
    scene.pass(SECOND).await;
    assert_eq!(scene.events(), [member_removed("olha")]);
    scene.enter("room", "6", "olha");
    scene.pass(SECOND).await;
    assert_eq!(scene.events(), [member_added("olha")], "one who was told as gone comes anew");
    // What a shard has lost comes back, or does not.
    scene.tell(PresenceMessage::Began { shard: 0 });
    scene.enter("room", "7", "olha");
    scene.pass(SECOND * 4).await;
    assert_eq!(scene.events(), [member_removed("ivan")]);
    scene.exit("room", "7");
    scene.pass(SECOND * 4).await;
    assert_eq!(scene.events(), [member_removed("olha")]);
    assert_eq!(scene.metrics.channels.get() + scene.metrics.clients.get(), 0, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn shards_are_added_up_and_one_that_begins_has_nothing() {
    let mut scene = scene().await;
    for (shard, client) in [(0, "a"), (1, "b"), (2, "c")] {
        scene.tell(PresenceMessage::Counts { shard, counts: vec![("counted".into(), 2), ("other".into(), 1)] });
        let member = member(client, client);
        scene.tell(PresenceMessage::Enter { channel: "counted".into(), shard, member });
    }
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.kept().occupied["counted"], 6);
    scene.tell(PresenceMessage::Began { shard: 1 });
    // Not its own: another shard's goodbye is nothing.
    scene.tell(PresenceMessage::Exit { channel: "counted".into(), shard: 0, client: "c".into() });
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.kept().occupied["counted"], 4);
    assert_eq!(scene.fake.kept().occupied["other"], 2);
    let members: Vec<_> = scene.fake.kept().members["counted"].keys().cloned().collect();
    assert_eq!(members, ["a", "c"]);
    assert!(scene.fake.said("counted").contains(&"#4".to_owned()), "its number is told");
    assert!(!scene.fake.said("other").iter().any(|word| word.starts_with('#')));
    let count = PresenceEvent::Count { channel: "counted".into(), subscribers: 4 };
    assert!(scene.events().contains(&count));
}

/// While the store is away clients come and go, on channels that never were before: nothing of it stays.
#[tokio::test(start_paused = true)]
async fn an_outage_leaves_nothing_behind_and_wedges_nothing() {
    for mood in [Mood::Refuses, Mood::Hangs, Mood::Panics, Mood::Mute] {
        let scene = scene().await;
        scene.enter("chat", "stays", "olha");
        scene.enter("chat", "leaves", "ivan");
        scene.count("chat", 2);
        scene.pass(SECOND).await;
        scene.fake.mood(mood);
        scene.exit("chat", "leaves");
        scene.count("chat", 1);
        for n in 0..20_000 {
            let (channel, client) = (format!("brief-{}", n % 7_000), format!("client-{n}"));
            scene.enter(&channel, &client, "petro");
            scene.count(&channel, 1);
            scene.exit(&channel, &client);
            scene.count(&channel, 0);
            if n % 100 == 0 {
                scene.pass(SECOND / 10).await;
            }
        }
        scene.enter("chat", "comes", "olha");
        scene.pass(SECOND * 10).await;
        let most = i64::try_from(AWAY_AFTER + 2 * WRITERS).expect("small");
        assert_eq!(scene.metrics.away.get(), 1, "{mood:?}");
        assert!(scene.metrics.channels.get() <= most, "{mood:?}: {:?}", scene.metrics);
        // With the places of those who want nothing any more.
        assert!(scene.metrics.waiting.get() <= 2 * most + 16, "{mood:?}: {}", scene.metrics.waiting.get());
        assert_eq!(scene.members("chat").await, Err(PresenceError::Unavailable), "{mood:?}");
        scene.fake.mood(Mood::Well);
        scene.pass(SECOND * 15).await;
        assert_eq!(scene.metrics.away.get(), 0, "{mood:?}");
        let page = scene.members("chat").await.expect("answered");
        let mut here: Vec<_> = page.members.iter().map(|it| it.info.client.to_string()).collect();
        here.sort();
        assert_eq!(here, ["comes", "stays"], "{mood:?}");
        assert_eq!(scene.fake.said("chat"), ["+stays!", "+leaves!", "-leaves!", "+comes"], "{mood:?}");
        assert_eq!(scene.fake.kept().occupied["chat"], 1, "{mood:?}");
        scene.pass(SECOND * 10).await;
        assert_eq!(scene.metrics.channels.get(), 1, "{mood:?}");
        let kept = scene.fake.kept();
        assert!(kept.members.iter().all(|(channel, all)| channel == "chat" || all.is_empty()), "{mood:?}: no ghosts");
    }
}

#[tokio::test(start_paused = true)]
async fn a_word_that_nobody_can_say_does_not_hold_up_the_channel() {
    let scene = scene().await;
    scene.fake.kept().whispers = Mood::Refuses;
    scene.enter("chat", "1", "olha");
    scene.pass(SECOND * 60).await;
    scene.fake.kept().whispers = Mood::Well;
    scene.enter("chat", "2", "ivan");
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("chat"), ["+2!"]);
    assert_eq!(scene.metrics.words_lost.get(), 1);
    scene.fake.kept().whispers = Mood::Refuses;
    scene.exit("chat", "1");
    scene.pass(SECOND).await;
    scene.fake.kept().whispers = Mood::Well;
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("chat"), ["+2!", "-1!"], "one that failed is said again");
}

#[tokio::test(start_paused = true)]
async fn other_channels_go_on_while_one_fails() {
    let scene = scene().await;
    // The first to be called never returns.
    scene.fake.mood(Mood::Hangs);
    scene.enter("slow", "1", "olha");
    tokio::task::yield_now().await;
    sleep(Duration::from_millis(1)).await;
    scene.fake.mood(Mood::Well);
    for n in 0..500 {
        scene.enter(&format!("chat-{n}"), "1", "olha");
    }
    scene.pass(SECOND / 2).await;
    assert_eq!(scene.fake.kept().members.values().filter(|all| !all.is_empty()).count(), 501);
    assert_eq!(scene.fake.said("chat-499"), ["+1!"]);
    assert_eq!(scene.fake.said("slow"), [""; 0], "its answer is waited for");
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("slow"), ["+1!"], "and asked for again");
}

#[tokio::test(start_paused = true)]
async fn too_many_questions_are_refused() {
    let scene = scene().await;
    scene.fake.mood(Mood::Hangs);
    let (mut asked, mut busy) = (Vec::new(), 0);
    for _ in 0..MAX_QUESTIONS + 10 {
        let (reply, answer) = ractor::concurrency::oneshot();
        scene.tell(PresenceMessage::Stats { channel: "chat".into(), reply: reply.into() });
        asked.push(answer);
    }
    scene.pass(SECOND).await;
    for answer in &mut asked {
        busy += usize::from(matches!(answer.try_recv(), Ok(Err(PresenceError::Busy))));
    }
    assert_eq!(busy, 10);
    drop(asked);
    scene.fake.mood(Mood::Well);
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.metrics.questions.get(), 0, "who gave up takes no place");
}

/// Whoever watches users asks again and again: that takes no place of others, and is told what the store may not know.
#[tokio::test(start_paused = true)]
async fn a_look_takes_no_place_and_knows_when_the_store_is_not_to_be_believed() {
    let scene = scene().await;
    let look = async || {
        let channels = vec!["here".into(), "nowhere".into()];
        let ask = |reply| PresenceMessage::Look { channels, reply };
        let found = scene.slot.call(ask, SECOND * 60).await.expect("it lives");
        found.map(|Looked { clients, life, settled }| (clients, life, settled))
    };
    scene.enter("here", "1", "olha");
    scene.pass(SECOND).await;
    scene.fake.mood(Mood::Hangs);
    let mut asked = Vec::new();
    for _ in 0..MAX_QUESTIONS {
        let (reply, answer) = ractor::concurrency::oneshot();
        scene.tell(PresenceMessage::Stats { channel: "chat".into(), reply: reply.into() });
        asked.push(answer);
    }
    let ask = |reply| PresenceMessage::Stats { channel: "chat".into(), reply };
    assert_eq!(scene.slot.call(ask, SECOND).await.expect("it lives"), Err(PresenceError::Busy));
    assert_eq!(look().await, Ok((vec![None, None], 1, true)), "nothing is made up");
    drop(asked);
    scene.fake.mood(Mood::Well);
    scene.pass(SECOND * 20).await;
    assert_eq!(look().await, Ok((vec![Some(1), Some(0)], 1, true)));
    scene.fake.forget();
    scene.pass(SECOND * 4).await;
    assert_eq!(look().await, Ok((vec![Some(1), Some(0)], 2, false)), "entered again, and others may not be yet");
    scene.pass(SECOND * 15).await;
    assert_eq!(look().await, Ok((vec![Some(1), Some(0)], 2, true)));
    scene.fake.mood(Mood::Refuses);
    scene.pass(SECOND * 10).await;
    assert_eq!(look().await, Err(PresenceError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn what_a_burial_removed_is_told_here() {
    let mut scene = scene().await;
    let dead = |client: &str, told| Arc::new(Member { info: member(client, client).info.clone(), told, shown: true });
    let counts = Counts { clients: 1, users: 1, ..Counts::default() };
    let left = vec![(dead("1", true), true), (dead("2", true), false), (dead("3", false), true)];
    let stream = |name| dzvin_protocols::platform::StreamName::from_checked(name);
    let occupied = Occupied { before: 3, now: 0 };
    scene.fake.grave(Buried {
        channel: stream("chat"),
        left: left.clone(),
        counts,
        occupied,
        grave: grave("1", SECOND * 60),
    });
    let unseen = Occupied { before: 0, now: 0 };
    let second = servers::stream("chat");
    let silent = left.iter().map(|(member, last)| (servers::silent(member), *last)).collect();
    scene.fake.grave(Buried {
        channel: stream(&second),
        left: silent,
        counts,
        occupied: unseen,
        grave: grave("2", SECOND * 60),
    });
    let crowded = Counts { crowded: true, ..counts };
    let occupied = Occupied { before: 9, now: 4 };
    scene.fake.grave(Buried {
        channel: stream("crowd"),
        left,
        counts: crowded,
        occupied,
        grave: grave("3", SECOND * 60),
    });
    scene.pass(SECOND * 20).await;
    assert_eq!(scene.fake.said("chat"), ["-1!", "-2"]);
    assert_eq!(scene.fake.said("crowd"), ["#1"], "how many there are");
    assert_eq!(scene.metrics.buried.get(), 6, "each once");
    let events = scene.events();
    assert!(events.contains(&vacated("chat")) && !events.contains(&vacated("crowd")), "{events:?}");
    let removed = |user: &str| PresenceEvent::MemberRemoved { channel: "chat".into(), user: user.into() };
    assert_eq!(events.iter().filter(|event| **event == removed("1") || **event == removed("3")).count(), 2);
    let mut closed = scene.fake.kept().closed.clone();
    closed.sort();
    assert_eq!(closed, ["1", "2", "3"], "the store knows that it has been told");
    assert_eq!(scene.metrics.channels.get() + scene.metrics.graves.get(), 0);
}

fn buried(channel: &str, clients: &[&str], name: &str, time: Duration) -> Buried {
    let left = clients.iter().map(|client| (member(client, client), true)).collect();
    let (counts, occupied) = (Counts::default(), Occupied { before: 0, now: 0 });
    let channel = dzvin_protocols::platform::StreamName::from_checked(channel);
    Buried { channel, left, counts, occupied, grave: grave(name, time) }
}

#[tokio::test(start_paused = true)]
async fn a_grave_is_closed_when_all_of_it_has_been_told_and_not_before() {
    let scene = scene().await;
    scene.fake.kept().whispers = Mood::Refuses;
    scene.fake.grave(buried("chat", &["1", "2"], "a", SECOND * 60));
    let mut more = buried("news", &["3"], "b", SECOND * 60);
    more.grave.more = true;
    scene.fake.grave(more);
    scene.pass(SECOND * 4).await;
    assert_eq!((scene.fake.kept().closed.len(), scene.metrics.graves.get()), (0, 2));
    let burials = scene.fake.kept().burials;
    scene.pass(SECOND * 4).await;
    assert_eq!(scene.fake.kept().burials, burials, "first these are told");
    scene.fake.kept().whispers = Mood::Well;
    scene.pass(SECOND * 4).await;
    assert_eq!(
        (scene.fake.said("chat"), scene.fake.said("news")),
        (vec!["-1!".into(), "-2!".into()], vec!["-3!".into()])
    );
    assert_eq!((scene.fake.kept().closed.len(), scene.metrics.graves.get()), (2, 0));
    assert!(scene.fake.kept().burials > burials);
    // Closing it again does no harm, and nothing of it is said again.
    scene.fake.kept().unclosed = 2;
    scene.fake.grave(buried("chat", &["4"], "c", SECOND * 60));
    scene.pass(SECOND * 20).await;
    assert_eq!(scene.fake.said("chat")[2..], ["-4!"]);
    assert_eq!(scene.fake.kept().closed[2..], ["c", "c", "c"]);
    assert_eq!((scene.metrics.channels.get(), scene.metrics.unsaid.get(), scene.metrics.graves.get()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_grave_that_could_not_be_told_in_time_is_left_to_others() {
    let scene = scene().await;
    scene.fake.kept().whispers = Mood::Refuses;
    scene.enter("chat", "0", "olha");
    scene.pass(SECOND).await;
    scene.fake.grave(buried("chat", &["1", "2"], "a", SECOND * 8));
    scene.fake.grave(buried("chat", &["3"], "b", SECOND * 60));
    scene.pass(SECOND * 9).await;
    scene.fake.kept().whispers = Mood::Well;
    scene.pass(SECOND * 4).await;
    assert_eq!(scene.fake.said("chat"), ["+0!", "-3!"], "what is in the first another tells by now");
    assert_eq!(scene.fake.kept().closed, ["b"]);
    // One of whose words one is given up stays open, so that it is told once more, and all that can be said of it is.
    let said = scene.fake.said("chat").len();
    scene.fake.kept().whispers = Mood::Refuses;
    scene.fake.grave(buried("chat", &["4", "5"], "c", SECOND * 600));
    scene.pass(SECOND * 4).await;
    let lost = scene.metrics.words_lost.get();
    while scene.metrics.words_lost.get() == lost {
        scene.pass(SECOND / 4).await;
    }
    scene.fake.kept().whispers = Mood::Well;
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("chat")[said..], ["-5!"]);
    assert_eq!(scene.fake.kept().closed, ["b"]);
    assert_eq!((scene.metrics.unsaid.get(), scene.metrics.graves.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_forgotten_enters_again_in_silence() {
    let scene = scene().await;
    scene.enter("chat", "1", "olha");
    scene.enter("chat", "2", "ivan");
    scene.count("chat", 2);
    scene.pass(SECOND).await;
    scene.fake.forget();
    scene.exit("chat", "2");
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("chat"), ["+1!", "+2!", "-2!"]);
    assert_eq!(scene.members("chat").await.expect("asked").members.len(), 1);
    assert_eq!(scene.fake.kept().occupied["chat"], 2);
    // One whom others told as gone comes anew.
    scene.fake.bury_us();
    scene.pass(SECOND * 10).await;
    assert_eq!(scene.fake.said("chat")[3..], ["-1", "+1!"]);
    assert_eq!(scene.metrics.lives.get(), 3);
}

/// The actor ends and begins again: what was entered stays, for whoever is here says so again.
#[tokio::test(start_paused = true)]
async fn a_next_life_of_the_actor_says_nothing_of_who_stays() {
    let first = scene().await;
    first.enter("chat", "1", "olha");
    first.pass(SECOND).await;
    first.actor.kill();
    let fake = first.fake.clone();
    drop(first);
    let second = Scene::start(fake).await;
    second.enter("chat", "1", "olha");
    second.pass(SECOND * 5).await;
    assert_eq!(second.fake.said("chat"), ["+1!"]);
    second.exit("chat", "1");
    second.pass(SECOND).await;
    assert_eq!(second.fake.said("chat"), ["+1!", "-1!"]);
}
