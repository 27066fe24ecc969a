//! Where a subscription begins, and how that is told.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::{
    channels::{
        Channel, Epoch, Position, Publication,
        centrifuge::{Payload, Pub, SubscribeRequest, SubscribeResult},
        fossil,
    },
    entities::{Sight, lean},
};

use super::subscriptions::Going;
use crate::entities::gap::Cause;

/// What surrounds a publication in a reply, at most.
const ENVELOPE: usize = 128;

/// Where the stream stands, and what the client is given of its past.
pub(super) struct Start {
    pub(super) position: Position,
    pub(super) publications: Vec<Publication>,
    pub(super) recovered: bool,
    /// Why not, for the metric; empty where nothing was asked for, or all is there.
    pub(super) cause: &'static str,
}

impl Start {
    /// From now on.
    pub(super) const fn fresh(position: Position) -> Self {
        Self::lost(position, "")
    }

    /// From now on, and what the client has missed it has to load.
    pub(super) const fn lost(position: Position, cause: &'static str) -> Self {
        Self { position, publications: Vec::new(), recovered: false, cause }
    }

    /// With everything that the client has missed.
    pub(super) const fn recovered(position: Position, publications: Vec<Publication>) -> Self {
        Self { position, publications, recovered: true, cause: "" }
    }

    /// Bytes of its publications in a reply, roughly.
    pub(super) fn size(&self) -> usize {
        self.publications.iter().map(|it| it.size() + ENVELOPE).sum()
    }
}

/// A subscription that waits to go live.
pub(super) struct Prepared {
    pub(super) name: Arc<str>,
    pub(super) start: Start,
    pub(super) delta: bool,
    /// Stands for the channel's name; 0 for nothing.
    pub(super) number: u32,
    pub(super) ttl: Option<u32>,
    pub(super) recoverable: bool,
    pub(super) request: SubscribeRequest,
    data: Option<Bytes>,
    /// Offsets are revisions of one entity.
    by_revision: bool,
    /// It is one of the hub's own, of entities: what is recovered may be references.
    of_entities: bool,
    /// Not every offset is shown.
    pub(super) skips: bool,
    /// The stream's epoch as somebody is told it who does not see everything.
    told: Option<Epoch>,
    /// What each publication is as a patch of the one before, where that is shorter.
    patches: Vec<Option<Vec<u8>>>,
}

impl Prepared {
    pub(super) fn new(
        name: Arc<str>,
        channel: &Channel,
        request: SubscribeRequest,
        start: Start,
        data: Option<Bytes>,
    ) -> Self {
        Self {
            name,
            delta: false,
            number: 0,
            ttl: None,
            recoverable: true,
            request,
            data,
            by_revision: matches!(channel, Channel::Entity(..)),
            of_entities: !matches!(channel, Channel::Application(_)),
            skips: matches!(channel, Channel::Query(_)),
            told: None,
            patches: Vec::new(),
            start,
        }
    }

    /// It is for somebody who does not see everything.
    pub(super) fn seen_as(&mut self, sight: &Sight) {
        (self.skips, self.told) = (true, Some(sight.epoch(&self.start.position.epoch)));
    }

    /// What it missed does not fit: it is told so.
    pub(super) fn lose(&mut self) {
        self.start = Start::lost(self.start.position.clone(), Cause::Bytes.as_str());
        self.patches = Vec::new();
    }

    /// Makes patches of what is recovered: the first is whole, the others follow it.
    pub(super) fn with_patches(mut self) -> Self {
        if self.delta {
            let pairs = self.start.publications.windows(2);
            let patches = pairs.map(|pair| fossil::shorter(&pair[0].data, &pair[1].data));
            self.patches = std::iter::once(None).chain(patches).collect();
        }
        self
    }

    fn offset_of(&self, publication: &Publication) -> u64 {
        if self.by_revision { publication.revision } else { publication.offset }
    }

    /// What the client is told.
    pub(super) fn result(&self) -> SubscribeResult<'_> {
        let Self { start, request, .. } = self;
        // A recovered client walks forward from its own offset by the publications. Where nothing that it missed concerns it,
        // it stands where the stream does, and next time it has less to look through.
        let passed = self.skips && start.publications.is_empty();
        let offset = if start.recovered && !passed { request.offset } else { start.position.offset };
        let publications = start.publications.iter().enumerate().map(|(n, it)| {
            let whole = Pub::new(it, self.offset_of(it));
            match (self.delta, self.patches.get(n)) {
                (false, _) => whole,
                (true, Some(Some(patch))) => Pub { data: Payload::Patch(patch), ..whole },
                (true, _) => Pub { data: Payload::Full(&it.data), ..whole },
            }
        });
        SubscribeResult {
            expires: self.ttl.is_some(),
            ttl: self.ttl.unwrap_or_default(),
            recoverable: self.recoverable,
            positioned: true,
            epoch: self.told.as_ref().unwrap_or(&start.position.epoch).as_str(),
            offset,
            publications: publications.collect(),
            recovered: start.recovered,
            was_recovering: request.recover,
            data: self.data.as_deref().unwrap_or_default(),
            delta: self.delta,
            id: self.number.into(),
        }
    }

    /// Whether the client has of a publication what all have, so that the next may be a patch of it. What somebody has recovered who does not
    /// see everything need not be what others of the same mask were shown; and what was brought as a reference is no document.
    fn is_shared(&self, publication: &Publication) -> bool {
        self.told.is_none() && !(self.of_entities && self.delta && lean(publication).data == publication.data)
    }

    /// From where it goes live.
    pub(super) fn going(&self) -> Going {
        Going {
            channel: Arc::clone(&self.name),
            epoch: self.start.position.epoch.clone(),
            from: self.start.position.offset,
            seen: self.start.publications.last().filter(|it| self.is_shared(it)).map_or(0, |it| self.offset_of(it)),
            online: None,
        }
    }
}
