//! JSON Pointer (RFC 6901).

use crate::entities::MAX_DEPTH;

/// Most of a path that is shown in an error.
const SHOWN: usize = 100;

/// A place in a document: names and places in arrays, from the outside in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `""` (the whole document) or `/step/step`, where `~1` is a slash and `~0` a tilde; `None` when it is something else, or
    /// deeper than documents may be.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let steps: Vec<String> = text.strip_prefix('/')?.split('/').map(unescape).collect::<Option<_>>()?;
        (steps.len() <= MAX_DEPTH).then_some(Self(steps))
    }

    /// Its steps as they read.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Whether it leads to a place inside of the other's.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.len() > other.0.len() && self.0.starts_with(&other.0)
    }

    pub(super) fn shown(&self) -> String {
        let escaped = self.0.iter().map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1")));
        shown(&escaped.collect::<String>())
    }
}

pub(super) fn shown(path: &str) -> String {
    path.chars().take(SHOWN).collect()
}

/// `~1` is a slash, `~0` a tilde, and nothing else is escaped.
pub(in crate::entities) fn unescape(step: &str) -> Option<String> {
    let mut parts = step.split('~');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        out.push(match part.bytes().next()? {
            b'0' => '~',
            b'1' => '/',
            _ => return None,
        });
        out.push_str(part.get(1..)?);
    }
    Some(out)
}

/// A place in an array of so many items, as the standard writes it: digits without a leading zero.
pub(super) fn place(step: &str, len: usize) -> Option<usize> {
    let plain = step == "0" || (!step.starts_with('0') && step.bytes().all(|byte| byte.is_ascii_digit()));
    step.parse().ok().filter(|place| plain && *place < len)
}
