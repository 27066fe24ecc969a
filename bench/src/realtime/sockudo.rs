//! A peer from the crates: sockudo, a server of the Pusher protocol in Rust, as `cargo install` leaves it.

use super::drive::seal::APP;
use super::pinned;
use crate::error::{BenchError, Fallible};
use crate::world::free_port;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::Child;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// What stands in nobody's way.
const PLENTY: &str = "1000000";

/// The running server; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Sockudo {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Sockudo {
    /// Why it cannot be measured here, if so.
    pub(crate) fn missing() -> Option<&'static str> {
        program().is_none().then_some(
            "sockudo is not installed: cargo install sockudo --version 5.2.0 --locked --no-default-features --features local \
             (needs protoc), or name it by SOCKUDO_BIN",
        )
    }

    /// Starts it and waits until it listens. Its history and recovery are left off, as they are by default; metrics are on.
    pub(crate) async fn start(core: usize, ping_seconds: u64) -> Fallible<Self> {
        let doing = || BenchError::because("starting sockudo");
        let program = program().ok_or_else(|| BenchError::new("sockudo is not installed"))?;
        let folder = tempfile::Builder::new().prefix("dzs").tempdir().map_err(doing())?;
        let (port, metrics) = (free_port()?, free_port()?);
        let log = File::create(folder.path().join("log")).map_err(doing())?;
        let mut command = pinned::command(core, program);
        command.current_dir(folder.path()).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for (name, value) in [
            ("HOST", "127.0.0.1"),
            ("METRICS_HOST", "127.0.0.1"),
            ("METRICS_ENABLED", "true"),
            ("RATE_LIMITER_ENABLED", "false"),
            ("RUST_LOG", "error"),
            ("SOCKUDO_DEFAULT_APP_ID", APP),
            ("SOCKUDO_DEFAULT_APP_KEY", APP),
            ("SOCKUDO_DEFAULT_APP_SECRET", APP),
            ("SOCKUDO_DEFAULT_APP_MAX_CONNECTIONS", PLENTY),
            ("SOCKUDO_DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SECOND", PLENTY),
            ("SOCKUDO_DEFAULT_APP_MAX_EVENT_BATCH_SIZE", PLENTY),
        ] {
            command.env(name, value);
        }
        command.env("PORT", port.to_string()).env("METRICS_PORT", metrics.to_string());
        command.env("WEBSOCKET_PING_INTERVAL", ping_seconds.to_string());
        // It pings at most twice in this time.
        command.env("ACTIVITY_TIMEOUT", (ping_seconds * 2).to_string());
        let errors = log.try_clone().map_err(doing())?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(doing())?;
        let mut it = Self { child, address: format!("127.0.0.1:{port}"), folder };
        it.ready().await?;
        Ok(it)
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) || begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(BenchError::new(format!("sockudo does not start: {}", log.trim())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SOCKUDO_BIN").filter(|named| !named.is_empty()) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path).chain(cargo).map(|folder| folder.join("sockudo")).find(|it| it.is_file())
}
