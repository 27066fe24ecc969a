//! The live rule of one subscription: what goes out, what waits, and when the subscriber has missed something.

use std::sync::Arc;

use bytes::Bytes;
use dzvin_protocols::channels::{
    Epoch, Publication, Word,
    centrifuge::{TagFilter, Tags},
    pusher::is_online,
};
use dzvin_protocols::entities::Shown;

use crate::{
    channels::{
        Delivery, Item, What, Wire,
        outbox::Outbox,
        viewer::Viewer,
        wire::{Alias, Data, Shape},
    },
    platform::ports::TokenMark,
};

use super::{now, traced::Notes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Slow,
    Insufficient,
}

/// What client and server have agreed on for one subscription.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Publications come as patches.
    pub(super) delta: bool,
    /// The client takes a number for the channel's name.
    pub(super) numbered: bool,
    /// The number that it was told; 0 for none. Should the channel get another, its name is used.
    pub(super) number: u32,
    /// Joins and leaves are told.
    pub(super) join_leave: bool,
    /// The server made it: the client does not subscribe again by itself.
    pub(super) of_server: bool,
    /// The channel's name on the Pusher wire.
    pub(super) alias: Alias,
    /// As which user the subscriber is a member here by the Pusher protocol, whose clients count themselves in.
    pub(super) own: Option<Arc<str>>,
    /// Only publications with such tags.
    pub(super) filter: Option<Box<TagFilter>>,
    /// It is one of a watchlist: nobody but the hub knows of it.
    pub(super) watching: bool,
    /// What the subscriber sees of the kind; `None`: everything.
    pub(super) viewer: Option<Box<Viewer>>,
    /// A token opened it: the permissions of the user do not end it.
    pub(super) granted: bool,
    /// The token that did is the connection's own: the next one has to name the channel again.
    pub(super) claimed: bool,
    /// When it ends, in milliseconds of the session's clock.
    pub(super) expires_at: Option<u64>,
    /// What others may see of this subscriber here: one JSON value, in one line. Boxed: most subscriptions have none.
    pub(super) info: Option<Box<Bytes>>,
    /// By what the token that opened it may be revoked. Boxed: most subscriptions have none.
    pub(super) mark: Option<Box<TokenMark>>,
}

impl Terms {
    /// Whether the subscriber wants it.
    pub(super) fn admits(&self, publication: &Publication) -> bool {
        let Some(filter) = &self.filter else { return true };
        let tags: Option<&Tags> = publication.extra.as_deref().map(|extra| &extra.tags);
        filter.matches(|name| tags.and_then(|tags| tags.get(name)))
    }

    /// Whether a word says that the subscriber's own user has come or gone. It is there for as long as the subscription: the word is of
    /// a connection before this one, told late.
    fn is_of_itself(&self, word: &Word) -> bool {
        match word {
            Word::Join { info, .. } | Word::Leave { info, .. } => self.own.as_ref() == Some(&info.user),
            _ => false,
        }
    }

    fn shape(&self, of: &Delivery, item: &Item, seen: u64, wire: Wire) -> Shape {
        if wire == Wire::Pusher {
            return Shape::pusher(self.alias);
        }
        let data = match self.delta {
            false => Data::Raw,
            true if item.follows(seen) => Data::Patch,
            true => Data::Full,
        };
        Shape::centrifuge(self.number != 0 && self.number == of.number, data)
    }
}

/// Where a live subscription stands.
#[derive(Debug)]
pub(super) struct Place {
    /// The epoch of its stream.
    pub(super) epoch: Epoch,
    /// Everything below has been delivered, or does not concern this subscriber.
    pub(super) next: u64,
    /// The publication that was shown last; 0 for none: what a patch is made of.
    pub(super) seen: u64,
    /// Of a watchlist: whether the subscriber was last told that the user is online.
    pub(super) online: Option<bool>,
}

/// A recovering subscription keeps at most a queue's worth. Of what is beyond only the top is kept: whoever has not read
/// the past up to there is told when it settles, though nothing may follow.
pub(super) fn buffer(live: &mut Vec<Delivery>, bytes: &mut usize, delivery: &Delivery, limit: usize) {
    if live.last().is_some_and(|last| matches!(last.what, What::Reset)) {
        // The subscriber will be told, whatever comes behind; a stream may be reset any number of times meanwhile.
        return;
    }
    let top = match &delivery.what {
        What::Items(items) => {
            let size = delivery.size();
            if *bytes + size <= limit {
                *bytes += size;
                return live.push(delivery.clone());
            }
            items.iter().map(|item| item.offset).max().unwrap_or(0)
        }
        // What has no offset is not promised.
        What::Word(_) | What::Passing(_) if *bytes + delivery.size() > limit => return,
        What::Word(_) | What::Passing(_) => {
            *bytes += delivery.size();
            return live.push(delivery.clone());
        }
        What::Top(top) => *top,
        What::Passed { after, to } => {
            // One after the other they are one: a slow recovery keeps no list of them.
            if let Some(Delivery { what: What::Passed { to: known, .. }, epoch, .. }) = live.last_mut()
                && *epoch == delivery.epoch
                && *known == *after
            {
                *known = *to;
                return;
            }
            return live.push(delivery.clone());
        }
        What::Reset => return live.push(delivery.clone()),
    };
    match live.last_mut() {
        Some(Delivery { what: What::Top(known), epoch, .. }) if *epoch == delivery.epoch => *known = top.max(*known),
        _ => live.push(Delivery { what: What::Top(top), ..delivery.clone() }),
    }
}

