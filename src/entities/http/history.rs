//! `/api/v1/entities/{kind}/{id}/history`: the revisions of one entity.

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::IdKey,
    platform::{EntityId, Kind, time::rfc3339_millis},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{DEFAULT_LIMIT, Pairs, bad, entity_id, limit, readable, unknown_entity};
use crate::{
    entities::{Entities, HistoryRow, lens::Lens},
    identity::Caller,
    platform::http::Problem,
};

#[derive(Serialize)]
struct HistoryItem {
    revision: i64,
    offset: i64,
    op: String,
    at: String,
    by: String,
    changed: Vec<String>,
    before: Option<Box<RawValue>>,
    #[serde(rename = "ref")]
    reference: bool,
}

impl From<HistoryRow> for HistoryItem {
    fn from(row: HistoryRow) -> Self {
        Self {
            revision: row.revision,
            offset: row.offset,
            reference: row.without_doc && row.op != "purge",
            op: row.op,
            at: rfc3339_millis(row.at),
            by: row.by,
            changed: row.changed,
            before: row.before.and_then(|before| RawValue::from_string(before).ok()),
        }
    }
}

#[derive(Serialize)]
struct HistoryPage {
    items: Vec<HistoryItem>,
    next: Option<String>,
}

pub(super) async fn history(
    State(entities): State<Entities>,
    Path((kind, id)): Path<(String, String)>,
    Query(pairs): Pairs,
    caller: Caller,
) -> Result<Response, Problem> {
    let kind = readable(&caller, &kind)?;
    let id = entity_id(&id)?;
    let (mut count, mut before) = (DEFAULT_LIMIT, None);
    for (name, value) in pairs {
        match name.as_str() {
            "limit" => count = limit(&value)?,
            "before" => before = Some(value.parse().map_err(|_| bad("before", &value))?),
            _ => return Err(bad("parameter", &name)),
        }
    }
    let lens = Lens::of(&caller, &entities, &kind);
    let mut rows: Vec<(HistoryRow, Option<String>)> = match lens.rows() {
        None => entities.history(&kind, &id, before, count + 1).await?.into_iter().map(|row| (row, None)).collect(),
        Some(rows) => entities.history_seen(&kind, rows, &id, before, count + 1).await?,
    };
    if rows.is_empty() && !is_there(&entities, &kind, &id, &lens).await? {
        return Err(unknown_entity(&kind));
    }
    let more = rows.len() > usize::from(count);
    rows.truncate(usize::from(count));
    // What is not shown counts: a page may have fewer revisions than were asked for, and still not be the last.
    let next = rows.last().filter(|_| more).map(|(row, _)| row.revision.to_string());
    let seen = rows.into_iter().filter_map(|(row, fields)| lens.revision(row, fields.as_deref()));
    let page = HistoryPage { items: seen.map(HistoryItem::from).collect(), next };
    Ok(axum::Json(page).into_response())
}

async fn is_there(entities: &Entities, kind: &Kind, id: &EntityId, lens: &Lens) -> Result<bool, StoreError> {
    match lens.rows() {
        None => entities.exists(kind, id).await,
        Some(rows) => entities.is_seen(kind, rows, &IdKey::of(id)).await,
    }
}
