use ::time::OffsetDateTime;
use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    entities::{Change, Filter, Mask, Sight, Undeclared, Values, held_by_query, told_by_query},
    platform::{EntityId, Kind},
};

/// The fields of a row: owner, status, phone and a number.
type State = Option<[u8; 4]>;
const NAMES: [&str; 4] = ["owner", "status", "phone", "v"];

fn doc(of: [u8; 4]) -> Value {
    NAMES.iter().zip(of).map(|(name, value)| ((*name).to_owned(), json!(value.to_string()))).collect()
}

fn values(of: State) -> Option<Values<'static>> {
    let declared = ["owner".to_owned(), "status".to_owned()];
    of.map(|of| Values::of(&doc(of).to_string(), &declared).into_owned())
}

/// One change of a row; what goes to the trash is told as it was.
fn change(revision: u64, was: State, is: State) -> Publication {
    let (op, changed) = match (was, is) {
        (Some(was), Some(is)) => {
            (Op::Update, (0..4).filter(|n| was[*n] != is[*n]).map(|n| NAMES[n].to_owned()).collect())
        }
        // What comes back may be told with what is other than it was.
        (None, Some(_)) => (Op::Restore, vec!["phone".to_owned()]),
        (_, None) => (Op::Trash, Vec::new()),
    };
    Change {
        kind: Kind::new("deal").expect("kind"),
        id: EntityId::new("a1").expect("id"),
        revision,
        offset: revision * 3,
        op,
        at: OffsetDateTime::UNIX_EPOCH,
        by: "olha".into(),
        changed,
        doc: is.or(was).map(|it| RawValue::from_string(doc(it).to_string()).expect("json").into()),
        trace: None,
        fields: Some(FieldChange::new(values(was), values(is)).encode().into()),
    }
    .publication()
}

fn conflated(all: &[Publication]) -> Publication {
    let mut one = Conflated::new(all[0].clone());
    all[1..].iter().for_each(|it| one.push(it.clone()));
    assert_eq!(one.earlier(), all.len() as u64 - 1);
    one.into_publication()
}

fn text(publication: &Publication) -> &str {
    std::str::from_utf8(&publication.data).expect("text")
}

/// Somebody with a list of rows.
struct Reader {
    sight: Sight,
    query: Option<Filter>,
}

impl Reader {
    /// What the list has to show.
    fn truth(&self, state: State) -> Option<Value> {
        let here = FieldChange::new(values(state), values(state));
        let holds = |filter: &Filter| filter.concern(&here).expect("declared").is_some();
        let shown = self.sight.rows().is_none_or(holds) && self.query.as_ref().is_none_or(holds);
        let doc = doc(state.filter(|_| shown)?).to_string();
        serde_json::from_str(&self.sight.cut(&doc)).ok()
    }

    /// Whether the list is told that the row has gone.
    fn hear(&self, list: &mut Option<Value>, publication: &Publication) -> bool {
        let told = match &self.query {
            None => publication.clone(),
            Some(query) => {
                let fields = publication.extra.as_ref().and_then(|it| it.fields.as_deref()).expect("fields");
                let change = FieldChange::parse(fields).expect("ours");
                let Some(concern) = query.concern(&change).expect("declared") else { return false };
                let told = told_by_query(publication, concern);
                if change.is_conflated() { held_by_query(told, query.held(&change).expect("declared")) } else { told }
            }
        };
        let Some(shown) = self.sight.tell(&told).expect("declared") else { return false };
        let mut data: Value = serde_json::from_str(text(&shown)).expect("json");
        let gone = data["hidden"] == true || data["query"] == "leave" || data["op"] == "trash";
        if let Some(rows) = self.sight.rows().filter(|_| data["doc"].is_object()) {
            let whole: Value = serde_json::from_str(text(publication)).expect("json");
            let (doc, declared) = (whole["doc"].to_string(), ["owner".to_owned(), "status".to_owned()]);
            let as_told = Some(Values::of(&doc, &declared));
            let seen = rows.concern(&FieldChange::new(as_told.clone(), as_told)).expect("declared");
            assert!(seen.is_some(), "out of sight: {data}");
        }
        *list = (!gone).then(|| data["doc"].take());
        gone
    }
}

