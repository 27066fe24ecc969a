//! What a dead node left is told by whoever removed it; who lives on after a loss is told to nobody.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{PresenceEvent, servers},
    SECOND,
    fakes::{Mood, Scene, member},
    scene, vacated,
};
use crate::platform::ports::{Buried, Counts, Grave, Member, Occupied};

/// A grave that is this node's for so long.
fn grave(name: &str, time: Duration) -> Grave {
    Grave { life: "dead".into(), name: name.into(), until: Instant::now() + time, more: false }
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
