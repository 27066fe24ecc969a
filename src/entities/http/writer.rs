//! Who changes what: rights, conditions, keys for repetition, and how it is told what came of it.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRef, FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use dzvin_protocols::{
    channels::{Epoch, Position},
    platform::{EntityId, Kind},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Editor, INLINE, MAX_TAGS, entity_id, find, history, readable, tags, unknown_kind, write_item};
use crate::{
    entities::{
        Author, Edit, EditAction, EditError, Edited, Edits, EntityRow, Expect, Expected, IdempotencyKey,
        MAX_IDEMPOTENCY_KEY, Refused, Sees, Source, lens::Lens,
    },
    identity::{Caller, audit::Slot},
    platform::http::{IDEMPOTENCY_KEY, IDEMPOTENCY_REPLAYED, Problem, TraceContext},
};

/// When to ask again while another request under the same key takes long.
const BUSY: Duration = Duration::from_secs(1);

/// A change as it is asked for, before anything of it is judged.
pub(super) struct Asked {
    editor: Editor,
    place: Place,
    caller: Caller,
    trace: Option<String>,
    /// Where refusals of single items are told.
    pub(super) slot: Option<Slot>,
    /// Of the request.
    pub(super) headers: HeaderMap,
    /// What was sent but for the body.
    begun: Sha256,
}

#[derive(Deserialize)]
struct Place {
    kind: String,
    id: Option<String>,
}

impl<S> FromRequestParts<S> for Asked
where
    Editor: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Path(place) = Path::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        let caller = Caller::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        let trace = parts.extensions.get::<TraceContext>().map(TraceContext::traceparent);
        let slot = parts.extensions.get::<Slot>().cloned();
        let (editor, headers) = (Editor::from_ref(state), parts.headers.clone());
        let mut begun = Sha256::new();
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let mut told = vec![parts.method.as_str().as_bytes(), target.as_bytes()];
        for name in [header::CONTENT_TYPE, header::IF_MATCH, header::IF_NONE_MATCH] {
            told.extend(headers.get_all(&name).iter().map(HeaderValue::as_bytes));
            // One that is empty is not one that is absent.
            told.push(b"\n");
        }
        for part in told {
            begun.update(part.len().to_be_bytes());
            begun.update(part);
        }
        Ok(Self { editor, place, caller, trace, slot, headers, begun })
    }
}

impl Asked {
    /// The id that the address names.
    pub(super) fn id(&self) -> Option<&str> {
        self.place.id.as_deref()
    }

    /// Of a kind of ours that the caller may read and change in each of these ways.
    pub(super) fn writer(self, actions: &[&str], body: &[u8]) -> Result<Writer, Problem> {
        let Self { editor, place, caller, trace, headers, begun, .. } = self;
        let kind = readable(&caller, &place.kind)?;
        let spec = editor.0.spec(&kind).ok_or_else(|| unknown_kind(&kind))?;
        if spec.source != Source::Local {
            let detail = format!("entities of {kind} belong to their upstream and are only read here");
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "read_only_kind", detail)
                .with_header(header::ALLOW, "GET, HEAD"));
        }
        actions.iter().try_for_each(|action| caller.require("entities", action, kind.as_str()))?;
        caller.require_user("in whose name something could be changed")?;
        let (lens, demanding) = (Lens::of(&caller, &editor.0, &kind), spec.declaration.require_if_match);
        let sees = Arc::new(Sees { rows: lens.rows().cloned(), mask: lens.mask().cloned() });
        let key = idempotency_key(&headers)?.map(|key| {
            // Whoever sees less is not told what was answered to who saw more.
            let sight = lens.mark();
            let seen = begun.chain_update(sight.len().to_be_bytes()).chain_update(sight);
            let fingerprint = seen.chain_update(body).finalize().into();
            IdempotencyKey { key, fingerprint }
        });
        Ok(Writer { id: place.id, caller, kind, lens, sees, editor, trace, headers, demanding, key })
    }
}

