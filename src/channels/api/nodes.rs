//! `info`: the nodes of the cluster, each with what it has to do.
//!
//! Each node asks all others over the bus and waits a moment for those that are alive. What does not answer in time is named as
//! missing: an answer is never made up.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dzvin_actors::{
    channels::{Metrics, ShardMessage, Shards},
    platform::ports::Bus,
};
use dzvin_protocols::channels::{Control, NodeInfo, centrifuge::ErrorCode};
use futures_util::future::join_all;
use tokio::{sync::mpsc, time::timeout_at};

use super::{
    Refusal, json,
    methods::{Call, away},
};
use crate::channels::bus::AnyBus;

/// How long other nodes may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a shard may take: what the others have said is still in time then.
const SHARD_PATIENCE: Duration = Duration::from_secs(1);
/// Questions of this node that are under way: each is one to every node.
const MAX_QUESTIONS: usize = 16;
/// Where the kernel says what the machine is called.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Asks all nodes what they have to do, and answers when another asks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    bus: Arc<AnyBus>,
    shards: Shards,
    metrics: Metrics,
    name: Arc<str>,
    version: &'static str,
    began: Instant,
    waiting: Arc<Mutex<HashMap<Arc<str>, mpsc::Sender<NodeInfo>>>>,
}

impl Nodes {
    /// This node, which serves at `port`, among those on the bus.
    #[must_use]
    pub fn new(bus: Arc<AnyBus>, shards: Shards, metrics: Metrics, version: &'static str, port: u16) -> Self {
        let host = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
        let host = Some(host.trim()).filter(|host| !host.is_empty()).unwrap_or("localhost");
        let name = format!("{host}_{port}").into();
        Self { bus, shards, metrics, name, version, began: Instant::now(), waiting: Arc::default() }
    }

    /// Another node has answered, or this one.
    pub(in crate::channels) fn answered(&self, id: &str, node: NodeInfo) {
        let asker = self.waiting().get(id).cloned();
        if let Some(asker) = asker {
            let _ = asker.try_send(node);
        }
    }

    /// Answers what another node asks, or this one.
    pub(in crate::channels) async fn answer(&self, id: Arc<str>, to: &str) {
        let letter = Control::Counted { id, node: self.describe().await };
        if let Err(error) = self.bus.tell(Some(to), letter.encode()).await {
            tracing::debug!(%error, "a question of another node was not answered");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Arc<str>, mpsc::Sender<NodeInfo>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn describe(&self) -> NodeInfo {
        let asking = (0..self.shards.count()).filter_map(|index| self.shards.get(index));
        let asking = asking.map(|shard| shard.slot.call(ShardMessage::Count, SHARD_PATIENCE));
        let (mut users, mut channels) = (HashSet::new(), HashSet::new());
        // A shard between two lives has no sessions; of one that is stuck the numbers below still know.
        for (of_shard, on_shard) in join_all(asking).await.into_iter().flatten() {
            users.extend(of_shard);
            channels.extend(on_shard);
        }
        let gauge = |value: i64| u64::try_from(value).unwrap_or(0);
        NodeInfo {
            uid: self.bus.node().into(),
            name: Arc::clone(&self.name),
            version: self.version.into(),
            num_clients: gauge(self.metrics.sessions.get()),
            num_users: users.len() as u64,
            num_subs: gauge(self.metrics.subscriptions.get()),
            num_channels: channels.len() as u64,
            uptime: self.began.elapsed().as_secs(),
        }
    }

    /// Those who answered, and the uids of those who did not.
    async fn ask(&self) -> Result<(Vec<NodeInfo>, Vec<Arc<str>>), Refusal> {
        let mut missing = self.bus.nodes().await.map_err(away)?;
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let (sender, mut answers) = mpsc::channel(missing.len().max(1));
        {
            let mut waiting = self.waiting();
            if waiting.len() >= MAX_QUESTIONS {
                return Err(ErrorCode::TooManyRequests.into());
            }
            waiting.insert(Arc::clone(&id), sender);
        }
        let _asked = Forget(self, Arc::clone(&id));
        let letter = Control::Count { id, from: self.bus.node().into() };
        self.bus.tell(None, letter.encode()).await.map_err(away)?;
        let by = tokio::time::Instant::now() + PATIENCE;
        let mut nodes = Vec::new();
        while !missing.is_empty()
            && let Ok(Some(node)) = timeout_at(by, answers.recv()).await
        {
            missing.retain(|uid| *uid != node.uid);
            nodes.push(node);
        }
        nodes.sort_unstable_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
        Ok((nodes, missing))
    }
}

/// A question is over, however it ended.
struct Forget<'a>(&'a Nodes, Arc<str>);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl Call<'_> {
    /// The nodes of the cluster. Each call is a question to all of them, so not everybody may ask.
    pub(super) async fn info(&self) -> Result<String, Refusal> {
        if !self.caller.permissions.allow("connections", "read", "*") {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let (nodes, missing) = self.api.nodes.ask().await?;
        Ok(format!("{{\"nodes\":{},\"missing\":{}}}", json(&nodes), json(&missing)))
    }
}
