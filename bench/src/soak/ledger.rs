//! The checker: what one client was told on one channel, against the promise.
//!
//! Centrifuge clients have positions: on one subscription offsets grow by exactly one, what was missed is brought when they come back,
//! or they are told that it is lost. Pusher clients have none: they are promised everything between two cuts, so what the
//! publisher had acknowledged must have come. Pure, so that planted faults can be tried on it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Offsets that are known to be missing, so that one that comes late is told apart from one that never comes.
const HOLES: usize = 10_000;

/// Offsets of one epoch that are remembered.
const MOST: usize = 50_000_000;

/// A place in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// Another one says that the past is lost.
    pub(crate) epoch: String,
    /// Grows by one with each publication.
    pub(crate) offset: u64,
}

/// The answer to a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Joined {
    /// Where the client now stands; when it recovered, before the publications.
    pub(crate) position: Position,
    /// Whether all that it missed is in the publications.
    pub(crate) recovered: bool,
    /// What it missed.
    pub(crate) missed: Vec<Publication>,
}

/// A publication, reduced to what can be wrong about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Publication {
    /// Its offset; zero on a wire without.
    pub(crate) offset: u64,
    /// The number inside: the publisher's own, or of a change the offset of its kind.
    pub(crate) number: u64,
    /// What it says, as one number: two with the same position must have the same.
    pub(crate) mark: u64,
}

/// What may never be above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Faults {
    /// Publications that were passed over without a word.
    pub(crate) lost: u64,
    /// Publications that came twice.
    pub(crate) doubled: u64,
    /// Publications that came behind a later one.
    pub(crate) reordered: u64,
    /// Said to be recovered, but not from where the client stood.
    pub(crate) false_recoveries: u64,
    /// A position behind the client's own, in the same epoch.
    pub(crate) back: u64,
    /// Other clients, or the publisher, saw something else at the same position.
    pub(crate) differing: u64,
    /// Publications on a channel that was not subscribed.
    pub(crate) stray: u64,
}

/// What is only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Publications.
    pub(crate) received: u64,
    /// First subscriptions.
    pub(crate) attached: u64,
    /// Came back and were given all that they had missed.
    pub(crate) recovered: u64,
    /// Came back and were told that the past is lost, by another epoch.
    pub(crate) told: u64,
    /// The same in the epoch that they knew.
    pub(crate) refused: u64,
}

/// One client's subscription to one channel, over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    at: Option<Position>,
    subscribed: bool,
    holes: BTreeSet<u64>,
    /// What may not be.
    pub(crate) faults: Faults,
    /// What was.
    pub(crate) counts: Counts,
}

impl Ledger {
    /// Where to recover from.
    pub(crate) fn position(&self) -> Option<&Position> {
        self.at.as_ref()
    }

    /// Whether the channel is subscribed.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// The subscription is answered; what it had missed follows by [`Ledger::took`].
    pub(crate) fn joined(&mut self, asked: Option<&Position>, answer: &Joined) {
        self.subscribed = true;
        let now = &answer.position;
        match asked {
            None => self.counts.attached += 1,
            Some(asked) if answer.recovered => {
                self.counts.recovered += 1;
                if now != asked {
                    self.faults.false_recoveries += 1;
                }
            }
            Some(asked) if now.epoch == asked.epoch => {
                self.counts.refused += 1;
                if now.offset < asked.offset {
                    self.faults.back += 1;
                }
            }
            Some(_) => self.counts.told += 1,
        }
        if !answer.recovered {
            self.holes.clear();
        }
        self.at = Some(now.clone());
    }

    /// The subscription has ended, with its connection or alone.
    pub(crate) fn left(&mut self) {
        self.subscribed = false;
    }

    /// A publication came, in a recovery or live.
    pub(crate) fn took(&mut self, offset: u64) {
        self.counts.received += 1;
        let Some(at) = self.at.as_mut().filter(|_| self.subscribed) else {
            self.faults.stray += 1;
            return;
        };
        if offset <= at.offset {
            if self.holes.remove(&offset) {
                self.faults.reordered += 1;
                self.faults.lost -= 1;
            } else {
                self.faults.doubled += 1;
            }
            return;
        }
        let missing = at.offset + 1..offset;
        self.faults.lost += offset - at.offset - 1;
        self.holes.extend(missing.take(HOLES.saturating_sub(self.holes.len())));
        at.offset = offset;
    }
}

