//! Documents as raw JSON text: what storage refuses, what counts as the same content, which fields differ.
//!
//! Invariants: numbers are compared as they are spelled (`1.0` is not `1.00`: nothing here goes through `f64`); the order
//! of keys, white space and the spelling of escapes are not content, because the push feed and the HTTP feed of one
//! upstream need not be written by the same serialiser. Nothing recurses deeper than [`MAX_DEPTH`].

use std::borrow::Cow;

use memchr::memchr2;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::raw::{items, members, scalar_end, space, string_end, unquote, value_end};

/// Deepest nesting that is kept. What serde_json itself accepts, far above any real document (about 12) and far below what
/// would strain a stack anywhere.
pub const MAX_DEPTH: usize = 128;

/// Longest number that is kept, and its greatest exponent: PostgreSQL's numeric ends at 131072 digits before the point and
/// 16383 after it; nothing real comes near.
pub const MAX_NUMBER: usize = 1000;

/// A document that storage cannot keep. The text of [`Unfit::code`] is the quarantine reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `\u0000`, which JSONB refuses.
    #[error("the text holds \\u0000")]
    Nul,
    /// Half of a surrogate pair, which JSONB refuses.
    #[error("the text holds a lone surrogate")]
    LoneSurrogate,
    /// Deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A number beyond [`MAX_NUMBER`] digits or powers of ten.
    #[error("a number beyond {MAX_NUMBER} digits or powers of ten")]
    Number,
    /// Not a JSON object.
    #[error("not a JSON object")]
    NotObject,
}

impl Unfit {
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Nul | Self::LoneSurrogate => "bad_text",
            Self::TooDeep => "too_deep",
            Self::Number => "bad_number",
            Self::NotObject => "not_object",
        }
    }
}

/// Whether storage can keep the document. One pass over the bytes.
///
/// # Errors
/// The first thing that JSONB would refuse, or that is above our limits.
pub fn check(doc: &RawValue) -> Result<(), Unfit> {
    let text = doc.get().as_bytes();
    if text.first() != Some(&b'{') {
        return Err(Unfit::NotObject);
    }
    let (mut at, mut depth) = (0, 0usize);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = check_string(text, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Unfit::TooDeep);
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let end = scalar_end(text, at);
                check_number(&text[at..end])?;
                at = end;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

fn check_string(text: &[u8], mut at: usize) -> Result<usize, Unfit> {
    loop {
        at += text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)).unwrap_or(text.len());
        match text.get(at) {
            None => return Ok(at),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if text.get(at + 1) == Some(&b'u') => match unit(text, at) {
                Some(0) => return Err(Unfit::Nul),
                Some(0xD800..=0xDBFF) if matches!(unit(text, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
                Some(0xD800..=0xDFFF) => return Err(Unfit::LoneSurrogate),
                _ => at += 6,
            },
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// The code unit that `\uXXXX` at `at` spells.
fn unit(text: &[u8], at: usize) -> Option<u32> {
    let escape = text.get(at..at + 6).filter(|e| e.starts_with(b"\\u"))?;
    u32::from_str_radix(std::str::from_utf8(&escape[2..]).ok()?, 16).ok()
}

fn check_number(number: &[u8]) -> Result<(), Unfit> {
    let exponent = number.iter().position(|b| matches!(b, b'e' | b'E')).map(|e| &number[e + 1..]);
    let small = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(b"+").or(e.strip_prefix(b"-")).unwrap_or(e);
        let value = std::str::from_utf8(digits).ok().and_then(|d| d.parse::<u32>().ok());
        value.is_some_and(|value| value as usize <= MAX_NUMBER)
    });
    if number.len() <= MAX_NUMBER && small { Ok(()) } else { Err(Unfit::Number) }
}

/// A value by its dotted path (`_meta.systemDateModified`, `items.0.id`), as it is written.
#[must_use]
pub fn value_at<'a>(doc: &'a RawValue, path: &str) -> Option<&'a str> {
    descend(doc.get(), path)
}

fn descend<'a>(value: &'a str, path: &str) -> Option<&'a str> {
    path.split('.').try_fold(value, |value, step| {
        super::raw::member(value, step).or_else(|| items(value)?.nth(step.parse().ok()?))
    })
}

/// A string, number or boolean by its dotted path, as the text that an equality filter compares: strings without quotes
/// and escapes, the rest as written. `None` for null, objects, arrays and what is not there.
#[must_use]
pub fn scalar_at<'a>(doc: &'a RawValue, path: &str) -> Option<Cow<'a, str>> {
    scalar(value_at(doc, path)?)
}

