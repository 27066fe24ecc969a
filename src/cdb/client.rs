//! The client: one for each API address, all behind the governors of their egress.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use dzvin_actors::{
    cdb::{Governor, Pass},
    mirror::Token,
    platform::ports::{CdbApi, CdbError, FeedPage},
};
use dzvin_protocols::{
    cdb::{error_of, page_of},
    mirror::{Dialect, mask_secrets, percent_encode},
    platform::EntityId,
};
use reqwest::{
    Response,
    header::{HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::{sync::watch, time::Instant};

/// Limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CdbLimits {
    /// TCP and TLS.
    pub connect: Duration,
    /// From the request to the last byte.
    pub total: Duration,
    /// Largest object: the promised 7.5 MB with room for what the Mirror's limit would not take.
    pub object_bytes: usize,
    /// Largest page of the feed: a hundred usual objects are 3 MB. Above it the caller asks for fewer objects.
    pub page_bytes: usize,
    /// Idle connections are closed by us before the upstream does at 350 s.
    pub idle: Duration,
}

impl Default for CdbLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            total: Duration::from_secs(60),
            object_bytes: 64 * 1024 * 1024,
            page_bytes: 32 * 1024 * 1024,
            idle: Duration::from_secs(60),
        }
    }
}

/// Most bytes that are read of an error's body.
const MAX_ERROR_BODY: usize = 8 * 1024;