/// The same for a client without positions.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    /// Up to here nothing is owed; `None` while there is no subscription, or none has come on a channel that does not say.
    at: Option<u64>,
    /// What was begun before the subscription: it may come, once, or not.
    base: u64,
    early: BTreeSet<u64>,
    subscribed: bool,
    unsure: BTreeSet<u64>,
    /// What may not be.
    pub(crate) faults: Faults,
    /// What was.
    pub(crate) counts: Counts,
}

impl Feed {
    /// Subscribed: what was begun after `started` is owed. Unknown: what follows the first one.
    pub(crate) fn joined(&mut self, started: Option<u64>) {
        (self.at, self.base, self.subscribed) = (started, started.unwrap_or(0), true);
        self.counts.attached += 1;
        self.unsure.clear();
        self.early.clear();
    }

    /// The connection has ended, and with it what is owed.
    pub(crate) fn left(&mut self) {
        (self.at, self.subscribed) = (None, false);
    }

    /// Whether the channel is subscribed.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// The last number that came.
    pub(crate) fn last(&self) -> Option<u64> {
        self.at
    }

    /// A publication came; `owed` tells whether one of this number was acknowledged.
    pub(crate) fn took(&mut self, number: u64, owed: impl Fn(u64) -> bool) {
        self.counts.received += 1;
        if !self.subscribed {
            self.faults.stray += 1;
            return;
        }
        let at = *self.at.get_or_insert(number.saturating_sub(1));
        if number <= self.base {
            if self.early.len() < HOLES && !self.early.insert(number) {
                self.faults.doubled += 1;
            }
            return;
        }
        if number <= at {
            if !self.unsure.remove(&number) {
                self.faults.doubled += 1;
            }
            return;
        }
        for missing in at + 1..number {
            if owed(missing) {
                self.faults.lost += 1;
            } else if self.unsure.len() < HOLES {
                // Nobody knows whether it was published: it may still come.
                self.unsure.insert(missing);
            }
        }
        self.at = Some(number);
    }
}

/// What stands at each position, by whoever saw it first: all must agree.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    streams: Mutex<HashMap<String, Stream>>,
}

#[derive(Debug, Default)]
struct Stream {
    /// The marks of each epoch, by offset; zero where nobody has looked.
    epochs: HashMap<String, Vec<u64>>,
    /// Numbers that the publisher has begun, and those that were not acknowledged.
    started: u64,
    given_up: BTreeSet<u64>,
    top: Option<Position>,
}

impl Truth {
    fn with<T>(&self, channel: &str, look: impl FnOnce(&mut Stream) -> T) -> T {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(channel) {
            Some(stream) => look(stream),
            None => look(streams.entry(channel.to_owned()).or_default()),
        }
    }

    /// Whether what was seen at a position is what others saw there.
    pub(crate) fn agrees(&self, channel: &str, epoch: &str, offset: u64, mark: u64) -> bool {
        self.with(channel, |stream| {
            let marks = match stream.epochs.get_mut(epoch) {
                Some(marks) => marks,
                None => stream.epochs.entry(epoch.to_owned()).or_default(),
            };
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            // No run comes so far: this is no offset.
            if at > MOST {
                return false;
            }
            if marks.len() <= at {
                marks.resize(at + 1, 0);
            }
            let known = std::mem::replace(&mut marks[at], mark);
            known == 0 || known == mark
        })
    }

    /// The publisher begins one; answers its number.
    pub(crate) fn start(&self, channel: &str) -> u64 {
        self.with(channel, |stream| {
            stream.started += 1;
            stream.started
        })
    }

    /// It was acknowledged; answers whether that agrees with what clients saw.
    pub(crate) fn acknowledged(&self, channel: &str, position: Position, mark: u64) -> bool {
        let agrees = self.agrees(channel, &position.epoch, position.offset, mark);
        self.with(channel, |stream| stream.top = Some(position));
        agrees
    }

    /// Nobody knows what became of it.
    pub(crate) fn gave_up(&self, channel: &str, number: u64) {
        self.with(channel, |stream| stream.given_up.insert(number));
    }

