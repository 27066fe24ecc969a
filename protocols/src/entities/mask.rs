//! Field masks: what of a kind's documents somebody may not see, and a document without it.
//!
//! A path is dotted (`contacts.email`) or a JSON Pointer (`/contacts/email`, for names with dots in them). It leads through
//! arrays as if they were not there: `contacts.email` hides the member of every item, however deep the arrays nest. What is
//! hidden is taken out with its name; everything else stays as it is written, numbers and white space included.
//!
//! Invariants: names are compared as they read, not as they are spelled (`\u0070hone` is `phone`), and of equal names all
//! are taken out. What cannot be walked to its end is hidden whole: a mask never lets through what it did not understand.
//! Nothing recurses deeper than [`MAX_DEPTH`].
//!
//! Not here: who has which mask, and which rows are seen at all.

use std::{borrow::Cow, ops::Range};

use super::{
    MAX_DEPTH, Pointer,
    json_patch::unescape,
    raw::{distinct, space, string_end, unquote, value_end},
};

/// Most masks of one kind, those of users with several roles included: of each a frame is made for each wire.
pub const MAX_MASKS: usize = 16;
/// Most paths of one mask: each is compared on the way through every document.
pub const MAX_MASK_PATHS: usize = 64;
/// Most steps of one path: real documents are about twelve deep.
pub const MAX_MASK_STEPS: usize = 16;
/// Longest path: as long as a declared field may be, twice.
pub const MAX_MASK_PATH: usize = 256;

/// What is no mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Not a path.
    #[error(
        "{0:?} is no path: expected names with dots between, or a JSON Pointer, at most {MAX_MASK_STEPS} steps and {MAX_MASK_PATH} bytes"
    )]
    Path(String),
    /// A place in an array.
    #[error(
        "{0:?} names a place in an array: arrays are gone through as a whole, leave the number out; where it is the name of a member, hide what it stands in"
    )]
    Number(String),
    /// More than [`MAX_MASK_PATHS`].
    #[error("a mask has at most {MAX_MASK_PATHS} paths")]
    Many,
}

type Path = Box<[String]>;

/// What is hidden: paths, sorted, none below another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mask(Box<[Path]>);

impl Mask {
    /// Reads paths; `None` when there are none.
    ///
    /// # Errors
    /// [`MaskError`] says which is wrong.
    pub fn parse<S: AsRef<str>>(paths: &[S]) -> Result<Option<Self>, MaskError> {
        if paths.len() > MAX_MASK_PATHS {
            return Err(MaskError::Many);
        }
        Ok(Self::of(paths.iter().map(|path| steps(path.as_ref())).collect::<Result<_, _>>()?))
    }

    fn of(mut paths: Vec<Path>) -> Option<Self> {
        paths.sort_unstable();
        // Sorted, so that what lies below a path comes right after it.
        paths.dedup_by(|below, path| below.starts_with(path));
        (!paths.is_empty()).then(|| Self(paths.into()))
    }

    /// What both hide; `None` when that is nothing.
    #[must_use]
    pub fn both(&self, other: &Self) -> Option<Self> {
        let below = |of: &Self, by: &Self| {
            let covered = |path: &&Path| by.0.iter().any(|it| path.starts_with(it));
            of.0.iter().filter(covered).cloned().collect::<Vec<_>>()
        };
        Self::of([below(self, other), below(other, self)].concat())
    }

