//! `/api/v1/kinds` and `/api/v1/entities`: what is stored, with the position from which a subscriber goes on.
//!
//! Documents are spliced into answers as the text that is stored; nothing is parsed on the way out.

mod bulk;
mod edits;
mod expand;
mod export;
mod history;
mod kinds;
mod list;
mod writer;

use axum::{
    Router,
    body::Body,
    extract::{FromRef, Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    channels::Channel,
    platform::{EntityId, Kind, time::rfc3339_millis},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};

pub(super) use self::kinds::kind_items;
use self::{expand::Expansion, export::Exports};
use super::{Entities, EntityRow, MAX_EXPANDED, lens::Lens, query::INLINE};
use crate::{
    identity::Caller,
    platform::http::{AnswerRoom, Problem, Room},
};

/// Most entities or revisions on a page: 200 documents of 32 KiB are 6.4 MB, what one answer may weigh.
pub const MAX_LIMIT: u16 = 200;
/// Entities or revisions on a page when nobody says.
pub const DEFAULT_LIMIT: u16 = 50;
/// Most entity tags that are compared.
const MAX_TAGS: usize = 16;

/// The resource.
pub fn router(entities: Entities, room: AnswerRoom) -> Router {
    let readers = entities.for_readers();
    Router::new()
        .route("/api/v1/kinds", get(kinds::kinds))
        .route("/api/v1/kinds/{kind}", get(kinds::kind).put(kinds::declare))
        .route("/api/v1/kinds/{kind}/versions", get(kinds::versions))
        .route("/api/v1/entities/{kind}", get(list::list).post(edits::create))
        .route(
            "/api/v1/entities/{kind}/{id}",
            // An entity may be called `bulk` as well: what is posted there is none.
            get(one).put(edits::put).patch(edits::patch).delete(edits::remove).post(bulk::bulk),
        )
        .route("/api/v1/entities/{kind}/{id}/restore", post(edits::restore))
        .route("/api/v1/entities/{kind}/{id}/history", get(history::history))
        .route("/api/v1/entities/{kind}/{id}/history/{revision}", get(history::revision))
        .with_state(Served { entities: readers, editor: Editor(entities), room, exports: Exports::default() })
}

/// Entities on the connections of those who write.
#[derive(Clone)]
struct Editor(Entities);

/// What the handlers need.
#[derive(Clone, FromRef)]
struct Served {
    entities: Entities,
    editor: Editor,
    room: AnswerRoom,
    exports: Exports,
}

type Pairs = Query<Vec<(String, String)>>;

#[derive(Serialize)]
struct Head<'a> {
    kind: &'a Kind,
    id: &'a str,
    revision: i64,
    offset: i64,
    op: &'a str,
    at: String,
    by: &'a str,
    version: Option<&'a str>,
    trashed_at: Option<String>,
    missing_since: Option<String>,
    channel: Option<String>,
}

/// The item without its closing brace: the document, or what stands for it, follows.
fn head(kind: &Kind, row: &EntityRow, lens: &Lens) -> Vec<u8> {
    let head = Head {
        kind,
        id: &row.id,
        revision: row.revision,
        offset: row.offset,
        op: &row.op,
        at: rfc3339_millis(row.at),
        by: &row.by,
        version: lens.version(row.version.as_deref()),
        trashed_at: row.trashed_at.map(rfc3339_millis),
        missing_since: row.missing_since.map(rfc3339_millis),
        channel: EntityId::new(&row.id).ok().map(|id| Channel::of_entity(kind, &id).to_string()),
    };
    // Plain strings and numbers: this cannot fail.
    let mut out = serde_json::to_vec(&head).unwrap_or_default();
    out.pop();
    out
}

pub(super) fn write_item(out: &mut Vec<u8>, kind: &Kind, row: &EntityRow, lens: &Lens) {
    out.extend(head(kind, row, lens));
    match &row.doc {
        Some(doc) => {
            out.extend_from_slice(b",\"doc\":");
            out.extend_from_slice(lens.document(doc).as_bytes());
        }
        None if row.purged => out.extend_from_slice(b",\"doc\":null"),
        None => out.extend_from_slice(b",\"ref\":true"),
    }
    out.push(b'}');
}

pub(super) fn json(body: Bytes) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

fn unknown_kind(kind: &Kind) -> Problem {
    Problem::not_found("unknown_kind", format!("there is no kind {kind}"))
}

fn readable(caller: &Caller, kind: &str) -> Result<Kind, Problem> {
    let kind = Kind::new(kind).map_err(|error| Problem::not_found("unknown_kind", error.to_string()))?;
    caller.require_read(&kind)?;
    Ok(kind)
}

pub(super) fn bad(name: &str, value: &str) -> Problem {
    Problem::bad_request("bad_parameter", format!("{name}: {value:.80} cannot be read"))
}

