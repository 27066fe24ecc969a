//! The hammer: writers and subscribers of the same entities, at two nodes, for a minute. Whatever meets whatever: no update is lost, no
//! subscriber is told anything else than what is stored, and whoever was answered reads what they wrote at the other node as well.

mod followers;
mod ledger;
mod planted;
mod writers;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::*;
use crate::support::eventually::in_time;
use followers::Follower;
use ledger::{Ack, Did, Follows, Rows, State, of_counters, of_reads, of_writes};
use writers::{Hand, STATUSES, id};

/// How long, in seconds; `DZVIN_TEST_HAMMER_S` for the soak.
const SECONDS: u64 = 60;
const WRITERS: usize = 16;
const SUBSCRIBERS: usize = 64;
/// Entities in all.
const ENTITIES: usize = 200;
/// Those of them that are only added to, and never go away: few, so that writers meet.
const COUNTERS: usize = 8;
/// Faults that are shown.
const SHOWN: usize = 20;

fn seconds() -> Duration {
    let seconds = std::env::var("DZVIN_TEST_HAMMER_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// All entities as they begin.
async fn create(boss: &Writer<'_>) -> Vec<Ack> {
    let doc = |n: usize| if n < COUNTERS { json!({"n": 0}) } else { json!({"status": STATUSES[n % STATUSES.len()]}) };
    let items: Vec<_> = (0..ENTITIES).map(|n| json!({"op": "create", "id": id(n), "doc": doc(n)})).collect();
    boss.bulk(&json!({"items": items})).await.is(200);
    (0..ENTITIES).map(|n| Ack { id: id(n), revision: 1, named: None, did: Did::Put(doc(n)) }).collect()
}

/// Three of eight follow the kind, three an entity, two a query; half of them at each node, and every fourth comes and goes.
fn follow(n: usize, hubs: &[Hub; 2]) -> Follower {
    let follows = match n / 2 % 8 {
        0..3 => Follows::Kind,
        3..6 => Follows::Entity(id(n % (2 * COUNTERS))),
        _ => Follows::Query(STATUSES[n % STATUSES.len()]),
    };
    Follower::start(format!("subscriber {n} of {follows:?}"), hubs[n % 2].addr, follows, n / 2 % 4 == 1)
}

/// What the database has, and how many changes it took.
async fn truth(world: &World) -> (Rows, i64) {
    let mut raw = world.db.raw().await;
    let sql = "SELECT id, revision, trashed_at IS NOT NULL, doc FROM entities WHERE kind = 'deal'";
    let rows: Vec<(String, i64, bool, Option<String>)> = sqlx::query_as(sql).fetch_all(&mut raw).await.expect("read");
    let row = |(id, revision, trashed, doc): (String, i64, bool, Option<String>)| {
        let doc = doc.map_or(Value::Null, |doc| serde_json::from_str(&doc).expect("json"));
        (id, State { revision: revision.unsigned_abs(), trashed, doc: Some(doc) })
    };
    let top = sqlx::query_scalar("SELECT top FROM streams WHERE name = 'entities.deal'").fetch_one(&mut raw).await;
    (rows.into_iter().map(row).collect(), top.expect("read"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_loses_anything_under_the_hammer() {
    let world = world(true).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    let mut acks = create(&Writer::new(&hubs[0], "olha", "boss")).await;
    let followers: Vec<_> = (0..SUBSCRIBERS).map(|n| follow(n, &hubs)).collect();
    let time = seconds();
    let (begun, until) = (Instant::now(), Instant::now() + time);
    let hands = (0..WRITERS).map(|n| Hand::new(n, &hubs[n % 2], &hubs[(n + 1) % 2]).run(until));
    let (mut reads, mut conflicts, mut refused) = (Vec::new(), 0, 0);
    for hand in join_all(hands).await {
        acks.extend(hand.acks);
        reads.extend(hand.reads);
        (conflicts, refused) = (conflicts + hand.conflicts, refused + hand.refused);
    }
    let took = begun.elapsed();
    let (rows, top) = truth(&world).await;
    let counters: Vec<_> = (0..COUNTERS).map(id).collect();
    let mut faults = [of_writes(&acks, &rows), of_counters(&acks, &counters, &rows), of_reads(&reads)].concat();
    let settling = Instant::now();
    for follower in &followers {
        // Those who cannot settle any more say why.
        let settled = in_time(async || follower.faults(&rows).is_empty()).await;
        if settled.is_none() {
            let found = follower.faults(&rows);
            println!("{}: {:?}", follower.name, &found[..SHOWN.min(found.len())]);
            faults.extend(found);
        }
    }
    let settled = settling.elapsed();

    let count = |of: fn(&Did) -> bool| acks.iter().filter(|ack| of(&ack.did)).count();
    let under = acks.iter().filter(|ack| ack.named.is_some()).count();
    let rate = acks.len() as f64 / took.as_secs_f64();
    println!(
        "hammer: {WRITERS} writers and {SUBSCRIBERS} subscribers of {ENTITIES} entities at two nodes for {time:?}"
    );
    println!("hammer: acknowledged: {}, {rate:.0} a second, {under} of them under If-Match", acks.len());
    println!(
        "hammer: of these to the trash {}, restored {}, purged {}; somebody else was faster {conflicts} times, it was not there {refused} times",
        count(|did| *did == Did::Trash),
        count(|did| *did == Did::Restore),
        count(|did| *did == Did::Purge),
    );
    let (mut told, mut returns, mut reloads, mut ended) = (0, 0, 0, BTreeMap::<u64, u64>::new());
    for follower in &followers {
        let story = follower.story.lock().expect("a story");
        (told, returns, reloads) = (told + story.ledger.told, returns + story.returns, reloads + story.reloads);
        story.ended.iter().for_each(|(code, times)| *ended.entry(*code).or_default() += times);
    }
    println!(
        "hammer: told {told} publications; subscribed from a position {returns} times, of which not recovered {reloads}; ended by the hub {ended:?}"
    );
    println!("hammer: read at the other node {} times; settled in {settled:.1?}; faults {}", reads.len(), faults.len());
    assert!(faults.is_empty(), "{} faults: {:#?}", faults.len(), &faults[..SHOWN.min(faults.len())]);
    assert_eq!(u64::try_from(top).expect("a top"), acks.len() as u64, "each acknowledged write is one change");
    assert_eq!(reloads, 0, "nothing died, so nothing is lost");
    assert!(conflicts > 0 && refused > 0 && told > 0 && returns > SUBSCRIBERS as u64, "they met, and came back");
    for done in [Did::Trash, Did::Restore, Did::Purge] {
        assert!(acks.iter().any(|ack| ack.did == done), "{done:?}");
    }
}
