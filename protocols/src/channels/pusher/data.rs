//! The data of an event, which is text on this wire, as what a publication carries, which is JSON; and back, exactly.
//!
//! Clients of the other protocol see what they would expect: a text that is JSON as that JSON, any other as a string.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{json, text_of};

/// What is published for an event's data. A text whose JSON would read back as another one (a string, or with white space that
/// does not survive) is published as a string as well.
#[must_use]
pub fn data_of_text(text: &str) -> Cow<'_, str> {
    let begins_itself = !text.starts_with(['"', ' ', '\t', '\n', '\r']) && !text.ends_with([' ', '\t', '\n', '\r']);
    // Frames of the other protocol end at line breaks.
    let is_one_line = !text.contains(['\n', '\r']);
    if begins_itself && is_one_line && serde_json::from_str::<&RawValue>(text).is_ok() {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(json(&text))
    }
}

/// The text that was published, by whichever protocol.
#[must_use]
pub fn text_of_data(data: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(data).unwrap_or_default();
    serde_json::from_str::<&RawValue>(text).map_or(Cow::Borrowed(text), text_of)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_published_as_it_is_and_all_else_as_a_string() {
        for (text, data) in [
            (r#"{"a": 1.50}"#, r#"{"a": 1.50}"#),
            ("[1,2]", "[1,2]"),
            ("7", "7"),
            ("null", "null"),
            ("", r#""""#),
            ("hello", r#""hello""#),
            (r#""hello""#, r#""\"hello\"""#),
            (" {}", r#"" {}""#),
            ("{} ", r#""{} ""#),
            ("{\n}", r#""{\n}""#),
            ("{\"a\":1", r#""{\"a\":1""#),
            ("{}{}", r#""{}{}""#),
            ("NaN", r#""NaN""#),
        ] {
            assert_eq!(data_of_text(text), data, "{text}");
            assert_eq!(text_of_data(data.as_bytes()), text, "{data}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(text_of_data(data_of_text(&deep).as_bytes()), deep);
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text: String, like in "[ \\n\\r\\t{}\\[\\]\":,\\\\a-fnu0-9.-]{0,40}") {
            for text in [text, like] {
                let data = data_of_text(&text).into_owned();
                prop_assert!(serde_json::from_str::<&RawValue>(&data).is_ok() && !data.contains(['\n', '\r']));
                prop_assert_eq!(text_of_data(data.as_bytes()), text);
            }
        }
    }
}
