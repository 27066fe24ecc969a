//! Which pages may use the hub: exact origins and patterns of them.
//!
//! A `*` stands for one or more characters of a host or a port, never for a slash, a colon or an @: a pattern cannot be
//! stretched over the end of its host.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};

use super::Problem;

/// Longest origin: a scheme, a host name of 253 characters, a port.
const MAX_ORIGIN: usize = 300;

/// The origins whose pages may connect. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<[Pattern]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    /// What stands between the stars, in lower case; one part is an exact origin.
    Parts(Vec<String>),
}

impl Origins {
    /// From the configuration: `https://crm.example`, `https://*.example`, `http://localhost:*`, `*`.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        let parts = |text: &String| text.to_ascii_lowercase().split('*').map(str::to_owned).collect();
        Self(patterns.iter().map(|text| if text == "*" { Pattern::Any } else { Pattern::Parts(parts(text)) }).collect())
    }

    /// Whether no other origin than the hub's own may connect.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every origin may.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.contains(&Pattern::Any)
    }

    /// Whether this one may.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        if origin.len() > MAX_ORIGIN {
            return self.is_any();
        }
        let origin = origin.to_ascii_lowercase();
        self.0.iter().any(|pattern| match pattern {
            Pattern::Any => true,
            Pattern::Parts(parts) => fits(&origin, parts),
        })
    }

    /// A page of another site must not use the tokens that a browser holds. Clients that are no browsers send no origin.
    ///
    /// # Errors
    /// 403 `origin_not_allowed`.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = origin
            .split_once("://")
            .is_some_and(|(_, authority)| !host.is_empty() && authority.eq_ignore_ascii_case(host));
        if own || self.allows(origin) {
            return Ok(());
        }
        let detail = "pages of this origin may not connect; add it to http.allowed_origins";
        Err(Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail))
    }
}

/// Whether a configured origin is one: a scheme, then a host and perhaps a port, stars only behind the scheme.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return text == "*" };
    let scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let authority = !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ', ',']);
    scheme && authority && text.len() <= MAX_ORIGIN && !text.contains("**")
}

/// Each part at its first place: where that does not fit, a later one does not either, for its star would only be longer.
fn fits(text: &str, parts: &[String]) -> bool {
    let [first, middle @ .., last] = parts else { return parts.first().is_some_and(|only| only == text) };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for part in middle {
        let Some(star) = rest.chars().next() else { return false };
        let Some(at) = rest[star.len_utf8()..].find(part.as_str()).map(|at| at + star.len_utf8()) else { return false };
        if !is_star(&rest[..at]) {
            return false;
        }
        rest = &rest[at + part.len()..];
    }
    rest.strip_suffix(last.as_str()).is_some_and(is_star)
}

/// What a star may stand for.
fn is_star(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', ':', '@'])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        assert!(is_origin(pattern), "{pattern}");
        Origins::new(&[pattern.to_owned()]).allows(origin)
    }

    #[test]
    fn patterns_are_those_that_people_write() {
        for (pattern, origin, allowed) in [
            ("https://desk.example", "https://desk.example", true),
            ("https://Desk.example", "https://dESK.example", true),
            ("https://desk.example", "http://desk.example", false),
            ("https://desk.example", "https://desk.example:8443", false),
            ("https://desk.example", "https://desk.example.evil.example", false),
            ("https://*.example.org", "https://a.example.org", true),
            ("https://*.example.org", "https://a.b.example.org", true),
            ("https://*.example.org", "https://example.org", false),
            ("https://*.example.org", "https://.example.org", false),
            ("https://*.example.org", "https://evilexample.org", false),
            ("https://*.example.org", "https://a.example.org.evil.example", false),
            ("https://*.example.org", "http://a.example.org", false),
            ("https://*.example.org", "https://a.example.org:8443", false),
            ("https://*.example.org", "https://evil.example/.example.org", false),
            ("https://*.example.org", "https://evil.example:1.example.org", false),
            ("https://*.example.org", "https://evil.example@a.example.org", false),
            ("https://*.example.org:*", "https://a.example.org:8443", true),
            ("https://preview-*.example.org", "https://preview-17.example.org", true),
            ("https://preview-*.example.org", "https://production.example.org", false),
            ("https://*.*.example.org", "https://a.b.example.org", true),
            ("https://*.*.example.org", "https://a.example.org", false),
            ("http://localhost:*", "http://localhost:5173", true),
            ("http://localhost:*", "http://localhost", false),
            ("http://localhost:*", "http://localhost:80/x", false),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("*", "https://anybody.example", true),
            ("*", "null", true),
            ("https://*.example.org", "null", false),
            ("https://*.example.org", "", false),
        ] {
            assert_eq!(allows(pattern, origin), allowed, "{pattern} {origin}");
        }
        assert!(!Origins::default().allows("https://a.example"));
    }

    #[test]
    fn only_known_origins_may_connect() {
        let origins = Origins::new(&["https://desk.example".to_owned()]);
        for (origin, allowed) in [
            (None, true),
            (Some("http://hub.example:8480"), true),
            (Some("https://desk.example"), true),
            (Some("https://evil.example"), false),
            (Some("null"), false),
            (Some(""), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("hub.example:8480"));
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            assert_eq!(origins.check(&headers).is_ok(), allowed, "{origin:?}");
        }
        // Nobody's own origin.
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://"));
        assert!(origins.check(&headers).is_err());
    }

    #[test]
    fn hostile_origins_cost_little() {
        let pattern = format!("https://{}b", "*a".repeat(100));
        let long = format!("https://{}", "a".repeat(30_000));
        assert!(!allows(&pattern, &long));
        assert!(!allows(&pattern, &long[..MAX_ORIGIN]));
    }

    #[test]
    fn what_is_no_origin_is_told() {
        for bad in ["", "example.org", "https://", "https://a/b", "https://u@a", "*://a", "https://**.a", "https://a b"]
        {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
