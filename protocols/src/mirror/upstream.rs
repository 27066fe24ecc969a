//! How we say who we are, and where the same collection is over HTTP.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the token is carried, on the WebSocket handshake and over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The header.
    pub header: String,
    /// What stands before the token, with its space: `""` (the known upstream) or `"Bearer "`.
    pub scheme: String,
    /// More headers for every request.
    pub headers: BTreeMap<String, String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { header: "Authorization".into(), scheme: String::new(), headers: BTreeMap::new() }
    }
}

/// Paths under the API's address, which ends before `/api`. `{id}`, `{since}` and `{limit}` are replaced, percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpPaths {
    /// One object.
    pub object: String,
    /// The feed: at or after a moment, ascending.
    pub feed: String,
    /// Whether the token is sent. Both are public reads, but limits and views may differ for a known platform.
    pub authorise: bool,
}

impl Default for HttpPaths {
    fn default() -> Self {
        Self {
            object: "/api/procedures/{id}".into(),
            feed: "/api/search/byDateModified/{since}?limit={limit}".into(),
            authorise: true,
        }
    }
}

/// A text as it may stand in a path or a query: everything but unreserved characters is percent-encoded.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