    /// The masks, and those of whoever has several of them at once; `None` when they are more than [`MAX_MASKS`].
    #[must_use]
    pub fn all_of<'a>(masks: impl IntoIterator<Item = &'a Self>) -> Option<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for mask in masks {
            let with_others: Vec<Self> = all.iter().filter_map(|it| it.both(mask)).collect();
            for one in std::iter::once(mask.clone()).chain(with_others) {
                if !all.contains(&one) {
                    all.push(one);
                }
            }
            if all.len() > MAX_MASKS {
                return None;
            }
        }
        Some(all)
    }

    /// Whether a value by its dotted path is hidden, or lies in what is. Places in arrays do not count.
    #[must_use]
    pub fn hides(&self, field: &str) -> bool {
        let names: Vec<&str> = names(field).collect();
        self.0.iter().any(|path| path.len() <= names.len() && path.iter().zip(&names).all(|(a, b)| a == b))
    }

    /// Whether a top-level field is hidden as a whole.
    #[must_use]
    pub fn hides_top(&self, name: &str) -> bool {
        self.0.iter().any(|path| matches!(&**path, [only] if only == name))
    }

    /// What is hidden of the value at a dotted path that is not hidden itself.
    #[must_use]
    pub fn within(&self, field: &str) -> Option<Self> {
        let names: Vec<&str> = names(field).collect();
        let rest = |path: &Path| {
            let inside = path.len() > names.len() && path.iter().zip(&names).all(|(a, b)| a == b);
            inside.then(|| path[names.len()..].into())
        };
        Self::of(self.0.iter().filter_map(rest).collect())
    }

    /// Whether something at this place, or in it, is hidden. Places in arrays do not count, but a `-` may be a name as well.
    #[must_use]
    pub fn touches(&self, place: &Pointer) -> bool {
        let names = |of_array: &[&str]| -> Vec<&str> {
            let all = place.steps().iter().map(String::as_str);
            all.filter(|step| !of_array.contains(step) && !is_number(step)).collect()
        };
        let both = [names(&[]), names(&["-"])];
        self.0.iter().any(|path| both.iter().any(|names| path.iter().zip(names).all(|(a, b)| a == b)))
    }

    /// Whether a merge patch of this document names what is hidden, or replaces what it may stand in; told whether or not something does.
    #[must_use]
    pub fn is_reached_by(&self, patch: &str, doc: &str) -> bool {
        let open: Vec<&[String]> = self.0.iter().map(|path| &**path).collect();
        reaches(patch, Some(doc), &open)
    }

    /// All that is hidden of a JSON text, in its order, each with its name: what a writer who does not see it must leave alone. `None`: it
    /// is not JSON.
    #[must_use]
    pub fn hidden<'a>(&self, json: &'a str) -> Option<Vec<(String, &'a str)>> {
        let mut walk = Walk { text: json, hidden: Vec::new(), named: Some(Vec::new()) };
        let open: Vec<&[String]> = self.0.iter().map(|path| &**path).collect();
        walk.value(space(json.as_bytes(), 0), &open, 0)?;
        let named = walk.named.unwrap_or_default().into_iter();
        named.map(|(name, value)| Some((name, json.get(value)?))).collect()
    }

    /// A JSON text without what is hidden, everything else as it is written. What is not JSON becomes `null`.
    #[must_use]
    pub fn cut<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let mut walk = Walk { text: json, hidden: Vec::new(), named: None };
        let open: Vec<&[String]> = self.0.iter().map(|path| &**path).collect();
        let start = space(json.as_bytes(), 0);
        let end = walk.value(start, &open, 0);
        if end.is_none_or(|end| space(json.as_bytes(), end) != json.len()) {
            return Cow::Borrowed("null");
        }
        if walk.hidden.is_empty() {
            return Cow::Borrowed(json);
        }
        let mut out = String::with_capacity(json.len());
        let mut copied = 0;
        for Range { start, end } in walk.hidden {
            out.push_str(json.get(copied..start).unwrap_or_default());
            copied = end;
        }
        out.push_str(json.get(copied..).unwrap_or_default());
        Cow::Owned(out)
    }
}

/// What is left behind a name of the paths that lead through it.
fn behind<'p>(open: &[&'p [String]], name: &str) -> Vec<&'p [String]> {
    open.iter().filter_map(|path| path.split_first()).filter(|it| it.0 == name).map(|it| it.1).collect()
}

