//! The declared fields of an entity before and after one change: what tells a query, without any memory of it, whether the
//! entity came, changed or went.
//!
//! As text: `{"is": {field: text or null}, "was": {…}}`. `is` names every field that was declared when it was written; it is
//! left out when the entity is not there after the change: in the trash, missing or purged. `was` names what was other
//! before, or everything where there is no `is`; it is left out when the entity was not there. Where several changes are told as one
//! (`Conflated`) it is the last, and `earlier` are those before it: never on the bus, nor in the log. What a query tells of them is
//! judged again, by the rows that somebody sees, only where the query held.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::Filter;
use crate::{
    channels::{Held, Publication},
    entities::{Fields, MAX_FIELD_VALUE},
};

/// What a change is to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Concern {
    /// The entity belongs to it from now on.
    Enter,
    /// It belonged to it and still does.
    Change,
    /// It no longer belongs to it.
    Leave,
}

impl Concern {
    /// The spelling in a publication.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Change => "change",
            Self::Leave => "leave",
        }
    }

    /// Of one change, before and after which it held.
    const fn of([before, after]: [bool; 2]) -> Option<Self> {
        match (before, after) {
            (false, true) => Some(Self::Enter),
            (true, true) => Some(Self::Change),
            (true, false) => Some(Self::Leave),
            (false, false) => None,
        }
    }

    /// Of several changes that are told as one: what brings whoever stands anywhere among them to the state of the last.
    #[must_use]
    pub fn among(held: &[[bool; 2]]) -> Option<Self> {
        let (mut all, last) = (held.iter().flatten(), held.last().is_some_and(|[_, after]| *after));
        match last {
            true if all.all(|held| *held) => Some(Self::Change),
            true => Some(Self::Enter),
            false => all.any(|held| *held).then_some(Self::Leave),
        }
    }
}

/// The change does not tell of a field that the filter names: it was not declared where the change was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the change does not carry a field of the filter")]
pub struct Undeclared;

/// A text that is borrowed where it has no escapes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The declared fields of an entity at one time: of each its scalar as text, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Values<'a>(#[serde(borrow)] BTreeMap<Text<'a>, Option<Text<'a>>>);

impl<'a> Values<'a> {
    /// Of the text of a document.
    #[must_use]
    pub fn of(doc: &'a str, declared: &'a [String]) -> Self {
        Self::of_fields(&Fields::of(doc), declared)
    }

    /// Of a document whose fields have been found.
    #[must_use]
    pub fn of_fields(doc: &Fields<'a>, declared: &'a [String]) -> Self {
        let value = |field: &str| doc.scalar_at(field).filter(|value| value.len() <= MAX_FIELD_VALUE).map(Text);
        Self(declared.iter().map(|field| (Text(Cow::Borrowed(field)), value(field))).collect())
    }

    /// Of what was derived and stored, a JSON object of texts.
    #[must_use]
    pub fn of_stored(filterable: &'a str, declared: &'a [String]) -> Self {
        let mut stored: BTreeMap<Text<'a>, Text<'a>> = serde_json::from_str(filterable).unwrap_or_default();
        Self(declared.iter().map(|field| (Text(Cow::Borrowed(field)), stored.remove(field.as_str()))).collect())
    }

    /// The same, of texts of its own.
    #[must_use]
    pub fn into_owned(self) -> Values<'static> {
        let own = |Text(text): Text<'_>| Text(Cow::Owned(text.into_owned()));
        Values(self.0.into_iter().map(|(field, value)| (own(field), value.map(own))).collect())
    }

    /// The scalar of a declared field, if it has one.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<&str> {
        self.get(field).flatten()
    }

    /// `None` where the field is not told of.
    fn get(&self, field: &str) -> Option<Option<&str>> {
        self.0.get(field).map(|value| value.as_ref().map(|text| &*text.0))
    }
}

/// The declared fields before and after one change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    is: Option<Values<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    was: Option<Values<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<FieldChange<'a>>,
    /// Where the query held that tells this one of several; `None`: nothing but the fields is asked.
    #[serde(skip)]
    held: Option<[bool; 2]>,
}

