//! When a shard has to look at its sessions: one wheel for all of them instead of a timer for each.
//!
//! Invariant: an entry comes out at its time or at most one step later, never earlier. Entries are never taken back: whoever
//! arms a session anew remembers for when, and lets older entries pass.

use std::time::Duration;

use super::session::SessionId;

/// Steps of one turn; what lies further ahead is put back when its slot comes by.
const SLOTS: u64 = 256;
/// The longest step: time limits are seconds, and each step wakes a shard, whose pings then leave together.
const COARSE: Duration = Duration::from_millis(500);
/// The shortest: below it the ticking would be the work.
const FINE: Duration = Duration::from_millis(5);

/// A session and the moment for which it was armed, in milliseconds.
pub(super) type Entry = (SessionId, u64);

#[derive(Debug)]
pub(super) struct Wheel {
    /// Milliseconds of a slot.
    step: u64,
    /// The slot up to which everything has come out, counted from the beginning of time.
    done: u64,
    slots: Vec<Vec<Entry>>,
}

impl Wheel {
    /// `shortest` is the shortest time that anybody will wait for.
    pub(super) fn new(shortest: Duration, now: u64) -> Self {
        let step = (shortest / 8).clamp(FINE, COARSE).as_millis() as u64;
        Self { step, done: now / step, slots: (0..SLOTS).map(|_| Vec::new()).collect() }
    }

    /// How often it wants to be turned.
    pub(super) fn step(&self) -> Duration {
        Duration::from_millis(self.step)
    }

    pub(super) fn arm(&mut self, session: SessionId, at: u64) {
        // The slot after the one in which the moment lies: by then it has passed.
        let slot = (at / self.step + 1).clamp(self.done + 1, self.done + SLOTS - 1);
        if let Some(slot) = self.slots.get_mut((slot % SLOTS) as usize) {
            slot.push((session, at));
        }
    }

    /// Everything whose moment has come.
    pub(super) fn turn(&mut self, now: u64) -> Vec<Entry> {
        let until = now / self.step;
        // After a pause longer than a turn every slot is due once.
        let first = (self.done + 1).max(until.saturating_sub(SLOTS - 1));
        let mut due = Vec::new();
        for slot in first..=until {
            due.append(&mut std::mem::take(&mut self.slots[(slot % SLOTS) as usize]));
        }
        self.done = self.done.max(until);
        due.retain(|(session, at)| {
            let early = *at > now;
            if early {
                self.arm(*session, *at);
            }
            !early
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_time(waits in proptest::collection::vec(0..200_000u64, 1..60), turns in proptest::collection::vec(1..90_000u64, 1..40), shortest in 1..5_000u64, start in 0..1_000_000u64) {
            let mut wheel = Wheel::new(Duration::from_millis(shortest), start);
            let mut left: BTreeMap<SessionId, u64> = waits.iter().enumerate().map(|(id, wait)| (id as u64, start + wait)).collect();
            for (id, at) in &left { wheel.arm(*id, *at); }
            let mut now = start;
            for by in turns.into_iter().chain([300_000]) {
                now += by;
                for (id, at) in wheel.turn(now) {
                    prop_assert!(at <= now);
                    prop_assert_eq!(left.remove(&id), Some(at), "once");
                }
                let late = left.values().find(|at| **at + 2 * wheel.step < now);
                prop_assert_eq!(late, None, "at {}", now);
            }
            prop_assert!(left.is_empty());
        }
    }
}
