//! Secrets out of what is written for people: recorded frames, quarantined bytes, error texts.

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

/// The text with the values of secret keys replaced: JSON members whatever their type, and `key=value` pairs of addresses
/// inside strings. Works on any text; what is cut off in the middle is masked to the end.
#[must_use]
pub fn mask_secrets(text: &str) -> String {
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
        mask_pairs(quoted, &mut out);
        let colon = raw::space(bytes, end);
        at = end;
        if bytes.get(colon) == Some(&b':') && is_secret(quoted.trim_matches('"')) {
            let value = raw::space(bytes, colon + 1);
            out.push_str(":\"***\"");
            at = raw::value_end(bytes, value).max(value).min(text.len());
        }
    }
    out
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
        out.push_str(before);
        out.push('=');
        rest = after;
        if is_secret(key) {
            out.push_str(MASK);
            let end = after.find(['&', '"', ' ', '\'', '#', '<', '\\', '\n']).unwrap_or(after.len());
            rest = &after[end..];
        }
    }
    out.push_str(rest);
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
        ] {
            assert_eq!(mask_secrets(text), masked);
        }
    }

    proptest! {
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
