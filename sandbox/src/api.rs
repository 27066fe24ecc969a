//! The HTTP API of the CDB: one object, the feed by date (other searches are in `search`), and the create call that gives an `acc_token`. Feeds are bare arrays,
//! inclusive, ascending; 204 when there is nothing. Bodies are streamed object by object, so a page of large ones costs little.

use crate::answers::{Refusal, json_text, named, request_id, status_page};
use crate::faults::Fault;
use crate::shared::Shared;
use crate::world::{Document, Query, Shelf};
use crate::{access, clock, json, search};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use futures_util::stream;
use rand::Rng;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

const SEARCH: &str = "search/";
const FEED: &str = "byDateModified/";

/// Answers a request under `/api`. Everything that the application itself says carries a request id.
pub(crate) async fn handle(shared: &Shared, request: Request) -> Response<Body> {
    let faults = shared.faults();
    if let Some(Fault::HttpSlow { ms }) = faults.0.get("http-slow").filter(|active| active.strike()).map(|a| &a.fault) {
        tokio::time::sleep(Duration::from_millis(*ms)).await;
    }
    if let Some(active) = faults.0.get("http")
        && let Fault::Http { percent, status } = active.fault
        && shared.chance(percent)
        && active.strike()
    {
        return if matches!(status, 429 | 502..=504) { status_page(status) } else { named(status_page(status)) };
    }
    named(answer(shared, request).await.unwrap_or_else(Into::into))
}

async fn answer(shared: &Shared, request: Request) -> Result<Response<Body>, Refusal> {
    let knobs = shared.knobs();
    access::version(&knobs.access, request.headers())?;
    let uri = request.uri().clone();
    let path = uri.path().strip_prefix("/api").unwrap_or(uri.path()).trim_matches('/');
    match path {
        "" => return Ok(json_text(StatusCode::OK, r#"{"api_version":"1.0"}"#)),
        "ping" => return Ok(json_text(StatusCode::OK, r#"{"text":"pong"}"#)),
        _ => {}
    }
    match *request.method() {
        Method::GET | Method::HEAD => {
            let open = knobs.api.public_reads && !request.headers().contains_key(header::AUTHORIZATION);
            if !open {
                access::permit(shared, request.headers(), &["api".to_owned(), "write".to_owned()])?;
            }
            read(shared, path, &uri)
        }
        Method::POST => {
            let shelf = shared.world.by_path(path).ok_or_else(not_found)?;
            access::permit(shared, request.headers(), &["write".to_owned()])?;
            let body = to_bytes(request.into_body(), knobs.api.max_body)
                .await
                .map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"))?;
            create(shared, shelf, &body)
        }
        _ => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")),
    }
}

pub(crate) fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "not found")
}

fn read(shared: &Shared, path: &str, uri: &Uri) -> Result<Response<Body>, Refusal> {
    let query = uri.query().unwrap_or("");
    let shelf = |path: &str| match path.trim_end_matches('/') {
        "" => shared.world.default_shelf(),
        path => shared.world.by_path(path),
    };
    if let Some(at) = path.find(SEARCH).filter(|at| *at == 0 || path[..*at].ends_with('/')) {
        let shelf = shelf(&path[..at]).ok_or_else(not_found)?;
        // An older spelling has the collection's name behind it.
        let search = &path[at + SEARCH.len()..];
        let search = search.strip_prefix("procedures/").unwrap_or(search);
        return match search.strip_prefix(FEED) {
            Some(date) => feed(shared, shelf, date, query),
            None => search::search(shared, shelf, search, query),
        };
    }
    if let Some(answer) = shelf("").and_then(|shelf| search::dictionary(shared, shelf, path)) {
        return answer;
    }
    let (path, id) = path.rsplit_once('/').ok_or_else(not_found)?;
    let shelf = shared.world.by_path(path).ok_or_else(not_found)?;
    let doc = shelf.read(|c| c.get(&decode(id))).ok_or_else(not_found)?;
    Ok(json_text(StatusCode::OK, public(shared, &doc)))
}

/// The document as the API shows it.
pub(crate) fn public(shared: &Shared, doc: &Document) -> Bytes {
    let knobs = shared.knobs();
    let text = doc.body.text();
    match &knobs.world.last_modified {
        Some(name) if !knobs.api.last_modified => json::without(&text, name).unwrap_or(text).into(),
        _ => text.into(),
    }
}

/// What a query may say of a list.
pub(crate) struct Paging {
    pub(crate) limit: usize,
    pub(crate) backward: bool,
    pub(crate) from: Option<i64>,
}

impl Paging {
    pub(crate) fn read(shared: &Shared, query: &str) -> Result<Self, Refusal> {
        let most = shared.knobs().api.page_limit;
        let mut paging = Self { limit: most, backward: false, from: None };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "limit" => {
                    let bad = |_| Refusal::new(StatusCode::BAD_REQUEST, "limit is not a number");
                    paging.limit = value.parse::<usize>().map_err(bad)?.clamp(1, most.max(1));
                }
                "backward" => paging.backward = matches!(value, "true" | "1" | "True"),
                "date_modified" => paging.from = Some(search::moment(value)?),
                _ => {}
            }
        }
        Ok(paging)
    }
}

