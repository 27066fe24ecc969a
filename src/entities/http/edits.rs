//! Writing entities of local kinds: `POST`, `PUT`, `PATCH`, `DELETE` and `restore`.
//!
//! Every answer is the entity as the caller sees it, with its tag and the position of its last change: whoever follows the channel has the
//! answer's content when it has come so far.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use dzvin_protocols::{
    channels::{Epoch, Position},
    entities::check,
    platform::{EntityId, Kind},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Editor, MAX_TAGS, entity_id, tags, unknown_entity, unknown_kind, write_item};
use crate::{
    entities::{
        Author, Edit, EditAction, EditError, Edited, Expect, Expected, MAX_LOCAL_DOC, Refused, Sees, Source, lens::Lens,
    },
    identity::Caller,
    platform::http::{Problem, TraceContext},
};

const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

type Trace = Option<Extension<TraceContext>>;

/// Who edits what.
struct Writer {
    caller: Caller,
    kind: Kind,
    lens: Lens,
    editor: Editor,
    trace: Trace,
}

impl Writer {
    /// Of a kind of ours that the caller may read and change in each of these ways.
    fn of(editor: Editor, kind: &str, caller: Caller, trace: Trace, actions: &[&str]) -> Result<Self, Problem> {
        let kind = super::readable(&caller, kind)?;
        let spec = editor.0.spec(&kind).ok_or_else(|| unknown_kind(&kind))?;
        if spec.source != Source::Local {
            let detail = format!("entities of {kind} belong to their upstream and are only read here");
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "read_only_kind", detail)
                .with_header(header::ALLOW, "GET, HEAD"));
        }
        actions.iter().try_for_each(|action| caller.require("entities", action, kind.as_str()))?;
        if caller.user.is_empty() {
            let detail = "the token names no user in whose name something could be changed";
            return Err(Problem::new(StatusCode::FORBIDDEN, "no_user", detail));
        }
        let lens = Lens::of(&caller, &editor.0, &kind);
        Ok(Self { caller, kind, lens, editor, trace })
    }

    /// # Errors
    /// 428 where the kind asks for a condition and there is none.
    fn expects(&self, headers: &HeaderMap) -> Result<Expect, Problem> {
        let expected = expected(headers, &self.lens)?;
        let demanded = self.editor.0.spec(&self.kind).is_some_and(|spec| spec.require_if_match);
        if demanded && expected == Expect::Anything {
            let detail =
                format!("say which revision you have seen: entities of {} are changed with If-Match only", self.kind);
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail));
        }
        Ok(expected)
    }

    async fn edit(&self, id: EntityId, action: EditAction, expected: Expect) -> Result<Response, Problem> {
        let (rows, mask) = (self.lens.rows().cloned(), self.lens.mask().cloned());
        let edit = Edit { id, action, expected, sees: Sees { rows, mask } };
        let trace = self.trace.as_ref().map(|trace| trace.traceparent());
        let author = Author { by: &self.caller.user, trace: trace.as_deref() };
        let edited = self.editor.0.edit(&self.kind, author, edit).await;
        self.told(edited.map_err(|error| self.problem(error))?)
    }

    fn told(&self, edited: Edited) -> Result<Response, Problem> {
        let Edited { row, tag, position, created, .. } = edited;
        let mut out = Vec::with_capacity(usize::try_from(row.size).unwrap_or_default() + 512);
        write_item(&mut out, &self.kind, &row, &self.lens);
        out.pop();
        let position: Position = self.lens.position(position);
        out.extend_from_slice(b",\"position\":");
        out.extend(serde_json::to_vec(&position).map_err(Problem::internal)?);
        out.push(b'}');
        let mut response = super::json(out.into());
        let tag = format!("\"{}\"", self.lens.tag(&tag));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&tag).map_err(Problem::internal)?);
        if created {
            *response.status_mut() = StatusCode::CREATED;
            let place = format!("/api/v1/entities/{}/{}", self.kind, escaped(&row.id));
            let place = HeaderValue::from_str(&place).map_err(Problem::internal)?;
            response.headers_mut().insert(header::LOCATION, place);
        }
        Ok(response)
    }

    fn problem(&self, error: EditError) -> Problem {
        let refused = match error {
            EditError::Refused(refused) => refused,
            EditError::Store(error) => return error.into(),
        };
        let told = |status, code, detail: &str| Problem::new(status, code, detail);
        match refused {
            Refused::Absent => unknown_entity(&self.kind),
            Refused::Present => {
                told(StatusCode::PRECONDITION_FAILED, "entity_exists", "there is an entity of this id already")
            }
            Refused::InTrash => told(StatusCode::CONFLICT, "in_trash", "the entity is in the trash: restore it first"),
            Refused::Revision(revision) => {
                let detail = format!("somebody else changed the entity: its revision is {revision} now");
                let problem = told(StatusCode::PRECONDITION_FAILED, "revision_conflict", &detail);
                problem.with_revision(revision.unsigned_abs())
            }
            Refused::Hidden => {
                told(StatusCode::FORBIDDEN, "hidden_field", "this would change or tell what is hidden from you")
            }
            Refused::OutOfSight => {
                told(StatusCode::FORBIDDEN, "out_of_sight", "you would not see the entity as it would be")
            }
            Refused::Unfit(unfit) => unfit_document(unfit),
            Refused::TooLarge => {
                let detail = format!("a document has at most {MAX_LOCAL_DOC} bytes");
                told(StatusCode::PAYLOAD_TOO_LARGE, "document_too_large", &detail)
            }
            Refused::Patch(error) if error.why.is_malformed() => Problem::bad_request("bad_patch", error.to_string()),
            Refused::Patch(error) => Problem::conflict("patch_failed", error.to_string()),
        }
    }
}

