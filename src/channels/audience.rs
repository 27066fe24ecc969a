//! Those who listen to the hub's own channels, on all nodes, as other rooms reach them.

use std::{sync::Arc, time::Duration};

use dzvin_actors::{channels::Shards, platform::ports::Bus};
use dzvin_protocols::channels::{Channel, Control, Whose, centrifuge::Unsubscribe};
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::bus::AnyBus;
use crate::entities::queries::Listeners;

/// How long the bus may take: somebody waits for the answer of what has been done already.
const PATIENCE: Duration = Duration::from_secs(2);

/// The connections of all nodes.
pub struct Audience {
    bus: Arc<AnyBus>,
    shards: Shards,
}

impl Audience {
    /// Those of this node's shards and of all others on the bus.
    #[must_use]
    pub const fn new(bus: Arc<AnyBus>, shards: Shards) -> Self {
        Self { bus, shards }
    }
}

impl Listeners for Audience {
    /// While the bus is away only this node's hear of it: the others go on until their connections end.
    fn end<'a>(&'a self, user: &'a str, channel: &'a Channel) -> BoxFuture<'a, ()> {
        let whose = Whose { user: Some(user.into()), ..Whose::default() };
        // Nothing that the client could subscribe to again.
        let why = Unsubscribe::Server;
        let channel = Some(channel.to_string().into());
        let order = Control::Unsubscribe { whose, channel, code: why.code(), reason: why.reason().into() };
        Box::pin(async move {
            let error = match timeout(PATIENCE, self.bus.tell(None, order.encode())).await {
                // It comes back to this node as well.
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(late) => late.to_string(),
            };
            tracing::warn!(user, error, "other nodes could not be told that a subscription is over");
            self.shards.order(&Arc::new(order));
        })
    }
}
