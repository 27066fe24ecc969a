//! The private PostgreSQL: initialised once, started or adopted, stopped in order.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::Duration,
};

use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::{Binaries, DevError, blocking, key, user::Runner};
use crate::platform::config::{Dev, Secret, SecretUrl};

/// Role and database.
const NAME: &str = "dzvin";
/// Names the socket's file; nothing listens on TCP.
const PORT: &str = "5432";
/// `sun_path` holds 108 bytes with its NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Longest start: after a kill -9 of the machine the log is replayed first.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often a start is tried while a killed server's other processes are still ending, and the rest between two tries.
const START_TRIES: u32 = 10;
const START_REST: Duration = Duration::from_secs(1);
/// Longest orderly stop: a last checkpoint on a slow disk.
const STOP_LIMIT_SECONDS: &str = "60";
/// From one look to the next while the server starts, or while an adopted one is watched.
const LOOK: Duration = Duration::from_millis(50);
/// The log starts anew above this.
const MAX_LOG: u64 = 10 * 1024 * 1024;
/// What is kept of a program's last words.
const MAX_WORDS: usize = 600;

/// The running server.
#[derive(Debug)]
pub struct DevPostgres {
    place: Place,
    /// Of the server's first process.
    pub pid: u32,
    /// True when it was found running: the hub before us was killed.
    pub adopted: bool,
    /// `None` for an adopted one, which is not our child.
    child: Option<Child>,
}

/// Where everything of the server is.
#[derive(Debug, Clone)]
struct Place {
    binaries: Binaries,
    runner: Runner,
    data: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    password: Secret,
}

/// Starts the server in `dir`, or adopts the one that runs there. Blocking: for a helper thread.
pub(super) fn launch(dev: &Dev, dir: &Path, runner: Runner) -> Result<DevPostgres, DevError> {
    let data = dir.join("postgres");
    let binaries = Binaries::find(dev, &data)?;
    let password = key::secret(dir, "database-password")?;
    let socket_dir = socket_dir(dir, &runner)?;
    let place = Place { binaries, runner, data, socket_dir, log: dir.join("postgres.log"), password };
    if let Some(pid) = place.live_server() {
        if place.socket().exists() {
            tracing::info!(pid, data = %place.data.display(), "a database that survived its hub is adopted");
            return Ok(DevPostgres { place, pid, adopted: true, child: None });
        }
        // Its socket was swept away with other old files of a temporary directory: nobody can reach it any more.
        place.pg_ctl_stop()?;
    }
    place.clear_foreign_pid()?;
    if !place.data.join("PG_VERSION").exists() {
        place.init(dir)?;
    }
    let child = place.start()?;
    Ok(DevPostgres { pid: child.id(), place, adopted: false, child: Some(child) })
}

