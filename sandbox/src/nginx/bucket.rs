//! The leaky bucket of NGINX's `limit_req`, in its own integer arithmetic and with explicit time. Reads no clock.
//!
//! Invariants: a refused request is charged to no zone; a first request always passes with an excess of zero; a limit per
//! minute is a smooth leak of a sixtieth per second, not a window.

use std::collections::HashMap;
use std::hash::Hash;

/// One `limit_req` directive with its zone's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Thousandths of a request a second.
    pub rate: i64,
    /// Thousandths of a request above the rate that are let through.
    pub burst: i64,
    /// Thousandths above the rate that are not delayed; `None` delays nothing.
    pub delay: Option<i64>,
}

impl Rule {
    /// `rate=N r/s burst=B`.
    pub fn per_second(rate: u64, burst: u64, delay: Option<u64>) -> Self {
        Self { rate: milli(rate), burst: milli(burst), delay: delay.map(milli) }
    }

    /// `rate=N r/m burst=B`.
    pub fn per_minute(rate: u64, burst: u64, delay: Option<u64>) -> Self {
        Self { rate: milli(rate) / 60, burst: milli(burst), delay: delay.map(milli) }
    }

    fn wait_ms(&self, excess: i64) -> i64 {
        match self.delay {
            Some(free) if excess > free && self.rate > 0 => (excess - free) * 1000 / self.rate,
            _ => 0,
        }
    }
}

fn milli(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX / 1000).saturating_mul(1000)
}

/// Where one key stands in one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    excess: i64,
    last: i64,
}

impl State {
    /// The excess that one more request at `now` would make, and whether the time moves.
    fn after(self, rule: &Rule, now: i64) -> (i64, bool) {
        let ms = match now - self.last {
            ms if ms < -60_000 => 1,
            ms => ms.max(0),
        };
        let excess = self.excess - rule.rate.saturating_mul(ms) / 1000 + 1000;
        (excess.max(0), ms > 0)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes after so many milliseconds.
    Pass(u64),
    /// It is refused.
    Refuse,
}

/// Several zones over the same kind of key: all of them must accept.
#[derive(Debug)]
pub struct Zones<K> {
    rules: Vec<Rule>,
    states: HashMap<K, Vec<State>>,
    max_keys: usize,
}

impl<K: Hash + Eq + Clone> Zones<K> {
    /// Zones that remember at most so many keys.
    pub fn new(rules: Vec<Rule>, max_keys: usize) -> Self {
        Self { rules, states: HashMap::new(), max_keys: max_keys.max(1) }
    }

    /// Judges one request at `now` (milliseconds).
    pub fn request(&mut self, key: &K, now: i64) -> Verdict {
        if self.rules.is_empty() {
            return Verdict::Pass(0);
        }
        let Some(states) = self.states.get_mut(key) else {
            self.make_room();
            self.states.insert(key.clone(), vec![State { excess: 0, last: now }; self.rules.len()]);
            return Verdict::Pass(0);
        };
        let next: Vec<(i64, bool)> =
            states.iter().zip(&self.rules).map(|(state, rule)| state.after(rule, now)).collect();
        if next.iter().zip(&self.rules).any(|((excess, _), rule)| *excess > rule.burst) {
            return Verdict::Refuse;
        }
        let mut wait = 0;
        for ((state, rule), (excess, moved)) in states.iter_mut().zip(&self.rules).zip(next) {
            state.excess = excess;
            if moved {
                state.last = now;
            }
            wait = wait.max(rule.wait_ms(excess));
        }
        Verdict::Pass(u64::try_from(wait).unwrap_or(0))
    }

