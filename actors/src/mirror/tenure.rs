//! Holding a lease: renewed well before its end, given up by our own clock at two thirds of its length.
//!
//! The upstream gives us one place. Whoever holds the lease may have the socket, and the socket is gone before the lease is:
//! the last third of the term is the time for that.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use crate::platform::ports::{Lease, Leases};

/// A renewal that failed is tried again after this.
const RETRY: Duration = Duration::from_millis(300);

/// A lease of ours, and since when it is certain.
#[derive(Debug, Clone)]
pub(super) struct Tenure {
    pub(super) lease: Lease,
    asked: Instant,
}

impl Tenure {
    /// Asks for the lease once. `None`: somebody else has it, or the store is away.
    pub(super) async fn begin<L: Leases>(leases: &L, name: &str, ttl: Duration) -> Option<Self> {
        let asked = Instant::now();
        match timeout_at(asked + ttl / 3, leases.acquire(name, ttl)).await {
            Ok(Ok(lease)) => lease.map(|lease| Self { lease, asked }),
            Ok(Err(error)) => {
                tracing::warn!(
                    lease = name,
                    error = &error as &dyn std::error::Error,
                    "the lease could not be asked for"
                );
                None
            }
            Err(_) => None,
        }
    }

    /// Renews until that fails; ends when the lease must be considered lost.
    pub(super) async fn keep<L: Leases>(mut self, leases: Arc<L>) {
        let (name, ttl) = (Arc::clone(&self.lease.name), self.lease.ttl);
        loop {
            sleep(ttl / 5).await;
            let end = self.asked + ttl * 2 / 3;
            loop {
                let asked = Instant::now();
                match timeout_at(end, leases.acquire(&name, ttl)).await {
                    Ok(Ok(Some(lease))) if lease.term == self.lease.term => {
                        self.asked = asked;
                        break;
                    }
                    Ok(Ok(_)) | Err(_) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(lease = %name, error = &error as &dyn std::error::Error, "the lease was not renewed");
                    }
                }
                if asked + RETRY >= end {
                    tokio::time::sleep_until(end).await;
                    return;
                }
                sleep(RETRY).await;
            }
        }
    }
}
