//! Leases in the database, by its clock: who may relay, who holds a Mirror.
//!
//! Invariants: at one moment at most one owner; the term grows with every change of owner and never goes back. An owner is one
//! life of one process: after a restart it is another one. The holder stops by its own clock; that is the actor's business.

use std::{sync::Arc, time::Duration};

use dzvin_actors::platform::ports::{Lease, Leases, StoreError};

use super::db::{Database, store_error};

/// Leases as one owner sees them.
#[derive(Clone)]
pub struct PgLeases {
    database: Database,
    owner: Arc<str>,
}

impl PgLeases {
    /// `owner` is unique to this life of the process: a node's name and something random.
    #[must_use]
    pub fn new(database: Database, owner: Arc<str>) -> Self {
        Self { database, owner }
    }

    /// Who we are to other nodes.
    #[must_use]
    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    /// Ends every lease, whoever held it: for a database of our own, where whoever held it is dead.
    ///
    /// # Errors
    /// The database is away.
    pub async fn end_all(database: &Database) -> Result<(), StoreError> {
        sqlx::query!("UPDATE leases SET owner = '', expires_at = '-infinity'")
            .execute(database.pool())
            .await
            .map_err(store_error("ending leases"))?;
        Ok(())
    }
}

impl Leases for PgLeases {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let term = sqlx::query_scalar!(
            "INSERT INTO leases AS l (name, owner, term, expires_at)
             VALUES ($1, $2, 1, clock_timestamp() + make_interval(secs => $3))
             ON CONFLICT (name) DO UPDATE SET
                 term = l.term + (l.owner <> excluded.owner)::int,
                 owner = excluded.owner,
                 expires_at = clock_timestamp() + make_interval(secs => $3)
             WHERE l.owner = excluded.owner OR l.expires_at <= clock_timestamp()
             RETURNING term",
            name,
            &self.owner,
            ttl.as_secs_f64()
        )
        .fetch_optional(self.database.pool())
        .await
        .map_err(store_error("acquiring a lease"));
        // Every node asks for a lease every few seconds, held or not: whether the database answers shows here.
        self.database.contact().note(&term);
        let term = term?;
        Ok(term.map(|term| Lease { name: name.into(), term, ttl }))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        // Without an owner, so that even we get a new term.
        sqlx::query!(
            "UPDATE leases SET owner = '', expires_at = '-infinity' WHERE name = $1 AND owner = $2 AND term = $3",
            &lease.name,
            &self.owner,
            lease.term
        )
        .execute(self.database.pool())
        .await
        .map_err(store_error("releasing a lease"))?;
        Ok(())
    }
}
