//! The database: its pool, the session settings that every connection has, and what an error of it means.
//!
//! Invariants: a commit is always waited for (`synchronous_commit` is never off); nothing waits without a limit; readers
//! have connections of their own, so however many there are, a batch, a lease and the relay find one; once `guard_identity` was called, no connection is handed out to a database that went back in time before its streams
//! have a new epoch. Deliberately absent: SQL of the rooms.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use dzvin_actors::platform::ports::StoreError;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        counter::Counter,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use sqlx::{
    Connection, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{sync::watch, time::sleep};

use super::{
    contact::Contact,
    lent::Lent,
    warm::{TRUSTED, Warm, Writer},
};

/// The schema, built into the binary.
pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// The advisory lock of whoever brings the schema up to date: a number that nothing else here takes.
pub const MIGRATING: i64 = 0x647a_7669_6e6d_6967;

/// How the database is reached, and how long anything there may take.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// Where it is.
    pub connect: PgConnectOptions,
    /// Where to LISTEN, when a pooler stands between us and the database.
    pub listen: Option<PgConnectOptions>,
    /// Most connections, at least 2: half of them, rounded up, write; the others read for REST and recovery. LISTEN has one
    /// more.
    pub max_connections: u32,
    /// Longest wait for a connection, new or free: a request should rather fail than pile up.
    pub acquire_timeout: Duration,
    /// Longest statement: far above a batch of 7.5 MB documents on a slow disk, far below a lease's patience.
    pub statement_timeout: Duration,
    /// Longest wait for a lock; writers of a kind wait for each other's commit, milliseconds.
    pub lock_timeout: Duration,
    /// Whether other nodes listen for what this one commits.
    pub notify: bool,
    /// Longest pause inside a transaction: a stuck node must not hold a stream's row.
    pub idle_in_transaction_timeout: Duration,
}

impl DbOptions {
    /// The defaults for an address, `postgres://...`.
    ///
    /// # Errors
    /// The address is malformed.
    pub fn new(url: &str) -> Result<Self, sqlx::Error> {
        Ok(Self::at(PgConnectOptions::from_str(url)?))
    }

    /// The defaults for options that are already made.
    #[must_use]
    pub fn at(connect: PgConnectOptions) -> Self {
        Self {
            connect,
            listen: None,
            max_connections: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(10),
            notify: true,
        }
    }

    /// Connections for readers.
    #[must_use]
    pub fn readers(&self) -> u32 {
        (self.max_connections / 2).max(1)
    }

    fn writers(&self) -> u32 {
        self.max_connections.saturating_sub(self.readers()).max(1)
    }
}

/// What the store counts and measures.
#[derive(Debug, Clone)]
pub struct DbMetrics {
    /// One batch, from asking for a connection to its commit; failed and repeated tries are not counted.
    pub apply_seconds: Histogram,
    /// The commit alone: the wait for the disk, or for a synchronous standby.
    pub commit_seconds: Histogram,
    /// Times the database was found to be another one, or an older state of itself. Any is an alarm.
    pub identity_changes: Counter,
    /// Batches that were repeated because another writer came between.
    pub raced: Counter,
    /// Records that the database refused and that were put aside.
    pub refused_records: Counter,
}

impl Default for DbMetrics {
    fn default() -> Self {
        // 0.25 ms doubling to 8 s: one small row at one end, the statement timeout at the other.
        let seconds = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        Self {
            apply_seconds: seconds(),
            commit_seconds: seconds(),
            identity_changes: Counter::default(),
            raced: Counter::default(),
            refused_records: Counter::default(),
        }
    }
}

impl DbMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "apply_seconds",
            "Whole transactions of batches that were stored",
            self.apply_seconds.clone(),
        );
        registry.register("commit_seconds", "Commits of batches", self.commit_seconds.clone());
        registry.register("identity_changes", "Times the database went back in time", self.identity_changes.clone());
        registry.register("raced_batches", "Batches repeated after a race of writers", self.raced.clone());
        registry.register("refused_records", "Records that the database refused", self.refused_records.clone());
    }
}

