//! A walk over JSON text that has passed a parser, without building values: spans in, spans out.
//!
//! Invariants: linear, no recursion, no allocation but in [`distinct`]; text that is not JSON ends the walk early, it never panics.

use std::{borrow::Cow, collections::HashMap};

use memchr::memchr2;

/// The end of the white space that starts at `at`.
pub(crate) fn space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the string whose opening quote is at `at`.
pub(crate) fn string_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    loop {
        match at + text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)).unwrap_or(text.len()) {
            end if end >= text.len() => return text.len(),
            end if text[end] == b'"' => return end + 1,
            escape => at = escape + 2,
        }
    }
}

/// The end of the number, `true`, `false` or `null` that starts at `at`.
pub(crate) fn scalar_end(text: &[u8], mut at: usize) -> usize {
    while !matches!(text.get(at), None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the value that starts at `at`.
pub(crate) fn value_end(text: &[u8], mut at: usize) -> usize {
    match text.get(at) {
        Some(b'"') => return string_end(text, at),
        Some(b'{' | b'[') => {}
        _ => return scalar_end(text, at),
    }
    let mut depth = 0usize;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// The members of an object: the key with its quotes, and the value, both as they are written.
pub(crate) struct Members<'a> {
    text: &'a str,
    at: usize,
}

/// The members of the object that `text` is; none when it is something else.
pub(crate) fn members(text: &str) -> Option<Members<'_>> {
    let at = space(text.as_bytes(), 0);
    (text.as_bytes().get(at) == Some(&b'{')).then_some(Members { text, at: at + 1 })
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let mut at = space(bytes, self.at);
        if bytes.get(at) == Some(&b',') {
            at = space(bytes, at + 1);
        }
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let key_end = string_end(bytes, at);
        let colon = space(bytes, key_end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value = space(bytes, colon + 1);
        let end = value_end(bytes, value);
        self.at = end;
        Some((self.text.get(at..key_end)?, self.text.get(value..end)?))
    }
}

/// A member of an object: its name, its key and its value.
pub(crate) type Named<'a> = (Cow<'a, str>, &'a str, &'a str);

/// The members of an object by name, each with its key and value as they are written; none when it is something else. Of equal names the
/// last wins, as in the database.
pub(crate) fn distinct(text: &str) -> Option<Vec<Named<'_>>> {
    let all: Vec<_> = members(text)?.filter_map(|(key, value)| Some((unquote(key)?, key, value))).collect();
    let last: HashMap<_, _> = all.iter().enumerate().map(|(n, (name, ..))| (name.clone(), n)).collect();
    if last.len() == all.len() {
        return Some(all);
    }
    Some(all.into_iter().enumerate().filter(|(n, (name, ..))| last.get(name) == Some(n)).map(|(_, it)| it).collect())
}

/// The items of an array, as they are written.
pub(crate) struct Items<'a> {
    text: &'a str,
    at: usize,
}

/// The items of the array that `text` is; none when it is something else.
pub(crate) fn items(text: &str) -> Option<Items<'_>> {
    let at = space(text.as_bytes(), 0);
    (text.as_bytes().get(at) == Some(&b'[')).then_some(Items { text, at: at + 1 })
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let mut at = space(bytes, self.at);
        if bytes.get(at) == Some(&b',') {
            at = space(bytes, at + 1);
        }
        if matches!(bytes.get(at), None | Some(b']')) {
            return None;
        }
        let end = value_end(bytes, at);
        self.at = end;
        // A stray byte would be an empty item for ever.
        self.text.get(at..end).filter(|item| !item.is_empty())
    }
}

/// The text of a quoted string; `None` when it is no string or holds what is no text.
pub(crate) fn unquote(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(quoted).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Whether a quoted key spells this name.
pub(crate) fn is_key(quoted: &str, name: &str) -> bool {
    unquote(quoted).is_some_and(|key| key == name)
}

/// The value of a member by name; the last of equal names wins, as in the database.
pub(crate) fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    members(text)?.filter(|(key, _)| is_key(key, name)).last().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn walks_what_is_written() {
        let text = " { \"a\" : 1.00 , \"b}\":[{\"c\":\"]\\\"\"},2], \"\\u0061\":null } ";
        let all: Vec<_> = members(text).expect("an object").collect();
        assert_eq!(all, [("\"a\"", "1.00"), ("\"b}\"", "[{\"c\":\"]\\\"\"},2]"), ("\"\\u0061\"", "null")]);
        assert_eq!(member(text, "a"), Some("null"));
        assert_eq!(items(all[1].1).expect("an array").collect::<Vec<_>>(), ["{\"c\":\"]\\\"\"}", "2"]);
        assert!(members("[1]").is_none() && items("{}").is_none());
    }

    proptest! {
        #[test]
        fn hostile_text_ends(text in "[\\[\\]{}\",:\\\\a0 \u{e9}]{0,60}") {
            for (key, value) in members(&text).into_iter().flatten() {
                let _ = (unquote(key), value.len());
            }
            prop_assert!(items(&text).into_iter().flatten().count() <= text.len());
        }
    }
}
