//! Making a delta: what both ends share is found first, the middle by a rolling hash over blocks of the base.

use super::{DIGITS, checksum};

/// Bytes of a block of the base: the shortest run that is looked for.
const BLOCK: usize = 16;
/// Blocks of equal hash that are tried: a base of one repeated byte must not cost the square of its length.
const PROBES: usize = 8;
/// Multiplier of the rolling hash, odd.
const FACTOR: u32 = 0x9e37_79b1;
/// `FACTOR` to the power `BLOCK - 1`, the weight of the byte that leaves the window.
const LEAVING: u32 = FACTOR.wrapping_pow(BLOCK as u32 - 1);
/// No block.
const NONE: u32 = u32::MAX;

/// The difference of the target from the base. When both are UTF-8 it is UTF-8 as well: its literals begin and end
/// between characters.
#[must_use]
pub fn create(base: &[u8], target: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(base).is_ok() && std::str::from_utf8(target).is_ok();
    let mut delta = Delta { out: Vec::with_capacity(64), base, target, text, done: 0 };
    delta.number(target.len());
    delta.out.push(b'\n');
    let prefix = common(base, target);
    delta.copy(Match { from: 0, to: 0, len: prefix });
    let suffix = common_back(&base[prefix..], &target[prefix..]);
    let end = target.len() - suffix;
    if end - delta.done >= BLOCK && base.len() >= BLOCK && u32::try_from(base.len()).is_ok() {
        delta.middle(end);
    }
    delta.copy(Match { from: base.len() - suffix, to: end, len: suffix });
    delta.literal(target.len());
    delta.number(checksum(target) as usize);
    delta.out.push(b';');
    delta.out
}

/// The delta when it is shorter than the target; `None` says that the target itself is the better message.
#[must_use]
pub fn shorter(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    Some(create(base, target)).filter(|delta| delta.len() < target.len())
}

/// A run that base and target share.
#[derive(Clone, Copy)]
struct Match {
    /// Its start in the base.
    from: usize,
    /// Its start in the target.
    to: usize,
    len: usize,
}

struct Delta<'a> {
    out: Vec<u8>,
    base: &'a [u8],
    target: &'a [u8],
    /// Both are UTF-8.
    text: bool,
    /// Everything of the target before this has been written.
    done: usize,
}

impl Delta<'_> {
    /// Looks for blocks of the base in the target before `end`.
    fn middle(&mut self, end: usize) {
        let blocks = Blocks::of(self.base);
        let mut at = self.done;
        let mut hash = None;
        while at + BLOCK <= end {
            let window = &self.target[at..at + BLOCK];
            let current = hash.unwrap_or_else(|| hash_of(window));
            if let Some(found) = self.best(&blocks, current, at, end)
                && self.copy(found)
            {
                at = self.done.max(found.to + found.len);
                hash = None;
                continue;
            }
            hash = self.target.get(at + BLOCK).map(|enters| {
                let rest = current.wrapping_sub(u32::from(window[0]).wrapping_mul(LEAVING));
                rest.wrapping_mul(FACTOR).wrapping_add(u32::from(*enters))
            });
            at += 1;
        }
    }

    /// The longest match that holds the window at `at`, of the few blocks that may be it.
    fn best(&self, blocks: &Blocks, hash: u32, at: usize, end: usize) -> Option<Match> {
        let mut best: Option<Match> = None;
        for from in blocks.of_hash(hash).take(PROBES) {
            if self.base[from..from + BLOCK] != self.target[at..at + BLOCK] {
                continue;
            }
            let back = common_back(&self.base[..from], &self.target[self.done..at]);
            let on = common(&self.base[from + BLOCK..], &self.target[at + BLOCK..end]);
            let found = Match { from: from - back, to: at - back, len: back + BLOCK + on };
            if best.is_none_or(|best| found.len > best.len) {
                best = Some(found);
            }
        }
        best
    }

    /// Writes a copy, preceded by the literal that leads to it, if that is shorter than the bytes themselves.
    fn copy(&mut self, Match { from, to, len }: Match) -> bool {
        let (start, end) = if self.text { self.between_characters(to, to + len) } else { (to, to + len) };
        let from = from + (start - to);
        let len = end.saturating_sub(start);
        // The literal after it costs a head too.
        if len <= digits(len) + digits(from) + 4 {
            return false;
        }
        self.literal(start);
        self.number(len);
        self.out.push(b'@');
        self.number(from);
        self.out.push(b',');
        self.done = end;
        true
    }

    /// The run without the parts of characters at its ends.
    fn between_characters(&self, mut start: usize, mut end: usize) -> (usize, usize) {
        let inside = |at: usize| self.target.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
        while start < end && inside(start) {
            start += 1;
        }
        while start < end && inside(end) {
            end -= 1;
        }
        (start, end)
    }

    /// Writes what stands between the part that is done and `end`.
    fn literal(&mut self, end: usize) {
        if end > self.done {
            self.number(end - self.done);
            self.out.push(b':');
            self.out.extend_from_slice(&self.target[self.done..end]);
            self.done = end;
        }
    }

    fn number(&mut self, value: usize) {
        for digit in (0..digits(value)).rev() {
            self.out.push(DIGITS[(value >> (6 * digit)) & 63]);
        }
    }
}

