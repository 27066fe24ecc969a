//! What one caller sees of a kind, over REST.

use std::{borrow::Cow, sync::Arc};

use dzvin_protocols::{
    channels::Position,
    entities::{FieldChange, Filter, Mask, Projection, Shown, Sight},
    identity::Permissions,
    platform::Kind,
};

use super::{Entities, HistoryRow};
use crate::{identity::Caller, platform::http::Problem};

/// A caller's sight of a kind; for most callers there is nothing to it.
pub(super) struct Lens {
    sight: Option<Sight>,
    /// What the upstream calls a version stands in a field that is hidden.
    without_version: bool,
    /// Of what is seen only this is asked for.
    asked: Option<Projection>,
}

impl Lens {
    pub(super) fn of(caller: &Caller, entities: &Entities, kind: &Kind) -> Self {
        Self::seen_by(&caller.permissions, &caller.user, entities, kind)
    }

    #[cfg(test)]
    pub(super) fn seeing_all() -> Self {
        Self { sight: None, without_version: false, asked: None }
    }

    /// The same of a user, by whatever way it asks.
    pub(super) fn seen_by(permissions: &Permissions, user: &str, entities: &Entities, kind: &Kind) -> Self {
        let sight = permissions.sight(kind, user);
        let hidden = |mask: &Mask| {
            entities.spec(kind).is_some_and(|spec| spec.version_paths.iter().any(|path| mask.hides(path)))
        };
        let without_version = sight.as_ref().and_then(Sight::mask).is_some_and(|mask| hidden(mask));
        Self { sight, without_version, asked: None }
    }

    /// The same for one who asks for some fields of documents only.
    pub(super) fn asking(self, asked: Option<Projection>) -> Self {
        Self { asked, ..self }
    }

    /// Which rows are seen; `None`: all.
    pub(super) fn rows(&self) -> Option<&Filter> {
        self.sight.as_ref().and_then(Sight::rows)
    }

    /// What is hidden of each row.
    pub(super) fn mask(&self) -> Option<&Arc<Mask>> {
        self.sight.as_ref().and_then(Sight::mask)
    }

    /// Whether anything is hidden of the rows.
    pub(super) fn masks(&self) -> bool {
        self.mask().is_some()
    }

    /// Whether a declared field is shown.
    pub(super) fn shows(&self, field: &str) -> bool {
        !self.sight.as_ref().is_some_and(|sight| sight.hides(field))
    }

    /// # Errors
    /// 403 when a filter names a hidden field: its answers would tell the value.
    pub(super) fn may_filter(&self, field: &str) -> Result<(), Problem> {
        if self.shows(field) {
            return Ok(());
        }
        let detail = format!("{field:.80} is hidden from you, so nothing can be filtered by it");
        Err(Problem::new(axum::http::StatusCode::FORBIDDEN, "hidden_field", detail))
    }

    /// # Errors
    /// 403 when something hidden stands in the field: whatever words are found would tell of it.
    pub(super) fn may_search(&self, field: &str) -> Result<(), Problem> {
        if self.mask().is_none_or(|mask| mask.within(field).is_none()) {
            return self.may_filter(field);
        }
        let detail = format!("something in {field:.80} is hidden from you, so it is not searched");
        Err(Problem::new(axum::http::StatusCode::FORBIDDEN, "hidden_field", detail))
    }

