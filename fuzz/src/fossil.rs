//! Deltas between publications.

use dzvin_protocols::channels::fossil::{apply, create, shorter};

use super::options;

/// Two bytes: the length of the base in the input; the rest is the target, and a delta of the base.
pub fn fossil(data: &[u8]) {
    let ([high, low], rest) = options::<2>(data);
    let (base, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])).min(rest.len()));
    if let Ok(target) = apply(base, rest, 4096) {
        assert!(target.len() <= 4096);
        round_trip(base, &target);
    }
    round_trip(base, rest);
    round_trip(rest, base);
    // Something that they have in common.
    round_trip(&[base, rest, base].concat(), &[rest, base, rest].concat());
    let texts = [base, rest].map(String::from_utf8_lossy);
    round_trip(texts[0].as_bytes(), texts[1].as_bytes());
    round_trip(texts.concat().as_bytes(), texts[0].as_bytes());
}

/// What is created applies, and the delta of two texts is a text.
fn round_trip(base: &[u8], target: &[u8]) {
    let delta = create(base, target);
    assert_eq!(apply(base, &delta, target.len()).as_deref(), Ok(target));
    let text = |bytes| std::str::from_utf8(bytes).is_ok();
    assert!(text(&delta) || !text(base) || !text(target), "{}", delta.escape_ascii());
    assert_eq!(shorter(base, target).is_some(), delta.len() < target.len());
    if let Some(last) = target.len().checked_sub(1) {
        assert!(apply(base, &delta, last).is_err(), "the limit holds");
    }
}
