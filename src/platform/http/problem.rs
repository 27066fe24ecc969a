//! The one place that decides what a client is told and what is logged when a request fails.
//!
//! A client's mistake is logged at debug, ours at error, a dependency that is away at warn; each once, with the whole chain
//! of causes, when the answer is made. Details never carry a cause's text: that is for the log.

use std::{
    error::Error,
    fmt::{self, Write as _},
    time::Duration,
};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dzvin_actors::platform::ports::{BusError, StoreError};
use dzvin_protocols::platform::problem::{MEDIA_TYPE, ProblemDetails, ProblemValue};

/// How long a client should wait when a dependency is away: longer than a failover's first retry, shorter than patience.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A failed request: the answer and, for the log, its cause.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// Boxed: a result that may be a problem is returned from everywhere, and should be small.
    extra: Box<Extra>,
}

/// The code of a problem, for whoever looks at answers on their way out: an extension of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode(pub &'static str);

#[derive(Debug, Default)]
struct Extra {
    retry_after: Option<Duration>,
    revision: Option<u64>,
    item: Option<u64>,
    errors: Vec<ProblemValue>,
    /// Those that its status asks for.
    headers: HeaderMap,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Problem {
    /// Any status with a stable code (`[a-z][a-z0-9_]*`) and a text for people.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), extra: Box::default() }
    }

    /// 400: the request is malformed.
    #[must_use]
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 401 `unauthorized`: no token, or not a good one.
    #[must_use]
    pub fn unauthorized() -> Self {
        let problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid bearer token is needed");
        problem.challenge(r#"Bearer realm="dzvin""#)
    }

    /// 401 `token_expired`: it was good once; a new one helps.
    #[must_use]
    pub fn token_expired() -> Self {
        let problem = Self::new(StatusCode::UNAUTHORIZED, "token_expired", "the token has expired");
        let challenge = r#"Bearer realm="dzvin", error="invalid_token", error_description="the token has expired""#;
        problem.challenge(challenge)
    }

    /// 401 `bad_signature`: a request that should be signed and is not, or otherwise; the detail says which rule it breaks.
    #[must_use]
    pub fn unsigned(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "bad_signature", detail).challenge(r#"Pusher realm="dzvin""#)
    }

    fn challenge(self, challenge: &'static str) -> Self {
        self.with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// 403 `forbidden`: the bearer lacks this permission.
    #[must_use]
    pub fn forbidden(permission: impl fmt::Display) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", format!("the permission {permission} is needed"))
    }

    /// 404: there is no such thing.
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 409: what is there stands in the way.
    #[must_use]
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 429: more than there may be; `wait` says when to come again.
    #[must_use]
    pub fn too_many(code: &'static str, detail: impl Into<String>, wait: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(wait)
    }

    /// 422: well-formed, and yet it cannot be.
    #[must_use]
    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 500 `internal`: our mistake. The client learns nothing of it, the log everything.
    #[must_use]
    pub fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong on our side").caused_by(source)
    }

    /// 503: a dependency is away; the same request may succeed soon.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(RETRY_AFTER)
    }

    /// Adds what the log should know.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.extra.source = Some(source.into());
        self
    }

    /// Adds `Retry-After`, in whole seconds rounded up.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.extra.retry_after = Some(wait);
        self
    }

    /// Adds the revision that is there, where another one was expected.
    #[must_use]
    pub fn with_revision(mut self, revision: u64) -> Self {
        self.extra.revision = Some(revision);
        self
    }

    /// Adds which of several things that were asked for is meant, from 0.
    #[must_use]
    pub fn with_item(mut self, item: usize) -> Self {
        self.extra.item = Some(item as u64);
        self
    }

    /// Adds what is wrong with single values of a document.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<ProblemValue>) -> Self {
        self.extra.errors = errors;
        self
    }

    /// Adds a header that the status asks for.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.extra.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    /// Adds `Allow`, which a 405 must carry.
    #[must_use]
    pub(super) fn allow(mut self, methods: Option<HeaderValue>) -> Self {
        self.extra.headers.extend(methods.map(|methods| (header::ALLOW, methods)));
        self
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code of the answer.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What breaks an answer off that has begun: no head can tell of it any more, so it is logged here.
    #[must_use]
    pub fn break_off(self) -> std::io::Error {
        self.log();
        std::io::Error::other(self.code)
    }

    fn log(&self) {
        let cause = self.extra.source.as_deref().map(|source| chain(source));
        let (status, code, detail) = (self.status.as_u16(), self.code, &*self.detail);
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => tracing::warn!(status, code, detail, cause, "request not served"),
            s if s.is_server_error() => tracing::error!(status, code, detail, cause, "request failed"),
            _ => tracing::debug!(status, code, detail, cause, "request refused"),
        }
    }
}

/// An error with its sources, `outer: inner: innermost`: Display of ours leaves the source out, the log puts it back.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.log();
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body = ProblemDetails::new(self.status.as_u16(), title, self.code, self.detail);
        (body.revision, body.item, body.errors) = (self.extra.revision, self.extra.item, self.extra.errors);
        let json = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, MEDIA_TYPE)], json).into_response();
        response.extensions_mut().insert(ProblemCode(self.code));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.extra.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64));
        }
        headers.extend(self.extra.headers);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } => {
                Self::unavailable("store_unavailable", "the database is unavailable, try again").caused_by(error)
            }
            StoreError::LeaseLost { .. } => {
                Self::unavailable("lease_lost", "another node took over, try again").caused_by(error)
            }
            StoreError::Refused { .. } | StoreError::Unfit { .. } => Self::internal(error),
        }
    }
}

impl From<BusError> for Problem {
    fn from(error: BusError) -> Self {
        Self::unavailable("bus_unavailable", "the bus is unavailable, try again").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn body(response: Response) -> ProblemDetails {
        let bytes = to_bytes(response.into_body(), 65_536).await.expect("body");
        serde_json::from_slice(&bytes).expect("problem")
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_503_and_says_when_to_return() {
        let error = StoreError::Unavailable { doing: "reading", source: "password=hunter2".into() };
        let response = Problem::from(error).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = body(response).await;
        assert_eq!(body.code, "store_unavailable");
        assert!(!body.detail.contains("hunter2"), "causes stay in the log");
    }

    #[tokio::test]
    async fn unauthorized_challenges() {
        for (problem, code) in [(Problem::unauthorized(), "unauthorized"), (Problem::token_expired(), "token_expired")]
        {
            let response = problem.into_response();
            assert_eq!(response.status(), 401);
            assert!(response.headers()["www-authenticate"].to_str().expect("ascii").starts_with("Bearer "));
            assert_eq!(body(response).await.code, code);
        }
    }

    #[test]
    fn chains_are_whole() {
        let error = BusError { doing: "reading", source: Box::new(std::io::Error::other("cut")) };
        assert_eq!(chain(&error), "the bus is unavailable while reading: cut");
    }
}
