//! When it was that a batch came from: the ground of every lag that is told.

use dzvin_protocols::mirror::parse_time;
use time::OffsetDateTime;

/// The moment up to which a batch is the upstream's past. Cursors of whole seconds say it only roughly: a version within that
/// second is its true moment, and a heartbeat, which has none, may be as young as the second's end.
pub(in crate::mirror) fn moment(cursor: OffsetDateTime, newest: Option<&str>) -> OffsetDateTime {
    let end = if cursor.nanosecond() == 0 { cursor + time::Duration::SECOND } else { cursor };
    match newest.map(parse_time) {
        Some(Some(version)) if (cursor..end).contains(&version) => version,
        Some(_) => cursor,
        None => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_do_not_look_like_lag() {
        let second = OffsetDateTime::from_unix_timestamp(1_795_374_698).expect("a moment");
        let ms = |newest, late: i128| late - (moment(second, newest) - second).whole_milliseconds();
        assert_eq!(ms(Some("2026-11-22T19:11:38.750000Z"), 757), 7, "the version tells the moment");
        assert!(ms(None, 990) < 0, "a heartbeat of this second");
        assert_eq!(ms(None, 61_000), 60_000, "an old heartbeat");
        assert_eq!(
            ms(Some("2026-11-22T19:20:00.000000Z"), 500_000),
            500_000,
            "the object was newer than its place in the log"
        );
        assert_eq!(ms(Some("2001-01-01T00:00:00.000000Z"), 300), 300, "a version of another time says nothing");
        let precise = second + time::Duration::milliseconds(5);
        assert_eq!(moment(precise, None), precise);
    }
}
