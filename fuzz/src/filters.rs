//! Filters of queries and of subscriptions: what a client asks for, before anything is looked up with it.

use dzvin_protocols::{
    channels::centrifuge::{FilterNode, MAX_FILTER_NODES, TagFilter},
    entities::{
        Concern, FieldChange, Filter, FilterError, MAX_FILTER_BYTES, MAX_FILTER_LIST, MAX_FILTER_TESTS, Values,
        scalar_at,
    },
};
use serde_json::value::RawValue;

use super::text;

/// Two texts, the second behind the first newline: a filter, and a document.
pub fn filters(data: &[u8]) {
    let text = text(data);
    let (filter, doc) = text.split_once('\n').unwrap_or((&text, "{}"));
    tags(filter, doc);
    let Ok(parsed) = Filter::parse(filter) else { return };
    of_rows(filter, &parsed, doc);
}

/// A filter that is taken is within its limits, has one spelling, which is taken as well and means the same, and its logic is that
/// of three values.
fn of_rows(given: &str, filter: &Filter, doc: &str) {
    assert!(given.len() <= MAX_FILTER_BYTES && filter.fields().len() <= MAX_FILTER_TESTS);
    let spelled = filter.to_string();
    let again = match Filter::parse(&spelled) {
        Ok(again) => again,
        // It names what was implied, and whoever keeps it is told that this is too much.
        Err(FilterError::Long | FilterError::Deep | FilterError::Large) => return,
        Err(error) => panic!("{spelled} is a filter: {error}"),
    };
    assert_eq!(again.to_string(), spelled, "there is one spelling: {given}");
    let document: Option<Box<RawValue>> = serde_json::from_str(doc).ok();
    let texts: Vec<(String, Option<String>)> = filter
        .fields()
        .into_iter()
        .map(|field| {
            let scalar = document.as_ref().and_then(|doc| scalar_at(doc, field));
            (field.to_owned(), scalar.map(std::borrow::Cow::into_owned))
        })
        .collect();
    let value = |field: &str| texts.iter().find(|(name, _)| name == field)?.1.as_deref();
    let verdict = filter.evaluate(&value);
    assert_eq!(again.evaluate(&value), verdict, "spelling is not meaning: {spelled}");
    let not = Filter::Not(Box::new(filter.clone()));
    assert_eq!(not.evaluate(&value), verdict.map(|holds| !holds), "{spelled}");
    let both = Filter::And(vec![filter.clone(), Filter::All]);
    let either = Filter::Or(vec![filter.clone(), not]);
    assert_eq!((both.evaluate(&value), either.evaluate(&value)), (verdict, verdict.map(|_| true)), "{spelled}");
    if let Some((field, among)) = filter.anchor() {
        assert!((1..=MAX_FILTER_LIST).contains(&among.len()));
        assert!(verdict != Some(true) || value(field).is_some_and(|text| among.iter().any(|one| one == text)));
    }
    // What a change says of the fields, before and after, is what the filter would say of both.
    let Some(document) = document.filter(|doc| doc.get().starts_with('{')) else { return };
    let declared: Vec<String> = texts.iter().map(|(field, _)| field.clone()).collect();
    let is = Values::of(document.get(), &declared);
    let change = FieldChange::new(None, Some(is.clone()));
    let written = change.encode();
    assert_eq!(FieldChange::parse(&written).as_ref(), Some(&change), "a change reads back: {written}");
    let holds = filter.evaluate(&|field| change.texts(field)[1]) == Some(true);
    assert_eq!(filter.concern(&change), Ok(holds.then_some(Concern::Enter)));
    assert_eq!(filter.concern(&FieldChange::new(Some(is.clone()), None)), Ok(holds.then_some(Concern::Leave)));
    assert_eq!(filter.concern(&FieldChange::new(Some(is.clone()), Some(is))), Ok(holds.then_some(Concern::Change)));
}

/// A filter by tags that is taken is within its limits, and negated it is the opposite.
fn tags(filter: &str, value: &str) {
    let Ok(node) = serde_json::from_str::<FilterNode>(filter) else { return };
    let (nodes, refused) = (count(&node), TagFilter::new(node.clone()));
    let Ok(taken) = refused else { return };
    assert!(nodes <= MAX_FILTER_NODES, "{filter}");
    let not = FilterNode { op: "not".to_owned(), nodes: vec![node], ..FilterNode::default() };
    for tag in [None, Some(value), Some(""), Some("1.50"), Some("-0.0")] {
        let holds = taken.matches(|_| tag);
        // One level more may be one too many.
        if let Ok(not) = TagFilter::new(not.clone()) {
            assert_eq!(not.matches(|_| tag), !holds, "{filter}");
        }
    }
}

fn count(node: &FilterNode) -> usize {
    1 + node.vals.len() + node.nodes.iter().map(count).sum::<usize>()
}
