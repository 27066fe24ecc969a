//! Secrets out of what is written for people, and out of documents before they are stored.
//!
//! For people ([`mask_secrets`]: recorded frames, quarantined bytes, error texts) whatever may be a secret goes. In documents
//! only the members that the dialect names go ([`Dialect::secrets`]), and `token` where its value is a signed token:
//! everything else keeps its exact text.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::dialect::Dialect;
use crate::entities::raw;

/// Keys whose values are secrets, in lower case.
const KEYS: [&str; 9] = [
    "authorization",
    "acc_token",
    "token",
    "ownertoken",
    "owner_token",
    "access_token",
    "transfer_token",
    "password",
    "secret",
];

/// What stands where a secret was.
const MASK: &str = "***";
/// The same as a JSON value.
const MASK_JSON: &str = "\"***\"";
/// JSON inside a string inside JSON: so deep it is still read.
const MAX_INSIDE: usize = 3;
/// Shortest text that can be a signed token: three parts, none of them empty, the first a JSON object.
const MIN_SIGNED: usize = 20;

/// The text with the values of secret keys replaced: JSON members whatever their type and however the key is spelled, JSON
/// inside strings, `key=value` pairs of addresses, bearer tokens, and whatever has the form of a signed token. Works on any
/// text; what is cut off in the middle is masked to the end.
#[must_use]
pub fn mask_secrets(text: &str) -> String {
    masked(text, MAX_INSIDE)
}

fn masked(text: &str, inside: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'"' {
            let end = text[at..].find('"').map_or(text.len(), |n| at + n);
            mask_pairs(&text[at..end], &mut out);
            at = end;
            continue;
        }
        let end = raw::string_end(bytes, at).min(text.len());
        let quoted = text.get(at..end).unwrap_or_default();
        mask_string(quoted, inside, &mut out);
        let colon = raw::space(bytes, end);
        at = end;
        if bytes.get(colon) == Some(&b':') && is_secret(&key_of(quoted)) {
            let value = raw::space(bytes, colon + 1);
            out.push(':');
            out.push_str(MASK_JSON);
            at = raw::value_end(bytes, value).max(value).min(text.len());
        }
    }
    out
}

/// A quoted string; JSON inside it has quotes that are escaped.
fn mask_string(quoted: &str, inside: usize, out: &mut String) {
    let json = (inside > 0 && quoted.contains("\\\"")).then(|| raw::unquote(quoted)).flatten();
    match json.map(|text| (masked(&text, inside - 1), text)) {
        Some((clean, text)) if clean != text => out.push_str(&serde_json::Value::from(clean).to_string()),
        _ => mask_pairs(quoted, out),
    }
}

/// The text of a key, also of one that spells letters as `\uXXXX`.
fn key_of(quoted: &str) -> Cow<'_, str> {
    raw::unquote(quoted).unwrap_or_else(|| quoted.trim_matches('"').into())
}

fn is_secret(key: &str) -> bool {
    KEYS.iter().any(|secret| secret.eq_ignore_ascii_case(key))
}

/// Masks `key=value` up to the end of the value.
fn mask_pairs(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(equals) = rest.find('=') {
        let (before, after) = (&rest[..equals], &rest[equals + 1..]);
        let key = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        mask_words(before, out);
        out.push('=');
        rest = after;
        if is_secret(key) {
            out.push_str(MASK);
            let end = after.find(['&', '"', ' ', '\'', '#', '<', '\\', '\n']).unwrap_or(after.len());
            rest = &after[end..];
        }
    }
    mask_words(rest, out);
}

/// Masks what follows `Bearer`, and signed tokens wherever they stand.
fn mask_words(text: &str, out: &mut String) {
    let of_word = |c: char| c.is_ascii_alphanumeric() || "-_.~+/".contains(c);
    let mut bearer = false;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !of_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(if !word.is_empty() && (bearer || is_signed(word)) { MASK } else { word });
        let gap = after.find(of_word).unwrap_or(after.len());
        bearer = word.eq_ignore_ascii_case("bearer") && after[..gap].trim().is_empty();
        out.push_str(&after[..gap]);
        rest = &after[gap..];
    }
}

