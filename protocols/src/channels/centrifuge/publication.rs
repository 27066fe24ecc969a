//! A publication as this protocol writes it.

use super::{
    fields::{Field, Object, Sink, field},
    info::{ClientInfo, Tags},
    pushes::Event,
};
use crate::channels::Publication;

/// The data of a publication, by what the subscription has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Whole, on a subscription without deltas: a JSON value stands in JSON as it is.
    Raw(&'a [u8]),
    /// Whole, on a subscription with deltas: in JSON its text is a string. In Protobuf the same as `Raw`.
    Full(&'a [u8]),
    /// The [`fossil`](crate::channels::fossil) delta from the publication before, as this subscriber saw it. In JSON it is a
    /// string, so it must be UTF-8: it is, between two texts.
    Patch(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// The bytes, whichever they are.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Raw(data) | Self::Full(data) | Self::Patch(data) => data,
        }
    }
}

/// A publication, under the offset of the channel on which it goes out.
#[derive(Debug, Clone, Copy)]
pub struct Pub<'a> {
    /// What was published.
    pub data: Payload<'a>,
    /// Its place in the channel's stream; 0 when the channel keeps none.
    pub offset: u64,
    /// Who published it, when that was a client.
    pub info: Option<&'a ClientInfo>,
    /// What subscribers filter by.
    pub tags: Option<&'a Tags>,
    /// W3C `traceparent`, sent as a tag of this name beside the others.
    pub trace: Option<&'a str>,
    /// When it was published, in milliseconds since 1970; 0 is not said.
    pub time: u64,
}

impl<'a> Pub<'a> {
    /// `offset` is the stream's on the kind's channel, the revision on the entity's.
    #[must_use]
    pub fn new(publication: &'a Publication, offset: u64) -> Self {
        let extra = publication.extra.as_deref();
        Self {
            offset,
            info: extra.and_then(|extra| extra.info.as_ref()),
            tags: extra.map(|extra| &extra.tags),
            trace: publication.trace.as_deref(),
            ..Self::of(Payload::Raw(&publication.data))
        }
    }

    /// Data and nothing else.
    #[must_use]
    pub const fn of(data: Payload<'a>) -> Self {
        Self { data, offset: 0, info: None, tags: None, trace: None, time: 0 }
    }
}

const TRACE: &str = "traceparent";

impl Object for Pub<'_> {
    fn fields(&self, to: &mut impl Sink) {
        to.payload(field(4, "data"), self.data);
        if let Some(info) = self.info {
            to.object(field(5, "info"), info);
        }
        to.number(field(6, "offset"), self.offset);
        let tags =
            self.tags.into_iter().flat_map(Tags::iter).filter(|(name, _)| self.trace.is_none() || *name != TRACE);
        to.texts(field(7, "tags"), tags.chain(self.trace.map(|trace| (TRACE, trace))));
        to.flag(field(8, "delta"), matches!(self.data, Payload::Patch(_)));
        to.number(field(9, "time"), self.time);
    }

    fn size(&self) -> usize {
        // A quoted text grows by its own quotes.
        let data = self.data.bytes().len();
        160 + if matches!(self.data, Payload::Raw(_)) { data } else { data + data / 4 }
    }
}

impl Event for Pub<'_> {
    const FIELD: Field = field(4, "pub");
}
