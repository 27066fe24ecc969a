use std::collections::BTreeMap;

use ::time::OffsetDateTime;
use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    entities::{Change, Op, Values, lean, told_by_query},
    platform::{EntityId, Kind},
};

const DECLARED: [&str; 2] = ["owner", "status"];

fn sight(paths: &[&str], rows: Option<&str>) -> Sight {
    let mask = Mask::parse(paths).expect("a mask").map(Arc::new);
    Sight::new(mask, rows.map(|rows| Filter::parse(rows).expect("a filter")))
}

fn values(owner: Option<&str>) -> Option<Values<'static>> {
    let declared = DECLARED.map(str::to_owned);
    owner.map(|owner| Values::of(&json!({"owner": owner, "status": "s"}).to_string(), &declared).into_owned())
}

/// A change of an entity whose owner was one and is another.
fn change(op: Op, was: Option<&str>, is: Option<&str>, changed: &[&str]) -> Publication {
    let fields = FieldChange::new(values(was), values(is)).encode();
    Change {
        kind: Kind::new("deal").expect("kind"),
        id: EntityId::new("a1").expect("id"),
        revision: 2,
        offset: 7,
        op,
        at: OffsetDateTime::UNIX_EPOCH,
        by: "olha".into(),
        changed: changed.iter().map(ToString::to_string).collect(),
        doc: RawValue::from_string(r#"{"v":904.240, "phone":"s3cret","changed":1}"#.to_owned()).ok().map(Into::into),
        trace: None,
        fields: Some(fields.into()),
    }
    .publication()
}

fn text(publication: Option<Publication>) -> String {
    publication.map_or_else(String::new, |it| String::from_utf8_lossy(&it.data).into_owned())
}

const HEAD: &str = r#""kind":"deal","id":"a1","revision":2,"offset":7,"op":"#;
const TAIL: &str = r#","at":"1970-01-01T00:00:00.000Z","by":"olha""#;

#[test]
fn a_publication_loses_what_is_hidden() {
    let it = sight(&["phone"], None);
    let told = |op, changed: &[&str]| text(it.tell(&change(op, Some("x"), Some("x"), changed)).expect("told"));
    assert_eq!(
        told(Op::Update, &["phone", "v"]),
        format!(r#"{{{HEAD}"update"{TAIL},"changed":["v"],"doc":{{"v":904.240,"changed":1}}}}"#)
    );
    assert_eq!(told(Op::Update, &["phone"]), "", "a change of hidden fields alone is not told");
    assert!(told(Op::Update, &[]).contains("doc"), "of which nobody knows what changed may be anything");
    assert!(told(Op::Update, &["phone", MORE]).contains(r#""changed":["…"]"#), "nor of names that were left out");
    assert!(told(Op::Create, &[]).contains(r#""doc":{"v":904.240,"changed":1}"#));
    // What is hidden in part: that it changed is told.
    let part = sight(&["phone.home"], None);
    assert!(text(part.tell(&change(Op::Update, None, None, &["phone"])).expect("told")).contains(r#"["phone"]"#));
    // A reference says nothing, and stays.
    let reference = lean(&change(Op::Update, None, None, &["phone"]));
    assert_eq!(it.tell(&reference).expect("told").expect("shown").data, reference.data);
}

#[test]
fn rows_come_into_sight_and_go_out_of_it() {
    let it = sight(&["phone"], Some(r#"{"owner":"me"}"#));
    let told = |op, was, is| text(it.tell(&change(op, was, is, &["phone"])).expect("told"));
    let (me, other) = (Some("me"), Some("other"));
    assert_eq!(told(Op::Update, me, me), "");
    assert!(told(Op::Update, other, me).contains("\"doc\""), "also when what changed is hidden");
    assert_eq!(told(Op::Update, me, other), format!(r#"{{{HEAD}"update"{TAIL},"hidden":true}}"#));
    assert_eq!(told(Op::Update, other, other), "");
    assert!(told(Op::Create, None, me).contains("\"doc\"") && told(Op::Create, None, other).is_empty());
    assert!(told(Op::Trash, me, None).contains("\"op\":\"trash\"") && told(Op::Trash, other, None).is_empty());
    let untold = Publication { extra: None, ..change(Op::Update, me, me, &[]) };
    assert_eq!(it.tell(&untold), Err(Undeclared));
    let of_another = sight(&[], Some(r#"{"region":"30"}"#));
    assert_eq!(of_another.tell(&change(Op::Update, me, me, &[])), Err(Undeclared));
    assert_eq!(it.state(&untold), None);
    assert!(it.state(&change(Op::Update, me, me, &["phone"])).is_some(), "a state is shown whatever changed");
    assert!(it.state(&change(Op::Update, me, other, &[])).is_none());
}

#[test]
fn a_query_is_judged_by_what_is_seen() {
    let it = sight(&["phone"], Some(r#"{"owner":"me"}"#));
    let (me, other) = (Some("me"), Some("other"));
    for (concern, was, is, expected) in [
        (Concern::Enter, me, me, "enter"),
        (Concern::Enter, other, me, "enter"),
        (Concern::Enter, me, other, ""),
        (Concern::Change, me, me, "change"),
        (Concern::Change, other, me, "enter"),
        (Concern::Change, me, other, "leave"),
        (Concern::Change, other, other, ""),
        (Concern::Leave, me, me, "leave"),
        (Concern::Leave, me, other, "leave"),
        (Concern::Leave, other, me, ""),
    ] {
        let publication = told_by_query(&change(Op::Update, was, is, &["v"]), concern);
        let told = text(it.tell(&publication).expect("told"));
        let word = serde_json::from_str::<Value>(&told).map_or(Value::Null, |told| told["query"].clone());
        assert_eq!(word.as_str().unwrap_or_default(), expected, "{concern:?} {was:?} {is:?}: {told}");
        assert_eq!(told.contains("\"doc\""), matches!(expected, "enter" | "change"));
        assert!(!told.contains("s3cret") && !told.contains("hidden"));
    }
}

#[test]
fn a_position_is_of_one_sight() {
    let (a, b) = (sight(&["phone"], None), sight(&["phone"], Some(r#"{"owner":"me"}"#)));
    let epoch = Epoch::new("00ff00ff00ff00ff");
    let told = a.epoch(&epoch);
    assert!(told.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(a.told(told.as_str()), Some(epoch.as_str()));
    assert_eq!((b.told(told.as_str()), a.told(epoch.as_str()), a.told("")), (None, None, None));
    assert_eq!(a, sight(&["phone"], None), "equal ones have equal marks");
    let view = View { mask: None, rows: Some(Arc::new([Filter::parse(r#"{"owner":"$user"}"#).expect("a filter")])) };
    assert_ne!(view.sight("olha").mark(), view.sight("ihor").mark());
}

#[test]
fn of_several_rows_one_has_to_hold() {
    let rows = [r#"{"owner":"$user"}"#, r#"{"status":"open"}"#].map(|text| Filter::parse(text).expect(text));
    let view = View { mask: None, rows: Some(Arc::new(rows)) };
    for (user, owner, status, seen) in
        [("me", "me", "x", true), ("me", "other", "open", true), ("me", "other", "x", false), ("", "", "x", false)]
    {
        let all = BTreeMap::from([("owner", owner), ("status", status)]);
        let sight = view.sight(user);
        let holds = sight.rows().expect("rows").evaluate(&|field| all.get(field).copied());
        assert_eq!(holds == Some(true), seen, "{user} {owner} {status}");
    }
}

proptest! {
    #[test]
    fn what_is_hidden_never_passes(secret in "[A-Z]{12,20}", n in 0usize..4, was in proptest::option::of("me|other"), is in proptest::option::of("me|other"), rows: bool, concern in 0usize..4, pretty: bool) {
        let doc = json!({"a": {"phone": [secret.clone()], "v": n}, "phone": {"x": secret}, "list": [[{"phone": secret}], n]});
        let doc = if pretty { serde_json::to_string_pretty(&doc).unwrap() } else { doc.to_string() };
        let fields = FieldChange::new(values(was.as_deref()), values(is.as_deref())).encode();
        let op = [Op::Create, Op::Update, Op::Trash, Op::Restore][n];
        let publication = Change {
            kind: Kind::new("deal").unwrap(), id: EntityId::new("a").unwrap(), revision: 1, offset: 1, op, at: OffsetDateTime::UNIX_EPOCH,
            by: "x".into(), changed: vec!["a".into(), "phone".into()], doc: RawValue::from_string(doc).ok().map(Into::into), trace: None,
            fields: Some(fields.into()),
        }.publication();
        let concerns = [Concern::Enter, Concern::Change, Concern::Leave];
        let publication = concerns.get(concern).map_or(publication.clone(), |concern| told_by_query(&publication, *concern));
        let it = sight(&["phone", "a.phone", "list.phone"], rows.then_some(r#"{"owner":"me"}"#));
        for told in [it.tell(&publication).unwrap(), it.state(&publication)].into_iter().flatten() {
            let told = String::from_utf8(told.data.to_vec()).unwrap();
            prop_assert!(!told.contains(&secret) && !told.contains("phone"), "{told}");
            serde_json::from_str::<Value>(&told).expect(&told);
        }
    }

    #[test]
    fn hostile_data_is_a_value(data in "[\\[\\]{}\",:\\\\a0 \u{e9}]{0,60}") {
        let publication = Publication { data: data.into(), ..change(Op::Update, None, None, &[]) };
        let told = sight(&["a"], None).tell(&publication).expect("no rows");
        serde_json::from_slice::<Value>(&told.map_or_else(|| b"{}".to_vec(), |it| it.data.to_vec())).ok();
    }
}
