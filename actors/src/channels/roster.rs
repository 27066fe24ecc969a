//! The sessions of one shard, and when each has to be looked at.
//!
//! A silent session is looked at once from ping to ping. Whether those that were pinged in one turn have answered is one number:
//! only when somebody is missing are they looked at one by one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use slab::Slab;

use super::{
    Limits,
    session::{Seat, Session, SessionId, millis},
    wheel::Wheel,
};

/// Sessions that are fetched together before they are looked at or told: nobody has touched them since their last ping, and one after the other
/// each would wait for its own memory. No more than a fast cache keeps beside what writing to them takes.
pub(super) const FETCHED: usize = 32;

/// How many of those that were pinged in one turn have not answered.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicUsize);

/// One that has not answered; its answer, or its end, is the end of this.
#[derive(Debug)]
pub(super) struct Asked(Arc<Pulse>);

impl Asked {
    pub(super) fn of(pulse: &Arc<Pulse>) -> Self {
        pulse.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(pulse))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

/// Those that were pinged in one turn, and by when they must have answered.
struct Round {
    by: u64,
    pulse: Arc<Pulse>,
    sessions: Vec<SessionId>,
}

/// The sessions of a shard.
pub(super) struct Roster {
    sessions: Slab<Arc<Session>>,
    wheel: Wheel,
    rounds: VecDeque<Round>,
    last: u32,
}

impl Roster {
    pub(super) fn new(wheel: Wheel) -> Self {
        Self { sessions: Slab::new(), wheel, rounds: VecDeque::new(), last: 0 }
    }

    /// Takes a session in under an id that no other has had for long.
    pub(super) fn add(&mut self, make: impl FnOnce(SessionId) -> Arc<Session>) -> Arc<Session> {
        self.last = self.last.wrapping_add(1);
        let entry = self.sessions.vacant_entry();
        let place = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let session = make(u64::from(self.last) << 32 | u64::from(place));
        self.wheel.arm(session.id, session.arm());
        Arc::clone(entry.insert(session))
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(place(id)).filter(|session| session.id == id)
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Arc<Session>> {
        self.get(id)?;
        self.sessions.try_remove(place(id))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter().map(|(_, session)| session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn arm(&mut self, id: SessionId, at: u64) {
        self.wheel.arm(id, at);
    }

    /// Does what is due by now; answers the seats that are free.
    pub(super) fn turn(&mut self, now: u64, limits: &Limits) -> Vec<(SessionId, Seat)> {
        self.miss(now);
        let (pulse, mut asked, mut free) = (Arc::new(Pulse::default()), Vec::new(), Vec::new());
        for some in self.wheel.turn(now).chunks(FETCHED) {
            some.iter().filter_map(|(id, _)| self.get(*id)).for_each(|session| session.fetch());
            for (id, armed) in some {
                let Some(session) = self.get(*id) else { continue };
                let looked = session.tick(*armed, now, limits, &pulse);
                free.extend(looked.free.into_iter().map(|seat| (*id, seat)));
                if looked.asked {
                    asked.push(*id);
                }
                if let Some(next) = looked.next {
                    self.wheel.arm(*id, next);
                }
            }
        }
        if !asked.is_empty() {
            self.rounds.push_back(Round { by: now + millis(limits.pong), pulse, sessions: asked });
        }
        free
    }

    /// Looks for those who have not answered in time.
    fn miss(&mut self, now: u64) {
        while self.rounds.front().is_some_and(|round| round.by <= now) {
            let Some(Round { pulse, sessions, .. }) = self.rounds.pop_front() else { return };
            if pulse.0.load(Ordering::Acquire) == 0 {
                continue;
            }
            for id in sessions {
                let next = self.get(id).and_then(|session| session.miss(now));
                if let Some(next) = next {
                    self.wheel.arm(id, next);
                }
            }
        }
    }
}

fn place(id: SessionId) -> usize {
    (id & u64::from(u32::MAX)) as usize
}
