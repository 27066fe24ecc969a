//! Faults that are made on purpose, to see that the checker sees them.

use super::Publication;

/// Which publication of a client is tampered with: late enough to be in the middle of things.
pub(super) const PLANTED: u64 = 20;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plant {
    /// One publication is swallowed.
    Skip,
    /// One comes twice.
    Double,
    /// Two change places.
    Swap,
    /// From one on everything is swallowed: nothing that came later shows it.
    Tail,
    /// The client does not come back.
    Gone,
    /// A publication is sent to the server twice, as a proxy does that repeats a request.
    Repeat,
}

impl Plant {
    /// Which of the soak's clients is to have it, if one is: for the tail one without positions.
    pub(crate) fn victim(self) -> Option<usize> {
        match self {
            Self::Repeat => None,
            Self::Tail => Some(3),
            Self::Skip | Self::Double | Self::Swap | Self::Gone => Some(0),
        }
    }

    /// Whether this publication of the first channel is to be sent twice.
    pub(crate) fn repeats(self, number: u64) -> bool {
        self == Self::Repeat && number == PLANTED
    }
}

/// Hands publications on, with the fault in its place.
#[derive(Debug, Default)]
pub(crate) struct Tamper {
    plant: Option<Plant>,
    seen: u64,
    held: Option<Publication>,
}

impl Tamper {
    /// With this fault, if any.
    pub(crate) fn new(plant: Option<Plant>) -> Self {
        Self { plant, seen: 0, held: None }
    }

    /// Whether the client is to stay away once it has gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.plant == Some(Plant::Gone)
    }

    /// What is handed on in place of this one.
    pub(crate) fn pass(&mut self, publication: Publication) -> impl Iterator<Item = Publication> + use<> {
        self.seen += u64::from(self.plant.is_some());
        let (here, beyond) = (self.seen == PLANTED, self.seen >= PLANTED);
        let (first, second) = match self.plant {
            Some(Plant::Skip) if here => (None, None),
            Some(Plant::Tail) if beyond => (None, None),
            Some(Plant::Double) if here => (Some(publication), Some(publication)),
            Some(Plant::Swap) if here => {
                self.held = Some(publication);
                (None, None)
            }
            _ => (Some(publication), self.held.take()),
        };
        first.into_iter().chain(second)
    }
}
