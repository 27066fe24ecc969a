//! Commits of other nodes: LISTEN on a connection of its own, which comes back by itself.
//!
//! A notification is a hint. After every reconnect the waiters are woken once, because one may have been missed; they also
//! poll, so a listener that is away costs latency, never data.

use std::{future::Future, time::Duration};

use rand::Rng;
use sqlx::postgres::PgListener;

use super::{Entities, NOTIFY_CHANNEL, declare::DECLARED};

/// First and longest pause between tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Listens and wakes whoever waits on [`Database::commits`](crate::platform::db::Database::commits), or for a kind to be declared.
pub struct ChangeListener {
    entities: Entities,
}

impl ChangeListener {
    /// A listener that does nothing yet.
    #[must_use]
    pub fn new(entities: Entities) -> Self {
        Self { entities }
    }

    /// Listens until `stop` is done.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = stop => {}
            () = self.listen() => {}
        }
    }

    /// Whether it may be of a commit that this node does not know of.
    fn is_foreign(&self, payload: &str) -> bool {
        if payload.starts_with(DECLARED) {
            self.entities.told_of_kinds.notify_one();
            return false;
        }
        payload != self.entities.database().node()
    }

    async fn listen(&self) {
        let database = self.entities.database();
        let pool = database.listen_pool();
        let mut pause = BACKOFF.0;
        loop {
            let heard = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.listen(NOTIFY_CHANNEL).await?;
                database.heard();
                pause = BACKOFF.0;
                loop {
                    // `None`: the connection was lost and is made again with the next call.
                    let told = listener.try_recv().await?;
                    if told.is_none() {
                        tracing::warn!("the listening connection was lost");
                    }
                    let mut foreign = told.is_none_or(|told| self.is_foreign(told.payload()));
                    while let Some(told) = listener.next_buffered() {
                        foreign |= self.is_foreign(told.payload());
                    }
                    if foreign {
                        database.heard();
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
