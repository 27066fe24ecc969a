//! What is true of the streams, of what publishers and clients have seen: all must agree.

use super::{Position, Publication};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Offsets of one epoch that are remembered.
const MOST: usize = 50_000_000;
/// How the names of durable streams begin; the others are the application's.
const DURABLE: &str = "entities.";

/// Whether a stream is the application's: its publications have numbers of the publisher's own, and end with the bus.
pub(crate) fn is_application(stream: &str) -> bool {
    !stream.starts_with(DURABLE)
}

/// What stands at each position, by whoever saw it first, what was published, and when the bus lost its past.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    streams: Mutex<HashMap<String, Stream>>,
    lost: Mutex<Vec<Instant>>,
}

#[derive(Debug, Default)]
struct Stream {
    epochs: HashMap<String, Epoch>,
    /// Where each number of the publisher stands: in which epoch, and at which offset.
    places: HashMap<u64, (usize, u64)>,
    /// Numbers that stand at two places.
    repeated: BTreeSet<u64>,
    /// Numbers that the publisher has begun, and those that were not acknowledged.
    started: u64,
    given_up: BTreeSet<u64>,
    /// Each highest number that was published for certain, with the moment since when that is known.
    known: Vec<(u64, Instant)>,
    top: Option<Position>,
}

#[derive(Debug)]
struct Epoch {
    order: usize,
    /// When somebody first saw it.
    born: Instant,
    /// The marks by offset; zero where nobody has looked.
    marks: Vec<u64>,
}

impl Stream {
    fn epoch(&mut self, name: &str, now: Instant) -> &mut Epoch {
        let order = self.epochs.len();
        self.epochs.entry(name.to_owned()).or_insert_with(|| Epoch { order, born: now, marks: Vec::new() })
    }

    fn knows(&mut self, number: u64, now: Instant) {
        let (last, then) = self.known.last().copied().unwrap_or((0, now));
        if number > last {
            self.known.push((number, now.max(then)));
        }
    }
}

impl Truth {
    fn with<T>(&self, channel: &str, look: impl FnOnce(&mut Stream) -> T) -> T {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(channel) {
            Some(stream) => look(stream),
            None => look(streams.entry(channel.to_owned()).or_default()),
        }
    }

    /// Somebody saw this publication; answers whether it is what others saw there.
    pub(crate) fn saw(&self, channel: &str, epoch: &str, it: Publication, now: Instant) -> bool {
        let Publication { offset, number, mark } = it;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        // No run comes so far: this is no offset.
        if at > MOST {
            return false;
        }
        self.with(channel, |stream| {
            let epoch = stream.epoch(epoch, now);
            if epoch.marks.len() <= at {
                epoch.marks.resize(at + 1, 0);
            }
            let known = std::mem::replace(&mut epoch.marks[at], mark);
            let place = (epoch.order, offset);
            if !is_application(channel) {
                stream.knows(offset, now);
            } else {
                // The publisher begins each number once: at two places somebody has repeated it.
                match stream.places.entry(number) {
                    Entry::Occupied(first) if *first.get() != place => {
                        stream.repeated.insert(number);
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(free) => {
                        free.insert(place);
                    }
                }
            }
            known == 0 || known == mark
        })
    }

    /// Somebody was told that the stream stands in this epoch.
    pub(crate) fn stands(&self, channel: &str, epoch: &str, now: Instant) {
        self.with(channel, |stream| {
            stream.epoch(epoch, now);
        });
    }

    /// The bus is about to lose what it has.
    pub(crate) fn bus_loses(&self, now: Instant) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(now);
    }

    /// Whether the bus lost the first epoch of a stream before the second began. Durable streams are not the bus's to lose.
    pub(crate) fn bus_lost(&self, channel: &str, from: &str, to: &str) -> bool {
        let born = |name: &str| self.with(channel, |stream| stream.epochs.get(name).map(|epoch| epoch.born));
        let Some((from, to)) = born(from).zip(born(to)) else { return false };
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        is_application(channel) && lost.iter().any(|at| (from..=to).contains(at))
    }

    /// The publisher begins one; answers its number.
    pub(crate) fn start(&self, channel: &str) -> u64 {
        self.with(channel, |stream| {
            stream.started += 1;
            stream.started
        })
    }

