//! JSON Patch (RFC 6902) on text: what no operation touches keeps its exact spelling, numbers above all.
//!
//! A document is opened only where a path leads through it; the rest stays a slice of the text that came. All operations hold or none does.
//! Invariants: work and result are bounded by what the caller allows, however often something is copied or moved; nothing becomes deeper
//! than [`MAX_DEPTH`]; names are compared as they read, numbers by what they are worth. No library does this: those that are kept read
//! numbers as floats.

mod node;
mod pointer;

use serde_json::value::RawValue;

use self::node::{Node, equal};
pub use self::pointer::Pointer;
pub(super) use self::pointer::unescape;
use super::{
    MAX_DEPTH,
    raw::{items, member, unquote},
};

/// Most operations of one patch: far above what a form or a program changes at once.
pub const MAX_OPERATIONS: usize = 1_000;
/// How many times the allowed size may be opened, looked through, moved, copied and compared: a patch is refused that would keep others
/// waiting.
const WORK: usize = 16;

/// Why a patch was not applied: to which operation, counted from 0, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("operation {at}: {why} ({path:?})")]
pub struct JsonPatchError {
    /// Which operation.
    pub at: usize,
    /// The path that it names, cut to a limit.
    pub path: String,
    /// What is wrong.
    pub why: JsonPatchFault,
}

/// What is wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchFault {
    /// Not a list of objects, each with an `op` that is known and what that needs.
    #[error("a patch is a list of at most {MAX_OPERATIONS} operations, each with what it needs")]
    Form,
    /// Not a JSON Pointer (RFC 6901), or too long.
    #[error("no JSON Pointer of at most {MAX_DEPTH} steps")]
    Pointer,
    /// The path leads nowhere.
    #[error("there is nothing at the path")]
    Nothing,
    /// Something was to be moved to a place within itself.
    #[error("nothing can be moved into itself")]
    IntoItself,
    /// A test does not hold.
    #[error("the value is another one")]
    Test,
    /// More than the caller allows.
    #[error("the document would become too deep or too large, or the patch takes too much work")]
    TooMuch,
}

impl JsonPatchFault {
    /// Whether the patch itself is malformed: then it fits no document.
    #[must_use]
    pub const fn is_malformed(self) -> bool {
        matches!(self, Self::Form | Self::Pointer)
    }
}

/// A patch that was read.
#[derive(Debug)]
pub struct JsonPatch<'a>(Vec<Operation<'a>>);

#[derive(Debug)]
struct Operation<'a> {
    path: Pointer,
    verb: Verb<'a>,
}

#[derive(Debug)]
enum Verb<'a> {
    Add(&'a str),
    Remove,
    Replace(&'a str),
    Move(Pointer),
    Copy(Pointer),
    Test(&'a str),
}

impl<'a> JsonPatch<'a> {
    /// Reads a patch whose text has passed [`check`](super::check) or is as deep at most. Members that are not known are passed over, as
    /// the standard asks.
    ///
    /// # Errors
    /// The first operation that is malformed.
    pub fn read(patch: &'a RawValue) -> Result<Self, JsonPatchError> {
        let form = |at| JsonPatchError { at, path: String::new(), why: JsonPatchFault::Form };
        let all = items(patch.get()).ok_or_else(|| form(0))?;
        let mut operations = Vec::new();
        for (at, text) in all.enumerate() {
            if at >= MAX_OPERATIONS {
                return Err(form(at));
            }
            operations.push(Operation::read(at, text)?);
        }
        Ok(Self(operations))
    }

    /// Every place that it reads or changes.
    pub fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        self.0.iter().flat_map(|it| {
            let from = match &it.verb {
                Verb::Move(from) | Verb::Copy(from) => Some(from),
                _ => None,
            };
            std::iter::once(&it.path).chain(from)
        })
    }

    /// The document with all of it done; `limit`: bytes that it may come to.
    ///
    /// # Errors
    /// The first operation that cannot be done.
    pub fn apply(&self, doc: &RawValue, limit: usize) -> Result<Box<RawValue>, JsonPatchError> {
        let mut work = Work { root: Node::Text(doc.get()), budget: Budget(limit.saturating_mul(WORK)) };
        for (at, operation) in self.0.iter().enumerate() {
            let fail = |why| JsonPatchError { at, path: operation.path.shown(), why };
            work.perform(operation).map_err(fail)?;
        }
        let mut out = String::with_capacity(doc.get().len());
        work.root.write(&mut out);
        let last = || self.0.last().map(|it| it.path.shown()).unwrap_or_default();
        let too_much =
            || JsonPatchError { at: self.0.len().saturating_sub(1), path: last(), why: JsonPatchFault::TooMuch };
        if out.len() > limit {
            return Err(too_much());
        }
        RawValue::from_string(out).map_err(|_| too_much())
    }
}

impl<'a> Operation<'a> {
    fn read(at: usize, text: &'a str) -> Result<Self, JsonPatchError> {
        let told = |name| member(text, name).and_then(unquote);
        let fault = |why, path: &str| JsonPatchError { at, path: pointer::shown(path), why };
        let form = || fault(JsonPatchFault::Form, "");
        let pointer = |name| {
            let path = told(name).ok_or_else(form)?;
            Pointer::parse(&path).ok_or_else(|| fault(JsonPatchFault::Pointer, &path))
        };
        let value = || member(text, "value").ok_or_else(form);
        let verb = match &*told("op").ok_or_else(form)? {
            "add" => Verb::Add(value()?),
            "remove" => Verb::Remove,
            "replace" => Verb::Replace(value()?),
            "move" => Verb::Move(pointer("from")?),
            "copy" => Verb::Copy(pointer("from")?),
            "test" => Verb::Test(value()?),
            _ => return Err(form()),
        };
        Ok(Self { path: pointer("path")?, verb })
    }
}

/// A document under way.
struct Work<'a> {
    root: Node<'a>,
    budget: Budget,
}

