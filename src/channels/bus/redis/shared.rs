//! What the bus and the tasks that keep its connections share.

use std::{
    collections::HashSet,
    hash::RandomState,
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use dzvin_actors::platform::ports::BusError;
use dzvin_protocols::platform::StreamName;
use fred::types::{Key, Value};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    super::{
        BusMetrics,
        keys::Keys,
        new_node,
        paces::{Paces, Person},
    },
    RedisConfig,
    config::Deployment,
    held,
    link::Link,
    route::Command,
    script::Script,
    shard::{Routes, Shard},
};

/// Words that wait at once until their slot has settled: 64 MB at most, and far more than come for a few slots in seconds.
const MAX_WAITING: usize = 1_024;

/// What the bus shares with the tasks that keep its connections.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RedisConfig,
    pub(super) metrics: BusMetrics,
    /// Who has what.
    pub(super) routes: Mutex<Arc<Routes>>,
    /// Grows with every connection made or lost and every new shape.
    pub(super) changes: watch::Sender<u64>,
    /// Asks for another look at the shape of the cluster.
    pub(super) refresh: Notify,
    /// Looks so far.
    pub(super) looks: watch::Sender<u64>,
    /// What this node wants to be told of, whether or not there is a connection.
    pub(super) subscribed: Mutex<HashSet<StreamName>>,
    /// Channels whose subscription has to follow their slot.
    pub(super) unheard: Mutex<HashSet<String>>,
    /// The name of this node.
    pub(super) node: Arc<str>,
    /// Publishers' keys that this node has put there, or may have.
    pub(super) keys: Mutex<Keys<u64, ()>>,
    /// Names them.
    pub(super) hasher: RandomState,
    /// Channels whose pace this node counts by itself.
    pub(super) paces: Paces<StreamName>,
    /// Users, of whom it counts what they do here.
    pub(super) user_paces: Paces<Person>,
    /// Room for words that wait for a slot to settle.
    pub(super) waiting: Semaphore,
}

impl Shared {
    pub(super) fn new(config: RedisConfig) -> Self {
        let metrics = BusMetrics::default();
        Self {
            routes: Mutex::default(),
            changes: watch::Sender::new(0),
            refresh: Notify::new(),
            looks: watch::Sender::new(0),
            subscribed: Mutex::default(),
            unheard: Mutex::default(),
            node: new_node(),
            keys: Mutex::new(Keys::new(config.max_keys, metrics.keys.clone())),
            hasher: RandomState::new(),
            paces: Paces::new(metrics.paced.clone()),
            user_paces: Paces::new(metrics.paced_users.clone()),
            waiting: Semaphore::new(MAX_WAITING),
            config,
            metrics,
        }
    }

    /// Runs a script that says nothing, wherever its first key is.
    pub(super) async fn eval(
        &self,
        doing: &'static str,
        script: &Script,
        keys: Vec<Key>,
        args: Vec<Value>,
    ) -> Result<Value, BusError> {
        let first = keys.first().map(|key| key.as_str_lossy().into_owned()).unwrap_or_default();
        let answer = self.run(doing, &first, false, |_| Command::Script(script, keys.clone(), args.clone())).await?;
        Ok(answer.value)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.config.deployment, Deployment::Cluster(_))
    }

    pub(super) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&held(&self.routes))
    }

    /// Answers what was before.
    pub(super) fn set_routes(&self, routes: Routes) -> Arc<Routes> {
        let before = mem::replace(&mut *held(&self.routes), Arc::new(routes));
        self.changed();
        before
    }

    pub(super) fn set_link(&self, shard: &Shard, link: Option<Arc<Link>>) {
        shard.set_link(link);
        self.changed();
    }

    pub(super) fn changed(&self) {
        let routes = self.routes();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.servers.set(count(routes.shards.len()));
        self.metrics.connected.set(count(routes.shards.iter().filter(|shard| shard.is_linked()).count()));
        self.changes.send_modify(|n| *n += 1);
    }

    /// Whether it has what is about nodes.
    pub(super) fn is_home(&self, shard: &Arc<Shard>) -> bool {
        self.routes().has(shard, &self.config.nodes_tag())
    }

    /// Every channel that this node listens to on this server.
    pub(super) fn wanted_of(&self, shard: &Arc<Shard>) -> Vec<String> {
        let (routes, mut channels) = (self.routes(), self.wanted());
        channels.retain(|channel| routes.has(shard, channel));
        channels
    }

    /// Every channel that this node listens to.
    pub(super) fn wanted(&self) -> Vec<String> {
        let mut channels: Vec<_> = self.subscribed().iter().map(|stream| self.config.channel(stream)).collect();
        channels.extend([self.config.node_channel(Some(&self.node)), self.config.node_channel(None)]);
        channels
    }

    /// Channels that are to be subscribed where they are now.
    pub(super) fn unheard(&self, channels: Vec<String>) {
        held(&self.unheard).extend(channels);
    }

    /// Those of them that are still wanted.
    pub(super) fn take_unheard(&self) -> Vec<String> {
        let mut unheard = mem::take(&mut *held(&self.unheard));
        unheard.retain(|channel| self.config.stream(channel).is_none_or(|stream| self.subscribed().contains(&stream)));
        unheard.into_iter().collect()
    }

    pub(super) fn subscribed(&self) -> MutexGuard<'_, HashSet<StreamName>> {
        held(&self.subscribed)
    }

    pub(super) fn change_subscribed(&self, change: impl FnOnce(&mut HashSet<StreamName>) -> bool) {
        let mut all = self.subscribed();
        change(&mut all);
        self.metrics.subscriptions.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
    }
}
