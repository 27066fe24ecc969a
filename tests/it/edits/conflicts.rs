//! Many writers of a few entities, on two nodes: nothing is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::*;

const WRITERS: usize = 8;
const ENTITIES: usize = 4;
/// Additions of each writer to each entity.
const TIMES: usize = 5;

/// Adds one, however often somebody else was faster; answers how often.
async fn add(writer: &Writer<'_>, id: &str, conflicts: &AtomicU64) {
    loop {
        let there = writer.get(&format!("{DEALS}/{id}")).await;
        let n = there.is(200).body["doc"]["n"].as_u64().expect("a number");
        let done = writer.merge(id, &json!({"n": n + 1}), Some(&there.tag())).await;
        match done.status {
            200 => return,
            412 => drop(conflicts.fetch_add(1, Ordering::Relaxed)),
            _ => panic!("{}", done.body),
        }
    }
}

#[tokio::test]
async fn no_update_is_lost() {
    let world = world(true).await;
    let hubs = [world.hub("a").await, world.hub("b").await];
    let boss = Writer::new(&hubs[0], "olha", "boss");
    for n in 0..ENTITIES {
        boss.put(&format!("d{n}"), &json!({"n": 0}), None).await.is(201);
    }
    let conflicts = AtomicU64::new(0);
    join_all((0..WRITERS).map(async |writer| {
        let user = Writer::new(&hubs[writer % 2], &format!("writer-{writer}"), "boss");
        for turn in 0..TIMES * ENTITIES {
            add(&user, &format!("d{}", (turn + writer) % ENTITIES), &conflicts).await;
        }
    }))
    .await;
    for n in 0..ENTITIES {
        let there = boss.get(&format!("{DEALS}/d{n}")).await;
        assert_eq!(there.body["doc"]["n"], json!(WRITERS * TIMES), "every addition counts");
        assert_eq!(there.body["revision"], json!(WRITERS * TIMES + 1), "each is a revision");
    }
    assert!(conflicts.load(Ordering::Relaxed) > 0, "writers met");
}
