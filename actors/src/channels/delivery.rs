//! What `topics` hands to a shard: news of one channel, whose frames are built once for all subscribers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dzvin_protocols::channels::{
    Channel, Epoch, Publication, Word,
    centrifuge::{About, Payload, Pub},
    fossil, pusher,
};
use dzvin_protocols::entities::{Shown, Undeclared};

use super::{
    viewer::{Parts, Viewer},
    wire::{Data, Shape, Wire},
};

/// What surrounds the data of a publication in its frame, roughly.
const ENVELOPE_BYTES: usize = 128;

/// News of one channel, shared by every shard that has subscribers.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The channel.
    pub channel: Arc<str>,
    /// What stands for its name in frames of those who agreed on it.
    pub number: u32,
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
            What::Word(spoken) => spoken.size,
            What::Passing(item) => item.size(),
            What::Top(_) | What::Passed { .. } | What::Reset => 0,
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
    /// Whoever has everything up to `after` has everything up to `to`: what lies between does not concern the channel.
    Passed {
        /// The last offset that was shown, or passed before.
        after: u64,
        /// Where the stream stands.
        to: u64,
    },
    /// The past is lost: every subscriber must recover.
    Reset,
    /// Something that has no offset.
    Word(Arc<Spoken>),
    /// A publication that has none.
    Passing(Arc<Item>),
}

/// One publication with its frames: the first that needs one builds it, for whoever comes after.
#[derive(Debug, Clone)]
pub struct Item {
    /// The offset on this channel.
    pub offset: u64,
    /// How many offsets right before it this channel does not show.
    pub skips: u64,
    /// Of changes before it some are told later: clients are not told its offset, so that whoever is cut off here comes back to before
    /// them.
    pub open: bool,
    /// What was published.
    pub publication: Publication,
    /// The offset and data of the publication that this channel showed before: what a patch is made of.
    base: Option<(u64, Bytes)>,
    /// The client that does not get it.
    except: Option<u128>,
    frames: [OnceLock<Box<[OnceLock<Bytes>; Shape::COUNT]>>; Wire::PLACES],
    /// The same for those who do not see everything: there only when somebody of them listens.
    parts: OnceLock<Box<Parts>>,
}

impl Item {
    /// A publication under its offset on the channel.
    #[must_use]
    pub fn new(offset: u64, publication: Publication) -> Self {
        let except = publication.extra.as_ref().and_then(|extra| extra.except.as_deref()).and_then(socket);
        let frames = std::array::from_fn(|_| OnceLock::new());
        Self { offset, skips: 0, open: false, publication, base: None, except, frames, parts: OnceLock::new() }
    }

    /// The same, for subscribers that take patches and have seen the base.
    #[must_use]
    pub fn after(self, base: Option<(u64, Bytes)>) -> Self {
        Self { base, ..self }
    }

    /// The same, after so many offsets that the channel does not show.
    #[must_use]
    pub fn skipping(self, skips: u64) -> Self {
        Self { skips, ..self }
    }

    /// The same, `open` or not.
    #[must_use]
    pub fn opened(self, open: bool) -> Self {
        Self { open, ..self }
    }

    /// Whether this client does not get it.
    pub(super) fn spares(&self, client: u128) -> bool {
        self.except == Some(client)
    }

    /// What patches are made of.
    pub(super) const fn base(&self) -> Option<&(u64, Bytes)> {
        self.base.as_ref()
    }

    /// Whether a subscriber that was shown this offset last may get a patch.
    pub(super) fn follows(&self, seen: u64) -> bool {
        self.base.as_ref().is_some_and(|(offset, _)| *offset == seen)
    }

    /// What a viewer is shown of it, and in which form; `None`: nothing.
    ///
    /// # Errors
    /// It does not say enough to tell.
    pub(super) fn seen_by(&self, viewer: &Viewer) -> Result<Option<(&Self, Shown)>, Undeclared> {
        self.parts.get_or_init(Box::default).of(self, viewer)
    }

