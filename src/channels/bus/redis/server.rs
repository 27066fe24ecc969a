//! The bus's server for rooms beside it: scripts over the same connection, under the same prefix.

use std::sync::Arc;

use dzvin_actors::platform::ports::BusError;
use fred::types::{Key, Value};

use super::{NotConnected, RedisBus, RedisConfig, Script, Shared, failed, link::Link};

/// A way to the server that outlives no connection: each call takes the one that there is.
#[derive(Debug, Clone)]
pub(in crate::channels) struct Server(Arc<Shared>);

impl RedisBus {
    /// Another way to the same server.
    pub(in crate::channels) fn server(&self) -> Server {
        Server(Arc::clone(&self.shared))
    }
}

impl Server {
    fn link(&self, doing: &'static str) -> Result<Arc<Link>, BusError> {
        let link = self.0.link.borrow().clone();
        link.ok_or_else(|| failed(doing)(NotConnected))
    }

    /// As [`RedisBus::eval`].
    pub(in crate::channels) async fn eval(
        &self,
        doing: &'static str,
        script: &Script,
        keys: Vec<Key>,
        args: Vec<Value>,
    ) -> Result<Value, BusError> {
        self.link(doing)?.eval(script, keys, args).await.map_err(failed(doing))
    }

    pub(in crate::channels) fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    pub(in crate::channels) fn node(&self) -> &str {
        &self.0.node
    }

    /// Names the primary: after a failover or restart it is another, and what was written last may be lost.
    pub(in crate::channels) fn primary(&self, doing: &'static str) -> Result<Arc<str>, BusError> {
        Ok(self.link(doing)?.primary.as_str().into())
    }
}
