//! The Mirror's door: who may come in, and the upgrade from HTTP. After it the raw socket belongs to a `session`.

mod frames;
mod session;
mod wire;

pub(crate) use frames::{Frame, Speller, raw};

use crate::access;
use crate::answers::{json_error, status_page};
use crate::faults::Fault;
use crate::nginx::Slot;
use crate::shared::Shared;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Answers the upgrade GET of a collection.
pub(crate) async fn upgrade(
    shared: &Arc<Shared>,
    collection: &str,
    mut request: Request,
    slot: Option<Slot>,
) -> Response<Body> {
    if shared.shelf(collection).is_err() {
        return json_error(StatusCode::NOT_FOUND, "no such mirror");
    }
    let faults = shared.faults();
    if let Some(active) = faults.find("handshake", collection)
        && let Fault::Handshake { status } = active.fault
        && active.strike()
    {
        return status_page(status);
    }
    if let Some(active) = faults.find("handshake-hang", collection)
        && active.strike()
    {
        let mut changes = shared.faults.subscribe();
        let over = changes.wait_for(|faults| faults.find("handshake-hang", collection).is_none());
        let _ = over.await;
    }
    let knobs = shared.knobs();
    if let Err(refusal) = access::version(&knobs.access, request.headers()) {
        return refusal.into();
    }
    let permissions = ["mirror".to_owned(), format!("mirror:{collection}")];
    if let Err(refusal) = access::permit(shared, request.headers(), &permissions) {
        return refusal.into();
    }
    let Some(accept) = accept_key(&request) else {
        let mut refusal = json_error(StatusCode::UPGRADE_REQUIRED, "this address speaks websocket only");
        refusal.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return refusal;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (owner, collection) = (shared.clone(), collection.to_owned());
    shared.spawn(async move {
        match upgrade.await.map(Upgraded::downcast::<TokioIo<TcpStream>>) {
            Ok(Ok(parts)) => session::run(owner, collection, parts.io.into_inner(), parts.read_buf, slot).await,
            Ok(Err(_)) => tracing::error!("the upgraded socket is not a tcp stream"),
            Err(error) => tracing::debug!(%error, "the client left during the upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept_key(request: &Request) -> Option<HeaderValue> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let upgrade = text(header::UPGRADE)?.eq_ignore_ascii_case("websocket");
    let version = text(header::SEC_WEBSOCKET_VERSION)? == "13";
    let key = text(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24)?;
    (upgrade && version).then(|| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()).flatten()
}
