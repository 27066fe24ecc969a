//! A store, leases and an HTTP feed, all in memory, with faults that tests switch.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dzvin_protocols::{
    entities::{Fields, merge_set},
    mirror::{Dialect, MirrorBatch, MirrorOp, VersionedDoc},
    platform::{EntityId, Kind},
};
use serde_json::value::RawValue;
use tokio::{sync::Semaphore, time::Instant};

use crate::platform::ports::{
    Applied, CdbApi, CdbError, FeedPage, Lease, Leases, MirrorRecord, MirrorStatus, MirrorStore, StoreError,
};

/// Longest wait for anything in a test.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A committed batch: its ids, its cursor, `snapshot_complete`, `gap`.
type Committed = (Vec<String>, Option<String>, Option<bool>, Option<bool>);

/// What is stored.
#[derive(Default)]
pub(super) struct World {
    pub(super) rows: BTreeMap<String, (String, String)>,
    pub(super) trash: Vec<String>,
    /// What was stored as read beside the stream.
    pub(super) beside: Vec<String>,
    pub(super) quarantined: Vec<(String, Option<String>)>,
    pub(super) record: MirrorRecord,
    /// In order.
    pub(super) batches: Vec<Committed>,
    pub(super) missing: Vec<String>,
    pub(super) noted: Vec<String>,
    pub(super) in_flight: usize,
}

#[derive(Default)]
pub(super) struct FakeStore {
    pub(super) world: Mutex<World>,
    pub(super) away: AtomicBool,
    /// It refuses every statement: a table or a right is missing.
    pub(super) broken: AtomicBool,
    /// Batches that were offered.
    pub(super) tries: AtomicUsize,
    /// An id that the database refuses.
    pub(super) poison: Mutex<Option<String>>,
    pub(super) panics: AtomicBool,
    pub(super) delay: Mutex<Duration>,
}

fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { doing: "testing", source: "away".into() })
}

impl FakeStore {
    pub(super) fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.world.lock().unwrap())
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        until(what, || self.read(&condition)).await;
    }
}

/// Waits until it is so.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl MirrorStore for FakeStore {
    async fn open(&self, _: &str, _: &Kind, _: &Lease) -> Result<MirrorRecord, StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "planted");
        if self.away.load(Ordering::SeqCst) { away() } else { Ok(self.read(|world| world.record.clone())) }
    }

    async fn apply(&self, _: &str, _: &Kind, _: &Lease, batch: MirrorBatch) -> Result<Applied, StoreError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.world.lock().unwrap().in_flight += 1;
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let mut world = self.world.lock().unwrap();
        assert_eq!(world.in_flight, 1, "one batch at a time");
        world.in_flight -= 1;
        if self.away.load(Ordering::SeqCst) {
            return away();
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(StoreError::Refused { doing: "testing", source: "no such table".into() });
        }
        let ids: Vec<String> = batch
            .ops
            .iter()
            .map(|op| match op {
                MirrorOp::Upsert(doc) => doc.id.to_string(),
                MirrorOp::Set { id, .. } | MirrorOp::Delete { id } => id.to_string(),
            })
            .collect();
        if self.poison.lock().unwrap().as_ref().is_some_and(|poison| ids.contains(poison)) {
            return Err(StoreError::Unfit { doing: "testing", source: "poison".into() });
        }
        let mut applied = Applied { quarantined: batch.quarantined.len() as u64, ..Applied::default() };
        for op in batch.ops {
            match op {
                MirrorOp::Upsert(VersionedDoc { id, version, doc, beside, .. }) => {
                    if beside {
                        world.beside.push(id.to_string());
                        world.missing.retain(|missing| *missing != id.as_str());
                    }
                    let row = (version.clone(), doc.get().to_owned());
                    let old = world.rows.get(id.as_str());
                    if old.is_some_and(|(stored, _)| *stored > version) {
                        applied.stale += 1;
                        continue;
                    }
                    if old == Some(&row) {
                        applied.unchanged += 1;
                        continue;
                    }
                    applied.changed += 1;
                    world.record.newest_version = world.record.newest_version.clone().max(Some(version));
                    world.rows.insert(id.to_string(), row);
                }
                MirrorOp::Set { id, set, version } => {
                    let Some((old, doc)) = world.rows.get(id.as_str()).cloned() else {
                        applied.quarantined += 1;
                        applied.unmerged += 1;
                        continue;
                    };
                    let doc = merge_set(&RawValue::from_string(doc).unwrap(), &set).unwrap();
                    world.rows.insert(id.to_string(), (version.unwrap_or(old), doc.get().to_owned()));
                    applied.changed += 1;
                }
                MirrorOp::Delete { id } => {
                    world.rows.remove(id.as_str());
                    world.trash.push(id.to_string());
                    applied.changed += 1;
                }
            }
        }
        let quarantined =
            batch.quarantined.iter().map(|it| (it.reason.to_owned(), it.id.as_ref().map(ToString::to_string)));
        world.quarantined.extend(quarantined);
        let cursor = batch.cursor.as_ref().map(|cursor| cursor.get().to_owned());
        world.record.cursor = batch.cursor.or(world.record.cursor.take());
        world.record.snapshot_complete = batch.snapshot_complete.unwrap_or(world.record.snapshot_complete);
        let gap = if applied.unmerged > 0 { Some(true) } else { batch.gap };
        world.record.gap = gap.unwrap_or(world.record.gap);
        world.batches.push((ids, cursor, batch.snapshot_complete, gap));
        Ok(applied)
    }

    async fn ids_since(
        &self,
        _: &Kind,
        version: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(EntityId, String)>, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return away();
        }
        let mut all: Vec<_> = self.read(|world| {
            let rows = world
                .rows
                .iter()
                .filter(|(id, _)| !world.missing.contains(id))
                .map(|(id, (version, _))| (version.clone(), id.clone()));
            let later = |row: &(String, String)| match after {
                Some(after) => (row.0.as_str(), row.1.as_str()) > (version, after),
                None => row.0.as_str() >= version,
            };
            rows.filter(later).collect()
        });
        all.sort();
        all.truncate(limit);
        Ok(all.into_iter().map(|(version, id)| (EntityId::new(&id).unwrap(), version)).collect())
    }

    async fn mark_missing(
        &self,
        _: &Kind,
        _: &Lease,
        missing: &[(EntityId, String)],
        found: &[EntityId],
    ) -> Result<(), StoreError> {
        let mut world = self.world.lock().unwrap();
        world.missing.extend(missing.iter().map(|(id, _)| id.to_string()));
        world.missing.retain(|id| !found.iter().any(|found| found.as_str() == id));
        Ok(())
    }

    async fn note_state(&self, _: &str, _: &Lease, status: &MirrorStatus) -> Result<(), StoreError> {
        self.world.lock().unwrap().noted.push(status.state.clone());
        Ok(())
    }
}