impl<'a> Work<'a> {
    fn perform(&mut self, operation: &Operation<'a>) -> Result<(), JsonPatchFault> {
        let path = &operation.path;
        match &operation.verb {
            Verb::Add(value) => self.add(path, Node::Text(value)),
            Verb::Remove => self.remove(path).map(drop),
            Verb::Replace(value) => {
                self.charge(path, &Node::Text(value))?;
                *self.root.at(path.steps(), &mut self.budget)? = Node::Text(value);
                Ok(())
            }
            Verb::Move(from) if from == path => self.root.at(path.steps(), &mut self.budget).map(drop),
            Verb::Move(from) if path.is_within(from) => Err(JsonPatchFault::IntoItself),
            Verb::Move(from) => {
                let moved = self.remove(from)?;
                self.add(path, moved)
            }
            Verb::Copy(from) => {
                let there = self.root.at(from.steps(), &mut self.budget)?;
                let (bytes, _) = there.measure();
                self.budget.spend(bytes)?;
                let copied = there.clone();
                self.add(path, copied)
            }
            Verb::Test(value) => {
                self.charge(path, &Node::Text(value))?;
                let mut there = String::new();
                self.root.at(path.steps(), &mut self.budget)?.write(&mut there);
                self.budget.spend(there.len())?;
                if equal(&there, value) { Ok(()) } else { Err(JsonPatchFault::Test) }
            }
        }
    }

    fn add(&mut self, path: &Pointer, value: Node<'a>) -> Result<(), JsonPatchFault> {
        self.charge(path, &value)?;
        let Some((name, parent)) = path.steps().split_last() else {
            self.root = value;
            return Ok(());
        };
        self.root.at(parent, &mut self.budget)?.insert(name, value, &mut self.budget)
    }

    fn remove(&mut self, path: &Pointer) -> Result<Node<'a>, JsonPatchFault> {
        let (name, parent) = path.steps().split_last().ok_or(JsonPatchFault::Nothing)?;
        self.root.at(parent, &mut self.budget)?.remove(name, &mut self.budget)
    }

    /// What stands at a path must not be too deep there, and counts as work.
    fn charge(&mut self, path: &Pointer, value: &Node<'a>) -> Result<(), JsonPatchFault> {
        let (bytes, depth) = value.measure();
        if path.steps().len() + depth > MAX_DEPTH {
            return Err(JsonPatchFault::TooMuch);
        }
        self.budget.spend(bytes)
    }
}

/// Bytes that may still be handled.
struct Budget(usize);

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), JsonPatchFault> {
        self.0 = self.0.checked_sub(bytes).ok_or(JsonPatchFault::TooMuch)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "json_patch_tests.rs"]
pub(super) mod tests;
