//! The largest objects that are promised, one after another: memory stays small and nobody is sent away.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::support::hub::{World, small_object};

/// So many in the suite, where everything is unoptimised; `DZVIN_LARGE_OBJECTS=100` is the promise.
const COUNT: usize = 25;
const BYTES: usize = 7_500_000;
/// The peak that is allowed.
const MEMORY: u64 = 256 * 1024 * 1024;
/// All of it, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_objects_in_a_row() {
    let count = std::env::var("DZVIN_LARGE_OBJECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(COUNT);
    let mut world = World::new(1, false).await;
    world.lease_ttl = "10s";
    let control = world.sandbox.control();
    let hub = world.hub("a").await;
    let follower = format!("ws://{}/connection/websocket", hub.addr);
    let (mut follower, _) = connect_async(follower).await.expect("connected");
    let commands = format!(
        "{{\"id\":1,\"connect\":{{\"token\":\"{}\"}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"entities.procedure\"}}}}",
        World::token("viewer")
    );
    follower.send(Message::text(commands)).await.expect("told");
    let begun = Instant::now();
    let writer = tokio::spawn(async move {
        for n in 0..count {
            control.put_sized("procedure", &small_object(1 + n), BYTES).expect("an object");
            // The upstream keeps what the hub has not read; that is not what is measured.
            assert!(control.wait_sent("procedure", PATIENCE).await, "object {n} was not sent");
        }
    });
    let (mut offsets, mut answers) = (Vec::new(), 0);
    while offsets.len() < count {
        let message = tokio::time::timeout(PATIENCE, follower.next()).await.expect("a message in time");
        let message = message.expect("nobody closes").expect("the transport holds");
        let Message::Text(text) = message else { panic!("{message:?}") };
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("json");
            assert!(line.get("error").is_none(), "{line}");
            answers += usize::from(line.get("id").is_some());
            if line.as_object().is_some_and(serde_json::Map::is_empty) {
                follower.send(Message::text("{}")).await.expect("a pong");
            }
            let publication = &line["push"]["pub"];
            if publication["data"]["id"].as_str().is_some_and(|id| id != format!("{:024x}", 0)) {
                assert_eq!((&publication["data"]["ref"], publication["data"].get("doc")), (&Value::Bool(true), None));
                offsets.push(publication["offset"].as_u64().expect("an offset"));
            }
        }
    }
    writer.await.expect("written");
    assert_eq!(answers, 2);
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{offsets:?}");
    let (peak, took) = (hub.peak_memory(), begun.elapsed());
    let stored = "SELECT count(*), min(size), bool_and(octet_length(doc) = size) FROM entities WHERE size > 1000000";
    let mut database = world.db.raw().await;
    let stored: (i64, i32, bool) = sqlx::query_as(stored).fetch_one(&mut database).await.expect("rows");
    assert_eq!(stored, (count as i64, BYTES as i32, true));
    println!("{count} objects of {BYTES} bytes: peak {} MiB, {:.1} s", peak >> 20, took.as_secs_f64());
    assert!(peak < MEMORY, "{peak} bytes");
}
