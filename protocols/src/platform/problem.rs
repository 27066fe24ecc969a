//! The body of every error answer: RFC 9457 with a stable `code`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The media type of [`ProblemDetails`].
pub const MEDIA_TYPE: &str = "application/problem+json";
/// What `type` starts with; the code follows. A URN: it identifies, nobody fetches it.
pub const TYPE_PREFIX: &str = "urn:dzvin:problem:";

/// One error, for programs (`code`, `status`) and for people (`title`, `detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemDetails {
    /// [`TYPE_PREFIX`] and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this status.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time; never a secret.
    pub detail: String,
    /// Stable: clients branch on it. `[a-z][a-z0-9_]*`.
    pub code: Cow<'static, str>,
    /// The revision that is there, where another one was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Which of several things that were asked for is meant, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
    /// What is wrong with single values of a document: [`ProblemValue`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemValue>,
}

/// What is wrong with one value of a document, as RFC 9457 lists such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemValue {
    /// Where: a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// For people; never the value itself.
    pub detail: String,
    /// The word of the JSON Schema that it breaks.
    pub keyword: String,
}

impl ProblemDetails {
    /// A problem whose `type` follows from its code.
    #[must_use]
    pub fn new(status: u16, title: &'static str, code: &'static str, detail: String) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{code}"),
            title: title.into(),
            status,
            detail,
            code: code.into(),
            revision: None,
            item: None,
            errors: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_the_rfc_names_its_members() {
        let problem = ProblemDetails::new(404, "Not Found", "unknown_kind", "no kind \"a\"".to_owned());
        let json = serde_json::to_string(&problem).expect("plain fields");
        assert_eq!(
            json,
            r#"{"type":"urn:dzvin:problem:unknown_kind","title":"Not Found","status":404,"detail":"no kind \"a\"","code":"unknown_kind"}"#
        );
        assert_eq!(serde_json::from_str::<ProblemDetails>(&json).expect("own text"), problem);
    }
}
