//! One node without Redis: a bus in memory reaches nobody else, so a second node would serve clients that never hear of
//! what the first publishes. A session-level advisory lock in PostgreSQL tells them apart.
//!
//! Invariants: the lock lives on a connection of its own, past any pooler, and is free as soon as the server has noticed
//! its end; a node whose connection was lost takes the lock again before it is satisfied; while PostgreSQL is away nothing
//! happens, for nobody can take the lock then either. A node that finds another one in its place says so and ends.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::beat;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// `dzvin` in ASCII: advisory locks are numbers, each database has its own.
const LOCK: i64 = 0x64_7a76_696e;
/// How often a held lock is looked after: another node can only come in after this one's connection was lost.
const PERIOD: Duration = Duration::from_secs(2);
/// From one question for a lock that another has to the next.
const REST: Duration = Duration::from_millis(100);
/// Longest answer: a connection that is silent for so long is lost.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a node that starts waits for the one before it: the server notices a killed process within milliseconds, but
/// a restart may be as quick.
const PATIENCE: Duration = Duration::from_secs(3);

/// The lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    /// It is another's.
    #[error("another node without Redis serves this database; set redis.url on every node, or stop the other")]
    Another,
    /// Nobody can say.
    #[error("the database cannot say whether another node serves it")]
    Database(#[source] sqlx::Error),
}

/// The lock of this node.
#[derive(Debug)]
pub struct Alone {
    options: PgConnectOptions,
    name: String,
    connection: Option<PgConnection>,
}

impl Alone {
    /// Takes the lock. `options` lead to the database itself, `owner` is unique to this life of the process.
    ///
    /// # Errors
    /// [`AloneError::Another`] when somebody else has it after some patience.
    pub async fn claim(options: PgConnectOptions, owner: &Arc<str>) -> Result<Self, AloneError> {
        let name = format!("dzvin alone {owner}");
        let mut it = Self { options: options.application_name(&name), name, connection: None };
        if it.insist(Instant::now() + PATIENCE).await.map_err(AloneError::Database)? {
            return Ok(it);
        }
        Err(AloneError::Another)
    }

    /// Looks after the lock; ends only when another node has taken it.
    pub async fn keep(mut self) -> AloneError {
        loop {
            sleep_until(beat::next(PERIOD)).await;
            if self.is_held().await {
                continue;
            }
            tracing::warn!("the connection that shows that this node is alone was lost");
            self.connection = None;
            // No answer is no other node: both would ask the same server.
            match self.insist(Instant::now() + PATIENCE).await {
                Ok(true) => tracing::info!("this node is alone again"),
                Ok(false) => return AloneError::Another,
                Err(error) => tracing::debug!(%error, "cannot ask whether another node serves this database"),
            }
        }
    }

    async fn is_held(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        matches!(timeout(ANSWER, connection.ping()).await, Ok(Ok(())))
    }

    /// Asks until the lock is ours or the time is over.
    async fn insist(&mut self, until: Instant) -> Result<bool, sqlx::Error> {
        loop {
            let asked = timeout(ANSWER, self.ask()).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut))?;
            if asked || Instant::now() >= until {
                return Ok(asked);
            }
            sleep(REST).await;
        }
    }

    async fn ask(&mut self) -> Result<bool, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        // Should our machine vanish, the server must notice; for a unix socket these mean nothing.
        sqlx::raw_sql("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3")
            .execute(&mut connection)
            .await?;
        // What a cut network has left of ourselves stands in nobody's way.
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = $1 AND pid <> pg_backend_pid()",
        )
        .bind(&self.name)
        .execute(&mut connection)
        .await?;
        let ours: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut connection).await?;
        if ours {
            self.connection = Some(connection);
        } else {
            connection.close().await?;
        }
        Ok(ours)
    }
}
