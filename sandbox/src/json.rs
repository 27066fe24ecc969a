//! Splicing of raw JSON text: reads and replaces members of an object without touching the rest of the text, so numbers never
//! pass through a float and unknown fields keep their spelling. Values are never interpreted, only cut out.

use crate::error::WorldError;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Range;

/// One member of an object: its key, and where its value stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) key: String,
    pub(crate) value: Range<usize>,
}

struct Members<'a>(&'a str);

impl<'de> Visitor<'de> for Members<'de> {
    type Value = Vec<Member>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a json object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let base = self.0.as_ptr() as usize;
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            let start = value.get().as_ptr() as usize - base;
            members.push(Member { key, value: start..start + value.get().len() });
        }
        Ok(members)
    }
}

/// Lists the members of the object that `text` is.
pub(crate) fn members(text: &str) -> Result<Vec<Member>, WorldError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_map(Members(text)).map_err(|error| WorldError::NotAnObject(error.to_string()))?;
    json.end().map_err(|error| WorldError::NotAnObject(error.to_string()))?;
    Ok(found)
}

/// The raw value at `path`, `None` where a step is missing or is not an object.
pub(crate) fn get<'a>(text: &'a str, path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let member = members(text).ok()?.into_iter().rev().find(|m| m.key == *first)?;
    let value = &text[member.value];
    if rest.is_empty() { Some(value) } else { get(value, rest) }
}

/// The string at `path`.
pub(crate) fn get_string(text: &str, path: &[&str]) -> Option<String> {
    serde_json::from_str(get(text, path)?).ok()
}

/// Spells a string as JSON.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Replaces or adds top-level members. New members come first, in the order given; the rest of the text is kept byte by byte.
pub(crate) fn set(text: &str, edits: &[(&str, &str)]) -> Result<String, WorldError> {
    let found = members(text)?;
    let mut cuts: Vec<(Range<usize>, &str)> = Vec::new();
    let mut fresh = String::new();
    for (key, value) in edits {
        if let Some(member) = found.iter().rev().find(|m| m.key == *key) {
            cuts.push((member.value.clone(), value));
        } else {
            if !fresh.is_empty() {
                fresh.push(',');
            }
            fresh.push_str(&quote(key));
            fresh.push(':');
            fresh.push_str(value);
        }
    }
    let open = text.find('{').map_or(0, |at| at + 1);
    if !fresh.is_empty() && !found.is_empty() {
        fresh.push(',');
    }
    cuts.push((open..open, &fresh));
    cuts.sort_by_key(|(range, _)| (range.start, range.end));
    let added: usize = cuts.iter().map(|(_, value)| value.len()).sum();
    let mut out = String::with_capacity(text.len() + added);
    let mut at = 0;
    for (range, value) in cuts {
        out.push_str(&text[at..range.start]);
        out.push_str(value);
        at = range.end;
    }
    out.push_str(&text[at..]);
    Ok(out)
}

/// Sets the value at a dotted path as MongoDB's `$set` does for objects; missing objects on the way are made.
pub(crate) fn set_path(text: &str, path: &str, value: &str) -> Result<String, WorldError> {
    let Some((first, rest)) = path.split_once('.') else { return set(text, &[(path, value)]) };
    let inner = get(text, &[first]).filter(|raw| raw.starts_with('{')).unwrap_or("{}");
    let inner = set_path(inner, rest, value)?;
    set(text, &[(first, &inner)])
}

/// Takes a top-level member out of the text.
pub(crate) fn without(text: &str, key: &str) -> Result<String, WorldError> {
    let kept: Vec<String> = members(text)?
        .into_iter()
        .filter(|member| member.key != key)
        .map(|member| format!("{}:{}", quote(&member.key), &text[member.value]))
        .collect();
    Ok(format!("{{{}}}", kept.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_numbers_and_unknown_text() {
        let text = "{ \"a\" : 904.240 , \"b\":1e400,\"c\":{\"d\":\"\\u0000\"} }";
        let out = set(text, &[("z", "1"), ("a", "904.250")]).unwrap();
        assert_eq!(out, "{\"z\":1, \"a\" : 904.250 , \"b\":1e400,\"c\":{\"d\":\"\\u0000\"} }");
        assert_eq!(get(&out, &["c", "d"]), Some("\"\\u0000\""));
        assert_eq!(set("{}", &[("a", "1"), ("b", "2")]).unwrap(), "{\"a\":1,\"b\":2}");
        assert_eq!(without("{\"a\":1.0,\"b\":2}", "b").unwrap(), "{\"a\":1.0}");
    }

    #[test]
    fn dotted_paths_make_what_is_missing() {
        assert_eq!(set_path("{\"a\":{\"b\":1}}", "a.c", "2").unwrap(), "{\"a\":{\"c\":2,\"b\":1}}");
        assert_eq!(set_path("{}", "a.b", "2").unwrap(), "{\"a\":{\"b\":2}}");
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for text in ["", "[]", "1", "{\"a\":1} x", "{\"a\"", "null"] {
            assert!(members(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn set_then_get(keys in proptest::collection::btree_set("[a-z]{1,3}", 1..6), pick in 0usize..6, value in "[1-9][0-9]{0,29}\\.[0-9]{1,9}") {
            let keys: Vec<String> = keys.into_iter().collect();
            let text = format!("{{{}}}", keys.iter().map(|k| format!("{}: 1.50", quote(k))).collect::<Vec<_>>().join(" , "));
            let key = keys.get(pick).cloned().unwrap_or_else(|| "fresh".to_owned());
            let out = set(&text, &[(&key, &value)]).unwrap();
            prop_assert_eq!(get(&out, &[&key]), Some(value.as_str()));
            for other in keys.iter().filter(|k| **k != key) {
                prop_assert_eq!(get(&out, &[other]), Some("1.50"));
            }
        }
    }
}
