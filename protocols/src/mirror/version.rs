//! Versions: several spellings of one moment become one text that compares right.
//!
//! The same object says `2024-01-01T06:15:49.086000Z` in one field and `2024-01-01T08:15:49.086000+02:00` or no zone at all in
//! another; upstreams drop trailing digits. The normal form is UTC with exactly six digits, so a newer one is never smaller.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::entities::raw::{member, unquote};

/// What a version is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionKind {
    /// A moment, in any RFC 3339 spelling; without a zone it is UTC. `{"$date": ...}` is read too.
    #[default]
    Time,
    /// A growing number, written with leading zeros so that it compares as text.
    Number,
    /// Text that compares by itself.
    Text,
}

/// Longest version that is kept.
const MAX_VERSION: usize = 64;

impl VersionKind {
    /// The normal form of a JSON value; `None` when it is no version.
    #[must_use]
    pub fn normalise(self, json: &str) -> Option<String> {
        match self {
            Self::Time => {
                let json = member(json, "$date").unwrap_or(json);
                match unquote(json) {
                    Some(text) => parse_time(&text).map(format_time),
                    None => {
                        let millis: i64 = json.parse().ok()?;
                        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
                        (0..10_000).contains(&at.year()).then(|| format_time(at))
                    }
                }
            }
            Self::Number => {
                let number: u64 = unquote(json).unwrap_or(Cow::Borrowed(json)).parse().ok()?;
                Some(format!("{number:020}"))
            }
            Self::Text => unquote(json)
                .filter(|t| !t.is_empty() && t.len() <= MAX_VERSION && !t.contains('\0'))
                .map(Cow::into_owned),
        }
    }
}

/// `2024-01-01T06:15:49.086000Z`: the normal form.
#[must_use]
pub fn format_time(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

/// `YYYY-MM-DD[T ]HH:MM[:SS[.fraction]][Z|±HH[[:]MM]]`, in UTC; `None` for anything else or outside the years 0000 to 9999.
#[must_use]
pub fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    let fixed = bytes.len() >= 16
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && matches!(bytes[10], b'T' | b't' | b' ')
        && bytes[13] == b':';
    if !fixed {
        return None;
    }
    let month = Month::try_from(u8::try_from(digits(bytes, 5, 2)?).ok()?).ok()?;
    let date =
        Date::from_calendar_date(digits(bytes, 0, 4)?.cast_signed(), month, narrow(digits(bytes, 8, 2)?)?).ok()?;
    let (seconds, mut at) = match bytes.get(16) {
        Some(b':') => (digits(bytes, 17, 2)?, 19),
        _ => (0, 16),
    };
    let mut nanos = 0;
    if matches!(bytes.get(at), Some(b'.' | b',')) {
        let run = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        let kept = run.min(9);
        nanos = digits(bytes, at + 1, kept).filter(|_| run > 0)? * 10u32.pow(u32::try_from(9 - kept).ok()?);
        at += 1 + run;
    }
    let time =
        Time::from_hms_nano(narrow(digits(bytes, 11, 2)?)?, narrow(digits(bytes, 14, 2)?)?, narrow(seconds)?, nanos)
            .ok()?;
    let offset = zone(&bytes[at..])?;
    let at = PrimitiveDateTime::new(date, time).assume_offset(offset).checked_to_offset(UtcOffset::UTC)?;
    (0..10_000).contains(&at.year()).then_some(at)
}

fn zone(bytes: &[u8]) -> Option<UtcOffset> {
    let sign = match bytes {
        [] | [b'Z' | b'z'] => return Some(UtcOffset::UTC),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return None,
    };
    let minutes = match bytes.len() {
        3 => 0,
        5 => digits(bytes, 3, 2)?,
        6 if bytes[3] == b':' => digits(bytes, 4, 2)?,
        _ => return None,
    };
    let seconds = (digits(bytes, 1, 2)? * 3600 + minutes * 60).cast_signed();
    UtcOffset::from_whole_seconds(sign * seconds).ok()
}

fn digits(bytes: &[u8], at: usize, count: usize) -> Option<u32> {
    bytes.get(at..at + count)?.iter().try_fold(0u32, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

fn narrow(number: u32) -> Option<u8> {
    u8::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::Duration;

    use super::*;

    #[test]
    fn one_moment_has_one_form() {
        for text in [
            "2024-01-01T06:15:49.086000Z",
            "2024-01-01T08:15:49.086+02:00",
            "2024-01-01T06:15:49.086",
            "2024-01-01 06:15:49.086000000z",
            "2024-01-01T09:15:49.0860001+0300",
            "2024-01-01T03:15:49.086-03",
        ] {
            let json = serde_json::Value::from(text).to_string();
            assert_eq!(VersionKind::Time.normalise(&json).as_deref(), Some("2024-01-01T06:15:49.086000Z"), "{text}");
        }
        for json in [r#"{"$date":"2024-01-01T06:15:49.086Z"}"#, r#"{"$date":1704089749086}"#, "1704089749086"] {
            assert_eq!(VersionKind::Time.normalise(json).as_deref(), Some("2024-01-01T06:15:49.086000Z"), "{json}");
        }
    }

    #[test]
    fn other_kinds() {
        assert_eq!(VersionKind::Number.normalise("42").as_deref(), Some("00000000000000000042"));
        assert_eq!(VersionKind::Number.normalise("\"42\"").as_deref(), Some("00000000000000000042"));
        assert_eq!(VersionKind::Number.normalise("4.2"), None);
        assert_eq!(VersionKind::Text.normalise("\"a\"").as_deref(), Some("a"));
        for bad in [
            "null",
            "\"\"",
            "\"2024-13-01T00:00:00Z\"",
            "\"2024-01-01T00:00:00+\"",
            "\"0000-01-01T00:00:00+23:00\"",
            "{}",
            "99999999999999999",
        ] {
            assert_eq!(VersionKind::Time.normalise(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_newer_moment_is_never_smaller(a in 0i64..253_402_300_799, step in 0i64..100_000_000, micros in 0i64..1_000_000, zone in -14i8..14) {
            let first = OffsetDateTime::from_unix_timestamp(a).unwrap() + Duration::microseconds(micros);
            let second = first.checked_add(Duration::microseconds(step)).unwrap_or(first);
            prop_assume!(second.year() < 9999 && first.year() > 1);
            let local = second.to_offset(UtcOffset::from_hms(zone, 0, 0).unwrap());
            let spelled = local.format(&time::format_description::well_known::Rfc3339).unwrap();
            let again = format_time(parse_time(&spelled).unwrap());
            prop_assert_eq!(&again, &format_time(second));
            prop_assert!(again >= format_time(first));
        }

        #[test]
        fn hostile_text_is_a_value(text in "[0-9TZ:. +-]{0,30}", any in "\\PC{0,30}") {
            let _ = (parse_time(&text), parse_time(&any), VersionKind::Time.normalise(&any));
        }
    }
}
