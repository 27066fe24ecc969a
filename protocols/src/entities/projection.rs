//! What of a document is asked for: some of its fields, as they are written.
//!
//! A path is dotted (`value.amount`) and leads through arrays, every item, unless a step is an item's place (`lots.0.id`). What is kept keeps its names and its place: the answer
//! is the document without everything that no path leads to. Inside an array something stays in every place, an empty object or `null`;
//! elsewhere an object of which nothing is kept goes with its name.
//!
//! Invariants: nothing is parsed into values, so numbers keep their digits; of equal names the last counts, as in the database;
//! nothing recurses deeper than a path has steps, and arrays in arrays count as one.
//!
//! Not here: what may be seen. A mask is applied before.

use super::{
    mask::MAX_MASK_STEPS,
    raw::{distinct, items, space},
};

/// Most fields that one list may ask for: as many as a kind may declare.
pub const MAX_PROJECTED: usize = 64;
/// Longest name of a field: as long as a declared one may be.
pub const MAX_PROJECTED_PATH: usize = 128;
/// Arrays within arrays that a path leads through; what lies deeper is left out.
const MAX_NESTED: usize = 8;

/// What is asked for: for each name what is asked for below it; nothing below: all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Projection(Vec<(String, Projection)>);

impl Projection {
    /// Reads names with commas between; `None` when one of them is no dotted path, or there are too many. The empty text asks for
    /// nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::default();
        if text.is_empty() {
            return Some(all);
        }
        for (n, path) in text.split(',').enumerate() {
            let steps: Vec<&str> = path.split('.').collect();
            let sound = n < MAX_PROJECTED && path.len() <= MAX_PROJECTED_PATH && steps.len() <= MAX_MASK_STEPS;
            if !sound || steps.iter().any(|step| step.is_empty()) {
                return None;
            }
            all.add(&steps);
        }
        Some(all)
    }

    fn add(&mut self, steps: &[&str]) {
        let Some((first, rest)) = steps.split_first() else {
            // All of it is more than some of it.
            self.0.clear();
            return;
        };
        match self.0.iter_mut().find(|(name, _)| name == first) {
            Some((_, below)) if !below.0.is_empty() => below.add(rest),
            Some(_) => {}
            None => {
                let mut below = Self::default();
                below.add(rest);
                self.0.push(((*first).to_owned(), below));
            }
        }
    }

    /// Whether nothing at all is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of a document is asked for, as a JSON object.
    #[must_use]
    pub fn of(&self, doc: &str) -> String {
        let mut out = String::new();
        if !self.object(doc, &mut out) {
            out.clear();
            out.push_str("{}");
        }
        out
    }

    /// Appends what is kept of an object; whether it is one.
    fn object(&self, json: &str, out: &mut String) -> bool {
        let Some(members) = distinct(json) else { return false };
        out.push('{');
        let mut first = true;
        for (name, key, value) in members {
            let Some((_, below)) = self.0.iter().find(|(asked, _)| *asked == *name) else { continue };
            let length = out.len();
            out.push_str(if first { "" } else { "," });
            out.push_str(key);
            out.push(':');
            if below.value(value, out, 0) {
                first = false;
            } else {
                out.truncate(length);
            }
        }
        out.push('}');
        true
    }

    /// What is asked for of an item: by its place where that is named, else what is asked for of every one.
    fn of_item(&self, n: usize) -> &Self {
        let named = |(name, _): &&(String, Self)| name.parse() == Ok(n);
        self.0.iter().find(named).map_or(self, |(_, below)| below)
    }

    /// Appends what is kept of a value; whether anything is.
    fn value(&self, json: &str, out: &mut String, nested: usize) -> bool {
        if self.0.is_empty() {
            out.push_str(json);
            return true;
        }
        match json.as_bytes().get(space(json.as_bytes(), 0)) {
            Some(b'{') => {
                let length = out.len();
                self.object(json, out) && (out.len() > length + 2 || nested > 0)
            }
            Some(b'[') if nested < MAX_NESTED => {
                out.push('[');
                for (n, item) in items(json).into_iter().flatten().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    if !self.of_item(n).value(item, out, nested + 1) {
                        // It has no such field, but it has a place.
                        out.push_str("null");
                    }
                }
                out.push(']');
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(fields: &str, doc: &str) -> String {
        Projection::parse(fields).expect(fields).of(doc)
    }

    #[test]
    fn what_is_asked_for_stays_as_it_is_written() {
        let doc = r#" { "status":"new", "value" : {"amount": 1.500e3, "currency":"UAH", "vat":{"x":1}},
            "lots":[{"id":1,"n":{"a":2}},{"n":{}},7,[{"id":3}]], "st\u0061tus": "won" } "#;
        for (fields, expected) in [
            ("status", r#"{"st\u0061tus":"won"}"#),
            ("value.amount", r#"{"value":{"amount":1.500e3}}"#),
            ("value.amount,value", r#"{"value":{"amount": 1.500e3, "currency":"UAH", "vat":{"x":1}}}"#),
            ("value,value.amount", r#"{"value":{"amount": 1.500e3, "currency":"UAH", "vat":{"x":1}}}"#),
            ("lots.id", r#"{"lots":[{"id":1},{},null,[{"id":3}]]}"#),
            ("lots.n.a", r#"{"lots":[{"n":{"a":2}},{},null,[{}]]}"#),
            ("lots.1.n,lots.3.0.id", r#"{"lots":[{},{"n":{}},null,[{"id":3}]]}"#),
            ("value.none,none,status.x", "{}"),
            ("", "{}"),
        ] {
            assert_eq!(of(fields, doc), expected, "{fields}");
        }
        for bad in [",", "a,", "a..b", ".", &"a.".repeat(20), &"a,".repeat(64), &"a".repeat(129)] {
            assert_eq!(Projection::parse(bad), None, "{bad}");
        }
        assert!(Projection::parse("").expect("nothing").is_empty());
    }

    proptest! {
        /// Whatever the document is: JSON in, JSON out, and nothing that was not asked for.
        #[test]
        fn answers_are_json(doc in "\\{(\"[ab]\":(\\{(\"b\":[0-9]{1,3})?\\}|[0-9]|\\[[0-9]?(,\\{\\})?\\]|\"x\"))?(,\"c\":[0-9])?\\}") {
            prop_assume!(serde_json::from_str::<serde_json::Value>(&doc).is_ok());
            let kept: serde_json::Value = serde_json::from_str(&of("a.b", &doc)).expect("json");
            prop_assert!(kept.as_object().expect("an object").keys().all(|name| name == "a"));
        }

        #[test]
        fn hostile_text_ends(text in "[\\[\\]{}\",:\\\\ab0 \u{e9}]{0,60}") {
            let _ = of("a.b,b", &text);
        }
    }
}
