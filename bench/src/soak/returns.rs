//! Who is away, and for how long although nothing is broken. Pure: the moments are given.
//!
//! What a client does while servers are away is not judged here: it is away from when it wants to be there until it has all its
//! channels, and of that only the longest stretch counts in which no blow was going on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// From when each blow fell until what it had hit was back.
#[derive(Debug, Default, Clone)]
pub(crate) struct Blows(Vec<(Instant, Option<Instant>)>);

impl Blows {
    /// One falls.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.0.push((now, None));
    }

    /// What the last one hit is back.
    pub(crate) fn end(&mut self, now: Instant) {
        if let Some((_, end)) = self.0.last_mut() {
            *end = Some(now);
        }
    }

    /// The longest stretch between two moments in which no blow was going on. They come in order, one after the other.
    fn quiet(&self, from: Instant, to: Instant) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, from);
        for (begun, ended) in &self.0 {
            longest = longest.max((*begun).min(to).saturating_duration_since(since));
            since = since.max(ended.unwrap_or(to));
        }
        longest.max(to.saturating_duration_since(since))
    }
}

/// How clients came back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Returns {
    /// How often one did.
    pub(crate) count: u64,
    /// How often one took too long, or never did.
    pub(crate) late: u64,
    /// The longest, of each wire.
    pub(crate) longest: BTreeMap<&'static str, Duration>,
}

impl Returns {
    /// A client of this wire is back, or the run is over and it is not.
    pub(crate) fn judge(&mut self, wire: &'static str, away: (Instant, Instant), within: Duration, blows: &Blows) {
        let quiet = blows.quiet(away.0, away.1);
        self.count += 1;
        self.late += u64::from(quiet > within);
        let longest = self.longest.entry(wire).or_default();
        *longest = quiet.max(*longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_is_quiet_counts() {
        let begun = Instant::now();
        let quiet = |blows: &[(u32, Option<u32>)], from: u32, to: u32| {
            let at = |n: u32| begun + SECOND * n;
            let blows = Blows(blows.iter().map(|(from, to)| (at(*from), to.map(at))).collect());
            blows.quiet(at(from), at(to)).as_secs()
        };
        assert_eq!(quiet(&[], 3, 10), 7);
        assert_eq!(quiet(&[(0, Some(5))], 3, 10), 5, "since the end of the blow");
        assert_eq!(quiet(&[(0, Some(5)), (7, Some(9))], 1, 20), 11, "the longest stretch, not the sum");
        assert_eq!(quiet(&[(5, Some(6))], 1, 8), 4, "before the blow");
        assert_eq!(quiet(&[(0, Some(1)), (30, Some(31))], 10, 20), 10, "what came before and after is nothing to it");
        assert_eq!(quiet(&[(5, None)], 1, 20), 4, "a blow that is not over");
        assert_eq!(quiet(&[(5, Some(5))], 5, 9), 4, "one that is over at once");
        assert_eq!(quiet(&[(0, Some(30))], 10, 20), 0);
    }

    /// A client that stays away until the end of the run is late, however soon the others were back.
    #[test]
    fn one_that_does_not_come_back_is_late() {
        let begun = Instant::now();
        let (mut blows, mut returns) = (Blows::default(), Returns::default());
        blows.begin(begun);
        blows.end(begun + SECOND * 6);
        let within = SECOND * 11;
        returns.judge("pusher", (begun, begun + SECOND * 17), within, &blows);
        returns.judge("json", (begun, begun + SECOND * 8), within, &blows);
        assert_eq!((returns.count, returns.late), (2, 0));
        returns.judge("pusher", (begun, begun + SECOND * 18), within, &blows);
        assert_eq!((returns.count, returns.late), (3, 1));
        assert_eq!(returns.longest, BTreeMap::from([("json", SECOND * 2), ("pusher", SECOND * 12)]));
    }
}
