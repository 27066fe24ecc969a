//! Questions: each waits until what was entered before it is with the store, and is then asked beside the actor.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use dzvin_protocols::platform::StreamName;
use futures_util::{StreamExt, stream};
use ractor::RpcReplyPort;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    in_time,
    limits::{LOOK, PAGE, READERS, ROSTER_PAGES},
    unpanicked,
};
use crate::platform::ports::{BusError, Counts, Member, MemberPage, Presence};

/// A question without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The store is away or slow; the same question may be answered later.
    #[error("presence cannot be asked now")]
    Unavailable,
    /// Too many ask.
    #[error("too many questions wait")]
    Busy,
}

/// The users of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// One client of each.
    pub members: Vec<Arc<Member>>,
    /// How many there are of all.
    pub counts: Counts,
    /// Nobody is missing.
    pub complete: bool,
}

/// What a look at many channels found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Clients of each channel, in the order in which they were asked for; `None` where the store did not say.
    pub clients: Vec<Option<u64>>,
    /// Which of this node's lives in the store it was: between two of them words may have been lost.
    pub life: u64,
    /// Who is not there is away. Otherwise the store has lost everything a moment ago, and may not know them yet.
    pub settled: bool,
}

/// What is asked.
pub(super) enum Asked {
    Members { from: u64, limit: usize, reply: RpcReplyPort<Result<MemberPage, PresenceError>> },
    Roster { most: usize, reply: RpcReplyPort<Result<Roster, PresenceError>> },
    Stats { reply: RpcReplyPort<Result<Counts, PresenceError>> },
}

impl Asked {
    pub(super) fn refuse(self, error: PresenceError) {
        // Who gave up waiting need not hear it.
        match self {
            Self::Members { reply, .. } => drop(reply.send(Err(error))),
            Self::Roster { reply, .. } => drop(reply.send(Err(error))),
            Self::Stats { reply } => drop(reply.send(Err(error))),
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Members { reply, .. } => reply.is_closed(),
            Self::Roster { reply, .. } => reply.is_closed(),
            Self::Stats { reply } => reply.is_closed(),
        }
    }
}

/// A question that waits.
pub(super) struct Question {
    /// The change that it comes after.
    pub(super) barrier: u64,
    pub(super) asked: Asked,
    /// Its place among the waiting.
    pub(super) place: OwnedSemaphorePermit,
}

/// Asks the store, when it is its turn.
pub(super) async fn ask<P: Presence>(
    question: Question,
    channel: Arc<str>,
    store: Arc<P>,
    turns: Arc<Semaphore>,
    within: Duration,
) {
    // The semaphore is never closed.
    let _turn = turns.acquire_owned().await;
    let _place = question.place;
    if question.asked.is_given_up() {
        return;
    }
    let stream = StreamName::from_checked(&channel);
    match question.asked {
        Asked::Members { from, limit, reply } => {
            let _ = reply.send(answered(store.members(&stream, from, limit), within).await);
        }
        Asked::Roster { most, reply } => {
            let _ = reply.send(answered(gather(store.as_ref(), &stream, most), within).await);
        }
        Asked::Stats { reply } => {
            let _ = reply.send(answered(store.counts(&stream), within).await);
        }
    }
}

async fn answered<T>(asking: impl Future<Output = Result<T, BusError>>, within: Duration) -> Result<T, PresenceError> {
    unpanicked(async { in_time(timeout(within, asking).await) }).await.flatten().ok_or(PresenceError::Unavailable)
}

/// How many clients each channel has, as far as the store says in time; many at once, and without a place among the questions.
pub(super) async fn look<P: Presence>(channels: Vec<Arc<str>>, store: Arc<P>, within: Duration) -> Vec<Option<u64>> {
    let count = channels.len();
    let ask = |channel: Arc<str>| {
        let store = Arc::clone(&store);
        async move {
            let counts = answered(store.counts(&StreamName::from_checked(&channel)), within).await;
            counts.ok().map(|counts| counts.clients)
        }
    };
    let mut asking = stream::iter(channels).map(ask).buffered(READERS);
    let mut found = Vec::with_capacity(count);
    // A store that hangs is not waited for once for each of many thousands.
    let all = async {
        while let Some(clients) = asking.next().await {
            found.push(clients);
        }
    };
    let _ = timeout(within * LOOK, all).await;
    found.resize(count, None);
    found
}

/// Page by page, until there are enough or no more.
async fn gather<P: Presence>(store: &P, stream: &StreamName, most: usize) -> Result<Roster, BusError> {
    let (mut roster, mut seen, mut from) = (Roster::default(), HashSet::new(), 0);
    for _ in 0..ROSTER_PAGES {
        let page = store.members(stream, from, PAGE).await?;
        roster.counts = page.counts;
        for member in page.members {
            if seen.contains(&member.info.user) {
                continue;
            }
            if roster.members.len() >= most {
                return Ok(roster);
            }
            seen.insert(Arc::clone(&member.info.user));
            roster.members.push(member);
        }
        match page.next {
            Some(next) => from = next,
            None => {
                roster.complete = true;
                break;
            }
        }
    }
    Ok(roster)
}
