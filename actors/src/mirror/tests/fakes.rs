//! A store, leases, an HTTP feed and a Mirror, all in memory, with faults that tests switch.

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
use futures_util::{SinkExt, StreamExt};
use prometheus_client::registry::Registry;
use ractor::{Actor, ActorRef};
use serde_json::value::RawValue;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::WebSocketConfig,
    },
};

use crate::{
    cdb::{EgressLimits, Governor},
    mirror::{Link, LinkConfig, LinkHandle, LinkLimits, LinkMessage, LinkParts, MirrorMetrics, ReconcileRules, Token},
    platform::ports::{
        Applied, CdbApi, CdbError, FeedPage, Lease, Leases, MirrorRecord, MirrorStatus, MirrorStore, StoreError,
    },
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

/// A connection as the Mirror sees it.
pub(super) struct Peer(pub(super) WebSocketStream<TcpStream>);

impl Peer {
    pub(super) async fn send(&mut self, text: impl Into<String>) {
        timeout(PATIENCE, self.0.send(Message::text(text.into()))).await.expect("sent in time").expect("sent");
    }

    /// The next text, pings left out; `None` when the client is gone.
    pub(super) async fn text(&mut self) -> Option<String> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("something comes") {
                Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Asks and returns the answer's data.
    pub(super) async fn ask(&mut self, question: &str) -> serde_json::Value {
        self.send(format!(r#"{{"type":"{question}","data":null,"extra":[1.00]}}"#)).await;
        let answer: serde_json::Value = serde_json::from_str(&self.text().await.expect("an answer")).unwrap();
        assert_eq!(answer["type"], question);
        assert_eq!(answer["extra"].to_string(), "[1.0]");
        answer["data"].clone()
    }

    /// Reads until the client is gone.
    pub(super) async fn gone(mut self) {
        while self.text().await.is_some() {}
    }
}

/// A Mirror on a port of its own. Tests take its connections one by one.
pub(super) struct FakeMirror {
    pub(super) url: String,
    pub(super) peers: mpsc::Receiver<Peer>,
    /// Status of the handshake; 101 lets in.
    pub(super) status: watch::Sender<u16>,
    pub(super) handshakes: Arc<AtomicUsize>,
    pub(super) token: Arc<Mutex<String>>,
}

impl FakeMirror {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let (to, peers) = mpsc::channel(16);
        let (status, answers) = watch::channel(101u16);
        let (handshakes, token) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
        let (count, seen) = (Arc::clone(&handshakes), Arc::clone(&token));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let code = *answers.borrow();
                #[expect(clippy::result_large_err, reason = "the library's own signature")]
                let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
                    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
                    *seen.lock().unwrap() = header("authorization").unwrap_or_default();
                    assert_eq!(header("platform-version").as_deref(), Some("1.0"));
                    if code == 101 {
                        return Ok(response);
                    }
                    let mut refused = ErrorResponse::new(None);
                    *refused.status_mut() = StatusCode::from_u16(code).unwrap();
                    Err(refused)
                };
                let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
                if let Ok(stream) = accept_hdr_async_with_config(stream, check, Some(config)).await {
                    let _ = to.send(Peer(stream)).await;
                }
            }
        });
        Self { url, peers, status, handshakes, token }
    }

    pub(super) async fn peer(&mut self) -> Peer {
        timeout(PATIENCE, self.peers.recv()).await.expect("a connection in time").expect("a connection")
    }
}

/// Everything that one link needs, and the link.
pub(super) struct Rig {
    pub(super) mirror: FakeMirror,
    pub(super) store: Arc<FakeStore>,
    pub(super) leases: Arc<FakeLeases>,
    pub(super) node: Arc<Node>,
    pub(super) api: Arc<FakeApi>,
    pub(super) handle: LinkHandle,
    pub(super) config: LinkConfig,
    pub(super) registry: Registry,
    /// Without it nothing can be had over HTTP.
    pub(super) http: bool,
}

pub(super) type TestLink = Link<FakeStore, Node, FakeApi>;

impl Rig {
    pub(super) async fn new(dialect: &str) -> Self {
        let mirror = FakeMirror::start().await;
        let dialect: Dialect = toml_of(dialect);
        dialect.check().expect("a dialect");
        let config = LinkConfig {
            name: "test".into(),
            kind: Kind::new("procedure").unwrap(),
            url: mirror.url.clone(),
            platform_version: Some("1.0".into()),
            reconcile: ReconcileRules { interval: Duration::ZERO, pause: Duration::ZERO, page: 10 },
            tap: None,
            limits: LinkLimits {
                lease_ttl: Duration::from_secs(3),
                standby_poll: Duration::from_millis(100),
                backoff_base: Duration::from_millis(20),
                backoff_cap: Duration::from_millis(100),
                settle: Duration::from_millis(200),
                stop: Duration::from_secs(1),
                ..LinkLimits::default()
            },
            dialect: Arc::new(dialect),
            fields: Arc::new(["status".to_owned()]),
        };
        let handle = LinkHandle::new(watch::Sender::new(Some(Token::new("secret"))), config.dialect.max_message_bytes);
        let leases = Arc::new(FakeLeases::default());
        Self {
            node: Node::new(&leases, 1),
            leases,
            mirror,
            store: Arc::default(),
            api: Arc::default(),
            handle,
            config,
            registry: Registry::default(),
            http: true,
        }
    }

    pub(super) fn parts(&mut self) -> LinkParts<FakeStore, Node, FakeApi> {
        let egress = EgressLimits { per_second: 1000, per_minute: 60_000, burst: 100, ..EgressLimits::default() };
        LinkParts {
            config: self.config.clone(),
            store: Arc::clone(&self.store),
            leases: Arc::clone(&self.node),
            cdb: self.http.then(|| Arc::clone(&self.api)),
            governor: Arc::new(Governor::new(egress)),
            metrics: MirrorMetrics::new(&mut self.registry),
            handle: self.handle.clone(),
        }
    }

    pub(super) async fn start(&mut self) -> Running {
        let (actor, _) = Actor::spawn(None, TestLink::default(), self.parts()).await.expect("spawned");
        Running(actor)
    }

    /// What is committed before the link starts.
    pub(super) fn committed(&self, cursor: &str, newest: &str) {
        let mut world = self.store.world.lock().unwrap();
        world.record = MirrorRecord {
            cursor: Some(RawValue::from_string(cursor.into()).unwrap()),
            snapshot_complete: true,
            newest_version: Some(newest.into()),
            gap: false,
        };
    }

    pub(super) async fn state(&self, state: &str) {
        until(&format!("state {state}, it is {}", self.handle.status().state), || self.handle.status().state == state)
            .await;
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn toml_of(text: &str) -> Dialect {
    serde_json::from_str(if text.is_empty() { "{}" } else { text }).expect("a dialect")
}

/// A link that is stopped with the test.
pub(super) struct Running(pub(super) ActorRef<LinkMessage>);

impl Running {
    pub(super) async fn stop(self) {
        self.0.stop_and_wait(None, Some(PATIENCE)).await.expect("stops");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill();
    }
}