/// Who edits what.
pub(super) struct Writer {
    id: Option<String>,
    pub(super) caller: Caller,
    pub(super) kind: Kind,
    pub(super) lens: Lens,
    sees: Arc<Sees>,
    editor: Editor,
    trace: Option<String>,
    headers: HeaderMap,
    /// Whether the kind asks for conditions.
    demanding: bool,
    key: Option<IdempotencyKey>,
}

impl Writer {
    /// The entity that the address names.
    pub(super) fn id(&self) -> Result<EntityId, Problem> {
        entity_id(self.id.as_deref().unwrap_or_default())
    }

    /// The document of an earlier revision that the writer sees.
    pub(super) async fn past(&self, id: &EntityId, revision: u64) -> Result<Box<RawValue>, Problem> {
        let (_, doc) = history::past(&self.editor.0.for_readers(), &self.lens, &self.kind, id, revision).await?;
        RawValue::from_string(doc).map_err(Problem::internal)
    }

    /// The condition of the request's headers.
    ///
    /// # Errors
    /// 428 where the kind asks for a condition and there is none.
    pub(super) fn expects(&self) -> Result<Expect, Problem> {
        let told = self.headers.contains_key(header::IF_MATCH).then(|| tags(&self.headers, &header::IF_MATCH));
        self.condition(told)
    }

    /// The same of a condition that stands elsewhere.
    pub(super) fn condition(&self, told: Option<Vec<String>>) -> Result<Expect, Problem> {
        let expected = told.map(|told| expected(&told, &self.lens)).transpose()?;
        if self.demanding && expected.is_none() {
            let detail =
                format!("say which revision you have seen: entities of {} are changed with If-Match only", self.kind);
            return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", detail));
        }
        Ok(expected.unwrap_or_default())
    }

    /// An edit in the name of this writer.
    pub(super) fn of(&self, id: EntityId, action: EditAction, expected: Expect) -> Edit {
        Edit { id, action, expected, sees: Arc::clone(&self.sees), by: None }
    }

    /// Edits one entity and tells it.
    pub(super) async fn edit(&self, id: EntityId, action: EditAction, expected: Expect) -> Result<Response, Problem> {
        let Edited { answer, row, replayed } =
            self.edit_all(vec![self.of(id, action, expected)], true).await.map_err(|(_, problem)| problem)?;
        let Some(told) = answer.items.into_iter().next() else {
            return Err(Problem::internal("an edit was answered by nothing"));
        };
        let there = match row {
            None => find(&self.editor.0.for_readers(), &self.lens, &self.kind, &told.id, &[], INLINE).await?,
            told => told,
        };
        let mut response = match there {
            Some((row, tag)) => self.told(&row, &tag)?,
            // It was done, whatever became of the entity since.
            None => axum::Json(serde_json::json!({"kind": self.kind, "id": told.id, "revision": told.revision}))
                .into_response(),
        };
        if told.created {
            *response.status_mut() = StatusCode::CREATED;
            let place = format!("/api/v1/entities/{}/{}", self.kind, escaped(told.id.as_str()));
            let place = HeaderValue::from_str(&place).map_err(Problem::internal)?;
            response.headers_mut().insert(header::LOCATION, place);
        }
        mark_replayed(&mut response, replayed);
        Ok(response)
    }

    /// Does all these edits.
    ///
    /// # Errors
    /// With the place of the edit at fault, where it is one's.
    pub(super) async fn edit_all(&self, edits: Vec<Edit>, atomic: bool) -> Result<Edited, (Option<usize>, Problem)> {
        let author = Author { by: &self.caller.user, trace: self.trace.as_deref() };
        let edits = Edits { edits, atomic, key: self.key.clone(), who: self.caller.who.clone() };
        let done = self.editor.0.edit(&self.kind, author, &edits).await;
        done.map_err(|error| match error {
            EditError::Refused { index, refused } => (Some(index), refusal(&refused)),
            EditError::KeyReused => {
                let detail = "this Idempotency-Key was sent with another request; take a new one";
                (None, Problem::unprocessable("idempotency_key_reused", detail))
            }
            EditError::KeyBusy => {
                let detail = "a request under this Idempotency-Key is still under way; ask again";
                (None, Problem::conflict("idempotency_key_busy", detail).retry_after(BUSY))
            }
            EditError::Store(error) => (None, error.into()),
        })
    }

