//! On what conditions something is published on an application's stream, and what became of it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_protocols::channels::{Message, Position};

use super::HistoryLimits;

/// What is to be published.
#[derive(Debug, Clone)]
pub enum Offer {
    /// A message that is appended at top + 1, and kept as its channel's rules say.
    Kept(Message, HistoryLimits),
    /// A word, encoded, to whoever listens now: it has no offset, and nothing keeps it.
    Passing(Bytes),
}

/// What must hold, beside the bus being there. All of it is decided in one step with the publication itself.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// It is published once.
    pub once: Option<Once>,
    /// It is newer than what the channel has; of what is kept alone.
    pub version: Option<Version>,
    /// The channel may have so much.
    pub pace: Option<ChannelPace>,
}

/// Whatever is offered under the same key on the same stream within the window is answered as the first was, and not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// Stands for the publisher's key.
    pub key: [u8; 16],
    /// How long it is remembered.
    pub window: Duration,
    /// Stands for the publisher, who may not have all the keys that there is room for.
    pub publisher: u64,
}

/// Which state of a thing is published. A number that is not above the last one of its epoch is old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Grows with every state.
    pub number: u64,
    /// Numbers of different epochs say nothing about each other; an empty one stands for the epoch of the last.
    pub epoch: Arc<str>,
}

/// How often something may be published on one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelPace {
    /// On average, and as many at once.
    pub per_second: u32,
    /// Who counts.
    pub across: Across,
}

/// How often one user may publish, whatever the channel, or call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPace {
    /// On average, and as many at once.
    pub per_second: u32,
    /// Who counts.
    pub across: Across,
}

/// Over how much is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Across {
    /// Each node by itself.
    #[default]
    Node,
    /// All nodes together.
    Cluster,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is with the bus, at this place: nothing that the bus survives loses it.
    At(Position),
    /// Whoever listens has been told.
    Told,
    /// It had been published before: this was the answer. `None`: it was told.
    Again(Option<Position>),
    /// It is older than what the channel has, which stands here.
    Older(Position),
    /// The channel has had too many, or too many keys are remembered. Worth another try after a while. Never of what was published
    /// before, while that is remembered.
    TooMany {
        /// How long at least.
        wait: Duration,
    },
}

impl Published {
    /// Where the stream stands, if something stands there.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        match self {
            Self::At(position) | Self::Older(position) => Some(position),
            Self::Again(position) => position.as_ref(),
            Self::Told | Self::TooMany { .. } => None,
        }
    }
}