/// Whether the text has the form of a signed token: `eyJ...` and two more parts.
fn is_signed(text: &str) -> bool {
    text.len() >= MIN_SIGNED
        && text.starts_with("eyJ")
        && text.split('.').count() == 3
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
}

impl Dialect {
    /// The document, or the object of a `$set`, with the values of secret members replaced; everything else as it is written.
    /// `null`, booleans and the empty text are no secrets.
    #[must_use]
    pub fn without_secrets(&self, doc: &RawValue) -> Box<RawValue> {
        let text = doc.get();
        // An escaped letter can hide a name; everything else is found by one fast look per name.
        let perhaps = text.contains("\"token\"") || text.contains("\\u00");
        if !perhaps && !self.secrets.iter().any(|name| text.contains(name.as_str())) {
            return doc.to_owned();
        }
        // What is put in is JSON, so the whole is; were it not, nothing of it could be shown.
        let clean = self.cleaned(text).map(RawValue::from_string);
        clean.map_or_else(|| doc.to_owned(), |clean| clean.unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    fn cleaned(&self, text: &str) -> Option<String> {
        let bytes = text.as_bytes();
        let mut out = String::new();
        let (mut at, mut copied) = (0, 0);
        while let Some(quote) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == b'"')) {
            let key = at + quote;
            let end = raw::string_end(bytes, key).min(bytes.len());
            at = end;
            let colon = raw::space(bytes, end);
            if bytes.get(colon) != Some(&b':') {
                continue;
            }
            let from = raw::space(bytes, colon + 1);
            // Most values are no texts, or have other names: only then the end of the value is looked for.
            if !self.names(text.get(key..end)?) {
                continue;
            }
            let to = raw::value_end(bytes, from);
            let value = text.get(from..to)?;
            let kept = match value.as_bytes().first() {
                Some(b'"') => value == "\"\"" || value == MASK_JSON,
                Some(b'{' | b'[' | b'-' | b'0'..=b'9') => false,
                _ => true,
            };
            let named = key_of(text.get(key..end)?);
            if !kept && (self.is_secret(&named) || raw::unquote(value).is_some_and(|value| is_signed(&value))) {
                out.push_str(text.get(copied..from)?);
                out.push_str(MASK_JSON);
                (at, copied) = (to, to);
            }
        }
        if copied == 0 {
            return None;
        }
        out.push_str(text.get(copied..)?);
        Some(out)
    }

    /// Whether the quoted key names what may be a secret.
    fn names(&self, quoted: &str) -> bool {
        let key = key_of(quoted);
        last_step(&key) == "token" || self.is_secret(&key)
    }

    fn is_secret(&self, key: &str) -> bool {
        self.secrets.iter().any(|name| name == last_step(key))
    }
}