fn unfit_document(unfit: dzvin_protocols::entities::Unfit) -> Problem {
    Problem::unprocessable("unfit_document", unfit.to_string())
}

/// `POST /api/v1/entities/{kind}`: the body is the document; the id is the hub's.
pub(super) async fn create(
    State(editor): State<Editor>,
    Path(kind): Path<String>,
    headers: HeaderMap,
    caller: Caller,
    trace: Trace,
    body: Bytes,
) -> Result<Response, Problem> {
    let writer = Writer::of(editor, &kind, caller, trace, &["create"])?;
    let doc = document(&headers, &body)?;
    // In the order of time, so that those of a day lie together in the index.
    let id = EntityId::new(&Uuid::now_v7().simple().to_string()).map_err(Problem::internal)?;
    writer.edit(id, EditAction::Create(doc), Expect::Anything).await
}

/// `PUT /api/v1/entities/{kind}/{id}`: the whole document. `If-None-Match: *`: only if there is none yet.
pub(super) async fn put(
    State(editor): State<Editor>,
    Path((kind, id)): Path<(String, String)>,
    headers: HeaderMap,
    caller: Caller,
    trace: Trace,
    body: Bytes,
) -> Result<Response, Problem> {
    // Both are read before anything is opened by them: what cannot be read asks for nothing that could be there.
    let (creates, conditional) = (creates(&headers)?, headers.contains_key(header::IF_MATCH));
    let actions: &[&str] = match (creates, conditional) {
        (true, _) => &["create"],
        (false, true) => &["update"],
        (false, false) => &["create", "update"],
    };
    let writer = Writer::of(editor, &kind, caller, trace, actions)?;
    let (id, doc) = (entity_id(&id)?, document(&headers, &body)?);
    if creates {
        return writer.edit(id, EditAction::Create(doc), Expect::Anything).await;
    }
    let expected = writer.expects(&headers)?;
    writer.edit(id, EditAction::Put(doc), expected).await
}

/// `PATCH /api/v1/entities/{kind}/{id}`: JSON Merge Patch or JSON Patch, by its media type.
pub(super) async fn patch(
    State(editor): State<Editor>,
    Path((kind, id)): Path<(String, String)>,
    headers: HeaderMap,
    caller: Caller,
    trace: Trace,
    body: Bytes,
) -> Result<Response, Problem> {
    let writer = Writer::of(editor, &kind, caller, trace, &["update"])?;
    let id = entity_id(&id)?;
    let action = match &*media_type(&headers) {
        MERGE_PATCH => EditAction::Merge(checked(json(&body)?)?),
        JSON_PATCH => EditAction::Patch(json(&body)?),
        _ => {
            let detail = format!("a patch is {MERGE_PATCH} or {JSON_PATCH}");
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
            return Err(problem.with_header(ACCEPT_PATCH, "application/merge-patch+json, application/json-patch+json"));
        }
    };
    let expected = writer.expects(&headers)?;
    writer.edit(id, action, expected).await
}

const ACCEPT_PATCH: header::HeaderName = header::HeaderName::from_static("accept-patch");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    purge: bool,
}

