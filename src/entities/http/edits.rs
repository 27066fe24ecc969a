//! Writing entities of local kinds: `POST`, `PUT`, `PATCH`, `DELETE` and `restore`.
//!
//! Every answer is the entity as the caller sees it, with its tag and the position of its last change: whoever follows the channel has the
//! answer's content when it has come so far.

use std::sync::Arc;

use axum::{
    extract::Query,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use dzvin_protocols::platform::EntityId;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{tags, writer::Asked};
use crate::{
    entities::{EditAction, Expect},
    platform::http::{Problem, media_type},
};

const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const ACCEPT_PATCH: header::HeaderName = header::HeaderName::from_static("accept-patch");

/// `POST /api/v1/entities/{kind}`: the body is the document; the id is the hub's.
pub(super) async fn create(asked: Asked, body: Bytes) -> Result<Response, Problem> {
    let doc = document(&asked.headers, &body);
    let writer = asked.writer(&["create"], &body)?;
    writer.edit(new_id()?, EditAction::Create(doc?), Expect::Anything).await
}

/// `PUT /api/v1/entities/{kind}/{id}`: the whole document. `If-None-Match: *`: only if there is none yet.
pub(super) async fn put(asked: Asked, body: Bytes) -> Result<Response, Problem> {
    // Both are read before anything is opened by them: what cannot be read asks for nothing that could be there.
    let (creates, conditional) = (creates(&asked.headers)?, asked.headers.contains_key(header::IF_MATCH));
    let actions: &[&str] = match (creates, conditional) {
        (true, _) => &["create"],
        (false, true) => &["update"],
        (false, false) => &["create", "update"],
    };
    let doc = document(&asked.headers, &body);
    let writer = asked.writer(actions, &body)?;
    let (id, doc) = (writer.id()?, doc?);
    if creates {
        return writer.edit(id, EditAction::Create(doc), Expect::Anything).await;
    }
    writer.edit(id, EditAction::Put(doc), writer.expects()?).await
}

/// `PATCH /api/v1/entities/{kind}/{id}`: JSON Merge Patch or JSON Patch, by its media type.
pub(super) async fn patch(asked: Asked, body: Bytes) -> Result<Response, Problem> {
    let kind = media_type(&asked.headers);
    let writer = asked.writer(&["update"], &body)?;
    let id = writer.id()?;
    let action = match &*kind {
        MERGE_PATCH => EditAction::Merge(json(&body)?),
        JSON_PATCH => EditAction::Patch(json(&body)?),
        _ => {
            let problem = unsupported(format!("a patch is {MERGE_PATCH} or {JSON_PATCH}"));
            return Err(problem.with_header(ACCEPT_PATCH, "application/merge-patch+json, application/json-patch+json"));
        }
    };
    writer.edit(id, action, writer.expects()?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    purge: bool,
}

/// `DELETE /api/v1/entities/{kind}/{id}`: to the trash; with `purge=true` for good.
pub(super) async fn remove(asked: Asked, Query(removal): Query<Removal>) -> Result<Response, Problem> {
    let (right, action) = if removal.purge { ("purge", EditAction::Purge) } else { ("trash", EditAction::Trash) };
    let writer = asked.writer(&[right], &[])?;
    writer.edit(writer.id()?, action, writer.expects()?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restoration {
    revision: Option<u64>,
}

/// `POST /api/v1/entities/{kind}/{id}/restore`: out of the trash; with `revision=N` the document of that revision becomes the newest.
pub(super) async fn restore(asked: Asked, Query(wanted): Query<Restoration>) -> Result<Response, Problem> {
    let Some(revision) = wanted.revision else {
        let writer = asked.writer(&["restore"], &[])?;
        return writer.edit(writer.id()?, EditAction::Restore, writer.expects()?).await;
    };
    let writer = asked.writer(&["update"], &[])?;
    let id = writer.id()?;
    let doc = writer.past(&id, revision).await?;
    // It was destroyed meanwhile, perhaps: it is not made anew.
    let expected = match writer.expects()? {
        Expect::Anything => Expect::Something,
        given => given,
    };
    writer.edit(id, EditAction::Put(doc.into()), expected).await
}

/// In the order of time, so that those of a day lie together in the index.
pub(super) fn new_id() -> Result<EntityId, Problem> {
    EntityId::new(&Uuid::now_v7().simple().to_string()).map_err(Problem::internal)
}

fn unsupported(detail: String) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

/// # Errors
/// 415 when the body is said to be anything else.
pub(super) fn must_be_json(headers: &HeaderMap, what: &str) -> Result<(), Problem> {
    if media_type(headers) == "application/json" {
        return Ok(());
    }
    Err(unsupported(format!("{what} application/json")))
}

fn document(headers: &HeaderMap, body: &Bytes) -> Result<Arc<RawValue>, Problem> {
    must_be_json(headers, "a document is")?;
    json(body)
}

fn json(body: &Bytes) -> Result<Arc<RawValue>, Problem> {
    let raw: Box<RawValue> = serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request("bad_json", format!("the body is no JSON: {error}")))?;
    Ok(raw.into())
}

/// `If-None-Match: *`, the only one that a change knows.
fn creates(headers: &HeaderMap) -> Result<bool, Problem> {
    match &*tags(headers, &header::IF_NONE_MATCH) {
        [] if !headers.contains_key(header::IF_NONE_MATCH) => Ok(false),
        [any] if any == "*" => Ok(true),
        _ => Err(Problem::bad_request("bad_parameter", "If-None-Match of a change is * or is not there")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_star_asks_for_nothing_to_be_there() {
        let of = |value: &[u8]| {
            creates(&HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_bytes(value).expect("a value"))]))
        };
        assert!(!creates(&HeaderMap::new()).expect("none") && of(b"*").expect("known"));
        assert!(of(b"\"1\"").is_err() && of(b"\xff").is_err());
    }
}