fn scalar(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes().first()? {
        b'"' => unquote(value),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value)),
    }
}

/// The declared fields that the document has, with the text that an equality filter compares.
#[must_use]
pub fn filter_values<'f>(doc: &RawValue, fields: &'f [String]) -> Vec<(&'f str, String)> {
    Fields::of(doc.get()).filter_values(fields)
}

/// SHA-256 of the content without the values at `version_paths`: equal for two documents that differ only in their
/// versions, in the order of keys, in white space or in how characters are escaped.
#[must_use]
pub fn content_hash<P: AsRef<str>>(doc: &RawValue, version_paths: &[P]) -> [u8; 32] {
    Sha256::digest(canonical(doc.get(), version_paths)).into()
}

/// Top-level fields whose content differs between two documents, sorted; fields that only one of them has included.
#[must_use]
pub fn changed_fields(old: &RawValue, new: &RawValue) -> Vec<String> {
    Fields::of(old.get()).changed(&Fields::of(new.get()))
}

/// The top-level fields of a document, found in one pass: what is asked of it then looks only into the field it names.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Fields<'a> {
    /// Of the text of a JSON object that was checked when it came; any other text has no fields.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        let mut all: Vec<_> =
            members(text).into_iter().flatten().map(|(k, v)| (unquote(k).unwrap_or(Cow::Borrowed(k)), v)).collect();
        // Stable, so of equal keys the last stays last; `dedup` keeps the first, hence the two turns.
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.reverse();
        all.dedup_by(|a, b| a.0 == b.0);
        all.reverse();
        Self(all)
    }

    /// A value by its dotted path, as it is written: [`value_at`] of an object.
    #[must_use]
    pub fn value_at(&self, path: &str) -> Option<&'a str> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let place = self.0.binary_search_by(|(name, _)| (**name).cmp(first)).ok()?;
        let value = self.0[place].1;
        rest.map_or(Some(value), |rest| descend(value, rest))
    }

    /// A scalar by its dotted path, as the text that filters compare: [`scalar_at`] of an object.
    #[must_use]
    pub fn scalar_at(&self, path: &str) -> Option<Cow<'a, str>> {
        scalar(self.value_at(path)?)
    }

    /// The declared fields that the document has, with the text that an equality filter compares.
    #[must_use]
    pub fn filter_values<'f>(&self, fields: &'f [String]) -> Vec<(&'f str, String)> {
        let scalar = |field: &str| scalar(self.value_at(field)?).map(Cow::into_owned);
        fields.iter().filter_map(|field| Some((field.as_str(), scalar(field)?))).collect()
    }

    /// Fields whose content differs in `new`, sorted; fields that only one of the two has included.
    #[must_use]
    pub fn changed(&self, new: &Fields<'_>) -> Vec<String> {
        let (mut a, mut b) = (self.0.iter().peekable(), new.0.iter().peekable());
        let mut changed = Vec::new();
        loop {
            let key: &str = match (a.peek(), b.peek()) {
                (None, None) => return changed,
                (Some(x), None) => &x.0,
                (None, Some(y)) => &y.0,
                (Some(x), Some(y)) => std::cmp::min(&x.0, &y.0),
            };
            let key = key.to_owned();
            let before = a.next_if(|x| x.0 == key).map(|x| x.1);
            let after = b.next_if(|y| y.0 == key).map(|y| y.1);
            if !matches!((before, after), (Some(x), Some(y)) if same(x, y)) {
                changed.push(key);
            }
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    a == b || canonical::<&str>(a, &[]) == canonical::<&str>(b, &[])
}

/// The canonical form that is hashed: members sorted, each with a comma behind it; never parsed back.
fn canonical<P: AsRef<str>>(text: &str, skip: &[P]) -> Vec<u8> {
    let paths = skip.iter().map(|path| path.as_ref().split('.').collect()).collect();
    let mut it =
        Canonical { text, out: Vec::with_capacity(text.len()), members: Vec::new(), scratch: Vec::new(), paths };
    it.value(space(text.as_bytes(), 0), 0, &(0..it.paths.len()).collect::<Vec<_>>());
    it.out
}

struct Canonical<'a> {
    text: &'a str,
    out: Vec<u8>,
    /// Members of the objects that are open: start, end of the key, end; in `out`.
    members: Vec<(usize, usize, usize)>,
    scratch: Vec<u8>,
    paths: Vec<Vec<&'a str>>,
}