    /// It was acknowledged; answers whether that agrees with what clients saw.
    pub(crate) fn acknowledged(&self, channel: &str, position: &Position, number: u64, now: Instant) -> bool {
        let publication = Publication { offset: position.offset, number, mark: number };
        let agrees = self.saw(channel, &position.epoch, publication, now);
        self.with(channel, |stream| {
            stream.knows(number, now);
            stream.top = Some(position.clone());
        });
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

    /// The highest number that was known to be published at a moment.
    pub(crate) fn known_by(&self, channel: &str, at: Instant) -> u64 {
        self.with(channel, |stream| {
            let count = stream.known.partition_point(|(_, since)| *since <= at);
            count.checked_sub(1).map_or(0, |last| stream.known[last].0)
        })
    }

    /// How many after this one were known to be published at a moment, those left out of which nobody knows.
    pub(crate) fn missing(&self, channel: &str, after: u64, by: Instant) -> u64 {
        let last = self.known_by(channel, by);
        if last <= after {
            return 0;
        }
        let given_up = self.with(channel, |stream| stream.given_up.range(after + 1..=last).count());
        last - after - given_up as u64
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

    /// Publications that stand at two places.
    pub(crate) fn repeated(&self) -> u64 {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.values().map(|it| it.repeated.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(epoch: &str, offset: u64) -> Position {
        Position { epoch: epoch.to_owned(), offset }
    }

    fn of(offset: u64, number: u64) -> Publication {
        Publication { offset, number, mark: number }
    }

    #[test]
    fn two_who_see_different_things_at_one_position_disagree() {
        let (truth, now) = (Truth::default(), Instant::now());
        assert!(truth.saw("c", "e", of(7, 1), now) && truth.saw("c", "e", of(7, 1), now));
        assert!(truth.saw("c", "f", of(7, 2), now) && truth.saw("d", "e", of(7, 2), now));
        assert!(!truth.saw("c", "e", of(7, 2), now));
        assert!(!truth.saw("c", "e", of(u64::MAX, 3), now), "no offset at all");
        assert!(truth.acknowledged("c", &at("e", 8), 9, now) && !truth.saw("c", "e", of(8, 10), now));
        assert_eq!(truth.top("c"), Some(at("e", 8)));
    }

    /// What a proxy does that repeats a POST: each of the two has a position of its own, and nobody sees a gap.
    #[test]
    fn a_publication_that_was_repeated_is_seen() {
        let (truth, now) = (Truth::default(), Instant::now());
        for number in 1..=3 {
            assert_eq!(truth.start("c"), number);
            assert!(truth.acknowledged("c", &at("e", number), number, now));
            assert!(truth.saw("c", "e", of(number, number), now), "a client sees the same");
        }
        assert_eq!(truth.repeated(), 0);
        // The first attempt is seen by a client, the second is what the publisher hears of.
        assert_eq!(truth.start("c"), 4);
        assert!(truth.saw("c", "e", of(4, 4), now) && truth.acknowledged("c", &at("e", 5), 4, now));
        assert_eq!(truth.repeated(), 1);
        assert!(truth.saw("c", "f", of(1, 3), now));
        assert_eq!(truth.repeated(), 2, "another epoch is another place");
        assert!(truth.saw("entities.x", "e", of(1, 1), now) && truth.saw("entities.x", "f", of(1, 1), now));
        assert_eq!(truth.repeated(), 2, "changes have no number but their offset");
    }

    #[test]
    fn an_epoch_ends_with_the_bus_or_for_nothing() {
        let (truth, begun) = (Truth::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        truth.stands("c", "a", begun);
        truth.stands("c", "b", after(2));
        truth.bus_loses(after(4));
        truth.stands("c", "c", after(6));
        assert!(truth.bus_lost("c", "a", "c") && truth.bus_lost("c", "b", "c"));
        assert!(!truth.bus_lost("c", "a", "b"), "there was no reason");
        assert!(!truth.bus_lost("c", "c", "b"), "nor is there one to go back");
        assert!(!truth.bus_lost("c", "c", "c") && !truth.bus_lost("c", "a", "unknown"));
        truth.stands("entities.x", "a", begun);
        truth.stands("entities.x", "b", after(6));
        assert!(!truth.bus_lost("entities.x", "a", "b"), "the change log has not lost anything");
    }

    #[test]
    fn what_was_known_when() {
        let (truth, begun) = (Truth::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        for number in 1..=4 {
            truth.start("c");
            if number == 2 {
                truth.gave_up("c", 2);
            } else {
                truth.acknowledged("c", &at("e", number), number, after(number));
            }
        }
        assert_eq!(
            (truth.known_by("c", begun), truth.known_by("c", after(2)), truth.known_by("c", after(9))),
            (0, 1, 4)
        );
        assert_eq!(
            (truth.missing("c", 0, after(9)), truth.missing("c", 2, after(3)), truth.missing("c", 4, after(9))),
            (3, 1, 0)
        );
        assert_eq!(truth.missing("c", 9, after(9)), 0);
    }
}
