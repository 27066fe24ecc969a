//! What this node knows of one channel, and what the store has still to be told of it. No I/O: the actor does that.
//!
//! Invariants: what a session says holds at once, the store follows; of each client at most its last goodbye and its last
//! entry wait, whatever happened in between; changes go out in the order in which they were first made; a call whose outcome
//! is not known is repeated as it was before anything else.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    PresenceEvent, PresenceLimits,
    limits::{ANEW_EVERY, ANEW_TURNS, BATCH, TOLD_AT_ONCE},
    tell::{Context, Tell},
};
use crate::platform::ports::{Buried, Changed, Counts, Member, MemberChange, Occupied, Outcome};

/// One call to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Clients come and go.
    Change { ticket: u64, changes: Vec<MemberChange> },
    /// So many subscribers are here.
    Occupy { ticket: u64, subscribers: u64 },
    /// May the number be told?
    Turn { every: Duration },
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Changed(Changed),
    Occupied(Occupied),
    Turn(Option<u64>),
}

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

    /// What the store should be told of subscribers; an empty channel is held back for a while. The second is when to look again.
    fn occupancy(&mut self, now: Instant, limits: &PresenceLimits) -> (Option<u64>, Option<Instant>) {
        let total = self.total();
        if total > 0 || self.written == Some(0) {
            self.empty_since = None;
            return ((self.written != Some(total)).then_some(total), None);
        }
        let due = *self.empty_since.get_or_insert(now) + limits.hold;
        if due <= now { (Some(0), None) } else { (None, Some(due)) }
    }

    /// When something is due that is not yet.
    pub(super) fn due(&mut self, now: Instant, limits: &PresenceLimits) -> Option<Instant> {
        let vacant = self.occupancy(now, limits).1;
        let owed = self.owed.filter(|owed| *owed > now);
        let parting = self.goodbyes.front().map(|(due, _)| *due);
        let anew = self.anew.map(|(ended, turn)| ended + ANEW_EVERY * turn);
        [vacant, owed, parting, anew].into_iter().flatten().min()
    }

    /// Whether a call is to be made now, or a word to be said.
    pub(super) fn wants(&mut self, now: Instant, limits: &PresenceLimits) -> bool {
        !self.unsaid.is_empty()
            || self.doubt.is_some()
            || !self.queue.is_empty()
            || self.occupancy(now, limits).0.is_some()
            || self.owed.is_some_and(|owed| owed <= now)
    }

    /// The next call.
    pub(super) fn work(&mut self, now: Instant, limits: &PresenceLimits, ticket: &mut u64) -> Option<Work> {
        if let Some(doubt) = &self.doubt {
            return Some(doubt.clone());
        }
        if let (Some(subscribers), _) = self.occupancy(now, limits) {
            *ticket += 1;
            return Some(Work::Occupy { ticket: *ticket, subscribers });
        }
        if self.owed.is_some_and(|owed| owed <= now) {
            return Some(Work::Turn { every: limits.count_every });
        }
        let changes = self.take(BATCH);
        if changes.is_empty() {
            return None;
        }
        *ticket += 1;
        Some(Work::Change { ticket: *ticket, changes })
    }

    /// The next changes, which are from here on taken as made.
    fn take(&mut self, batch: usize) -> Vec<MemberChange> {
        let mut changes = Vec::new();
        while changes.len() < batch {
            let Some((place, name)) = self.queue.pop_front() else { break };
            let Some(client) = self.clients.get_mut(&name).filter(|client| client.queued == Some(place)) else {
                continue;
            };
            client.queued = None;
            let info = &client.member.info;
            if client.stored && (!client.here || client.again) {
                changes.push(MemberChange::Exit { client: Arc::clone(&info.client), user: Arc::clone(&info.user) });
            }
            if client.here && (!client.stored || client.again || client.fresh) {
                changes.push(MemberChange::Enter(Arc::clone(&client.member)));
            }
            (client.stored, client.again, client.fresh) = (client.here, false, false);
            client.flying = changes.iter().rev().take(2).any(|change| **change.client() == *name);
            if client.flying {
                self.first_flying.get_or_insert(place);
            } else if !client.here {
                self.clients.remove(&name);
            }
        }
        changes
    }

    /// A call has been answered: what is to be told of it.
    pub(super) fn answered(&mut self, work: &Work, answer: &Answer, context: &Context) -> Vec<Tell> {
        self.doubt = None;
        match (work, answer) {
            (Work::Change { changes, .. }, Answer::Changed(changed)) => self.changed(changes, changed, context),
            (Work::Occupy { subscribers, .. }, Answer::Occupied(occupied)) => {
                self.written = Some(*subscribers);
                if *subscribers == 0 {
                    self.empty_since = None;
                }
                self.occupied(*occupied, context)
            }
            (Work::Turn { .. }, Answer::Turn(Some(subscribers))) => {
                self.owed = None;
                // Each who has entered is a subscriber, though their number may be told to the store a little later.
                Tell::count(context, (*subscribers).max(self.members))
            }
            // Another node told it, perhaps before the last change.
            (Work::Turn { .. }, _) => {
                self.owed = Some(context.now + context.count_every);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn changed(&mut self, changes: &[MemberChange], changed: &Changed, context: &Context) -> Vec<Tell> {
        let mut tell = Vec::new();
        for (change, outcome) in changes.iter().zip(&changed.outcomes) {
            let client = self.clients.get_mut(change.client());
            match (change, outcome) {
                (MemberChange::Enter(member), Outcome::Entered(entered)) => {
                    let (mut unheard, mut quiet) = (false, false);
                    if let Some(client) = client {
                        client.known = true;
                        unheard = std::mem::take(&mut client.unheard);
                        quiet = std::mem::take(&mut client.quiet);
                    }
                    if (entered.new || unheard) && !quiet {
                        tell.push(Tell::Join(Arc::clone(member), entered.first_of_user));
                    }
                }
                (MemberChange::Exit { .. }, Outcome::Exited(exited)) => {
                    let Some(client) = client else { continue };
                    // One that the store does not know, and nobody buried, it has forgotten without a word.
                    let (known, unheard) = (std::mem::take(&mut client.known), std::mem::take(&mut client.unheard));
                    if (exited.gone || known) && !unheard {
                        tell.push(Tell::Leave(Arc::clone(&client.member), exited.last_of_user));
                    }
                }
                _ => {}
            }
        }
        self.landed(changes);
        self.tell(tell, changed.counts, context)
    }

    /// The call that was under way is over.
    fn landed(&mut self, changes: &[MemberChange]) {
        self.first_flying = None;
        for change in changes {
            let Some(client) = self.clients.get_mut(change.client()) else { continue };
            client.flying = false;
            // One whose exit has no answer yet may have to say it again.
            if !client.here && !client.stored && !client.known {
                self.clients.remove(change.client());
            }
        }
    }

    /// Each is told of who came and went, or, where there are too many, how many there are.
    fn tell(&mut self, tell: Vec<Tell>, counts: Counts, context: &Context) -> Vec<Tell> {
        self.members = counts.clients;
        if self.hold.is_some() {
            // Servers are told of each, many at once.
            return tell;
        }
        if counts.ended {
            self.anew = Some((context.now, 0));
        }
        if !counts.crowded {
            return tell;
        }
        self.anew = None;
        if tell.iter().any(|tell| matches!(tell, Tell::Join(member, _) | Tell::Leave(member, _) if member.told)) {
            self.owed.get_or_insert(context.now);
        }
        Vec::new()
    }

    fn occupied(&mut self, Occupied { before, now }: Occupied, context: &Context) -> Vec<Tell> {
        let mut tell = Vec::new();
        match (before, now) {
            (0, 1..) => tell.push(Tell::Event(PresenceEvent::Occupied { channel: Arc::clone(&context.channel) })),
            (1.., 0) => tell.push(Tell::Event(PresenceEvent::Vacated { channel: Arc::clone(&context.channel) })),
            _ => {}
        }
        if before != now && context.counted {
            if now <= TOLD_AT_ONCE {
                tell.extend(Tell::count(context, now));
            } else {
                self.owed.get_or_insert(context.now);
            }
        }
        tell
    }

    /// What a burial removed here.
    pub(super) fn buried(&mut self, buried: Buried, context: &Context) -> Vec<Tell> {
        let grave = Arc::new(buried.grave);
        let left = buried.left.into_iter().map(|(member, last)| Tell::Leave(member, last)).collect();
        let mut tell = vec![Tell::Open(Arc::clone(&grave))];
        tell.extend(self.tell(left, buried.counts, context));
        tell.extend(self.occupied(buried.occupied, context));
        tell.push(Tell::Close(grave));
        tell
    }

    /// A call has failed: whether it was made is not known. What writes nothing is not in doubt.
    pub(super) fn doubt(&mut self, work: Work, now: Instant) {
        if matches!(work, Work::Turn { .. }) {
            self.owed = Some(now);
        } else {
            self.doubt = Some(work);
        }
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Another life has begun: the store knows nothing of this node. `told`: who was there is told as gone by others.
    pub(super) fn lost(&mut self, told: bool) {
        if self.written != Some(0) || self.total() > 0 || matches!(self.doubt, Some(Work::Occupy { .. })) {
            self.written = None;
        }
        let doubt = match self.doubt.take() {
            Some(Work::Change { changes, .. }) => changes,
            _ => Vec::new(),
        };
        self.landed(&doubt);
        for client in self.clients.values_mut() {
            client.fresh = false;
            let leaving = client.known && (!client.here || client.again);
            (client.stored, client.again) = (leaving, leaving && client.here);
            client.quiet = client.known && !leaving && (client.quiet || !told);
        }
        for change in &doubt {
            let Some(client) = self.clients.get_mut(change.client()) else { continue };
            match change {
                MemberChange::Exit { .. } if client.known => {
                    (client.stored, client.again, client.quiet) = (true, client.here, false);
                }
                MemberChange::Exit { .. } => {}
                MemberChange::Enter(_) if client.known => {}
                // The last life may still have it.
                MemberChange::Enter(_) => (client.unheard, client.stored) = (true, !client.here),
            }
        }
        if told {
            // Others say goodbye for them. One whose goodbye was in doubt may be left out: rather twice than never.
            let doubted: HashSet<_> = doubt.iter().filter(|it| it.is_exit()).map(MemberChange::client).collect();
            self.clients.iter_mut().for_each(|(name, client)| client.known &= doubted.contains(name));
            // Said after their goodbyes these would be wrong.
            let clients = &mut self.clients;
            self.unsaid.retain(|tell| match tell {
                Tell::Join(member, _) => {
                    clients.get_mut(&member.info.client).into_iter().for_each(|client| client.unheard = true);
                    false
                }
                _ => true,
            });
        }
        self.clients.retain(|_, client| client.here || client.stored);
        let mut names: Vec<_> = self.clients.keys().cloned().collect();
        // Who is here first: of two clients of a user the one that stays.
        names.sort_by_key(|name| self.clients.get(name).is_some_and(|client| !client.here));
        names.iter().for_each(|name| self.enqueue(name));
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
