//! `/api/v1/queries`: asking to be told of what meets a filter, with what meets it now.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef, Path, Query as Pairs, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use dzvin_actors::platform::ports::{Query, StoreError};
use dzvin_protocols::{
    channels::{Channel, Position, QueryId},
    entities::{Filter, MAX_FILTER_BYTES, PageCursor},
    platform::{Kind, time::rfc3339_millis},
};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{KEPT_DAYS, QueryRefusal, QueryRow, StoredQueries};
use crate::{
    entities::{
        DEFAULT_LIMIT, MAX_LIMIT,
        http::{bad, json, limit, write_item},
        lens::Lens,
        query::INLINE,
    },
    identity::Caller,
    platform::http::{AnswerRoom, Problem},
};

/// Longest body of a request: the largest filter, and what stands around it.
pub const MAX_QUERY_BODY: usize = MAX_FILTER_BYTES + 4096;

/// Who reaches those that listen to a query, wherever they are.
pub trait Listeners: Send + Sync + 'static {
    /// Ends what the connections of a user have of a channel.
    fn end<'a>(&'a self, user: &'a str, channel: &'a Channel) -> BoxFuture<'a, ()>;
}

/// Nobody listens.
impl Listeners for () {
    fn end<'a>(&'a self, _: &'a str, _: &'a Channel) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// The resource.
pub fn router(queries: StoredQueries, listeners: Arc<dyn Listeners>, room: AnswerRoom) -> Router {
    Router::new()
        .route("/api/v1/queries", post(make).get(list))
        .route("/api/v1/queries/{id}", get(read).delete(forget))
        .layer(DefaultBodyLimit::max(MAX_QUERY_BODY))
        .with_state(Served { queries, listeners, room })
}

/// What the handlers need.
#[derive(Clone, FromRef)]
struct Served {
    queries: StoredQueries,
    listeners: Arc<dyn Listeners>,
    room: AnswerRoom,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    kind: String,
    #[serde(borrow)]
    filter: &'a RawValue,
    #[serde(default)]
    limit: Option<u16>,
}

/// How a query is written.
#[derive(Serialize)]
struct Head<'a> {
    id: &'a str,
    channel: String,
    kind: &'a str,
    filter: Box<RawValue>,
}

impl Head<'_> {
    fn of<'a>(id: &'a QueryId, kind: &'a str, filter: String) -> Result<Head<'a>, Problem> {
        let filter = RawValue::from_string(filter).map_err(Problem::internal)?;
        Ok(Head { id: id.as_str(), channel: Channel::Query(id.clone()).to_string(), kind, filter })
    }
}

#[derive(Serialize)]
struct Foot {
    next: Option<String>,
    position: Position,
}

async fn make(
    State(queries): State<StoredQueries>,
    State(room): State<AnswerRoom>,
    caller: Caller,
    body: Bytes,
) -> Result<Response, Problem> {
    user(&caller)?;
    let asked: Asked<'_> = serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request("bad_request", format!("expected {{\"kind\", \"filter\", \"limit\"}}: {error}"))
    })?;
    let kind = Kind::new(&asked.kind).map_err(|error| Problem::not_found("unknown_kind", error.to_string()))?;
    caller.require_read(&kind)?;
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request("bad_parameter", format!("limit is 1 to {MAX_LIMIT}")));
    }
    let lens = Lens::of(&caller, &queries.entities, &kind);
    // Before it is kept: what may not be asked is nobody's query.
    if let Ok(filter) = Filter::parse(asked.filter.get()) {
        filter.fields().into_iter().try_for_each(|field| lens.may_filter(field))?;
    }
    let query = queries.make(&kind, asked.filter.get(), &caller.who).await.map_err(|refusal| refusal.told(&lens))?;
    let page = page(&queries, &room, &query, &lens, None, limit).await?;
    let place = HeaderValue::from_str(&format!("/api/v1/queries/{}", query.id)).map_err(Problem::internal)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], page).into_response())
}

async fn read(
    State(queries): State<StoredQueries>,
    State(room): State<AnswerRoom>,
    Path(id): Path<String>,
    Pairs(pairs): Pairs<Vec<(String, String)>>,
    caller: Caller,
) -> Result<Response, Problem> {
    let (mut cursor, mut count) = (None, DEFAULT_LIMIT);
    for (name, value) in pairs {
        match name.as_str() {
            "limit" => count = limit(&value)?,
            "cursor" => cursor = Some(PageCursor::parse(&value).ok_or_else(|| bad("cursor", &value))?),
            _ => return Err(bad("parameter", &name)),
        }
    }
    let (id, user) = (QueryId::parse(&id).ok_or_else(unknown)?, user(&caller)?);
    let query = queries.of_user(&id, user).await?.ok_or_else(unknown)?;
    caller.require_read(&query.kind)?;
    let lens = Lens::of(&caller, &queries.entities, &query.kind);
    // Made when more was to be seen.
    query.filter.fields().into_iter().try_for_each(|field| lens.may_filter(field))?;
    page(&queries, &room, &query, &lens, cursor, count).await
}

