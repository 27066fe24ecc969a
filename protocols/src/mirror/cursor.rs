//! The cursor: where a Mirror resumes. Carried and answered as the exact text that came; read only to compare and to tell
//! its age.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::version::parse_time;
use crate::entities::raw::{items, member, unquote};

/// How an upstream spells its cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CursorKind {
    /// `[seconds, increment]` of a MongoDB timestamp; order is lexicographic. `{"$timestamp":{"t":..,"i":..}}` is read too.
    #[default]
    BsonTs,
    /// A sequence number, as a number or as text.
    U64,
    /// A moment.
    Rfc3339,
    /// Anything: never compared.
    Opaque,
}

/// How "no cursor" is spelled in an answer. Both spellings are understood in frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NullSpelling {
    /// `null`
    #[default]
    Null,
    /// `""`, as earlier versions of the upstream had it.
    Empty,
}

impl NullSpelling {
    /// The JSON text.
    #[must_use]
    pub const fn json(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Empty => "\"\"",
        }
    }
}

/// Where a frame stands.
#[derive(Debug, Clone, Copy)]
pub enum Cursor<'a> {
    /// Absent, null or empty: a row of the snapshot.
    None,
    /// A cursor of the expected form.
    At(&'a RawValue),
    /// Something else: the frame is used, the cursor is not.
    Unreadable(&'a RawValue),
}

impl CursorKind {
    /// Reads the envelope's cursor field.
    #[must_use]
    pub fn read(self, raw: Option<&RawValue>) -> Cursor<'_> {
        match raw {
            None => Cursor::None,
            Some(raw) if matches!(raw.get(), "null" | "\"\"") => Cursor::None,
            Some(raw) if self == Self::Opaque || self.order_key(raw).is_some() => Cursor::At(raw),
            Some(raw) => Cursor::Unreadable(raw),
        }
    }

    /// The order of two cursors; `None` for opaque ones and for what cannot be read.
    #[must_use]
    pub fn compare(self, a: &RawValue, b: &RawValue) -> Option<Ordering> {
        Some(self.order_key(a)?.cmp(&self.order_key(b)?))
    }

    /// The moment that a cursor names, to tell how far we are behind.
    #[must_use]
    pub fn moment(self, cursor: &RawValue) -> Option<OffsetDateTime> {
        match self {
            Self::BsonTs => OffsetDateTime::from_unix_timestamp(i64::try_from(self.order_key(cursor)?.0).ok()?).ok(),
            Self::Rfc3339 => parse_time(&unquote(cursor.get())?),
            Self::U64 | Self::Opaque => None,
        }
    }

    fn order_key(self, cursor: &RawValue) -> Option<(u64, u64)> {
        let text = cursor.get();
        match self {
            Self::BsonTs => bson_pair(text),
            Self::U64 => Some((unquote(text).as_deref().unwrap_or(text).parse().ok()?, 0)),
            Self::Rfc3339 => {
                let nanos = parse_time(&unquote(text)?)?.unix_timestamp_nanos();
                Some((u64::try_from(nanos).ok()?, 0))
            }
            Self::Opaque => None,
        }
    }
}

fn bson_pair(text: &str) -> Option<(u64, u64)> {
    if let Some(mut pair) = items(text) {
        let key = (pair.next()?.parse().ok()?, pair.next()?.parse().ok()?);
        return pair.next().is_none().then_some(key);
    }
    let inner = member(text, "$timestamp")?;
    Some((member(inner, "t")?.parse().ok()?, member(inner, "i")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect(text)
    }

    #[test]
    fn both_spellings_of_nothing_are_understood() {
        for none in [None, Some(raw("null")), Some(raw("\"\""))] {
            assert!(matches!(CursorKind::BsonTs.read(none.as_deref()), Cursor::None));
        }
        for bad in ["[1]", "[1,2,3]", "[1,-2]", "7", "\"x\"", "{}", "[\"1\",2]"] {
            assert!(matches!(CursorKind::BsonTs.read(Some(&raw(bad))), Cursor::Unreadable(_)), "{bad}");
        }
        assert!(matches!(CursorKind::Opaque.read(Some(&raw("{}"))), Cursor::At(_)));
        assert!(matches!(CursorKind::BsonTs.read(Some(&raw(r#"{"$timestamp":{"t":1,"i":2}}"#))), Cursor::At(_)));
    }

    #[test]
    fn moments() {
        assert_eq!(
            CursorKind::BsonTs.moment(&raw("[1700000000, 3]")).map(OffsetDateTime::unix_timestamp),
            Some(1_700_000_000)
        );
        assert_eq!(CursorKind::BsonTs.moment(&raw("[18446744073709551615, 3]")), None);
        assert_eq!(CursorKind::U64.moment(&raw("5")), None);
    }

    proptest! {
        #[test]
        fn the_pair_orders_lexicographically(a: (u32, u32), b: (u32, u32)) {
            let text = |(s, i): (u32, u32)| raw(&format!("[ {s} , {i} ]"));
            prop_assert_eq!(CursorKind::BsonTs.compare(&text(a), &text(b)), Some(a.cmp(&b)));
        }

        #[test]
        fn sequences_order_as_numbers(a: u64, b: u64) {
            prop_assert_eq!(CursorKind::U64.compare(&raw(&a.to_string()), &raw(&format!("\"{b}\""))), Some(a.cmp(&b)));
        }
    }
}
