//! The comparison with the upstream over HTTP: after history was lost, after a message that could not be read, and now and
//! then, because the simple protocol announces no deletes and any stream may leave something out.
//!
//! Invariants: rows go through the same [`Applier`] as the stream's, versions decide which is newer; what vanished is
//! marked, never deleted; the gap mark is taken away only when a whole pass has ended and no newer gap came meanwhile.

use std::{
    collections::HashSet,
    future::pending,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dzvin_protocols::{
    mirror::{MirrorBatch, MirrorOp, Quarantined, VersionedDoc, format_time},
    platform::EntityId,
};
use time::OffsetDateTime;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    apply::{Applier, LeaseLost},
    context::{Context, Fetched},
    feed::{FeedWalk, Next},
    status::LinkState,
};
use crate::{
    cdb::Backoff,
    platform::ports::{CdbApi, CdbError, Lease, Leases, MirrorStore, StoreError},
};

/// Where a full pass begins.
const ORIGIN: &str = "1970-01-01T00:00:00.000000Z";
/// Ids that are compared at a time.
const IDS_PAGE: usize = 1_000;
/// How far before the newest known moment a partial pass begins: clocks and the order of commits differ upstream.
const OVERLAP: time::Duration = time::Duration::minutes(10);
/// Tries of a store call that is not a batch.
const STORE_TRIES: u32 = 5;

/// What the stream asks of the reconciler.
#[derive(Debug, Default)]
pub(super) struct Wants {
    inner: Mutex<Wanted>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    /// A full pass is owed.
    full: bool,
    /// Grows when a gap is seen, and again when it is stored.
    generation: u64,
    /// A partial pass is wanted from here.
    since: Option<String>,
    cleared: bool,
}

enum Want {
    Full(u64),
    Since(String),
    Cleared,
}

impl Wants {
    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gap was seen and is about to be stored.
    pub(super) fn gap_comes(&self) {
        self.lock().generation += 1;
    }

    /// The committed gap mark has changed.
    pub(super) fn gap_is(&self, gap: bool) {
        let mut wanted = self.lock();
        wanted.full = gap;
        wanted.cleared = !gap;
        wanted.generation += u64::from(gap);
        drop(wanted);
        self.bell.notify_one();
    }

    /// Everything since shortly before this moment should be read over HTTP.
    pub(super) fn since(&self, moment: OffsetDateTime) {
        let since = format_time(moment.checked_sub(OVERLAP).unwrap_or(moment));
        self.again(since);
        self.bell.notify_one();
    }

    /// A partial pass did not end: it is wanted as before.
    fn again(&self, since: String) {
        let mut wanted = self.lock();
        wanted.since = Some(wanted.since.take().map_or(since.clone(), |earlier| earlier.min(since)));
    }

    fn take(&self) -> Option<Want> {
        let mut wanted = self.lock();
        if std::mem::take(&mut wanted.cleared) {
            return Some(Want::Cleared);
        }
        if wanted.full {
            return Some(Want::Full(wanted.generation));
        }
        wanted.since.take().map(Want::Since)
    }

    fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Waits until a gap was stored that was not known at that generation.
    async fn gap_after(&self, generation: u64) {
        loop {
            self.bell.notified().await;
            let wanted = self.lock();
            if wanted.full && wanted.generation > generation {
                return;
            }
        }
    }
}

/// Why a pass did not end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Http(#[from] CdbError),
    #[error("{0}")]
    Store(StoreError),
    #[error("{0}")]
    Lease(#[from] LeaseLost),
    /// What was found is marked, and the next pass goes on behind it.
    #[error("more than {0} objects are not in the feed: the rest is not checked yet")]
    Many(usize),
}

pub(super) struct Reconciler<'a, S, L, C> {
    pub(super) context: &'a Context<S, L, C>,
    pub(super) applier: Applier,
    pub(super) wants: &'a Wants,
    pub(super) lease: Lease,
}

