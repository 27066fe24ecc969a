//! Commits of other nodes: LISTEN on a connection of its own, which comes back by itself.
//!
//! A notification is a hint. After every reconnect the waiters are woken once, because one may have been missed; they also
//! poll, so a listener that is away costs latency, never data.

use std::{future::Future, time::Duration};

use rand::Rng;
use sqlx::postgres::PgListener;

use super::NOTIFY_CHANNEL;
use crate::platform::db::Database;

/// First and longest pause between tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Listens and wakes whoever waits on [`Database::commits`].
pub struct ChangeListener {
    database: Database,
}

impl ChangeListener {
    /// A listener that does nothing yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Listens until `stop` is done.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.listen() => {}
        }
    }

    async fn listen(&self) {
        let pool = self.database.listen_pool();
        let mut pause = BACKOFF.0;
        loop {
            let heard = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(NOTIFY_CHANNEL).await?;
                self.database.heard();
                pause = BACKOFF.0;
                loop {
                    // `None`: the connection was lost and is made again with the next call.
                    let told = listener.try_recv().await?;
                    if told.is_none() {
                        tracing::warn!("the listening connection was lost");
                    }
                    let mut foreign = told.is_none_or(|told| told.payload() != self.database.node());
                    while let Some(told) = listener.next_buffered() {
                        foreign |= told.payload() != self.database.node();
                    }
                    if foreign {
                        self.database.heard();
                    }
                }
            };
            let error: sqlx::Error = match heard.await {
                Ok(never) => never,
                Err(error) => error,
            };
            tracing::warn!(error = %error, "listening for commits failed");
            let jittered = rand::rng().random_range(Duration::ZERO..pause);
            tokio::time::sleep(jittered).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}
