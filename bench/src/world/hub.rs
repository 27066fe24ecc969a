//! The hub: the built binary, configured as in production but on loopback, with the bus in memory unless it is told of a Redis. It
//! can be killed, and comes back on the same ports.

use super::{Cluster, Feeder, Told, free_address};
use crate::error::{BenchError, Fallible};
use crate::metrics::{self, Scrape};
use crate::realtime::pinned;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an orderly stop may take: above the hub's own grace.
const GRACE: Duration = Duration::from_secs(30);
/// How long the token of the bench is good.
const TOKEN_HOURS: i64 = 12;
/// Lines of the hub's log that are shown when it fails.
const LAST_LINES: usize = 15;

/// The child.
#[derive(Debug)]
pub(crate) struct Hub {
    child: Child,
    pid: u32,
    binary: PathBuf,
    config: PathBuf,
    core: Option<usize>,
    address: String,
    internal: String,
    log: PathBuf,
    secret: String,
    client: reqwest::Client,
}

/// What a hub is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Its database, and the folder for its files.
    pub(crate) cluster: &'a Cluster,
    /// What its files are called.
    pub(crate) name: &'a str,
    /// The Mirror that it follows, if any.
    pub(crate) mirror: Option<&'a Feeder>,
    /// The core that it is bound to, if any.
    pub(crate) core: Option<usize>,
    /// Lines of TOML to add to its configuration.
    pub(crate) extra: &'a [String],
    /// What its tokens are signed with; one of its own if none.
    pub(crate) secret: Option<&'a str>,
}

/// The binary given, else the one of this workspace in the profile of this program, brought up to date.
pub(crate) async fn binary(given: Option<PathBuf>) -> Fallible<PathBuf> {
    if let Some(path) = given {
        return fs::canonicalize(&path).map_err(BenchError::because(format!("finding {}", path.display())));
    }
    let own = std::env::current_exe().map_err(BenchError::because("finding this program"))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--package", "dzvin", "--bin", "dzvin"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.kill_on_drop(true).status().await.map_err(BenchError::because("running cargo"))?;
    let beside = own.with_file_name("dzvin");
    match built.success() && beside.is_file() {
        true => Ok(beside),
        false => Err(BenchError::new("the hub could not be built; --hub names a binary")),
    }
}

impl Hub {
    /// Writes its configuration, brings the schema up to date, starts it and waits until it is ready.
    pub(crate) async fn start(binary: &Path, setup: Setup<'_>) -> Fallible<Self> {
        let (address, internal) = (free_address()?, free_address()?);
        let secret = setup.secret.map_or_else(random_secret, str::to_owned);
        let config = setup.cluster.folder().join(format!("{}.toml", setup.name));
        let told = Told {
            address: &address,
            internal: &internal,
            database: &setup.cluster.url(),
            secret: &secret,
            mirror: setup.mirror.map(|feeder| (feeder.mirror(), feeder.token())),
            extra: setup.extra,
        };
        fs::write(&config, told.toml()).map_err(BenchError::because("writing the configuration"))?;
        let log = setup.cluster.folder().join(format!("{}.log", setup.name));
        let migrated = command(binary, "migrate", &config, &log, setup.core)?.status().await;
        let migrated = migrated.map_err(BenchError::because("running the hub"))?;
        if !migrated.success() {
            return Err(BenchError::new(format!("dzvin migrate failed\n{}", last_lines(&log))));
        }
        let child = serve(binary, &config, &log, setup.core)?;
        let (pid, client, binary) = (child.id().unwrap_or_default(), reqwest::Client::new(), binary.to_owned());
        let core = setup.core;
        let mut hub = Self { child, pid, binary, config, core, address, internal, log, secret, client };
        hub.ready().await?;
        Ok(hub)
    }

    /// Kills it as the kernel would.
    pub(crate) async fn kill(&mut self) -> Fallible<()> {
        self.child.kill().await.map_err(BenchError::because("killing the hub"))
    }

    /// Starts it again, where it was, and waits until it is ready.
    pub(crate) async fn again(&mut self) -> Fallible<()> {
        self.child = serve(&self.binary, &self.config, &self.log, self.core)?;
        self.pid = self.child.id().unwrap_or_default();
        self.ready().await
    }

    /// The address of its metrics.
    pub(crate) fn internal(&self) -> &str {
        &self.internal
    }

    /// Lines of its log with this in them.
    pub(crate) fn lines_with(&self, what: &str) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        loop {
            let answer = self.client.get(format!("http://{}/readyz", self.internal)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let ended = self.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || begun.elapsed() > PATIENCE {
                let what = if ended { "ended" } else { "is not ready in time" };
                return Err(BenchError::new(format!("the hub {what}\n{}", last_lines(&self.log))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Where clients connect.
    pub(crate) fn socket_url(&self) -> String {
        format!("ws://{}/connection/websocket", self.address)
    }

    /// Where clients connect, and where it is told to publish.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What its tokens are signed with.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// A token that may read everything.
    pub(crate) fn token(&self) -> Fallible<String> {
        self.token_of("bench")
    }

    /// The same for a certain user.
    pub(crate) fn token_of(&self, user: &str) -> Fallible<String> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = json!({"sub": user, "iat": now, "exp": now + TOKEN_HOURS * 3600, "roles": ["admin"]});
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).map_err(BenchError::because("signing a token"))
    }

    /// Its metrics now.
    pub(crate) async fn metrics(&self) -> Fallible<Scrape> {
        metrics::scrape(&self.client, &self.internal).await
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it to leave in order; one that stays is killed when it is dropped.
    pub(crate) async fn stop(mut self) -> Fallible<()> {
        self.terminate().await.map(drop)
    }

    /// The same, of one that may be started again; answers how long it took.
    pub(crate) async fn terminate(&mut self) -> Fallible<Duration> {
        let begun = Instant::now();
        let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.pid.to_string()]).status().await;
        told.map_err(BenchError::because("stopping the hub"))?;
        match timeout(GRACE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(begun.elapsed()),
            Ok(Ok(status)) => Err(BenchError::new(format!("the hub stopped with {status}\n{}", last_lines(&self.log)))),
            _ => Err(BenchError::new(format!("the hub does not stop\n{}", last_lines(&self.log)))),
        }
    }
}

/// 64 random letters: enough for any key that a hub is told.
pub(crate) fn random_secret() -> String {
    (0..64).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect()
}

/// A line of a hub's configuration: where its Redis is.
pub(crate) fn on_redis(url: &str) -> String {
    format!("redis.url = \"{url}\"")
}

fn serve(binary: &Path, config: &Path, log: &Path, core: Option<usize>) -> Fallible<Child> {
    command(binary, "serve", config, log, core)?.spawn().map_err(BenchError::because("starting the hub"))
}

fn command(binary: &Path, name: &str, config: &Path, log: &Path, core: Option<usize>) -> Fallible<Command> {
    let out = File::options().create(true).append(true).open(log).map_err(BenchError::because("making a log"))?;
    let also = out.try_clone().map_err(BenchError::because("making a log"))?;
    let mut command = core.map_or_else(|| Command::new(binary), |core| pinned::command(core, binary));
    command.arg(name).arg("--config").arg(config).stdin(Stdio::null()).stdout(out).stderr(also);
    command.process_group(0).kill_on_drop(true);
    // What somebody set for a hub of their own is not meant for this one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DZVIN__")) {
        command.env_remove(name);
    }
    Ok(command)
}

fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
