//! Field masks over any text: what is hidden never appears, and nothing else changes.

use dzvin_protocols::entities::{MAX_DEPTH, Mask};
use serde_json::value::RawValue;

use super::{text, tree::Pairs};

/// Two texts, the second behind the first newline: the paths of a mask with bars between them, and a document.
pub fn masks(data: &[u8]) {
    let text = text(data);
    let (paths, doc) = text.split_once('\n').unwrap_or((&text, "{}"));
    let paths: Vec<&str> = paths.split('|').filter(|path| !path.is_empty()).collect();
    let Ok(Some(mask)) = Mask::parse(&paths) else { return };
    let steps: Vec<Vec<String>> = paths.iter().map(|path| steps(path)).collect();
    let hidden: Vec<&[String]> = steps.iter().map(Vec::as_slice).collect();

    let cut = mask.cut(doc);
    assert!(cut == "null" || is_within(&cut, doc), "what is left stood there: {cut}");
    assert_eq!(mask.cut(&cut), cut, "nothing is left to hide");
    let after = Whole::read(&cut);
    // Whatever the document was, what somebody can read of it holds nothing that is hidden.
    if let Some(after) = &after {
        assert_eq!(after.without(&hidden), *after, "hidden is hidden: {cut}");
    }
    let Some(before) = Whole::read(doc) else { return };
    if before.depth() < MAX_DEPTH {
        assert_eq!(after, Some(before.without(&hidden)), "everything else is as it was: {doc} as {cut}");
    } else {
        assert!(cut == "null" || after == Some(before.without(&hidden)), "{cut}");
    }
    of_members(&mask, doc, &before);
}

/// What a mask says of a document's members one by one is what it does to the document.
fn of_members(mask: &Mask, doc: &str, before: &Whole) {
    let (Whole::Object(_), Ok(Pairs(pairs))) = (before, serde_json::from_str(doc)) else { return };
    for (name, value) in pairs {
        // By a dotted path other names cannot be asked for.
        if name.is_empty() || name.contains('.') || name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        assert_eq!(mask.hides_top(&name), mask.hides(&name), "{name}");
        if mask.hides_top(&name) {
            assert_eq!(mask.cut(&format!("{{{}:{}}}", quoted(&name), value.get())), "{}");
            continue;
        }
        let alone = mask.within(&name).map_or(value.get().into(), |within| within.cut(value.get()));
        let inside = mask.cut(value_in(&name, value).as_str()).into_owned();
        // Too deep together is not too deep alone.
        assert!(inside == "null" || inside == format!("{{{}:{alone}}}", quoted(&name)), "{inside}");
    }
}

fn value_in(name: &str, value: &RawValue) -> String {
    format!("{{{}:{}}}", quoted(name), value.get())
}

fn quoted(name: &str) -> String {
    serde_json::to_string(name).unwrap_or_default()
}

/// The steps of a path that a mask has taken.
fn steps(path: &str) -> Vec<String> {
    match path.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect(),
        None => path.split('.').map(str::to_owned).collect(),
    }
}

/// Whether `part` is what is left of `whole` when some of it is left out.
fn is_within(part: &str, whole: &str) -> bool {
    let mut rest = whole.bytes();
    part.bytes().all(|byte| rest.any(|other| other == byte))
}

/// A value whose scalars are text as written, and whose objects keep equal names.
#[derive(Debug, Clone, PartialEq)]
enum Whole {
    Scalar(String),
    Array(Vec<Whole>),
    Object(Vec<(String, Whole)>),
}

impl Whole {
    /// Deepest that is followed: deeper than a mask walks.
    const DEEPEST: usize = MAX_DEPTH + 10;

    /// `None` for what is not JSON, has a name that is no text, or is too deep.
    fn read(json: &str) -> Option<Self> {
        Self::below(serde_json::from_str(json).ok()?, 0)
    }

    fn below(raw: &RawValue, depth: usize) -> Option<Self> {
        let json = raw.get();
        if depth > Self::DEEPEST {
            return None;
        }
        Some(match json.as_bytes().first()? {
            b'[' => {
                let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
                Self::Array(items.into_iter().map(|item| Self::below(item, depth + 1)).collect::<Option<_>>()?)
            }
            b'{' => {
                let Pairs(pairs) = serde_json::from_str(json).ok()?;
                let member = |(name, value)| Some((name, Self::below(value, depth + 1)?));
                Self::Object(pairs.into_iter().map(member).collect::<Option<_>>()?)
            }
            _ => Self::Scalar(json.to_owned()),
        })
    }

    fn depth(&self) -> usize {
        match self {
            Self::Scalar(_) => 0,
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
        }
    }

    /// The same without what these paths lead to, through arrays as if they were not there.
    fn without(&self, hidden: &[&[String]]) -> Self {
        match self {
            Self::Scalar(text) => Self::Scalar(text.clone()),
            Self::Array(items) => Self::Array(items.iter().map(|item| item.without(hidden)).collect()),
            Self::Object(members) => {
                let kept = members.iter().filter_map(|(name, value)| {
                    let rests: Vec<&[String]> = hidden
                        .iter()
                        .filter_map(|path| path.split_first())
                        .filter_map(|(first, rest)| (first == name).then_some(rest))
                        .collect();
                    let gone = rests.iter().any(|rest| rest.is_empty());
                    (!gone).then(|| (name.clone(), value.without(&rests)))
                });
                Self::Object(kept.collect())
            }
        }
    }
}
