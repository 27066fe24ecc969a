//! A JSON value that is opened only where somebody goes through it.

use std::borrow::Cow;

use super::{Budget, JsonPatchFault, pointer::place};
use crate::entities::{
    filter::Decimal,
    raw::{Named, distinct, items, string_end, unquote},
};

/// A value: as it was written, or opened.
#[derive(Debug, Clone)]
pub(super) enum Node<'a> {
    Text(&'a str),
    Object(Vec<Member<'a>>),
    Array(Vec<Node<'a>>),
}

#[derive(Debug, Clone)]
pub(super) struct Member<'a> {
    name: Cow<'a, str>,
    /// As it is written; `None`: it is new.
    key: Option<&'a str>,
    value: Node<'a>,
}

/// What moving a member aside costs beside looking at one.
const SHIFT: usize = 16;

impl<'a> Node<'a> {
    /// What stands at these steps.
    pub(super) fn at(&mut self, steps: &[String], budget: &mut Budget) -> Result<&mut Self, JsonPatchFault> {
        steps.iter().try_fold(self, |node, step| match node.open(budget)? {
            Self::Object(all) => {
                let at = named(all, step, budget)?.ok_or(JsonPatchFault::Nothing)?;
                all.get_mut(at).map(|it| &mut it.value).ok_or(JsonPatchFault::Nothing)
            }
            Self::Array(all) => {
                let at = place(step, all.len()).ok_or(JsonPatchFault::Nothing)?;
                all.get_mut(at).ok_or(JsonPatchFault::Nothing)
            }
            Self::Text(_) => Err(JsonPatchFault::Nothing),
        })
    }

    /// Objects and arrays are opened; everything else stays text.
    fn open(&mut self, budget: &mut Budget) -> Result<&mut Self, JsonPatchFault> {
        if let Self::Text(text) = *self {
            if let Some(all) = distinct(text) {
                budget.spend(text.len() + all.len() * size_of::<Member<'_>>())?;
                let member = |(name, key, value)| Member { name, key: Some(key), value: Self::Text(value) };
                *self = Self::Object(all.into_iter().map(member).collect());
            } else if let Some(all) = items(text) {
                let all: Vec<_> = all.map(Self::Text).collect();
                budget.spend(text.len() + size_of_val(&*all))?;
                *self = Self::Array(all);
            }
        }
        Ok(self)
    }

    /// Puts a value under a name, or before a place of an array (`-`: behind the last).
    pub(super) fn insert(&mut self, name: &str, value: Self, budget: &mut Budget) -> Result<(), JsonPatchFault> {
        match self.open(budget)? {
            Self::Object(all) => match named(all, name, budget)?.and_then(|at| all.get_mut(at)) {
                Some(there) => there.value = value,
                None => all.push(Member { name: Cow::Owned(name.to_owned()), key: None, value }),
            },
            Self::Array(all) => {
                let at = if name == "-" { Some(all.len()) } else { place(name, all.len() + 1) };
                let at = at.ok_or(JsonPatchFault::Nothing)?;
                budget.spend((all.len() - at) * size_of::<Self>() / SHIFT)?;
                all.insert(at, value);
            }
            Self::Text(_) => return Err(JsonPatchFault::Nothing),
        }
        Ok(())
    }

    /// Takes out what stands under a name or at a place.
    pub(super) fn remove(&mut self, name: &str, budget: &mut Budget) -> Result<Self, JsonPatchFault> {
        match self.open(budget)? {
            Self::Object(all) => {
                let at = named(all, name, budget)?.ok_or(JsonPatchFault::Nothing)?;
                budget.spend((all.len() - at) * size_of::<Member<'_>>() / SHIFT)?;
                Ok(all.remove(at).value)
            }
            Self::Array(all) => {
                let at = place(name, all.len()).ok_or(JsonPatchFault::Nothing)?;
                budget.spend((all.len() - at) * size_of::<Self>() / SHIFT)?;
                Ok(all.remove(at))
            }
            Self::Text(_) => Err(JsonPatchFault::Nothing),
        }
    }

    /// Bytes, nearly, and how many objects and arrays stand in each other.
    pub(super) fn measure(&self) -> (usize, usize) {
        let inside = |(bytes, depth): (usize, usize), (more, below): (usize, usize)| (bytes + more, depth.max(below));
        let (bytes, depth) = match self {
            Self::Text(text) => return (text.len(), depth(text.as_bytes())),
            Self::Object(all) => all
                .iter()
                .map(|it| inside((it.name.len() + size_of::<Member<'_>>(), 0), it.value.measure()))
                .fold((0, 0), inside),
            Self::Array(all) => all.iter().map(|it| inside((size_of::<Self>(), 0), it.measure())).fold((0, 0), inside),
        };
        (bytes + size_of::<Self>(), depth + 1)
    }

    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Object(all) => {
                out.push('{');
                for (n, it) in all.iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    match it.key {
                        Some(key) => out.push_str(key),
                        None => out.push_str(&serde_json::Value::from(&*it.name).to_string()),
                    }
                    out.push(':');
                    it.value.write(out);
                }
                out.push('}');
            }
            Self::Array(all) => {
                out.push('[');
                for (n, it) in all.iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    it.write(out);
                }
                out.push(']');
            }
        }
    }
}

/// Where the member of a name stands. To look at each is work.
fn named(all: &[Member<'_>], name: &str, budget: &mut Budget) -> Result<Option<usize>, JsonPatchFault> {
    let at = all.iter().position(|it| it.name == name);
    budget.spend(at.unwrap_or(all.len()) * size_of::<Member<'_>>() / SHIFT)?;
    Ok(at)
}

fn depth(text: &[u8]) -> usize {
    let (mut at, mut open, mut deepest) = (0, 0_usize, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'{' | b'[' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// Whether two texts say the same (RFC 6902, 4.6): objects whatever the order, numbers by what they are worth.
pub(super) fn equal(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (distinct(a), distinct(b)) {
        (Some(mut a), Some(mut b)) => {
            a.sort_unstable();
            b.sort_unstable();
            let same = |(a, b): (&Named<'_>, &Named<'_>)| a.0 == b.0 && equal(a.2, b.2);
            return a.len() == b.len() && a.iter().zip(&b).all(same);
        }
        (None, None) => {}
        _ => return false,
    }
    if let (Some(mut a), Some(mut b)) = (items(a), items(b)) {
        loop {
            match (a.next(), b.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if equal(a, b) => {}
                _ => return false,
            }
        }
    }
    if let (Some(a), Some(b)) = (unquote(a), unquote(b)) {
        return a == b;
    }
    matches!((Decimal::parse(a), Decimal::parse(b)), (Some(a), Some(b)) if a == b)
}
