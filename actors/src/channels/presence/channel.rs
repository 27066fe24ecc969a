//! What this node knows of one channel: what its sessions say holds at once, and waits for the store. No I/O: the actor does that.
//!
//! Invariants: of each client at most its last goodbye and its last entry wait, whatever happened in between; changes go out in the
//! order in which they were first made.
//!
//! Not here: what is said to the store and what comes of it (`calls`), and that it has lost everything (`lost`).

mod calls;
mod lost;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    limits::{ANEW_EVERY, ANEW_TURNS},
    tell::Tell,
};
use crate::platform::ports::Member;

pub(super) use calls::{Answer, Work};

/// A client as its session and the store see it.
#[derive(Debug)]
struct Client {
    member: Arc<Member>,
    shard: usize,
    /// As its session sees it.
    here: bool,
    /// As the store does, or will once the call that is under way has been answered.
    stored: bool,
    /// The store has answered its entry and not yet its exit: others know of it.
    known: bool,
    /// It left and came back, and the store knows neither.
    again: bool,
    /// Others may see something else of it than the store knows.
    fresh: bool,
    /// In the call that is under way or in doubt.
    flying: bool,
    /// Where it waits in the queue.
    queued: Option<u64>,
    /// Its entry was in doubt when another life began: nobody was told, even if the store knows it.
    unheard: bool,
    /// The store lost it without a word: its next entry is none for others.
    quiet: bool,
    /// It has said goodbye, which is held until then; until then it is here.
    leaves: Option<Instant>,
}

/// What this node knows of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    clients: HashMap<Arc<str>, Client>,
    /// Clients that have changed, in order.
    queue: VecDeque<(u64, Arc<str>)>,
    changes: u64,
    /// Servers of applications are told of its members, or were: there is a second stream of it.
    pub(super) heard: bool,
    /// How long goodbyes are held.
    hold: Option<Duration>,
    /// Goodbyes that are held, in their order. One that was taken back leaves its place behind.
    goodbyes: VecDeque<(Instant, Arc<str>)>,
    /// The first change in the call that is under way or in doubt.
    first_flying: Option<u64>,
    /// A call whose outcome is not known.
    doubt: Option<Work>,
    /// What is to be said before the next call.
    pub(super) unsaid: VecDeque<Tell>,
    /// Attempts at the first of them.
    pub(super) tries: u32,
    subscribers: Vec<(usize, u32)>,
    /// What the store knows of them; `None` when that is not known.
    written: Option<u64>,
    empty_since: Option<Instant>,
    /// How many clients there were when the store was last asked.
    members: u64,
    /// Since when the count may be told.
    owed: Option<Instant>,
    /// When a crowd ended, and whose turn it is to begin anew.
    anew: Option<(Instant, u32)>,
    /// A call is under way.
    pub(super) busy: bool,
    /// Where it waits for a call, or for the store to come back.
    pub(super) listed: Option<u64>,
    /// The last call failed.
    pub(super) failed: bool,
    /// When it is looked at again.
    pub(super) alarm: Option<Instant>,
}

impl Channel {
    /// One of which nothing is known, whose clients leave so long after they have said goodbye.
    pub(super) fn new(hold: Option<Duration>) -> Self {
        Self {
            clients: HashMap::new(),
            queue: VecDeque::new(),
            changes: 0,
            heard: false,
            hold,
            goodbyes: VecDeque::new(),
            first_flying: None,
            doubt: None,
            unsaid: VecDeque::new(),
            tries: 0,
            subscribers: Vec::new(),
            written: Some(0),
            empty_since: None,
            members: 0,
            owed: None,
            anew: None,
            busy: false,
            listed: None,
            failed: false,
            alarm: None,
        }
    }

    /// A client is here.
    pub(super) fn enter(&mut self, shard: usize, member: Arc<Member>) {
        let name = Arc::clone(&member.info.client);
        match self.clients.get_mut(&name) {
            Some(known) => {
                let changed = !known.here || known.member != member;
                if !known.here {
                    known.again = known.stored;
                }
                known.fresh |= known.member != member;
                (known.member, known.shard, known.here, known.leaves) = (member, shard, true, None);
                if changed {
                    self.enqueue(&name);
                }
            }
            None => {
                let client = Client {
                    member,
                    shard,
                    here: true,
                    stored: false,
                    known: false,
                    again: false,
                    fresh: false,
                    flying: false,
                    queued: None,
                    unheard: false,
                    quiet: false,
                    leaves: None,
                };
                self.clients.insert(Arc::clone(&name), client);
                self.enqueue(&name);
            }
        }
    }

    /// A client of that shard is here no longer.
    pub(super) fn exit(&mut self, shard: usize, client: &str, now: Instant) {
        let Some((name, known)) = self.clients.get_key_value(client) else { return };
        if !known.here || known.shard != shard {
            return;
        }
        let name = Arc::clone(name);
        self.goodbye(&name, now);
    }

