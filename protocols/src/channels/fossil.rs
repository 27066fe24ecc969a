//! Fossil delta: a publication as its difference from the one before it.
//!
//! The format: the target's size, a newline, then copies of the base (`LEN@OFFSET,`) and literals (`LEN:bytes`), then the
//! target's checksum and a semicolon; numbers are in base 64, highest digit first.
//! Invariants: `apply(base, create(base, target)) == target`; the delta of two texts is a text, for it travels in a JSON
//! string; both are linear in their input; hostile deltas are errors, and none makes more than the given limit.

mod create;

pub use create::{create, shorter};

/// Digits of numbers, by value.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// Bytes that are no delta of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// A number, an operator or a separator is missing, or the delta ends in the middle.
    #[error("not a delta")]
    Malformed,
    /// The target would be above the limit.
    #[error("the delta makes more than the limit")]
    TooLarge,
    /// A copy reaches beyond the base.
    #[error("the delta copies what the base does not have")]
    OutsideBase,
    /// The sizes or the checksums differ: the delta is of another base, or damaged.
    #[error("the delta does not make what it says")]
    Mismatch,
}

/// Makes the target of at most `limit` bytes out of the base.
///
/// # Errors
/// [`DeltaError`] for whatever [`create`] would not have made of this base.
pub fn apply(base: &[u8], delta: &[u8], limit: usize) -> Result<Vec<u8>, DeltaError> {
    let mut rest = delta;
    let size = number(&mut rest)?;
    expect(&mut rest, b'\n')?;
    if size > limit {
        return Err(DeltaError::TooLarge);
    }
    // Grown as it is filled: a size is only a claim.
    let mut target = Vec::new();
    loop {
        let count = number(&mut rest)?;
        let piece = match rest.split_first() {
            Some((b'@', after)) => {
                rest = after;
                let from = number(&mut rest)?;
                expect(&mut rest, b',')?;
                let end = from.checked_add(count).ok_or(DeltaError::OutsideBase)?;
                base.get(from..end).ok_or(DeltaError::OutsideBase)?
            }
            Some((b':', after)) => {
                let (literal, after) = after.split_at_checked(count).ok_or(DeltaError::Malformed)?;
                rest = after;
                literal
            }
            Some((b';', [])) => {
                let whole = target.len() == size && usize::try_from(checksum(&target)) == Ok(count);
                return if whole { Ok(target) } else { Err(DeltaError::Mismatch) };
            }
            _ => return Err(DeltaError::Malformed),
        };
        if piece.len() > size - target.len() {
            return Err(DeltaError::Mismatch);
        }
        target.extend_from_slice(piece);
    }
}

/// The number at the start of `rest`: at least one digit, below 2^32.
fn number(rest: &mut &[u8]) -> Result<usize, DeltaError> {
    let digit = |byte: u8| DIGITS.binary_search(&byte).ok();
    let mut value = 0u32;
    let mut digits = 0;
    while let Some(next) = rest.first().copied().and_then(digit) {
        let low = u32::try_from(next).map_err(|_| DeltaError::Malformed)?;
        value = value.checked_mul(64).ok_or(DeltaError::Malformed)? | low;
        *rest = &rest[1..];
        digits += 1;
    }
    if digits == 0 {
        return Err(DeltaError::Malformed);
    }
    usize::try_from(value).map_err(|_| DeltaError::Malformed)
}

fn expect(rest: &mut &[u8], byte: u8) -> Result<(), DeltaError> {
    *rest = rest.strip_prefix(&[byte]).ok_or(DeltaError::Malformed)?;
    Ok(())
}

/// The sum modulo 2^32 of the bytes read as big-endian words, the last one filled with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEFORE: &str = r#"{"id":1,"name":"widget","price":100,"stock":5,"updated":"2026-01-01"}"#;
    const AFTER: &str = r#"{"id":1,"name":"widget","price":101,"stock":5,"updated":"2026-01-01"}"#;
    /// What npm `fossil-delta` 2.0.0 makes of the two.
    const DELTA: &[u8] = b"15\nY@0,1:1Y@Z,1CCq3I;";

    #[test]
    fn the_vector_of_another_implementation() {
        assert_eq!(create(BEFORE.as_bytes(), AFTER.as_bytes()), DELTA);
        assert_eq!(apply(BEFORE.as_bytes(), DELTA, 1024).as_deref(), Ok(AFTER.as_bytes()));
    }

    #[test]
    fn a_literal_does_not_begin_inside_a_character() {
        let (before, after) = (format!("{}é and more", "a".repeat(32)), format!("{}è and more", "a".repeat(32)));
        let delta = create(before.as_bytes(), after.as_bytes());
        assert!(std::str::from_utf8(&delta).is_ok(), "{delta:?}");
        assert_eq!(apply(before.as_bytes(), &delta, 1024).as_deref(), Ok(after.as_bytes()));
    }

    #[test]
    fn hostile_deltas_are_errors() {
        let base = b"0123456789";
        for (delta, error) in [
            (&b""[..], DeltaError::Malformed),
            (b"\n", DeltaError::Malformed),
            (b"4", DeltaError::Malformed),
            (b"4\n", DeltaError::Malformed),
            (b"4\n4@0", DeltaError::Malformed),
            (b"4\n4@,", DeltaError::Malformed),
            (b"4\n4:abc", DeltaError::Malformed),
            (b"4\n4!abcd", DeltaError::Malformed),
            (b"0\n0;x", DeltaError::Malformed),
            (b"3~~~~~~\n", DeltaError::Malformed),
            (b"~~~~~\n~~~~~@0,", DeltaError::TooLarge),
            (b"4\n4@7,0;", DeltaError::OutsideBase),
            (b"4\n3~~~~~@3~~~~~,", DeltaError::OutsideBase),
            (b"4\n5@0,0;", DeltaError::Mismatch),
            (b"4\n3@0,0;", DeltaError::Mismatch),
            (b"4\n4@0,0;", DeltaError::Mismatch),
        ] {
            assert_eq!(apply(base, delta, 100), Err(error), "{}", delta.escape_ascii());
        }
        assert_eq!(apply(base, b"0\n0;", 0), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_target_or_an_error(base: Vec<u8>, delta: Vec<u8>, text in "[0-9A-F]{1,3}\n([0-3]@[0-3],|1:.|2:..){0,8}[0-9A-F]{0,3};?") {
            for delta in [&delta[..], text.as_bytes()] {
                if let Ok(target) = apply(&base, delta, 64) {
                    prop_assert!(target.len() <= 64);
                }
            }
        }

        #[test]
        fn a_damaged_delta_never_makes_another_size(at in 0..DELTA.len(), byte: u8) {
            let mut delta = DELTA.to_vec();
            delta[at] = byte;
            if let Ok(target) = apply(BEFORE.as_bytes(), &delta, 1024) {
                prop_assert_eq!(target.len(), AFTER.len());
            }
        }
    }
}