fn readers() -> Vec<Reader> {
    let masks: [&[&str]; 5] = [&[], &["phone"], &["v", "phone"], &["owner"], &["owner", "phone"]];
    let rows = [None, Some(r#"{"owner":"1"}"#), Some(r#"{"status":["0","1"]}"#)];
    let queries = [None, Some("{}"), Some(r#"{"status":"1"}"#), Some(r#"{"not":{"status":"1"}}"#)];
    let filter = |it: Option<&str>| it.map(|it| Filter::parse(it).expect("a filter"));
    let mut all = Vec::new();
    for mask in masks {
        for row in rows {
            for query in queries {
                let mask = Mask::parse(mask).expect("a mask").map(Arc::new);
                all.push(Reader { sight: Sight::new(mask, filter(row)), query: filter(query) });
            }
        }
    }
    all
}

proptest! {
    // Each is looked at by 60 readers from every place.
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whoever stands anywhere among them, whatever they see and ask.
    #[test]
    fn from_wherever_somebody_stands_they_come_to_the_last_state(
        states in proptest::collection::vec(proptest::option::weighted(0.8, [0..3u8, 0..3u8, 0..2u8, 0..2u8]), 2..7)
    ) {
        let steps: Vec<Publication> =
            states.windows(2).enumerate().map(|(n, pair)| change(n as u64 + 1, pair[0], pair[1])).collect();
        let one = conflated(&steps);
        for reader in readers() {
            let mut list = reader.truth(states[0]);
            let ever = states.iter().any(|state| reader.truth(*state).is_some());
            // Who sees and asks for everything is told of each change.
            let judged = reader.query.is_some() || reader.sight.rows().is_some();
            for (at, state) in states.iter().enumerate().take(steps.len()) {
                prop_assert_eq!(&list, &reader.truth(*state), "one by one");
                let mut there = list.clone();
                let gone = reader.hear(&mut there, &one);
                prop_assert!(ever || !gone || !judged, "never there: {:?}, {:?} {:?}: {}", states, reader.sight, reader.query, text(&one));
                prop_assert_eq!(there, reader.truth(states[steps.len()]), "from {} of {:?}, {:?} {:?}: {}", at, states, reader.sight, reader.query, text(&one));
                // And who has read the list in between.
                reader.hear(&mut list, &steps[at]);
            }
        }
    }
}

#[test]
fn one_alone_stays_as_it_is_and_several_name_what_any_has_changed() {
    let steps = [
        change(1, None, Some([1, 1, 0, 0])),
        change(2, Some([1, 1, 0, 0]), Some([1, 1, 1, 0])),
        change(3, Some([1, 1, 1, 0]), Some([1, 2, 1, 0])),
    ];
    assert_eq!(conflated(&steps[2..]), steps[2]);
    let two = conflated(&steps[1..]);
    assert_eq!((two.offset, two.revision), (9, 3));
    assert!(text(&two).contains(r#""changed":["phone","status"],"doc":{"#), "{}", text(&two));
    assert!(text(&two).starts_with(r#"{"kind":"deal","id":"a1","revision":3,"offset":9,"op":"update","#));
    let created = conflated(&steps);
    assert!(!text(&created).contains("changed") && text(&created).contains(r#""op":"update""#), "{}", text(&created));
}

/// In the query first and in sight later, or the other way round: of that nobody is told.
#[test]
fn who_leaves_was_in_the_query_and_in_sight_at_once() {
    let filter = |it: &str| Filter::parse(it).expect("a filter");
    let reader =
        Reader { sight: Sight::new(None, Some(filter(r#"{"owner":"1"}"#))), query: Some(filter(r#"{"status":"1"}"#)) };
    let told = |states: &[[u8; 4]]| {
        let steps = states.windows(2).zip(1..).map(|(pair, n)| change(n, Some(pair[0]), Some(pair[1])));
        let mut list = Some(json!("of before"));
        let one = conflated(&steps.collect::<Vec<_>>());
        let gone = reader.hear(&mut list, &one);
        assert!(gone || list == Some(json!("of before")), "{list:?}");
        gone
    };
    let [mine, theirs, asked] = [[1, 2, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]];
    assert!(!told(&[mine, theirs, [0, 1, 1, 0]]), "it came into the query as it went out of sight");
    assert!(!told(&[theirs, mine, [1, 2, 1, 0]]), "it went out of the query as it came into sight");
    assert!(!told(&[theirs, [0, 2, 0, 0], mine]) && !told(&[mine, [0, 2, 0, 0], theirs]), "with a while in neither");
    assert!(
        told(&[mine, asked, theirs]) && told(&[theirs, asked, mine]) && told(&[asked, mine, theirs]),
        "it was there"
    );
}

/// Nothing is guessed where what a query says is not of as many changes.
#[test]
fn what_a_query_held_at_is_of_each_change() {
    let steps = [change(1, None, Some([1, 1, 0, 0])), change(2, Some([1, 1, 0, 0]), None)];
    let mine = Sight::new(None, Filter::parse(r#"{"owner":"1"}"#).ok());
    for n in 0..4 {
        let told = held_by_query(conflated(&steps), vec![[false; 2]; n].into());
        assert_eq!(mine.tell(&told), if n == 2 { Ok(None) } else { Err(Undeclared) });
    }
}

/// What one of them does not tell cannot be judged, by nobody.
#[test]
fn what_one_does_not_tell_all_do_not() {
    let told = change(2, Some([1, 1, 0, 0]), Some([1, 1, 1, 0]));
    let untold = Publication { extra: None, ..change(1, Some([0, 1, 0, 0]), Some([1, 1, 0, 0])) };
    let mine = Sight::new(None, Filter::parse(r#"{"owner":"1"}"#).ok());
    for steps in [[untold.clone(), told.clone()], [told, untold]] {
        assert!(mine.tell(&conflated(&steps)).is_err());
    }
}

/// More names than one change would tell, and texts that are nothing of ours.
#[test]
fn what_is_kept_is_counted_and_bounded() {
    let named = |from: usize| {
        let names: Vec<String> = (from..from + 60).map(|n| format!("f{n}")).collect();
        let data = json!({"op": "update", "changed": names, "doc": {}}).to_string();
        Publication { data: data.into(), ..change(1, None, None) }
    };
    let mut all = Conflated::new(named(0));
    let first = all.size();
    all.push(named(60));
    assert!(all.size() > first + 120);
    all.push(named(0));
    assert!(!text(&all.into_publication()).contains("changed"));
    for data in ["", "null", "[]", "{", r#"{"changed":"x"}"#, "\u{1}"] {
        let hostile = Publication { data: data.to_owned().into(), ..change(1, None, None) };
        let one = conflated(&[hostile.clone(), hostile]);
        assert!(one.data.first() == Some(&b'{'), "{:?}", one.data);
    }
}