    /// A shard has lost everything.
    pub(super) fn forget(&mut self, shard: usize, now: Instant) {
        let here = self.clients.iter().filter(|(_, client)| client.here && client.shard == shard);
        let names: Vec<_> = here.map(|(name, _)| Arc::clone(name)).collect();
        names.iter().for_each(|name| self.goodbye(name, now));
        self.count(shard, 0);
    }

    /// A client leaves: now, or when its goodbye has been held.
    fn goodbye(&mut self, name: &Arc<str>, now: Instant) {
        let Some(hold) = self.hold else { return self.leave(name) };
        let Some(client) = self.clients.get_mut(name).filter(|client| client.leaves.is_none()) else { return };
        let due = now + hold;
        client.leaves = Some(due);
        self.goodbyes.push_back((due, Arc::clone(name)));
        // Who goes and comes all the time leaves many behind.
        if self.goodbyes.len() > 2 * self.clients.len() + 16 {
            let clients = &self.clients;
            self.goodbyes.retain(|(due, name)| clients.get(name).is_some_and(|client| client.leaves == Some(*due)));
        }
    }

    /// Those leave whose goodbyes have been held, and those are told whose turn it is to begin anew.
    pub(super) fn part(&mut self, now: Instant) {
        while let Some((ended, turn)) = self.anew
            && ended + ANEW_EVERY * turn <= now
        {
            self.unsaid.push_back(Tell::Anew(turn, now - ended));
            self.anew = Some((ended, turn + 1)).filter(|(_, next)| *next < ANEW_TURNS);
        }
        while let Some((due, _)) = self.goodbyes.front()
            && *due <= now
        {
            let Some((due, name)) = self.goodbyes.pop_front() else { break };
            if self.clients.get(&name).is_some_and(|client| client.leaves == Some(due)) {
                self.leave(&name);
            }
        }
    }

    /// Users of whom others know.
    pub(super) fn known_users(&self) -> BTreeSet<Arc<str>> {
        let known = self.clients.values().filter(|client| client.known);
        known.map(|client| Arc::clone(&client.member.info.user)).collect()
    }

    /// Goodbyes that are held.
    pub(super) fn held(&self) -> usize {
        self.goodbyes.len()
    }

    fn leave(&mut self, name: &Arc<str>) {
        let Some(client) = self.clients.get_mut(name) else { return };
        (client.here, client.again, client.leaves) = (false, false, None);
        if (client.quiet || client.unheard) && !client.stored {
            // The store lost it without a word, so the word is ours; or it may know it, though nobody else does.
            (client.quiet, client.stored) = (false, true);
        }
        if client.stored || client.flying {
            self.enqueue(name);
        } else {
            // The store never heard of it, and neither does anybody else.
            self.clients.remove(name);
            if self.clients.is_empty() {
                self.queue.clear();
            }
        }
    }

    fn enqueue(&mut self, name: &Arc<str>) {
        let Some(client) = self.clients.get_mut(name) else { return };
        if client.queued.is_some() {
            return;
        }
        self.changes += 1;
        client.queued = Some(self.changes);
        self.queue.push_back((self.changes, Arc::clone(name)));
        // Who came and went leaves its place behind.
        if self.queue.len() > 2 * self.clients.len() + 16 {
            let clients = &self.clients;
            self.queue.retain(|(place, name)| clients.get(name).is_some_and(|client| client.queued == Some(*place)));
        }
    }

    /// So many subscribers are on a shard.
    pub(super) fn count(&mut self, shard: usize, subscribers: u32) {
        self.subscribers.retain(|(at, _)| *at != shard);
        if subscribers > 0 {
            self.subscribers.push((shard, subscribers));
        }
    }

    fn total(&self) -> u64 {
        self.subscribers.iter().map(|(_, subscribers)| u64::from(*subscribers)).sum()
    }

    /// Until which change everything has to be answered for a question that is asked now.
    pub(super) fn barrier(&self) -> u64 {
        self.changes
    }

    /// Whether everything up to there is with the store.
    pub(super) fn is_through(&self, barrier: u64) -> bool {
        let waiting = self.queue.front().map(|(place, _)| *place);
        [waiting, self.first_flying].into_iter().flatten().all(|place| place > barrier)
    }

    /// Something is to be said, and nobody is at it.
    pub(super) fn has_words(&self) -> bool {
        !self.busy && !self.unsaid.is_empty()
    }

    /// The store has, or may have, subscribers of it.
    pub(super) fn is_occupied(&self) -> bool {
        self.written != Some(0)
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Nothing is known here that is not known without it.
    pub(super) fn is_over(&self) -> bool {
        !self.busy
            && self.listed.is_none()
            && self.clients.is_empty()
            && self.subscribers.is_empty()
            && self.written == Some(0)
            && self.doubt.is_none()
            && self.unsaid.is_empty()
            && self.owed.is_none()
            && self.anew.is_none()
            && self.alarm.is_none()
    }
}
