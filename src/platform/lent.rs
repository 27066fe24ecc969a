//! A connection of a pool, lent to whoever needs a transaction.
//!
//! Invariant: the pool gets no connection back on which a transaction may be open. The driver counts one as begun when the server has
//! said so; whoever goes away before (an actor that is killed, a request that is given up, a time that is over) leaves it uncounted, so
//! nothing rolls it back, and whoever is handed the connection next would do their work in it, uncommitted and with its locks held.

use sqlx::{Acquire as _, Postgres, Transaction, pool::PoolConnection};

/// A connection. Dropped, it goes back to its pool, or is closed when nobody knows whether a transaction was begun on it.
#[derive(Debug)]
pub struct Lent {
    connection: PoolConnection<Postgres>,
    /// The server was asked to begin, and has not answered.
    beginning: bool,
}

impl Lent {
    /// Begins a transaction; dropped without a commit, it is rolled back.
    ///
    /// # Errors
    /// The database is away.
    pub async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        self.beginning = true;
        #[expect(clippy::disallowed_methods, reason = "the one place that sees to what happens when it is given up")]
        let begun = self.connection.begin().await?;
        self.beginning = false;
        Ok(begun)
    }
}

impl From<PoolConnection<Postgres>> for Lent {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, beginning: false }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.beginning {
            self.connection.close_on_drop();
        }
    }
}
