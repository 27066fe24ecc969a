//! The live rule of one subscription: what goes out, what waits, and when the subscriber has missed something.

use bytes::Bytes;
use dzvin_protocols::channels::Epoch;

use crate::channels::{Delivery, Item, What, Wire, outbox::Outbox};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Slow,
    Insufficient,
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
            let size: usize = items.iter().map(Item::size).sum();
            if *bytes + size <= limit {
                *bytes += size;
                return live.push(delivery.clone());
            }
            items.iter().map(|item| item.offset).max().unwrap_or(0)
        }
        What::Top(top) => *top,
        What::Reset => return live.push(delivery.clone()),
    };
    match live.last_mut() {
        Some(Delivery { what: What::Top(known), epoch, .. }) if *epoch == delivery.epoch => *known = top.max(*known),
        _ => live.push(Delivery { what: What::Top(top), ..delivery.clone() }),
    }
}

/// How a session sends: its form, and how many bytes may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    pub(super) wire: Wire,
    pub(super) limit: usize,
}

/// A subscriber has missed something.
pub(super) struct Insufficient;

/// The live rule for a delivery of one frame: the frame, when it is the expected one.
pub(super) fn only<'a>(
    epoch: &Epoch,
    next: &mut u64,
    delivery: &'a Delivery,
    wire: Wire,
) -> Result<Option<&'a Bytes>, Insufficient> {
    let What::Items(items) = &delivery.what else { return Err(Insufficient) };
    match items.as_ref() {
        [item] if *epoch == delivery.epoch && item.offset == *next => {
            *next += 1;
            Ok(Some(item.frame(&delivery.channel, wire)))
        }
        [item] if *epoch == delivery.epoch && item.offset < *next => Ok(None),
        _ => Err(Insufficient),
    }
}

/// The live rule: at the expected offset deliver, below it drop, above it or in another epoch the subscriber must recover.
pub(super) fn follow(
    epoch: &Epoch,
    next: &mut u64,
    delivery: &Delivery,
    outbox: &mut Outbox,
    sending: Sending,
) -> Result<u64, Stop> {
    if delivery.epoch != *epoch {
        return Err(Stop::Insufficient);
    }
    let items = match &delivery.what {
        What::Items(items) => items,
        What::Top(top) if *top < *next => return Ok(0),
        What::Top(_) | What::Reset => return Err(Stop::Insufficient),
    };
    let mut queued = 0;
    let fresh = items.partition_point(|item| item.offset < *next);
    for item in items.get(fresh..).unwrap_or_default() {
        if item.offset != *next {
            return Err(Stop::Insufficient);
        }
        let frame = item.frame(&delivery.channel, sending.wire).clone();
        outbox.push(frame, sending.limit).map_err(|_| Stop::Slow)?;
        *next += 1;
        queued += 1;
    }
    Ok(queued)
}
