//! The checker: what one client was told on one channel, against the promise.
//!
//! Centrifuge clients have positions ([`Ledger`]): on one subscription offsets grow by exactly one, what was missed is brought when they
//! come back, or they are told that it is lost. Pusher clients have none ([`Feed`]): they are promised everything between two cuts, so
//! what the publisher had acknowledged must have come, up to the cut itself. What was published, and what stands where, is the
//! [`Truth`], which all share. Pure, time too is given, so that planted faults can be tried on it.

mod faults;
mod feed;
mod numbers;
mod tamper;
mod truth;

pub(crate) use faults::{Counts, Faults};
pub(crate) use feed::Feed;
pub(crate) use tamper::{Plant, Tamper};
pub(crate) use truth::{Truth, is_application};

use numbers::Numbers;
use std::sync::Arc;

/// The truth is shared by all.
pub(crate) type SharedTruth = Arc<Truth>;

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

/// One client's subscription to one channel, over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    at: Option<Position>,
    subscribed: bool,
    holes: Numbers,
    /// Publications that a recovery must bring; however many, if none. Whoever is further behind may be told to load its state instead:
    /// a recovery has a limit of bytes.
    pub(crate) reach: Option<u64>,
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

    /// The subscription is answered; what it had missed follows by [`Ledger::took`]. `bus_lost`: the bus had forgotten the epoch that was
    /// asked for before it gave the one of the answer, so that nobody could have recovered.
    pub(crate) fn joined(&mut self, asked: Option<&Position>, answer: &Joined, bus_lost: bool) {
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
                if self.reach.is_some_and(|reach| now.offset > asked.offset + reach) {
                    self.counts.beyond += 1;
                } else {
                    self.counts.refused += 1;
                }
                if now.offset < asked.offset {
                    self.faults.back += 1;
                }
            }
            Some(_) if bus_lost => self.counts.told += 1,
            Some(_) => self.counts.unfounded += 1,
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
            if self.holes.remove(offset) {
                self.faults.reordered += 1;
                self.faults.lost -= 1;
            } else {
                self.faults.doubled += 1;
            }
            return;
        }
        self.faults.lost += offset - at.offset - 1;
        (at.offset + 1..offset).take(numbers::MOST).for_each(|missing| {
            self.holes.insert(missing);
        });
        at.offset = offset;
    }
}

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
        ledger.joined(None, &answer("a", offset, false), false);
        ledger
    }

    #[test]
    fn every_planted_fault_is_seen() {
        let told = |plant| {
            let (mut ledger, mut tamper) = (subscribed(0), Tamper::new(plant));
            for offset in 1..=2 * tamper::PLANTED {
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
    fn a_recovery_is_from_where_the_client_stood_and_brings_everything() {
        let mut ledger = subscribed(5);
        ledger.took(6);
        ledger.left();
        let asked = ledger.position().cloned();
        ledger.joined(asked.as_ref(), &answer("a", 6, true), false);
        [7, 8, 9].into_iter().for_each(|offset| ledger.took(offset));
        assert_eq!((ledger.faults, ledger.counts.recovered), (Faults::default(), 1));
        // One that skips what it claims to have brought.
        ledger.left();
        ledger.joined(Some(&at("a", 9)), &answer("a", 10, true), false);
        ledger.took(11);
        assert_eq!(ledger.faults.false_recoveries, 1);
        ledger.joined(Some(&at("a", 11)), &answer("b", 11, true), true);
        assert_eq!(ledger.faults.false_recoveries, 2, "another epoch is no recovery");
        ledger.took(14);
        assert_eq!(ledger.faults.lost, 2);
    }

    #[test]
    fn losses_are_told_by_a_new_epoch() {
        let mut ledger = subscribed(100);
        ledger.joined(Some(&at("a", 100)), &answer("b", 3, false), true);
        ledger.took(4);
        assert_eq!((ledger.faults, ledger.counts.told, ledger.counts.refused), (Faults::default(), 1, 0));
        assert!((ledger.counts.recovered_part() - 1.0).abs() < f64::EPSILON, "nobody could have recovered");
        ledger.joined(Some(&at("b", 4)), &answer("b", 9, false), true);
        assert_eq!((ledger.faults, ledger.counts.refused), (Faults::default(), 1), "the epoch was not lost");
        ledger.joined(Some(&at("b", 9)), &answer("b", 8, false), false);
        assert_eq!(ledger.faults.back, 1, "behind in the same epoch");
        ledger.joined(Some(&at("b", 8)), &answer("b", 9_000, false), false);
        ledger.reach = Some(100);
        ledger.joined(Some(&at("b", 8)), &answer("b", 108, false), false);
        ledger.joined(Some(&at("b", 8)), &answer("b", 109, false), false);
        assert_eq!((ledger.counts.refused, ledger.counts.beyond), (4, 1), "what a recovery can bring must come");
        ledger.joined(Some(&at("b", 8)), &answer("c", 0, false), false);
        assert_eq!((ledger.counts.told, ledger.counts.unfounded), (1, 1), "a new epoch alone is no reason");
        assert!((ledger.counts.recovered_part() - 0.0).abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_comes_on_what_is_not_subscribed() {
        let mut ledger = subscribed(1);
        ledger.left();
        ledger.took(2);
        assert_eq!(ledger.faults.stray, 1);
    }
}
