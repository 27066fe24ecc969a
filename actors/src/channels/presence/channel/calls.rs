//! What the store has still to be told of a channel, call by call, and what comes of the answers.
//!
//! Invariant: a call whose outcome is not known is repeated as it was before anything else.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        PresenceEvent, PresenceLimits,
        limits::{ANEW_EVERY, BATCH, TOLD_AT_ONCE},
        tell::{Context, Tell},
    },
    Channel,
};
use crate::platform::ports::{Buried, Changed, Counts, MemberChange, Occupied, Outcome};

/// One call to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Work {
    /// Clients come and go.
    Change { ticket: u64, changes: Vec<MemberChange> },
    /// So many subscribers are here.
    Occupy { ticket: u64, subscribers: u64 },
    /// May the number be told?
    Turn { every: Duration },
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Answer {
    Changed(Changed),
    Occupied(Occupied),
    Turn(Option<u64>),
}

impl Channel {
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
    pub(in super::super) fn due(&mut self, now: Instant, limits: &PresenceLimits) -> Option<Instant> {
        let vacant = self.occupancy(now, limits).1;
        let owed = self.owed.filter(|owed| *owed > now);
        let parting = self.goodbyes.front().map(|(due, _)| *due);
        let anew = self.anew.map(|(ended, turn)| ended + ANEW_EVERY * turn);
        [vacant, owed, parting, anew].into_iter().flatten().min()
    }

    /// Whether a call is to be made now, or a word to be said.
    pub(in super::super) fn wants(&mut self, now: Instant, limits: &PresenceLimits) -> bool {
        !self.unsaid.is_empty()
            || self.doubt.is_some()
            || !self.queue.is_empty()
            || self.occupancy(now, limits).0.is_some()
            || self.owed.is_some_and(|owed| owed <= now)
    }

    /// The next call.
    pub(in super::super) fn work(&mut self, now: Instant, limits: &PresenceLimits, ticket: &mut u64) -> Option<Work> {
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
    pub(in super::super) fn answered(&mut self, work: &Work, answer: &Answer, context: &Context) -> Vec<Tell> {
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
    pub(super) fn landed(&mut self, changes: &[MemberChange]) {
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
    pub(in super::super) fn buried(&mut self, buried: Buried, context: &Context) -> Vec<Tell> {
        let grave = Arc::new(buried.grave);
        let left = buried.left.into_iter().map(|(member, last)| Tell::Leave(member, last)).collect();
        let mut tell = vec![Tell::Open(Arc::clone(&grave))];
        tell.extend(self.tell(left, buried.counts, context));
        tell.extend(self.occupied(buried.occupied, context));
        tell.push(Tell::Close(grave));
        tell
    }

    /// A call has failed: whether it was made is not known. What writes nothing is not in doubt.
    pub(in super::super) fn doubt(&mut self, work: Work, now: Instant) {
        if matches!(work, Work::Turn { .. }) {
            self.owed = Some(now);
        } else {
            self.doubt = Some(work);
        }
    }

    pub(in super::super) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }
}
