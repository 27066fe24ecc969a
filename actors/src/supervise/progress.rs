//! What a child shows of its work: how much is done, whether it is at it, how much waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A child's counters, written by the child and read by its supervisor. Cheap to clone.
///
/// A child that is busy (or has messages waiting) and whose count does not move is stuck.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    busy: AtomicU64,
    sent: AtomicU64,
    taken: AtomicU64,
}

/// Held while a piece of work is in hand; dropping it counts the piece as done.
#[derive(Debug)]
#[must_use = "the work is in hand only as long as this lives"]
pub struct Busy(Arc<Counters>);

impl Progress {
    /// Marks one message that came through a [`super::Slot`] as taken from the mailbox and in hand: the first line of a handler.
    pub fn begin(&self) -> Busy {
        self.0.taken.fetch_add(1, Relaxed);
        self.work()
    }

    /// Marks a piece of work that came another way: a timer, a message to itself.
    pub fn work(&self) -> Busy {
        self.0.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(&self.0))
    }

    /// Counts a step within a long piece of work.
    pub fn tick(&self) {
        self.0.done.fetch_add(1, Relaxed);
    }

    /// Counts a message on its way to the mailbox; [`super::Slot`] does it.
    pub(super) fn sent(&self) {
        self.0.sent.fetch_add(1, Relaxed);
    }

    /// Steps done since the child's start.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.0.done.load(Relaxed)
    }

    /// Messages that were sent through a slot and not yet begun; zero for a child that never calls [`Self::begin`].
    #[must_use]
    pub fn waiting(&self) -> u64 {
        match self.0.taken.load(Relaxed) {
            0 => 0,
            taken => self.0.sent.load(Relaxed).saturating_sub(taken),
        }
    }

    /// Whether something is in hand or waits.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.busy.load(Relaxed) > 0 || self.waiting() > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.done.fetch_add(1, Relaxed);
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_hand_and_waiting_is_seen() {
        let progress = Progress::default();
        assert!(!progress.is_busy());
        progress.sent();
        progress.sent();
        let busy = progress.begin();
        assert_eq!((progress.waiting(), progress.is_busy(), progress.done()), (1, true, 0));
        drop(busy);
        assert_eq!((progress.waiting(), progress.is_busy(), progress.done()), (1, true, 1), "one still waits");
        drop(progress.begin());
        assert_eq!((progress.waiting(), progress.is_busy(), progress.done()), (0, false, 2));
        let work = progress.work();
        progress.tick();
        assert_eq!((progress.waiting(), progress.is_busy(), progress.done()), (0, true, 3));
        drop(work);
        assert!(!progress.is_busy());
    }
}