    /// The last number that was begun.
    pub(crate) fn started(&self, channel: &str) -> u64 {
        self.with(channel, |stream| stream.started)
    }

    /// Whether one of this number was acknowledged.
    pub(crate) fn owed(&self, channel: &str, number: u64) -> bool {
        self.with(channel, |stream| number <= stream.started && !stream.given_up.contains(&number))
    }

    /// The last position that was acknowledged.
    pub(crate) fn top(&self, channel: &str) -> Option<Position> {
        self.with(channel, |stream| stream.top.clone())
    }

    /// Publications that were begun, and how many of them nobody acknowledged.
    pub(crate) fn published(&self) -> (u64, u64) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let given_up = streams.values().map(|it| it.given_up.len() as u64).sum();
        (streams.values().map(|it| it.started).sum(), given_up)
    }
}

/// A fault that is made on purpose, to see that the checker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plant {
    /// One publication is swallowed.
    Skip,
    /// One comes twice.
    Double,
    /// Two change places.
    Swap,
}

/// Which publication of a client is tampered with: late enough to be in the middle of things.
const PLANTED: u64 = 20;

/// Hands publications on, with the fault in its place.
#[derive(Debug, Default)]
pub(crate) struct Tamper {
    plant: Option<Plant>,
    seen: u64,
    held: Option<Publication>,
}

impl Tamper {
    /// With this fault, if any.
    pub(crate) fn new(plant: Option<Plant>) -> Self {
        Self { plant, seen: 0, held: None }
    }

    /// What is handed on in place of this one.
    pub(crate) fn pass(&mut self, publication: Publication) -> impl Iterator<Item = Publication> + use<> {
        self.seen += u64::from(self.plant.is_some());
        let here = self.seen == PLANTED;
        let (first, second) = match self.plant {
            Some(Plant::Skip) if here => (None, None),
            Some(Plant::Double) if here => (Some(publication), Some(publication)),
            Some(Plant::Swap) if here => {
                self.held = Some(publication);
                (None, None)
            }
            _ => (Some(publication), self.held.take()),
        };
        first.into_iter().chain(second)
    }
}

impl Faults {
    /// All of them, by name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("reordered", self.reordered),
            ("recovered from elsewhere", self.false_recoveries),
            ("gone back", self.back),
            ("differing", self.differing),
            ("stray", self.stray),
        ]
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.false_recoveries += other.false_recoveries;
        self.back += other.back;
        self.differing += other.differing;
        self.stray += other.stray;
    }
}

impl Counts {
    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.attached += other.attached;
        self.recovered += other.recovered;
        self.told += other.told;
        self.refused += other.refused;
    }

    /// The part of those who came back that was given everything; all, when nobody came back.
    pub(crate) fn recovered_part(&self) -> f64 {
        let all = self.recovered + self.told + self.refused;
        if all == 0 { 1.0 } else { self.recovered as f64 / all as f64 }
    }
}