/// Who is shown something, and how much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) wire: Wire,
    pub(super) limit: usize,
    pub(super) client: u128,
    /// When its session began, in milliseconds of the clock.
    pub(super) began: u64,
    pub(super) terms: &'a Terms,
    /// Where it is noted what was shown, if anybody wants to know.
    pub(super) notes: Option<&'a Notes>,
}

impl View<'_> {
    /// A publication was shown.
    pub(super) fn note(&self, offset: u64, frame: &Bytes) {
        if let Some(notes) = self.notes {
            notes.take_down(offset, frame.len());
        }
    }
}

/// A subscriber has missed something.
pub(super) struct Insufficient;

/// The live rule for one publication: its frame, when it is the expected one and concerns this subscriber.
fn show<'a>(
    place: &mut Place,
    delivery: &Delivery,
    item: &'a Item,
    view: View<'_>,
) -> Result<Option<&'a Bytes>, Insufficient> {
    if item.offset < place.next {
        return Ok(None);
    }
    if item.offset - item.skips.min(item.offset) > place.next {
        return Err(Insufficient);
    }
    place.next = item.offset + 1;
    if item.spares(view.client) || !view.terms.admits(&item.publication) {
        return Ok(None);
    }
    if let Some(viewer) = &view.terms.viewer {
        return show_part(place, delivery, item, viewer, view);
    }
    let frame = item.frame(delivery, view.wire, view.terms.shape(delivery, item, place.seen, view.wire));
    place.seen = item.offset;
    Ok(Some(frame))
}

/// The same for somebody who does not see everything.
#[cold]
fn show_part<'a>(
    place: &mut Place,
    delivery: &Delivery,
    item: &'a Item,
    viewer: &Viewer,
    view: View<'_>,
) -> Result<Option<&'a Bytes>, Insufficient> {
    let Some((part, shown)) = item.seen_by(viewer).map_err(|_| Insufficient)? else { return Ok(None) };
    let frame = part.frame(delivery, view.wire, view.terms.shape(delivery, part, place.seen, view.wire));
    // What comes next is a patch only of what everybody of the same mask was shown.
    place.seen = if shown == Shown::Whole { item.offset } else { 0 };
    Ok(Some(frame))
}

/// The live rule for a delivery of one frame: the frame, when it is the expected one. It is written at once.
pub(super) fn only<'a>(
    place: &mut Place,
    delivery: &'a Delivery,
    view: View<'_>,
) -> Result<Option<&'a Bytes>, Insufficient> {
    let What::Items(items) = &delivery.what else { return Err(Insufficient) };
    let [item] = &**items else { return Err(Insufficient) };
    if place.epoch != delivery.epoch {
        return Err(Insufficient);
    }
    let frame = show(place, delivery, item, view)?;
    if let Some(frame) = frame {
        view.note(item.offset, frame);
    }
    Ok(frame)
}

/// The live rule: at the expected offset deliver, below it drop, above it or in another epoch the subscriber must recover.
/// Answers how many frames were queued.
pub(super) fn follow(place: &mut Place, delivery: &Delivery, outbox: &mut Outbox, view: View<'_>) -> Result<u64, Stop> {
    if view.terms.watching {
        // Nothing else is said there: whoever has missed a word is told again.
        let What::Word(spoken) = &delivery.what else { return Ok(0) };
        // Told once, however often it is said.
        let now = is_online(&spoken.word);
        if now.is_none() || now == place.online {
            return Ok(0);
        }
        let Some(frame) = spoken.frame(&delivery.channel, view.wire, view.client) else { return Ok(0) };
        outbox.push(frame.clone(), view.limit).map_err(|_| Stop::Slow)?;
        place.online = now;
        return Ok(1);
    }
    if let What::Word(spoken) = &delivery.what {
        let told = view.terms.join_leave && !view.terms.is_of_itself(&spoken.word);
        let heard = told || !spoken.is_about_members();
        if heard && spoken.begins_anew(view.client, || now().saturating_sub(view.began)) {
            return Err(Stop::Insufficient);
        }
        let frame = if heard { spoken.frame(&delivery.channel, view.wire, view.client) } else { None };
        return frame.map_or(Ok(0), |frame| outbox.push(frame.clone(), view.limit).map(|()| 1).map_err(|_| Stop::Slow));
    }
    if let What::Passing(item) = &delivery.what {
        if item.spares(view.client) || !view.terms.admits(&item.publication) {
            return Ok(0);
        }
        // The client takes the next patch from this one, of which nobody makes one: what follows comes whole.
        place.seen = 0;
        let frame = item.frame(delivery, view.wire, view.terms.shape(delivery, item, place.seen, view.wire));
        return outbox.push(frame.clone(), view.limit).map(|()| 1).map_err(|_| Stop::Slow);
    }
    if delivery.epoch != place.epoch {
        return Err(Stop::Insufficient);
    }
    let items = match &delivery.what {
        What::Items(items) => items,
        What::Top(top) if *top < place.next => return Ok(0),
        What::Passed { after, to } if *after < place.next => {
            place.next = place.next.max(to.saturating_add(1));
            return Ok(0);
        }
        What::Top(_) | What::Passed { .. } | What::Reset | What::Word(_) | What::Passing(_) => {
            return Err(Stop::Insufficient);
        }
    };
    let mut queued = 0;
    let fresh = items.partition_point(|item| item.offset < place.next);
    for item in items.get(fresh..).unwrap_or_default() {
        let before = (place.next, place.seen);
        let Some(frame) = show(place, delivery, item, view).map_err(|Insufficient| Stop::Insufficient)? else {
            continue;
        };
        if outbox.push(frame.clone(), view.limit).is_err() {
            // It is offered again once the socket has taken something.
            (place.next, place.seen) = before;
            return Err(Stop::Slow);
        }
        view.note(item.offset, frame);
        queued += 1;
    }
    Ok(queued)
}
