//! JSON Merge Patch (RFC 7396) on text: what is not named keeps its exact spelling, numbers above all.
//!
//! Both texts have passed [`check`](super::check), so nothing is deeper than [`MAX_DEPTH`](super::MAX_DEPTH). No library does this: those
//! that are kept read numbers as floats.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::raw::distinct;

/// Merges a patch into a document. A patch that is no object takes the document's place, as the standard has it.
#[must_use]
pub fn merge_patch(doc: &RawValue, patch: &RawValue) -> Box<RawValue> {
    let mut out = String::with_capacity(doc.get().len() + patch.get().len());
    merge(Some(doc.get()), patch.get(), &mut out);
    // Whole values of both, with what belongs between.
    RawValue::from_string(out).unwrap_or_else(|_| doc.to_owned())
}

fn merge(old: Option<&str>, patch: &str, out: &mut String) {
    let Some(patch) = distinct(patch) else { return out.push_str(patch) };
    let mut asked: HashMap<&str, &str> = patch.iter().map(|(name, _, value)| (&**name, *value)).collect();
    let mut before = '{';
    let mut member = |out: &mut String, key: &str| {
        out.push(std::mem::replace(&mut before, ','));
        out.push_str(key);
        out.push(':');
    };
    for (name, key, value) in old.and_then(distinct).unwrap_or_default() {
        match asked.remove(&*name) {
            None => {
                member(out, key);
                out.push_str(value);
            }
            Some("null") => {}
            Some(new) => {
                member(out, key);
                merge(Some(value), new, out);
            }
        }
    }
    // What is new, in the order in which it was said.
    for (name, key, value) in &patch {
        if asked.contains_key(&**name) && *value != "null" {
            member(out, key);
            merge(None, value, out);
        }
    }
    out.push_str(if before == '{' { "{}" } else { "}" });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::entities::json_patch::tests::documents;

    fn merged(doc: &str, patch: &str) -> String {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect(text);
        merge_patch(&raw(doc), &raw(patch)).get().to_owned()
    }

    /// The cases of RFC 7396, appendix A.
    #[test]
    fn those_of_the_standard() {
        for (doc, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(doc, patch), expected, "{doc} {patch}");
        }
    }

    #[test]
    fn spelling_is_kept_and_names_are_compared_as_they_read() {
        assert_eq!(
            merged(r#"{"n":1.00,"big":12345678901234567890.10,"o":{ "x" : 1e2 }}"#, r#"{"m":2.50,"o":{"y":0.10}}"#),
            r#"{"n":1.00,"big":12345678901234567890.10,"o":{"x":1e2,"y":0.10},"m":2.50}"#
        );
        assert_eq!(merged(r#"{"\u0061":1,"a":2,"b":3}"#, r#"{"a":4,"\u0062":null}"#), r#"{"a":4}"#);
        assert_eq!(merged("{}", r#"{"a":1,"b":2,"\u0061":3}"#), r#"{"b":2,"\u0061":3}"#);
    }

    /// The pseudo-code of RFC 7396, 2, on values.
    fn by_the_standard(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = if target.is_object() { target } else { json!({}) };
        for (name, value) in patch {
            let all = target.as_object_mut().expect("an object");
            if value.is_null() {
                all.remove(name);
            } else {
                let old = all.remove(name).unwrap_or(Value::Null);
                all.insert(name.clone(), by_the_standard(old, value));
            }
        }
        target
    }

    proptest! {
        #[test]
        fn it_is_what_the_standard_says(doc in documents(), patch in documents()) {
            let merged: Value = serde_json::from_str(&merged(&doc.to_string(), &patch.to_string())).expect("JSON");
            prop_assert_eq!(merged, by_the_standard(doc, &patch));
        }
    }
}