    /// A document without what is hidden.
    pub(super) fn seen<'a>(&self, doc: &'a str) -> Cow<'a, str> {
        self.sight.as_ref().map_or(Cow::Borrowed(doc), |sight| sight.cut(doc))
    }

    /// The same, as far as it is asked for.
    pub(super) fn document<'a>(&self, doc: &'a str) -> Cow<'a, str> {
        let seen = self.seen(doc);
        match &self.asked {
            Some(asked) => Cow::Owned(asked.of(&seen)),
            None => seen,
        }
    }

    /// The same of a text that need not be kept.
    pub(super) fn own_document(&self, doc: String) -> String {
        let cut = match self.document(&doc) {
            Cow::Borrowed(same) if std::ptr::eq(same.as_ptr(), doc.as_ptr()) => None,
            other => Some(other.into_owned()),
        };
        cut.unwrap_or(doc)
    }

    pub(super) fn version<'a>(&self, version: Option<&'a str>) -> Option<&'a str> {
        version.filter(|_| !self.without_version)
    }

    /// A position as this caller is told it: it is worth nothing to whoever sees something else.
    pub(super) fn position(&self, position: Position) -> Position {
        match &self.sight {
            Some(sight) => Position { epoch: sight.epoch(&position.epoch), ..position },
            None => position,
        }
    }

    /// An entity tag as this caller is told it. Its last part comes of the version: where that is hidden, it is nothing that the
    /// caller's document depends on.
    pub(super) fn tag(&self, tag: &str) -> String {
        let tag = if self.without_version { tag.rsplit_once('.').map_or(tag, |(rest, _)| rest) } else { tag };
        match &self.sight {
            Some(sight) => format!("{tag}.{}", sight.mark()),
            None => tag.to_owned(),
        }
    }

    /// By what this sight is told from others; empty where everything is seen.
    pub(super) fn mark(&self) -> &str {
        self.sight.as_ref().map_or("", Sight::mark)
    }

    /// Of the tags that a caller knows those that were told of this sight, as they are stored: a document need not be read of
    /// which the caller has the same.
    pub(super) fn known(&self, tags: &[String]) -> Vec<String> {
        let Some(sight) = &self.sight else { return tags.to_vec() };
        let told = |tag: &String| tag.strip_suffix(sight.mark())?.strip_suffix('.').map(str::to_owned);
        tags.iter().filter_map(told).filter(|_| !self.without_version).collect()
    }

    /// Whether the entity was seen as it was behind a revision.
    pub(super) fn shows_behind(&self, fields: Option<&str>) -> bool {
        let Some(sight) = &self.sight else { return true };
        let shown = sight.of(fields.and_then(FieldChange::parse).as_ref());
        matches!(shown, Ok(Some(Shown::Whole | Shown::Entered)))
    }

    /// A revision as this caller sees it, by its declared fields before and after; `None`: not at all.
    pub(super) fn revision(&self, row: HistoryRow, fields: Option<&str>) -> Option<HistoryRow> {
        let Some(sight) = &self.sight else { return Some(row) };
        // What cannot be told apart is not shown.
        let shown = sight.of(fields.and_then(FieldChange::parse).as_ref()).ok()??;
        let hidden = |name: &String| sight.mask().is_some_and(|mask| mask.hides_top(name));
        let HistoryRow { mut changed, mut before, .. } = row;
        if shown == Shown::Whole && row.op == "update" && !changed.is_empty() && changed.iter().all(hidden) {
            return None;
        }
        changed.retain(|name| !hidden(name));
        match shown {
            Shown::Whole => {}
            // It was not seen before, nor is it seen afterwards.
            Shown::Entered => before = None,
            Shown::Left => changed.clear(),
        }
        before = before.and_then(|before| sight.earlier(&before));
        Some(HistoryRow { changed, before, ..row })
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn lens(paths: &[&str], rows: Option<&str>) -> Lens {
        let mask = Mask::parse(paths).expect("paths").map(Arc::new);
        let sight = Some(Sight::new(mask, rows.map(|rows| Filter::parse(rows).expect("a filter"))));
        Lens { sight, without_version: false, asked: None }
    }

    fn row(op: &str, changed: &[&str], before: &str) -> HistoryRow {
        HistoryRow {
            revision: 2,
            offset: 3,
            op: op.to_owned(),
            at: OffsetDateTime::UNIX_EPOCH,
            by: "x".to_owned(),
            changed: changed.iter().map(ToString::to_string).collect(),
            before: Some(before.to_owned()),
            kept: true,
        }
    }

    #[test]
    fn a_revision_loses_what_is_hidden() {
        let before = r#"{"phone":"s3cret","status":"new","contacts":{"email":"s3cret","n":1.00}}"#;
        let seen = |row| lens(&["phone", "contacts.email"], None).revision(row, None);
        let shown = seen(row("update", &["phone", "status"], before)).expect("shown");
        assert_eq!(shown.changed, ["status"]);
        assert_eq!(shown.before.as_deref(), Some(r#"{"status":"new","contacts":{"n":1.00}}"#));
        assert!(seen(row("update", &["phone"], before)).is_none(), "nothing else has changed");
        assert_eq!(seen(row("trash", &[], r#"{"phone":"s3cret"}"#)).expect("shown").before, None);
    }

    #[test]
    fn revisions_out_of_sight_are_not_shown() {
        let lens = lens(&[], Some(r#"{"owner":"me"}"#));
        let seen = |fields| lens.revision(row("update", &["owner"], r#"{"owner":"x"}"#), fields);
        assert!(seen(None).is_none(), "a change that tells nothing of the filter's fields");
        assert!(seen(Some(r#"{"is":{"owner":"other"},"was":{"owner":"third"}}"#)).is_none());
        let entered = seen(Some(r#"{"is":{"owner":"me"},"was":{"owner":"other"}}"#)).expect("shown");
        assert_eq!(entered.before, None, "what it was before it came into sight");
        let left = seen(Some(r#"{"is":{"owner":"other"},"was":{"owner":"me"}}"#)).expect("shown");
        assert!(left.before.is_some() && left.changed.is_empty());
    }

    #[test]
    fn tags_and_positions_are_of_one_sight() {
        let (one, other) = (lens(&["phone"], None), lens(&["email"], None));
        let tag = one.tag("e.1.x");
        assert_eq!(one.known(&["e.1.x".into(), tag.clone()]), ["e.1.x"]);
        assert!(other.known(std::slice::from_ref(&tag)).is_empty());
        let hidden = Lens { without_version: true, ..one };
        assert_eq!(hidden.tag("e.1.x"), hidden.tag("e.1.y"), "a version that is hidden is not told by a hash either");
        assert!(hidden.known(&[hidden.tag("e.1.x")]).is_empty() && hidden.version(Some("v")).is_none());
    }
}