/// Connections of both pools, asked for when somebody scrapes.
#[derive(Debug)]
struct Pools([(&'static str, PgPool); 2]);

impl Collector for Pools {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Look = fn(&PgPool) -> i64;
        let all: [(&str, &str, Look); 2] = [
            ("pool_connections", "Open connections of a pool", |pool| i64::from(pool.size())),
            ("pool_idle", "Connections of a pool that nobody uses", |pool| {
                i64::try_from(pool.num_idle()).unwrap_or(i64::MAX)
            }),
        ];
        for (name, help, look) in all {
            let mut metric =
                encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            for (pool, it) in &self.0 {
                let labels = [("pool", *pool)];
                ConstGauge::new(look(it)).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// How often something was committed to a change log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Commits {
    /// By this node.
    pub here: u64,
    /// By other nodes, as far as was heard.
    pub elsewhere: u64,
}

/// The pools, and what wakes those who wait for commits. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    /// The one that this handle uses.
    pool: PgPool,
    readers: PgPool,
    listen: PgConnectOptions,
    wake: Arc<watch::Sender<Commits>>,
    /// What our own notifications carry, so that we need not listen to ourselves.
    node: Arc<str>,
    notify: bool,
    warm: Option<Warm>,
    guard: Arc<AtomicBool>,
    contact: Arc<Contact>,
    metrics: DbMetrics,
}

impl Database {
    /// Prepares the pools; connects when first used, so a database that is away does not keep a node from starting.
    #[must_use]
    pub fn new(options: DbOptions) -> Self {
        let guard = Arc::new(AtomicBool::new(false));
        let metrics = DbMetrics::default();
        let (readers, writers) = (options.readers(), options.writers());
        let connect = options.connect.clone().application_name("dzvin");
        let pool = |size, plans| {
            let settings = session_settings(&options, plans);
            let (checks, counted) = (Arc::clone(&guard), metrics.clone());
            PgPoolOptions::new()
                .max_connections(size)
                .acquire_timeout(options.acquire_timeout)
                // One that was just used is well: to ask it each time would cost a round trip for each batch.
                .test_before_acquire(false)
                .before_acquire(|connection, idle| {
                    Box::pin(async move {
                        if idle.idle_for > TRUSTED {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .after_connect(move |connection, _| {
                    let (settings, checks, counted) = (settings.clone(), Arc::clone(&checks), counted.clone());
                    Box::pin(async move {
                        sqlx::raw_sql(sqlx::AssertSqlSafe(settings)).execute(&mut *connection).await?;
                        if checks.load(Ordering::Acquire) {
                            check_identity(connection, &counted).await?;
                        }
                        Ok(())
                    })
                })
                .connect_lazy_with(connect.clone())
        };
        // What is written has one shape, and planning it took longer than doing it. What is asked has many.
        let (pool, readers) = (pool(writers, "force_generic_plan"), pool(readers, "auto"));
        // Leases and maintenance need one each beside it.
        let (notify, warm) = (options.notify, (writers > 2).then(Warm::default));
        let node = format!("{:016x}", rand::random::<u64>()).into();
        let listen = options.listen.unwrap_or(connect);
        let (wake, contact) = (Arc::default(), Arc::default());
        Self { pool, readers, listen, wake, node, notify, warm, guard, contact, metrics }
    }

    /// The same database for those who only read, on connections of their own.
    #[must_use]
    pub fn for_readers(&self) -> Self {
        Self { pool: self.readers.clone(), ..self.clone() }
    }

    /// Registers what is counted, and the pools, under `db_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("db");
        self.metrics.register(registry);
        let pools = [("writers", self.pool.clone()), ("readers", self.readers.clone())];
        registry.register_collector(Box::new(Pools(pools)));
    }

    /// Brings the schema up to date, on a connection without the pools' limits and past any pooler, for the lock is the session's: an
    /// index takes as long as it takes, and of two nodes the second waits for the first.
    ///
    /// # Errors
    /// A migration failed, or one that was applied has changed since.
    pub async fn migrate(&self) -> Result<(), sqlx::migrate::MigrateError> {
        let mut connection = self.connect_alone().await?;
        let mut asked = 0_u32;
        // Asked for, not waited for: a statement that waits has a snapshot, and an index that the other builds concurrently waits for
        // all of those.
        while !sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(MIGRATING).fetch_one(&mut connection).await? {
            if asked.is_multiple_of(30) {
                tracing::info!(seconds = asked, "another node brings the schema up to date, or makes an index");
            }
            asked += 1;
            sleep(Duration::from_secs(1)).await;
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.listen.clone());
        let mut migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        let done = migrations.set_locking(false).run(&pool).await;
        pool.close().await;
        // With it goes the lock.
        drop(connection.close().await);
        done
    }

    /// Checks now, and from now on with every new connection, that the database is the one we knew and did not go back in
    /// time. When it did, every stream has a new epoch before this returns. Call once the schema is there.
    ///
    /// # Errors
    /// The database is away or has no schema.
    pub async fn guard_identity(&self) -> Result<(), StoreError> {
        let doing = "checking the identity of the database";
        let mut connection = self.pool.acquire().await.map_err(store_error(doing))?;
        check_identity(&mut connection, &self.metrics).await.map_err(store_error(doing))?;
        self.guard.store(true, Ordering::Release);
        Ok(())
    }

    /// The pool, for the rooms' single statements; for a transaction, [`Self::lend`].
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection for a transaction.
    ///
    /// # Errors
    /// The database is away, or every connection is busy for too long.
    pub async fn lend(&self) -> Result<Lent, sqlx::Error> {
        Ok(self.pool.acquire().await?.into())
    }

    /// A connection of nobody's pool, past any pooler and without the limits that those of the pools have: for work that takes as long
    /// as it takes. Whoever asks closes it.
    ///
    /// # Errors
    /// The database is away.
    pub async fn connect_alone(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.listen).await
    }

    /// A connection for one who writes often: the one that was kept, if it was used just now, else one of the pool.
    ///
    /// # Errors
    /// The database is away, or every connection is busy for too long.
    pub async fn writer(&self) -> Result<Writer, sqlx::Error> {
        match self.warm.as_ref().and_then(Warm::take) {
            Some(writer) => Ok(writer),
            None => Ok(Writer::new(self.lend().await?)),
        }
    }

    /// Keeps a connection whose transaction was committed for the next who writes, if one comes soon.
    pub fn keep_writer(&self, writer: Writer) {
        if let Some(warm) = &self.warm {
            warm.keep(writer);
        }
    }

    /// Whether it answers, as far as was seen.
    #[must_use]
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Closes both pools once whoever has a connection has given it back.
    pub async fn close(&self) {
        // The one that is kept for the next batch is of the writers' pool, which waits for it.
        if let Some(warm) = &self.warm {
            drop(warm.take());
        }
        tokio::join!(self.pool.close(), self.readers.close());
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &DbMetrics {
        &self.metrics
    }

    /// Changes when something was, or may have been, committed to a change log.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<Commits> {
        self.wake.subscribe()
    }

    /// Says that this node committed something.
    pub fn committed(&self) {
        self.wake.send_modify(|commits| commits.here = commits.here.wrapping_add(1));
    }

    /// Says that another node committed something, or may have.
    pub fn heard(&self) {
        self.wake.send_modify(|commits| commits.elsewhere = commits.elsewhere.wrapping_add(1));
    }

    /// A name for this node of this process, new with every start.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What a notification of this node carries; `None` when nobody listens.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.notify.then_some(&*self.node)
    }

    /// Where to LISTEN: the direct address if there is one. A listener holds its connection for good, so it takes none from
    /// those who work.
    #[must_use]
    pub fn listen_pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect_lazy_with(self.listen.clone())
    }
}

/// A batch's documents pass through the server's temporary stores: above its default of 4 MB they would go through files.
const WORK_MEM: &str = "16MB";

/// `remote_apply` is stronger than `on` and stays; all else becomes `on`.
fn session_settings(options: &DbOptions, plans: &str) -> String {
    let ms = |time: Duration| time.as_millis();
    format!(
        "SELECT set_config('statement_timeout', '{}', false), set_config('lock_timeout', '{}', false), \
         set_config('idle_in_transaction_session_timeout', '{}', false), set_config('TimeZone', 'UTC', false), \
         set_config('work_mem', '{WORK_MEM}', false), \
         set_config('plan_cache_mode', '{plans}', false), \
         set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' \
         THEN 'remote_apply' ELSE 'on' END, false)",
        ms(options.statement_timeout),
        ms(options.lock_timeout),
        ms(options.idle_in_transaction_timeout)
    )
}

async fn check_identity(connection: &mut PgConnection, metrics: &DbMetrics) -> Result<(), sqlx::Error> {
    let changed =
        sqlx::query_scalar!(r#"SELECT check_database_identity() AS "changed!""#).fetch_one(connection).await?;
    if changed {
        metrics.identity_changes.inc();
        tracing::error!("the database went back in time or is another one: every stream has a new epoch");
    }
    Ok(())
}

/// What a database error means for the caller: worth another try, or ours to mend.
pub fn store_error(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |error| {
        let unavailable = match &error {
            sqlx::Error::Database(refused) => refused.code().is_some_and(|code| is_passing(&code)),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        let unfit = is_data_refusal(&error);
        let source = Box::new(error);
        if unavailable {
            StoreError::Unavailable { doing, source }
        } else if unfit {
            StoreError::Unfit { doing, source }
        } else {
            StoreError::Refused { doing, source }
        }
    }
}

/// Connection lost (08), not let in (28) or not there (3D) while somebody restores or reconfigures, rolled back (40), out of
/// resources (53), locked or not ready (55), stopped or cancelled (57), system (58), a standby after a failover (25006),
/// idle too long (25P03).
fn is_passing(code: &str) -> bool {
    ["08", "28", "3D", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
        || matches!(code, "25006" | "25P03")
}

/// Whether the database refused the data itself (class 22, 23 or a limit, 54), not the statement or the moment.
#[must_use]
pub fn is_data_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}
