//! Which nodes are alive: a sorted set of node and the moment until which it lives, by the server's clock.
//!
//! A node says that it lives when it has connected and then several times in a lease, over the connection that its events
//! come by: one that cannot be told anything does not count as alive for long. The dead stay in the set for a while (with
//! a moment that has passed), for what they left behind is to be found and removed.

use std::time::Duration;

use dzvin_actors::platform::ports::BusError;
use fred::{error::Error, types::Value};

use super::{RedisConfig, Shared, link::Link, script::Script, wire};

/// Most nodes that are told of: more than one Redis could serve.
pub(super) const MAX_NODES: u64 = 1_000;
/// How long a dead node is remembered: longer than the lost connection of all others, so that one of them comes to bury it.
pub(in crate::channels) const REMEMBERED: Duration = Duration::from_secs(15 * 60);

static RENEW: Script = Script::new(include_str!("../lua/alive.lua"));
pub(super) static ALIVE: Script = Script::new(include_str!("../lua/nodes.lua"));
pub(super) static TELL: Script = Script::new(include_str!("../lua/tell.lua"));

/// The set of nodes: member is a node's name, score the moment until which it is alive, in milliseconds.
pub(in crate::channels) fn key(config: &RedisConfig) -> String {
    format!("{}:alive", config.nodes_tag())
}

/// How often a lease is prolonged: 3 seconds of 10.
pub(super) fn renewal(lease: Duration) -> Duration {
    lease * 3 / 10
}

/// Over a connection that nobody else sees yet.
pub(super) async fn renew_at(shared: &Shared, link: &Link) -> Result<(), Error> {
    link.eval(&RENEW, vec![key(&shared.config).into()], args(shared)).await.map(drop)
}

/// Wherever the set is.
pub(super) async fn renew(shared: &Shared) -> Result<(), BusError> {
    shared.eval("renew", &RENEW, vec![key(&shared.config).into()], args(shared)).await.map(drop)
}

fn args(shared: &Shared) -> Vec<Value> {
    vec![shared.node.as_ref().into(), wire::millis(shared.config.lease), wire::millis(REMEMBERED)]
}
