//! Answers made smaller, by brotli or gzip, for those who take it.
//!
//! Invariants: what has to be read at once says `no-transform` and passes as it is; what is large and in one piece passes as well, for
//! compressing it would keep a thread of the runtime from everybody else; an entity tag of what was compressed is weak, for the bytes
//! are others (RFC 9110, 8.8.1). Before a proxy that compresses nothing is lost: it finds it done.

use axum::{
    Router,
    body::HttpBody,
    http::{HeaderMap, HeaderValue, Response, header},
    middleware::map_response,
};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, Predicate},
};

use super::headers::media_type;

/// Below it the head is most of an answer.
const LEAST: u64 = 1024;
/// Above it, in one piece, it would take ten milliseconds and more of a thread.
const MOST: u64 = 1024 * 1024;
/// What gets smaller: texts that we send. Pictures and recordings are compressed already.
const TEXTS: [&str; 9] = [
    "application/json",
    "application/x-ndjson",
    "application/xml",
    "image/svg+xml",
    "text/css",
    "text/csv",
    "text/html",
    "text/javascript",
    "text/plain",
];

#[derive(Debug, Clone, Copy)]
struct Worthwhile;

impl Predicate for Worthwhile {
    fn should_compress<B: HttpBody>(&self, response: &Response<B>) -> bool {
        let size = response.body().size_hint();
        // A stream that does not know its end comes in small pieces.
        let fits = size.upper().map_or(size.lower() == 0, |most| (LEAST..=MOST).contains(&most));
        fits && is_text(response.headers()) && !forbids(response.headers())
    }
}

fn is_text(headers: &HeaderMap) -> bool {
    TEXTS.contains(&media_type(headers).as_str())
}

fn forbids(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(',').any(|word| word.trim() == "no-transform")
}

/// Compresses what the router answers.
pub(super) fn compress(router: Router) -> Router {
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(Worthwhile);
    router.layer(layer).layer(map_response(weaken))
}

async fn weaken<B>(mut response: Response<B>) -> Response<B> {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        weaken_tag(response.headers_mut());
    }
    response
}

/// Makes an entity tag weak: what it stands on is the same, its bytes are not.
pub(super) fn weaken_tag(headers: &mut HeaderMap) {
    if let Some(tag) = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::{
        body::{Body, to_bytes},
        http::Request,
        routing::get,
    };
    use tower::ServiceExt;

    use super::*;

    /// What is answered with: its head and body.
    async fn ask(kind: &'static str, more: &'static str, size: usize, takes: &str) -> (HeaderMap, Vec<u8>) {
        let answer = move || async move {
            let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, more), (header::ETAG, "\"7\"")];
            (headers, "я".repeat(size / 2))
        };
        let router = compress(Router::new().route("/", get(answer)));
        let request = Request::get("/").header(header::ACCEPT_ENCODING, takes).body(Body::empty()).expect("request");
        let (head, body) = router.oneshot(request).await.expect("infallible").into_parts();
        (head.headers, to_bytes(body, usize::MAX).await.expect("body").to_vec())
    }

    #[tokio::test]
    async fn texts_get_smaller_and_come_back() {
        let (headers, body) = ask("application/json", "no-store", 10_000, "gzip").await;
        assert_eq!(
            (&headers[header::CONTENT_ENCODING], &headers[header::ETAG]),
            (&"gzip".parse().expect("value"), &"W/\"7\"".parse().expect("value"))
        );
        assert!(headers[header::VARY].to_str().expect("text").contains("accept-encoding") && body.len() < 1000);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, "я".repeat(5_000));
        let (headers, _) = ask("text/csv; charset=utf-8", "no-store", 10_000, "br, gzip;q=0.5").await;
        assert_eq!(headers[header::CONTENT_ENCODING], "br");
    }

    #[tokio::test]
    async fn everything_else_passes_as_it_is() {
        for (kind, more, size, takes) in [
            ("application/json", "no-store", 10_000, "identity"),
            ("application/json", "no-store", 1_000, "gzip"),
            ("application/json", "no-store", 2 * 1024 * 1024, "gzip"),
            ("application/x-ndjson", "private, no-transform", 10_000, "gzip"),
            ("image/png", "no-store", 10_000, "gzip, br"),
        ] {
            let (headers, body) = ask(kind, more, size, takes).await;
            assert!(
                !headers.contains_key(header::CONTENT_ENCODING) && body.len() == size,
                "{kind} {more} {size} {takes}"
            );
            assert_eq!(headers[header::ETAG], "\"7\"");
        }
    }
}
