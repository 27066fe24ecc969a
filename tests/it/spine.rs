//! The spine: from a Mirror's frame to unmodified clients, through everything that may break on the way.

use std::time::Instant;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::support::{
    eventually::eventually,
    front::Front,
    hub::{Hub, World, small_object},
    node::Followers,
};

const OBJECTS: usize = 200;
/// Changes of a long cut: nearly all that a recovery may bring.
const MISSED: usize = 4_200;
/// Edits a second while things break.
const RATE: u32 = 200;

/// Edits a second from now on; 0 ends them.
pub fn play(world: &World, rate: u32) {
    let play = dzvin_sandbox::Play { rate_per_s: f64::from(rate), collection: Some("procedure".to_owned()), seed: 7 };
    world.sandbox.control().play(&play).expect("plays");
}

/// A world whose Mirror tells of deletes: the simple protocol does not.
async fn telling_world(objects: usize, redis: bool) -> World {
    let mut world = World::new(objects, redis).await;
    world.mirrors.push_str("dialect = { protocol = \"full\" }\n");
    world
}

/// Creates three objects, deletes the first of them, and every other time brings back what was deleted the time before:
/// what edits alone never show. `round` is another with each call.
fn create_and_delete(world: &World, round: usize) {
    let control = world.sandbox.control();
    let first = |round: usize| 10_000 + 3 * round;
    let create = |n| control.put("procedure", &small_object(first(round) + n)).expect("created");
    create(0);
    create(1);
    control.delete("procedure", &format!("{:024x}", first(round))).expect("deleted");
    create(2);
    if round % 2 == 1 {
        control.put("procedure", &small_object(first(round - 1))).expect("brought back");
    }
}

/// Waits until the hub has committed the newest operation of the upstream.
pub async fn caught_up(world: &World, hub: &Hub) {
    let control = world.sandbox.control();
    let (newest, _) = control.top("procedure").expect("the collection");
    let objects = control.count("procedure").expect("the collection");
    eventually("the hub has what the upstream has", async || {
        let mirrors = hub.api("operator", "/api/v1/mirrors").await;
        let mirror = &mirrors["items"][0];
        let cursor = serde_json::from_str::<(u32, u32)>(mirror["cursor"].as_str().unwrap_or_default());
        // What was deleted is still an object of ours.
        let known = mirror["objects"].as_u64().is_some_and(|known| known >= objects as u64);
        cursor.is_ok_and(|cursor| cursor >= newest.into()) && known
    })
    .await;
}

