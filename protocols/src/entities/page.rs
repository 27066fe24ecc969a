//! Where a page of a list ended: `below.offset.epoch`, opaque to clients.
//!
//! A cursor comes back from outside, so anything may be in it. What reads writes back to the same text; nothing of it is
//! trusted beyond its form: it names a place and the first page's position, and grants nothing.

use std::fmt;

use crate::channels::{Epoch, Position};

/// Longest epoch that is read: ours have 16 characters.
pub const MAX_EPOCH: usize = 64;
/// Longest cursor: two numbers of twenty digits, an epoch, two dots.
pub const MAX_CURSOR: usize = 20 + 20 + MAX_EPOCH + 2;

/// Where a page ended, and the position of the first page, which counts over all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCursor {
    /// The next page has offsets below this one.
    pub below: u64,
    /// Read in the snapshot of the first page.
    pub position: Position,
}

impl PageCursor {
    /// Reads a cursor; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_CURSOR {
            return None;
        }
        let mut parts = text.splitn(3, '.');
        let (below, offset, epoch) = (number(parts.next()?)?, number(parts.next()?)?, parts.next()?);
        let sound = !epoch.is_empty() && epoch.len() <= MAX_EPOCH && epoch.bytes().all(|b| b.is_ascii_alphanumeric());
        sound.then(|| Self { below, position: Position { epoch: Epoch::new(epoch), offset } })
    }
}

/// Digits as they are written back: no sign, no leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.below, self.position.offset, self.position.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let cursor = PageCursor { below: 7, position: Position { epoch: Epoch::new("00ff"), offset: u64::MAX } };
        assert_eq!(PageCursor::parse(&cursor.to_string()), Some(cursor));
        for bad in [
            "",
            "1",
            "1.2",
            "1.2.",
            "-1.2.a",
            "+1.2.a",
            "01.2.a",
            "1.2.a\"",
            "1.2.a.b",
            "x.y.z",
            "99999999999999999999.1.a",
            &format!("1.2.{}", "a".repeat(MAX_EPOCH + 1)),
        ] {
            assert_eq!(PageCursor::parse(bad), None, "{bad}");
        }
    }
}