/// The truth is shared by all.
pub(crate) type SharedTruth = Arc<Truth>;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.to_owned(), offset }
    }

    fn answer(epoch: &str, offset: u64, recovered: bool) -> Joined {
        Joined { position: at(epoch, offset), recovered, missed: Vec::new() }
    }

    fn subscribed(offset: u64) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.joined(None, &answer("a", offset, false));
        ledger
    }

    #[test]
    fn every_planted_fault_is_seen() {
        let told = |plant| {
            let (mut ledger, mut tamper) = (subscribed(0), Tamper::new(plant));
            for offset in 1..=2 * PLANTED {
                let publication = Publication { offset, number: offset, mark: offset };
                tamper.pass(publication).for_each(|it| ledger.took(it.offset));
            }
            ledger.faults
        };
        assert_eq!(told(None), Faults::default());
        assert_eq!(told(Some(Plant::Skip)), Faults { lost: 1, ..Faults::default() });
        assert_eq!(told(Some(Plant::Double)), Faults { doubled: 1, ..Faults::default() });
        assert_eq!(told(Some(Plant::Swap)), Faults { reordered: 1, ..Faults::default() });
    }

    #[test]
    fn the_same_without_positions() {
        let told = |plant| {
            let (mut feed, mut tamper) = (Feed::default(), Tamper::new(plant));
            feed.joined(Some(0));
            for number in 1..=2 * PLANTED {
                let publication = Publication { offset: 0, number, mark: number };
                tamper.pass(publication).for_each(|it| feed.took(it.number, |_| true));
            }
            feed.faults
        };
        assert_eq!(told(None), Faults::default());
        assert_eq!(told(Some(Plant::Skip)).lost, 1);
        assert_eq!(told(Some(Plant::Double)).doubled, 1);
        assert_eq!(told(Some(Plant::Swap)), Faults { lost: 1, doubled: 1, ..Faults::default() });
    }

    #[test]
    fn a_recovery_is_from_where_the_client_stood_and_brings_everything() {
        let mut ledger = subscribed(5);
        ledger.took(6);
        ledger.left();
        let asked = ledger.position().cloned();
        ledger.joined(asked.as_ref(), &answer("a", 6, true));
        [7, 8, 9].into_iter().for_each(|offset| ledger.took(offset));
        assert_eq!((ledger.faults, ledger.counts.recovered), (Faults::default(), 1));
        // One that skips what it claims to have brought.
        ledger.left();
        ledger.joined(Some(&at("a", 9)), &answer("a", 10, true));
        ledger.took(11);
        assert_eq!(ledger.faults.false_recoveries, 1);
        ledger.joined(Some(&at("a", 11)), &answer("b", 11, true));
        assert_eq!(ledger.faults.false_recoveries, 2, "another epoch is no recovery");
        ledger.took(14);
        assert_eq!(ledger.faults.lost, 2);
    }

    #[test]
    fn losses_are_told_by_a_new_epoch() {
        let mut ledger = subscribed(100);
        ledger.joined(Some(&at("a", 100)), &answer("b", 3, false));
        ledger.took(4);
        assert_eq!((ledger.faults, ledger.counts.told, ledger.counts.refused), (Faults::default(), 1, 0));
        ledger.joined(Some(&at("b", 4)), &answer("b", 9, false));
        assert_eq!((ledger.faults, ledger.counts.refused), (Faults::default(), 1));
        ledger.joined(Some(&at("b", 9)), &answer("b", 8, false));
        assert_eq!(ledger.faults.back, 1, "behind in the same epoch");
        assert!((ledger.counts.recovered_part() - 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_comes_on_what_is_not_subscribed() {
        let mut ledger = subscribed(1);
        ledger.left();
        ledger.took(2);
        let mut feed = Feed::default();
        feed.took(1, |_| true);
        assert_eq!((ledger.faults.stray, feed.faults.stray), (1, 1));
    }

    #[test]
    fn what_was_not_acknowledged_is_not_owed_and_may_come_late() {
        let truth = Truth::default();
        for number in 1..=5 {
            assert_eq!(truth.start("c"), number);
        }
        truth.gave_up("c", 3);
        let mut feed = Feed::default();
        feed.joined(Some(1));
        [1, 2, 4, 3, 5].into_iter().for_each(|number| feed.took(number, |number| truth.owed("c", number)));
        assert_eq!(feed.faults, Faults::default());
        feed.took(3, |_| true);
        feed.took(1, |_| true);
        assert_eq!(feed.faults.doubled, 2, "but once, and so may what was under way at the subscription");
        feed.left();
        feed.joined(None);
        feed.took(50, |_| true);
        assert_eq!(feed.faults.lost, 0, "between two connections nothing is promised");
        feed.took(52, |_| true);
        assert_eq!(feed.faults.lost, 1);
        assert_eq!(truth.published(), (5, 1));
    }

    #[test]
    fn two_who_see_different_things_at_one_position_disagree() {
        let truth = Truth::default();
        assert!(truth.agrees("c", "e", 7, 1) && truth.agrees("c", "e", 7, 1));
        assert!(truth.agrees("c", "f", 7, 2) && truth.agrees("d", "e", 7, 2));
        assert!(!truth.agrees("c", "e", 7, 2));
        assert!(truth.acknowledged("c", at("e", 8), 9) && !truth.agrees("c", "e", 8, 10));
        assert_eq!(truth.top("c"), Some(at("e", 8)));
    }
}
