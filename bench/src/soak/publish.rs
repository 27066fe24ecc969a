//! Publishers of the application: each channel has one, with one publication under way at a time, so that its numbers are in the order
//! of the stream. What is not acknowledged is never repeated: it may have been taken. Nor has it an idempotency key, so that one
//! which somebody else repeats on the way is seen at two places. The last one of each is acknowledged.

use super::ground::Ground;
use super::ledger::{Plant, Position};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// After so long nobody knows what became of it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Answer {
    result: Option<Taken>,
}

#[derive(Deserialize)]
struct Taken {
    offset: u64,
    epoch: String,
}

/// Begins to publish to these channels; ends when it is told to stop.
pub(crate) fn start(
    ground: &Arc<Ground>,
    servers: &[String],
    token: &str,
    channels: &[String],
    every: Duration,
    plant: Option<Plant>,
    stop: &watch::Receiver<bool>,
) -> JoinSet<u64> {
    let mut all = JoinSet::new();
    for (n, channel) in channels.iter().enumerate() {
        let (ground, channel, token) = (Arc::clone(ground), channel.clone(), token.to_owned());
        let mut servers = servers.to_vec();
        let turn = n % servers.len().max(1);
        servers.rotate_left(turn);
        let mut stop = stop.clone();
        let first = every.mul_f64(n as f64 / channels.len().max(1) as f64);
        all.spawn(async move {
            let mut disagreed = 0;
            tokio::time::sleep(first).await;
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last = false;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stop.wait_for(|stop| *stop), if !last => last = true,
                }
                let number = ground.truth.start(&channel);
                servers.rotate_left(1);
                if n == 0 && plant.is_some_and(|plant| plant.repeats(number)) {
                    publish(&ground.http, &servers[0], &token, &channel, number).await;
                }
                match publish(&ground.http, &servers[0], &token, &channel, number).await {
                    Some(position) => {
                        let agreed = ground.truth.acknowledged(&channel, &position, number, Instant::now());
                        disagreed += u64::from(!agreed);
                        if last {
                            return disagreed;
                        }
                    }
                    None => ground.truth.gave_up(&channel, number),
                }
            }
        });
    }
    all
}

async fn publish(http: &reqwest::Client, server: &str, token: &str, channel: &str, number: u64) -> Option<Position> {
    let body = json!({"channel": channel, "data": {"n": number, "x": "a publication of the soak"}});
    let request = http.post(format!("{server}/api/publish")).bearer_auth(token).timeout(PATIENCE);
    let answer: Answer = request.json(&body).send().await.ok()?.json().await.ok()?;
    answer.result.map(|taken| Position { epoch: taken.epoch, offset: taken.offset })
}
