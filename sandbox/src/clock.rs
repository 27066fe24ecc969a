//! Times as the CDB spells them. Inside the sandbox a time is microseconds since 1970 (`i64`); no clock is read here.

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A position of the oplog as MongoDB spells it: seconds and an increment within the second. On the wire `[seconds, increment]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u32)", into = "(u32, u32)")]
pub struct Ts {
    /// Seconds since 1970.
    pub seconds: u32,
    /// Starts at one in each second.
    pub increment: u32,
}

impl From<(u32, u32)> for Ts {
    fn from((seconds, increment): (u32, u32)) -> Self {
        Self { seconds, increment }
    }
}

impl From<Ts> for (u32, u32) {
    fn from(ts: Ts) -> Self {
        (ts.seconds, ts.increment)
    }
}

impl Ts {
    /// The next position at the given time: never at or below this one, even if the clock went back.
    pub(crate) fn next(self, micros: i64) -> Self {
        let seconds = u32::try_from(micros / 1_000_000).unwrap_or(u32::MAX);
        if seconds > self.seconds {
            Self { seconds, increment: 1 }
        } else {
            match self.increment.checked_add(1) {
                Some(increment) => Self { seconds: self.seconds, increment },
                None => Self { seconds: self.seconds.saturating_add(1), increment: 1 },
            }
        }
    }
}

impl std::fmt::Display for Ts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{},{}]", self.seconds, self.increment)
    }
}

fn spell(micros: i64, offset: UtcOffset, zone: &str) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .to_offset(offset);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}{zone}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond()
    )
}

/// `_lastModified`: microseconds, no zone.
pub(crate) fn bare(micros: i64) -> String {
    spell(micros, UtcOffset::UTC, "")
}

/// `dateModified`: six digits of which the last three are zero, and Z.
pub(crate) fn millis_z(micros: i64) -> String {
    spell(floor_ms(micros), UtcOffset::UTC, "Z")
}

/// `dateModified` of the procurement CDB: an offset instead of Z.
pub(crate) fn with_offset(micros: i64, offset: UtcOffset) -> String {
    let minutes = offset.whole_minutes();
    let sign = if minutes < 0 { '-' } else { '+' };
    let zone = format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60);
    spell(micros, offset, &zone)
}

/// Down to the millisecond, which is all that MongoDB keeps.
pub(crate) fn floor_ms(micros: i64) -> i64 {
    micros.div_euclid(1000) * 1000
}

/// Reads any of the spellings, also a bare date; a missing zone means UTC. Gives microseconds and the offset that was written.
pub(crate) fn parse(text: &str) -> Option<(i64, UtcOffset)> {
    let text = text.trim();
    let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.replacen(' ', "+", 1) };
    let at = OffsetDateTime::parse(&full, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(&format!("{full}Z"), &Rfc3339))
        .ok()?;
    let micros = i64::try_from(at.unix_timestamp_nanos().div_euclid(1000)).ok()?;
    Some((micros, at.offset()))
}

/// The machine's clock.
pub(crate) fn now() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_read_back() {
        let (at, _) = parse("2024-01-01T06:15:49.086123Z").unwrap();
        assert_eq!(bare(at), "2024-01-01T06:15:49.086123");
        assert_eq!(millis_z(at), "2024-01-01T06:15:49.086000Z");
        let (kyiv, offset) = parse("2026-10-05T22:53:13.039450+03:00").unwrap();
        assert_eq!(bare(kyiv), "2026-10-05T19:53:13.039450");
        assert_eq!(with_offset(kyiv, offset), "2026-10-05T22:53:13.039450+03:00");
        assert_eq!(parse("2026-10-05T22:53:13.039450 03:00").unwrap().0, kyiv, "a plus decoded as a space");
        assert_eq!(parse(&bare(at)).unwrap().0, at);
        assert_eq!(bare(parse("2024-01-01").unwrap().0), "2024-01-01T00:00:00.000000");
        assert!(parse("yesterday").is_none());
    }

    #[test]
    fn positions_only_grow() {
        let mut ts = Ts { seconds: 100, increment: 1 };
        for micros in [100_000_000, 99_000_000, 101_000_000, 0, 101_999_999, 102_000_000] {
            let next = ts.next(micros);
            assert!(next > ts, "{next} after {ts}");
            ts = next;
        }
        assert!(Ts { seconds: 5, increment: u32::MAX }.next(0) > Ts { seconds: 5, increment: u32::MAX });
    }
}
