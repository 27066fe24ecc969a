//! The bus's server for rooms beside it: scripts over the same connection, under the same prefix.

use std::sync::Arc;

use dzvin_actors::platform::ports::BusError;
use fred::types::{Key, Value};

use super::{NotConnected, RedisBus, RedisConfig, Script, Shared, failed};

/// A way to the server that outlives no connection: each call takes those that there are.
#[derive(Debug, Clone)]
pub(in crate::channels) struct Server(Arc<Shared>);

impl RedisBus {
    /// Another way to the same server.
    pub(in crate::channels) fn server(&self) -> Server {
        Server(Arc::clone(&self.shared))
    }
}

impl Server {
    /// As [`RedisBus::eval`].
    pub(in crate::channels) async fn eval(
        &self,
        doing: &'static str,
        script: &Script,
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

    /// Names the primaries: after a failover or restart of one of them it is another name, and what was written there last may
    /// be lost. Nothing while none has been seen.
    pub(in crate::channels) fn primary(&self, doing: &'static str) -> Result<Arc<str>, BusError> {
        let mut all: Vec<Arc<str>> = self.0.routes().shards.iter().map(|shard| shard.primary()).collect();
        all.retain(|primary| !primary.is_empty());
        all.sort_unstable();
        if all.is_empty() { Err(failed(doing)(NotConnected)) } else { Ok(all.join(".").into()) }
    }
}
