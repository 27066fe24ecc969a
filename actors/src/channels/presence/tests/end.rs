//! A node that stops in order: whom the store has removed for it is told as gone, once, and what it cannot tell it leaves to others.

use std::time::Duration;

use ractor::ActorStatus;
use tokio::time::Instant;

use super::{
    super::{PresenceEvent, PresenceMessage, limits::LAST_WORDS},
    SECOND,
    fakes::{Mood, Scene},
    scene,
};

const MOMENT: Duration = Duration::from_millis(50);

/// Two on a channel, of whom one has left when the actor stops.
async fn one_leaves(channel: &str, behave: impl FnOnce(&Scene), meanwhile: impl FnOnce(&Scene)) -> Scene {
    let scene = scene().await;
    scene.enter(channel, "1", "olha");
    scene.enter(channel, "2", "ivan");
    scene.pass(SECOND).await;
    assert_eq!(scene.fake.said(channel), ["+1!", "+2!"]);
    behave(&scene);
    scene.exit(channel, "1");
    scene.pass(MOMENT).await;
    assert!(!scene.fake.kept().members[channel].contains_key("1"), "the store has removed it");
    assert_eq!(scene.fake.said(channel).len(), 2, "and nobody has been told");
    meanwhile(&scene);
    scene
}

async fn stop(scene: &Scene) -> Duration {
    let begun = Instant::now();
    scene.actor.stop_and_wait(None, Some(SECOND * 20)).await.expect("stopped");
    assert_eq!(scene.actor.get_status(), ActorStatus::Stopped);
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_is_being_said_is_said_once() {
    let scene = one_leaves("chat", |scene| scene.fake.kept().whispers = Mood::Slow, |_| {}).await;
    let took = stop(&scene).await;
    assert_eq!(scene.fake.said("chat")[2..], ["-1!"]);
    assert!(took < LAST_WORDS, "{took:?}");
    assert_eq!(scene.fake.kept().resigned, Some((3, Duration::ZERO)), "after its last word, and nothing is held");
    scene.pass(SECOND * 20).await;
    assert_eq!(scene.fake.said("chat").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_whose_answer_is_under_way_is_said() {
    let scene = one_leaves("chat", |scene| scene.fake.mood(Mood::Slow), |scene| scene.fake.mood(Mood::Well)).await;
    stop(&scene).await;
    assert_eq!(scene.fake.said("chat")[2..], ["-1!"]);
    assert_eq!(scene.fake.kept().resigned.map(|(words, _)| words), Some(3));
}

/// The stop passes over what waits in the mailbox; what the store has answered does not wait there.
#[tokio::test(start_paused = true)]
async fn an_answer_that_the_actor_has_not_heard_yet_is_not_lost() {
    for turns in 0..40 {
        let scene = scene().await;
        scene.enter("chat", "1", "olha");
        scene.pass(SECOND).await;
        scene.exit("chat", "1");
        // A little further each time: before the call, while it is answered, while the word is said, after it.
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        stop(&scene).await;
        let here = scene.fake.kept().members["chat"].contains_key("1");
        let said = scene.fake.said("chat");
        assert_eq!(said.len() == 2, !here, "{turns}: removed and told, or neither: {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_new_is_begun_and_what_is_left_is_anothers() {
    let scene = one_leaves(
        "chat",
        |scene| scene.fake.kept().whispers = Mood::Slow,
        |scene| {
            scene.exit("chat", "2");
            scene.enter("chat", "3", "petro");
            scene.enter("news", "3", "petro");
        },
    )
    .await;
    // It has heard of them.
    tokio::task::yield_now().await;
    let calls = scene.fake.kept().calls;
    stop(&scene).await;
    scene.pass(SECOND * 20).await;
    assert_eq!(scene.fake.said("chat")[2..], ["-1!"]);
    let kept = scene.fake.kept();
    assert_eq!(kept.members["chat"].keys().collect::<Vec<_>>(), ["2"], "to be buried");
    assert!(kept.calls <= calls + 1, "one on another channel may have begun before the stop");
}

/// What was begun before the stop, with words before its call, does not go on to that.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_behind_words_is_not_begun() {
    let scene =
        one_leaves("chat", |scene| scene.fake.mood(Mood::Slow), |scene| scene.enter("chat", "3", "petro")).await;
    scene.fake.mood(Mood::Well);
    scene.fake.kept().whispers = Mood::Slow;
    scene.pass(SECOND / 2).await;
    assert_eq!(scene.fake.said("chat").len(), 2, "it is being said");
    let calls = scene.fake.kept().calls;
    stop(&scene).await;
    assert_eq!(scene.fake.said("chat")[2..], ["-1!"]);
    assert_eq!(scene.fake.kept().calls, calls);
    assert!(!scene.fake.kept().members["chat"].contains_key("3"));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_does_not_hold_up_the_stop() {
    for mood in [Mood::Hangs, Mood::Refuses] {
        let scene = one_leaves("chat", |scene| scene.fake.kept().whispers = mood, |_| {}).await;
        let took = stop(&scene).await;
        assert!(took <= LAST_WORDS + MOMENT, "{mood:?}: {took:?}");
        assert_eq!(scene.fake.kept().resigned.map(|(words, _)| words), Some(2), "{mood:?}");
    }
    // And a store that hangs no longer than what may be left of a grace.
    let scene = one_leaves("chat", |scene| scene.fake.mood(Mood::Hangs), |_| {}).await;
    let took = stop(&scene).await;
    assert!(took <= LAST_WORDS + SECOND + MOMENT, "{took:?}");
}

/// Words that failed a moment ago get one attempt more, on as many channels as there are.
#[tokio::test(start_paused = true)]
async fn words_that_wait_are_said_on_every_channel() {
    let scene = scene().await;
    let channels: Vec<String> = (0..200).map(|n| format!("chat-{n}")).collect();
    channels.iter().for_each(|channel| scene.enter(channel, "1", "olha"));
    scene.pass(SECOND).await;
    scene.fake.kept().whispers = Mood::Refuses;
    channels.iter().for_each(|channel| scene.exit(channel, "1"));
    scene.pass(MOMENT).await;
    scene.fake.kept().whispers = Mood::Well;
    stop(&scene).await;
    for channel in &channels {
        let gone = !scene.fake.kept().members[channel].contains_key("1");
        assert_eq!(scene.fake.said(channel).len() == 2, gone, "{channel}: removed and told, or neither");
    }
    assert!(channels.iter().any(|channel| scene.fake.said(channel).len() == 2));
}

/// Servers are told of what is answered last as well; what is held for them is held by whoever buries it.
#[tokio::test(start_paused = true)]
async fn servers_hear_what_was_answered_and_the_rest_is_held() {
    let mut scene = scene().await;
    scene.enter("room", "1", "olha");
    scene.tell(PresenceMessage::Counts { shard: 0, counts: vec![("room".into(), 1)] });
    scene.pass(SECOND).await;
    scene.events();
    scene.exit("room", "1");
    scene.pass(Duration::from_millis(2_900)).await;
    scene.fake.mood(Mood::Slow);
    scene.pass(Duration::from_millis(400)).await;
    assert_eq!(scene.events(), [], "its goodbye has been held, and is being answered");
    scene.fake.mood(Mood::Well);
    stop(&scene).await;
    let removed = PresenceEvent::MemberRemoved { channel: "room".into(), user: "olha".into() };
    assert_eq!(scene.events(), [removed]);
    assert_eq!(scene.fake.kept().resigned.map(|(_, hold)| hold), Some(SECOND * 3), "it is occupied there");
}
