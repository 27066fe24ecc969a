//! What the actor promises of who comes and goes, one by one. The clock is paused: what takes seconds takes none.

use std::sync::Arc;

use dzvin_protocols::channels::Word;

use super::{
    super::{PresenceEvent, PresenceMessage},
    SECOND,
    fakes::{Fake, Scene, member},
    scene, vacated,
};
use crate::platform::ports::{Crowd, Member};

fn occupied(channel: &str) -> PresenceEvent {
    PresenceEvent::Occupied { channel: channel.into() }
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

/// A large channel that fills would tell each of its subscribers of each that comes.
#[tokio::test(start_paused = true)]
async fn many_subscribers_are_told_their_number_now_and_then() {
    let scene = scene().await;
    let counts = |n| PresenceMessage::Counts { shard: 0, counts: vec![("counted".into(), n)] };
    let numbers = |scene: &Scene| {
        let said = scene.fake.said("counted").into_iter();
        said.filter_map(|word| word.strip_prefix('#').and_then(|n| n.parse::<u64>().ok())).collect::<Vec<_>>()
    };
    for n in 98..=100 {
        scene.tell(counts(n));
        scene.pass(SECOND).await;
    }
    assert_eq!(numbers(&scene), [98, 99, 100]);
    for n in 101..=150 {
        scene.tell(counts(n));
        scene.pass(SECOND / 50).await;
    }
    assert!(numbers(&scene).len() <= 4, "one more within a second: {:?}", numbers(&scene));
    scene.pass(SECOND * 10).await;
    assert!(numbers(&scene).len() <= 5 && numbers(&scene).last() == Some(&150), "{:?}", numbers(&scene));
    scene.tell(counts(99));
    scene.pass(SECOND).await;
    assert_eq!(numbers(&scene).last(), Some(&99), "few enough again");
}

/// Who is there and stays costs a node nothing but its own renewals; whoever goes is told as gone in time all the same.
#[tokio::test(start_paused = true)]
async fn a_quiet_node_hardly_wakes() {
    let mut scene = scene().await;
    scene.enter("room", "1", "olha");
    scene.count("room", 1);
    scene.pass(SECOND * 10).await;
    let (steps, renewals) = (scene.progress.done(), scene.fake.kept().renewals);
    scene.pass(SECOND * 60).await;
    let renewals = scene.fake.kept().renewals - renewals;
    assert!((19..=21).contains(&renewals), "every three seconds: {renewals}");
    assert!(scene.progress.done() - steps <= 90, "{} steps in a minute", scene.progress.done() - steps);
    // Held for three seconds, and told within a step of their end.
    scene.events();
    scene.exit("room", "1");
    scene.count("room", 0);
    scene.pass(SECOND * 3 + SECOND / 2).await;
    assert_eq!(scene.events().len(), 2, "gone, and empty");
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
