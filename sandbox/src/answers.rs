//! Answers of the application: JSON with a message, and the choice between that and NGINX's page.

use crate::nginx;
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use rand::Rng;

/// A JSON text.
pub(crate) fn json_text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An error of the application.
pub(crate) fn json_error(status: StatusCode, message: &str) -> Response<Body> {
    json_text(status, serde_json::json!({ "message": message }).to_string())
}

/// A request that the application refuses, with the reason it gives.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: &str) -> Self {
        Self(status, message.to_owned())
    }
}

impl From<Refusal> for Response<Body> {
    fn from(Refusal(status, message): Refusal) -> Self {
        json_error(status, &message)
    }
}

/// A failure of this status: NGINX's page for those that NGINX makes, JSON otherwise.
pub(crate) fn status_page(status: u16) -> Response<Body> {
    match status {
        429 | 502 | 503 | 504 => nginx::page(status),
        other => {
            let status = StatusCode::from_u16(other).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json_error(status, status.canonical_reason().unwrap_or("failed"))
        }
    }
}

/// Gives an answer of the application its request id.
pub(crate) fn named(mut response: Response<Body>) -> Response<Body> {
    if let Ok(id) = HeaderValue::from_str(&request_id()) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// A random UUID (version 4).
pub(crate) fn request_id() -> String {
    let n = (rand::rng().random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{n:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn request_ids_are_uuids_of_version_four() {
        let id = super::request_id();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
        assert_ne!(id, super::request_id());
    }
}
