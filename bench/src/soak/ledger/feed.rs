//! The checker of a client without positions.

use super::{Counts, Faults, Numbers, Truth};
use std::time::{Duration, Instant};

/// One client's subscription to one channel, over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Up to here nothing is owed; `None` while there is no subscription, or none has come on a channel that does not say.
    at: Option<u64>,
    /// What was begun before the subscription: it may come, once, or not.
    base: u64,
    early: Numbers,
    /// Since when it is subscribed, if it is.
    since: Option<Instant>,
    unsure: Numbers,
    /// What may not be.
    pub(crate) faults: Faults,
    /// What was.
    pub(crate) counts: Counts,
}

impl Feed {
    /// Subscribed: what was begun after `started` is owed. Unknown: what follows the first one.
    pub(crate) fn joined(&mut self, started: Option<u64>, now: Instant) {
        (self.at, self.base, self.since) = (started, started.unwrap_or(0), Some(now));
        self.counts.attached += 1;
        self.unsure.clear();
        self.early.clear();
    }

    /// The connection has ended. Everything of this stream that is known to be published must have come, as far as the client has read:
    /// up to `read_until`, less the time that a publication may take. What follows is lost with the connection, and told by its end.
    pub(crate) fn ended(&mut self, truth: &Truth, stream: &str, read_until: Option<Instant>, due: Duration) {
        let by = read_until.and_then(|read_until| read_until.checked_sub(due));
        let Some((since, by)) = self.since.zip(by) else { return };
        // Where nothing says what was begun before the subscription, that which became known well after it was not.
        let after = self.at.unwrap_or_else(|| truth.known_by(stream, since + due));
        self.faults.lost += truth.missing(stream, after, by);
    }

    /// Nothing is owed any more.
    pub(crate) fn left(&mut self) {
        (self.at, self.since) = (None, None);
    }

