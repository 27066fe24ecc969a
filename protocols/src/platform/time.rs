//! One spelling of time: RFC 3339 in UTC with milliseconds, as every JSON of ours writes it.

use ::time::{OffsetDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description};

const MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// `2026-11-22T17:28:13.123Z`. Never fails: a year beyond four digits, which no clock of ours gives, becomes the epoch.
#[must_use]
pub fn rfc3339_millis(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC).format(MILLIS).unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_utc_milliseconds() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).expect("in range");
        assert_eq!(rfc3339_millis(at), "2023-11-14T22:13:20.123Z");
    }
}
