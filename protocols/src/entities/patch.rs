//! `$set` of the full protocol: fields merged into a stored document, with MongoDB's dotted paths.
//!
//! What is not named keeps its exact spelling. One pass over the document however many paths there are; recursion goes only
//! as deep as the longest path. Deliberately absent: `$unset`, `$push` and the rest; who gets them fetches the object.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    document::MAX_DEPTH,
    raw::{items, members, unquote},
};

/// Most paths in one set: far above a real update, and it bounds the work.
pub const MAX_PATHS: usize = 1_000;

/// How far beyond an array's end an index may reach; the places between become null.
pub const MAX_PAD: usize = 1_000;

/// A set that does not fit the document. The object must be fetched whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The document or the set is not an object.
    #[error("not a JSON object")]
    NotObject,
    /// An empty step, a path too deep, or too many paths.
    #[error("not a path: {0:?}")]
    Path(String),
    /// Two paths where one leads through the other.
    #[error("two paths meet at {0:?}")]
    Conflict(String),
    /// The path leads through a value that is neither object nor array.
    #[error("no object or array at {0:?}")]
    NotContainer(String),
    /// A name, or an index too far, into an array.
    #[error("no such place in an array: {0:?}")]
    Index(String),
}

enum Node<'a> {
    Value(&'a str),
    Under(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Merges the object of a `$set` into a document.
///
/// # Errors
/// [`PatchError`] when a path does not fit; the document is untouched then.
pub fn merge_set(doc: &RawValue, set: &RawValue) -> Result<Box<RawValue>, PatchError> {
    let mut root = Vec::new();
    for (count, (key, value)) in members(set.get()).ok_or(PatchError::NotObject)?.enumerate() {
        let path = unquote(key).ok_or_else(|| PatchError::Path(key.chars().take(80).collect()))?;
        if count >= MAX_PATHS {
            return Err(PatchError::Path(path.into_owned()));
        }
        insert(&mut root, &path, value)?;
    }
    if members(doc.get()).is_none() {
        return Err(PatchError::NotObject);
    }
    let mut out = String::with_capacity(doc.get().len() + set.get().len());
    write(Some(doc.get()), &mut root, &mut out)?;
    RawValue::from_string(out).map_err(|_| PatchError::NotObject)
}

fn insert<'a>(root: &mut Vec<(Cow<'a, str>, Node<'a>)>, path: &str, value: &'a str) -> Result<(), PatchError> {
    let steps: Vec<&str> = path.split('.').collect();
    if steps.len() > MAX_DEPTH || steps.iter().any(|step| step.is_empty()) {
        return Err(PatchError::Path(path.to_owned()));
    }
    let mut level = root;
    for (n, step) in steps.iter().enumerate() {
        let last = n + 1 == steps.len();
        let place = level.iter().position(|(name, _)| name == step);
        let place = match place {
            Some(place) if last => match &mut level[place].1 {
                // The same path twice: the last wins, as with any JSON object.
                Node::Value(old) => {
                    *old = value;
                    return Ok(());
                }
                Node::Under(_) => return Err(PatchError::Conflict(path.to_owned())),
            },
            Some(place) => place,
            None => {
                let node = if last { Node::Value(value) } else { Node::Under(Vec::new()) };
                level.push((Cow::Owned((*step).to_owned()), node));
                level.len() - 1
            }
        };
        match &mut level[place].1 {
            Node::Under(next) => level = next,
            Node::Value(_) if last => return Ok(()),
            Node::Value(_) => return Err(PatchError::Conflict(path.to_owned())),
        }
    }
    Ok(())
}

/// Writes `old` with `sets` applied; what is consumed is taken out of `sets`.
fn write(old: Option<&str>, sets: &mut Vec<(Cow<'_, str>, Node<'_>)>, out: &mut String) -> Result<(), PatchError> {
    let Some(old) = old else { return object("{}", sets, out) };
    if members(old).is_some() {
        object(old, sets, out)
    } else if items(old).is_some() {
        array(old, sets, out)
    } else {
        Err(PatchError::NotContainer(sets.first().map(|(name, _)| name.to_string()).unwrap_or_default()))
    }
}

fn node(old: Option<&str>, node: Node<'_>, out: &mut String) -> Result<(), PatchError> {
    match node {
        Node::Value(value) => out.push_str(value),
        Node::Under(mut sets) => write(old, &mut sets, out)?,
    }
    Ok(())
}

fn object(old: &str, sets: &mut Vec<(Cow<'_, str>, Node<'_>)>, out: &mut String) -> Result<(), PatchError> {
    out.push('{');
    let mut first = true;
    let mut comma = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
    };
    // Of equal names the last wins, as in the database: the others of a name that is set go, lest one outlives the set.
    let mut last = vec![usize::MAX; sets.len()];
    let places: Vec<_> = members(old).into_iter().flatten().map(|(key, _)| place_of(key, sets)).collect();
    for (n, place) in places.iter().enumerate() {
        if let Some(place) = *place {
            last[place] = n;
        }
    }
    let mut new: Vec<_> = sets.drain(..).map(Some).collect();
    for (n, ((key, value), place)) in members(old).into_iter().flatten().zip(places).enumerate() {
        if place.is_some_and(|place| last[place] != n) {
            continue;
        }
        comma(out);
        out.push_str(key);
        out.push(':');
        match place.and_then(|place| new[place].take()) {
            Some((_, set)) => node(Some(value), set, out)?,
            None => out.push_str(value),
        }
    }
    for (step, new) in new.into_iter().flatten() {
        comma(out);
        out.push_str(&serde_json::Value::from(step.as_ref()).to_string());
        out.push(':');
        node(None, new, out)?;
    }
    out.push('}');
    Ok(())
}

