use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn value<'a>(fields: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
    |field| fields.iter().find(|(name, _)| *name == field).map(|(_, value)| *value)
}

#[test]
fn the_one_spelling_of_a_long_number_is_a_filter_too() {
    for number in [&"9".repeat(64), &format!("-{}e-999", "7".repeat(58)), &format!("0.{}e-999", "3".repeat(57))] {
        let filter = Filter::parse(&format!("{{\"a\":{number}}}")).expect(number);
        assert_eq!(Filter::parse(&filter.to_string()).as_ref(), Ok(&filter), "{filter}");
    }
    for long in [&"9".repeat(65), &format!("{}e0", "9".repeat(65)), &format!("1.{}", "0".repeat(63))] {
        assert!(Filter::parse(&format!("{{\"a\":{long}}}")).is_err(), "{long}");
    }
}

#[test]
fn filters_hold_in_three_values() {
    let row = [("status", "active"), ("amount", "1000.00"), ("end", "2026-11-26T10:00:00+02:00"), ("flag", "true")];
    for (text, expected) in [
        ("{}", Some(true)),
        (r#"{"status":"active"}"#, Some(true)),
        (r#"{"status":"Active"}"#, Some(false)),
        (r#"{"status":["draft","active"]}"#, Some(true)),
        (r#"{"status":{"nin":["draft","active"]}}"#, Some(false)),
        (r#"{"status":{"prefix":"act"}}"#, Some(true)),
        (r#"{"status":{"gte":"active","lt":"b"}}"#, Some(true)),
        (r#"{"status":{"gt":1}}"#, None),
        (r#"{"amount":1000}"#, Some(true)),
        (r#"{"amount":"1000"}"#, Some(false)),
        (r#"{"amount":[7,1e3]}"#, Some(true)),
        (r#"{"amount":{"gt":999.999999999999999999999,"lt":1000.0000000000000000001}}"#, Some(true)),
        (r#"{"end":{"eq":{"time":"2026-11-26T08:00:00Z"}}}"#, Some(true)),
        (r#"{"end":{"time":"2026-11-26T08:00:00.000Z"}}"#, Some(true)),
        (r#"{"end":{"lt":{"time":"2026-11-26T08:00:00Z"}}}"#, Some(false)),
        (r#"{"end":{"in":[{"time":"2026-11-26T08:00:00Z"}]}}"#, Some(true)),
        (r#"{"status":{"lt":{"time":"2026-11-26T08:00:00Z"}}}"#, None),
        (r#"{"flag":true}"#, Some(true)),
        (r#"{"flag":{"ne":true}}"#, Some(false)),
        (r#"{"status":true}"#, None),
        (r#"{"owner":"x"}"#, None),
        (r#"{"owner":{"ne":"x"}}"#, None),
        (r#"{"not":{"owner":"x"}}"#, None),
        (r#"{"owner":{"nin":["x"]}}"#, None),
        (r#"{"owner":null}"#, Some(true)),
        (r#"{"owner":{"eq":null}}"#, Some(true)),
        (r#"{"owner":{"null":false}}"#, Some(false)),
        (r#"{"status":{"ne":null}}"#, Some(true)),
        (r#"{"or":[{"owner":"x"},{"status":"active"}]}"#, Some(true)),
        (r#"{"or":[{"owner":"x"},{"status":"draft"}]}"#, None),
        (r#"{"and":[{"owner":"x"},{"status":"draft"}]}"#, Some(false)),
        (r#"{"and":[{"owner":"x"},{"status":"active"}]}"#, None),
        (r#"{"not":{"or":[{"owner":"x"},{"status":"active"}]}}"#, Some(false)),
    ] {
        assert_eq!(filter(text).evaluate(&value(&row)), expected, "{text}");
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    let deep = |n: usize| format!("{}{{}}{}", r#"{"not":"#.repeat(n), "}".repeat(n));
    let list = |n: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; n].join(","));
    let wide = |n: usize| format!(r#"{{"or":[{}]}}"#, vec![r#"{"a":1}"#; n].join(","));
    assert!(Filter::parse(&deep(MAX_FILTER_DEPTH)).is_ok());
    assert_eq!(Filter::parse(&deep(MAX_FILTER_DEPTH + 1)), Err(FilterError::Deep));
    assert!(matches!(Filter::parse(&deep(5000)), Err(FilterError::Long)));
    assert!(matches!(Filter::parse(&deep(200)), Err(FilterError::Form(_))));
    assert!(Filter::parse(&list(MAX_FILTER_LIST)).is_ok());
    assert!(matches!(Filter::parse(&list(MAX_FILTER_LIST + 1)), Err(FilterError::List(_))));
    assert!(Filter::parse(&wide(MAX_FILTER_TESTS - 1)).is_ok());
    assert_eq!(Filter::parse(&wide(MAX_FILTER_TESTS)), Err(FilterError::Large));
    for bad in [
        "",
        "[]",
        "null",
        "{",
        r#"{"a":1}x"#,
        r#"{"a":{}}"#,
        r#"{"a":[]}"#,
        r#"{"a":[1,"b"]}"#,
        r#"{"a":[true]}"#,
        r#"{"a":[null]}"#,
        r#"{"a":[[1]]}"#,
        r#"{"a":{"gte":true}}"#,
        r#"{"a":{"gte":null}}"#,
        r#"{"a":{"gte":[1]}}"#,
        r#"{"a":{"prefix":""}}"#,
        r#"{"a":{"prefix":1}}"#,
        r#"{"a":{"null":"x"}}"#,
        r#"{"a":{"$gte":1}}"#,
        r#"{"a":{"like":"x"}}"#,
        r#"{"a":{"time":"yesterday"}}"#,
        r#"{"a":{"time":"2026-11-26T08:00:00Z","eq":1}}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"a":{"eq":1,"eq":2}}"#,
        r#"{"and":{}}"#,
        r#"{"and":[]}"#,
        r#"{"and":[1]}"#,
        r#"{"not":[]}"#,
        r#"{"a":"\u0000"}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":1e1000}"#,
        &format!(r#"{{"a":{}}}"#, "9".repeat(65)),
        &format!(r#"{{"a":"{}"}}"#, "x".repeat(1025)),
    ] {
        assert!(Filter::parse(bad).is_err(), "{bad:.60}");
    }
}

#[test]
fn one_spelling_for_what_says_the_same() {
    for same in [
        [r#"{"a":"x","b":1}"#, r#" { "and":[{"b":{"eq":1.0}},{"a":{"eq":"\u0078"}}] } "#],
        [r#"{"a":["x","y"]}"#, r#"{"a":{"in":["y","x","x"]}}"#],
        [r#"{"or":[{"a":1},{"b":null}]}"#, r#"{"or":[{"b":{"null":true}},{"a":10e-1},{"a":1}]}"#],
    ] {
        assert_eq!(filter(same[0]).to_string(), filter(same[1]).to_string());
    }
    assert_ne!(filter(r#"{"a":"1"}"#).to_string(), filter(r#"{"a":1}"#).to_string());
    assert_eq!(filter(r#"{"a":1,"b":{"gt":2}}"#).fields().into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn an_anchor_is_what_must_be() {
    let anchored = |text: &str| filter(text).anchor().map(|(field, texts)| (field.to_owned(), texts.to_vec()));
    assert_eq!(anchored(r#"{"a":"x","b":1}"#), Some(("a".into(), vec!["x".into()])));
    assert_eq!(anchored(r#"{"a":["x","y"],"b":"z"}"#), Some(("b".into(), vec!["z".into()])));
    for none in ["{}", r#"{"a":1}"#, r#"{"not":{"a":"x"}}"#, r#"{"or":[{"a":"x"},{"b":"y"}]}"#, r#"{"a":{"ne":"x"}}"#] {
        assert_eq!(anchored(none), None, "{none}");
    }
}

#[test]
fn a_change_enters_changes_or_leaves() {
    let declared = ["status".to_owned(), "amount".to_owned()];
    let active = filter(r#"{"status":"active"}"#);
    let doc = |status: &str, amount: &str| format!(r#"{{"amount":{amount},"status":"{status}"}}"#);
    let concern = |was: Option<String>, is: Option<String>| {
        let (was, is) = (was.as_deref(), is.as_deref());
        let change =
            FieldChange::new(was.map(|doc| Values::of(doc, &declared)), is.map(|doc| Values::of(doc, &declared)));
        let text = change.encode();
        assert_eq!(FieldChange::parse(&text), Some(change));
        active.concern(&FieldChange::parse(&text).expect("ours")).expect("declared")
    };
    let (in_it, out) = (|| Some(doc("active", "1")), || Some(doc("draft", "1")));
    assert_eq!(concern(None, in_it()), Some(Concern::Enter));
    assert_eq!(concern(out(), in_it()), Some(Concern::Enter));
    assert_eq!(concern(in_it(), Some(doc("active", "2"))), Some(Concern::Change));
    assert_eq!(concern(in_it(), in_it()), Some(Concern::Change), "something that is not declared");
    assert_eq!(concern(in_it(), out()), Some(Concern::Leave));
    assert_eq!(concern(in_it(), None), Some(Concern::Leave));
    for (was, is) in [(None, out()), (out(), out()), (out(), None), (None, None)] {
        assert_eq!(concern(was, is), None);
    }
    assert_eq!(concern(Some(r#"{"amount":[]}"#.into()), in_it()), Some(Concern::Enter), "what is no scalar is missing");
}

#[test]
fn what_a_change_does_not_carry_is_not_guessed() {
    let filter = filter(r#"{"region":null}"#);
    for text in
        [r#"{"is":{"status":"a"}}"#, r#"{"was":{"status":"a"}}"#, r#"{"is":{"status":"a"},"was":{"region":"x"}}"#]
    {
        assert_eq!(filter.concern(&FieldChange::parse(text).expect("ours")), Err(Undeclared), "{text}");
    }
    let carried = FieldChange::parse(r#"{"is":{"region":null},"was":{}}"#).expect("ours");
    assert_eq!(filter.concern(&carried), Ok(Some(Concern::Change)));
    assert_eq!(filter.concern(&FieldChange::default()), Ok(None), "neither before nor after");
}

/// A filter as JSON, over a few fields and values that meet each other often.
fn any_filter() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "\"[a-c]{0,2}\"".prop_map(String::from),
        "-?[0-9]([.][0-9])?(e[0-9])?".prop_map(String::from),
        Just(r#"{"time":"2026-11-26T08:00:00Z"}"#.to_owned()),
    ];
    let field = "[a-c]";
    let test = prop_oneof![
        (field, value.clone()).prop_map(|(f, v)| format!(r#"{{"{f}":{v}}}"#)),
        (field, "eq|ne|lt|lte|gt|gte", value.clone()).prop_map(|(f, o, v)| format!(r#"{{"{f}":{{"{o}":{v}}}}}"#)),
        (field, "in|nin", prop::collection::vec("\"[a-c]\"", 1..4))
            .prop_map(|(f, o, v)| format!(r#"{{"{f}":{{"{o}":[{}]}}}}"#, v.join(","))),
        (field, any::<bool>()).prop_map(|(f, b)| format!(r#"{{"{f}":{{"null":{b}}}}}"#)),
        Just("{}".to_owned()),
    ];
    test.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!(r#"{{"and":[{}]}}"#, all.join(","))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|all| format!(r#"{{"or":[{}]}}"#, all.join(","))),
            inner.prop_map(|one| format!(r#"{{"not":{one}}}"#)),
        ]
    })
}

fn any_row() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let text = prop_oneof!["[a-c]{0,2}", "-?[0-9]([.][0-9])?", Just("2026-11-26T10:00:00+02:00".to_owned())];
    let field = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::btree_map(field, text, 0..4).prop_map(|row| row.into_iter().collect())
}

proptest! {
    #[test]
    fn the_one_spelling_reads_back_to_the_same(text in any_filter(), row in any_row()) {
        let read = filter(&text);
        let again = filter(&read.to_string());
        prop_assert_eq!(again.to_string(), read.to_string());
        let value = |field: &str| row.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str());
        prop_assert_eq!(again.evaluate(&value), read.evaluate(&value));
        if let Some((field, texts)) = read.anchor() {
            let met = value(field).is_some_and(|value| texts.iter().any(|text| text == value));
            prop_assert!(met || read.evaluate(&value) != Some(true), "an anchor that is not met is never true");
        }
    }

    #[test]
    fn hostile_text_is_refused_or_read(text in "[{}\\[\\]\":,a-c0-9 notr.é-]{0,80}") {
        if let Ok(read) = Filter::parse(&text) {
            prop_assert!(Filter::parse(&read.to_string()).is_ok());
        }
    }
}
