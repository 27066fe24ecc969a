//! A hub dies, another one takes the Mirror, and the upstream never sees two.

use std::time::{Duration, Instant};

use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
};

/// Watches the upstream: the most sockets that were open at one time.
async fn crowd(control: dzvin_sandbox::Control, mut end: tokio::sync::oneshot::Receiver<()>) -> usize {
    let mut most = 0;
    while end.try_recv().is_err() {
        let open = control.wait_until(Duration::from_millis(20), |stats| {
            most = most.max(stats.open("procedure"));
            false
        });
        open.await;
    }
    most
}

async fn state(hub: &Hub) -> (String, bool) {
    let mirrors = hub.api("operator", "/api/v1/mirrors").await;
    let mirror = &mirrors["items"][0];
    (mirror["state"].as_str().unwrap_or_default().to_owned(), mirror["here"] == true)
}

/// Kills the holder; answers how long it took until the other was live.
async fn take_over(ttl: &'static str, kills: usize) -> Vec<Duration> {
    let mut world = World::new(20, true).await;
    world.lease_ttl = ttl;
    let control = world.sandbox.control();
    let (end, ended) = tokio::sync::oneshot::channel();
    let watcher = tokio::spawn(crowd(control.clone(), ended));
    let mut hubs = [world.hub("a").await, world.hub("b").await];
    let mut took = Vec::new();
    for n in 0..kills {
        let holder = eventually("one holds it and is live", async || {
            for (n, hub) in hubs.iter().enumerate() {
                if state(hub).await == ("live".to_owned(), true) {
                    return Some(n);
                }
            }
            None
        })
        .await;
        assert!(!state(&hubs[1 - holder]).await.1, "both hold it");
        hubs[holder].kill().await;
        let begun = Instant::now();
        control.patch("procedure", &format!("{n:024x}"), r#"{"status":"complete"}"#).expect("an edit");
        eventually("the other is live", async || state(&hubs[1 - holder]).await == ("live".to_owned(), true)).await;
        took.push(begun.elapsed());
        let path = format!("/api/v1/entities/procedure/{n:024x}");
        eventually("what came meanwhile is there", async || {
            hubs[1 - holder].api("operator", &path).await["doc"]["status"] == "complete"
        })
        .await;
        hubs[holder].start().await;
    }
    end.send(()).expect("the watcher");
    let most = watcher.await.expect("watched");
    println!("leases of {ttl}: {took:?} until another hub was live, at most {most} socket");
    assert_eq!(most, 1, "sockets of one mirror at one time");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_is_live_within_fifteen_seconds() {
    let took = take_over("10s", 1).await;
    assert!(took[0] < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_lease_is_taken_over_within_one_and_a_half_of_it() {
    let took = take_over("2s", 3).await;
    // The state that is asked for is noted once a second.
    assert!(took.iter().all(|took| *took < Duration::from_secs(3) + Duration::from_secs(1)), "{took:?}");
}