    /// What is written.
    pub(super) fn frame(&self, of: &Delivery, wire: Wire, shape: Shape) -> &Bytes {
        let shapes = self.frames[wire.place()].get_or_init(Box::default);
        shapes[shape.index()].get_or_init(|| self.build(of, wire, shape))
    }

    fn build(&self, of: &Delivery, wire: Wire, shape: Shape) -> Bytes {
        if wire == Wire::Pusher {
            let name = shape.alias().name(&of.channel);
            let application = matches!(Channel::of_hub(&of.channel), Ok(Channel::Application(_) | Channel::User(_)));
            let encode = if application { pusher::encode_publication } else { pusher::encode_change };
            return wire.frame(&encode(&name, &self.publication));
        }
        let about = if shape.numbered() { About::Number(of.number.into()) } else { About::Channel(&of.channel) };
        let whole = Pub::new(&self.publication, if self.open { 0 } else { self.offset });
        let full = Payload::Full(&self.publication.data);
        match shape.data() {
            Data::Raw => wire.push(about, &whole),
            Data::Full => wire.push(about, &Pub { data: full, ..whole }),
            Data::Patch => {
                let base = self.base.as_ref().map(|(_, data)| data);
                let patch = base.and_then(|base| fossil::shorter(base, &self.publication.data));
                wire.push(about, &Pub { data: patch.as_deref().map_or(full, Payload::Patch), ..whole })
            }
        }
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
        let shapes = item.frames[Wire::CentrifugeJson.place()].get_or_init(Box::default);
        shapes[Shape::centrifuge(false, Data::Raw).index()].set(frame).expect("new");
        item
    }
}

/// A word with its frames.
#[derive(Debug)]
pub struct Spoken {
    /// What was said.
    pub word: Word,
    except: Option<u128>,
    size: usize,
    frames: [OnceLock<Option<Bytes>>; Wire::PLACES],
}

impl Spoken {
    /// A word of so many bytes.
    #[must_use]
    pub fn new(word: Word, size: usize) -> Self {
        let except = match &word {
            Word::Event { except, .. } => except.as_deref().and_then(socket),
            // Nobody of that protocol is told of itself.
            Word::Join { info, .. } | Word::Leave { info, .. } => socket(&info.client),
            _ => None,
        };
        Self { word, except, size: size + ENVELOPE_BYTES, frames: std::array::from_fn(|_| OnceLock::new()) }
    }

    /// What is written to this client, if its protocol has such a word and it was not the one who said it.
    pub(super) fn frame(&self, channel: &str, wire: Wire, client: u128) -> Option<&Bytes> {
        if self.except == Some(client) {
            return None;
        }
        self.frames[wire.place()].get_or_init(|| wire.word(channel, &self.word)).as_ref()
    }

    /// Whether only those hear it who asked for joins and leaves.
    pub(super) fn is_about_members(&self) -> bool {
        matches!(self.word, Word::Join { .. } | Word::Leave { .. } | Word::Anew { .. })
    }

    /// Whether this client, whose session is so old (in milliseconds), is to begin anew by it.
    pub(super) fn begins_anew(&self, client: u128, age: impl FnOnce() -> u64) -> bool {
        let Word::Anew { turn, turns, ago } = &self.word else { return false };
        // Nodes count alike, whatever a later version says; of no turns none is anybody's.
        client.checked_rem(u128::from(*turns)) == Some(u128::from(*turn)) && age() >= *ago
    }
}

/// The client behind a socket id of the Pusher protocol.
pub(super) fn socket(id: &str) -> Option<u128> {
    let (first, second) = id.split_once('.')?;
    let (first, second) = (first.parse::<u64>().ok()?, second.parse::<u64>().ok()?);
    Some(u128::from(first) << 64 | u128::from(second))
}
