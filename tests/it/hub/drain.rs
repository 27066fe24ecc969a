//! A rolling restart of two nodes behind the shipped nginx: what `scripts/soak drain` does with 5,000 clients, with 200.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_tungstenite::{Connector, connect_async_tls_with_config, tungstenite::Message};

use super::server::{API_KEY, with_key};
use crate::{
    nginx::Nginx,
    spine::{caught_up, play},
    support::{
        eventually::eventually,
        hub::{Hub, World},
        node::Followers,
    },
};

/// Clients of each protocol.
const FOLLOWERS: usize = 160;
const PUSHERS: usize = 40;
/// Edits a second: each goes to every follower, whose library, TLS and hubs, built to be debugged, share two cores with the rest of the
/// suite. At 50 the followers heard less than was said for as long as three such tests ran, and never came to the end.
const EDITS: u32 = 15;
/// What a client of Pusher's does when its connection did not come to be.
const PAUSE: Duration = Duration::from_millis(200);

fn rules() -> String {
    with_key(
        "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n",
    )
}

/// What a client of Pusher's met.
#[derive(Debug, Default)]
struct Met {
    codes: BTreeSet<u16>,
    numbers: usize,
    /// Between two cuts everything comes, once and in order; and nothing that came before a cut comes after it.
    faults: Vec<(u64, u64)>,
}

/// Comes back at once after every close, until it is told to end; `highest` is the last number that it has heard.
async fn pusher(nginx: String, trust: Connector, highest: Arc<AtomicU64>, mut end: watch::Receiver<bool>) -> Met {
    let mut met = Met::default();
    while !*end.borrow() {
        let connecting = connect_async_tls_with_config(&nginx, None, false, Some(trust.clone())).await;
        let Ok((mut socket, _)) = connecting else {
            sleep(PAUSE).await;
            continue;
        };
        let subscribe = json!({"event": "pusher:subscribe", "data": {"channel": "room"}});
        let _ = socket.send(subscribe.to_string().into()).await;
        let mut last = None;
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                _ = end.wait_for(|end| *end) => break,
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).expect("json");
                    let data = event["data"].as_str().and_then(|data| serde_json::from_str::<Value>(data).ok());
                    let Some(n) = data.unwrap_or_else(|| event["data"].clone())["n"].as_u64() else { continue };
                    met.numbers += 1;
                    let before = highest.fetch_max(n, Ordering::Relaxed);
                    let passed_over = last.replace(n).filter(|last| last + 1 != n);
                    met.faults.extend(passed_over.or((n <= before).then_some(before)).map(|last| (last, n)));
                }
                Some(Ok(Message::Close(frame))) => {
                    met.codes.insert(frame.map_or(0, |frame| u16::from(frame.code)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
    }
    met
}

/// Numbers that nobody acknowledged, with what was said of each and how long it took.
type Unknown = BTreeMap<u64, String>;

/// Publishes one number after the other; answers how many, and those that nobody acknowledged. nginx does not repeat a POST on a connection
/// which the hub closes at that moment: it may have been taken.
async fn publish(client: reqwest::Client, url: String, end: watch::Receiver<bool>) -> (u64, Unknown) {
    let (mut n, mut unknown) = (0, Unknown::new());
    while !*end.borrow() {
        n += 1;
        let body = json!({"channel": "room", "data": {"n": n}}).to_string();
        let begun = Instant::now();
        let answer = client.post(&url).header("x-api-key", API_KEY).body(body).send().await.expect("answered");
        let answer = answer.json::<Value>().await.expect("json");
        if !answer["result"]["offset"].is_u64() {
            assert_eq!(answer["status"], 503, "publication {n}: {answer}");
            unknown.insert(n, format!("{} after {:.1?}", answer["code"], begun.elapsed()));
        }
        sleep(Duration::from_millis(20)).await;
    }
    (n, unknown)
}

/// Waits until all have a session. Who comes back late may find the node there again from which it was sent away.
async fn everybody(a: &Hub, b: &Hub) {
    let all = (FOLLOWERS + PUSHERS) as f64;
    eventually("everybody has a session", async || {
        a.metric("dzvin_sessions").await + b.metric("dzvin_sessions").await == all
    })
    .await;
}

/// Whether all that was passed over may never have been published.
fn excused((last, n): (u64, u64), unknown: &Unknown) -> bool {
    last < n && (last + 1..n).all(|passed| unknown.contains_key(&passed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_nginx_loses_nothing_and_sends_nobody_away() {
    let world = World::new(50, true).await;
    let rules = rules();
    let (mut a, mut b) = tokio::join!(world.hub_with("a", &rules), world.hub_with("b", &rules));
    let nginx = Nginx::start(&[&a, &b], &[]).await;
    caught_up(&world, &b).await;
    let (trust, hush, end) = (nginx.trust(), watch::Sender::new(false), watch::Sender::new(false));
    let heard: Vec<Arc<AtomicU64>> = (0..PUSHERS).map(|_| Arc::default()).collect();
    let mut pushers = JoinSet::new();
    let address = nginx.url("/app/app-key?protocol=7").replace("https", "wss");
    for highest in &heard {
        pushers.spawn(pusher(address.clone(), trust.clone(), Arc::clone(highest), end.subscribe()));
    }
    let mut followers = Followers::start_trusting(&nginx.url(""), FOLLOWERS, &nginx.ca()).await;
    everybody(&a, &b).await;
    play(&world, EDITS);
    let publishing = tokio::spawn(publish(nginx.client(), nginx.url("/api/publish"), hush.subscribe()));

    assert_eq!(a.stop().await, Some(0));
    a.start().await;
    everybody(&a, &b).await;
    assert_eq!(b.stop().await, Some(0));
    b.start().await;
    everybody(&a, &b).await;
    let now = followers.progress().await.into_iter().max().expect("some");
    followers.reach("changes reach everybody", now + 1).await;

    play(&world, 0);
    hush.send_replace(true);
    let (published, unknown) = publishing.await.expect("publishes");
    // Everybody is back and has the end, which no later publication would show to be missing.
    let last = (1..=published).rev().find(|n| !unknown.contains_key(n)).expect("some are acknowledged");
    eventually("the last publication is everywhere", async || {
        heard.iter().all(|highest| highest.load(Ordering::Relaxed) >= last)
    })
    .await;
    end.send_replace(true);
    assert!(unknown.len() as u64 * 100 <= published, "{unknown:?} of {published} are not acknowledged");
    caught_up(&world, &b).await;
    let report = followers.finish().await;
    println!("{published} publications; {report}");
    for key in ["lost", "doubled", "behind", "differences", "unrecovered"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert!(report["recovered"].as_u64() >= Some(FOLLOWERS as u64), "everybody came back: {report}");
    // 0 is a client's own beginning.
    let codes = report["disconnects"].as_object().expect("codes");
    assert!(codes.keys().all(|code| code == "0" || code == "3001") && codes.contains_key("3001"), "{report}");
    while let Some(met) = pushers.join_next().await {
        let met = met.expect("lives");
        assert!(met.faults.iter().all(|fault| excused(*fault, &unknown)), "{met:?}, unknown {unknown:?}");
        assert_eq!(met.codes, BTreeSet::from([4200]), "{met:?}");
        assert!(met.numbers > 0, "{met:?}");
    }
}