impl<'a> FieldChange<'a> {
    /// From the fields before and after; `None` where the entity is not there.
    #[must_use]
    pub fn new(mut was: Option<Values<'a>>, is: Option<Values<'a>>) -> Self {
        if let (Some(Values(was)), Some(Values(is))) = (&mut was, &is) {
            was.retain(|field, value| is.get(field) != Some(value));
        }
        Self { is, was, ..Self::default() }
    }

    /// The same, told as one with those before it.
    #[must_use]
    pub fn behind(self, earlier: Vec<Self>) -> Self {
        Self { earlier, ..self }
    }

    /// The changes that are told as one: most often this one alone.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        self.earlier.iter().chain(std::iter::once(self))
    }

    /// Whether they are several.
    #[must_use]
    pub const fn is_conflated(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Reads the text; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What a publication tells of its fields, and where the query held that tells it.
    #[must_use]
    pub fn of(publication: &'a Publication) -> Option<Self> {
        let extra = publication.extra.as_deref()?;
        let mut change = Self::parse(extra.fields.as_deref()?)?;
        if let Some(held) = extra.held.as_deref() {
            if held.len() != change.earlier.len() + 1 {
                return None;
            }
            change.earlier.iter_mut().zip(held).for_each(|(one, held)| one.held = Some(*held));
            change.held = held.last().copied();
        }
        Some(change)
    }

    /// The same, of texts of its own.
    #[must_use]
    pub fn into_owned(self) -> FieldChange<'static> {
        FieldChange {
            is: self.is.map(Values::into_owned),
            was: self.was.map(Values::into_owned),
            earlier: self.earlier.into_iter().map(FieldChange::into_owned).collect(),
            held: self.held,
        }
    }

    /// Whether the entity is there after the change.
    #[must_use]
    pub const fn remains(&self) -> bool {
        self.is.is_some()
    }

    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        // Maps of texts: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn before(&self, field: &str) -> Option<&str> {
        let now = || self.is.as_ref().and_then(|is| is.get(field));
        self.was.as_ref()?.get(field).or_else(now).flatten()
    }

    fn after(&self, field: &str) -> Option<&str> {
        self.is.as_ref()?.get(field).flatten()
    }

    /// The texts of a field before and after, for whoever looks queries up by them.
    #[must_use]
    pub fn texts(&self, field: &str) -> [Option<&str>; 2] {
        [self.before(field), self.after(field)]
    }

    /// Whether it tells of the field. What was not there and is not there has nothing to tell.
    #[must_use]
    pub fn carries(&self, field: &str) -> bool {
        let told = self.is.as_ref().or(self.was.as_ref());
        told.is_none_or(|values| values.get(field).is_some())
    }
}

impl Filter {
    /// What the change is to a query of this filter; `None` when it does not concern it. Of several that are told as one it is what
    /// brings whoever stands anywhere among them to the state of the last.
    ///
    /// # Errors
    /// The change does not say enough to tell.
    pub fn concern(&self, change: &FieldChange<'_>) -> Result<Option<Concern>, Undeclared> {
        Ok(if change.is_conflated() { Concern::among(&self.held(change)?) } else { self.concern_of_last(change)? })
    }

    /// Where it holds: before and after each of those that are told as one.
    ///
    /// # Errors
    /// One of them does not say enough to tell.
    pub fn held(&self, change: &FieldChange<'_>) -> Result<Held, Undeclared> {
        change.all().map(|one| self.held_by_last(one)).collect()
    }

    /// What the last of them is by itself.
    pub(in crate::entities) fn concern_of_last(&self, change: &FieldChange<'_>) -> Result<Option<Concern>, Undeclared> {
        self.held_by_last(change).map(Concern::of)
    }

    fn held_by_last(&self, change: &FieldChange<'_>) -> Result<[bool; 2], Undeclared> {
        if !self.all_fields(&|field| change.carries(field)) {
            return Err(Undeclared);
        }
        let [before, after] = change.held.unwrap_or([true; 2]);
        Ok([
            before && change.was.is_some() && self.evaluate(&|field| change.before(field)) == Some(true),
            after && change.is.is_some() && self.evaluate(&|field| change.after(field)) == Some(true),
        ])
    }
}