    /// Forgets the key that was used longest ago when the memory is full.
    fn make_room(&mut self) {
        if self.states.len() >= self.max_keys
            && let Some(oldest) = self
                .states
                .iter()
                .min_by_key(|(_, states)| states.iter().map(|s| s.last).max())
                .map(|(key, _)| key.clone())
        {
            self.states.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed(zones: &mut Zones<u8>, now: i64, tries: usize) -> usize {
        (0..tries).filter(|_| zones.request(&1, now) != Verdict::Refuse).count()
    }

    #[test]
    fn burst_plus_one_at_once_then_one_per_interval() {
        let mut zones = Zones::new(vec![Rule::per_second(10, 50, None)], 9);
        assert_eq!(passed(&mut zones, 0, 200), 51);
        assert_eq!(passed(&mut zones, 99, 5), 0);
        assert_eq!(passed(&mut zones, 100, 5), 1);
        assert_eq!(passed(&mut zones, 400, 50), 3);
        assert_eq!(passed(&mut zones, 60_000, 500), 51);
    }

    #[test]
    fn no_burst_refuses_a_second_one_within_the_interval() {
        let mut zones = Zones::new(vec![Rule::per_second(2, 0, None)], 9);
        assert_eq!(passed(&mut zones, 0, 2), 1);
        assert_eq!(passed(&mut zones, 499, 1), 0);
        assert_eq!(passed(&mut zones, 500, 2), 1);
    }

    #[test]
    fn refusals_do_not_lengthen_the_punishment() {
        let mut zones = Zones::new(vec![Rule::per_second(1, 0, None)], 9);
        assert_eq!(passed(&mut zones, 0, 1), 1);
        for now in 1..1000 {
            assert_eq!(passed(&mut zones, now, 3), 0);
        }
        assert_eq!(passed(&mut zones, 1000, 1), 1);
    }

    #[test]
    fn a_minute_is_a_leak_and_not_a_window() {
        let mut zones = Zones::new(vec![Rule::per_minute(60, 0, None)], 9);
        assert_eq!(passed(&mut zones, 0, 60), 1);
        assert_eq!((1..=10).map(|s| passed(&mut zones, s * 1000, 9)).sum::<usize>(), 10);
    }

    #[test]
    fn delays_grow_with_the_excess_and_the_longest_wins() {
        let mut zones = Zones::new(vec![Rule::per_second(10, 20, Some(0))], 9);
        assert_eq!(zones.request(&1, 0), Verdict::Pass(0));
        assert_eq!(zones.request(&1, 0), Verdict::Pass(100));
        assert_eq!(zones.request(&1, 0), Verdict::Pass(200));
        let free = vec![Rule::per_second(10, 20, Some(2)), Rule::per_second(5, 20, Some(2))];
        let mut zones = Zones::new(free, 9);
        let waits: Vec<_> = (0..5).map(|_| zones.request(&1, 0)).collect();
        assert_eq!(waits, [0, 0, 0, 200, 400].map(Verdict::Pass));
    }

    #[test]
    fn a_request_refused_by_one_zone_is_charged_to_none() {
        let rules = vec![Rule::per_second(1000, 9, None), Rule::per_second(1, 0, None)];
        let mut zones = Zones::new(rules, 9);
        assert_eq!(passed(&mut zones, 0, 100), 1);
        let (wide, _) = zones.states[&1][0].after(&Rule::per_second(1000, 9, None), 0);
        assert_eq!(wide, 1000, "only the accepted request stands in the wide zone");
    }

    #[test]
    fn keys_are_apart_and_bounded_and_a_clock_that_goes_back_is_survived() {
        let mut zones = Zones::new(vec![Rule::per_second(1, 0, None)], 3);
        for key in 0..10u8 {
            assert_eq!(zones.request(&key, i64::from(key)), Verdict::Pass(0));
        }
        assert_eq!(zones.states.len(), 3);
        assert_eq!(zones.request(&9, -30_000), Verdict::Refuse);
        assert_eq!(zones.request(&9, -90_000), Verdict::Refuse);
        assert_eq!(zones.request(&9, 2_000), Verdict::Pass(0));
    }

    proptest! {
        /// Over any stretch no more than burst + 1 + rate x time passes, and a patient client is never refused.
        #[test]
        fn never_more_than_the_rate_allows(rate in 1u64..50, burst in 0u64..100, steps in proptest::collection::vec(0i64..300, 1..200)) {
            let mut zones = Zones::new(vec![Rule::per_second(rate, burst, None)], 9);
            let (mut now, mut count) = (0i64, 0i64);
            for step in steps {
                now += step;
                if zones.request(&1, now) != Verdict::Refuse { count += 1; }
                // Integer division may forgive a little less than one thousandth per request.
                let allowed = milli(burst) + 1000 + milli(rate) * now / 1000 + count;
                prop_assert!(count * 1000 <= allowed, "{count} passed in {now} ms");
            }
            let patient = now + 1000 / i64::try_from(rate).unwrap() + 1000;
            prop_assert_ne!(zones.request(&1, patient), Verdict::Refuse);
        }

        /// Two zones never let more through than either alone.
        #[test]
        fn zones_only_ever_restrict(rate in 1u64..20, other in 1u64..20, burst in 0u64..20, steps in proptest::collection::vec(0i64..300, 1..100)) {
            let (a, b) = (Rule::per_second(rate, burst, None), Rule::per_minute(other * 60, burst, None));
            let mut both = Zones::new(vec![a, b], 9);
            let mut zones = [Zones::new(vec![a], 9), Zones::new(vec![b], 9)];
            let (mut now, mut together, mut alone) = (0, 0, [0, 0]);
            for step in steps {
                now += step;
                together += u32::from(both.request(&1, now) != Verdict::Refuse);
                for (zone, count) in zones.iter_mut().zip(&mut alone) {
                    *count += u32::from(zone.request(&1, now) != Verdict::Refuse);
                }
            }
            prop_assert!(together <= alone[0].min(alone[1]) + 1);
        }
    }
}