/// `$XDG_RUNTIME_DIR` or `/tmp`, and a name that follows from the data directory: short, and the same next time.
fn socket_dir(dir: &Path, runner: &Runner) -> Result<PathBuf, DevError> {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let name = digest.iter().take(4).fold(String::from("dzvin-"), |name, byte| format!("{name}{byte:02x}"));
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| !runner.is_other() && dir.is_dir());
    let fits = |dir: &PathBuf| dir.join(&name).as_os_str().len() + "/.s.PGSQL.".len() + PORT.len() <= MAX_SOCKET_PATH;
    let path = runtime.filter(fits).unwrap_or_else(|| PathBuf::from("/tmp")).join(&name);
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => runner.own(&path)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(DevError::file("make", &path)(error)),
    }
    // Anybody may write into /tmp: what is there must be a directory, not a link, and nobody else's.
    let meta = fs::symlink_metadata(&path).map_err(DevError::file("look at", &path))?;
    let private = meta.is_dir() && meta.uid() == runner.uid && meta.permissions().mode() & 0o077 == 0;
    if private { Ok(path) } else { Err(DevError::NotPrivate(path.display().to_string())) }
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.socket_dir.join(format!(".s.PGSQL.{PORT}"))
    }

    fn pid_file(&self) -> PathBuf {
        self.data.join("postmaster.pid")
    }

    /// The process that the pid file names, if it is alive and serves this very data.
    fn live_server(&self) -> Option<u32> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        self.serves(pid).then_some(pid)
    }

    /// PostgreSQL works in its data directory: that, and its name, tell it from whoever got the same number since.
    fn serves(&self, pid: u32) -> bool {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let at_work = fs::read_link(process.join("cwd")).is_ok_and(|dir| dir == self.data);
        at_work && name.trim() == "postgres"
    }

    /// A pid file of a dead server is cleared by the next one itself, with its own care for shared memory. What it cannot
    /// see through is a number that belongs to another program now.
    fn clear_foreign_pid(&self) -> Result<(), DevError> {
        let Ok(text) = fs::read_to_string(self.pid_file()) else { return Ok(()) };
        let pid: Option<u32> = text.lines().next().and_then(|line| line.trim().parse().ok());
        let alive = pid.is_none_or(|pid| Path::new(&format!("/proc/{pid}")).exists());
        let at_work = processes().any(|pid| self.serves(pid));
        if alive && !at_work {
            tracing::warn!(pid, "the pid file of a dead database names another program, cleared");
            for path in [self.pid_file(), self.socket_dir.join(format!(".s.PGSQL.{PORT}.lock"))] {
                if path.exists() {
                    fs::remove_file(&path).map_err(DevError::file("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Into a directory of another name first: what a crash leaves behind there is never taken for data.
    fn init(&self, dir: &Path) -> Result<(), DevError> {
        let draft = dir.join("postgres.new");
        if draft.exists() {
            fs::remove_dir_all(&draft).map_err(DevError::file("remove", &draft))?;
        }
        DirBuilder::new().mode(0o700).create(&draft).map_err(DevError::file("make", &draft))?;
        self.runner.own(&draft)?;
        let password = dir.join("postgres.password");
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&password)?;
            file.write_all(self.password.expose().as_bytes())
        };
        write().map_err(DevError::file("write", &password))?;
        self.runner.own(&password)?;
        let mut command = self.runner.command(&self.binaries.program("initdb"), &draft);
        command.arg("-D").arg(&draft).arg("--pwfile").arg(&password).args(["-U", NAME, "--auth=scram-sha-256"]);
        command.args(["--encoding=UTF8", "--locale=C", "--locale-provider=libc"]);
        let output = command.stdin(Stdio::null()).output();
        fs::remove_file(&password).map_err(DevError::file("remove", &password))?;
        succeed("initdb", output.map_err(DevError::file("run", &self.binaries.program("initdb")))?)?;
        fs::rename(&draft, &self.data).map_err(DevError::file("rename", &draft))
    }

    fn start(&self) -> Result<Child, DevError> {
        let long = fs::metadata(&self.log).is_ok_and(|meta| meta.len() > MAX_LOG);
        let log = OpenOptions::new().create(true).append(!long).write(true).truncate(long).mode(0o600).open(&self.log);
        let log = log.map_err(DevError::file("open", &self.log))?;
        let again = log.try_clone().map_err(DevError::file("open", &self.log))?;
        let mut command = self.runner.command(&self.binaries.program("postgres"), &self.data);
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket_dir).args(["-p", PORT]);
        command.args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
        // Its own group: a Ctrl-C in the terminal is for the hub, which stops the database last.
        command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(again);
        command.spawn().map_err(DevError::file("run", &self.binaries.program("postgres")))
    }

    /// Asks the server to stop (SIGINT, "fast") and waits. Never more than asks.
    fn pg_ctl_stop(&self) -> Result<(), DevError> {
        let mut command = self.runner.command(&self.binaries.program("pg_ctl"), &self.data);
        command.args(["stop", "-m", "fast", "-w", "-t", STOP_LIMIT_SECONDS, "-D"]).arg(&self.data);
        let output = command.stdin(Stdio::null()).output();
        succeed("pg_ctl stop", output.map_err(DevError::file("run", &self.binaries.program("pg_ctl")))?)
    }

    /// The end of the log: what a server that did not start had to say.
    fn last_words(&self) -> String {
        words(&fs::read(&self.log).unwrap_or_default())
    }

    fn url(&self, database: &str) -> SecretUrl {
        let (host, password) = (self.socket_dir.display(), self.password.expose());
        SecretUrl::new(format!("postgres:///{database}?host={host}&port={PORT}&user={NAME}&password={password}"))
    }
}

impl DevPostgres {
    /// Waits until the server takes connections, and makes the database when it is new.
    pub(super) async fn ready(mut self) -> Result<Self, DevError> {
        let deadline = Instant::now() + START_LIMIT;
        let url = self.place.url("postgres");
        let mut tries = START_TRIES;
        let mut connection = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, PgConnection::connect(url.expose())).await {
                Ok(Ok(connection)) => break connection,
                Ok(Err(_)) if self.has_ended() => self.start_again(&mut tries).await?,
                Ok(Err(error)) if left.is_zero() => return Err(DevError::Connect(error)),
                Ok(Err(_)) => sleep(LOOK).await,
                Err(_) => {
                    let said = format!("it takes no connections after {START_LIMIT:?}");
                    return Err(DevError::Program { program: "postgres", said });
                }
            }
        };
        let there: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_database WHERE datname = 'dzvin'")
            .fetch_optional(&mut connection)
            .await
            .map_err(DevError::Connect)?;
        if there.is_none() {
            sqlx::query("CREATE DATABASE dzvin").execute(&mut connection).await.map_err(DevError::Connect)?;
        }
        connection.close().await.map_err(DevError::Connect)?;
        Ok(self)
    }

    /// Processes of a killed server hold its shared memory for a moment; any other end is final.
    async fn start_again(&mut self, tries: &mut u32) -> Result<(), DevError> {
        let said = self.place.last_words();
        *tries = tries.saturating_sub(1);
        if *tries == 0 || !said.contains("still in use") {
            return Err(DevError::Program { program: "postgres", said });
        }
        sleep(START_REST).await;
        let place = self.place.clone();
        let child = blocking(move || place.start()).await?;
        (self.pid, self.child) = (child.id(), Some(child));
        Ok(())
    }

    /// Where the hub connects.
    #[must_use]
    pub fn url(&self) -> SecretUrl {
        self.place.url(NAME)
    }

    /// Its major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.place.binaries.major
    }

    /// Ends when the server does, with its last words: under a running hub that is a fault to be told.
    pub async fn ended(&mut self) -> String {
        while !self.has_ended() {
            sleep(Duration::from_secs(1)).await;
        }
        self.place.last_words()
    }

    /// Stops the server in order and waits for it.
    ///
    /// # Errors
    /// It does not stop in time, and is left alone.
    pub async fn stop(self) -> Result<(), DevError> {
        let Self { place, child, .. } = self;
        blocking(move || {
            // A server that has ended already, by itself or by Ctrl-C of its operator, has nothing to be asked.
            if place.live_server().is_some() {
                place.pg_ctl_stop()?;
            }
            child
                .map_or(Ok(()), |mut child| child.wait().map(drop))
                .map_err(DevError::file("wait for", &place.data))?;
            // Empty now; the next start makes it again.
            let _ = fs::remove_dir(&place.socket_dir);
            Ok(())
        })
        .await
    }

    fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => !self.place.serves(self.pid),
        }
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn succeed(program: &'static str, output: Output) -> Result<(), DevError> {
    if output.status.success() {
        return Ok(());
    }
    let said = if output.stderr.is_empty() { output.stdout } else { output.stderr };
    Err(DevError::Program { program, said: words(&said) })
}

/// The end of what a program said, on one line.
fn words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let skip = line.chars().count().saturating_sub(MAX_WORDS);
    line.chars().skip(skip).collect()
}