fn place_of(key: &str, sets: &[(Cow<'_, str>, Node<'_>)]) -> Option<usize> {
    let name = unquote(key)?;
    sets.iter().position(|(step, _)| *step == name)
}

fn array(old: &str, sets: &mut Vec<(Cow<'_, str>, Node<'_>)>, out: &mut String) -> Result<(), PatchError> {
    let mut places = Vec::with_capacity(sets.len());
    for (step, new) in sets.drain(..) {
        let index: usize = step.parse().map_err(|_| PatchError::Index(step.to_string()))?;
        places.push((index, new));
    }
    places.sort_by_key(|(index, _)| *index);
    let mut places = places.into_iter().peekable();
    let mut old = items(old).into_iter().flatten();
    out.push('[');
    let (mut at, mut padded) = (0usize, 0usize);
    loop {
        let item = old.next();
        let new = places.next_if(|(index, _)| *index == at).map(|(_, new)| new);
        if item.is_none() && new.is_none() {
            let Some((index, _)) = places.peek() else { break };
            padded += 1;
            if padded > MAX_PAD {
                return Err(PatchError::Index(index.to_string()));
            }
        }
        if at > 0 {
            out.push(',');
        }
        match new {
            Some(new) => node(item, new, out)?,
            None => out.push_str(item.unwrap_or("null")),
        }
        at += 1;
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn merged(doc: &str, set: &str) -> Result<String, PatchError> {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect(text);
        merge_set(&raw(doc), &raw(set)).map(|raw| raw.get().to_owned())
    }

    #[test]
    fn paths_reach_into_objects_and_arrays() {
        for (doc, set, expected) in [
            (r#"{"a":1.00,"b":2}"#, r#"{"b":3.10}"#, r#"{"a":1.00,"b":3.10}"#),
            (
                r#"{"a":{"b":{"c":1},"d":0.10}}"#,
                r#"{"a.b.c":2,"a.x.y":3}"#,
                r#"{"a":{"b":{"c":2},"d":0.10,"x":{"y":3}}}"#,
            ),
            (r#"{"l":[{"s":"a"},{"s":"b"}]}"#, r#"{"l.1.s":"c"}"#, r#"{"l":[{"s":"a"},{"s":"c"}]}"#),
            (r#"{"l":[1]}"#, r#"{"l.3":4,"l.0":0}"#, r#"{"l":[0,null,null,4]}"#),
            (r#"{}"#, r#"{"l.0":1}"#, r#"{"l":{"0":1}}"#),
            (r#"{"bids":null}"#, r#"{"bids":[]}"#, r#"{"bids":[]}"#),
            (r#"{"a":1,"b":0,"\u0061":2}"#, r#"{"a":3}"#, r#"{"b":0,"\u0061":3}"#),
            (r#"{"a":{"b":1},"a":{"b":2,"c":3}}"#, r#"{"a.b":4}"#, r#"{"a":{"b":4,"c":3}}"#),
        ] {
            assert_eq!(merged(doc, set).as_deref(), Ok(expected), "{doc} {set}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for (doc, set) in [
            ("[]", "{}"),
            ("{}", "[]"),
            (r#"{"a":1}"#, r#"{"a.b":1}"#),
            (r#"{"a":null}"#, r#"{"a.b":1}"#),
            (r#"{"a":[1]}"#, r#"{"a.b":1}"#),
            (r#"{"a":[1]}"#, r#"{"a.99999999":1}"#),
            ("{}", r#"{"a..b":1}"#),
            ("{}", r#"{"":1}"#),
            ("{}", r#"{"a":1,"a.b":2}"#),
            ("{}", r#"{"a.b":1,"a":2}"#),
        ] {
            assert!(merged(doc, set).is_err(), "{doc} {set}");
        }
        assert!(merged("{}", &format!(r#"{{"{}a":1}}"#, "a.".repeat(MAX_DEPTH))).is_err());
    }

    proptest! {
        #[test]
        fn a_set_of_plain_fields_is_an_overlay(
            doc in proptest::collection::btree_map("[a-c]", 0..9i32, 0..4),
            set in proptest::collection::btree_map("[a-e]", 10..19i32, 0..4),
        ) {
            let out = merged(&serde_json::to_string(&doc).unwrap(), &serde_json::to_string(&set).unwrap()).unwrap();
            let got: std::collections::BTreeMap<String, i32> = serde_json::from_str(&out).unwrap();
            let mut want = doc;
            want.extend(set);
            prop_assert_eq!(got, want);
        }

        #[test]
        fn hostile_paths_are_values(paths in proptest::collection::vec("[a0.9]{0,6}", 0..6)) {
            let set: Vec<_> = paths.iter().map(|p| format!("\"{p}\":1")).collect();
            let _ = merged(r#"{"a":{"a":[0,{"a":1}]},"0":[[]]}"#, &format!("{{{}}}", set.join(",")));
        }
    }
}
