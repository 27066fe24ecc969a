//! Several changes of one entity, told as one: what channels of a kind with `conflate` show.
//!
//! Invariants: whoever stands anywhere among the changes, having seen the first few of them or a list that was read meanwhile, ends in
//! the state of the last. So the one publication is the last one, but it names what any of them has changed, or nothing where that is
//! not known; and its declared fields carry those of the others, so that a query or a view of rows is judged by all states between
//! ([`FieldChange`]). What one of them does not tell, all of them do not.
//!
//! Not here: which changes are told as one, and when.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    FieldChange, MAX_CHANGED, Op,
    raw::{items, members},
};
use crate::channels::{Extra, Publication};

/// Changes of one entity that follow one another; at least one.
#[derive(Debug, Clone)]
pub struct Conflated {
    /// The offset of the first.
    first: u64,
    last: Publication,
    /// The declared fields of those before, from the first.
    earlier: Vec<Option<Arc<str>>>,
    /// Names of what those before have changed, as they are written; `None`: anything.
    changed: Option<BTreeSet<Box<str>>>,
    /// Bytes of both.
    kept: usize,
}

impl Conflated {
    /// One change.
    #[must_use]
    pub const fn new(first: Publication) -> Self {
        Self { first: first.offset, last: first, earlier: Vec::new(), changed: Some(BTreeSet::new()), kept: 0 }
    }

    /// Another behind it.
    pub fn push(&mut self, next: Publication) {
        let before = std::mem::replace(&mut self.last, next);
        self.note(&before);
        let fields = before.extra.as_ref().and_then(|extra| extra.fields.clone());
        self.kept += size_of::<Option<Arc<str>>>() + fields.as_ref().map_or(0, |fields| fields.len());
        self.earlier.push(fields);
    }

    /// How many there are before the last.
    #[must_use]
    pub fn earlier(&self) -> u64 {
        self.earlier.len() as u64
    }

    /// The offset of the first.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Bytes of memory that they take, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        let fields = self.last.extra.as_ref().and_then(|extra| extra.fields.as_ref()).map_or(0, |fields| fields.len());
        size_of::<Self>() + self.last.size() + fields + self.kept
    }

    /// All of them as one.
    #[must_use]
    pub fn into_publication(mut self) -> Publication {
        if self.earlier.is_empty() {
            return self.last;
        }
        let last = self.last.clone();
        self.note(&last);
        let fields = self.fields().map(Into::into);
        let extra = Extra { fields, ..last.extra.as_deref().cloned().unwrap_or_default() };
        let extra = (!extra.is_empty()).then(|| Arc::new(extra));
        Publication { data: self.data().into(), extra, ..last }
    }

    /// Adds what a change has changed.
    fn note(&mut self, of: &Publication) {
        let Some(all) = &mut self.changed else { return };
        let text = std::str::from_utf8(&of.data).unwrap_or_default();
        let find = |wanted: &str| members(text)?.find(|(name, _)| *name == wanted).map(|(_, value)| value);
        let update = find(r#""op""#).and_then(|op| Op::parse(op.trim_matches('"'))) == Some(Op::Update);
        let mut names = items(find(r#""changed""#).unwrap_or_default()).into_iter().flatten().peekable();
        // Of what names nothing nobody knows what has changed; what came or went has changed as a whole.
        if !update || names.peek().is_none() {
            self.changed = None;
            return;
        }
        for name in names.filter(|name| !all.contains(*name)).collect::<Vec<_>>() {
            self.kept += name.len();
            all.insert(name.into());
        }
        if all.len() > MAX_CHANGED {
            self.changed = None;
        }
    }

    fn fields(&self) -> Option<String> {
        let last = self.last.extra.as_deref()?.fields.as_deref()?;
        let earlier = self.earlier.iter().map(|fields| FieldChange::parse(fields.as_deref()?));
        Some(FieldChange::parse(last)?.behind(earlier.collect::<Option<Vec<_>>>()?).encode())
    }

    fn data(&self) -> Vec<u8> {
        let text = std::str::from_utf8(&self.last.data).unwrap_or_default();
        let mut data = Vec::with_capacity(text.len() + 64);
        let mut part = |name: &str, value: &str| {
            data.push(if data.is_empty() { b'{' } else { b',' });
            [name, ":", value].iter().for_each(|part| data.extend_from_slice(part.as_bytes()));
        };
        for (name, value) in members(text).into_iter().flatten() {
            match (name, &self.changed) {
                (r#""changed""#, None) => {}
                (r#""changed""#, Some(all)) => {
                    let all: Vec<&str> = all.iter().map(|name| &**name).collect();
                    part(name, &format!("[{}]", all.join(",")));
                }
                _ => part(name, value),
            }
        }
        data.extend_from_slice(if data.is_empty() { b"{}" } else { b"}" });
        data
    }
}

#[cfg(test)]
#[path = "conflated_tests.rs"]
mod tests;