pub(super) fn limit(value: &str) -> Result<u16, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| Problem::bad_request("bad_parameter", format!("limit is 1 to {MAX_LIMIT}")))
}

fn entity_id(id: &str) -> Result<EntityId, Problem> {
    EntityId::new(id).map_err(|error| Problem::not_found("unknown_entity", error.to_string()))
}

fn unknown_entity(kind: &Kind) -> Problem {
    Problem::not_found("unknown_entity", format!("there is no such {kind}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneQuery {
    expand: Option<String>,
}

async fn one(
    State(entities): State<Entities>,
    State(room): State<AnswerRoom>,
    Path((kind, id)): Path<(String, String)>,
    Query(OneQuery { expand }): Query<OneQuery>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<Response, Problem> {
    let kind = readable(&caller, &kind)?;
    let id = entity_id(&id)?;
    let lens = Lens::of(&caller, &entities, &kind);
    if let Some(names) = expand {
        let expand = Expansion::parse(&entities, &kind, &names, &lens, &caller)?;
        return expanded(&entities, &room, &kind, &id, &lens, &caller, &expand).await;
    }
    let told = known_tags(&headers);
    let known = lens.known(&told);
    let read = async |largest| {
        let found = find(&entities, &lens, &kind, &id, &known, largest).await?;
        found.ok_or_else(|| unknown_entity(&kind))
    };
    let (mut row, mut tag) = read(INLINE).await?;
    let mut held = None;
    if row.size > INLINE && !row.purged && !told.contains(&lens.tag(&tag)) {
        // Twice while it is read, as it comes from the database and as text; once more while something is taken out.
        let size = usize::try_from(row.size).unwrap_or_default();
        held = Some(room.take(if lens.masks() { 3 } else { 2 } * size).await?);
        (row, tag) = read(i32::MAX).await?;
    }
    let tag = lens.tag(&tag);
    let etag = HeaderValue::from_str(&format!("\"{tag}\"")).map_err(Problem::internal)?;
    let mut response = if told.contains(&tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let doc = row.doc.take().map_or_else(|| "null".to_owned(), |doc| lens.own_document(doc));
        whole(head(&kind, &row, &lens), doc, held)
    };
    response.headers_mut().insert(header::ETAG, etag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// An item as a list has it, with what it refers to: no tag could speak for all of that.
async fn expanded(
    entities: &Entities,
    room: &AnswerRoom,
    kind: &Kind,
    id: &EntityId,
    lens: &Lens,
    caller: &Caller,
    expand: &Expansion,
) -> Result<Response, Problem> {
    let room = room.take((1 + MAX_EXPANDED) * INLINE as usize).await?;
    let found = find(entities, lens, kind, id, &[], INLINE).await?;
    let (row, _) = found.ok_or_else(|| unknown_entity(kind))?;
    let mut out = Vec::new();
    write_item(&mut out, kind, &row, lens);
    out.pop();
    out.extend_from_slice(b",\"expanded\":");
    out.extend(expand.of(entities, caller, lens, std::slice::from_ref(&row)).await?);
    out.push(b'}');
    Ok(json(room.lend(out)))
}

/// An entity as far as it is seen, with its tag; without its document where the tag is known or the document larger than that.
async fn find(
    entities: &Entities,
    lens: &Lens,
    kind: &Kind,
    id: &EntityId,
    known: &[String],
    largest: i32,
) -> Result<Option<(EntityRow, String)>, StoreError> {
    match lens.rows() {
        None => entities.one(kind, id, known, largest).await,
        Some(rows) => entities.one_seen(kind, rows, id, known, largest).await,
    }
}

/// Head, document and end as three pieces: a document of 7.5 MB is not copied once more.
fn whole(mut head: Vec<u8>, doc: String, held: Option<Room>) -> Response {
    head.extend_from_slice(b",\"doc\":");
    let length = head.len() + doc.len() + 1;
    let doc = match held {
        Some(room) => room.lend(doc),
        None => Bytes::from(doc),
    };
    let pieces = [Bytes::from(head), doc, Bytes::from_static(b"}")];
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, std::convert::Infallible>)));
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// The tags of `If-None-Match` that are compared.
fn known_tags(headers: &HeaderMap) -> Vec<String> {
    let mut all = tags(headers, &header::IF_NONE_MATCH);
    all.truncate(MAX_TAGS);
    all
}

/// The tags of a condition, weak ones as well: a proxy that compresses makes them so.
fn tags(headers: &HeaderMap, name: &header::HeaderName) -> Vec<String> {
    let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).map(|tag| bare(tag).to_owned()).collect()
}

/// A tag without what stands around it in a header.
fn bare(tag: &str) -> &str {
    tag.trim().trim_start_matches("W/").trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_proxies_write_them() {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"a.1.x\", W/\"b.2.y\""));
        headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"c\""));
        assert_eq!(known_tags(&headers), ["a.1.x", "b.2.y", "c"]);
    }
}
