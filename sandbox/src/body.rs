//! A document's text, folded: a run of the sandbox's own filling is kept as a length, so a hundred objects of 7.5 MB cost next
//! to nothing until they are sent, and even then only piece by piece. Any text goes in, the same text comes out.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::{Arc, LazyLock};

/// Filling shorter than this is not worth folding.
const LEAST_FOLD: usize = 16 * 1024;
/// How much of the filling is looked for when a text comes in.
const PROBE: usize = 64;

/// Letters and spaces that do not compress away; repeated as often as needed. A power of two, so pieces are easy to bound.
static TILE: LazyLock<String> = LazyLock::new(|| {
    let mut rng = StdRng::seed_from_u64(7_500_000);
    (0..64 * 1024)
        .map(|_| match rng.random_range(0..32u8) {
            n @ 0..26 => char::from(b'a' + n),
            n @ 26..30 => char::from(b'0' + n - 26),
            _ => ' ',
        })
        .collect()
});

/// Filling of exactly so many bytes (ASCII, nothing to escape).
pub(crate) fn filling(bytes: usize) -> String {
    let mut out = String::with_capacity(bytes);
    while out.len() < bytes {
        out.push_str(&TILE[..(bytes - out.len()).min(TILE.len())]);
    }
    out
}

/// How many bytes of filling the text begins with.
fn run_of_filling(text: &[u8]) -> usize {
    let tile = TILE.as_bytes();
    let whole = text.chunks_exact(tile.len()).take_while(|chunk| *chunk == tile).count() * tile.len();
    whole + text[whole..].iter().zip(tile).take_while(|(a, b)| a == b).count()
}

/// A text with at most one folded run of filling.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    head: Arc<str>,
    fill: usize,
    tail: Arc<str>,
}

impl Body {
    /// Takes a text in, folding the first long run of filling.
    pub(crate) fn new(text: &str) -> Self {
        if text.len() >= LEAST_FOLD
            && let Some(start) = text.find(&TILE[..PROBE])
        {
            let run = run_of_filling(&text.as_bytes()[start..]);
            if run >= LEAST_FOLD {
                return Self { head: text[..start].into(), fill: run, tail: text[start + run..].into() };
            }
        }
        Self { head: text.into(), fill: 0, tail: "".into() }
    }

    /// A text into which so many bytes of filling go at a place.
    pub(crate) fn filled(text: &str, at: usize, fill: usize) -> Self {
        if fill < LEAST_FOLD {
            return Self::new(&format!("{}{}{}", &text[..at], filling(fill), &text[at..]));
        }
        Self { head: text[..at].into(), fill, tail: text[at..].into() }
    }

    /// The length of the whole text in bytes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.fill + self.tail.len()
    }

    /// What it costs to keep.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// The text in pieces of at most the tile's length (the head may be longer).
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &str> {
        let whole = self.fill / TILE.len();
        let rest = self.fill % TILE.len();
        std::iter::once(&*self.head)
            .chain(std::iter::repeat_n(TILE.as_str(), whole))
            .chain(std::iter::once(&TILE[..rest]))
            .chain(std::iter::once(&*self.tail))
            .filter(|piece| !piece.is_empty())
    }

    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::with_capacity(self.len());
        self.pieces().for_each(|piece| out.push_str(piece));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_and_unfolds_to_the_same_text() {
        for size in [0, 1, LEAST_FOLD - 1, LEAST_FOLD, 65_536, 65_537, 1_000_003] {
            let text = format!("{{\"а\":\"{}\"}}", filling(size));
            let body = Body::new(&text);
            assert_eq!(body.len(), text.len());
            assert_eq!(body.text(), text);
            assert_eq!(Body::filled("{\"а\":\"\"}", 7, size).text(), text);
            assert!(size < LEAST_FOLD || body.kept_bytes() < 100, "{size} bytes were kept");
        }
        assert_eq!(Body::new("").pieces().count(), 0);
    }
}
