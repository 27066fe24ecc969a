//! Random orders of everything that may happen, against a few lines that say what should come of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::{
    super::PresenceEvent,
    fakes::{Fake, Mood, Scene},
};

#[derive(Debug, Clone)]
enum Step {
    Enter(u8, u8),
    Exit(u8, u8),
    Count(u8, u32),
    Mood(Mood),
    Whispers(bool),
    Forget,
    /// Others take this node for dead.
    Bury,
    Pass(u64),
    Ask(u8),
}

fn step(deaths: bool) -> impl Strategy<Value = Step> {
    let mood = prop_oneof![
        4 => Just(Mood::Well), 1 => Just(Mood::Refuses), 2 => Just(Mood::Mute), 1 => Just(Mood::Hangs), 1 => Just(Mood::Panics)
    ];
    prop_oneof![
        10 => (0..3u8, 0..5u8).prop_map(|(channel, client)| Step::Enter(channel, client)),
        8 => (0..3u8, 0..5u8).prop_map(|(channel, client)| Step::Exit(channel, client)),
        4 => (0..3u8, prop_oneof![Just(0u32), 1..300u32]).prop_map(|(channel, n)| Step::Count(channel, n)),
        3 => mood.prop_map(Step::Mood),
        1 => any::<bool>().prop_map(Step::Whispers),
        1 => Just(Step::Forget),
        u32::from(deaths) => Just(Step::Bury),
        8 => prop_oneof![3 => Just(0u64), 3 => 1..50u64, 2 => 100..8_000u64].prop_map(Step::Pass),
        2 => (0..3u8).prop_map(Step::Ask),
    ]
}

/// One of three channels; of the members of the last servers are told.
fn name(channel: u8) -> String {
    if channel == 2 { "room".to_owned() } else { format!("chat-{channel}") }
}

/// Servers are told of each user that it has come and gone in turn, and in the end who is here.
fn servers_know(events: &[PresenceEvent], here: &BTreeSet<String>) {
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for event in events {
        match event {
            PresenceEvent::MemberAdded { user, .. } => assert!(told.insert(user), "{user} twice: {events:?}"),
            PresenceEvent::MemberRemoved { user, .. } => {
                assert!(told.remove(&**user), "{user} was not there: {events:?}");
            }
            _ => {}
        }
    }
    let users: BTreeSet<String> = here.iter().map(|client| user(client)).collect();
    assert!(told.iter().eq(users.iter()), "{told:?} for {users:?}: {events:?}");
}

fn user(client: &str) -> String {
    format!("user-{}", client.as_bytes()[0] % 2)
}

