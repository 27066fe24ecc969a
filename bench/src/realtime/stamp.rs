//! What is published: a document of a fixed length that carries when it was due, so that a receipt can be timed without
//! knowing anything else. The generator that writes it reads it too, by one clock.

use memchr::memmem::Finder;
use std::time::{SystemTime, UNIX_EPOCH};

/// The member with the time; rare enough not to be met elsewhere.
const DUE: &str = "x_due";
/// Digits of a time in microseconds since 1970, from 2001 to 2286.
const DIGITS: usize = 16;
/// Marks that may stand between the member and its value: a quote, escaped or not, and a colon.
const MARKS: usize = 4;

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A payload of so many bytes, or of the least that holds a time.
pub(crate) fn payload(bytes: usize) -> String {
    let bare = format!("{{\"{DUE}\":{:0<DIGITS$},\"pad\":\"\"}}", 1).len();
    format!("{{\"{DUE}\":{:0<DIGITS$},\"pad\":\"{}\"}}", 1, "x".repeat(bytes.saturating_sub(bare)))
}

/// Where the times stand in a text of payloads.
pub(crate) fn places(text: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(text, DUE).filter_map(|at| value_at(text, at + DUE.len())).collect()
}

/// Writes a time at a place.
pub(crate) fn write(text: &mut [u8], place: usize, due: i64) {
    if let Some(value) = text.get_mut(place..place + DIGITS) {
        let mut left = due;
        for digit in value.iter_mut().rev() {
            *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
            left /= 10;
        }
    }
}

fn value_at(text: &[u8], from: usize) -> Option<usize> {
    let marks = text.get(from..)?.iter().take(MARKS + 1).position(u8::is_ascii_digit)?;
    Some(from + marks)
}

/// Finds the times in what came.
#[derive(Debug)]
pub(crate) struct Reader(Finder<'static>);

impl Reader {
    /// Prepares the search.
    pub(crate) fn new() -> Self {
        Self(Finder::new(DUE))
    }

    /// The times in a text, one for each payload.
    pub(crate) fn dues<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = i64> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let rest = text.get(from..)?;
            let place = value_at(text, from + self.0.find(rest)? + DUE.len())?;
            let digits = text.get(place..)?.iter().take_while(|byte| byte.is_ascii_digit());
            let (len, value) = digits.fold((0, 0_i64), |(len, value), digit| {
                (len + 1, value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0')))
            });
            from = place + len;
            Some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_comes_back_in_whatever_it_was_wrapped() {
        let mut text = payload(128).into_bytes();
        assert_eq!(text.len(), 128);
        let place = places(&text)[0];
        write(&mut text, place, 1_764_160_000_123_456);
        let payload = String::from_utf8(text).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
        let reader = Reader::new();
        let push = format!("{{\"push\":{{\"channel\":\"a\",\"pub\":{{\"data\":{payload},\"offset\":7}}}}}}");
        let quoted = serde_json::json!({"event": "x", "data": payload}).to_string();
        for text in [push.clone(), quoted, payload.clone()] {
            assert_eq!(reader.dues(text.as_bytes()).collect::<Vec<_>>(), [1_764_160_000_123_456], "{text}");
        }
        assert_eq!(reader.dues(format!("{push}\n{push}").as_bytes()).count(), 2);
        assert_eq!(reader.dues(b"{}").count(), 0);
        assert_eq!(reader.dues(b"x_due").count(), 0);
    }

    #[test]
    fn the_least_payload_holds_a_time() {
        assert_eq!(places(payload(0).as_bytes()).len(), 1);
    }
}
