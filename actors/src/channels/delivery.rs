//! What `topics` hands to a shard: news of one channel, whose frames are built once for all subscribers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dzvin_protocols::channels::{Epoch, Publication};

use super::Wire;

/// What surrounds the data of a publication in its frame, roughly.
const ENVELOPE_BYTES: usize = 128;

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
    /// Bytes of its frames, roughly.
    pub(super) fn size(&self) -> usize {
        match &self.what {
            What::Items(items) => items.iter().map(Item::size).sum(),
            What::Top(_) | What::Reset => 0,
        }
    }

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

/// One publication with its frames: of each wire form the first that needs it builds it, for whoever comes after.
#[derive(Debug, Clone)]
pub struct Item {
    /// The offset on this channel.
    pub offset: u64,
    /// What was published.
    pub publication: Publication,
    frames: [OnceLock<Bytes>; Wire::COUNT],
}

impl Item {
    /// A publication under its offset on the channel.
    #[must_use]
    pub fn new(offset: u64, publication: Publication) -> Self {
        Self { offset, publication, frames: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// The whole WebSocket frame.
    pub(super) fn frame(&self, channel: &str, wire: Wire) -> &Bytes {
        self.frames[wire as usize].get_or_init(|| wire.publication(channel, &self.publication, self.offset))
    }

    /// How large its frames are, roughly: for limits.
    pub(super) fn size(&self) -> usize {
        self.publication.size() + ENVELOPE_BYTES
    }

    /// One with a frame of a test's own.
    #[cfg(test)]
    pub(super) fn framed(offset: u64, frame: Bytes) -> Self {
        let id = dzvin_protocols::platform::EntityId::new("x").expect("an id");
        let (at, data) = (0, frame.clone());
        let item = Self::new(offset, Publication { offset, id, revision: offset, at, data, trace: None, extra: None });
        item.frames[Wire::CentrifugeJson as usize].set(frame).expect("new");
        item
    }
}
