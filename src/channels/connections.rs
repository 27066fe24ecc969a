//! `/api/v1/connections`: who is connected, on all nodes, and the operator's word that a connection ends.
//!
//! Each node asks all others over the bus and waits a moment for those that are alive. What does not answer in time is named
//! as missing, and so is a shard that does not answer its own node: an answer is never made up. It comes in pages, in the order of the
//! clients' ids: each node says its first behind the last of the page before, and of all of them the first are the page.

mod page;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{delete, get},
};
use dzvin_actors::{
    channels::{ClientId, ShardMessage, Shards},
    platform::ports::Bus,
    supervise::CallError,
};
use dzvin_protocols::channels::{ClientName, ConnectionInfo, Control, Whose, centrifuge::Disconnect};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use self::page::{Page, Shown, fit};
use super::bus::AnyBus;
use crate::{identity::Caller, platform::http::Problem};

/// How long other nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a shard may take: what the others have said is still in time then.
const SHARD_PATIENCE: Duration = Duration::from_secs(1);
/// Surveys of this node that are under way: each is a question to every node.
const MAX_SURVEYS: usize = 16;
/// Connections of one answer of a node, so that it fits a word between nodes.
const MAX_ANSWER: usize = 100;
/// Connections shown when nobody says how many.
const DEFAULT_LIMIT: u32 = 50;

/// Asks all nodes, and answers when another asks.
#[derive(Clone)]
pub struct Connections {
    bus: Arc<AnyBus>,
    shards: Shards,
    waiting: Arc<Mutex<HashMap<Arc<str>, mpsc::Sender<Part>>>>,
}

/// What one node answered.
struct Part {
    node: Arc<str>,
    connections: Vec<ConnectionInfo>,
    more: bool,
    silent: Vec<u32>,
}

impl Connections {
    /// Connections of this node's shards and of all others on the bus.
    #[must_use]
    pub fn new(bus: Arc<AnyBus>, shards: Shards) -> Self {
        Self { bus, shards, waiting: Arc::default() }
    }

