//! The JSON Schema of a kind, made ready: what is wrong with a document, in words without its values.
//!
//! Invariants: nothing is fetched, whatever a schema names; patterns take time in proportion to the text; a schema that
//! could take more than its share is refused when it is declared (`check_schema`). Documents are judged as numbers of double
//! precision; they are stored as they came.

use dzvin_protocols::{
    entities::{Mask, Pointer, SchemaFault, Unfit, check, check_schema},
    platform::problem::ProblemValue as Violation,
};
use jsonschema::{Draft, PatternOptions, Validator};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// Most faults of one document that are told: whoever has more begins with these.
const MAX_VIOLATIONS: usize = 20;
/// Bytes of a compiled pattern, and of what it keeps while it searches.
const MAX_PATTERN: usize = 128 * 1024;
/// Longest text for people about one fault: the options of an enumeration may be many.
const MAX_TOLD: usize = 300;

/// Why a text is not taken as a schema.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// No JSON that could be kept.
    #[error("{0}")]
    Unfit(Unfit),
    /// It leads somewhere else, or costs too much.
    #[error(transparent)]
    Fault(#[from] SchemaFault),
    /// A word of it is not used as it is meant.
    #[error("{pointer:?}: {detail}")]
    Invalid {
        /// Where in the schema.
        pointer: String,
        /// What is wrong.
        detail: String,
    },
}

/// A schema that is ready to judge.
#[derive(Debug)]
pub struct Schema(Validator);

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// See [`SchemaError`].
    pub fn read(text: &RawValue) -> Result<Self, SchemaError> {
        check(text).map_err(SchemaError::Unfit)?;
        let value =
            value(text.get()).map_err(|error| SchemaError::Invalid { pointer: String::new(), detail: error })?;
        check_schema(&value)?;
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN);
        let options = jsonschema::options().with_draft(Draft::Draft202012).offline().should_validate_formats(true);
        let ready = options.with_pattern_options(patterns).build(&value);
        ready.map(Self).map_err(|error| SchemaError::Invalid {
            pointer: error.instance_path().to_string(),
            detail: told(error.to_string()),
        })
    }

    /// What is wrong with a document; nothing, if it is good. Of what a mask hides only that something is.
    #[must_use]
    pub fn violations(&self, doc: &str, mask: Option<&Mask>) -> Vec<Violation> {
        let value = match value(doc) {
            Ok(value) => value,
            // It was checked when it came: a number is at fault.
            Err(detail) => return vec![Violation { pointer: String::new(), detail, keyword: String::new() }],
        };
        // The usual case is found out without a text for anybody.
        if self.0.is_valid(&value) {
            return Vec::new();
        }
        let violation = |error: jsonschema::ValidationError<'_>| Violation {
            pointer: error.instance_path().to_string(),
            detail: told(error.masked().to_string()),
            keyword: error.kind().keyword().to_owned(),
        };
        let all = self.0.iter_errors(&value).take(MAX_VIOLATIONS).map(violation);
        let shown = all.map(|it| match mask {
            Some(mask) => hide(it, mask),
            None => it,
        });
        let mut all: Vec<_> = shown.collect();
        // What is hidden is told once, however much of it there is.
        let mut told = false;
        all.retain(|it| !it.keyword.is_empty() || !std::mem::replace(&mut told, true));
        all
    }
}

/// Of what a mask hides, and of what it stands in, neither place nor name is told.
fn hide(violation: Violation, mask: &Mask) -> Violation {
    if Pointer::parse(&violation.pointer).is_some_and(|place| !mask.touches(&place)) {
        return violation;
    }
    let detail = "this, or something in it that is hidden from you, does not fit the schema".to_owned();
    Violation { pointer: String::new(), detail, keyword: String::new() }
}

/// As it is judged, of a text that was checked, so no deeper than a stack bears.
///
/// # Errors
/// A number is beyond double precision.
fn value(text: &str) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit();
    Value::deserialize(&mut reader).map_err(|error| format!("by a schema this cannot be judged: {error}"))
}

fn told(mut text: String) -> String {
    if text.len() > MAX_TOLD {
        text.truncate(text.floor_char_boundary(MAX_TOLD));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::entities::MAX_DEPTH;
    use serde_json::json;

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).expect("json")
    }

    fn schema(value: &Value) -> Schema {
        Schema::read(&raw(value)).expect("a schema")
    }

    #[test]
    fn faults_are_told_without_values() {
        let schema = schema(&json!({
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {"name": {"type": "string", "minLength": 2}, "email": {"format": "email"}, "phone": {"pattern": "^\\+380[0-9]{9}$"}},
        }));
        assert_eq!(schema.violations(r#"{"name":"Оля","email":"o@example.com","phone":"+380441234567"}"#, None), []);
        let bad = schema.violations(r#"{"name":"x","email":"secret","phone":"0441234567"}"#, None);
        let places: Vec<_> = bad.iter().map(|it| (it.pointer.as_str(), it.keyword.as_str())).collect();
        assert_eq!(places, [("/email", "format"), ("/name", "minLength"), ("/phone", "pattern")]);
        assert!(!format!("{bad:?}").contains("secret") && !format!("{bad:?}").contains("044"), "{bad:?}");
        let lacks = schema.violations("{}", None);
        assert_eq!((lacks.len(), lacks[0].pointer.as_str(), lacks[0].keyword.as_str()), (1, "", "required"));
    }

    #[test]
    fn what_is_hidden_is_not_told() {
        let text = json!({"type": "string"});
        let schema = schema(&json!({"properties": {"phone": text, "name": text}, "required": ["phone", "email"]}));
        let mask = Mask::parse(&["phone", "email"]).expect("a mask");
        let bad = schema.violations(r#"{"phone":1,"name":2}"#, mask.as_ref());
        let told: Vec<_> = bad.iter().map(|it| (it.pointer.as_str(), it.keyword.as_str())).collect();
        assert_eq!(told, [("", ""), ("/name", "type")]);
        assert!(!["phone", "email"].iter().any(|name| format!("{bad:?}").contains(name)), "{bad:?}");
    }

    #[test]
    fn what_is_no_schema_is_named() {
        for (bad, expected) in [
            (json!({"type": "text"}), "/type"),
            (json!({"properties": {"a": {"pattern": "("}}}), "/properties/a/pattern"),
            (json!({"properties": {"a": {"pattern": "(a+)+\\1"}}}), "/properties/a/pattern"),
            (json!({"$ref": "https://example.com/x"}), "$ref"),
        ] {
            let told = Schema::read(&raw(&bad)).expect_err("no schema").to_string();
            assert!(told.contains(expected), "{told}");
        }
    }

    /// Whatever is taken must not break the stack that threads have, 2 MiB, whatever it judges.
    #[test]
    fn the_deepest_document_fits_the_stack_by_the_most_stacked_schema() {
        let stacked = (0..dzvin_protocols::entities::MAX_STACKED - 3)
            .fold(json!({"items": {"$ref": "#"}, "type": "array"}), |inner, _| json!({"allOf": [inner]}));
        let schema = schema(&stacked);
        let depth = MAX_DEPTH;
        let doc = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(schema.violations(&doc, None), []);
        let beyond = schema.violations("[1e999]", None);
        assert!(beyond.len() == 1 && beyond[0].detail.contains("number out of range"), "{beyond:?}");
        let bad = "[".repeat(depth - 1) + "1" + &"]".repeat(depth - 1);
        assert_eq!(schema.violations(&bad, None).len(), 1);
    }
}
