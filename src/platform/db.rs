//! The database: its pool, the session settings that every connection has, and what an error of it means.
//!
//! Invariants: a commit is always waited for (`synchronous_commit` is never off); nothing waits without a limit; once
//! `guard_identity` was called, no connection is handed out to a database that went back in time before its streams
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
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use sqlx::{
    PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

/// The schema, built into the binary.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How the database is reached, and how long anything there may take.
#[derive(Debug, Clone)]
pub struct DbOptions {
    /// Where it is.
    pub connect: PgConnectOptions,
    /// Where to LISTEN, when a pooler stands between us and the database.
    pub listen: Option<PgConnectOptions>,
    /// Most connections: the writers are few, the readers are REST and recovery.
    pub max_connections: u32,
    /// Longest wait for a connection, new or free: a request should rather fail than pile up.
    pub acquire_timeout: Duration,
    /// Longest statement: far above a batch of 7.5 MB documents on a slow disk, far below a lease's patience.
    pub statement_timeout: Duration,
    /// Longest wait for a lock; writers of a kind wait for each other's commit, milliseconds.
    pub lock_timeout: Duration,
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
        }
    }
}

/// What the store counts.
#[derive(Debug, Default, Clone)]
pub struct DbMetrics {
    /// Times the database was found to be another one, or an older state of itself. Any is an alarm.
    pub identity_changes: Counter,
    /// Batches that were repeated because another writer came between.
    pub raced: Counter,
    /// Records that the database refused and that were put aside.
    pub refused_records: Counter,
}

impl DbMetrics {
    /// Registers under `db_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("db");
        registry.register("identity_changes", "Times the database went back in time", self.identity_changes.clone());
        registry.register("raced_batches", "Batches repeated after a race of writers", self.raced.clone());
        registry.register("refused_records", "Records that the database refused", self.refused_records.clone());
    }
}

/// The pool, and what wakes those who wait for commits. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    listen: Option<PgConnectOptions>,
    wake: Arc<watch::Sender<u64>>,
    guard: Arc<AtomicBool>,
    metrics: DbMetrics,
}

impl Database {
    /// Prepares the pool; connects when first used, so a database that is away does not keep a node from starting.
    #[must_use]
    pub fn new(options: DbOptions) -> Self {
        let settings = session_settings(&options);
        let guard = Arc::new(AtomicBool::new(false));
        let metrics = DbMetrics::default();
        let (checks, counted) = (Arc::clone(&guard), metrics.clone());
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.acquire_timeout)
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
            .connect_lazy_with(options.connect.application_name("dzvin"));
        Self { pool, listen: options.listen, wake: Arc::new(watch::Sender::new(0)), guard, metrics }
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// A migration failed, or one that was applied has changed since.
    pub async fn migrate(&self) -> Result<(), sqlx::migrate::MigrateError> {
        MIGRATIONS.run(&self.pool).await
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

    /// The pool, for the rooms' statements.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &DbMetrics {
        &self.metrics
    }

    /// Changes when something was, or may have been, committed to a change log: here or on another node.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// Says that something was committed.
    pub fn committed(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Where to LISTEN: the direct address if there is one.
    #[must_use]
    pub fn listen_pool(&self) -> PgPool {
        match &self.listen {
            Some(direct) => PgPoolOptions::new().max_connections(1).connect_lazy_with(direct.clone()),
            None => self.pool.clone(),
        }
    }
}

/// `remote_apply` is stronger than `on` and stays; all else becomes `on`.
fn session_settings(options: &DbOptions) -> String {
    let ms = |time: Duration| time.as_millis();
    format!(
        "SELECT set_config('statement_timeout', '{}', false), set_config('lock_timeout', '{}', false), \
         set_config('idle_in_transaction_session_timeout', '{}', false), set_config('TimeZone', 'UTC', false), \
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
        let source = Box::new(error);
        if unavailable { StoreError::Unavailable { doing, source } } else { StoreError::Refused { doing, source } }
    }
}

/// Connection lost (08), rolled back (40), out of resources (53), locked (55P), stopped or cancelled (57), system (58),
/// a standby after a failover (25006), idle too long (25P03).
fn is_passing(code: &str) -> bool {
    ["08", "40", "53", "55P", "57", "58"].iter().any(|class| code.starts_with(class))
        || matches!(code, "25006" | "25P03")
}

/// Whether the database refused the data itself (class 22, 23 or a limit, 54), not the statement or the moment.
#[must_use]
pub fn is_data_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}