/// Digits of a number in base 64.
const fn digits(value: usize) -> usize {
    let bits = (usize::BITS - value.leading_zeros()) as usize;
    if bits == 0 { 1 } else { bits.div_ceil(6) }
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
    let equal = 16 * words_a.iter().zip(words_b).take_while(|(a, b)| a == b).count();
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes both end with.
fn common_back(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_rchunks::<16>().1, b.as_rchunks::<16>().1);
    let equal = 16 * words_a.iter().rev().zip(words_b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - equal], &b[..b.len() - equal]);
    equal + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

fn hash_of(block: &[u8]) -> u32 {
    block.iter().fold(0, |hash: u32, byte| hash.wrapping_mul(FACTOR).wrapping_add(u32::from(*byte)))
}

/// The blocks of a base by their hash: heads of chains, each block leading to an earlier one.
struct Blocks {
    heads: Vec<u32>,
    next: Vec<u32>,
    shift: u32,
}

impl Blocks {
    fn of(base: &[u8]) -> Self {
        let (blocks, _) = base.as_chunks::<BLOCK>();
        let bits = (blocks.len().max(2)).next_power_of_two().ilog2();
        let mut all = Self { heads: vec![NONE; 1 << bits], next: Vec::with_capacity(blocks.len()), shift: 32 - bits };
        for (number, block) in (0..).zip(blocks) {
            let slot = all.slot(hash_of(block));
            all.next.push(std::mem::replace(&mut all.heads[slot], number));
        }
        all
    }

    /// The high bits depend on every byte only after one more mixing.
    fn slot(&self, hash: u32) -> usize {
        ((hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca6b) >> self.shift) as usize
    }

    /// Where in the base the blocks of this slot begin.
    fn of_hash(&self, hash: u32) -> impl Iterator<Item = usize> + '_ {
        let first = self.heads[self.slot(hash)];
        let chain = std::iter::successors(Some(first), |number| self.next.get(*number as usize).copied());
        chain.take_while(|number| *number != NONE).map(|number| number as usize * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::apply, *};

    fn checked(base: &[u8], target: &[u8]) -> Vec<u8> {
        let delta = create(base, target);
        assert_eq!(apply(base, &delta, target.len()).as_deref(), Ok(target));
        delta
    }

    #[test]
    fn small_cases() {
        assert_eq!(checked(b"", b""), b"0\n0;");
        assert_eq!(checked(b"abc", b""), b"0\n0;");
        assert_eq!(checked(b"", b"abc"), b"3\n3:abc1XObC0;");
        assert_eq!(shorter(b"", b"abc"), None);
        assert_eq!(shorter(b"abc", b"abc"), None, "a copy of three bytes costs more");
        let same = "x".repeat(1000);
        assert!(shorter(same.as_bytes(), same.as_bytes()).is_some_and(|delta| delta.len() < 20));
    }

    #[test]
    fn what_moved_is_found() {
        let parts: Vec<String> = (0..8).map(|n| format!("[{}]", format!("{n}-").repeat(30 + n))).collect();
        let swapped: Vec<_> = parts.iter().rev().cloned().collect();
        let delta = checked(parts.concat().as_bytes(), swapped.concat().as_bytes());
        assert!(delta.len() < 100, "{}", delta.escape_ascii());
    }

    #[test]
    fn repetition_costs_no_square() {
        let base = vec![b'a'; 1 << 20];
        let mut target = vec![b'a'; 1 << 20];
        for at in (7..target.len()).step_by(41) {
            target[at] = b'b';
        }
        checked(&base, &target);
        checked(&target, &base);
    }

    /// Texts of which one is the other with pieces put in, left out and moved.
    fn texts() -> impl Strategy<Value = (String, String)> {
        let piece = "[дзвінє😀👩‍🚀éab\",:{}]{0,24}";
        (proptest::collection::vec(piece, 1..24), proptest::collection::vec((0usize..24, piece, 0u8..4), 0..24))
            .prop_map(|(pieces, edits)| {
                let mut after = pieces.clone();
                for (at, piece, how) in edits {
                    let at = at % after.len();
                    match how {
                        0 => after[at] = piece,
                        1 => after.insert(at, piece),
                        2 if after.len() > 1 => drop(after.remove(at)),
                        _ => after.swap(0, at),
                    }
                }
                (pieces.concat(), after.concat())
            })
    }

    proptest! {
        #[test]
        fn the_delta_of_texts_is_a_text((base, target) in texts()) {
            let delta = checked(base.as_bytes(), target.as_bytes());
            prop_assert!(std::str::from_utf8(&delta).is_ok(), "{}", delta.escape_ascii());
        }

        #[test]
        fn one_character_changes(head in "[дé😀a]{0,40}", tail in "[дé😀a]{0,40}", was in "[а-я€è😀-😎]", is in "[а-я€è😀-😎]") {
            let delta = checked(format!("{head}{was}{tail}").as_bytes(), format!("{head}{is}{tail}").as_bytes());
            prop_assert!(std::str::from_utf8(&delta).is_ok());
        }

        #[test]
        fn any_bytes_round_trip(base in proptest::collection::vec(0u8..4, 0..300), target in proptest::collection::vec(0u8..4, 0..300), any_base: Vec<u8>, any_target: Vec<u8>) {
            checked(&base, &target);
            checked(&any_base, &any_target);
            checked(&any_base, &target);
            let delta = checked(&base, &[&target[..], &base[..], &any_target[..], &base[..]].concat());
            prop_assert!(shorter(&base, &target).is_none_or(|delta| delta.len() < target.len()));
            drop(delta);
        }
    }
}