    /// Another node has answered, or this one.
    pub(super) fn answered(&self, letter: Control) {
        let Control::Answer { id, node, connections, more, silent } = letter else { return };
        let asker = self.waiting().get(&id).cloned();
        if let Some(asker) = asker {
            let _ = asker.try_send(Part { node, connections, more, silent });
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Arc<str>, mpsc::Sender<Part>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what another node asks, or this one.
    pub(super) async fn answer(&self, id: Arc<str>, to: &str, whose: Whose, after: Option<&str>, limit: u32) {
        let after = after.and_then(ClientId::parse);
        let limit = usize::try_from(limit).unwrap_or(MAX_ANSWER).min(MAX_ANSWER);
        let (mut connections, mut more, mut silent) = (Vec::new(), false, Vec::new());
        let asking = (0..self.shards.count()).filter_map(|index| self.shards.get(index)).map(|shard| {
            let whose = whose.clone();
            shard.slot.call(move |reply| ShardMessage::Survey { whose, after, limit, reply }, SHARD_PATIENCE)
        });
        for (shard, answer) in (0..).zip(join_all(asking).await) {
            match answer {
                Ok((found, further)) => {
                    connections.extend(found);
                    more |= further;
                }
                // A shard between two lives has no connections.
                Err(CallError::Away) => {}
                Err(CallError::Timeout) => silent.push(shard),
            }
        }
        more |= fit(&mut connections, limit);
        self.tell(to, &Control::Answer { id, node: self.bus.node().into(), connections, more, silent }).await;
    }

    /// Writes to one node. What does not arrive is asked for again, or happens again.
    pub(super) async fn tell(&self, to: &str, letter: &Control) {
        if let Err(error) = self.bus.tell(Some(to), letter.encode()).await {
            tracing::debug!(%error, "another node was not answered");
        }
    }

    async fn ask(&self, whose: Whose, after: Option<Arc<str>>, limit: u32) -> Result<Survey, Problem> {
        let away =
            |error| Problem::unavailable("bus_unavailable", "the bus does not answer; try again soon").caused_by(error);
        let mut missing = self.bus.nodes().await.map_err(away)?;
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let (sender, mut parts) = mpsc::channel(missing.len().max(1));
        {
            let mut waiting = self.waiting();
            if waiting.len() >= MAX_SURVEYS {
                return Err(Problem::unavailable(
                    "too_many_surveys",
                    "this node asks for others already; try again soon",
                ));
            }
            waiting.insert(Arc::clone(&id), sender);
        }
        let _asked = Forget(self, Arc::clone(&id));
        let mut page =
            Page::new(after.as_deref().and_then(ClientId::parse), usize::try_from(limit).unwrap_or(MAX_ANSWER));
        let letter = Control::Survey { id, from: self.bus.node().into(), whose, after, limit };
        self.bus.tell(None, letter.encode()).await.map_err(away)?;
        let by = Instant::now() + PATIENCE;
        let mut silent = Vec::new();
        while !missing.is_empty()
            && let Ok(Some(part)) = timeout_at(by, parts.recv()).await
        {
            let Some(at) = missing.iter().position(|node| *node == part.node) else { continue };
            missing.swap_remove(at);
            silent.extend(part.silent.into_iter().map(|shard| Silent { node: Arc::clone(&part.node), shard }));
            page.take(&part.node, part.connections, part.more);
        }
        let (items, more, next) = page.finish();
        Ok(Survey { items, more, next, missing, silent })
    }
}

/// A survey is over, however it ended.
struct Forget<'a>(&'a Connections, Arc<str>);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

#[derive(Debug, Serialize)]
struct Survey {
    items: Vec<Shown>,
    /// There are more than are shown.
    more: bool,
    /// Behind which client they are.
    next: Option<Arc<str>>,
    /// Nodes that did not answer in time.
    missing: Vec<Arc<str>>,
    /// Shards that did not answer their node in time: their connections are not shown.
    silent: Vec<Silent>,
}

#[derive(Debug, Serialize)]
struct Silent {
    node: Arc<str>,
    shard: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    user: Option<String>,
    client: Option<String>,
    /// Where the last page ended.
    after: Option<String>,
    limit: Option<u32>,
}

/// The resource.
pub fn router(connections: Connections) -> Router {
    Router::new()
        .route("/api/v1/connections", get(list))
        .route("/api/v1/connections/{client}", delete(end))
        .with_state(connections)
}

/// The client of this id. Addresses stand in logs: the secret of a session is none that would be understood there.
fn by_id(client: &str) -> Result<ClientName, Problem> {
    let detail = "a connection is named by the id of its client";
    ClientName::id(client).ok_or_else(|| Problem::bad_request("bad_request", detail))
}

async fn list(
    State(connections): State<Connections>,
    caller: Caller,
    Query(asked): Query<Asked>,
) -> Result<Json<Survey>, Problem> {
    caller.require("connections", "read", "*")?;
    let client = asked.client.as_deref().map(by_id).transpose()?;
    let whose = Whose { user: asked.user.map(Into::into), client, ..Whose::default() };
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_ANSWER as u32);
    let after = asked.after.map(Arc::<str>::from);
    if after.as_deref().is_some_and(|after| ClientId::parse(after).is_none()) {
        return Err(Problem::bad_request("bad_parameter", "after is the id of a client, as next of the page before"));
    }
    connections.ask(whose, after, limit).await.map(Json)
}

/// The client is told not to come back; whether it was there is not known, for it may be on any node.
async fn end(
    State(connections): State<Connections>,
    caller: Caller,
    Path(client): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.require("connections", "end", "*")?;
    let why = Disconnect::ForceDisconnect;
    let whose = Whose { client: Some(by_id(&client)?), ..Whose::default() };
    let order = Control::Disconnect { whose, code: why.code(), reason: why.reason().into() };
    let told = connections.bus.tell(None, order.encode()).await;
    told.map_err(|error| {
        Problem::unavailable("bus_unavailable", "the bus does not answer; try again soon").caused_by(error)
    })?;
    Ok(StatusCode::NO_CONTENT)
}
