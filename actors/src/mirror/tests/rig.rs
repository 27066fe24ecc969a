//! A Mirror on a port of its own, and a link to it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dzvin_protocols::{mirror::Dialect, platform::Kind};
use futures_util::{SinkExt, StreamExt};
use prometheus_client::registry::Registry;
use ractor::{Actor, ActorRef};
use serde_json::value::RawValue;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
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

use super::fakes::{FakeApi, FakeLeases, FakeStore, Node, PATIENCE, until};
use crate::{
    cdb::{EgressLimits, Governor},
    mirror::{Link, LinkConfig, LinkHandle, LinkLimits, LinkMessage, LinkParts, MirrorMetrics, ReconcileRules, Token},
    platform::ports::MirrorRecord,
};

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