fn reaches(patch: &str, old: Option<&str>, open: &[&[String]]) -> bool {
    let old = old.and_then(distinct).unwrap_or_default();
    distinct(patch).unwrap_or_default().into_iter().any(|(name, _, value)| {
        let within = behind(open, &name);
        if within.is_empty() {
            return false;
        }
        let there = old.iter().find(|it| it.0 == name).map(|it| it.2);
        let merges = value.starts_with('{') && there.is_none_or(|there| there.starts_with('{'));
        !merges || within.iter().any(|rest| rest.is_empty()) || reaches(value, there, &within)
    })
}

/// The names of a dotted path, without places in arrays.
fn names(field: &str) -> impl Iterator<Item = &str> {
    field.split('.').filter(|step| !is_number(step))
}

fn is_number(step: &str) -> bool {
    !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit())
}

fn steps(path: &str) -> Result<Path, MaskError> {
    let wrong = || MaskError::Path(path.chars().take(80).collect());
    let steps: Vec<String> = match path.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(unescape).collect::<Option<_>>().ok_or_else(wrong)?,
        None => path.split('.').map(str::to_owned).collect(),
    };
    let formed = path.len() <= MAX_MASK_PATH && steps.len() <= MAX_MASK_STEPS && steps.iter().all(|it| !it.is_empty());
    if !formed {
        return Err(wrong());
    }
    if steps.iter().any(|step| is_number(step)) {
        return Err(MaskError::Number(path.to_owned()));
    }
    Ok(steps.into())
}

/// Finds what has to go.
struct Walk<'a> {
    text: &'a str,
    /// In their order, none within another.
    hidden: Vec<Range<usize>>,
    /// The same by name and value, where somebody asks.
    named: Option<Vec<(String, Range<usize>)>>,
}

impl Walk<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// Answers the end of the value at `at`; `open` is what is hidden within it. `None`: it cannot be walked.
    fn value(&mut self, at: usize, open: &[&[String]], depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.byte(at)? {
            b'{' if !open.is_empty() => self.object(at, open, depth),
            b'[' if !open.is_empty() => self.array(at, open, depth),
            _ => self.end(at),
        }
    }

    fn end(&self, at: usize) -> Option<usize> {
        Some(value_end(self.text.as_bytes(), at)).filter(|end| *end > at)
    }

    fn array(&mut self, at: usize, open: &[&[String]], depth: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = space(bytes, at + 1);
        if self.byte(at)? == b']' {
            return Some(at + 1);
        }
        loop {
            at = space(bytes, self.value(at, open, depth + 1)?);
            match self.byte(at)? {
                b',' => at = space(bytes, at + 1),
                b']' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn object(&mut self, at: usize, open: &[&[String]], depth: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = space(bytes, at + 1);
        if self.byte(at)? == b'}' {
            return Some(at + 1);
        }
        // Where the members end that came before; what is hidden takes the comma before it along, or the one behind it as long
        // as nothing before it stays.
        let (first, mut before, mut kept) = (at, at, false);
        loop {
            if self.byte(at)? != b'"' {
                return None;
            }
            let name_end = string_end(bytes, at);
            let name = unquote(self.text.get(at..name_end)?)?;
            let colon = space(bytes, name_end);
            if self.byte(colon)? != b':' {
                return None;
            }
            let value = space(bytes, colon + 1);
            let within = behind(open, &name);
            let end = if within.iter().any(|rest| rest.is_empty()) {
                let end = self.end(value)?;
                if let Some(named) = &mut self.named {
                    named.push((name.into_owned(), value..end));
                }
                if kept {
                    self.hidden.push(before..end);
                }
                end
            } else {
                if !kept && first < at {
                    self.hidden.push(first..at);
                }
                kept = true;
                self.value(value, &within, depth + 1)?
            };
            before = end;
            at = space(bytes, end);
            match self.byte(at)? {
                b',' => at = space(bytes, at + 1),
                b'}' => {
                    if !kept && first < end {
                        self.hidden.push(first..end);
                    }
                    return Some(at + 1);
                }
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
