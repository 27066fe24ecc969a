//! Answers of the central database over HTTP: its own JSON, its proxy's HTML, and whatever else stands between.

use dzvin_protocols::cdb::{CdbError, error_of, page_of};

use super::{mirror::dialects, options};

/// Longest text that is shown of an answer, with its status before it.
const MAX_SAID: usize = 310;
/// Most raw bytes that are kept of one broken object.
const MAX_RAW: usize = 64 * 1024;

/// Bytes one and two are the status, three chooses the dialect, the rest is the body. An error is short and says what the rules
/// of repeating need; of a page every object is counted once, and it tells where the walk goes on.
pub fn answers(data: &[u8]) {
    let ([high, low, choice], body) = options::<3>(data);
    let status = u16::from_be_bytes([high, low]);
    let said = match error_of(status, body) {
        CdbError::Forbidden(said) => {
            assert!(matches!(status, 401 | 403));
            said
        }
        CdbError::TooMany => {
            assert_eq!(status, 429);
            String::new()
        }
        CdbError::Failed(said) => {
            assert!(matches!(status, 408 | 500..=599));
            said
        }
        CdbError::Refused { status: of, message } => {
            assert_eq!(of, status);
            message
        }
        CdbError::Unusable(said) => unreachable!("an error's body is never unusable: {said}"),
    };
    assert!(said.chars().count() <= MAX_SAID, "{said}");
    let dialects = dialects();
    let dialect = &dialects[usize::from(choice) % dialects.len()];
    let Ok(page) = page_of(body, dialect) else { return };
    assert_eq!(page.docs.len() + page.aside.len(), page.len);
    for doc in &page.docs {
        assert!(!doc.version.is_empty() && !doc.beside);
        let moment = dialect.paths.moment_of(&doc.doc);
        assert!(moment <= page.newest, "{moment:?} {:?}", page.newest);
    }
    for aside in &page.aside {
        assert!(!aside.reason.is_empty() && aside.raw.len() <= MAX_RAW);
    }
}
