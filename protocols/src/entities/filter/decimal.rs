//! Numbers and moments of any size, compared by their digits.
//!
//! What is read as a number is what JSON writes as one, with an exponent of at most three digits; what is read as a moment
//! is RFC 3339 with a capital `T` and either `Z` or an offset, up to nanoseconds, without leap seconds. The functions
//! `filter_number` and `filter_time` of the database read the same and nothing else.

use std::{cmp::Ordering, fmt};

use crate::entities::MAX_FIELD_VALUE;

/// Most digits of an exponent: a thousand digits before it, which a field may have, and these stay far within what the
/// database's numeric holds.
pub const MAX_EXPONENT_DIGITS: usize = 3;

/// Below so many digits a number is written without an exponent.
const PLAIN_DIGITS: i64 = 40;
const SECONDS_OF_DAY: i128 = 86_400;
const NANOS: i128 = 1_000_000_000;

/// A number as sign, digits and the place of the point: `0.DIGITS` times ten to the `point`. Without zeros at either end, so
/// that equal numbers are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
}

impl Decimal {
    /// Reads what JSON writes as a number; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_FIELD_VALUE {
            return None;
        }
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], exponent(&rest[at + 1..])?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let numeric = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) || !numeric(whole) || !numeric(fraction) {
            return None;
        }
        let digits = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
        Some(Self::new(negative, digits, i64::try_from(whole.len()).ok()? + exponent))
    }

    /// How many digits it has, zeros at either end aside.
    pub(super) fn digits(&self) -> usize {
        self.digits.len()
    }

    /// Reads a moment, as seconds since 1970; `None` for any other text.
    #[must_use]
    pub fn of_time(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, digits: usize| -> Option<i128> {
            let part = bytes.get(from..from + digits)?;
            part.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i128::from(b - b'0')))
        };
        let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if marks.iter().any(|(at, mark)| bytes.get(*at) != Some(mark)) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
        let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
        let (nanos, zone) = match bytes.get(19)? {
            b'.' => {
                let digits = bytes[20..].iter().take_while(|b| b.is_ascii_digit()).count();
                if !(1..=9).contains(&digits) {
                    return None;
                }
                (number(20, digits)? * 10i128.pow(9 - u32::try_from(digits).ok()?), 20 + digits)
            }
            _ => (0, 19),
        };
        let offset = match bytes.get(zone)? {
            b'Z' if bytes.len() == zone + 1 => 0,
            sign @ (b'+' | b'-') if bytes.len() == zone + 6 && bytes.get(zone + 3) == Some(&b':') => {
                let (hours, minutes) = (number(zone + 1, 2)?, number(zone + 4, 2)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
            }
            _ => return None,
        };
        if year < 1 || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = days_since_1970(year, month, day) * SECONDS_OF_DAY + hour * 3600 + minute * 60 + second - offset;
        let total = seconds * NANOS + nanos;
        let digits: Vec<u8> = total.unsigned_abs().to_string().bytes().map(|b| b - b'0').collect();
        let point = i64::try_from(digits.len()).ok()? - 9;
        Some(Self::new(total < 0, digits, point))
    }

    fn new(negative: bool, mut digits: Vec<u8>, mut point: i64) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        point -= i64::try_from(zeros).unwrap_or(i64::MAX);
        if digits.is_empty() { Self { negative: false, digits, point: 0 } } else { Self { negative, digits, point } }
    }
}

fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let sound = (1..=MAX_EXPONENT_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let value: i64 = digits.parse().ok().filter(|_| sound)?;
    Some(if text.starts_with('-') { -value } else { value })
}

fn days_of(year: i128, month: i128) -> i128 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days of the Gregorian calendar, counted in years that begin with March so that the leap day comes last.
fn days_since_1970(year: i128, month: i128, day: i128) -> i128 {
    const DAYS_OF_1970: i128 = 719_468;
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
        - 1
        - DAYS_OF_1970
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |it: &Self| match (it.digits.is_empty(), it.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.point.cmp(&other.point).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => size(),
            _ => size().reverse(),
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As JSON writes a number; reads back to an equal one.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        let (sign, length) = (if self.negative { "-" } else { "" }, i64::try_from(digits.len()).unwrap_or(i64::MAX));
        let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
        match self.point {
            _ if digits.is_empty() => f.write_str("0"),
            point if point >= length && point <= PLAIN_DIGITS => write!(f, "{sign}{digits}{}", zeros(point - length)),
            point if point > 0 && point < length => {
                let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or(0));
                write!(f, "{sign}{whole}.{fraction}")
            }
            point if point <= 0 && length - point <= PLAIN_DIGITS => {
                write!(f, "{sign}0.{}{digits}", zeros(-point))
            }
            // The exponent stays within three digits where the number that was read did, but for digits that moved over
            // the point: those are kept before it.
            point => write_scientific(f, sign, &digits, point),
        }
    }
}