fn feed(shared: &Shared, shelf: &Shelf, date: &str, query: &str) -> Result<Response<Body>, Refusal> {
    let Paging { limit, backward, .. } = Paging::read(shared, query)?;
    let from = search::moment(date)?;
    let docs = shelf.read(|c| c.page(Query { from, backward, limit }));
    Ok(if docs.is_empty() { empty() } else { json_text(StatusCode::OK, array(docs)) })
}

/// Nothing to show.
pub(crate) fn empty() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A JSON array that is written one document at a time.
pub(crate) fn array(docs: Vec<Arc<Document>>) -> Body {
    let parts = docs.into_iter().enumerate().map(|(n, doc)| {
        let mut text = if n == 0 { "[".to_owned() } else { ",".to_owned() };
        doc.body.pieces().for_each(|piece| text.push_str(piece));
        text
    });
    let whole = parts.chain(std::iter::once("]".to_owned()));
    Body::from_stream(stream::iter(whole.map(|text| Ok::<_, Infallible>(Bytes::from(text)))))
}

fn create(shared: &Shared, shelf: &Shelf, body: &[u8]) -> Result<Response<Body>, Refusal> {
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, message);
    let text = std::str::from_utf8(body).map_err(|_| bad("the body is not utf-8"))?;
    let id = json::quote(&format!("{:024x}", rand::rng().random::<u128>() >> 32));
    let text = json::set(text, &[("_id", &id)]).map_err(|error| bad(&error.to_string()))?;
    let knobs = shared.knobs();
    let written =
        shelf.write(|c| c.put(&text, clock::now(), None, &knobs.world)).map_err(|error| bad(&error.to_string()))?;
    let answer = serde_json::json!({ "id": written.id, "acc_token": request_id().replace('-', "") });
    Ok(json_text(StatusCode::CREATED, answer.to_string()))
}

/// Undoes percent encoding.
pub(crate) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let code = (byte == b'%').then(|| {
            let (a, b) = (bytes.clone().next()?, bytes.clone().nth(1)?);
            u8::from_str_radix(&format!("{}{}", char::from(a), char::from(b)), 16).ok()
        });
        if let Some(Some(code)) = code {
            bytes.nth(1);
            out.push(code);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn percent_codes_are_undone() {
        assert_eq!(super::decode("2026-10-05T22%3A53%3A13%2b03:00"), "2026-10-05T22:53:13+03:00");
        assert_eq!(super::decode("100%"), "100%");
        assert_eq!(super::decode("%zz%d0%b0"), "%zzа");
    }
}
