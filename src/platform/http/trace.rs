//! Which request this is: an id for people, a W3C trace context for machines.

use std::{fmt, sync::Arc};

use axum::http::{HeaderMap, HeaderName};

/// The id that comes from a proxy or client, or is made here; the answer carries it.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest foreign request id: a UUID is 36.
const MAX_REQUEST_ID: usize = 64;

/// The trace of one request; an extension of the request and a field of its span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hex digits: the whole way through all systems.
    pub trace_id: u128,
    /// 16 hex digits: our part of it.
    pub span_id: u64,
    /// Bit 0: the caller records this trace.
    pub flags: u8,
    /// The request's id.
    pub request_id: Arc<str>,
}

impl TraceContext {
    /// Goes on with the caller's trace, or starts one when there is none or it is malformed.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(TRACEPARENT).and_then(|value| parse(value.to_str().ok()?));
        // Zero means "none" in the format.
        let (trace_id, flags) = given.unwrap_or_else(|| (rand::random::<u128>().max(1), 0));
        let span_id = rand::random::<u64>().max(1);
        let request_id = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(|id| is_plain(id));
        let request_id = request_id.map_or_else(|| format!("{span_id:016x}").into(), Arc::from);
        Self { trace_id, span_id, flags, request_id }
    }

    /// The header for what this request leads to: calls, and what is published.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `00-{trace}-{parent}-{flags}`; of a later version the same leading fields are read, as the standard asks.
fn parse(text: &str) -> Option<(u128, u8)> {
    let field = |from: usize, to: usize| {
        let hex = text.get(from..to)?;
        hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)).then_some(hex)
    };
    let dashes = [2, 35, 52].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    let version = field(0, 2)?;
    let whole = match version {
        "ff" => false,
        "00" => text.len() == 55,
        _ => text.len() == 55 || text.as_bytes().get(55) == Some(&b'-'),
    };
    let trace = u128::from_str_radix(field(3, 35)?, 16).ok()?;
    let parent = u64::from_str_radix(field(36, 52)?, 16).ok()?;
    let flags = u8::from_str_radix(field(53, 55)?, 16).ok()?;
    (dashes && whole && trace != 0 && parent != 0).then_some((trace, flags & 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(traceparent: &str, request_id: &str) -> TraceContext {
        let mut headers = HeaderMap::new();
        headers.extend([
            (TRACEPARENT, traceparent.parse().expect("ascii")),
            (REQUEST_ID, request_id.parse().expect("ascii")),
        ]);
        TraceContext::of(&headers)
    }

    #[test]
    fn a_callers_trace_goes_on() {
        let trace = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "abc-1");
        assert_eq!(trace.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_ne!(trace.span_id, 0xb7ad_6b71_6920_3331, "our part has an id of its own");
        assert_eq!((trace.flags, &*trace.request_id), (1, "abc-1"));
        assert!(trace.traceparent().starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert!(parse(&trace.traceparent()).is_some());
    }

    #[test]
    fn what_is_malformed_starts_a_new_trace() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for bad in [
            "",
            &good[..54],
            &format!("{good}-x"),
            &good.to_uppercase(),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c+b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert!(parse(&format!("01{}-later", &good[2..])).is_some());
        for bad in ["a b", "a\u{7f}", &"a".repeat(65)].iter().filter_map(|id| id.parse().ok()) {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, bad);
            assert_eq!(TraceContext::of(&headers).request_id.len(), 16);
        }
    }

    proptest! {
        #[test]
        fn hostile_headers_never_panic(text in "\\PC{0,80}|[0-9a-f-]{50,60}") {
            if let Some((trace, flags)) = parse(&text) {
                prop_assert!(trace != 0 && flags <= 1);
            }
        }
    }
}
