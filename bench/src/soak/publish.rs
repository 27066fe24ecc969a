//! Publishers of the application: each channel has one, with one publication under way at a time, so that its numbers are in the order
//! of the stream. What is not acknowledged is never repeated: it may have been taken. The last one of each is acknowledged.

use super::ground::Ground;
use super::ledger::Position;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
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
                match publish(&ground.http, &servers[0], &token, &channel, number).await {
                    Some(position) => {
                        disagreed += u64::from(!ground.truth.acknowledged(&channel, position, number));
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
