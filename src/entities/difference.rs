//! What a change says of how a document differs from the one before.

use dzvin_protocols::entities::{Fields, MAX_CHANGED, MAX_FIELD_VALUE, MORE};

use super::KindSpec;

/// Longest name in `changed`.
pub const MAX_CHANGED_NAME: usize = 200;

/// Names of the top-level fields that differ, and the earlier values of the declared ones that do. Where names are left out
/// [`MORE`] says so: whoever sees only some fields must not take the rest for all.
pub(super) fn difference(spec: &KindSpec, old: &Fields<'_>, new: &str) -> (Vec<String>, Option<String>) {
    let new = Fields::of(new);
    let mut changed = old.changed(&new);
    let all = changed.len();
    changed.retain(|name| name.len() <= MAX_CHANGED_NAME);
    changed.truncate(MAX_CHANGED);
    if changed.len() < all {
        changed.push(MORE.to_owned());
    }
    let mut before = String::new();
    for field in spec.fields() {
        let was = old.value_at(field);
        if was == new.value_at(field) || was.is_some_and(|was| was.len() > MAX_FIELD_VALUE) {
            continue;
        }
        before.push(if before.is_empty() { '{' } else { ',' });
        before.push_str(&serde_json::Value::from(field.as_str()).to_string());
        before.push(':');
        before.push_str(was.unwrap_or("null"));
    }
    (changed, (!before.is_empty()).then(|| before + "}"))
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::{entities::Declaration, platform::Kind};
    use serde_json::json;

    use super::*;
    use crate::entities::Source;

    #[test]
    fn names_that_are_left_out_are_told_as_such() {
        let kind = Kind::new("deal").expect("kind");
        let declaration = Declaration { fields: vec!["a".into()], ..Declaration::default() };
        let spec = KindSpec::new(kind, Source::Local, declaration).expect("a kind");
        let changed = |new: &str| difference(&spec, &Fields::of(r#"{"a":1}"#), new);
        assert_eq!(changed(r#"{"a":2}"#), (vec!["a".to_owned()], Some(r#"{"a":1}"#.to_owned())));
        assert_eq!(changed(&json!({"a": 1, "x".repeat(201): 2}).to_string()).0, [MORE]);
        let many: serde_json::Map<_, _> = (0..150).map(|n| (format!("f{n:03}"), json!(n))).collect();
        let (names, _) = changed(&serde_json::Value::Object(many).to_string());
        assert_eq!((names.len(), names.last().map(String::as_str)), (MAX_CHANGED + 1, Some(MORE)));
    }
}
