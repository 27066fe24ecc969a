//! A private Redis that can be emptied, restarted with what it had saved, and restarted with nothing.

use crate::error::{BenchError, Fallible};
use crate::world::free_address;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long a start, and one command, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running server; killed when it is dropped, for it keeps nothing.
#[derive(Debug)]
pub(crate) struct Redis {
    server: Child,
    address: String,
    folder: PathBuf,
}

impl Redis {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(within: &Path) -> Fallible<Self> {
        let (address, folder) = (free_address()?, within.join("redis"));
        std::fs::create_dir_all(&folder).map_err(BenchError::because("making a folder for Redis"))?;
        let server = spawn(&address, &folder)?;
        let mut redis = Self { server, address, folder };
        redis.ready().await?;
        Ok(redis)
    }

    /// The address for the hub.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Forgets everything while it runs.
    pub(crate) async fn empty(&self) -> Fallible<()> {
        self.say("FLUSHALL\r\n").await
    }

    /// Is killed and stays away for a while; then it begins with what it has saved, or with nothing.
    pub(crate) async fn restart(&mut self, saved: bool, away: Duration) -> Fallible<()> {
        if saved {
            self.say("SAVE\r\n").await?;
        }
        self.server.kill().await.map_err(BenchError::because("killing Redis"))?;
        if !saved {
            let _ = std::fs::remove_file(self.folder.join("dump.rdb"));
        }
        tokio::time::sleep(away).await;
        self.server = spawn(&self.address, &self.folder)?;
        self.ready().await
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        loop {
            let ended = self.server.try_wait().is_ok_and(|status| status.is_some());
            match self.say("PING\r\n").await {
                Ok(()) => return Ok(()),
                Err(_) if ended => return Err(BenchError::new("Redis does not start: is redis-server installed?")),
                Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// One command as a person would type it; its answer begins with a plus.
    async fn say(&self, line: &str) -> Fallible<()> {
        let speaking = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(line.as_bytes()).await?;
            let mut answer = [0; 64];
            let len = stream.read(&mut answer).await?;
            if answer[..len].starts_with(b"+") { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
        };
        let said: std::io::Result<()> =
            tokio::time::timeout(PATIENCE, speaking).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        said.map_err(BenchError::because("speaking to Redis"))
    }
}

fn spawn(address: &str, folder: &Path) -> Fallible<Child> {
    let port = address.rsplit(':').next().unwrap_or_default();
    let mut command = Command::new("redis-server");
    command.args(["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    command.spawn().map_err(BenchError::because("starting Redis"))
}
