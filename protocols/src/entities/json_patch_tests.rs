use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMIT: usize = 64 * 1024;

/// Documents and patches: few names, so that they meet, and values of every sort.
pub(in crate::entities) fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..5_i64).prop_map(Value::from),
        "[a-cґ/~\"]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-cґ/~]{0,2}", inner, 0..4)
                .prop_map(|all| Value::from(serde_json::Map::from_iter(all))),
        ]
    })
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect(text)
}

fn patched(doc: &str, patch: &str) -> Result<String, JsonPatchFault> {
    let (doc, patch) = (raw(doc), raw(patch));
    let done = JsonPatch::read(&patch).and_then(|patch| patch.apply(&doc, LIMIT));
    done.map(|doc| doc.get().to_owned()).map_err(|error| error.why)
}

/// The cases of RFC 6902, appendix A.
#[test]
fn those_of_the_standard() {
    use JsonPatchFault::{Form, Nothing, Test};
    for (doc, patch, expected) in [
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz","value":"qux"}]"#, Ok(r#"{"foo":"bar","baz":"qux"}"#)),
        (
            r#"{"foo":["bar","baz"]}"#,
            r#"[{"op":"add","path":"/foo/1","value":"qux"}]"#,
            Ok(r#"{"foo":["bar","qux","baz"]}"#),
        ),
        (r#"{"baz":"qux","foo":"bar"}"#, r#"[{"op":"remove","path":"/baz"}]"#, Ok(r#"{"foo":"bar"}"#)),
        (r#"{"foo":["bar","qux","baz"]}"#, r#"[{"op":"remove","path":"/foo/1"}]"#, Ok(r#"{"foo":["bar","baz"]}"#)),
        (r#"{"baz":"qux"}"#, r#"[{"op":"replace","path":"/baz","value":"boo"}]"#, Ok(r#"{"baz":"boo"}"#)),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            r#"[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]"#,
            Ok(r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#),
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            r#"[{"op":"move","from":"/foo/1","path":"/foo/3"}]"#,
            Ok(r#"{"foo":["all","cows","eat","grass"]}"#),
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            r#"[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2}]"#,
            Ok(r#"{"baz":"qux","foo":["a",2,"c"]}"#),
        ),
        (r#"{"baz":"qux"}"#, r#"[{"op":"test","path":"/baz","value":"bar"}]"#, Err(Test)),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/child","value":{"grandchild":{}}}]"#,
            Ok(r#"{"foo":"bar","child":{"grandchild":{}}}"#),
        ),
        (
            r#"{"foo":"bar"}"#,
            r#"[{"op":"add","path":"/baz","value":"qux","xyz":123}]"#,
            Ok(r#"{"foo":"bar","baz":"qux"}"#),
        ),
        (r#"{"foo":"bar"}"#, r#"[{"op":"add","path":"/baz/bat","value":"qux"}]"#, Err(Nothing)),
        (r#"{"foo":"bar"}"#, r#"[{"op":"merge","path":"/baz","value":"qux"}]"#, Err(Form)),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":10}]"#, Ok(r#"{"/":9,"~1":10}"#)),
        (r#"{"/":9,"~1":10}"#, r#"[{"op":"test","path":"/~01","value":"10"}]"#, Err(Test)),
        (
            r#"{"foo":["bar"]}"#,
            r#"[{"op":"add","path":"/foo/-","value":["abc","def"]}]"#,
            Ok(r#"{"foo":["bar",["abc","def"]]}"#),
        ),
    ] {
        assert_eq!(patched(doc, patch).as_deref(), expected.as_deref(), "{doc} {patch}");
    }
}

#[test]
fn spelling_is_kept_and_values_are_compared_by_what_they_are_worth() {
    let doc = r#"{"n":1.00,"o":{ "big" : 12345678901234567890.10 },"\u0061":2}"#;
    assert_eq!(
        patched(doc, r#"[{"op":"add","path":"/m","value":2.50},{"op":"replace","path":"/a","value":3}]"#).as_deref(),
        Ok(r#"{"n":1.00,"o":{ "big" : 12345678901234567890.10 },"\u0061":3,"m":2.50}"#)
    );
    for (value, same) in [("1", true), ("10e-1", true), ("1.01", false), ("\"1.00\"", false)] {
        let patch = format!(r#"[{{"op":"test","path":"/n","value":{value}}}]"#);
        assert_eq!(patched(doc, &patch).is_ok(), same, "{value}");
    }
    let test = r#"[{"op":"test","path":"","value":{"a":2,"o":{"big":12345678901234567890.1},"\u006e":1}}]"#;
    assert!(patched(doc, test).is_ok(), "members in any order, names as they read");
}

#[test]
fn what_is_malformed_or_leads_nowhere_is_told() {
    use JsonPatchFault::{Form, IntoItself, Nothing, Pointer, TooMuch};
    let deep = "/a".repeat(MAX_DEPTH + 1);
    for (patch, fault) in [
        ("{}".to_owned(), Form),
        ("[1]".to_owned(), Form),
        (r#"[{"path":"/a"}]"#.to_owned(), Form),
        (r#"[{"op":"add","path":"/a"}]"#.to_owned(), Form),
        (r#"[{"op":"move","path":"/a"}]"#.to_owned(), Form),
        (r#"[{"op":"remove","path":"a"}]"#.to_owned(), Pointer),
        (r#"[{"op":"remove","path":"/a~2"}]"#.to_owned(), Pointer),
        (format!(r#"[{{"op":"remove","path":"{deep}"}}]"#), Pointer),
        (r#"[{"op":"remove","path":""}]"#.to_owned(), Nothing),
        (r#"[{"op":"remove","path":"/l/01"}]"#.to_owned(), Nothing),
        (r#"[{"op":"remove","path":"/l/-"}]"#.to_owned(), Nothing),
        (r#"[{"op":"add","path":"/l/3","value":1}]"#.to_owned(), Nothing),
        (r#"[{"op":"add","path":"/l/x","value":1}]"#.to_owned(), Nothing),
        (r#"[{"op":"replace","path":"/none","value":1}]"#.to_owned(), Nothing),
        (r#"[{"op":"move","from":"/l","path":"/l/0"}]"#.to_owned(), IntoItself),
        (format!("[{}]", vec![r#"{"op":"test","path":"/l","value":[1,2]}"#; MAX_OPERATIONS + 1].join(",")), Form),
        (many(30, |n| format!(r#"{{"op":"copy","from":"","path":"/c{n}"}}"#)), TooMuch),
        (many(30, |_| r#"{"op":"copy","from":"/l","path":"/l/-"}"#.to_owned()), TooMuch),
    ] {
        assert_eq!(patched(r#"{"l":[1,2]}"#, &patch), Err(fault), "{patch}");
    }
    let wide = format!(r#"{{"l":[{}0]}}"#, "0,".repeat(20_000));
    let removes = |times| many(times, |_| r#"{"op":"remove","path":"/l/0"}"#.to_owned());
    assert!(patched(&wide, &removes(5)).is_ok());
    assert_eq!(patched(&wide, &removes(500)), Err(TooMuch), "what is shifted each time is work");
    let broad = format!("{{{}}}", (0..5_000).map(|n| format!(r#""m{n}":1"#)).collect::<Vec<_>>().join(","));
    let last = |times| many(times, |_| r#"{"op":"test","path":"/m4999","value":1}"#.to_owned());
    assert!(patched(&broad, &last(5)).is_ok());
    assert_eq!(patched(&broad, &last(500)), Err(TooMuch), "what is looked through each time is work");
    let nested = many(MAX_DEPTH, |n| format!(r#"{{"op":"add","path":"{}","value":{{}}}}"#, "/a".repeat(n + 1)));
    assert_eq!(patched("{}", &nested), Err(TooMuch), "too deep");
}

fn many(times: usize, operation: impl Fn(usize) -> String) -> String {
    format!("[{}]", (0..times).map(operation).collect::<Vec<_>>().join(","))
}

/// Operations on places that are there, and on some that are not.
fn patches(doc: &Value) -> impl Strategy<Value = Value> + use<> {
    fn places(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| places(value, &format!("{at}/{}", escaped(name)), all));
                all.push(format!("{at}/new"));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, value)| places(value, &format!("{at}/{n}"), all));
                all.extend([format!("{at}/-"), format!("{at}/{}", items.len())]);
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    places(doc, "", &mut all);
    let place = proptest::sample::select(all);
    let operation = (0..6, place.clone(), place, documents()).prop_map(|(which, path, from, value)| match which {
        0 => json!({"op": "add", "path": path, "value": value}),
        1 => json!({"op": "remove", "path": path}),
        2 => json!({"op": "replace", "path": path, "value": value}),
        // Whether the whole document can be moved to where it is, they see otherwise.
        3 if !from.is_empty() => json!({"op": "move", "from": from, "path": path}),
        3 | 4 => json!({"op": "copy", "from": from, "path": path}),
        _ => json!({"op": "test", "path": path, "value": value}),
    });
    proptest::collection::vec(operation, 1..6).prop_map(Value::from)
}

proptest! {
    /// As another implementation has it.
    #[test]
    fn it_does_what_others_do((doc, patch) in documents().prop_flat_map(|doc| { let patches = patches(&doc); (Just(doc), patches) })) {
        let ours = patched(&doc.to_string(), &patch.to_string());
        let mut theirs = doc;
        let done = json_patch::patch_unsafe(&mut theirs, &serde_json::from_value::<json_patch::Patch>(patch).expect("a patch"));
        prop_assert_eq!(ours.is_ok(), done.is_ok(), "{:?} {:?}", ours, done);
        if let Ok(ours) = ours {
            prop_assert_eq!(serde_json::from_str::<Value>(&ours).expect("JSON"), theirs);
        }
    }

    #[test]
    fn hostile_patches_are_values(doc in "[\\[\\]{}\",:a0 ]{0,30}", patch in "[\\[\\]{}\",:a0oppathfrm/~ ]{0,60}") {
        if let (Ok(doc), Ok(patch)) = (RawValue::from_string(doc), RawValue::from_string(patch)) {
            let _ = JsonPatch::read(&patch).and_then(|patch| patch.apply(&doc, LIMIT));
        }
    }
}
