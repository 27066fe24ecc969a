//! One spelling of durations (`25s`) and sizes (`64KiB`), in configuration and in JSON.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de};

/// Units of time, largest first: what a value is printed with.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Units of size, largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];
/// Longest duration: a hundred years, so that sums never overflow.
const MAX_TIME_MS: u64 = 36_525 * 86_400_000;

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads a duration: `500ms`, `25s`, `10m`, `6h`, `30d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &TIMES).filter(|ms| *ms <= MAX_TIME_MS).map(Duration::from_millis)
}

fn print(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    let smallest = units.last().map_or(("", 1), |unit| *unit);
    let (name, factor) = units.iter().find(fits).map_or(smallest, |unit| *unit);
    format!("{}{name}", value / factor)
}

/// `#[serde(with = "duration")]`: `500ms`, `25s`, `10m`, `6h`, `30d`.
pub mod duration {
    use super::*;

    /// # Errors
    /// Those of `to`.
    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &TIMES))
    }

    /// # Errors
    /// It is not written so.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        parse_duration(&text).ok_or_else(|| {
            de::Error::custom("expected a duration such as \"500ms\", \"25s\", \"10m\", \"6h\" or \"30d\"")
        })
    }
}

/// `#[serde(with = "size")]`: `65536`, `64KiB`, `1MiB`, `1GiB`.
pub mod size {
    use super::*;

    /// # Errors
    /// Those of `to`.
    pub fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&print(*value as u64, &SIZES))
    }

    /// # Errors
    /// It is not written so.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Size {
            Number(u64),
            Text(String),
        }
        let bytes = match Size::deserialize(from) {
            Ok(Size::Number(bytes)) => Some(bytes),
            Ok(Size::Text(text)) => parse(&text, &SIZES),
            Err(_) => None,
        };
        bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| de::Error::custom("expected a size in bytes such as 65536, \"64KiB\" or \"1MiB\""))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_read() {
        for (text, ms) in [("500ms", 500), ("25s", 25_000), ("10 m", 600_000), ("0s", 0), ("30d", 2_592_000_000)] {
            assert_eq!(parse(text, &TIMES), Some(ms), "{text}");
        }
        assert_eq!(
            (parse("64KiB", &SIZES), parse("1MiB", &SIZES), parse("7", &SIZES)),
            (Some(65_536), Some(1 << 20), Some(7))
        );
        for bad in
            ["", "s", "-1s", "1.5s", "1 fortnight", "99999999999999999999s", "1kb", "25", "18446744073709551615d"]
        {
            assert_eq!(parse(bad, &TIMES), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(value in 0_u64..MAX_TIME_MS) {
            prop_assert_eq!(parse(&print(value, &TIMES), &TIMES), Some(value));
            prop_assert_eq!(parse(&print(value, &SIZES), &SIZES), Some(value));
        }
    }
}
