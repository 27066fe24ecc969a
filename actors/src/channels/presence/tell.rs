//! What is to be told of a change, and to whom.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_protocols::channels::{ONLINE_PREFIX, Word};
use tokio::time::Instant;

use super::{PresenceEvent, limits::ANEW_TURNS, servers};
use crate::platform::ports::{Grave, Member};

/// What is judged by.
pub(super) struct Context {
    pub(super) channel: Arc<str>,
    /// Its number of subscribers is told.
    pub(super) counted: bool,
    pub(super) now: Instant,
    pub(super) count_every: Duration,
}

/// What is to be told, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tell {
    Join(Arc<Member>, bool),
    Leave(Arc<Member>, bool),
    Count(u64),
    /// Who hears of members begins anew, if it is this turn's, so long after the crowd has ended.
    Anew(u32, Duration),
    Event(PresenceEvent),
    /// What follows was in this grave, up to [`Self::Close`]: who has not begun with it in time leaves it to others.
    Open(Arc<Grave>),
    /// All of it has been told, which the store is to know.
    Close(Arc<Grave>),
}

/// Passes over a grave that is the first of what waits: another tells it.
pub(super) fn leave_grave(unsaid: &mut VecDeque<Tell>) {
    while let Some(tell) = unsaid.pop_front()
        && !matches!(tell, Tell::Close(_))
    {}
}

/// Gives the first of what waits up. True when a grave is not closed by that: what was in it is told once more, by whoever finds it.
pub(super) fn give_up(unsaid: &mut VecDeque<Tell>) -> bool {
    if matches!(unsaid.pop_front(), Some(Tell::Close(_))) {
        return true;
    }
    let mark = unsaid.iter().position(|tell| matches!(tell, Tell::Open(_) | Tell::Close(_)));
    match mark {
        Some(at) if matches!(unsaid.get(at), Some(Tell::Close(_))) => unsaid.remove(at).is_some(),
        _ => false,
    }
}

impl Tell {
    /// The number, to those on the channel and to the servers of the application.
    pub(super) fn count(context: &Context, subscribers: u64) -> Vec<Self> {
        let event = PresenceEvent::Count { channel: Arc::clone(&context.channel), subscribers };
        let mut tell = vec![Self::Count(subscribers)];
        if context.counted {
            tell.push(Self::Event(event));
        }
        tell
    }

    /// Whether it waits its turn on the channel, be it only to mark where a grave begins and ends.
    pub(super) fn is_said(&self) -> bool {
        match self {
            Self::Join(member, _) | Self::Leave(member, _) => member.told,
            Self::Count(_) | Self::Anew(..) | Self::Open(_) | Self::Close(_) => true,
            Self::Event(_) => false,
        }
    }

    /// What is said on the channel.
    pub(super) fn word(&self) -> Option<Bytes> {
        match self {
            Self::Join(member, first) if member.told => {
                Some(Word::Join { info: member.info.clone(), first: *first }.encode())
            }
            Self::Leave(member, last) if member.told => {
                Some(Word::Leave { info: member.info.clone(), last: *last }.encode())
            }
            Self::Count(subscribers) => Some(Word::Count { subscribers: *subscribers }.encode()),
            Self::Anew(turn, ago) => {
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                Some(Word::Anew { turn: *turn, turns: ANEW_TURNS, ago }.encode())
            }
            _ => None,
        }
    }

    /// What the application's servers may be told.
    pub(super) fn event(&self, channel: &Arc<str>) -> Option<PresenceEvent> {
        let user = |member: &Arc<Member>| Arc::clone(&member.info.user);
        match self {
            // Of members servers hear by the second stream alone, and whether users are online is between them.
            Self::Join(member, true) => {
                let channel = servers::channel(channel)?.into();
                Some(PresenceEvent::MemberAdded { channel, user: user(member) })
            }
            Self::Leave(member, true) => {
                let channel = servers::channel(channel)?.into();
                Some(PresenceEvent::MemberRemoved { channel, user: user(member) })
            }
            Self::Event(event) if !channel.starts_with(ONLINE_PREFIX) => Some(event.clone()),
            _ => None,
        }
    }
}
