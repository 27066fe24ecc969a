//! Upgrades: a handler agrees to one, the task of the connection hands it over, and what is asked most often is answered here.
//!
//! Invariants: from the moment in which a handler has agreed, the 101 is all that is still written, and whoever was named has the
//! connection behind it; a connection that ends before that gives back the place that was taken for it. [`Express`] says yes and nothing
//! else: whatever is to be refused goes through the layers, like every other request, and is told there what is wrong.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::response::Response;
use bytes::Bytes;
use dzvin_actors::channels::{Permit, Socket};
use hyper::{Method, Request, StatusCode, body::Incoming, upgrade::OnUpgrade};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::time::Instant;

use super::{ClientAddress, address::Proxies, layers::Plumbing, patient::take};

/// What a session takes of an upgraded connection.
#[derive(Debug)]
pub struct Taken {
    /// The socket; behind TLS the end of a pipe, and the permit tells the task at the other end when the session is over.
    pub socket: Socket,
    /// What was read behind its request.
    pub leftover: Bytes,
    /// What has to be written before all else: the answer to its request. Empty when it has been written.
    pub greeting: Bytes,
    /// Its place.
    pub permit: Permit,
}

/// Whether a handler has agreed to an upgrade of this connection, and who has it then; an extension of each request that asks for one.
#[derive(Clone, Default)]
pub struct Upgrading(Arc<Mutex<Option<Agreed>>>);

struct Agreed {
    upgrade: OnUpgrade,
    permit: Permit,
    heir: Box<dyn FnOnce(Taken) + Send>,
}

impl Upgrading {
    /// Agrees: the answer to this request is a 101, and `heir` has the connection behind it.
    pub fn begin<B>(&self, request: &mut Request<B>, permit: Permit, heir: impl FnOnce(Taken) + Send + 'static) {
        let upgrade = hyper::upgrade::on(request);
        *self.lock() = Some(Agreed { upgrade, permit, heir: Box::new(heir) });
    }

    pub(super) fn has_begun(&self) -> bool {
        self.lock().is_some()
    }

    /// The server is done with the connection.
    pub(super) async fn hand_over(self) {
        let Some(Agreed { upgrade, permit, heir }) = self.lock().take() else { return };
        match upgrade.await.map(|upgraded| take(upgraded, permit)) {
            Ok(Ok(taken)) => heir(taken),
            Ok(Err(error)) => tracing::error!(%error, "an upgraded connection could not be taken"),
            Err(error) => tracing::debug!(%error, "client left during the upgrade"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Agreed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Upgrading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upgrading").field(&self.has_begun()).finish()
    }
}

/// Agrees to an upgrade, or leaves the request as it was.
type Agree = dyn Fn(&mut Request<Incoming>, ClientAddress, &Upgrading) -> Option<Response> + Send + Sync;

/// The address that a storm of clients comes to, answered before the layers of the web framework: they are an eighth of a connect.
pub struct Express {
    path: &'static str,
    agree: Box<Agree>,
    proxies: Proxies,
    answers: Counter,
    seconds: Histogram,
}

impl Express {
    /// For `GET` of a path that is in the router as well, where whatever `agree` does not answer is answered.
    pub fn new(
        path: &'static str,
        plumbing: &Plumbing,
        agree: impl Fn(&mut Request<Incoming>, ClientAddress, &Upgrading) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let (answers, seconds) = plumbing.metrics.answers(path, &Method::GET, StatusCode::SWITCHING_PROTOCOLS);
        Self { path, agree: Box::new(agree), proxies: plumbing.proxies.clone(), answers, seconds }
    }

    pub(super) fn answer(
        &self,
        request: &mut Request<Incoming>,
        peer: SocketAddr,
        upgrading: &Upgrading,
    ) -> Option<Response> {
        if request.uri().path() != self.path || request.method() != Method::GET {
            return None;
        }
        let started = Instant::now();
        let address = self.proxies.client(peer.ip(), request.headers());
        // What panics here panics again in the router, where it is counted and answered.
        let agreed = catch_unwind(AssertUnwindSafe(|| (self.agree)(request, address, upgrading)));
        let response = agreed.ok().flatten()?;
        self.answers.inc();
        self.seconds.observe(started.elapsed().as_secs_f64());
        tracing::debug!(route = self.path, %address, "upgrade answered");
        Some(response)
    }
}

impl fmt::Debug for Express {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Express").field("path", &self.path).finish_non_exhaustive()
    }
}
