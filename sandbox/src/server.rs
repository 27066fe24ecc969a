//! The listener: one port for the Mirror, the HTTP API and the control API. The first two stand behind NGINX's limits. Plain
//! HTTP/1.1, because after the upgrade the raw socket is needed.

use crate::answers::{json_error, named};
use crate::clock;
use crate::config::SandboxConfig;
use crate::control::{Control, http};
use crate::error::SandboxError;
use crate::nginx::{self, Verdict};
use crate::shared::{Shared, lock};
use crate::{access, api, mirror};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 8192;
/// How long an HTTP connection may wait for its next request: what the CDB itself allows.
const IDLE_HTTP: Duration = Duration::from_secs(350);
/// How long the orderly part of a stop may take.
const GRACE: Duration = Duration::from_secs(1);

/// The address of the client of a request.
#[derive(Debug, Clone, Copy)]
struct Peer(IpAddr);

/// The sandbox.
#[derive(Debug)]
pub struct Sandbox;

/// A running sandbox. Dropping it does not stop it; `stop` does.
#[derive(Debug)]
pub struct SandboxHandle {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sandbox {
    /// Starts to listen and returns at once.
    pub async fn start(config: SandboxConfig) -> Result<SandboxHandle, SandboxError> {
        if !config.listen.ip().is_loopback() && !config.allow_remote {
            return Err(SandboxError::NotLoopback(config.listen));
        }
        let listen = |source| SandboxError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared::new(&config)?);
        drop(config);
        for shelf in shared.world.shelves() {
            shared.spawn(heartbeat(shared.clone(), shelf.name.clone()));
        }
        shared.spawn(accept(shared.clone(), listener));
        tracing::info!(%address, "the sandbox listens");
        Ok(SandboxHandle { address, shared })
    }
}

impl SandboxHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ws://.../mirror/{collection}`.
    pub fn mirror_url(&self, collection: &str) -> String {
        format!("ws://{}/mirror/{collection}", self.address)
    }

    /// `http://...`: what a client is given whose paths begin with `/api` themselves.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://.../api`.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.address)
    }

    /// `http://.../control`.
    pub fn control_url(&self) -> String {
        format!("http://{}/control", self.address)
    }

    /// Everything that the control API can do, typed.
    pub fn control(&self) -> Control {
        Control { shared: self.shared.clone() }
    }

    /// Closes the listener and every connection. The port is free when it returns.
    pub async fn stop(self) {
        self.shared.stopping.send_replace(true);
        for link in lock(&self.shared.links).values() {
            link.kill.send_replace(Some(crate::config::Manner::Fin));
        }
        let mut tasks = self.shared.take_tasks();
        let gone = async {
            let mut left = self.shared.book.watch();
            while !lock(&self.shared.links).is_empty() && left.changed().await.is_ok() {}
        };
        let _ = timeout(GRACE, gone).await;
        tasks.shutdown().await;
        self.shared.take_tasks().shutdown().await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let router = Router::new().nest("/control", http::routes()).fallback(front).with_state(shared.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stopping = shared.stopping.subscribe();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                shared.book.change(|stats| stats.accepted += 1);
                let router = router.clone();
                shared.spawn(async move {
                    serve(router, socket, peer).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn serve(router: Router, socket: TcpStream, peer: SocketAddr) {
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer.ip()));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_HTTP)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an http connection ended");
    }
}

/// Everything that is not control: counted, limited, then given on.
async fn front(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (response, by) = limited(&shared, request).await;
    let label = format!("{}{by}", response.status().as_u16());
    shared.book.change(|stats| *stats.requests.entry(label).or_default() += 1);
    response
}

async fn limited(shared: &Arc<Shared>, request: Request) -> (Response<Body>, &'static str) {
    let knobs = shared.knobs();
    let address = address(&request, knobs.nginx.address_header.as_deref());
    match shared.gate.rate(&knobs.nginx, address, shared.elapsed_ms()) {
        Verdict::Refuse => return (nginx::page(knobs.nginx.rate_status), " nginx"),
        Verdict::Pass(0) => {}
        Verdict::Pass(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
    let Some(slot) = shared.gate.slot(&knobs.nginx, address) else {
        return (nginx::page(knobs.nginx.conn_status), " nginx");
    };
    if let Err(refusal) = access::vpn(&knobs.access, request.headers(), address) {
        return (named(refusal.into()), "");
    }
    let path = request.uri().path().to_owned();
    let collection = match path.strip_prefix("/mirror/") {
        Some(collection) => Some(collection.to_owned()),
        None if path == "/ws" => shared.world.default_shelf().map(|shelf| shelf.name.clone()),
        None => None,
    };
    let response = match collection {
        Some(collection) => {
            let response = mirror::upgrade(shared, &collection, request, Some(slot)).await;
            let html = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/html");
            if html { response } else { named(response) }
        }
        None if path == "/api" || path.starts_with("/api/") => api::handle(shared, request).await,
        None => json_error(StatusCode::NOT_FOUND, "not found"),
    };
    (response, "")
}

fn address(request: &Request, header: Option<&str>) -> IpAddr {
    let told = header.and_then(|name| request.headers().get(name)?.to_str().ok()?.trim().parse().ok());
    let seen = request.extensions().get::<Peer>().map(|peer| peer.0);
    told.or(seen).unwrap_or(IpAddr::from([0, 0, 0, 0]))
}

/// Writes a noop whenever a collection has been quiet for the cadence.
async fn heartbeat(shared: Arc<Shared>, collection: String) {
    let mut knobs = shared.knobs.subscribe();
    loop {
        let every = knobs.borrow_and_update().mirror.noop_ms;
        let Ok(shelf) = shared.shelf(&collection) else { return };
        let before = shelf.read(|c| c.oplog.end());
        let pause = Duration::from_millis(if every == 0 { 86_400_000 } else { every });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = knobs.changed() => continue,
        }
        let world = &shared.knobs().world;
        if every > 0 && shelf.read(|c| c.oplog.end()) == before {
            shelf.write(|c| c.noop(clock::now(), world));
        }
    }
}
