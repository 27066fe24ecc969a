//! The Mirror as a child process, and the way to tell it what to do.

use crate::error::{BenchError, Fallible};
use crate::feed::{Answer, Order};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long it may take to leave after its input ended.
const GRACE: Duration = Duration::from_secs(5);

/// The child.
#[derive(Debug)]
pub(crate) struct Feeder {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pid: u32,
    mirror: String,
    token: String,
}

impl Feeder {
    /// Starts it and waits for its address.
    pub(crate) async fn start() -> Fallible<Self> {
        let own = std::env::current_exe().map_err(BenchError::because("finding this program"))?;
        let mut child = Command::new(own)
            .arg("feed")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(BenchError::because("starting the Mirror"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.ok_or_else(|| BenchError::new("the Mirror has no pipes"))?;
        let pid = child.id().unwrap_or_default();
        let answers = BufReader::new(answers).lines();
        let mut feeder = Self { child, orders, answers, pid, mirror: String::new(), token: String::new() };
        let first = feeder.answer().await?;
        (feeder.mirror, feeder.token) = (first.mirror.unwrap_or_default(), first.token.unwrap_or_default());
        Ok(feeder)
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) async fn tell(&mut self, order: &Order) -> Fallible<Answer> {
        let line = serde_json::to_string(order).map_err(BenchError::because("writing an order"))? + "\n";
        self.orders.write_all(line.as_bytes()).await.map_err(BenchError::because("writing an order"))?;
        self.answer().await
    }

    async fn answer(&mut self) -> Fallible<Answer> {
        let line = self.answers.next_line().await.map_err(BenchError::because("reading the Mirror's answer"))?;
        let line = line.ok_or_else(|| BenchError::new("the Mirror has ended"))?;
        let answer: Answer = serde_json::from_str(&line).map_err(BenchError::because("reading the Mirror's answer"))?;
        match answer.error {
            Some(error) => Err(BenchError::new(format!("the Mirror: {error}"))),
            None => Ok(answer),
        }
    }

    /// The Mirror's address.
    pub(crate) fn mirror(&self) -> &str {
        &self.mirror
    }

    /// The token for it.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends its input and waits for it.
    pub(crate) async fn stop(mut self) -> Fallible<()> {
        drop(self.orders);
        // What does not go by itself is killed when it is dropped.
        let _ = timeout(GRACE, self.child.wait()).await;
        Ok(())
    }
}