/// The query, a page of its rows, and the position of the first page.
async fn page(
    queries: &StoredQueries,
    room: &AnswerRoom,
    query: &Query,
    lens: &Lens,
    cursor: Option<PageCursor>,
    limit: u16,
) -> Result<Response, Problem> {
    // What it may come to; what it has come to is held from then on.
    let room = room.take(usize::from(limit) * INLINE as usize).await?;
    let below = cursor.as_ref().map(|cursor| cursor.below);
    let page = queries.page_seen(query, lens.rows(), below, limit).await?.ok_or_else(unknown)?;
    let position = cursor.map_or_else(|| lens.position(page.position), |cursor| cursor.position);
    let next = page.below.map(|below| PageCursor { below, position: position.clone() }.to_string());
    let head = Head::of(&query.id, query.kind.as_str(), query.filter.to_string())?;
    let mut out = serde_json::to_vec(&head).map_err(Problem::internal)?;
    out.pop();
    out.extend_from_slice(b",\"items\":[");
    for (n, row) in page.rows.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_item(&mut out, &query.kind, row, lens);
    }
    out.extend_from_slice(b"],");
    let foot = serde_json::to_vec(&Foot { next, position }).map_err(Problem::internal)?;
    out.extend_from_slice(foot.get(1..).unwrap_or_default());
    Ok(json(room.lend(out)))
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    created_at: String,
    used_at: String,
    kept_days: i32,
}

async fn list(State(queries): State<StoredQueries>, caller: Caller) -> Result<Response, Problem> {
    let rows = queries.list(user(&caller)?).await?;
    // A kind that may no longer be read is not told of.
    let may = |row: &&QueryRow| Kind::new(&row.kind).is_ok_and(|kind| caller.permissions.may_read(&kind));
    let mut items = Vec::new();
    for row in rows.iter().filter(may) {
        let Some(id) = QueryId::parse(&row.id) else { continue };
        let head = Head::of(&id, &row.kind, row.filter.clone())?;
        let (created_at, used_at) = (rfc3339_millis(row.created_at), rfc3339_millis(row.used_at));
        let item = Listed { head, created_at, used_at, kept_days: KEPT_DAYS };
        items.push(serde_json::to_value(item).map_err(Problem::internal)?);
    }
    Ok(([(header::CACHE_CONTROL, NO_STORE)], axum::Json(serde_json::json!({ "items": items }))).into_response())
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

async fn forget(
    State(queries): State<StoredQueries>,
    State(listeners): State<Arc<dyn Listeners>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    let id = QueryId::parse(&id).ok_or_else(unknown)?;
    user(&caller)?;
    let who = caller.who;
    // Whoever hangs up meanwhile has it forgotten all the same, and ended for those who listen.
    let done = tokio::spawn(async move {
        let was = queries.drop_of_user(&id, &who).await?;
        if was {
            listeners.end(&who.user, &Channel::Query(id)).await;
        }
        Ok::<_, StoreError>(was)
    });
    if done.await.map_err(Problem::internal)?? { Ok(StatusCode::NO_CONTENT) } else { Err(unknown()) }
}

/// A query belongs to somebody.
fn user(caller: &Caller) -> Result<&str, Problem> {
    caller.require_user("to whom a query could belong")
}

fn unknown() -> Problem {
    Problem::not_found("unknown_query", "you have no such query; it may have been forgotten")
}

impl QueryRefusal {
    /// Without the names of what is hidden.
    fn told(self, lens: &Lens) -> Self {
        match self {
            Self::UnknownField { field, declared } => {
                let shown: Vec<&str> = declared.split(", ").filter(|name| lens.shows(name)).collect();
                Self::UnknownField { field, declared: shown.join(", ") }
            }
            other => other,
        }
    }
}

impl From<QueryRefusal> for Problem {
    fn from(refusal: QueryRefusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            QueryRefusal::TooMany => Self::conflict("too_many_queries", text),
            QueryRefusal::UnknownKind => Self::not_found("unknown_kind", text),
            QueryRefusal::Filter(_) => Self::bad_request("bad_filter", text),
            QueryRefusal::UnknownField { .. } => Self::bad_request("unknown_field", text),
            QueryRefusal::VersionField(_) => Self::bad_request("version_field", text),
            QueryRefusal::Pending(_) => Self::conflict("field_pending", text),
            QueryRefusal::Store(error) => error.into(),
        }
    }
}
