//! A private Redis, and the least that two nodes could ask of it: a bare `PUBLISH` that goes to two subscribers.

use super::pinned;
use super::usage::Look;
use crate::error::{BenchError, Fallible};
use crate::world::free_address;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The least for which a timer can wait.
const TICK: Duration = Duration::from_millis(1);
/// As many subscribers, and as many that publish, as there are nodes.
const NODES: usize = 2;
/// The channel of the bare publications.
const CHANNEL: &str = "bare";
/// How long the subscribers may take to be heard of.
const SETTLE: Duration = Duration::from_millis(300);

/// The running server; killed when it is dropped, for it keeps nothing.
#[derive(Debug)]
pub(crate) struct Redis {
    server: Child,
    address: String,
}

impl Redis {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(core: usize, folder: &Path) -> Fallible<Self> {
        let address = free_address()?;
        let port = address.rsplit(':').next().unwrap_or_default();
        let mut command: Command = pinned::command(core, "redis-server");
        command.args(["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let server = server.map_err(BenchError::because("starting Redis"))?;
        let mut redis = Self { server, address };
        let begun = Instant::now();
        loop {
            let ended = redis.server.try_wait().is_ok_and(|status| status.is_some());
            match redis.connect().await {
                Ok(_) => return Ok(redis),
                Err(_) if !ended && begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) if ended => return Err(BenchError::new("Redis does not start: is redis-server installed?")),
                Err(error) => return Err(error),
            }
        }
    }

    /// The address for the hub.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id().unwrap_or_default()
    }

    async fn connect(&self) -> Fallible<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.map_err(BenchError::because("connecting to Redis"))?;
        stream.set_nodelay(true).map_err(BenchError::because("connecting to Redis"))?;
        Ok(stream)
    }

    /// Microseconds of its processor time for each bare publication of so many bytes at this rate, one command at a time.
    pub(crate) async fn bare_publish_us(&self, bytes: usize, rate: f64, seconds: f64) -> Fallible<f64> {
        let writing = || BenchError::because("writing to Redis");
        let mut senders = Vec::new();
        for _ in 0..NODES {
            let mut subscriber = self.connect().await?;
            subscriber.write_all(&command(&["SUBSCRIBE", CHANNEL])).await.map_err(writing())?;
            forget(subscriber);
            let (replies, sender) = self.connect().await?.into_split();
            forget(replies);
            senders.push(sender);
        }
        tokio::time::sleep(SETTLE).await;
        let publish = command(&["PUBLISH", CHANNEL, &"x".repeat(bytes)]);
        let (before, begun) = (Look::at(self.pid()), Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut sent, whole) = (0_usize, (rate * seconds) as usize);
        while sent < whole {
            ticks.tick().await;
            let due = ((begun.elapsed().as_secs_f64() * rate) as usize).min(whole);
            for n in sent..due {
                senders[n % NODES].write_all(&publish).await.map_err(writing())?;
            }
            sent = due;
        }
        tokio::time::sleep(SETTLE).await;
        Ok(Look::at(self.pid()).since(before).cpu_us / sent.max(1) as f64)
    }
}

/// Reads and forgets until the other side ends.
fn forget(mut from: impl tokio::io::AsyncRead + Unpin + Send + 'static) {
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while from.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
    });
}

/// A command as it is written.
fn command(words: &[&str]) -> Vec<u8> {
    let count = words.len();
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{count}\r\n{words}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_counted_words() {
        assert_eq!(command(&["PUBLISH", "a", "xy"]), b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$2\r\nxy\r\n");
    }
}