/// Keys of a `$set` are paths.
fn last_step(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_do_not_pass() {
        for (text, masked) in [
            (r#"{"acc_token":"s3cret","a":1}"#, r#"{"acc_token":"***","a":1}"#),
            (r#"{"ownerToken" : {"x":"s3cret"},"b":"c"}"#, r#"{"ownerToken":"***","b":"c"}"#),
            (r#"{"url":"https://x/y?acc_token=s3cret&z=1"}"#, r#"{"url":"https://x/y?acc_token=***&z=1"}"#),
            ("wss://x/ws?token=s3cret", "wss://x/ws?token=***"),
            (r#"{"Authorization":"s3cr"#, r#"{"Authorization":"***""#),
            (r#"{"tokens":"kept","title":"token"}"#, r#"{"tokens":"kept","title":"token"}"#),
            (r#"{"acc\u005ftoken":"s3cret","a":1}"#, r#"{"acc\u005ftoken":"***","a":1}"#),
            (r#"{"\u0070assword":"s3cr"#, r#"{"\u0070assword":"***""#),
            (r#"{"body":"{\"acc_token\":\"s3cret\"}"}"#, r#"{"body":"{\"acc_token\":\"***\"}"}"#),
            (r#"{"said":"Bearer s3cret, no"}"#, r#"{"said":"Bearer ***, no"}"#),
            ("the token eyJhbGciOi.eyJzdWIiOi.c2lnbmF0 is bad", "the token *** is bad"),
            ("a bearer of news", "a bearer *** news"),
            ("file.name.pdf eyJ.a.b", "file.name.pdf eyJ.a.b"),
        ] {
            assert_eq!(mask_secrets(text), masked);
        }
    }

    #[test]
    fn documents_lose_their_secrets_and_nothing_else() {
        let dialect = Dialect::default();
        let signed = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0";
        for (doc, expected) in [
            (r#"{ "acc_token" : "s3cret", "b":1.00}"#, r#"{ "acc_token" : "***", "b":1.00}"#),
            (r#"{"a":[{"owner\u005ftoken":"s3cret"}]}"#, r#"{"a":[{"owner\u005ftoken":"***"}]}"#),
            (r#"{"bids.0.ownerToken":{"x":["s3cret"]},"z":"\u0041"}"#, r#"{"bids.0.ownerToken":"***","z":"\u0041"}"#),
            (
                r#"{"acc_token":null,"x":{"transfer_token":"","access_token":7}}"#,
                r#"{"acc_token":null,"x":{"transfer_token":"","access_token":"***"}}"#,
            ),
            (
                r#"{"token":"жетон","tokens":"acc_token","password":"кімната"}"#,
                r#"{"token":"жетон","tokens":"acc_token","password":"кімната"}"#,
            ),
            (r#"{"acc_token":"a\"b","acc_token":"c"}"#, r#"{"acc_token":"***","acc_token":"***"}"#),
        ] {
            let raw = RawValue::from_string(doc.to_owned()).expect(doc);
            assert_eq!(dialect.without_secrets(&raw).get(), expected);
        }
        let raw = RawValue::from_string(format!(r#"{{"token":"{signed}","title":"{signed}"}}"#)).expect("json");
        assert_eq!(dialect.without_secrets(&raw).get(), format!(r#"{{"token":"***","title":"{signed}"}}"#));
        let own = Dialect { secrets: vec!["title".into()], ..Dialect::default() };
        let raw = RawValue::from_string(r#"{"title":"x","acc_token":"y"}"#.to_owned()).expect("json");
        assert_eq!(own.without_secrets(&raw).get(), r#"{"title":"***","acc_token":"y"}"#);
    }

    proptest! {
        #[test]
        fn a_secret_in_a_document_never_passes(secret in "[A-Z]{8,20}", pad in "[a-z é\\\\\"{:,]{0,12}", deep in 0usize..4) {
            let pad = serde_json::Value::from(pad).to_string();
            let inner = format!("{{{pad}:{pad},\"owner_token\":[\"{secret}\",{pad}],\"n\":1.50}}");
            let text = format!("{}{inner}{}", "{\"a\":[".repeat(deep), "]}".repeat(deep));
            let raw = RawValue::from_string(text.clone()).unwrap();
            let clean = Dialect::default().without_secrets(&raw);
            prop_assert_eq!(clean.get(), text.replace(&format!("[\"{secret}\",{pad}]"), "\"***\""));
        }

        #[test]
        fn a_secret_in_json_never_passes(secret in "[A-Z]{8,20}", key in proptest::sample::select(&KEYS[..]), pad in "[a-z é]{0,9}") {
            let text = format!("{{\"x\":\"{pad}\",\"y\":[{{\"{key}\":\"{secret}\"}}],\"u\":\"/p?{key}={secret}\"}}");
            prop_assert!(!mask_secrets(&text).contains(&secret));
        }

        #[test]
        fn hostile_text_is_a_value(text in "[\"\\\\=:a{} &é]{0,40}") {
            let _ = mask_secrets(&text);
        }
    }
}
