//! `/api/v1/mirrors`: how each Mirror is, on any node; and the operator's word that it may go on.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use dzvin_actors::platform::ports::MirrorStatus;
use serde::Serialize;
use time::OffsetDateTime;

use super::{MirrorRow, Mirrors};
use crate::{
    identity::Caller,
    platform::http::{Problem, TraceContext},
};

/// What a resume came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// The link was told.
    Told,
    /// This node has no such link, or does not hold it.
    NotHere,
    /// The configuration, which is read again for a new token, has a fault: in one line.
    Unreadable(String),
}

/// How the composition root lets an operator reach the links of this node.
pub trait Resume: Send + Sync + 'static {
    /// Reads the link's token and message limit again, and ends whatever wait there is: after 403 at the handshake, a
    /// back-off, a message above the limit. What comes of it carries the trace on.
    fn resume<'a>(
        &'a self,
        mirror: &'a str,
        trace: Option<Arc<str>>,
    ) -> Pin<Box<dyn Future<Output = Resumed> + Send + 'a>>;
}

/// What the resource needs.
#[derive(Clone)]
pub struct MirrorsState {
    /// The store.
    pub mirrors: Mirrors,
    /// This node, as it stands in leases.
    pub owner: Arc<str>,
    /// The links of this node.
    pub resume: Arc<dyn Resume>,
}

/// The resource.
pub fn router(state: MirrorsState) -> Router {
    Router::new()
        .route("/api/v1/mirrors", get(list))
        .route("/api/v1/mirrors/{name}/resume", post(resume))
        .with_state(state)
}

#[derive(Serialize)]
struct Item {
    name: String,
    kind: String,
    #[serde(flatten)]
    status: MirrorStatus,
    cursor: Option<String>,
    newest_version: Option<String>,
    objects: i64,
    owner: Option<String>,
    here: bool,
}

impl Item {
    fn of(row: MirrorRow, us: &str) -> Self {
        let mut status = row.status;
        // What nobody holds is what its last holder said of it, no longer what it is.
        if row.owner.is_none() || status.state.is_empty() {
            "standby".clone_into(&mut status.state);
        }
        status.lag_ms = status.lag_at(OffsetDateTime::now_utc());
        Self {
            here: row.owner.as_deref() == Some(us),
            name: row.name,
            kind: row.kind,
            status,
            cursor: row.cursor,
            newest_version: row.newest_version,
            objects: row.objects,
            owner: row.owner,
        }
    }
}

async fn list(State(state): State<MirrorsState>, caller: Caller) -> Result<Response, Problem> {
    let rows = state.mirrors.list().await?.into_iter();
    let seen = rows.filter(|row| caller.permissions.allow("mirrors", "read", &row.name));
    let items: Vec<_> = seen.map(|row| Item::of(row, &state.owner)).collect();
    Ok(Json(serde_json::json!({ "items": items })).into_response())
}

async fn resume(
    State(state): State<MirrorsState>,
    Path(name): Path<String>,
    caller: Caller,
    trace: Option<Extension<TraceContext>>,
) -> Result<StatusCode, Problem> {
    caller.require("mirrors", "operate", &name)?;
    match state.resume.resume(&name, trace.map(|trace| trace.traceparent().into())).await {
        Resumed::Told => return Ok(StatusCode::ACCEPTED),
        Resumed::Unreadable(why) => return Err(Problem::conflict("bad_configuration", why)),
        Resumed::NotHere => {}
    }
    let row = state.mirrors.list().await?.into_iter().find(|row| row.name == name);
    Err(match row.map(|row| row.owner) {
        None => Problem::not_found("unknown_mirror", "there is no such mirror"),
        Some(Some(owner)) => Problem::conflict("mirror_elsewhere", format!("the mirror is held by {owner}: ask there")),
        Some(None) => Problem::conflict("mirror_not_held", "no node holds the mirror"),
    })
}
