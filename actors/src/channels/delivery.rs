//! What `topics` hands to a shard: frames that are already encoded, for one channel.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::channels::Epoch;

/// News of one channel, shared by every shard that has subscribers.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The channel.
    pub channel: Arc<str>,
    /// Its epoch.
    pub epoch: Epoch,
    /// The news.
    pub what: What,
}

impl Delivery {
    /// Whether it is one frame and nothing else.
    #[must_use]
    pub fn is_single(&self) -> bool {
        matches!(&self.what, What::Items(items) if items.len() == 1)
    }
}

/// The news of a delivery.
#[derive(Debug, Clone)]
pub enum What {
    /// Frames in the order of their offsets.
    Items(Arc<[Item]>),
    /// Everything up to this offset has been delivered: whoever expects it still has missed something.
    Top(u64),
    /// The past is lost: every subscriber must recover.
    Reset,
}

/// One frame, encoded once for all subscribers of the channel.
#[derive(Debug, Clone)]
pub struct Item {
    /// The offset on this channel.
    pub offset: u64,
    /// When it was committed, in microseconds since 1970.
    pub at: i64,
    /// A whole WebSocket frame.
    pub frame: Bytes,
}