/// What every report must say, whatever has happened.
fn assert_nothing_lost(report: &Value) {
    for key in ["lost", "doubled", "behind", "differences"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert!(report["received"].as_u64().expect("a count") > 0, "{report}");
}

fn assert_recovered(report: &Value) {
    let (recovered, unrecovered) =
        (report["recovered"].as_f64().expect("n"), report["unrecovered"].as_f64().expect("n"));
    assert!(recovered > 0.0, "nobody came back: {report}");
    let ratio = recovered / (recovered + unrecovered);
    println!("recovered {recovered} of {}, ratio {ratio:.4}", recovered + unrecovered);
    assert!(ratio >= 0.99, "{report}");
}

#[tokio::test]
async fn every_change_reaches_every_client_in_order() {
    let world = World::new(OBJECTS, false).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let mut followers = Followers::start(&format!("http://{}", hub.addr), 10, &[]).await;
    let start = followers.progress().await[0];
    play(&world, RATE);
    followers.reach("three hundred changes everywhere", start + 300).await;
    play(&world, 0);
    caught_up(&world, &hub).await;
    let report = followers.finish().await;
    println!("{report}");
    assert_nothing_lost(&report);
    assert_eq!((&report["attached"], &report["reloads"]), (&Value::from(10), &Value::from(0)));
}

#[tokio::test]
async fn a_planted_skip_turns_the_checker_red() {
    let world = World::new(20, false).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let mut followers = Followers::start(&format!("http://{}", hub.addr), 2, &["--drop", "5"]).await;
    let start = followers.progress().await[0];
    play(&world, RATE);
    eventually("changes", async || followers.progress().await.into_iter().all(|last| last >= start + 20)).await;
    play(&world, 0);
    caught_up(&world, &hub).await;
    let report = followers.finish().await;
    assert_eq!(report["lost"], 1, "{report}");
}

/// What a client was not told of and never hears of again differs at the end: an entity that it lacks, one that it keeps.
#[tokio::test]
async fn a_skipped_create_or_trash_turns_the_final_state_red() {
    let world = telling_world(20, false).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    // Of what is created the second: the first is deleted, which would tell of it after all.
    for (round, (op, nth)) in [("create", "2"), ("trash", "1")].into_iter().enumerate() {
        let followers = Followers::start(&format!("http://{}", hub.addr), 2, &["--drop", nth, "--op", op]).await;
        create_and_delete(&world, 2 * round);
        caught_up(&world, &hub).await;
        let report = followers.finish().await;
        assert_eq!((&report["lost"], &report["differences"]), (&Value::from(1), &Value::from(1)), "{op}: {report}");
    }
}

/// Kills a hub twenty times at random moments under load; once in a while everybody is cut and the bus loses everything.
async fn survives_kills(redis: bool, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = telling_world(OBJECTS, redis).await;
    let mut hubs = vec![world.hub("a").await];
    if redis {
        hubs.push(world.hub("b").await);
    }
    caught_up(&world, &hubs[0]).await;
    let front = Front::start(hubs.iter().map(|hub| hub.addr).collect()).await;
    let mut followers = Followers::start(&format!("http://{}", front.addr), 6, &[]).await;
    play(&world, RATE);
    let began = Instant::now();
    for round in 0..20 {
        create_and_delete(&world, round);
        let at = followers.progress().await.into_iter().max().unwrap_or(0);
        let further = random.random_range(1..60);
        eventually("changes between two kills", async || {
            followers.progress().await.into_iter().any(|last| last >= at + further)
        })
        .await;
        let victim = random.random_range(0..hubs.len());
        // Some of it while the hub still lives, some when there may be nobody to tell.
        hubs[victim].kill().await;
        create_and_delete(&world, 20 + round);
        if let Some(redis) = &mut world.redis
            && round % 5 == 3
        {
            if round % 2 == 1 {
                redis.flush().await;
            } else {
                redis.kill();
                redis.restart_empty().await;
            }
        }
        if round % 4 == 2 {
            front.cut();
        }
        hubs[victim].start().await;
    }
    play(&world, 0);
    caught_up(&world, &hubs[0]).await;
    let report = followers.finish().await;
    println!("20 kills in {:?}: {report}", began.elapsed());
    assert_nothing_lost(&report);
    assert_recovered(&report);
}

#[tokio::test]
async fn nothing_is_lost_over_twenty_kills_in_memory() {
    survives_kills(false, 11).await;
}

#[tokio::test]
async fn nothing_is_lost_over_twenty_kills_on_redis() {
    survives_kills(true, 12).await;
}

/// Away for so many changes that most documents have no room: references bring the rest.
#[tokio::test]
async fn a_long_cut_recovers() {
    let world = World::new(OBJECTS, false).await;
    let hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let front = Front::start(vec![hub.addr]).await;
    let followers = Followers::start(&format!("http://{}", front.addr), 3, &[]).await;
    front.lead_to(Vec::new());
    front.cut();
    for n in 0..MISSED {
        let id = format!("{:024x}", n % OBJECTS);
        world.sandbox.control().patch("procedure", &id, &format!("{{\"value.amount\":{n}}}")).expect("edited");
    }
    caught_up(&world, &hub).await;
    front.lead_to(vec![hub.addr]);
    let report = followers.finish().await;
    println!("{MISSED} changes away: {report}");
    assert_nothing_lost(&report);
    assert_eq!((&report["recovered"], &report["unrecovered"]), (&Value::from(3), &Value::from(0)), "{report}");
    assert_eq!(report["received"], 3 * MISSED);
}

#[tokio::test]
async fn a_stop_tells_clients_to_come_back_and_ends_with_zero() {
    let world = World::new(20, false).await;
    let mut hub = world.hub("a").await;
    caught_up(&world, &hub).await;
    let front = Front::start(vec![hub.addr]).await;
    let followers = Followers::start(&format!("http://{}", front.addr), 5, &[]).await;
    play(&world, RATE);
    assert_eq!(hub.stop().await, Some(0), "{}", hub.log());
    hub.start().await;
    play(&world, 0);
    caught_up(&world, &hub).await;
    let report = followers.finish().await;
    assert_nothing_lost(&report);
    assert_eq!(report["disconnects"]["3001"], 5, "{report}");
}
