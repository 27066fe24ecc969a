//! How far a client has surely read its connection: what was sent to one that sleeps, or reads slowly, may still lie in a socket when that
//! is cut. Pure: the moments are given.

use std::time::{Duration, Instant};

/// Of one connection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Attention {
    /// Since when it reads without a pause; `None` while it does not.
    since: Option<Instant>,
    /// Up to when it had read before it last slept.
    before: Option<Instant>,
}

impl Attention {
    /// It reads from now on, if it did not before.
    pub(crate) fn reads(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It has not read for a while, and does again; it takes as long as `due` to be up to date.
    pub(crate) fn slept(&mut self, from: Instant, to: Instant, due: Duration) {
        self.before = self.read_until(from, due);
        self.since = Some(to);
    }

    /// Up to when everything that had come by then was read; `None`: that is not known.
    pub(crate) fn read_until(&self, now: Instant, due: Duration) -> Option<Instant> {
        let up_to_date = self.since.is_some_and(|since| since + due <= now);
        if up_to_date { Some(now) } else { self.before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_has_read_what_came_before_it_slept() {
        let (begun, due) = (Instant::now(), Duration::from_secs(10));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut it = Attention::default();
        assert_eq!(it.read_until(at(100), due), None, "it does not read at all");
        it.reads(at(0));
        it.reads(at(5));
        assert_eq!((it.read_until(at(9), due), it.read_until(at(10), due)), (None, Some(at(10))));
        it.slept(at(20), at(30), due);
        assert_eq!((it.read_until(at(39), due), it.read_until(at(40), due)), (Some(at(20)), Some(at(40))));
        // Asleep again before it was up to date.
        it.slept(at(35), at(50), due);
        assert_eq!((it.read_until(at(51), due), it.read_until(at(60), due)), (Some(at(20)), Some(at(60))));
    }
}
