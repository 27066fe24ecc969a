//! The bus's servers for rooms beside it: scripts over the same connections, under the same prefix.

use std::{collections::BTreeSet, sync::Arc};

use dzvin_actors::platform::ports::BusError;
use fred::types::{Key, Value};

use super::{RedisBus, RedisConfig, Script, Shared};

/// A way to the servers that outlives every connection: each call takes the one that there is.
#[derive(Debug, Clone)]
pub(in crate::channels) struct Server(Arc<Shared>);

impl RedisBus {
    /// Another way to the same servers.
    pub(in crate::channels) fn server(&self) -> Server {
        Server(Arc::clone(&self.shared))
    }
}

impl Server {
    /// Runs a script. All keys must begin with one tag, of [`RedisConfig::tag`] or [`RedisConfig::nodes_tag`]; a script that
    /// publishes does so to a channel with that tag.
    pub(in crate::channels) async fn eval(
        &self,
        doing: &'static str,
        script: &'static Script,
        keys: Vec<Key>,
        args: Vec<Value>,
    ) -> Result<Value, BusError> {
        self.0.eval(doing, script, keys, args).await
    }

    pub(in crate::channels) fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    pub(in crate::channels) fn node(&self) -> &str {
        &self.0.node
    }

    /// The names of the primaries, as they were last seen. One that is missing from one look to the next was restarted or has
    /// failed over, and what was written to it last may be lost.
    pub(in crate::channels) fn primaries(&self) -> BTreeSet<Arc<str>> {
        self.0.routes().shards.iter().map(|shard| shard.primary()).filter(|name| !name.is_empty()).collect()
    }
}