/// What one client needs.
#[derive(Debug)]
pub struct CdbConfig {
    /// `https://host`: the dialect's paths follow it, and begin with `/api` themselves. An address that ends with it is
    /// understood too. May hold a secret: never printed.
    pub base_url: String,
    /// Spelling: paths, auth, where ids and versions are.
    pub dialect: Arc<Dialect>,
    /// The `Platform-Version` header; the upstream wants it on every request.
    pub platform_version: Option<String>,
    /// Read at every request.
    pub token: watch::Receiver<Option<Token>>,
    /// Limits.
    pub limits: CdbLimits,
}

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CdbSetupError {
    /// The address is no URL.
    #[error("the address of the API is not an http or https URL")]
    Address,
    /// A header of the dialect that HTTP does not allow.
    #[error("the header {0} has a name or a value that HTTP does not allow")]
    Header(String),
    /// TLS or the resolver.
    #[error("the HTTP client could not be made")]
    Client(#[from] reqwest::Error),
}

/// The central database over HTTP.
#[derive(Debug)]
pub struct CdbClient {
    http: reqwest::Client,
    base: String,
    config: CdbConfig,
    header: HeaderName,
    governor: Arc<Governor>,
}

impl CdbClient {
    /// Makes a client behind the governor of its egress address.
    ///
    /// # Errors
    /// [`CdbSetupError`].
    pub fn new(config: CdbConfig, governor: Arc<Governor>) -> Result<Self, CdbSetupError> {
        let url = reqwest::Url::parse(&config.base_url).map_err(|_| CdbSetupError::Address)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CdbSetupError::Address);
        }
        let auth = &config.dialect.auth;
        let name = |name: &str| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| CdbSetupError::Header(name.chars().take(80).collect()))
        };
        let mut headers = reqwest::header::HeaderMap::new();
        let fixed = auth.headers.iter().map(|(name, value)| (name.as_str(), value));
        for (key, value) in fixed.chain(config.platform_version.iter().map(|version| ("platform-version", version))) {
            let value =
                HeaderValue::from_str(value).map_err(|_| CdbSetupError::Header(key.chars().take(80).collect()))?;
            headers.insert(name(key)?, value);
        }
        let http = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(config.limits.connect)
            .timeout(config.limits.total)
            .pool_idle_timeout(config.limits.idle)
            .default_headers(headers)
            .build()?;
        let base = config.base_url.trim_end_matches('/').to_owned();
        Ok(Self { http, base, header: name(&auth.header)?, config, governor })
    }

    /// One GET with everything that every request needs. The body is not read yet, and until it is the connection counts.
    async fn get(&self, path: &str) -> Result<(Response, Pass), CdbError> {
        let pass = self.governor.admit().await.map_err(|crowded| {
            self.governor.metrics().crowded();
            CdbError::Failed(crowded.to_string())
        })?;
        let mut request = self.http.get(joined(&self.base, path));
        let token = self.config.token.borrow().clone().filter(|_| self.config.dialect.http.authorise);
        if let Some(token) = token {
            let value = format!("{}{}", self.config.dialect.auth.scheme, token.expose());
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| CdbError::Forbidden("the token is not a header value".into()))?;
            value.set_sensitive(true);
            request = request.header(self.header.clone(), value);
        }
        let begun = Instant::now();
        let answer = request.send().await;
        let (status, request_id) = match &answer {
            Ok(answer) => {
                (answer.status().as_u16(), answer.headers().get("x-request-id").and_then(|id| id.to_str().ok()))
            }
            Err(_) => (0, None),
        };
        self.governor.metrics().answered(status);
        tracing::info!(
            target: "dzvin::cdb",
            method = "GET",
            path = mask_secrets(path),
            status,
            x_request_id = request_id,
            millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "a request to the upstream"
        );
        // The error's own text holds the address, and the address may hold a secret.
        answer.map(|answer| (answer, pass)).map_err(|error| CdbError::Failed(transport(&error)))
    }

    /// The body up to a limit.
    async fn body(&self, mut answer: Response, limit: usize) -> Result<Bytes, CdbError> {
        if answer.content_length().is_some_and(|length| length > limit as u64) {
            return Err(CdbError::Unusable(format!("the answer is above {limit} bytes")));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| CdbError::Failed(transport(&error)))? {
            if body.len() + chunk.len() > limit {
                return Err(CdbError::Unusable(format!("the answer is above {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    async fn error(&self, mut answer: Response) -> CdbError {
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
            if body.len() >= MAX_ERROR_BODY {
                break;
            }
        }
        let error = error_of(status, &body);
        match &error {
            CdbError::Forbidden(said) => {
                tracing::error!(target: "dzvin::cdb", status, said, "the upstream refuses us: not repeated with this token");
            }
            other => {
                tracing::warn!(target: "dzvin::cdb", status, error = %other, "the upstream did not do what was asked");
            }
        }
        error
    }
}

/// The address of a path. Both may name `/api`, which operators and Swagger write as a part of the address: it is meant once.
fn joined(base: &str, path: &str) -> String {
    let base = base.strip_suffix("/api").filter(|_| path.starts_with("/api/")).unwrap_or(base);
    format!("{base}{path}")
}

/// What went wrong below HTTP, without the address.
fn transport(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    what.to_owned()
}

impl CdbApi for CdbClient {
    async fn object(&self, id: &EntityId) -> Result<Option<Bytes>, CdbError> {
        let path = self.config.dialect.http.object.replace("{id}", &percent_encode(id.as_str()));
        let (answer, _pass) = self.get(&path).await?;
        match answer.status().as_u16() {
            200 => self.body(answer, self.config.limits.object_bytes).await.map(Some),
            404 | 410 => Ok(None),
            _ => Err(self.error(answer).await),
        }
    }

    async fn modified_since(&self, since: &str, limit: usize) -> Result<FeedPage, CdbError> {
        let feed = &self.config.dialect.http.feed;
        let path = feed.replace("{since}", &percent_encode(since)).replace("{limit}", &limit.to_string());
        let (answer, _pass) = self.get(&path).await?;
        match answer.status().as_u16() {
            200 => page_of(&self.body(answer, self.config.limits.page_bytes).await?, &self.config.dialect),
            204 => Ok(FeedPage::default()),
            _ => Err(self.error(answer).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::{
        Router,
        extract::{Request, State},
        http::{HeaderMap, StatusCode},
        response::{IntoResponse, Redirect},
    };
    use dzvin_actors::cdb::EgressLimits;

    use super::*;

    type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

    async fn answer(State(seen): State<Seen>, request: Request) -> axum::response::Response {
        let uri = request.uri().to_string();
        seen.lock().unwrap().push((uri.clone(), request.headers().clone()));
        match uri.as_str() {
            "/api/procedures/here" => r#"{"_id":"here","dateModified":"2024-01-01T00:00:00Z"}"#.into_response(),
            "/api/procedures/large" => "x".repeat(5000).into_response(),
            "/api/procedures/forbidden" => (StatusCode::FORBIDDEN, r#"{"message":"no"}"#).into_response(),
            "/api/procedures/crowd" => (StatusCode::TOO_MANY_REQUESTS, "<html>429</html>").into_response(),
            "/api/procedures/moved" => Redirect::temporary("/api/procedures/here").into_response(),
            "/api/procedures/broken" => (StatusCode::BAD_GATEWAY, "<html>502</html>").into_response(),
            uri if uri.starts_with("/api/search/byDateModified/2024-01-01T00%3A00%3A00.000000Z?limit=") => {
                r#"[{"_id":"a","dateModified":"2024-01-01T00:00:00Z"}]"#.into_response()
            }
            uri if uri.starts_with("/api/search/") => StatusCode::NO_CONTENT.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn client() -> (CdbClient, Seen, watch::Sender<Option<Token>>) {
        client_at("/").await
    }

    async fn client_at(path: &str) -> (CdbClient, Seen, watch::Sender<Option<Token>>) {
        let seen = Seen::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}{path}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (token, receiver) = watch::channel(Some(Token::new("first")));
        let limits = CdbLimits { object_bytes: 4096, ..CdbLimits::default() };
        let config = CdbConfig {
            base_url,
            dialect: Arc::default(),
            platform_version: Some("1.2.3".into()),
            token: receiver,
            limits,
        };
        let egress = EgressLimits { per_second: 1000, per_minute: 60_000, burst: 1000, ..EgressLimits::default() };
        (CdbClient::new(config, Arc::new(Governor::new(egress))).unwrap(), seen, token)
    }

    fn id(text: &str) -> EntityId {
        EntityId::new(text).unwrap()
    }

    #[tokio::test]
    async fn every_answer_has_its_meaning() {
        let (client, _, _token) = client().await;
        assert!(client.object(&id("here")).await.unwrap().unwrap().starts_with(b"{"));
        assert!(client.object(&id("nowhere")).await.unwrap().is_none());
        assert!(matches!(client.object(&id("large")).await, Err(CdbError::Unusable(_))));
        assert!(matches!(client.object(&id("forbidden")).await, Err(CdbError::Forbidden(said)) if said == "no"));
        assert!(matches!(client.object(&id("crowd")).await, Err(CdbError::TooMany)));
        assert!(matches!(client.object(&id("moved")).await, Err(CdbError::Refused { status: 307, .. })));
        assert!(matches!(client.object(&id("broken")).await, Err(CdbError::Failed(_))));
        assert_eq!(client.modified_since("2024-01-01T00:00:00.000000Z", 100).await.unwrap().docs.len(), 1);
        assert_eq!(client.modified_since("2025-01-01T00:00:00.000000Z", 100).await.unwrap().len, 0);
        let counted = |outcome| client.governor.metrics().requests(outcome);
        let outcomes = ["ok", "not_found", "forbidden", "too_many", "refused", "failed", "crowded"];
        assert_eq!(outcomes.map(counted), [4, 1, 1, 1, 1, 1, 0]);
    }

    #[tokio::test]
    async fn every_request_carries_the_version_and_the_newest_token() {
        let (client, seen, token) = client().await;
        let _ = client.object(&id("a/../b?c")).await;
        token.send_replace(Some(Token::new("second")));
        let _ = client.object(&id("x")).await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0].0, "/api/procedures/a%2F..%2Fb%3Fc");
        for ((_, headers), token) in seen.iter().zip(["first", "second"]) {
            assert_eq!(headers["platform-version"], "1.2.3");
            assert_eq!(headers["authorization"], token);
        }
    }

    #[tokio::test]
    async fn the_address_may_end_with_what_the_paths_begin_with() {
        for path in ["", "/", "/api", "/api/"] {
            let (client, seen, _token) = client_at(path).await;
            assert!(client.object(&id("here")).await.unwrap().is_some(), "{path}: {:?}", seen.lock().unwrap());
            assert_eq!(client.modified_since("2024-01-01T00:00:00.000000Z", 1).await.unwrap().len, 1, "{path}");
        }
        assert_eq!(joined("http://h/v2/api", "/objects"), "http://h/v2/api/objects", "what is meant once is kept");
        assert_eq!(joined("http://h/gate", "/api/x"), "http://h/gate/api/x");
    }

    #[test]
    fn errors_never_hold_the_address() {
        let error = reqwest::Url::parse("not a url with s3cret").map_err(|_| CdbSetupError::Address).unwrap_err();
        assert!(!error.to_string().contains("s3cret"));
    }
}
