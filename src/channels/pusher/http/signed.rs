//! Who calls: an application's server, by its signature over the whole request.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    RequestExt,
    body::Bytes,
    extract::{FromRequest, RawPathParams, Request},
    http::header::HeaderName,
    response::{IntoResponse, Response},
};
use dzvin_actors::channels::App;
use dzvin_protocols::channels::pusher::{
    Name,
    http_api::{ApiError, Query, SignatureError},
};

use super::{PusherApi, refusal};
use crate::{identity::Origin, platform::http::TraceContext};

/// Carries a trace over to the clients of a publication.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A call whose signature is good.
#[derive(Debug)]
pub(super) struct Signed {
    /// Whose.
    pub(super) app: Arc<App>,
    /// Its parameters.
    pub(super) query: Query,
    /// Its body.
    pub(super) body: Bytes,
    /// The trace that the caller has begun.
    pub(super) trace: Option<Arc<str>>,
}

impl<B: Send + Sync, P: Send + Sync> FromRequest<Arc<PusherApi<B, P>>> for Signed {
    type Rejection = Response;

    async fn from_request(mut request: Request, api: &Arc<PusherApi<B, P>>) -> Result<Self, Response> {
        let params = request.extract_parts::<RawPathParams>().await.map_err(IntoResponse::into_response)?;
        let id = params.iter().find_map(|(name, value)| (name == "id").then_some(value)).unwrap_or_default();
        let app = api.apps.by_id(id).ok_or_else(|| refusal::unknown_app().into_response())?;
        let unsigned = |error| refusal::unsigned(error).into_response();
        let query = Query::parse(request.uri().query().unwrap_or_default()).map_err(unsigned)?;
        // A stranger's body is not even read.
        let known = query.get("auth_key").is_some_and(|key| app.ring.has(key));
        if !known {
            let error = if query.get("auth_key").is_none() {
                SignatureError::Missing("auth_key")
            } else {
                SignatureError::UnknownKey
            };
            return Err(unsigned(error));
        }
        // No two requests are signed alike: it is the key that is good here, or is not.
        let whose = format!("app {} {}", app.id, query.get("auth_key").unwrap_or_default());
        let Ok(origin) = request.extract_parts::<Origin>().await;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        // A trace that nobody began would only make every frame longer.
        let trace = request.extensions().get::<TraceContext>().filter(|_| request.headers().contains_key(TRACEPARENT));
        let trace = trace.map(|trace| trace.traceparent().into());
        let body = Bytes::from_request(request, &()).await.map_err(IntoResponse::into_response)?;
        let check = || query.verify(method.as_str(), &path, &body, &app.ring, now());
        let signed = origin.look(&api.guard, &whose, check).map_err(IntoResponse::into_response)?;
        signed.map_err(unsigned)?;
        origin.known_as(&format!("app:{}", app.id).into(), None);
        if !app.enabled {
            return Err(refusal::disabled().into_response());
        }
        tracing::Span::current().record("user", &*app.id);
        Ok(Self { app, query, body, trace })
    }
}

impl Signed {
    /// A channel of the application, and the hub's name for it.
    pub(super) fn channel(&self, name: &str) -> Result<(Name, String), ApiError> {
        let name = Name::parse(name).map_err(|error| ApiError::Name { name: name.to_owned(), error })?;
        let inside = inside(&self.app, &name)?;
        Ok((name, inside))
    }
}

/// The hub's name for a channel, unless it is one of the hub's own.
pub(super) fn inside(app: &App, name: &Name) -> Result<String, ApiError> {
    let channel = app.channel(name).filter(|_| !name.is_reserved());
    channel.map(|channel| channel.to_string()).ok_or_else(|| ApiError::Hubs(name.as_str().to_owned()))
}

/// Now, in seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