async fn play(steps: &[Step], deaths: bool) {
    let mut scene = Scene::start(Fake::default()).await;
    let mut here: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    // The store lacks what it was told.
    let mut torn = false;
    for step in steps {
        match step {
            Step::Enter(channel, client) => {
                let (channel, client) = (name(*channel), format!("{client}"));
                scene.enter(&channel, &client, &user(&client));
                here.entry(channel).or_default().insert(client);
            }
            Step::Exit(channel, client) => {
                let (channel, client) = (name(*channel), format!("{client}"));
                scene.exit(&channel, &client);
                here.entry(channel).or_default().remove(&client);
            }
            Step::Count(channel, subscribers) => {
                let channel = name(*channel);
                scene.count(&channel, *subscribers);
                counted.insert(channel, u64::from(*subscribers));
            }
            Step::Mood(mood) => scene.fake.mood(*mood),
            // Only so long that no word is given up.
            Step::Whispers(well) => {
                scene.fake.kept().whispers = if *well { Mood::Well } else { Mood::Refuses };
                scene.pass(Duration::from_millis(20)).await;
                scene.fake.kept().whispers = Mood::Well;
            }
            Step::Forget => {
                torn = true;
                scene.fake.forget();
            }
            // For so long nothing of it was heard.
            Step::Bury => {
                torn = true;
                scene.fake.mood(Mood::Refuses);
                scene.fake.kept().whispers = Mood::Refuses;
                scene.pass(Duration::from_secs(8)).await;
                scene.fake.bury_us();
                scene.fake.mood(Mood::Well);
                scene.fake.kept().whispers = Mood::Well;
            }
            Step::Pass(0) => tokio::task::yield_now().await,
            Step::Pass(millis) => scene.pass(Duration::from_millis(*millis)).await,
            Step::Ask(channel) => {
                let channel = name(*channel);
                if let Ok(page) = scene.members(&channel).await
                    && !torn
                {
                    let known: BTreeSet<_> = page.members.iter().map(|it| it.info.client.to_string()).collect();
                    assert_eq!(known, here.get(&channel).cloned().unwrap_or_default(), "asked of {channel}");
                }
            }
        }
    }
    scene.fake.mood(Mood::Well);
    // Whatever hangs is given up, the store is found to be back, and what is held is let go.
    scene.pass(Duration::from_secs(60)).await;
    for (channel, clients) in &here {
        let kept = scene.fake.kept();
        let known: BTreeSet<_> = kept.members.get(channel).into_iter().flat_map(|all| all.keys().cloned()).collect();
        assert_eq!(known, *clients, "in the end on {channel}");
    }
    for (channel, subscribers) in &counted {
        assert_eq!(scene.fake.kept().occupied.get(channel).copied().unwrap_or(0), *subscribers, "{channel}");
    }
    for channel in here.keys() {
        let mut told: BTreeSet<String> = BTreeSet::new();
        for word in scene.fake.said(channel) {
            let (sign, client) = word.split_at(1);
            let client = client.trim_end_matches('!').to_owned();
            let news = if sign == "+" { told.insert(client) } else { told.remove(&client) };
            // A goodbye may be said twice if this node was taken for dead in the middle of it, and then only.
            assert!(news || deaths && sign == "-", "{word} on {channel}: {:?}", scene.fake.said(channel));
        }
        assert_eq!(told, here[channel], "who listened knows who is on {channel}: {:?}", scene.fake.said(channel));
    }
    if !torn {
        let mut full = BTreeSet::new();
        let events = scene.events();
        servers_know(&events, here.get("room").unwrap_or(&BTreeSet::new()));
        for event in events {
            match event {
                PresenceEvent::Occupied { channel } => assert!(full.insert(channel.clone()), "{channel} twice"),
                PresenceEvent::Vacated { channel } => assert!(full.remove(&channel), "{channel} was not occupied"),
                _ => {}
            }
        }
        let expected: BTreeSet<_> =
            counted.iter().filter(|(_, n)| **n > 0).map(|(name, _)| name.as_str().into()).collect();
        assert_eq!(full, expected);
    }
    let twice = here.get("room").map_or(0, BTreeSet::len);
    let (metrics, clients) = (&scene.metrics, here.values().map(BTreeSet::len).sum::<usize>() + twice);
    assert_eq!(metrics.clients.get(), i64::try_from(clients).expect("few"));
    let waits = [
        &metrics.waiting,
        &metrics.writing,
        &metrics.doubts,
        &metrics.unsaid,
        &metrics.questions,
        &metrics.due,
        &metrics.held,
    ];
    assert_eq!(waits.map(Gauge::get), [0; 7]);
    assert_eq!(metrics.words_lost.get() + metrics.events_lost.get(), 0);
}

fn run(steps: &[Step], deaths: bool) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    runtime.block_on(play(steps, deaths));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn listeners_and_store_come_to_know_who_is_here(steps in prop::collection::vec(step(false), 1..60)) {
        run(&steps, false);
    }

    #[test]
    fn so_they_do_when_this_node_is_taken_for_dead(steps in prop::collection::vec(step(true), 1..60)) {
        run(&steps, true);
    }
}
