//! The whole router behind its plumbing, on a real bus in memory and a double of presence.

mod ask;
mod census;
mod publish;
mod signed;

use std::sync::Mutex;

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use dzvin_actors::{
    channels::App,
    platform::ports::{BusEvent, HistoryLimits, ReadLimit},
};
use dzvin_protocols::{
    channels::pusher::{Credentials, encode_publication, http_api::sign_query},
    platform::StreamName,
};
use serde_json::{Value, json as value};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::*;
use crate::{
    channels::bus::MemoryBus,
    platform::{
        config::Http,
        http::{HttpMetrics, Plumbing, plumb},
    },
};
use census::Census;

struct Kit {
    router: Router,
    bus: Arc<MemoryBus>,
    events: Mutex<mpsc::Receiver<BusEvent>>,
    census: Arc<Census>,
    apps: Apps,
}

const NOW: fn() -> i64 = || i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("now").as_secs()).expect("a time");

fn credentials(app: &str) -> Credentials {
    Credentials::new(&format!("key-{app}"), &format!("the secret of {app}")).expect("credentials")
}

impl Kit {
    fn new() -> Self {
        Self::of(Namespaces::default())
    }

    fn of(namespaces: Namespaces) -> Self {
        let (open, mut own) =
            (App::new("1", vec![credentials("1")]).expect("app"), App::new("2", vec![credentials("2")]).expect("app"));
        own.isolated = true;
        let apps = Apps::default();
        apps.replace(vec![open, own]).expect("apps");
        let (events, told) = mpsc::channel(1024);
        let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), events));
        let census = Arc::new(Census::new());
        let api = PusherApi {
            apps: apps.clone(),
            bus: Arc::clone(&bus),
            presence: Arc::clone(&census),
            namespaces: Arc::new(namespaces),
            limits: PublishLimits::default(),
            guard: Guard::default(),
        };
        let router = plumb(router(api), Plumbing::new(&Http::default(), HttpMetrics::default()));
        Self { router, bus, events: Mutex::new(told), census, apps }
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(target).body(Body::from(body.to_owned())).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            assert!(response.headers().contains_key("www-authenticate"));
        }
        let body = to_bytes(response.into_body(), 1 << 24).await.expect("a body");
        (status.as_u16(), serde_json::from_slice(&body).expect("json"))
    }

    async fn signed(
        &self,
        app: &str,
        method: &str,
        path: &str,
        parameters: &[(&str, &str)],
        body: &str,
    ) -> (u16, Value) {
        let path = format!("/apps/{app}{path}");
        let query = sign_query(method, &path, parameters, body.as_bytes(), &credentials(app), NOW());
        self.send(method, &format!("{path}?{query}"), body).await
    }

    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        self.signed("1", "GET", path, parameters, "").await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.signed("1", "POST", path, &[], &body.to_string()).await
    }

    /// What a client of the Pusher protocol receives of a stream.
    async fn heard(&self, stream: &str) -> Vec<Value> {
        let limit = ReadLimit { count: 1000, bytes: 1 << 24 };
        let slice = self.bus.read(&StreamName::from_checked(stream), 0, limit).await.expect("the bus");
        let all = slice.map(|slice| slice.publications).unwrap_or_default();
        all.iter().map(|it| serde_json::from_slice(&encode_publication("c", it)).expect("json")).collect()
    }
}
