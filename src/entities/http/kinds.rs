//! `/api/v1/kinds`: what types of entities there are, how they are declared, and declaring them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::{
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dzvin_actors::platform::ports::StoreError;
use dzvin_protocols::{
    entities::{Action, Declaration, SortAs},
    identity::Permissions,
    platform::{Kind, time::rfc3339_millis},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Editor, bad, edits::must_be_json, json, limit, tags, unknown_kind};
use crate::{
    entities::{DeclareError, Declared, Declaring, Entities, Examined, KindRow, Origin, Source, lens::Lens},
    identity::Caller,
    platform::http::Problem,
};

/// How long the entities that are there may be looked at while somebody waits for the answer; the command line has no limit.
const WITHIN: Duration = Duration::from_secs(20);

/// A kind as it is told in a list.
#[derive(Serialize)]
pub(in super::super) struct KindItem {
    kind: Kind,
    source: String,
    mirror: Option<String>,
    title: BTreeMap<String, String>,
    fields: Vec<String>,
    sorts: BTreeMap<String, SortAs>,
    text: Vec<String>,
    display: Vec<String>,
    references: BTreeMap<String, Kind>,
    /// Not filtered by yet.
    pending: Vec<String>,
    channel: String,
    readable: bool,
    /// What the caller may do to its entities.
    may: Vec<Action>,
    declared: Origin,
    version: u64,
}

/// A kind as it is told by itself.
#[derive(Serialize)]
struct WholeKind {
    #[serde(flatten)]
    item: KindItem,
    schema: Option<Box<RawValue>>,
    /// Of those who may declare it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<BTreeMap<String, BTreeSet<Action>>>,
    require_if_match: bool,
    #[serde(with = "dzvin_protocols::platform::units::duration")]
    trash_retention: Duration,
}

impl KindItem {
    fn of(entities: &Entities, permissions: &Permissions, user: &str, row: KindRow) -> Self {
        let KindRow { kind, source, mirror, origin, declaration, version, pending } = row;
        // Fields are told to be filtered by, and nothing is filtered by what is hidden.
        let lens = Lens::seen_by(permissions, user, entities, &kind);
        let shown = |fields: Vec<String>| fields.into_iter().filter(|field| lens.shows(field)).collect();
        let ours = source == Source::Local.as_str();
        let may = |action: &Action| {
            (ours || *action == Action::Read) && permissions.allow("entities", action.as_str(), kind.as_str())
        };
        Self {
            may: Action::ALL.into_iter().filter(may).collect(),
            title: declaration.title,
            fields: shown(declaration.fields),
            sorts: declaration.sorts.into_iter().filter(|(field, _)| lens.shows(field)).collect(),
            text: shown(declaration.text),
            display: shown(declaration.display),
            references: declaration.references.into_iter().filter(|(field, _)| lens.shows(field)).collect(),
            pending: shown(pending),
            channel: kind.stream().to_string(),
            readable: true,
            declared: origin,
            source,
            mirror,
            version,
            kind,
        }
    }
}

pub(super) async fn kinds(State(entities): State<Entities>, caller: Caller) -> Result<Response, Problem> {
    let items = kind_items(&entities, &caller.permissions, &caller.user).await?;
    Ok(axum::Json(serde_json::json!({ "items": items })).into_response())
}

/// The kinds that a user may read.
///
/// # Errors
/// The database is away.
pub(in super::super) async fn kind_items(
    entities: &Entities,
    permissions: &Permissions,
    user: &str,
) -> Result<Vec<KindItem>, StoreError> {
    // Who may not read a kind is not told that there is one.
    let rows = entities.kinds().await?.into_iter().filter(|row| permissions.may_read(&row.kind));
    Ok(rows.map(|row| KindItem::of(entities, permissions, user, row)).collect())
}

/// A kind that the caller may read, or declare.
fn named(caller: &Caller, name: &str) -> Result<Kind, Problem> {
    let kind = Kind::new(name).map_err(|error| Problem::not_found("unknown_kind", error.to_string()))?;
    if !caller.permissions.allow("kinds", "declare", kind.as_str()) {
        caller.require_read(&kind)?;
    }
    Ok(kind)
}