/// `DELETE /api/v1/entities/{kind}/{id}`: to the trash; with `purge=true` for good.
pub(super) async fn remove(
    State(editor): State<Editor>,
    Path((kind, id)): Path<(String, String)>,
    Query(removal): Query<Removal>,
    headers: HeaderMap,
    caller: Caller,
    trace: Trace,
) -> Result<Response, Problem> {
    let action = if removal.purge { "purge" } else { "trash" };
    let writer = Writer::of(editor, &kind, caller, trace, &[action])?;
    let (id, expected) = (entity_id(&id)?, writer.expects(&headers)?);
    let action = if removal.purge { EditAction::Purge } else { EditAction::Trash };
    writer.edit(id, action, expected).await
}

/// `POST /api/v1/entities/{kind}/{id}/restore`: out of the trash.
pub(super) async fn restore(
    State(editor): State<Editor>,
    Path((kind, id)): Path<(String, String)>,
    headers: HeaderMap,
    caller: Caller,
    trace: Trace,
) -> Result<Response, Problem> {
    let writer = Writer::of(editor, &kind, caller, trace, &["restore"])?;
    let (id, expected) = (entity_id(&id)?, writer.expects(&headers)?);
    writer.edit(id, EditAction::Restore, expected).await
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// An id as a part of an address.
fn escaped(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    id.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A document that can be stored.
fn document(headers: &HeaderMap, body: &Bytes) -> Result<Arc<RawValue>, Problem> {
    if media_type(headers) != "application/json" {
        let detail = "a document is application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    checked(json(body)?)
}

fn json(body: &Bytes) -> Result<Arc<RawValue>, Problem> {
    let raw: Box<RawValue> = serde_json::from_slice(body)
        .map_err(|error| Problem::bad_request("bad_json", format!("the body is no JSON: {error}")))?;
    Ok(raw.into())
}

fn checked(raw: Arc<RawValue>) -> Result<Arc<RawValue>, Problem> {
    check(&raw).map_err(unfit_document)?;
    Ok(raw)
}

/// `If-None-Match: *`, the only one that a change knows.
fn creates(headers: &HeaderMap) -> Result<bool, Problem> {
    match &*tags(headers, &header::IF_NONE_MATCH) {
        [] if !headers.contains_key(header::IF_NONE_MATCH) => Ok(false),
        [any] if any == "*" => Ok(true),
        _ => Err(Problem::bad_request("bad_parameter", "If-None-Match of a change is * or is not there")),
    }
}

/// What `If-Match` asks for: tags of answers, or bare revisions.
fn expected(headers: &HeaderMap, lens: &Lens) -> Result<Expect, Problem> {
    let told = tags(headers, &header::IF_MATCH);
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(Expect::Anything);
    }
    if told.iter().any(|tag| tag == "*") {
        return Ok(Expect::Something);
    }
    if told.len() > MAX_TAGS {
        return Err(Problem::bad_request("bad_parameter", format!("If-Match names at most {MAX_TAGS} tags")));
    }
    // Bare ones first: a tag of another sight stands for nothing that could be there.
    let bare = told.iter().filter_map(|tag| Some(Expected { revision: tag.parse().ok()?, epoch: None }));
    let of_tag = |tag: &String| {
        let (epoch, rest) = tag.split_once('.')?;
        let revision = rest.split('.').next()?.parse().ok()?;
        Some(Expected { revision, epoch: Some(Epoch::new(epoch)) })
    };
    Ok(Expect::OneOf(bare.chain(lens.known(&told).iter().filter_map(of_tag)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_sent() {
        let all = Lens::seeing_all();
        let asked = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(value))]);
            expected(&headers, &all).expect("readable")
        };
        let of = |revision, epoch: Option<&str>| Expected { revision, epoch: epoch.map(Epoch::new) };
        assert_eq!(asked("*"), Expect::Something);
        assert_eq!(asked("\"12\", W/\"e7.3.abc\""), Expect::OneOf(vec![of(12, None), of(3, Some("e7"))]));
        assert_eq!(asked("\"of another world\""), Expect::OneOf(vec![]), "a condition that nothing meets");
        assert_eq!(expected(&HeaderMap::new(), &all).expect("none"), Expect::Anything);
        let none =
            |value: &'static str| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
        assert!(creates(&none("*")).expect("known") && creates(&none("\"1\"")).is_err());
        // What cannot be read is a condition all the same.
        let odd = || HeaderValue::from_bytes(b"\xff").expect("a value");
        assert_eq!(
            expected(&HeaderMap::from_iter([(header::IF_MATCH, odd())]), &all).expect("odd"),
            Expect::OneOf(vec![])
        );
        assert!(creates(&HeaderMap::from_iter([(header::IF_NONE_MATCH, odd())])).is_err());
        assert_eq!(escaped("a/б?"), "a%2F%D0%B1%3F");
    }
}