impl Canonical<'_> {
    /// Writes the value at `at` and answers its end. `open` are the skipped paths that lead through here.
    fn value(&mut self, at: usize, depth: usize, open: &[usize]) -> usize {
        let bytes = self.text.as_bytes();
        match bytes.get(at) {
            Some(b'{') if depth < MAX_DEPTH => self.object(at, depth, open),
            Some(b'[') if depth < MAX_DEPTH => self.array(at, depth),
            Some(b'"') => {
                let end = string_end(bytes, at);
                self.string(at, end);
                end
            }
            _ => {
                let end = value_end(bytes, at);
                self.out.extend_from_slice(bytes.get(at..end).unwrap_or_default());
                end
            }
        }
    }

    fn string(&mut self, at: usize, end: usize) {
        let quoted = self.text.get(at..end).unwrap_or_default();
        match quoted.contains('\\').then(|| unquote(quoted)).flatten() {
            Some(text) => self.out.extend(serde_json::to_vec(&text).unwrap_or_default()),
            None => self.out.extend_from_slice(quoted.as_bytes()),
        }
    }

    fn array(&mut self, at: usize, depth: usize) -> usize {
        let bytes = self.text.as_bytes();
        self.out.push(b'[');
        let mut at = space(bytes, at + 1);
        while !matches!(bytes.get(at), None | Some(b']')) {
            let end = self.value(at, depth + 1, &[]);
            self.out.push(b',');
            at = next_member(bytes, end.max(at + 1));
        }
        self.out.push(b']');
        at + 1
    }

    fn object(&mut self, at: usize, depth: usize, open: &[usize]) -> usize {
        let bytes = self.text.as_bytes();
        self.out.push(b'{');
        let (base, start) = (self.members.len(), self.out.len());
        let mut at = space(bytes, at + 1);
        while bytes.get(at) == Some(&b'"') {
            let key_end = string_end(bytes, at);
            let value = space(bytes, space(bytes, key_end) + 1);
            let key = if open.is_empty() { None } else { unquote(self.text.get(at..key_end).unwrap_or_default()) };
            let under: Vec<usize> = match &key {
                Some(key) => open.iter().copied().filter(|p| self.paths[*p].get(depth) == Some(&&**key)).collect(),
                None => Vec::new(),
            };
            let end = if under.iter().any(|p| self.paths[*p].len() == depth + 1) {
                value_end(bytes, value)
            } else {
                let from = self.out.len();
                self.string(at, key_end);
                let key_to = self.out.len();
                self.out.push(b':');
                let end = self.value(value, depth + 1, &under);
                self.out.push(b',');
                self.members.push((from, key_to, self.out.len()));
                end
            };
            at = next_member(bytes, end);
        }
        self.sort(base, start);
        self.out.push(b'}');
        at + 1
    }

    /// Puts the members written since `start` in the order of their keys.
    fn sort(&mut self, base: usize, start: usize) {
        let (out, open) = (&mut self.out, &mut self.members[base..]);
        if !open.is_sorted_by(|a, b| out[a.0..a.1] <= out[b.0..b.1]) {
            open.sort_by(|a, b| out[a.0..a.1].cmp(&out[b.0..b.1]));
            self.scratch.clear();
            for (from, _, to) in open {
                self.scratch.extend_from_slice(&out[*from..*to]);
            }
            out.truncate(start);
            out.extend_from_slice(&self.scratch);
        }
        self.members.truncate(base);
    }
}

