//! The server loop: accept, limit, serve, and stop in order.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use hyper::{Request, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tower::ServiceExt;

use super::{Certificates, Express, HttpMetrics, Listeners, Upgrading, patient::Patient};
use crate::platform::config::Http;

/// Rest after an accept that failed for want of descriptors or memory: others must end before another try makes sense.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Headers of one request: browsers send two dozen, proxies add a few.
const MAX_HEADERS: usize = 100;

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Open connections; later ones wait in the kernel's queue. Upgraded connections leave this count: sessions have a limit of
    /// their own.
    pub max_connections: usize,
    /// Longest wait for a request's headers.
    pub header_timeout: Duration,
    /// Largest head of a request, its first line included.
    pub max_head: usize,
    /// Longest time in which a client may read nothing of what waits for it.
    pub write_timeout: Duration,
    /// Longest time in which nothing that was sent is acknowledged by the client's machine.
    pub peer_timeout: Duration,
    /// After the shutdown began, how long requests in hand may take.
    pub grace: Duration,
    /// With these it speaks TLS.
    pub tls: Option<Certificates>,
    /// What is answered before the router is asked.
    pub express: Option<Arc<Express>>,
    /// Counters.
    pub metrics: HttpMetrics,
}

impl Serving {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &Http, grace: Duration, metrics: HttpMetrics) -> Self {
        let Http { max_connections, header_timeout, max_head, write_timeout, peer_timeout, .. } = *config;
        Self {
            max_connections,
            header_timeout,
            max_head,
            write_timeout,
            peer_timeout,
            grace,
            tls: None,
            express: None,
            metrics,
        }
    }

    /// The same behind TLS.
    #[must_use]
    pub fn behind(self, tls: Option<Certificates>) -> Self {
        Self { tls, ..self }
    }

    /// The same with a shorter way for what is asked most.
    #[must_use]
    pub fn with_express(self, express: Express) -> Self {
        Self { express: Some(Arc::new(express)), ..self }
    }
}

/// Serves until `shutdown` is ready; then stops accepting, lets requests in hand end within the grace, and returns.
/// The listeners come of [`Bound`](super::Bound); requests that reach the router carry `ConnectInfo<SocketAddr>`. Upgraded connections live on: whoever took them ends them.
pub async fn serve(
    mut listeners: Listeners,
    router: Router,
    serving: Serving,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (stop, stopping) = watch::channel(());
    let slots = Arc::new(Semaphore::new(serving.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let slot = match Arc::clone(&slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                serving.metrics.refused.inc();
                let slot = tokio::select! {
                    () = &mut shutdown => break,
                    slot = Arc::clone(&slots).acquire_owned() => slot,
                };
                let Ok(slot) = slot else { break };
                slot
            }
        };
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&mut listeners, &serving.metrics) => accepted,
        };
        // A machine that vanishes says nothing: without this the kernel goes on sending for a quarter of an hour.
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(serving.peer_timeout));
        let connection = connection(stream, peer, router.clone(), &serving, stopping.clone());
        let open = Open::new(&serving.metrics.connections);
        connections.spawn(async move {
            connection.await;
            drop((open, slot));
        });
        // Ended tasks are reaped as we go, so that the set holds only the living.
        while connections.try_join_next().is_some() {}
    }
    drop(listeners);
    drop(stop);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(serving.grace, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut at the end of the grace period");
    }
}

async fn accept(listeners: &mut Listeners, metrics: &HttpMetrics) -> (TcpStream, SocketAddr) {
    let mut told = false;
    loop {
        match poll_fn(|cx| listeners.poll_accept(cx)).await {
            Ok(accepted) => return accepted,
            // The peer left before we looked: nothing is wrong with us.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                metrics.accept_errors.inc();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Counts an open connection, however it ends.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One connection from its handshake, if there is one, to its end.
fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    serving: &Serving,
    mut stopping: watch::Receiver<()>,
) -> impl Future<Output = ()> + Send + 'static {
    let (tls, write_timeout) = (serving.tls.clone(), serving.write_timeout);
    let Serving { header_timeout, max_head, .. } = *serving;
    let (express, upgrading) = (serving.express.clone(), Upgrading::default());
    let talk = Talk { peer, router, express, upgrading, header_timeout, max_head };
    async move {
        let Some(tls) = tls else {
            let stream = Patient::new(stream, write_timeout).keeping(talk.upgrading.clone());
            return talk.over(stream, stopping).await;
        };
        // Apart, so that a plain connection does not keep the room that a handshake needs.
        let secure = Box::pin(async move {
            let accepted = tokio::select! {
                accepted = tls.accept(stream, peer, write_timeout) => accepted,
                _ = stopping.changed() => None,
            };
            if let Some(accepted) = accepted {
                talk.over(accepted, stopping).await;
            }
        });
        secure.await;
    }
}

/// What a connection is served with.
struct Talk {
    peer: SocketAddr,
    router: Router,
    express: Option<Arc<Express>>,
    upgrading: Upgrading,
    header_timeout: Duration,
    max_head: usize,
}

impl Talk {
    async fn over<S>(self, stream: S, stopping: watch::Receiver<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, upgrading) = (self.peer, self.upgrading.clone());
        if let Err(error) = self.converse(stream, stopping).await {
            // A peer that leaves, is slow or speaks something else: its matter, not ours.
            tracing::debug!(%peer, %error, "connection ended");
        }
        // Not before the server has let go of the connection: one that it has not upgraded by then never will be.
        upgrading.hand_over().await;
    }

    /// Until the last request is answered, or one of them with an upgrade.
    async fn converse<S>(self, stream: S, mut stopping: watch::Receiver<()>) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (max_head, header_timeout) = (self.max_head, self.header_timeout);
        let service = service_fn(move |request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // From the end of one request to the last byte of the next one's head, however slowly it drips.
            .header_read_timeout(header_timeout)
            .max_headers(MAX_HEADERS)
            .max_header_size(max_head)
            .max_buf_size(max_head)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            // The sender is dropped at shutdown.
            _ = stopping.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    /// Nothing is done before the first poll: by then the server has seen whether the client is still there.
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let (peer, router) = (self.peer, self.router.clone());
        let (express, upgrading) = (self.express.clone(), self.upgrading.clone());
        async move {
            if let Some(response) = express.and_then(|express| express.answer(&mut request, peer, &upgrading)) {
                return Ok(response);
            }
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            if request.headers().contains_key(header::UPGRADE) {
                request.extensions_mut().insert(upgrading);
            }
            router.oneshot(request).await
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