impl<S: MirrorStore, L: Leases, C: CdbApi> Reconciler<'_, S, L, C> {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let rules = self.context.config.reconcile;
        let periodic = self.context.cdb.is_some() && !rules.interval.is_zero();
        let mut next_pass = Instant::now() + rules.interval;
        let mut backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(600));
        loop {
            let want = match self.wants.take() {
                Some(Want::Cleared) => {
                    self.context.owes(None);
                    continue;
                }
                Some(want) => Some(want),
                None => {
                    let timer = async { if periodic { sleep_until(next_pass).await } else { pending().await } };
                    tokio::select! {
                        () = self.wants.bell.notified() => continue,
                        () = timer => None,
                    }
                }
            };
            let Some(api) = &self.context.cdb else {
                // Shown and counted; a whole snapshot over the Mirror is what ends it.
                self.context.owes(Some(LinkState::Gap));
                self.wants.bell.notified().await;
                continue;
            };
            let known = self.wants.generation();
            let ended = match &want {
                Some(Want::Since(since)) => self.walk(api, since.clone(), None).await,
                Some(Want::Full(generation)) => self.heal(api, *generation).await,
                Some(Want::Cleared) | None => self.full(api).await,
            };
            next_pass = Instant::now() + rules.interval;
            match ended {
                Ok(()) => backoff.reset(),
                Err(Broken::Lease(_)) => return pending().await,
                Err(broken) => {
                    let wait = backoff.next(Duration::from_secs(1));
                    tracing::warn!(mirror = %self.context.metrics.mirror, error = %broken, wait_s = wait.as_secs(), "the comparison over HTTP did not end");
                    self.context.update(|status| status.last_error = Some(broken.to_string()));
                    match want {
                        Some(Want::Full(_)) => self.context.owes(Some(LinkState::Gap)),
                        Some(Want::Since(since)) => self.wants.again(since),
                        Some(Want::Cleared) | None => {}
                    }
                    self.rest(&broken, wait, known).await;
                }
            }
        }
    }

    /// Waits before another try: after 403 and 400 for a person or a new token, else for a while, or until there is more to do.
    async fn rest(&self, broken: &Broken, wait: Duration, known: u64) {
        let shared = &self.context.handle.0;
        let (mut token, mut resume) = (shared.token.subscribe(), shared.resume.subscribe());
        let last = matches!(broken, Broken::Http(CdbError::Forbidden(_) | CdbError::Refused { .. }));
        tokio::select! {
            () = sleep(wait), if !last => {}
            () = self.wants.gap_after(known), if !last => {}
            _ = token.changed() => {}
            _ = resume.changed() => {}
        }
    }

    /// A full pass that pays the debt of a gap.
    async fn heal(&self, api: &C, generation: u64) -> Result<(), Broken> {
        self.context.owes(Some(LinkState::Gap));
        tracing::warn!(mirror = %self.context.metrics.mirror, "a full reconcile begins");
        self.context.owes(Some(LinkState::Reconciling));
        self.full(api).await?;
        if self.wants.generation() == generation {
            let batch = MirrorBatch { gap: Some(false), by: Arc::clone(&self.context.by), ..MirrorBatch::default() };
            self.applier.submit(batch).await?;
            if self.wants.generation() == generation {
                self.wants.gap_is(false);
            }
        }
        Ok(())
    }

    /// Reads everything, and marks what the upstream no longer shows.
    async fn full(&self, api: &C) -> Result<(), Broken> {
        let mut seen = Seen::default();
        self.walk(api, ORIGIN.into(), Some(&mut seen)).await?;
        self.mark_vanished(api, &seen).await
    }

    async fn walk(&self, api: &C, since: String, mut seen: Option<&mut Seen>) -> Result<(), Broken> {
        let rules = self.context.config.reconcile;
        let paths = &self.context.config.dialect.paths;
        let mut walk = FeedWalk::new(since, rules.page);
        loop {
            let page = match self.context.http(|| api.modified_since(&walk.at, walk.limit)).await {
                Ok(page) => page,
                Err(CdbError::Unusable(why)) if walk.smaller() => {
                    tracing::warn!(mirror = %self.context.metrics.mirror, why, limit = walk.limit, "asking for a smaller page");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // What cannot be stored is shown all the same.
            let unfit: Vec<EntityId> = page.aside.iter().filter_map(|it| it.id.clone()).collect();
            if let Some(seen) = &mut seen {
                page.docs.iter().map(|doc| &doc.id).chain(&unfit).for_each(|id| seen.add(id));
            }
            self.mark(&[], &unfit).await?;
            let (fresh, next) = walk.take(page.docs, page.len, page.newest, paths);
            self.store(fresh, page.aside).await?;
            match next {
                Next::End => return Ok(()),
                Next::More => {}
                Next::Lost(why) => return Err(CdbError::Unusable(why.into()).into()),
                Next::Stepped(moment) => {
                    self.context.metrics.feed_stuck.inc();
                    let detail = format!("more objects share {moment} than the feed shows");
                    tracing::error!(mirror = %self.context.metrics.mirror, moment, "the feed cannot show a moment whole");
                    let aside = Quarantined { reason: "feed_stuck", detail, id: None, raw: Vec::new() };
                    self.store(Vec::new(), vec![aside]).await?;
                }
            }
            sleep(rules.pause).await;
        }
    }

    async fn store(&self, docs: Vec<VersionedDoc>, quarantined: Vec<Quarantined>) -> Result<(), Broken> {
        if docs.is_empty() && quarantined.is_empty() {
            return Ok(());
        }
        let batch = MirrorBatch {
            ops: docs.into_iter().map(|doc| MirrorOp::Upsert(VersionedDoc { beside: true, ..doc })).collect(),
            quarantined,
            by: Arc::clone(&self.context.by),
            trace: Some(self.context.handle.next_trace()),
            ..MirrorBatch::default()
        };
        let applied = self.applier.submit(batch).await?;
        self.context.update(|status| {
            status.applied += applied.changed;
            status.unchanged += applied.unchanged;
            status.stale += applied.stale;
        });
        Ok(())
    }

    /// What is stored, not marked yet, and was not seen is asked for one by one; only a clear "not known" is a mark.
    async fn mark_vanished(&self, api: &C, seen: &Seen) -> Result<(), Broken> {
        let (mut since, mut after) = (String::new(), None::<String>);
        let most = self.context.config.limits.checks;
        let mut checks = 0;
        loop {
            let kind = &self.context.config.kind;
            let page =
                self.store_call(|| self.context.store.ids_since(kind, &since, after.as_deref(), IDS_PAGE)).await?;
            let Some((id, version)) = page.last() else { return Ok(()) };
            let ended = page.len() < IDS_PAGE;
            (since, after) = (version.clone(), Some(id.to_string()));
            let mut missing = Vec::new();
            let mut unseen = page.into_iter().filter(|(id, _)| !seen.has(id));
            for (id, version) in unseen.by_ref().take(most - checks) {
                checks += 1;
                match self.context.fetch(api, &id).await {
                    Fetched::Gone => missing.push((id, version)),
                    // At once: the stream goes on meanwhile.
                    Fetched::Doc(doc) => self.store(vec![doc], Vec::new()).await?,
                    Fetched::Unfit(_) => {}
                    Fetched::Owed(error) => return Err(error.into()),
                }
                sleep(self.context.config.reconcile.pause.min(Duration::from_millis(100))).await;
            }
            self.mark(&missing, &[]).await?;
            if unseen.next().is_some() {
                return Err(Broken::Many(most));
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn mark(&self, missing: &[(EntityId, String)], found: &[EntityId]) -> Result<(), Broken> {
        if missing.is_empty() && found.is_empty() {
            return Ok(());
        }
        let kind = &self.context.config.kind;
        self.store_call(|| self.context.store.mark_missing(kind, &self.lease, missing, found)).await
    }

    /// A call of the store, a few times.
    async fn store_call<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Broken> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            let answer = timeout(self.context.config.limits.store, call()).await;
            let error = match answer {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(StoreError::LeaseLost { .. })) => return Err(LeaseLost.into()),
                Ok(Err(error)) => error,
                Err(elapsed) => StoreError::Unavailable { doing: "comparing", source: Box::new(elapsed) },
            };
            if backoff.failures() >= STORE_TRIES {
                return Err(Broken::Store(error));
            }
            sleep(backoff.next(Duration::ZERO)).await;
        }
    }
}

/// Ids seen in a pass, 8 bytes each: two ids of one hash would only hide a mark, never make one.
#[derive(Default)]
struct Seen {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Seen {
    fn add(&mut self, id: &EntityId) {
        self.hashes.insert(self.hasher.hash_one(id));
    }

    fn has(&self, id: &EntityId) -> bool {
        self.hashes.contains(&self.hasher.hash_one(id))
    }
}
