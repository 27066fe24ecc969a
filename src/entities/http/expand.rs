//! `expand=owner,customer`: with entities come those that they refer to, as far as the caller sees them.
//!
//! Invariants: what is hidden of a document is not followed; what is not seen is left out, as if it were not there; each kind
//! carries the position of its own rows, for whoever follows its channel. What is expanded is not expanded further.

use std::collections::{BTreeMap, BTreeSet};

use dzvin_protocols::{channels::Position, entities::Fields, platform::Kind};
use serde::Serialize;
use serde_json::value::RawValue;

use super::write_item;
use crate::{
    entities::{Entities, EntityRow, MAX_EXPANDED, lens::Lens},
    identity::Caller,
    platform::http::Problem,
};

/// The fields that are followed, and where to.
#[derive(Debug, Default)]
pub(super) struct Expansion(Vec<(String, Kind)>);

/// What entities of one kind refer to.
#[derive(Serialize)]
struct Expanded {
    items: BTreeMap<String, Box<RawValue>>,
    position: Position,
    channel: String,
}

impl Expansion {
    /// Reads names with commas between.
    ///
    /// # Errors
    /// 400 `unknown_reference`, 403 `hidden_field` or `forbidden`.
    pub(super) fn parse(
        entities: &Entities,
        kind: &Kind,
        text: &str,
        lens: &Lens,
        caller: &Caller,
    ) -> Result<Self, Problem> {
        let spec = entities.spec(kind);
        let known = spec.as_ref().map(|spec| &spec.declaration.references);
        let mut all = Vec::new();
        for field in text.split(',').filter(|field| !field.is_empty()) {
            let Some(to) = known.and_then(|known| known.get(field)) else {
                let known = known.into_iter().flat_map(|known| known.keys()).map(String::as_str);
                let known: Vec<&str> = known.filter(|field| lens.shows(field)).collect();
                let detail = format!("{field:.80} refers to nothing; of {kind} do: {}", known.join(", "));
                return Err(Problem::bad_request("unknown_reference", detail));
            };
            lens.may_filter(field)?;
            caller.require_read(to)?;
            if !all.iter().any(|(known, _)| known == field) {
                all.push((field.to_owned(), to.clone()));
            }
        }
        Ok(Self(all))
    }

    /// The member `expanded` of an answer with these entities. Whoever answers has room for [`MAX_EXPANDED`] more.
    ///
    /// # Errors
    /// 422 `too_many_references`; the database is away.
    pub(super) async fn of(
        &self,
        entities: &Entities,
        caller: &Caller,
        lens: &Lens,
        rows: &[EntityRow],
    ) -> Result<Vec<u8>, Problem> {
        let wanted = self.wanted(lens, rows);
        let count: usize = wanted.values().map(BTreeSet::len).sum();
        if count > MAX_EXPANDED {
            let detail =
                format!("these entities refer to {count} others; {MAX_EXPANDED} are told at once: take a smaller page");
            return Err(Problem::unprocessable("too_many_references", detail));
        }
        let mut all = BTreeMap::new();
        for (kind, ids) in wanted {
            let lens = Lens::of(caller, entities, &kind);
            let Some((rows, position)) = entities.many(&kind, &ids, lens.rows()).await? else { continue };
            let item = |row: EntityRow| {
                let mut out = Vec::new();
                write_item(&mut out, &kind, &row, &lens);
                // Written by us: it is JSON.
                Some((row.id, RawValue::from_string(String::from_utf8(out).ok()?).ok()?))
            };
            let expanded = Expanded {
                items: rows.into_iter().filter_map(item).collect(),
                position: lens.position(position),
                channel: kind.stream().to_string(),
            };
            all.insert(kind.as_str().to_owned(), expanded);
        }
        serde_json::to_vec(&all).map_err(Problem::internal)
    }

    /// The ids that are referred to, by kind. Of a large document that is not told nothing is followed.
    fn wanted(&self, lens: &Lens, rows: &[EntityRow]) -> BTreeMap<Kind, BTreeSet<String>> {
        let mut wanted: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        for doc in rows.iter().filter_map(|row| row.doc.as_deref()) {
            let seen = lens.seen(doc);
            let fields = Fields::of(&seen);
            for (field, kind) in &self.0 {
                let ids = wanted.entry(kind.clone()).or_default();
                ids.extend(referred(&fields, field).into_iter().filter(|id| !id.contains('\0')));
            }
        }
        wanted
    }
}

/// The ids in a field: one, or a list of them.
fn referred(fields: &Fields<'_>, field: &str) -> Vec<String> {
    if let Some(one) = fields.scalar_at(field) {
        return vec![one.into_owned()];
    }
    let at = |n: usize| fields.scalar_at(&format!("{field}.{n}")).map(std::borrow::Cow::into_owned);
    (0..MAX_EXPANDED).map_while(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_a_list_of_ids_is_followed() {
        let fields =
            Fields::of(r#"{"owner":"olha","n":7,"team":["a","b",{"id":"c"},"d"],"who":{"id":"x"},"none":null}"#);
        let of = |field| referred(&fields, field);
        assert_eq!(
            (of("owner"), of("n"), of("who.id")),
            (vec!["olha".into()], vec!["7".to_owned()], vec!["x".to_owned()])
        );
        assert_eq!((of("team"), of("team.2.id")), (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]));
        assert!(of("none").is_empty() && of("who").is_empty() && of("other").is_empty());
    }
}
