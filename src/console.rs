//! The operators' page, built into the binary: `/console/`.
//!
//! Assets have a hash in their name and are kept by browsers for good; the page itself is asked for each time. The policy
//! allows nothing but our own files and connections, and, where the page's users sign in at an issuer, questions to that one.
//! Without a built page the address says how to build it.

use std::sync::{Arc, PoisonError, RwLock};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use rust_embed::RustEmbed;

use crate::{identity::login, platform::config::LoginConfig};

#[derive(RustEmbed)]
#[folder = "console/dist"]
#[allow_missing = true]
struct Dist;

/// Nothing inline, nothing foreign. The last directive goes on with the issuer's origins, if there is a login; it names the
/// WebSocket schemes because not every browser counts them as `'self'`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self' ws: wss:";

/// What is served beside the files: how to sign in, and what the page may do for it. Cheap to share.
#[derive(Debug, Clone)]
pub struct Console(Arc<RwLock<Arc<Told>>>);

#[derive(Debug)]
struct Told {
    login: Bytes,
    policy: HeaderValue,
}

impl Console {
    /// With this login, or without any.
    #[must_use]
    pub fn new(login: Option<&LoginConfig>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Told::of(login)))))
    }

    /// Puts another one into force: pages that are loaded from here on know it.
    pub fn replace(&self, login: Option<&LoginConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Told::of(login));
    }

    fn told(&self) -> Arc<Told> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn login(&self) -> Response {
        let headers = [(header::CONTENT_TYPE, content_type("login.json")), (header::CACHE_CONTROL, "no-store")];
        (headers, self.told().login.clone()).into_response()
    }
}

impl Told {
    fn of(login: Option<&LoginConfig>) -> Self {
        let origins = login.map(login::origins).unwrap_or_default();
        let policy = origins.iter().fold(POLICY.to_owned(), |policy, origin| policy + " " + origin);
        // Origins are plain; if one were not, the page would only be allowed less.
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(POLICY));
        Self { login: login::told(login).into(), policy }
    }
}

/// The routes.
pub fn router(console: Console) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/console/") }))
        .route("/console", get(|| async { Redirect::permanent("/console/") }))
        .route("/console/login.json", get(|State(console): State<Console>| async move { console.login() }))
        .route("/console/", get(|State(console): State<Console>| async move { file("index.html", &console.told()) }))
        .route(
            "/console/{*path}",
            get(|State(console): State<Console>, Path(path): Path<String>| async move { file(&path, &console.told()) }),
        )
        .with_state(console)
}

/// Whether the page is in this binary.
#[must_use]
pub fn is_built() -> bool {
    Dist::get("index.html").is_some()
}

fn file(path: &str, told: &Told) -> Response {
    let Some(file) = Dist::get(path) else {
        let detail = "the page is not in this binary; build it with scripts/run, or with npm run build in console/";
        let text = if is_built() { "no such file" } else { detail };
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let caching = if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, content_type(path)),
        (header::CACHE_CONTROL, caching),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let policy = [(header::CONTENT_SECURITY_POLICY, told.policy.clone())];
    (headers, policy, file.data).into_response()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_a_404_with_a_way_out() {
        let told = Told::of(None);
        assert_eq!(file("../Cargo.toml", &told).status(), StatusCode::NOT_FOUND);
        assert_eq!(file("no-such", &told).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_policy_is_wider_by_the_issuer_and_nothing_else() {
        assert_eq!(Told::of(None).policy, POLICY);
        let login = "issuer = 'https://id.example/realms/sales'\nclient_id = 'c'\norigins = ['https://token.example']";
        let told = Told::of(Some(&toml::from_str(login).expect("a login")));
        assert_eq!(told.policy, format!("{POLICY} https://id.example https://token.example"));
    }

    #[test]
    fn scripts_are_served_as_scripts() {
        assert_eq!(content_type("assets/a-1f.js"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("x"), "application/octet-stream");
    }
}