/// `DIGITS` with as much of the exponent as three digits hold, the rest as zeros.
fn write_scientific(f: &mut fmt::Formatter<'_>, sign: &str, digits: &str, point: i64) -> fmt::Result {
    const MOST: i64 = 999;
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let exponent = point - length;
    let kept = exponent.clamp(-MOST, MOST);
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    if exponent > kept {
        return write!(f, "{sign}{digits}{}e{kept}", zeros(exponent - kept));
    }
    if exponent == kept {
        return write!(f, "{sign}{digits}e{kept}");
    }
    // Still more places behind the point than the exponent gives: some of the digits stand behind it.
    let behind = kept - exponent;
    if behind < length {
        let (whole, fraction) = digits.split_at(usize::try_from(length - behind).unwrap_or(0));
        return write!(f, "{sign}{whole}.{fraction}e{kept}");
    }
    write!(f, "{sign}0.{}{digits}e{kept}", zeros(behind - length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn numbers_are_equal_however_they_are_written() {
        for (a, b) in [("1", "1.0"), ("1000", "1e3"), ("0.00100", "1E-3"), ("-0", "0.0e9"), ("12.50", "1250e-2")] {
            assert_eq!(decimal(a), decimal(b), "{a} {b}");
        }
        let sorted = ["-1e9", "-2", "-1.5", "-1e-9", "0", "1e-9", "9007199254740993", "9007199254740993.1", "1e999"];
        for pair in sorted.windows(2) {
            assert!(decimal(pair[0]) < decimal(pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_json_does_not_write_is_no_number() {
        for text in [
            "", "-", "+1", "01", ".5", "5.", "1e", "1e+", "1e1000", "1e0001", "0x1", "NaN", "Infinity", " 1", "1_0",
            "١",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
        assert_eq!(Decimal::parse(&"9".repeat(MAX_FIELD_VALUE + 1)), None);
    }

    #[test]
    fn moments_are_compared_across_zones() {
        let time = |text: &str| Decimal::of_time(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(time("1970-01-01T00:00:00Z"), decimal("0"));
        assert_eq!(time("1969-12-31T23:59:59.5Z"), decimal("-0.5"));
        assert_eq!(time("2026-11-26T10:00:00+02:00"), time("2026-11-26T08:00:00.000Z"));
        assert_eq!(time("2023-11-14T22:13:20.123456789Z"), decimal("1700000000.123456789"));
        assert_eq!(time("0001-01-01T00:00:00Z"), decimal("-62135596800"));
        assert!(time("2024-02-29T23:59:59.999999999Z") < time("2024-03-01T00:00:00-00:01"));
        for bad in [
            "2026-02-29T00:00:00Z",
            "2026-11-26",
            "2026-11-26T10:00Z",
            "2026-11-26T10:00:00",
            "2026-11-26t10:00:00Z",
            "2026-11-26 10:00:00Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T10:00:60Z",
            "2026-11-26T10:00:00.Z",
            "2026-11-26T10:00:00.1234567890Z",
            "2026-11-26T10:00:00+24:00",
            "2026-11-26T10:00:00+0200",
            "2026-11-26T10:00:00Z\n",
            "0000-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "２026-11-26T10:00:00Z",
        ] {
            assert_eq!(Decimal::of_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_compare_as_they_do(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(decimal(&a.to_string()).cmp(&decimal(&b.to_string())), a.cmp(&b));
        }

        #[test]
        fn what_is_written_reads_back(text in "-?(0|[1-9][0-9]{0,60})([.][0-9]{1,60})?([eE][+-]?[0-9]{1,3})?") {
            let read = decimal(&text);
            prop_assert_eq!(Decimal::parse(&read.to_string()), Some(read));
        }

        #[test]
        fn days_are_those_of_the_calendar(seconds in -62_135_596_800i64..253_402_300_800) {
            let at = ::time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let text = format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second());
            prop_assert_eq!(Decimal::of_time(&text), Some(decimal(&seconds.to_string())));
        }

        #[test]
        fn hostile_text_is_no_moment_and_no_panic(text in "[0-9TZ:.+é-]{0,40}") {
            let _ = (Decimal::of_time(&text), Decimal::parse(&text));
        }
    }
}
