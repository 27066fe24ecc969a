//! What `dzvin dev` needs and production brings itself: a private PostgreSQL and a key.
//!
//! Invariants: data survives every end of the hub, kill -9 included; a database is never killed, only asked to stop; nothing
//! listens on TCP; one hub at a time uses a data directory (a lock that dies with its holder says so). It is the same program
//! as production on a small deployment, so nothing else in the hub knows that it runs under `dev`.

mod binaries;
mod key;
mod postgres;
mod user;

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use binaries::Binaries;
pub use postgres::DevPostgres;

use super::config::{Config, Dev, KeyConfig};
use user::Runner;

/// Where data goes when the user has no home of its own, relative to the current directory.
const LAST_RESORT: &str = ".dzvin";
/// Where data goes for root: its home is closed to the user that PostgreSQL runs as.
const FOR_ROOT: &str = "/var/lib/dzvin";

/// `dzvin dev` cannot run, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// No usable PostgreSQL.
    #[error(
        "PostgreSQL {} or newer is not found (looked in {looked}); install it (Debian, Ubuntu: apt-get install postgresql) or set DZVIN_PG_BIN",
        binaries::OLDEST
    )]
    NotFound {
        /// Where.
        looked: String,
    },
    /// The data is of a major version that is not installed.
    #[error(
        "the data in {data} is of PostgreSQL {of}, and only {found} is found; install postgresql-{of}, or start afresh: mv {data} {data}.{of}"
    )]
    OtherVersion {
        /// The data directory.
        data: String,
        /// The version of the data.
        of: u32,
        /// The version of the programs.
        found: u32,
    },
    /// Another hub is at work there.
    #[error("another dzvin dev uses {0}; stop it, or set dev.data_dir")]
    InUse(String),
    /// PostgreSQL cannot get at its data.
    #[error(
        "{closed} is closed to the user {user} that PostgreSQL runs as; set dev.data_dir to an open place such as {FOR_ROOT}"
    )]
    Closed {
        /// The directory that bars the way.
        closed: String,
        /// The user.
        user: String,
    },
    /// Somebody else's directory stands where ours should.
    #[error("{0} is not a private directory of ours; remove it")]
    NotPrivate(String),
    /// A file or directory.
    #[error("cannot {doing} {path}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// Its last words.
        said: String,
    },
    /// The server runs and cannot be used.
    #[error("the private PostgreSQL cannot be used")]
    Connect(#[source] sqlx::Error),
}

impl DevError {
    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::File { doing, path, source }
    }
}

/// The private room of a `dzvin dev`: its data directory, locked, and what was started in it.
#[derive(Debug)]
pub struct DevRoom {
    /// The private database; `None` when the configuration names another.
    pub postgres: Option<DevPostgres>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Released by the end of the process, whatever ends it.
    _lock: File,
}

impl DevRoom {
    /// Fills in what the configuration leaves out: a database, started or adopted, and a key, made or read.
    ///
    /// # Errors
    /// Why it cannot be, and what would help.
    pub async fn open(config: &mut Config) -> Result<Self, DevError> {
        let (dev, private) = (config.dev.clone(), config.database.url.is_none());
        let prepare = move || {
            let runner = Runner::of_process();
            let (data_dir, lock) = enter(&dev, &runner)?;
            let key = key::load_or_make(&data_dir)?;
            let launched = if private { Some(postgres::launch(&dev, &data_dir, runner)?) } else { None };
            Ok((data_dir, lock, key, launched))
        };
        let (data_dir, lock, key, launched) = blocking(prepare).await?;
        let postgres = match launched {
            Some(launched) => Some(launched.ready().await?),
            None => None,
        };
        if let Some(postgres) = &postgres {
            config.database.url = Some(postgres.url());
        }
        if config.identity.keys.is_empty() {
            config.identity.keys.push(key);
        }
        Ok(Self { postgres, data_dir, _lock: lock })
    }

    /// Stops the database in order; its data stays.
    ///
    /// # Errors
    /// It does not stop in time; then it is left alone, and the next `dzvin dev` adopts it.
    pub async fn close(self) -> Result<(), DevError> {
        match self.postgres {
            Some(postgres) => postgres.stop().await,
            None => Ok(()),
        }
    }
}

/// The key of an earlier `dzvin dev`, if there was one.
#[must_use]
pub fn existing_key(dev: &Dev) -> Option<KeyConfig> {
    key::read(&data_dir(dev, &Runner::of_process()))
}

fn data_dir(dev: &Dev, runner: &Runner) -> PathBuf {
    let given = dev.data_dir.clone();
    given.unwrap_or_else(|| default_dir(runner, |name| std::env::var_os(name).map(PathBuf::from)))
}

/// Files, and programs that are waited for, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DevError> + Send + 'static,
) -> Result<T, DevError> {
    let lost = |_| DevError::Program { program: "a helper thread", said: "it panicked".to_owned() };
    tokio::task::spawn_blocking(work).await.map_err(lost)?
}

/// The data directory, made if need be and locked for this process.
fn enter(dev: &Dev, runner: &Runner) -> Result<(PathBuf, File), DevError> {
    let dir = data_dir(dev, runner);
    // Root's PostgreSQL is another user that must pass through; files within are private by their own modes.
    let mode = if runner.is_other() { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(&dir).map_err(DevError::file("make", &dir))?;
    let dir = fs::canonicalize(&dir).map_err(DevError::file("find", &dir))?;
    runner.check_way(&dir)?;
    let path = dir.join("dzvin.lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(DevError::file("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok((dir, lock)),
        Err(TryLockError::WouldBlock) => Err(DevError::InUse(dir.display().to_string())),
        Err(TryLockError::Error(source)) => Err(DevError::file("lock", &path)(source)),
    }
}

fn default_dir(runner: &Runner, var: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if runner.is_other() {
        return PathBuf::from(FOR_ROOT);
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    let data_home = var("XDG_DATA_HOME").filter(absolute);
    let of_home = || var("HOME").filter(absolute).filter(|home| home.is_dir()).map(|home| home.join(".local/share"));
    data_home.or_else(of_home).map_or_else(|| PathBuf::from(LAST_RESORT), |dir| dir.join("dzvin"))
}
