//! What somebody sees of a kind: which fields, and which rows.
//!
//! A [`View`] is what roles grant, a [`Sight`] the same for one caller. Of a publication it says in which form it is shown, or
//! that it is not:
//!
//! | the row, before and after the change | shown |
//! |---|---|
//! | seen, seen | the publication without hidden fields; nothing when only hidden fields changed |
//! | not seen, seen | the same, also when only hidden fields changed; in a query `enter` |
//! | seen, not seen | neither `doc` nor `changed`, with `hidden: true`; in a query `leave` |
//! | seen, gone (trash, purge) | the publication without hidden fields |
//! | not seen, not seen | nothing |
//! | of several changes that are told as one: seen at some time, in the end not | `hidden: true`, in a query `leave`, whether or not it was told before; in a query a row is seen while it is in the query and in sight |
//!
//! Invariants: what is shown is made of the text that came, never through values; a change that does not tell the fields of the
//! row filter is not guessed at. What is not shown still moves whoever listens on: that is the caller's part.
//!
//! Positions of one sight are worth nothing under another: their epoch carries the sight's mark, so whoever comes back with
//! other rights loads anew.

use std::{borrow::Cow, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Concern, FieldChange, Filter, Mask, Undeclared,
    raw::{items, members, unquote},
};
use crate::channels::{Epoch, Publication};

/// Stands in `changed` for names that are left out.
pub const MORE: &str = "…";
/// Digits of a sight's mark: two sights of one kind that share it are one in four thousand million.
const MARK: usize = 8;
/// Between an epoch and the mark. Epochs are hexadecimal.
const BETWEEN: char = 'v';

/// What roles grant of a kind: which fields are hidden, and which rows are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// `None`: nothing is hidden.
    pub mask: Option<Arc<Mask>>,
    /// One of them has to hold; `None`: every row is seen.
    pub rows: Option<Arc<[Filter]>>,
}

impl View {
    /// What this user sees.
    #[must_use]
    pub fn sight(&self, user: &str) -> Sight {
        let rows = self.rows.as_ref().map(|rows| {
            let mut all: Vec<Filter> = rows.iter().map(|filter| filter.of_user(user).into_owned()).collect();
            if all.len() == 1 { all.remove(0) } else { Filter::Or(all) }
        });
        Sight::new(self.mask.clone(), rows)
    }
}

/// What somebody sees of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    mask: Option<Arc<Mask>>,
    rows: Option<Filter>,
    mark: Box<str>,
}

/// In which form a change is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// As it is.
    Whole,
    /// The row came into sight.
    Entered,
    /// The row went out of sight.
    Left,
}

impl Sight {
    /// Of a mask, and of the rows that meet a filter.
    #[must_use]
    pub fn new(mask: Option<Arc<Mask>>, rows: Option<Filter>) -> Self {
        let spelled = format!("{mask:?} {}", rows.as_ref().map_or_else(String::new, Filter::to_string));
        let digest = Sha256::digest(spelled.as_bytes());
        let mark: String = digest.iter().take(MARK / 2).map(|byte| format!("{byte:02x}")).collect();
        Self { mask, rows, mark: mark.into() }
    }

    /// What is hidden of each row.
    #[must_use]
    pub fn mask(&self) -> Option<&Arc<Mask>> {
        self.mask.as_ref()
    }

    /// Which rows are seen; `None`: all.
    #[must_use]
    pub const fn rows(&self) -> Option<&Filter> {
        self.rows.as_ref()
    }

    /// What tells this sight from others of the kind.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether a declared field is hidden.
    #[must_use]
    pub fn hides(&self, field: &str) -> bool {
        self.mask.as_ref().is_some_and(|mask| mask.hides(field))
    }

