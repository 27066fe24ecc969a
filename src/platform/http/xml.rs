//! Requests and answers in XML, for those who ask for it: JSON in the form of XPath 3.1 (`dzvin_protocols::platform::xml`). Handlers know
//! of JSON alone.
//!
//! Invariants: a browser that would rather have a page is not given XML; an entity tag of XML is weak, for the bytes are others; what is
//! large is turned on a thread that may block, a few at a time. Streams and files stay what they are.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dzvin_protocols::platform::{
    problem::MEDIA_TYPE,
    xml::{XML_MEDIA_TYPE, from_xml, to_xml},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{AnswerRoom, HttpMetrics, Problem, compress::weaken_tag, headers::media_type};
use crate::platform::config::Http;

/// Up to here turning takes less than a millisecond: it is done where one is.
const SMALL: usize = 64 * 1024;
/// Largest answer that is turned: the largest document of an upstream, with what stands around it.
const MOST: usize = 8 * 1024 * 1024;
/// Large ones that are turned at once: one for each core of a small machine.
const AT_ONCE: usize = 2;
/// How much larger a text may become: short names and values, each with its element.
const GROWTH: usize = 3;

/// Turns requests and answers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Xml {
    turns: Arc<Semaphore>,
    /// Of its own: the answer that is turned holds room already, and must not wait for itself.
    room: AnswerRoom,
}

/// Whether XML is wanted: it is named, and neither JSON nor a page is named as at least as good.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut xml, mut other) = (0.0_f32, 0.0_f32);
    for range in all.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        match kind.as_str() {
            XML_MEDIA_TYPE | "text/xml" => xml = xml.max(weight),
            "application/json" | "text/html" => other = other.max(weight),
            _ => {}
        }
    }
    xml > other
}

impl Xml {
    /// As much room as other answers have.
    pub(super) fn new(config: &Http, metrics: HttpMetrics) -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), room: AnswerRoom::new(config, metrics) }
    }

    /// The request with its body in JSON, if it was in XML.
    ///
    /// # Errors
    /// 400 `bad_xml`, 413 `body_too_large`.
    pub(super) async fn request(&self, request: Request, max_body: usize) -> Result<Request, Problem> {
        let kind = media_type(request.headers());
        if kind != XML_MEDIA_TYPE && kind != "text/xml" {
            return Ok(request);
        }
        let (mut parts, body) = request.into_parts();
        let too_large = |_| {
            let detail = "the request's body is above the limit, or ended early";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
        };
        let xml = to_bytes(body, max_body).await.map_err(too_large)?;
        let size = xml.len();
        let turn = move || {
            let text = std::str::from_utf8(&xml).map_err(|error| error.to_string())?;
            from_xml(text).map_err(|error| error.to_string())
        };
        let json = self.turn(size, turn).await?.map_err(|error| Problem::bad_request("bad_xml", error))?;
        // Of the two patches an array is the one that says step by step what is done.
        let kind = match (&parts.method, json.starts_with('[')) {
            (&Method::PATCH, true) => "application/json-patch+json",
            (&Method::PATCH, false) => "application/merge-patch+json",
            _ => "application/json",
        };
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
        Ok(Request::from_parts(parts, Body::from(json)))
    }

    /// The answer in XML, if it is in JSON.
    pub(super) async fn response(&self, response: Response) -> Response {
        let kind = media_type(response.headers());
        let size = response.body().size_hint().upper();
        if kind != "application/json" && kind != MEDIA_TYPE {
            return response;
        }
        let Some(size) = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MOST) else {
            let detail = "the answer is too large to be told in XML; ask for JSON";
            return Problem::new(StatusCode::NOT_ACCEPTABLE, "too_large_for_xml", detail).into_response();
        };
        let (mut parts, body) = response.into_parts();
        let turned = async {
            let room = self.room.take(GROWTH * size).await?;
            let json = to_bytes(body, MOST).await.map_err(Problem::internal)?;
            let xml = self.turn(size, move || xml_of(&json)).await?;
            Ok(room.lend(xml.ok_or_else(|| Problem::internal("an answer is no JSON"))?))
        };
        let xml = match turned.await {
            Ok(xml) => xml,
            Err(problem) => return Problem::into_response(problem),
        };
        parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(xml.len()));
        parts.headers.append(header::VARY, HeaderValue::from_static("accept"));
        weaken_tag(&mut parts.headers);
        Response::from_parts(parts, Body::from(xml))
    }

    /// Turns something of so many bytes.
    async fn turn<T: Send + 'static>(
        &self,
        size: usize,
        how: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        if size <= SMALL {
            return Ok(how());
        }
        let _turn = self.turns.acquire().await.map_err(Problem::internal)?;
        spawn_blocking(how).await.map_err(Problem::internal)
    }
}

fn xml_of(json: &Bytes) -> Option<String> {
    to_xml(std::str::from_utf8(json).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_for_who_would_rather_have_it() {
        for (accept, expected) in [
            ("application/xml", true),
            ("text/xml;q=0.9, */*;q=0.8", true),
            ("application/xml;q=0.5, application/json", false),
            ("application/json;q=0.5, application/xml;q=0.6", true),
            ("application/json, application/xml", false),
            // A browser that follows a link.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("*/*", false),
            ("application/xml;q=0", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wanted(&headers), expected, "{accept}");
        }
    }
}