/// Past the comma, if there is one.
fn next_member(bytes: &[u8], at: usize) -> usize {
    let at = space(bytes, at);
    if bytes.get(at) == Some(&b',') { space(bytes, at + 1) } else { at }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect(text)
    }

    #[test]
    fn what_the_database_refuses_is_named() {
        for (text, expected) in [
            (r#"{"a":"\u0041\ud83d\ude00 \\u0000"}"#, Ok(())),
            (r#"{"a":"\u0000"}"#, Err(Unfit::Nul)),
            (r#"{"\u0000":1}"#, Err(Unfit::Nul)),
            (r#"{"a":"\ud83d"}"#, Err(Unfit::LoneSurrogate)),
            (r#"{"a":"\ude00"}"#, Err(Unfit::LoneSurrogate)),
            (r#"{"a":"\ud83d\u0041"}"#, Err(Unfit::LoneSurrogate)),
            (r#"{"a":1e999}"#, Ok(())),
            (r#"{"a":1e200000}"#, Err(Unfit::Number)),
            (r#"{"a":-1E-99999999999999999999}"#, Err(Unfit::Number)),
            ("[]", Err(Unfit::NotObject)),
            ("1", Err(Unfit::NotObject)),
        ] {
            assert_eq!(check(&raw(text)), expected, "{text}");
        }
        assert_eq!(check(&raw(&format!(r#"{{"a":{}}}"#, "9".repeat(1001)))), Err(Unfit::Number));
    }

    #[test]
    fn depth_is_limited_and_never_overflows_the_stack() {
        let nested = |n: usize| raw(&format!(r#"{{"a":{}1{}}}"#, "[".repeat(n), "]".repeat(n)));
        assert_eq!(check(&nested(MAX_DEPTH - 1)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH)), Err(Unfit::TooDeep));
        let deep = nested(2_000_000);
        assert_eq!(check(&deep), Err(Unfit::TooDeep));
        let _ = (content_hash::<&str>(&deep, &[]), changed_fields(&deep, &nested(5)), value_at(&deep, "a.0.0"));
    }

    #[test]
    fn content_is_what_is_said_not_how() {
        let paths = ["_meta.systemDateModified", "dateModified"];
        let hash = |text: &str| content_hash(&raw(text), &paths);
        let one = hash(
            r#"{"a":1.0,"b":{"x":"é","y":[1,{"p":1,"q":2}]},"_meta":{"systemDateModified":"1","o":1},"dateModified":"1"}"#,
        );
        let two = hash(
            "{ \"dateModified\":\"2\", \"b\":{\"y\":[1, {\"q\":2,\"p\":1}],\"x\":\"\\u00e9\"},\"_meta\":{\"o\":1,\"systemDateModified\":\"2\"},\"\\u0061\":1.0}",
        );
        assert_eq!(one, two);
        assert_ne!(hash(r#"{"a":1.0}"#), hash(r#"{"a":1.00}"#), "number spelling is content");
        assert_ne!(hash(r#"{"a":[1,2]}"#), hash(r#"{"a":[2,1]}"#), "the order of an array is content");
        assert_ne!(
            hash(r#"{"b":{"dateModified":"1"}}"#),
            hash(r#"{"b":{"dateModified":"2"}}"#),
            "only the path itself"
        );
        assert_ne!(hash(r#"{"a":"1"}"#), hash(r#"{"a":1}"#));
        assert_ne!(hash(r#"{"a":12345678901234567890123}"#), hash(r#"{"a":12345678901234567890124}"#));
    }

    #[test]
    fn changed_fields_are_sorted_and_complete() {
        let (old, new) = (
            raw(r#"{"z":1,"a":{"x":1,"y":2},"gone":1,"n":1.0}"#),
            raw(r#"{"a":{"y":2, "x":1},"z":2,"new":0,"n":1.00}"#),
        );
        assert_eq!(changed_fields(&old, &new), ["gone", "n", "new", "z"]);
        assert!(changed_fields(&old, &old).is_empty());
    }

    #[test]
    fn filters_read_scalars_by_path() {
        let doc = raw(r#"{"s":"a\"b","o":{"n":904.240},"l":[{"b":true}],"z":null,"x":{}}"#);
        let fields: Vec<String> = ["s", "o.n", "l.0.b", "z", "x", "nope.n"].map(str::to_owned).into();
        assert_eq!(
            filter_values(&doc, &fields),
            [("s", "a\"b".to_owned()), ("o.n", "904.240".to_owned()), ("l.0.b", "true".to_owned())]
        );
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("\\PC{0,5}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect()))
            ]
        })
    }

    /// The same value with keys reversed and white space added.
    fn shuffled(value: &Value) -> String {
        match value {
            Value::Object(all) => {
                let parts: Vec<_> =
                    all.iter().rev().map(|(k, v)| format!("{} : {}", Value::from(k.as_str()), shuffled(v))).collect();
                format!("{{ {} }}", parts.join(" ,\n"))
            }
            Value::Array(all) => format!("[{}]", all.iter().map(shuffled).collect::<Vec<_>>().join(" , ")),
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_a_walk_finds(value in json(), path in "[a-c0-1]{0,2}(\\.[a-c0-1]{0,2}){0,2}") {
            let doc = raw(&serde_json::json!({"a": value, "b": [value, {"c": value}], "0": 1}).to_string());
            prop_assert_eq!(Fields::of(doc.get()).value_at(&path), value_at(&doc, &path));
        }

        #[test]
        fn equal_values_have_equal_hashes(value in json(), other in json()) {
            let (a, b) = (raw(&value.to_string()), raw(&shuffled(&value)));
            prop_assert_eq!(content_hash::<&str>(&a, &[]), content_hash::<&str>(&b, &[]));
            prop_assert!(changed_fields(&a, &b).is_empty());
            let c = raw(&other.to_string());
            prop_assert_eq!(content_hash::<&str>(&a, &[]) == content_hash::<&str>(&c, &[]), value == other);
        }
    }
}
