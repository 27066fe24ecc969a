//! A store, or a bus, that refuses, hangs and panics: nothing is wedged, nothing grows, and nothing is made up meanwhile.

use std::time::Duration;

use ractor::concurrency::sleep;

use super::{
    super::{
        PresenceMessage,
        limits::{AWAY_AFTER, MAX_QUESTIONS, WRITERS},
        questions::{Looked, PresenceError},
    },
    SECOND,
    fakes::Mood,
    scene,
};

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
