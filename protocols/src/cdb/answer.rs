//! What an answer means: the upstream's own errors are JSON, its proxy's are HTML, and any of them may be neither.

use serde_json::value::RawValue;

use crate::{
    entities::Fields,
    mirror::{Dialect, Quarantined, VersionedDoc, mask_secrets},
    platform::EntityId,
};

/// Longest text that is kept of what the upstream said.
const MAX_SAID: usize = 300;
/// Most raw bytes of a broken object that are kept.
const MAX_RAW: usize = 64 * 1024;

/// One page of the HTTP feed.
#[derive(Debug, Clone, Default)]
pub struct FeedPage {
    /// What can be stored.
    pub docs: Vec<VersionedDoc>,
    /// What cannot.
    pub aside: Vec<Quarantined>,
    /// How many objects the upstream sent: only this tells a full page from the last one.
    pub len: usize,
    /// The newest moment by which the feed is ordered, of all of them: only this tells where the walk goes on when none can be
    /// stored. `None` when no object has one.
    pub newest: Option<String>,
}

/// What the upstream answered when it did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CdbError {
    /// 403: no automatic repeat with the same token.
    #[error("forbidden by the upstream: {0}")]
    Forbidden(String),
    /// 400 and other refusals: the same request will be refused again.
    #[error("refused by the upstream with {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, shortened.
        message: String,
    },
    /// 429: wait at least a second, then longer.
    #[error("too many requests")]
    TooMany,
    /// 5xx, a timeout or no connection: wait and try at most a few times.
    #[error("the upstream failed: {0}")]
    Failed(String),
    /// The answer is above the limit or not what the protocol says.
    #[error("the upstream's answer is unusable: {0}")]
    Unusable(String),
}

/// The error that a status stands for.
#[must_use]
pub fn error_of(status: u16, body: &[u8]) -> CdbError {
    let message = said(body);
    match status {
        401 | 403 => CdbError::Forbidden(message),
        429 => CdbError::TooMany,
        408 | 500..=599 => CdbError::Failed(format!("{status} {message}")),
        _ => CdbError::Refused { status, message },
    }
}

/// What a body says, for people: `message` of a JSON object, else the text without tags, shortened, secrets masked.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|value| {
        let message = value.get("message")?;
        Some(message.as_str().map_or_else(|| message.to_string(), str::to_owned))
    });
    let plain = message.unwrap_or_else(|| without_tags(&text));
    let masked = mask_secrets(&plain.split_whitespace().collect::<Vec<_>>().join(" "));
    masked.chars().take(MAX_SAID).collect()
}

fn without_tags(text: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            _ => return !inside,
        }
        false
    };
    text.chars().filter(keep).collect()
}

/// A page of the feed: a bare array, or an object with `data`. One broken object never hides the others.
///
/// # Errors
/// [`CdbError::Unusable`] when the body is neither.
pub fn page_of(body: &[u8], dialect: &Dialect) -> Result<FeedPage, CdbError> {
    let unusable = |error: serde_json::Error| CdbError::Unusable(format!("the feed is not an array: {error}"));
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        data: Vec<&'a RawValue>,
    }
    let bare = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let rows: Vec<&RawValue> = if bare {
        serde_json::from_slice(body).map_err(unusable)?
    } else {
        serde_json::from_slice::<Envelope<'_>>(body).map_err(unusable)?.data
    };
    let mut page = FeedPage { len: rows.len(), ..FeedPage::default() };
    for raw in rows {
        page.newest = page.newest.max(dialect.paths.moment_of(raw));
        let aside = |reason, detail, id: Option<EntityId>| {
            let bytes = raw.get().as_bytes();
            Quarantined { reason, detail, id, raw: bytes[..bytes.len().min(MAX_RAW)].to_vec() }
        };
        match dialect.paths.id_of(&Fields::of(raw.get())) {
            None => page.aside.push(aside("no_id", "no id in an object of the feed".into(), None)),
            Some(id) => match dialect.document(id, raw) {
                Ok(doc) => page.docs.push(doc),
                Err(fault) => page.aside.push(aside(fault.reason, fault.detail, fault.id)),
            },
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statuses_have_their_rules() {
        let html = b"<html><head><title>429 Too Many Requests</title></head><body>nginx</body></html>";
        assert!(matches!(error_of(429, html), CdbError::TooMany));
        assert!(
            matches!(error_of(403, b"{\"message\":\"no right\"}"), CdbError::Forbidden(text) if text == "no right")
        );
        assert!(matches!(error_of(502, html), CdbError::Failed(text) if text == "502 429 Too Many Requestsnginx"));
        assert!(
            matches!(error_of(422, br#"{"message":{"a":[1]}}"#), CdbError::Refused { status: 422, message } if message == r#"{"a":[1]}"#)
        );
        assert!(matches!(error_of(302, b""), CdbError::Refused { status: 302, .. }));
    }

    #[test]
    fn one_broken_object_hides_no_other() {
        let body = br#" [{"_id":"a","dateModified":"2024-01-01T00:00:00Z"},{"x":1},7,{"_id":"b","t":"\u0000","dateModified":"2024-01-02T00:00:00Z"}]"#;
        let page = page_of(body, &Dialect::default()).expect("a page");
        assert_eq!((page.len, page.docs.len()), (4, 1));
        assert_eq!(page.newest.as_deref(), Some("2024-01-02T00:00:00.000000Z"), "of the broken ones too");
        assert_eq!(page.aside.iter().map(|it| it.reason).collect::<Vec<_>>(), ["no_id", "no_id", "bad_text"]);
        let wrapped = page_of(
            br#"{"data":[{"id":"a","dateModified":"2024-01-01T00:00:00Z"}],"next_page":{}}"#,
            &Dialect::default(),
        );
        assert_eq!(wrapped.expect("a page").docs.len(), 1);
    }

    proptest! {
        #[test]
        fn hostile_bodies_are_values(status: u16, body: Vec<u8>, text in "[\\[{<>\"a:1,}\\]]{0,40}") {
            let _ = (error_of(status, &body), page_of(&body, &Dialect::default()), page_of(text.as_bytes(), &Dialect::default()));
            prop_assert!(said(text.as_bytes()).chars().count() <= MAX_SAID);
        }
    }
}