    /// Whether the channel is subscribed.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.since.is_some()
    }

    /// The last number that came, or up to which nothing was owed.
    pub(crate) fn last(&self) -> Option<u64> {
        self.at
    }

    /// A publication came; `owed` tells whether one of this number was acknowledged.
    pub(crate) fn took(&mut self, number: u64, owed: impl Fn(u64) -> bool) {
        self.counts.received += 1;
        if self.since.is_none() {
            self.faults.stray += 1;
            return;
        }
        let at = *self.at.get_or_insert(number.saturating_sub(1));
        if number <= at {
            let may = if number <= self.base { self.early.insert(number) } else { self.unsure.remove(number) };
            self.faults.doubled += u64::from(!may);
            return;
        }
        for missing in at + 1..number {
            if owed(missing) {
                self.faults.lost += 1;
            } else {
                // Nobody knows whether it was published: it may still come.
                self.unsure.insert(missing);
            }
        }
        self.at = Some(number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Plant, Position, Publication, Tamper, tamper::PLANTED};
    use super::*;

    const DUE: Duration = Duration::from_secs(10);

    /// A client to which forty are published, one a second, and which goes when so many seconds are over.
    fn told(plant: Option<Plant>, seconds: u64, given_up: &[u64]) -> Faults {
        let (truth, begun) = (Truth::default(), Instant::now());
        let (mut feed, mut tamper) = (Feed::default(), Tamper::new(plant));
        feed.joined(Some(truth.started("c")), begun);
        for number in 1..=2 * PLANTED {
            assert_eq!(truth.start("c"), number);
            let now = begun + Duration::from_secs(number);
            if given_up.contains(&number) {
                truth.gave_up("c", number);
                continue;
            }
            let position = Position { epoch: "e".to_owned(), offset: number };
            assert!(truth.acknowledged("c", &position, number, now));
            let publication = Publication { offset: 0, number, mark: number };
            tamper.pass(publication).for_each(|it| feed.took(it.number, |number| truth.owed("c", number)));
        }
        feed.ended(&truth, "c", Some(begun + Duration::from_secs(seconds)), DUE);
        feed.faults
    }

    #[test]
    fn every_planted_fault_is_seen() {
        assert_eq!(told(None, 1_000, &[]), Faults::default());
        assert_eq!(told(Some(Plant::Skip), 1_000, &[]), Faults { lost: 1, ..Faults::default() });
        assert_eq!(told(Some(Plant::Double), 1_000, &[]), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(told(Some(Plant::Swap), 1_000, &[]), Faults { lost: 1, doubled: 1, ..Faults::default() });
    }

    #[test]
    fn a_loss_at_the_tail_is_seen() {
        let lost = |lost| Faults { lost, ..Faults::default() };
        assert_eq!(told(Some(Plant::Tail), 1_000, &[]), lost(PLANTED + 1));
        assert_eq!(told(Some(Plant::Tail), 1_000, &[PLANTED, 2 * PLANTED]), lost(PLANTED - 1), "if acknowledged");
        assert_eq!(
            told(Some(Plant::Tail), PLANTED + 10, &[]),
            lost(1),
            "as long as it was due when the connection ended"
        );
        assert_eq!(told(Some(Plant::Tail), PLANTED + 9, &[]), lost(0));
        let (truth, now) = (Truth::default(), Instant::now());
        truth.start("c");
        assert!(truth.acknowledged("c", &Position { epoch: "e".to_owned(), offset: 1 }, 1, now));
        let mut feed = Feed::default();
        feed.ended(&truth, "c", Some(now + 2 * DUE), DUE);
        feed.joined(Some(1), now);
        feed.ended(&truth, "c", Some(now + 2 * DUE), DUE);
        assert_eq!(feed.faults, lost(0), "what was before it is not owed");
        feed.joined(Some(0), now);
        feed.ended(&truth, "c", None, DUE);
        assert_eq!(feed.faults, lost(0), "nor is what somebody has not read");
        feed.ended(&truth, "c", Some(now + 2 * DUE), DUE);
        assert_eq!(feed.faults, lost(1));
    }

    /// Nobody acknowledges the change of an entity, but others see it.
    #[test]
    fn what_others_saw_is_owed_to_the_silent_too() {
        let (truth, begun) = (Truth::default(), Instant::now());
        let second = Duration::from_secs(1);
        let saw = |offset, after: u32| {
            let publication = Publication { offset, number: offset, mark: 1 };
            assert!(truth.saw("entities.x", "e", publication, begun + second * after));
        };
        (1..=20).for_each(|n| saw(u64::from(n), n));
        let mut feed = Feed::default();
        feed.joined(None, begun);
        let mut quiet = Feed::default();
        quiet.joined(None, begun + second * 15);
        quiet.ended(&truth, "entities.x", Some(begun + second * 40), DUE);
        assert_eq!(quiet.faults.lost, 0, "what was known to others when it came may have been before it");
        feed.ended(&truth, "entities.x", Some(begun + second * 30), DUE);
        assert_eq!(feed.faults.lost, 10, "nothing came at all");
        feed.took(19, |_| true);
        feed.ended(&truth, "entities.x", Some(begun + second * 30), DUE);
        assert_eq!(feed.faults.lost, 11);
    }

    #[test]
    fn what_was_not_acknowledged_is_not_owed_and_may_come_late() {
        let (truth, now) = (Truth::default(), Instant::now());
        for number in 1..=5 {
            assert_eq!(truth.start("c"), number);
        }
        truth.gave_up("c", 3);
        let mut feed = Feed::default();
        feed.joined(Some(1), now);
        [1, 2, 4, 3, 5].into_iter().for_each(|number| feed.took(number, |number| truth.owed("c", number)));
        assert_eq!(feed.faults, Faults::default());
        feed.took(3, |_| true);
        feed.took(1, |_| true);
        assert_eq!(feed.faults.doubled, 2, "but once, and so may what was under way at the subscription");
        feed.left();
        feed.joined(None, now);
        feed.took(50, |_| true);
        assert_eq!(feed.faults.lost, 0, "between two connections nothing is promised");
        feed.took(52, |_| true);
        assert_eq!(feed.faults.lost, 1);
        assert_eq!(truth.published(), (5, 1));
    }

    #[test]
    fn nothing_comes_on_what_is_not_subscribed() {
        let mut feed = Feed::default();
        feed.took(1, |_| true);
        assert_eq!(feed.faults.stray, 1);
    }
}
