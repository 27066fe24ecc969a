//! The internal listener: `/healthz`, `/readyz`, `/metrics`.
//!
//! Readiness says only whether this node is starting or stopping. A dependency that is away shows in the body and never
//! fails it: all nodes would fail at once, and the balancer would shed every session for nothing.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use super::Problem;

/// What one check says right now, from memory: it must not ask anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// `ok`, or what is wrong in one word: `down`, `stale`, `standby`.
    pub status: &'static str,
    /// For people; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok() -> Self {
        Self { status: "ok", detail: None }
    }

    /// It is not.
    #[must_use]
    pub fn down(detail: impl Into<String>) -> Self {
        Self { status: "down", detail: Some(detail.into()) }
    }
}

type Look = Box<dyn Fn() -> Check + Send + Sync>;

/// Where the node is in its life, and what it knows of its dependencies.
#[derive(Default)]
pub struct Readiness {
    phase: AtomicU8,
    checks: RwLock<Vec<(&'static str, Look)>>,
}

const PHASES: [&str; 3] = ["starting", "ready", "stopping"];

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Readiness {
    /// Adds a named check; its answer is shown and decides nothing.
    pub fn add(&self, name: &'static str, look: impl Fn() -> Check + Send + Sync + 'static) {
        self.checks.write().unwrap_or_else(PoisonError::into_inner).push((name, Box::new(look)));
    }

    /// Everything runs: take traffic.
    pub fn ready(&self) {
        self.phase.store(1, Relaxed);
    }

    /// The first step of the stop: no new traffic.
    pub fn stopping(&self) {
        self.phase.store(2, Relaxed);
    }

    /// `starting`, `ready` or `stopping`.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        PHASES.get(usize::from(self.phase.load(Relaxed))).copied().unwrap_or("stopping")
    }

    fn report(&self) -> (StatusCode, Json<serde_json::Value>) {
        let phase = self.phase();
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let checks: serde_json::Map<String, serde_json::Value> =
            checks.iter().map(|(name, look)| ((*name).to_owned(), serde_json::json!(look()))).collect();
        let status = if phase == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(serde_json::json!({ "status": phase, "checks": checks })))
    }
}

type Scrape = Arc<dyn Fn() -> Result<String, std::fmt::Error> + Send + Sync>;

/// The media type of what `scrape` gives.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The internal routes; put [`super::plumb`] under them as well.
pub fn internal_router(
    readiness: Arc<Readiness>,
    scrape: impl Fn() -> Result<String, std::fmt::Error> + Send + Sync + 'static,
) -> Router {
    let scrape: Scrape = Arc::new(scrape);
    Router::new()
        .route("/healthz", get(|| async { Json(serde_json::json!({ "status": "ok" })) }))
        .route("/readyz", get(|State(readiness): State<Arc<Readiness>>| async move { readiness.report() }))
        .with_state(readiness)
        .merge(Router::new().route("/metrics", get(metrics)).with_state(scrape))
}

async fn metrics(State(scrape): State<Scrape>) -> Result<Response, Problem> {
    let text = scrape().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("request");
        let response = router.clone().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 65_536).await.expect("body");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn readiness_fails_only_while_starting_and_stopping() {
        let readiness = Arc::new(Readiness::default());
        readiness.add("database", || Check::down("connection refused"));
        readiness.add("bus", Check::ok);
        let router = internal_router(Arc::clone(&readiness), || Ok("# EOF\n".to_owned()));
        let checks = r#""checks":{"bus":{"status":"ok"},"database":{"detail":"connection refused","status":"down"}}"#;
        let body = |status: &str| format!("{{{checks},\"status\":\"{status}\"}}");
        assert_eq!(ask(&router, "/readyz").await, (503, body("starting")));
        readiness.ready();
        assert_eq!(ask(&router, "/readyz").await, (200, body("ready")), "a dependency that is away sheds nobody");
        readiness.stopping();
        assert_eq!(ask(&router, "/readyz").await, (503, body("stopping")));
        assert_eq!(ask(&router, "/healthz").await.0, 200);
        assert_eq!(ask(&router, "/metrics").await, (200, "# EOF\n".to_owned()));
    }
}