/// Leases by the test's clock.
#[derive(Default)]
pub(super) struct FakeLeases {
    held: Mutex<(Option<(usize, Instant)>, i64)>,
}

/// One node's view of them.
pub(super) struct Node {
    pub(super) leases: Arc<FakeLeases>,
    pub(super) number: usize,
    pub(super) away: AtomicBool,
}

impl Node {
    pub(super) fn new(leases: &Arc<FakeLeases>, number: usize) -> Arc<Self> {
        Arc::new(Self { leases: Arc::clone(leases), number, away: AtomicBool::new(false) })
    }
}

impl FakeLeases {
    pub(super) fn holder(&self) -> Option<usize> {
        let held = self.held.lock().unwrap();
        held.0.filter(|(_, end)| *end > Instant::now()).map(|(node, _)| node)
    }

    pub(super) fn free(&self) -> bool {
        self.holder().is_none()
    }
}

impl Leases for Node {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return away();
        }
        let mut held = self.leases.held.lock().unwrap();
        let now = Instant::now();
        match held.0 {
            Some((node, end)) if end > now && node != self.number => return Ok(None),
            Some((node, end)) if end > now && node == self.number => {}
            _ => held.1 += 1,
        }
        held.0 = Some((self.number, now + ttl));
        Ok(Some(Lease { name: name.into(), term: held.1, ttl }))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) {
            return away();
        }
        let mut held = self.leases.held.lock().unwrap();
        if held.1 == lease.term && held.0.is_some_and(|(node, _)| node == self.number) {
            held.0 = None;
        }
        Ok(())
    }
}

/// The upstream's truth over HTTP.
#[derive(Default)]
pub(super) struct FakeApi {
    pub(super) rows: Mutex<BTreeMap<String, String>>,
    pub(super) objects: AtomicUsize,
    pub(super) pages: AtomicUsize,
    pub(super) errors: Mutex<VecDeque<CdbError>>,
    /// Pages of the feed pass one by one.
    pub(super) gate: Mutex<Option<Arc<Semaphore>>>,
}

impl FakeApi {
    pub(super) fn put(&self, id: &str, second: u32, note: &str) {
        self.rows.lock().unwrap().insert(id.into(), doc(id, second, note));
    }
}

impl CdbApi for FakeApi {
    async fn object(&self, id: &EntityId) -> Result<Option<Bytes>, CdbError> {
        self.objects.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        Ok(self.rows.lock().unwrap().get(id.as_str()).cloned().map(Bytes::from))
    }

    async fn modified_since(&self, since: &str, limit: usize) -> Result<FeedPage, CdbError> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        if let Some(error) = self.errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        let dialect = Dialect::default();
        let mut docs: Vec<VersionedDoc> = Vec::new();
        for text in self.rows.lock().unwrap().values() {
            let raw = RawValue::from_string(text.clone()).unwrap();
            docs.push(dialect.document(dialect.paths.id_of(&Fields::of(raw.get())).unwrap(), &raw).unwrap());
        }
        docs.retain(|doc| doc.version.as_str() >= since);
        docs.sort_by(|a, b| a.version.cmp(&b.version));
        docs.truncate(limit);
        let newest = docs.last().map(|doc| doc.version.clone());
        Ok(FeedPage { len: docs.len(), newest, docs, aside: Vec::new() })
    }
}

/// A document.
pub(super) fn doc(id: &str, second: u32, note: &str) -> String {
    format!(
        r#"{{"_id":"{id}","note":"{note}","dateModified":"2024-01-01T00:{:02}:{:02}.000000Z"}}"#,
        second / 60,
        second % 60
    )
}

/// An upsert; without a cursor it is a row of a snapshot.
pub(super) fn upsert(id: &str, second: u32, cursor: Option<u64>) -> String {
    let ts = cursor.map_or("null".into(), |cursor| format!("[{cursor},0]"));
    format!(r#"{{"type":"upsert","data":{},"ts":{ts}}}"#, doc(id, second, ""))
}

pub(super) fn noop(cursor: u64) -> String {
    format!(r#"{{"type":"noop","data":null,"ts":[{cursor},0]}}"#)
}
