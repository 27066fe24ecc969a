//! `/api/v1/entities/{kind}/{id}/history`: the revisions of one entity, and each with its document as far as the log has kept it.

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

use super::{DEFAULT_LIMIT, Pairs, bad, entity_id, json, limit, readable, unknown_entity};
use crate::{
    entities::{Entities, HistoryRow, MAX_LOCAL_DOC, lens::Lens},
    identity::Caller,
    platform::http::{AnswerRoom, Problem},
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
    kept: bool,
}

impl From<HistoryRow> for HistoryItem {
    fn from(row: HistoryRow) -> Self {
        Self {
            revision: row.revision,
            offset: row.offset,
            kept: row.kept,
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
    let mut rows = page(&entities, &lens, &kind, &id, before, count + 1).await?;
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

/// `/api/v1/entities/{kind}/{id}/history/{revision}`: one revision, with the document as it was.
pub(super) async fn revision(
    State(entities): State<Entities>,
    State(room): State<AnswerRoom>,
    Path((kind, id, revision)): Path<(String, String, String)>,
    caller: Caller,
) -> Result<Response, Problem> {
    let kind = readable(&caller, &kind)?;
    let (id, revision) = (entity_id(&id)?, revision.parse().map_err(|_| unknown_revision())?);
    let lens = Lens::of(&caller, &entities, &kind);
    // As it comes from the database, and as text.
    let room = room.take(2 * MAX_LOCAL_DOC).await?;
    let (row, doc) = past(&entities, &lens, &kind, &id, revision).await?;
    let mut out = serde_json::to_vec(&HistoryItem::from(row)).map_err(Problem::internal)?;
    out.pop();
    out.extend_from_slice(b",\"doc\":");
    out.extend_from_slice(lens.own_document(doc).as_bytes());
    out.push(b'}');
    Ok(json(room.lend(out)))
}

/// A revision that is seen, and the whole document as it was.
pub(super) async fn past(
    entities: &Entities,
    lens: &Lens,
    kind: &Kind,
    id: &EntityId,
    revision: u64,
) -> Result<(HistoryRow, String), Problem> {
    let (row, fields) = page(entities, lens, kind, id, revision.checked_add(1), 1)
        .await?
        .into_iter()
        .find(|(row, _)| row.revision.unsigned_abs() == revision)
        .filter(|(_, fields)| lens.shows_behind(fields.as_deref()))
        .ok_or_else(unknown_revision)?;
    let row = lens.revision(row, fields.as_deref()).ok_or_else(unknown_revision)?;
    let doc = entities.document_at(kind, id, revision).await?;
    let doc = doc.ok_or_else(|| Problem::conflict("revision_not_kept", "the log has no document of this revision"))?;
    Ok((row, doc))
}

fn unknown_revision() -> Problem {
    Problem::not_found(
        "unknown_revision",
        "the log has no such revision of the entity, or it goes further back than the log",
    )
}

/// Revisions, each with its declared fields before and after where these decide who sees it.
async fn page(
    entities: &Entities,
    lens: &Lens,
    kind: &Kind,
    id: &EntityId,
    before: Option<u64>,
    limit: u16,
) -> Result<Vec<(HistoryRow, Option<String>)>, StoreError> {
    match lens.rows() {
        None => Ok(entities.history(kind, id, before, limit).await?.into_iter().map(|row| (row, None)).collect()),
        Some(rows) => entities.history_seen(kind, rows, id, before, limit).await,
    }
}

async fn is_there(entities: &Entities, kind: &Kind, id: &EntityId, lens: &Lens) -> Result<bool, StoreError> {
    match lens.rows() {
        None => entities.exists(kind, id).await,
        Some(rows) => entities.is_seen(kind, rows, &IdKey::of(id)).await,
    }
}
