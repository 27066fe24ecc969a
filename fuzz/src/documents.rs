//! Documents: what storage refuses, what counts as content, and `$set`.

use dzvin_protocols::entities::{
    MAX_DEPTH, PatchError, changed_fields, check, content_hash, filter_values, merge_set, scalar_at, value_at,
};
use serde_json::value::RawValue;

use super::{text, tree::Tree};

/// Fields that filters may name, as a configuration would.
const FIELDS: [&str; 6] = ["status", "value.amount", "items.0.id", "_meta.systemDateModified", "a", "a.0"];

/// Two JSON texts, the second behind the last newline: a document, and another document or a `$set`.
pub fn documents(data: &[u8]) {
    let text = text(data);
    let (one, two) = text.rsplit_once('\n').unwrap_or((&text, "{}"));
    let (Ok(one), Ok(two)) = (raw(one), raw(two)) else { return };
    document(&one);
    document(&two);
    pair(&one, &two);
    merge(&one, &two);
}

fn raw(text: &str) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_str(text)
}

/// Whatever it is, nothing panics; what is fit is content and not spelling, and within the limits that were promised.
fn document(doc: &RawValue) {
    let hash = content_hash(doc, &FIELDS);
    assert!(changed_fields(doc, doc).is_empty());
    let fields: Vec<String> = FIELDS.map(str::to_owned).into();
    for (field, value) in filter_values(doc, &fields) {
        assert_eq!(scalar_at(doc, field).as_deref(), Some(&*value));
        assert!(value_at(doc, field).is_some_and(|value| raw(value).is_ok()), "a value is JSON");
    }
    if check(doc).is_err() {
        return;
    }
    assert!(doc.get().starts_with('{'));
    let Some(tree) = Tree::read(doc.get(), true) else {
        return assert!(Tree::read(doc.get(), false).is_some(), "what is fit can be read");
    };
    let mut otherwise = String::new();
    tree.write(&mut otherwise);
    let Ok(otherwise) = raw(&otherwise) else { unreachable!("{otherwise} is JSON") };
    assert_eq!(check(&otherwise), Ok(()), "fitness is not spelling");
    assert_eq!(hash, content_hash(&otherwise, &FIELDS), "spelling is not content: {doc} {otherwise}");
    assert!(changed_fields(doc, &otherwise).is_empty());
}

/// Two fit documents have the same content exactly when they are equal, and then no field changed.
fn pair(one: &RawValue, two: &RawValue) {
    let changed = changed_fields(one, two);
    assert!(changed.is_sorted(), "{changed:?}");
    assert_eq!(changed, changed_fields(two, one), "a difference has two sides");
    if check(one).and(check(two)).is_err() {
        return;
    }
    let (Some(a), Some(b)) = (Tree::read(one.get(), true), Tree::read(two.get(), true)) else { return };
    let equal = content_hash::<&str>(one, &[]) == content_hash::<&str>(two, &[]);
    assert_eq!((equal, changed.is_empty()), (a == b, a == b), "{one} {two}");
}

/// A set gives JSON or says why not; every plain name holds its value afterwards, and what it does not name stays.
fn merge(doc: &RawValue, set: &RawValue) {
    let objects = doc.get().starts_with('{') && set.get().starts_with('{');
    let merged = match merge_set(doc, set) {
        Ok(merged) => merged,
        Err(PatchError::NotObject) => return assert!(!objects, "an object is one: {doc} {set}"),
        Err(_) => return,
    };
    assert!(objects);
    let trees = (Tree::read(doc.get(), false), Tree::read(set.get(), false), Tree::read(merged.get(), false));
    let (Some(Tree::Object(doc_tree)), Some(Tree::Object(set_tree)), Some(Tree::Object(after))) = trees else {
        return assert!(check(doc).is_err() || check(set).is_err() || check(&merged).is_err());
    };
    for (name, value) in &doc_tree {
        let named = set_tree.keys().any(|path| path.split('.').next() == Some(name));
        assert!(named || after.get(name) == Some(value), "{name} was not named: {doc} {set}");
    }
    for (path, value) in &set_tree {
        let steps = path.split('.').count();
        assert!(steps <= MAX_DEPTH);
        if steps == 1 {
            assert_eq!(after.get(path), Some(value), "{doc} {set}");
        } else if let Some(got) = value_at(&merged, path) {
            assert_eq!(Tree::read(got, false).as_ref(), Some(value), "{path}: {doc} {set}");
        } else {
            unreachable!("{path} was set: {doc} {set} {merged}");
        }
    }
}
