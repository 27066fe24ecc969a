//! `POST /api/v1/entities/{kind}/bulk`: many edits in one transaction, all or each by itself.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dzvin_protocols::{
    channels::Position,
    platform::{EntityId, Kind},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{
    bare,
    edits::{must_be_json, new_id},
    writer::{Asked, Writer, mark_replayed, status_of},
};
use crate::{
    entities::{Edit, EditAction, Edited, Expect, MAX_EDITS, Told, ToldRefusal, Violation},
    identity::audit::Slot,
    platform::http::Problem,
};

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk {
    /// Whether nothing is done when one is refused.
    #[serde(default = "yes")]
    atomic: bool,
    items: Vec<Item>,
}

fn yes() -> bool {
    true
}

/// One edit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    op: BulkOp,
    /// Without it, of `create`, the hub's.
    id: Option<String>,
    doc: Option<Box<RawValue>>,
    patch: Option<Box<RawValue>>,
    /// `null` is none: whoever has lost a tag must not overwrite for it.
    #[serde(default, deserialize_with = "present")]
    if_match: Option<IfMatch>,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<IfMatch>, D::Error> {
    IfMatch::deserialize(value).map(Some)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BulkOp {
    Create,
    Put,
    Merge,
    Patch,
    Trash,
    Restore,
    Purge,
}

/// A revision, or a tag of an answer.
#[derive(Deserialize)]
#[serde(untagged)]
enum IfMatch {
    Revision(u64),
    Tag(String),
}

impl BulkOp {
    /// The audit's name for it where it is refused.
    fn told(self) -> &'static str {
        match self {
            Self::Create => "entities.create",
            Self::Put | Self::Merge | Self::Patch => "entities.update",
            Self::Trash => "entities.trash",
            Self::Restore => "entities.restore",
            Self::Purge => "entities.purge",
        }
    }

    /// The permissions that it asks for.
    fn actions(self, conditional: bool) -> &'static [&'static str] {
        match self {
            Self::Create => &["create"],
            Self::Put if !conditional => &["create", "update"],
            Self::Put | Self::Merge | Self::Patch => &["update"],
            Self::Trash => &["trash"],
            Self::Restore => &["restore"],
            Self::Purge => &["purge"],
        }
    }
}

impl Item {
    fn edit(self, writer: &Writer) -> Result<Edit, Problem> {
        let Self { op, id, doc, patch, if_match } = self;
        let id = match (op, id) {
            (_, Some(id)) => EntityId::new(&id).map_err(|error| bad(&error.to_string()))?,
            (BulkOp::Create, None) => new_id()?,
            (_, None) => return Err(bad("id is missing")),
        };
        let action = match (op, doc, patch) {
            (BulkOp::Create, Some(doc), None) => EditAction::Create(doc.into()),
            (BulkOp::Put, Some(doc), None) => EditAction::Put(doc.into()),
            (BulkOp::Merge, None, Some(patch)) => EditAction::Merge(patch.into()),
            (BulkOp::Patch, None, Some(patch)) => EditAction::Patch(patch.into()),
            (BulkOp::Trash, None, None) => EditAction::Trash,
            (BulkOp::Restore, None, None) => EditAction::Restore,
            (BulkOp::Purge, None, None) => EditAction::Purge,
            _ => return Err(bad("create and put have a doc, merge and patch have a patch, the others have neither")),
        };
        let expected = match (op, if_match) {
            (BulkOp::Create, None) => Expect::Anything,
            (BulkOp::Create, Some(_)) => return Err(bad("what is created has no if_match")),
            (_, told) => writer.condition(told.map(IfMatch::tags))?,
        };
        Ok(writer.of(id, action, expected))
    }
}

impl IfMatch {
    fn tags(self) -> Vec<String> {
        let tag = match self {
            Self::Revision(revision) => revision.to_string(),
            // As it stands in the header of an answer.
            Self::Tag(tag) => bare(&tag).to_owned(),
        };
        vec![tag]
    }
}

fn bad(detail: &str) -> Problem {
    Problem::bad_request("bad_bulk", detail)
}

#[derive(Serialize)]
struct BulkAnswer {
    items: Vec<BulkItem>,
    position: Position,
    channel: String,
}

#[derive(Serialize)]
struct BulkItem {
    id: EntityId,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Violation>,
}

impl From<Told> for BulkItem {
    fn from(told: Told) -> Self {
        let Told { id, revision, created, refused } = told;
        let status = match (&refused, created) {
            (Some(refused), _) => status_of(&refused.code),
            (None, true) => StatusCode::CREATED,
            (None, false) => StatusCode::OK,
        };
        let (code, detail, errors) = match refused {
            Some(ToldRefusal { code, detail, errors }) => {
                (Some(code), Some(detail).filter(|detail| !detail.is_empty()), errors)
            }
            None => (None, None, Vec::new()),
        };
        Self { id, status: status.as_u16(), revision, code, detail, errors }
    }
}

/// Of each that was refused while others were done: the answer as a whole is none.
fn tell_refused(slot: &Slot, kind: &Kind, actions: &[&'static str], items: &[Told]) {
    for (action, told) in actions.iter().zip(items) {
        if let Some(refused) = &told.refused {
            slot.refuse(action, &format!("{kind}/{}", told.id), &refused.code, status_of(&refused.code));
        }
    }
}

/// Reads, does and tells them.
pub(super) async fn bulk(asked: Asked, body: Bytes) -> Result<Response, Problem> {
    if asked.id() != Some("bulk") {
        let problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "an entity is changed with PUT or PATCH",
        );
        return Err(problem.with_header(header::ALLOW, "GET, HEAD, PUT, PATCH, DELETE"));
    }
    must_be_json(&asked.headers, "edits are")?;
    let Bulk { atomic, items } = serde_json::from_slice(&body)
        .map_err(|error| bad(&format!("the body is not {{\"atomic\": ..., \"items\": [...]}}: {error}")))?;
    if items.is_empty() || items.len() > MAX_EDITS {
        return Err(bad(&format!("a request has 1 to {MAX_EDITS} items")));
    }
    let mut actions: Vec<&str> =
        items.iter().flat_map(|item| item.op.actions(item.if_match.is_some())).copied().collect();
    actions.sort_unstable();
    actions.dedup();
    let (slot, told): (_, Vec<_>) = (asked.slot.clone(), items.iter().map(|item| item.op.told()).collect());
    let writer = asked.writer(&actions, &body)?;
    let edits =
        items.into_iter().enumerate().map(|(at, item)| item.edit(&writer).map_err(|problem| problem.with_item(at)));
    let edits = edits.collect::<Result<Vec<_>, _>>()?;
    let Edited { answer, replayed, .. } = writer.edit_all(edits, atomic).await.map_err(|(at, problem)| match at {
        Some(at) => problem.with_item(at),
        None => problem,
    })?;
    if let Some(slot) = slot.filter(|_| !replayed) {
        tell_refused(&slot, &writer.kind, &told, &answer.items);
    }
    let answer = BulkAnswer {
        items: answer.items.into_iter().map(BulkItem::from).collect(),
        position: writer.lens.position(answer.position),
        channel: writer.kind.stream().to_string(),
    };
    let mut response = axum::Json(answer).into_response();
    mark_replayed(&mut response, replayed);
    Ok(response)
}
