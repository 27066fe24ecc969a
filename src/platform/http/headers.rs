//! Headers that several rooms read and write.

use axum::http::{HeaderMap, HeaderName, header};

/// Under what a request may be repeated.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` on the answer to a request that was repeated.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// From where a subscriber of what was downloaded goes on: `EPOCH.OFFSET`.
pub const DZVIN_POSITION: HeaderName = HeaderName::from_static("dzvin-position");

/// The media type of a body, in lower case and without its parameters; empty when nobody says.
pub fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
