//! Versions and cursors: JSON values that are compared.

use std::cmp::Ordering;

use dzvin_protocols::mirror::{Cursor, CursorKind, VersionKind, format_time, parse_time};
use serde_json::value::RawValue;

use super::text;

/// Two lines. As moments: the normal form keeps the moment to the microsecond and orders as text orders. As JSON values:
/// normalising twice is normalising once, and cursors are a total order.
pub fn versions(data: &[u8]) {
    let text = text(data);
    let (a, b) = text.split_once('\n').unwrap_or((&text, ""));
    times(a, b);
    let (Ok(a), Ok(b)) = (raw(a), raw(b)) else { return raw(a).into_iter().for_each(|one| values(one, one)) };
    values(a, a);
    values(a, b);
}

fn raw(text: &str) -> serde_json::Result<&RawValue> {
    serde_json::from_str(text)
}

fn times(a: &str, b: &str) {
    let (Some(one), two) = (parse_time(a), parse_time(b)) else { return };
    let normal = format_time(one);
    assert_eq!(normal.len(), 27, "{normal}");
    let micros = |at: time::OffsetDateTime| at.unix_timestamp_nanos().div_euclid(1000);
    assert_eq!(parse_time(&normal).map(micros), Some(micros(one)));
    if let Some(two) = two {
        assert_eq!(micros(one).cmp(&micros(two)), normal.cmp(&format_time(two)), "text orders as time does");
    }
}

fn values(a: &RawValue, b: &RawValue) {
    for kind in [VersionKind::Time, VersionKind::Number, VersionKind::Text] {
        let Some(normal) = kind.normalise(a.get()) else { continue };
        assert!(!normal.contains('\0') && normal.len() <= 64);
        let quoted = serde_json::Value::from(normal.as_str()).to_string();
        assert_eq!(kind.normalise(&quoted), Some(normal), "the normal form is its own");
    }
    for kind in [CursorKind::BsonTs, CursorKind::U64, CursorKind::Rfc3339, CursorKind::Opaque] {
        if let Cursor::At(cursor) = kind.read(Some(a)) {
            assert_eq!(cursor.get(), a.get(), "a cursor is carried as it came");
        }
        let order = kind.compare(a, b);
        assert_eq!(order.map(Ordering::reverse), kind.compare(b, a));
        assert!(a.get() != b.get() || order.is_none_or(Ordering::is_eq));
        let _ = kind.moment(a);
    }
}
