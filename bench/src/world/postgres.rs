//! A private PostgreSQL with its default, durable settings, on a unix socket only.

use crate::error::{BenchError, Fallible};
use crate::report::progress;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::fs::{self, File};
use std::os::unix::{
    fs::{MetadataExt, chown},
    process::CommandExt,
};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The oldest that the hub supports.
const OLDEST: u32 = 15;
/// The database's superuser and database.
const NAME: &str = "dzvin";
/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The running cluster. Dropping it stops it in order and removes its folder.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Child,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    version: String,
    folder: Option<TempDir>,
    path: PathBuf,
}

impl Cluster {
    /// Makes it and waits until it answers.
    pub(crate) async fn start(within: &Path, keep: bool) -> Fallible<Self> {
        let (bin, version) = newest()?;
        let user = unprivileged()?;
        // A socket's path may have 107 bytes: the prefix is short.
        let folder = tempfile::Builder::new().prefix("dzb").tempdir_in(within);
        let folder = folder.map_err(BenchError::because("making a folder for the database"))?;
        let path = folder.path().to_owned();
        if let Some((uid, gid)) = user {
            chown(&path, Some(uid), Some(gid)).map_err(BenchError::because("giving the folder away"))?;
        }
        let as_user = |program: &str| command(&bin.join(program), user, &path);
        let made = as_user("initdb")
            .args(["-D", "data", "-U", NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .output()
            .map_err(BenchError::because("running initdb"))?;
        if !made.status.success() {
            return Err(BenchError::new(format!("initdb failed: {}", String::from_utf8_lossy(&made.stderr).trim())));
        }
        let log = File::create(path.join("postgres.log")).map_err(BenchError::because("making a log"))?;
        let server = as_user("postgres")
            .args(["-D", "data", "-k"])
            .arg(&path)
            .args(["-c", "listen_addresses=", "-c", "log_checkpoints=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(BenchError::because("starting postgres"))?;
        let folder = if keep {
            progress(&format!("logs and data stay in {}", folder.keep().display()));
            None
        } else {
            Some(folder)
        };
        let mut cluster = Self { server, bin, user, version, folder, path };
        cluster.ready().await?;
        Ok(cluster)
    }

    async fn ready(&mut self) -> Fallible<()> {
        let begun = Instant::now();
        let mut connection = loop {
            let connecting = PgConnection::connect_with(&self.options("postgres")).await;
            let dead = self.server.try_wait().is_ok_and(|status| status.is_some());
            match connecting {
                Ok(connection) => break connection,
                Err(_) if !dead && begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => return Err(BenchError::because("waiting for postgres")(error)),
            }
        };
        sqlx::raw_sql("CREATE DATABASE dzvin")
            .execute(&mut connection)
            .await
            .map_err(BenchError::because("making the database"))?;
        Ok(())
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.path).username(NAME).database(database)
    }

    /// A connection to the hub's database.
    pub(crate) async fn connect(&self) -> Fallible<PgConnection> {
        let connecting = PgConnection::connect_with(&self.options(NAME)).await;
        connecting.map_err(BenchError::because("connecting to the database"))
    }

    /// The address for the hub.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{NAME}@localhost/{NAME}?host={}", self.path.display())
    }

    /// Where data, logs and configuration are.
    pub(crate) fn folder(&self) -> &Path {
        &self.path
    }

    /// A program that came with it.
    pub(crate) fn tool(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Name and version.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The postmaster.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Cluster {
    /// Fast shutdown: sessions are ended, then a checkpoint. Never by force.
    fn drop(&mut self) {
        let stopped = command(&self.bin.join("pg_ctl"), self.user, &self.path)
            .args(["stop", "-D", "data", "-m", "fast", "-w", "-t", "120", "-s"])
            .status();
        if !stopped.is_ok_and(|status| status.success()) && self.server.try_wait().is_ok_and(|status| status.is_none())
        {
            progress(&format!("the database in {} did not stop; it is left running", self.path.display()));
            if let Some(folder) = self.folder.take() {
                let _ = folder.keep();
            }
            return;
        }
        let _ = self.server.wait();
    }
}

/// In a process group of its own, so that a key pressed in the terminal stops us and not the database first.
fn command(program: &Path, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).process_group(0).env_remove("PGDATA").env_remove("PGPORT");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The newest of `DZVIN_PG_BIN`, else PATH and the distribution's folders.
fn newest() -> Fallible<(PathBuf, String)> {
    let given = std::env::var_os("DZVIN_PG_BIN").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folders = given.map_or_else(usual, |folder| vec![folder]);
    let found = folders.into_iter().filter(|folder| folder.join("initdb").is_file());
    let mut found: Vec<_> =
        found.filter_map(|folder| version(&folder).map(|(major, name)| (major, folder, name))).collect();
    found.sort_by_key(|(major, _, _)| *major);
    match found.pop() {
        Some((major, folder, name)) if major >= OLDEST => Ok((folder, name)),
        _ => Err(BenchError::new(format!(
            "no PostgreSQL of at least {OLDEST} found; set DZVIN_PG_BIN to its bin folder"
        ))),
    }
}

fn usual() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path).chain(installed.map(|entry| entry.path().join("bin"))).collect()
}

/// `postgres (PostgreSQL) 15.14 (Debian ...)` as 15 and `PostgreSQL 15.14`.
fn version(folder: &Path) -> Option<(u32, String)> {
    let out = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let number = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?.to_owned();
    let major = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((major, format!("PostgreSQL {number}")))
}

/// PostgreSQL refuses root: then it runs as `postgres`, or as `nobody`.
fn unprivileged() -> Fallible<Option<(u32, u32)>> {
    let doing = || BenchError::because("finding a user for the database");
    if fs::metadata("/proc/self").map_err(doing())?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").map_err(doing())?;
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(user) => Ok(Some(user)),
        None => Err(BenchError::new("PostgreSQL refuses root, and there is neither a user postgres nor nobody")),
    }
}