    fn told(&self, row: &EntityRow, tag: &str) -> Result<Response, Problem> {
        let mut out = Vec::with_capacity(usize::try_from(row.size).unwrap_or_default() + 512);
        write_item(&mut out, &self.kind, row, &self.lens);
        out.pop();
        let epoch = Epoch::new(tag.split('.').next().unwrap_or_default());
        let position: Position = self.lens.position(Position { epoch, offset: row.offset.unsigned_abs() });
        out.extend_from_slice(b",\"position\":");
        out.extend(serde_json::to_vec(&position).map_err(Problem::internal)?);
        out.push(b'}');
        let mut response = super::json(out.into());
        let tag = format!("\"{}\"", self.lens.tag(tag));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_str(&tag).map_err(Problem::internal)?);
        Ok(response)
    }
}

/// Says of an answer that it was given before.
pub(super) fn mark_replayed(response: &mut Response, replayed: bool) {
    if replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

fn refusal(refused: &Refused) -> Problem {
    let problem = Problem::new(status_of(refused.code()), refused.code(), refused.to_string());
    let problem = problem.with_errors(refused.violations().to_vec());
    match refused.revision() {
        Some(revision) => problem.with_revision(revision),
        None => problem,
    }
}

/// The status of what was refused.
pub(super) fn status_of(code: &str) -> StatusCode {
    match code {
        "unknown_entity" => StatusCode::NOT_FOUND,
        "entity_exists" | "revision_conflict" => StatusCode::PRECONDITION_FAILED,
        "hidden_field" | "out_of_sight" => StatusCode::FORBIDDEN,
        "unfit_document" | "schema_mismatch" => StatusCode::UNPROCESSABLE_ENTITY,
        "document_too_large" | "bulk_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "bad_patch" => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    }
}

/// An id as a part of an address.
fn escaped(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    id.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Bare, or in quotes as the draft of its standard has it.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(first) = all.next() else { return Ok(None) };
    let key = first.to_str().ok().map(|key| key.trim().trim_matches('"'));
    match key.filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())) {
        Some(key) if all.next().is_none() => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("Idempotency-Key is one text of 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters");
            Err(Problem::bad_request("bad_parameter", detail))
        }
    }
}

/// What a condition asks for: tags of answers, or bare revisions.
fn expected(told: &[String], lens: &Lens) -> Result<Expect, Problem> {
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
    Ok(Expect::OneOf(bare.chain(lens.known(told).iter().filter_map(of_tag)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_as_they_are_sent() {
        let all = Lens::seeing_all();
        let asked = |value: HeaderValue| {
            let headers = HeaderMap::from_iter([(header::IF_MATCH, value)]);
            expected(&tags(&headers, &header::IF_MATCH), &all).expect("readable")
        };
        let text = |value: &'static str| asked(HeaderValue::from_static(value));
        let of = |revision, epoch: Option<&str>| Expected { revision, epoch: epoch.map(Epoch::new) };
        assert_eq!(text("*"), Expect::Something);
        assert_eq!(text("\"12\", W/\"e7.3.abc\""), Expect::OneOf(vec![of(12, None), of(3, Some("e7"))]));
        assert_eq!(text("\"of another world\""), Expect::OneOf(vec![]), "a condition that nothing meets");
        // What cannot be read is a condition all the same.
        assert_eq!(asked(HeaderValue::from_bytes(b"\xff").expect("a value")), Expect::OneOf(vec![]));
        assert_eq!(escaped("a/б?"), "a%2F%D0%B1%3F");
    }

    #[test]
    fn keys_are_one_text() {
        let of = |all: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for key in all {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static(key));
            }
            idempotency_key(&headers)
        };
        assert_eq!(of(&[]).expect("none"), None);
        assert_eq!(of(&["\"a b\""]).expect("quoted"), of(&["a b"]).expect("bare"));
        assert!(of(&[""]).is_err() && of(&["\"\""]).is_err() && of(&["a", "b"]).is_err());
    }
}