/// `GET /api/v1/kinds/{kind}`: with its schema.
pub(super) async fn kind(
    State(entities): State<Entities>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Response, Problem> {
    let kind = named(&caller, &name)?;
    let row = entities.kind(&kind).await?.ok_or_else(|| unknown_kind(&kind))?;
    whole(&entities, &caller, row)
}

fn whole(entities: &Entities, caller: &Caller, mut row: KindRow) -> Result<Response, Problem> {
    let Declaration { require_if_match, trash_retention, .. } = row.declaration;
    let (schema, grants) = (row.declaration.schema.take(), std::mem::take(&mut row.declaration.grants));
    let (version, declares) = (row.version, caller.permissions.allow("kinds", "declare", row.kind.as_str()));
    let grants = declares.then_some(grants);
    let item = KindItem::of(entities, &caller.permissions, &caller.user, row);
    let kind = WholeKind { item, schema, grants, require_if_match, trash_retention };
    let mut response = json(serde_json::to_vec(&kind).map_err(Problem::internal)?.into());
    response.headers_mut().insert(header::ETAG, tag(version)?);
    Ok(response)
}

fn tag(version: u64) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(&format!("\"{version}\"")).map_err(Problem::internal)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct How {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    force: bool,
}

/// `PUT /api/v1/kinds/{kind}`: declares it, or with `dry_run=true` says what would come of it.
pub(super) async fn declare(
    State(Editor(entities)): State<Editor>,
    Path(name): Path<String>,
    Query(How { dry_run, force }): Query<How>,
    caller: Caller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let kind = Kind::new(&name).map_err(|error| Problem::bad_request("bad_kind", error.to_string()))?;
    caller.require("kinds", "declare", kind.as_str())?;
    caller.require_user("in whose name a kind could be declared")?;
    must_be_json(&headers, "a declaration is")?;
    let declaration: Declaration = serde_json::from_slice(&body)
        .map_err(|error| Problem::unprocessable("bad_declaration", format!("the body is no declaration: {error}")))?;
    let asked = Declaring { kind, declaration, expected: expected(&headers)?, force, within: WITHIN };
    // Who does not see the entities is told how many do not fit, and no more.
    let lens = Lens::of(&caller, &entities, &asked.kind);
    let sees = caller.permissions.may_read(&asked.kind) && lens.rows().is_none() && !lens.masks();
    let shown = |examined: Examined| if sees { examined } else { Examined { examples: Vec::new(), ..examined } };
    if dry_run {
        let examined = entities.examine(&asked).await.map_err(|error| refusal(error, shown))?;
        return Ok(axum::Json(shown(examined)).into_response());
    }
    let Declared { version, changed } =
        entities.declare(&asked, &caller.who).await.map_err(|error| refusal(error, shown))?;
    let row = entities.kind(&asked.kind).await?.ok_or_else(|| unknown_kind(&asked.kind))?;
    let mut response = whole(&entities, &caller, row)?;
    if changed && version == 1 {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// The version that was seen: `If-Match` names it, `If-None-Match: *` says that there was none.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let seen = tags(headers, &header::IF_MATCH);
    match (&*seen, &*tags(headers, &header::IF_NONE_MATCH)) {
        ([], []) => Ok(None),
        ([], [any]) if any == "*" => Ok(Some(0)),
        ([version], []) => version.parse().map(Some).map_err(|_| bad("If-Match", version)),
        _ => Err(bad("If-Match", "more than one condition")),
    }
}

fn refusal(error: DeclareError, shown: impl Fn(Examined) -> Examined) -> Problem {
    let detail = error.to_string();
    match error {
        DeclareError::Configured => Problem::conflict("configured_kind", detail),
        DeclareError::Version(version) => {
            Problem::new(StatusCode::PRECONDITION_FAILED, "revision_conflict", detail).with_revision(version)
        }
        DeclareError::TooMany => Problem::unprocessable("too_many_kinds", detail),
        DeclareError::Declaration(_) => Problem::unprocessable("bad_declaration", detail),
        DeclareError::Schema(_) => Problem::unprocessable("bad_schema", detail),
        DeclareError::Unfit(examined) => {
            let all = shown(*examined).examples.into_iter().flat_map(|it| {
                // In the form of what is wrong with a document, each behind the id of its own.
                let of = it.id.replace('~', "~0").replace('/', "~1");
                it.errors.into_iter().map(move |mut error| {
                    error.pointer = format!("/{of}{}", error.pointer);
                    error
                })
            });
            let detail = format!("{detail}; see them with dry_run=true, mend them, or let them be with force=true");
            Problem::conflict("entities_unfit", detail).with_errors(all.collect())
        }
        DeclareError::Slow(_) => {
            let detail =
                format!("{detail}: declare it with `dzvin kinds apply`, which takes its time, or with force=true");
            Problem::conflict("too_many_entities", detail)
        }
        DeclareError::Store(error) => error.into(),
    }
}

#[derive(Serialize)]
struct VersionItem {
    version: i64,
    at: String,
    by: String,
    declaration: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<String>,
    cursor: Option<u64>,
}

/// Versions on a page when nobody says, and at most: each may carry a schema.
const VERSIONS: u16 = 20;

/// `GET /api/v1/kinds/{kind}/versions`: how it was declared before, newest first.
pub(super) async fn versions(
    State(entities): State<Entities>,
    Path(name): Path<String>,
    Query(page): Query<Page>,
    caller: Caller,
) -> Result<Response, Problem> {
    let kind = named(&caller, &name)?;
    // As it was declared, what roles are granted included.
    caller.require("kinds", "declare", kind.as_str())?;
    let limit = page.limit.as_deref().map_or(Ok(VERSIONS), limit)?.min(VERSIONS);
    let rows = entities.declarations(&kind, page.cursor, limit).await?;
    if rows.is_empty() && entities.kind(&kind).await?.is_none() {
        return Err(unknown_kind(&kind));
    }
    let next = rows.last().filter(|row| rows.len() == usize::from(limit) && row.version > 1).map(|row| row.version);
    let items = rows.into_iter().map(|row| {
        let declaration = RawValue::from_string(row.declaration).map_err(Problem::internal)?;
        Ok(VersionItem { version: row.version, at: rfc3339_millis(row.at), by: row.by, declaration })
    });
    let items = items.collect::<Result<Vec<_>, Problem>>()?;
    Ok(axum::Json(serde_json::json!({ "items": items, "next": next.map(|next| next.to_string()) })).into_response())
}
