//! A PostgreSQL for tests: one cluster per machine user, started by whoever comes first and stopped soon after the last has
//! gone; one database per test, copied from a migrated template.
//!
//! The binaries come from `DZVIN_PG_BIN`, else the newest of the distribution's. Test processes hold a shared lock on a file; a
//! watcher stops the server when it gets the lock for itself. The server lives on a unix socket and does not sync: what a
//! crash does to PostgreSQL's own files is not ours to test.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use dzvin::platform::db::{Database, DbOptions, MIGRATIONS};
use sqlx::{Connection, PgConnection, Postgres, Transaction, postgres::PgConnectOptions};

/// The cluster of this machine user.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    template: String,
    _in_use: File,
}

/// A database of one test; dropped with it.
pub struct TestDb {
    name: String,
}

/// Begins a transaction on a connection that is the test's own.
pub async fn begin(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    #[expect(clippy::disallowed_methods, reason = "no pool gets it")]
    connection.begin().await.expect("begin")
}

/// Databases of this process, to tell their names apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl TestDb {
    /// A fresh database with the schema.
    pub async fn new() -> Self {
        let cluster = cluster().await;
        let name = format!("t_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // A run that was killed leaves its databases, and ids of processes come again.
        cluster.admin(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        cluster.admin(&format!("CREATE DATABASE {name} TEMPLATE {}", cluster.template)).await;
        Self { name }
    }

    /// How to connect to it.
    pub fn connect_options(&self) -> PgConnectOptions {
        the_cluster().options(&self.name)
    }

    /// The same as an address, for a configuration.
    pub fn url(&self) -> String {
        format!("postgres:///{}?host={}&user=dzvin", self.name, the_cluster().dir.display())
    }

    /// A pool on it, as the hub makes it.
    pub fn database(&self) -> Database {
        Database::new(DbOptions::at(self.connect_options()))
    }

    /// A connection without any of the hub's settings.
    pub async fn raw(&self) -> PgConnection {
        PgConnection::connect_with(&self.connect_options()).await.expect("connect to the test database")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let cluster = the_cluster();
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let mut psql = Command::new(cluster.bin.join("psql"));
        psql.args(["-q", "-X", "-U", "dzvin", "-d", "postgres", "-c", &drop]).arg("-h").arg(&cluster.dir);
        // Not waited for here: dropping waits until every backend of the cluster has taken notice, also one that is sending rows
        // to a task of this very thread.
        if let Ok(mut psql) = psql.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            std::thread::spawn(move || psql.wait());
        }
    }
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

fn the_cluster() -> &'static Cluster {
    CLUSTER.get().expect("a test database was made before")
}

async fn cluster() -> &'static Cluster {
    static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = STARTING.lock().await;
    if CLUSTER.get().is_none() {
        let cluster = Cluster::start().await;
        assert!(CLUSTER.set(cluster).is_ok(), "started once");
    }
    the_cluster()
}

impl Cluster {
    async fn start() -> Self {
        let bin = binaries();
        let uid = fs::metadata("/proc/self").expect("procfs").uid();
        let version = major(&bin);
        let dir = std::env::temp_dir().join(format!("dzvin-it-{uid}-{version}"));
        fs::create_dir_all(&dir).expect("the cluster's directory");
        let in_use = File::create(dir.join("in-use")).expect("lock file");
        in_use.lock_shared().expect("in use");
        let starting = File::create(dir.join("starting")).expect("lock file");
        starting.lock().expect("one starts it");

        let template = format!("template_{:x}", schema_version());
        let it = Self { bin, template, _in_use: in_use, dir };
        if !it.runs() {
            it.run();
        }
        it.make_template().await;
        it
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.dir).username("dzvin").database(database)
    }

    async fn admin(&self, sql: &str) {
        let mut admin = PgConnection::connect_with(&self.options("postgres")).await.expect("connect as admin");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.expect(sql);
    }

    fn runs(&self) -> bool {
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(&self.dir);
        ready.status().is_ok_and(|status| status.success())
    }

    fn run(&self) {
        let (data, log) = (self.dir.join("data"), self.dir.join("log"));
        if !data.join("PG_VERSION").exists() {
            let _ = fs::remove_dir_all(&data);
            own(&self.dir);
            let mut initdb = self.server("initdb");
            initdb.args(["-U", "dzvin", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]).arg(&data);
            must(&mut initdb);
        }
        let settings = format!(
            "-c listen_addresses='' -c max_connections=300 -c fsync=off -c full_page_writes=off -k {}",
            self.dir.display()
        );
        let mut start = self.server("pg_ctl");
        start.arg("-D").arg(&data).arg("-l").arg(&log).args(["-w", "-o", &settings, "start"]);
        must(&mut start);
        self.watch();
    }

    /// A process of its own that stops the server some seconds after the last test process has gone.
    #[allow(clippy::zombie_processes, reason = "it outlives us by design")]
    fn watch(&self) {
        let stop = format!(
            "while :; do flock -x '{0}/in-use' true; sleep 5; \
             flock -x -n '{0}/in-use' '{1}/pg_ctl' -D '{0}/data' -m fast -w stop && break; done",
            self.dir.display(),
            self.bin.display()
        );
        let mut watcher = as_server("setsid");
        watcher.args(["sh", "-c", &stop]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It outlives us on purpose: its parent is then init, which waits for it.
        drop(watcher.spawn().expect("watcher"));
    }

    fn server(&self, program: &str) -> Command {
        as_server(&self.bin.join(program).display().to_string())
    }

    async fn make_template(&self) {
        let mut admin = PgConnection::connect_with(&self.options("postgres")).await.expect("connect as admin");
        let made = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)";
        let made: bool = sqlx::query_scalar(made).bind(&self.template).fetch_one(&mut admin).await.expect("look");
        if made {
            return;
        }
        self.admin(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.template)).await;
        self.admin(&format!("CREATE DATABASE {}", self.template)).await;
        let mut connection = PgConnection::connect_with(&self.options(&self.template)).await.expect("template");
        MIGRATIONS.run(&mut connection).await.expect("migrate the template");
        connection.close().await.expect("close");
        self.admin(&format!("ALTER DATABASE {} IS_TEMPLATE true", self.template)).await;
    }
}

/// Names the template after the migrations, so that another schema gets another one.
fn schema_version() -> u64 {
    let bytes = MIGRATIONS.iter().flat_map(|migration| migration.checksum.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn binaries() -> PathBuf {
    if let Some(bin) = std::env::var_os("DZVIN_PG_BIN") {
        return bin.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's server, or DZVIN_PG_BIN");
    let newest = versions.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max();
    Path::new("/usr/lib/postgresql").join(newest.expect("a version").to_string()).join("bin")
}

fn major(bin: &Path) -> String {
    let out = Command::new(bin.join("postgres")).arg("--version").output().expect("postgres --version");
    let text = String::from_utf8_lossy(&out.stdout);
    text.split_whitespace().nth(2).and_then(|version| version.split('.').next()).expect("a version").to_owned()
}

fn root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// PostgreSQL refuses root: then another user runs it.
fn server_user() -> &'static str {
    let known = Command::new("id").args(["-u", "postgres"]).output().is_ok_and(|out| out.status.success());
    if known { "postgres" } else { "nobody" }
}

fn own(dir: &Path) {
    if root() {
        must(Command::new("chown").arg("-R").arg(server_user()).arg(dir));
    }
}

fn as_server(program: &str) -> Command {
    if !root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", server_user(), "--", program]).current_dir("/");
    command
}

fn must(command: &mut Command) {
    // The server keeps what it inherits open: nothing of ours.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{command:?}: {status:?}");
}
