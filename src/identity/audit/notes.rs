//! Refusals, and deeds without a transaction of ours: taken in at once, written each second.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dzvin_actors::platform::ports::{Auditor, Refused};
use prometheus_client::registry::Registry;
use tokio::time::{Instant, interval, timeout};

use super::{
    AuditStore, MAX_NAME, MAX_OBJECT, Who, clean,
    fold::{First, Fold, Key},
    metrics::AuditMetrics,
};
use crate::platform::http::{ClientAddress, chain};

/// As much may be lost when the process is killed.
const EVERY: Duration = Duration::from_secs(1);
/// Rows of one statement.
const BATCH: usize = 500;
/// How often what is old is removed, in writings.
const SWEEP_EVERY: u32 = 3_600;
/// How long the last writing may take while the node stops.
const LAST: Duration = Duration::from_secs(2);

/// What waits to be written. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    fold: Arc<Mutex<Fold>>,
    metrics: AuditMetrics,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note<'a> {
    pub(super) who: &'a Who,
    pub(super) action: &'static str,
    pub(super) object: &'a str,
    pub(super) outcome: &'a str,
    pub(super) status: Option<u16>,
}

impl Notes {
    /// Registers what is counted.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    fn lock(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one in, where there is room.
    pub(super) fn take(&self, note: Note<'_>) {
        let Note { who, action, object, outcome, status } = note;
        let key = Key {
            user: shared(&who.user, MAX_NAME),
            token: who.token.as_ref().map(|token| shared(token, MAX_NAME)),
            counted: who.address.map(counted),
            action,
            object: clean(object, MAX_OBJECT).into(),
            outcome: outcome.into(),
        };
        let first = First { address: who.address, request: who.request.clone(), status };
        if let Err(share) = self.lock().take(key, first, Instant::now()) {
            self.metrics.lost(share);
        }
    }

    /// Writes what was taken in, until `stop` is done, and removes what is older than so many days.
    pub async fn keep(self, store: AuditStore, keep_days: u16, stop: impl Future<Output = ()>) {
        let work = async {
            let mut every = interval(EVERY);
            for n in 0_u32.. {
                every.tick().await;
                self.write(&store).await;
                if n.is_multiple_of(SWEEP_EVERY) {
                    self.sweep(&store, keep_days).await;
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
        // Those of the last second; what cannot be written any more is not worth waiting for.
        let _ = timeout(LAST, self.write(&store)).await;
    }

    async fn write(&self, store: &AuditStore) {
        let due = {
            let mut fold = self.lock();
            let due = fold.due(Instant::now());
            self.metrics.held(fold.len());
            due
        };
        let mut batches = due.chunks(BATCH);
        while let Some(batch) = batches.next() {
            let Err(error) = store.note(batch).await else { continue };
            self.metrics.errors.inc();
            tracing::warn!(error = chain(&error), "refusals are not written to the audit; they wait");
            let mut fold = self.lock();
            fold.give_back(batch);
            batches.by_ref().for_each(|rest| fold.give_back(rest));
        }
    }

    async fn sweep(&self, store: &AuditStore, keep_days: u16) {
        match store.sweep(keep_days).await {
            Ok(0) => {}
            Ok(swept) => tracing::info!(swept, "old rows of the audit were removed"),
            Err(error) => {
                self.metrics.errors.inc();
                tracing::warn!(error = chain(&error), "old rows of the audit are not removed");
            }
        }
    }
}

fn counted(address: IpAddr) -> IpAddr {
    ClientAddress::new(address).counted()
}

fn shared(text: &Arc<str>, most: usize) -> Arc<str> {
    match clean(text, most) {
        std::borrow::Cow::Borrowed(same) if same.len() == text.len() => Arc::clone(text),
        other => other.into(),
    }
}

/// What sessions are refused.
impl Auditor for Notes {
    fn refused(&self, refused: Refused<'_>) {
        let Refused { user, token, address, action, object, code } = refused;
        let who = Who { user: user.into(), token: token.map(Into::into), address, request: None };
        self.take(Note { who: &who, action, object, outcome: code, status: None });
    }
}
