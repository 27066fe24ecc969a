use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn mask(paths: &[&str]) -> Mask {
    Mask::parse(paths).expect("a mask").expect("some paths")
}

#[test]
fn what_is_hidden_is_gone_and_the_rest_is_as_it_was() {
    let it = mask(&["phone", "contacts.email", "/odd.name", "deep.er"]);
    for (doc, expected) in [
        (r#"{"phone":1}"#, "{}"),
        (r#"{ "phone" : "+380" , "v" : 904.240 }"#, r#"{ "v" : 904.240 }"#),
        (r#"{"v":1.00,"phone":{"a":[1,2]}}"#, r#"{"v":1.00}"#),
        (r#"{"v":1, "phone":2, "w":3}"#, r#"{"v":1, "w":3}"#),
        (r#"{"phone":1,"phone":2,"v":3,"phone":4,"phone":5}"#, r#"{"v":3}"#),
        // Spelled otherwise it is the same name.
        (r#"{"\u0070hone":1,"p\u0068one":2,"phone\u0000":3}"#, r#"{"phone\u0000":3}"#),
        (r#"{"a\"phone":1,"phone":"\"}"}"#, r#"{"a\"phone":1}"#),
        // Through arrays, however deep they nest.
        (r#"{"contacts":[{"email":1,"n":2},[{"email":3}],7,"email"]}"#, r#"{"contacts":[{"n":2},[{}],7,"email"]}"#),
        (r#"[{"phone":1,"v":2}]"#, r#"[{"v":2}]"#),
        (r#"{"contacts":{"email":1},"email":2}"#, r#"{"contacts":{},"email":2}"#),
        (r#"{"odd.name":1,"odd":{"name":2}}"#, r#"{"odd":{"name":2}}"#),
        // A path that leads nowhere hides nothing.
        (r#"{"deep":"er","contacts":null,"v":1e400}"#, r#"{"deep":"er","contacts":null,"v":1e400}"#),
        (r#"{"x":{"phone":1}}"#, r#"{"x":{"phone":1}}"#),
        ("{}", "{}"),
        (" \"phone\" ", " \"phone\" "),
    ] {
        assert_eq!(it.cut(doc), expected, "{doc}");
    }
}

#[test]
fn what_cannot_be_walked_is_hidden_whole() {
    let it = mask(&["phone", "a.b"]);
    let deep = format!("{}{{\"phone\":1}}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    for doc in [
        "",
        "{",
        "{}x",
        r#"{"v":1,,"phone":2}"#,
        r#"{"v":[}],"phone":2}"#,
        r#"{"v":1 "phone":2}"#,
        r#"{"v"1,"phone":2}"#,
        r#"{"v":,"phone":2}"#,
        r#"{"v":1}{"phone":2}"#,
        r#"{"\ud800":1,"phone":2}"#,
        r#"{"v":"1,"phone":2}"#,
        r#"{"a":{"c":1,"phone":2}"#,
        r#"{'v':1,"phone":2}"#,
        deep.as_str(),
    ] {
        assert_eq!(it.cut(doc), "null", "{doc:.80}");
    }
    let near = format!("{}{{\"phone\":1}}{}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
    assert_eq!(it.cut(&near), near.replace("\"phone\":1", ""));
}

#[test]
fn paths_are_checked() {
    assert_eq!(Mask::parse::<&str>(&[]), Ok(None));
    for bad in ["", ".", "a.", ".a", "a..b", "/", "/a/", "/~2", "/a~", &"a.".repeat(MAX_MASK_STEPS), &"a".repeat(257)] {
        assert!(matches!(Mask::parse(&[bad]), Err(MaskError::Path(_))), "{bad}");
    }
    assert!(matches!(Mask::parse(&["items.0.id"]), Err(MaskError::Number(_))));
    assert_eq!(Mask::parse(&vec!["a"; MAX_MASK_PATHS + 1]), Err(MaskError::Many));
    assert_eq!(mask(&["/a~1b/~0c"]).cut(r#"{"a/b":{"~c":1,"d":2}}"#), r#"{"a/b":{"d":2}}"#);
    assert_eq!(mask(&["a.b", "a", "a.c.d"]), mask(&["a"]), "what lies below is hidden already");
    assert_eq!(mask(&["a", "a-b", "a.b"]), mask(&["a-b", "a"]));
}

#[test]
fn several_masks_hide_what_all_of_them_hide() {
    let both = |a: &[&str], b: &[&str]| mask(a).both(&mask(b));
    assert_eq!(both(&["a", "b"], &["b", "c"]), Some(mask(&["b"])));
    assert_eq!(both(&["a"], &["a.b", "c"]), Some(mask(&["a.b"])));
    assert_eq!(both(&["a.b"], &["a.c"]), None);
    let many: Vec<Mask> = (0..6).map(|n| mask(&[&*format!("f{n}"), &*format!("f{}", (n + 1) % 6)])).collect();
    // Six, and each two neighbours share one field.
    assert_eq!(Mask::all_of(&many).expect("few").len(), 12);
    let many: Vec<Mask> = (0..17).map(|n| mask(&[&*format!("f{n}")])).collect();
    assert_eq!(Mask::all_of(&many[..16]).map(|all| all.len()), Some(16));
    assert_eq!(Mask::all_of(&many), None);
}

#[test]
fn fields_are_judged_by_their_paths() {
    let it = mask(&["phone", "contacts.email"]);
    for (field, hidden) in [
        ("phone", true),
        ("phone.home", true),
        ("phones", false),
        ("contacts", false),
        ("contacts.email", true),
        ("contacts.0.email", true),
        ("0.contacts.1.email.domain", true),
        ("contacts.name", false),
    ] {
        assert_eq!(it.hides(field), hidden, "{field}");
    }
    assert!(it.hides_top("phone") && !it.hides_top("contacts"));
    assert_eq!(it.within("contacts"), Some(mask(&["email"])));
    assert_eq!(it.within("contacts.0"), Some(mask(&["email"])));
    assert_eq!(it.within("name"), None);
}

/// What the mask means, by values: slow, and plainly right.
fn without(value: &Value, paths: &[Vec<&str>]) -> Value {
    match value {
        Value::Array(all) => all.iter().map(|one| without(one, paths)).collect(),
        Value::Object(all) => {
            let kept = all.iter().filter(|(name, _)| !paths.iter().any(|path| path[..] == [name.as_str()]));
            let inner = |name: &str| {
                let below = paths.iter().filter(|path| path.len() > 1 && path[0] == name);
                below.map(|path| path[1..].to_vec()).collect::<Vec<_>>()
            };
            kept.map(|(name, value)| (name.clone(), without(value, &inner(name))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<u8>().prop_map(Value::from),
        "[a-c\"\\\\{}\\[\\], é]{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[abc]", inner), 0..5)
                .prop_map(|all| all.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn comes_to_what_it_means(doc in documents(), paths in proptest::collection::vec("[abc](\\.[abc]){0,2}", 1..4), pretty: bool, escaped: bool) {
        let it = Mask::parse(&paths).unwrap().unwrap();
        let mut text = if pretty { serde_json::to_string_pretty(&doc).unwrap() } else { doc.to_string() };
        if escaped {
            text = text.replace("\"a\":", "\"\\u0061\":");
        }
        let paths: Vec<Vec<&str>> = paths.iter().map(|path| path.split('.').collect()).collect();
        let cut = it.cut(&text);
        prop_assert_eq!(serde_json::from_str::<Value>(&cut).expect(&cut), without(&doc, &paths));
        prop_assert_eq!(it.cut(&cut), &*cut, "nothing is left to hide");
    }

    #[test]
    fn hostile_text_shows_nothing_hidden(text in "[\\[\\]{}\",:\\\\ab0 \u{e9}]{0,60}") {
        let cut = mask(&["a", "b.a"]).cut(&text).into_owned();
        prop_assert!(cut == "null" || cut.len() <= text.len());
        if let Ok(Value::Object(all)) = serde_json::from_str::<Value>(&cut) {
            prop_assert!(!all.contains_key("a"));
        }
    }

    #[test]
    fn both_hide_what_each_hides(doc in documents(), a in proptest::collection::vec("[abc](\\.[abc]){0,2}", 1..4), b in proptest::collection::vec("[abc](\\.[abc]){0,2}", 1..4)) {
        let (one, other) = (Mask::parse(&a).unwrap().unwrap(), Mask::parse(&b).unwrap().unwrap());
        let text = doc.to_string();
        // Whoever may see what either shows sees at least that much.
        let union = one.both(&other).map_or(text.clone(), |both| both.cut(&text).into_owned());
        prop_assert!(union.len() >= one.cut(&text).len().max(other.cut(&text).len()));
        prop_assert_eq!(one.both(&other), other.both(&one));
    }
}