    /// A document, or another JSON text of the row, without what is hidden.
    #[must_use]
    pub fn cut<'a>(&self, json: &'a str) -> Cow<'a, str> {
        self.mask.as_ref().map_or(Cow::Borrowed(json), |mask| mask.cut(json))
    }

    /// Earlier values of declared fields, `{path: value}`, without what is hidden; `None` when nothing is left.
    #[must_use]
    pub fn earlier(&self, before: &str) -> Option<String> {
        let Some(mask) = &self.mask else { return Some(before.to_owned()) };
        let mut out = String::new();
        for (name, value) in members(before)? {
            let Some(field) = unquote(name).filter(|field| !mask.hides(field)) else { continue };
            let within = mask.within(&field);
            let value = within.as_ref().map_or(Cow::Borrowed(value), |within| within.cut(value));
            out.push(if out.is_empty() { '{' } else { ',' });
            [name, ":", &value].iter().for_each(|part| out.push_str(part));
        }
        (!out.is_empty()).then(|| out + "}")
    }

    /// The epoch as this viewer is told it.
    #[must_use]
    pub fn epoch(&self, epoch: &Epoch) -> Epoch {
        Epoch::new(&format!("{epoch}{BETWEEN}{}", self.mark))
    }

    /// The stream's epoch of one that this viewer names; `None` when it is of another sight.
    #[must_use]
    pub fn told<'a>(&self, epoch: &'a str) -> Option<&'a str> {
        epoch.strip_suffix(&*self.mark)?.strip_suffix(BETWEEN)
    }

    /// In which form a change of these fields is shown; `None`: not at all.
    ///
    /// # Errors
    /// The change does not say enough to tell.
    pub fn of(&self, change: Option<&FieldChange<'_>>) -> Result<Option<Shown>, Undeclared> {
        let Some(rows) = &self.rows else { return Ok(Some(Shown::Whole)) };
        let change = change.ok_or(Undeclared)?;
        Ok(match rows.concern(change)? {
            None => None,
            Some(Concern::Enter) => Some(Shown::Entered),
            Some(Concern::Change) => Some(Shown::Whole),
            Some(Concern::Leave) if change.remains() => Some(Shown::Left),
            // Of several that are told as one: what is gone may have been out of sight before, and is not shown as it was then.
            Some(Concern::Leave) if change.is_conflated() && rows.concern_of_last(change)?.is_none() => {
                Some(Shown::Left)
            }
            Some(Concern::Leave) => Some(Shown::Whole),
        })
    }

    /// The publication as this viewer is told it; `None`: not at all.
    ///
    /// # Errors
    /// It does not say enough to tell.
    pub fn tell(&self, publication: &Publication) -> Result<Option<Publication>, Undeclared> {
        let shown = self.of(FieldChange::of(publication).as_ref())?;
        Ok(shown.and_then(|shown| masked(publication, self.mask.as_deref(), shown)))
    }

    /// The state that a publication tells, as this viewer sees it: whatever changed. `None` when the row is not seen, or nobody
    /// can tell.
    #[must_use]
    pub fn state(&self, publication: &Publication) -> Option<Publication> {
        match self.of(FieldChange::of(publication).as_ref()) {
            Ok(Some(Shown::Whole | Shown::Entered)) => {
                Some(rewritten(publication, self.mask.as_deref(), Shown::Entered))
            }
            _ => None,
        }
    }
}

/// A publication of an entity in one form and without what a mask hides; `None` when nothing of it is to be shown.
#[must_use]
pub fn masked(publication: &Publication, mask: Option<&Mask>, shown: Shown) -> Option<Publication> {
    let text = std::str::from_utf8(&publication.data).ok()?;
    let find = |wanted: &str| members(text)?.find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let quoted = |value: Option<&str>| value.and_then(unquote).map(Cow::into_owned);
    let query = quoted(find(r#""query""#));
    match (query.as_deref(), shown) {
        // It came into the query as it went out of sight, or the other way round: it was never there. Several changes that are told as
        // one have been judged with the query: it was there in between, and leaves.
        (Some("enter"), Shown::Left) | (Some("leave"), Shown::Entered)
            if !FieldChange::of(publication).is_some_and(|change| change.is_conflated()) =>
        {
            return None;
        }
        (None | Some("change"), Shown::Whole) => {
            let update = find(r#""op""#) == Some(r#""update""#);
            let changed = find(r#""changed""#);
            if update && mask.zip(changed).is_some_and(|(mask, changed)| all_hidden(mask, changed)) {
                return None;
            }
        }
        _ => {}
    }
    Some(rewritten(publication, mask, shown))
}

/// Whether nothing else has changed than what is hidden as a whole. Names that were left out may be anything.
fn all_hidden(mask: &Mask, changed: &str) -> bool {
    let mut names = items(changed).into_iter().flatten().peekable();
    names.peek().is_some() && names.all(|name| unquote(name).is_some_and(|name| mask.hides_top(&name)))
}

fn rewritten(publication: &Publication, mask: Option<&Mask>, shown: Shown) -> Publication {
    let text = std::str::from_utf8(&publication.data).unwrap_or_default();
    let mut data = Vec::with_capacity(text.len() + 16);
    let mut member = |name: &str, value: &str| {
        data.push(if data.is_empty() { b'{' } else { b',' });
        [name, ":", value].iter().for_each(|part| data.extend_from_slice(part.as_bytes()));
    };
    let mut of_query = false;
    for (name, value) in members(text).into_iter().flatten() {
        match (name, shown) {
            (r#""query""#, _) => {
                of_query = true;
                let value = match (value, shown) {
                    (r#""change""#, Shown::Entered) => r#""enter""#,
                    (r#""change""# | r#""enter""#, Shown::Left) => r#""leave""#,
                    _ => value,
                };
                member(name, value);
            }
            (r#""doc""# | r#""ref""# | r#""changed""#, Shown::Left) => {}
            (r#""doc""#, _) => member(name, &mask.map_or(Cow::Borrowed(value), |mask| mask.cut(value))),
            (r#""changed""#, _) => member(name, &mask.map_or(Cow::Borrowed(value), |mask| visible(mask, value))),
            _ => member(name, value),
        }
    }
    if shown == Shown::Left && !of_query {
        member(r#""hidden""#, "true");
    }
    data.extend_from_slice(if data.is_empty() { b"{}" } else { b"}" });
    Publication { data: data.into(), ..publication.clone() }
}

/// The names that are not hidden as a whole.
fn visible<'a>(mask: &Mask, changed: &'a str) -> Cow<'a, str> {
    let hidden = |name: &&str| unquote(name).is_none_or(|name| mask.hides_top(&name));
    let all = || items(changed).into_iter().flatten();
    if !all().any(|name| hidden(&name)) {
        return Cow::Borrowed(changed);
    }
    let kept: Vec<&str> = all().filter(|name| !hidden(name)).collect();
    Cow::Owned(format!("[{}]", kept.join(",")))
}

#[cfg(test)]
#[path = "sight_tests.rs"]
mod tests;
