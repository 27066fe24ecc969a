//! How failed attempts are counted, and how long whoever has made too many has to wait.

use std::time::Duration;

/// The first wait; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// From when on, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRules {
    /// So many failures within the window are too many; 0: nothing is.
    pub most: u32,
    /// The window, and how long after the last wait all is forgotten.
    pub window: Duration,
    /// The longest wait.
    pub longest: Duration,
}

/// The failures of one source. Moments are told as the time since some fixed one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    count: u32,
    began: Duration,
    /// The end of the last wait.
    until: Duration,
}

impl Failures {
    /// How long it has to wait yet.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.until.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Counts one more. Those that were under way when the wait began do not make it longer.
    pub fn fail(&mut self, rules: &FailureRules, now: Duration) {
        if self.wait(now).is_some() {
            return;
        }
        if self.is_over(rules, now) {
            *self = Self { began: now, ..Self::default() };
        }
        self.count = self.count.saturating_add(1);
        if rules.most == 0 || self.count < rules.most {
            return;
        }
        let doubled = 2_u32.saturating_pow(self.count - rules.most);
        self.until = now.saturating_add(FIRST_WAIT.saturating_mul(doubled).min(rules.longest));
    }

    /// Whether nothing of it counts any more.
    #[must_use]
    pub fn is_over(&self, rules: &FailureRules, now: Duration) -> bool {
        now >= self.began.max(self.until).saturating_add(rules.window) || self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: FailureRules =
        FailureRules { most: 3, window: Duration::from_secs(60), longest: Duration::from_secs(10) };

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_grow_and_are_capped() {
        let (mut failures, mut now) = (Failures::default(), at(100));
        let mut waits = Vec::new();
        for _ in 0..9 {
            failures.fail(&RULES, now);
            let wait = failures.wait(now).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 10, 10, 10]);
        assert!(!failures.is_over(&RULES, now + at(59)) && failures.is_over(&RULES, now + at(60)));
        let off = FailureRules { most: 0, ..RULES };
        let mut unbounded = Failures::default();
        (0..1_000).for_each(|_| unbounded.fail(&off, now));
        assert_eq!(unbounded.wait(now), None);
    }

    proptest! {
        /// Whatever comes when: nobody waits who has not failed too often lately, nobody longer than the rules say, and whoever
        /// goes on failing waits no less than before.
        #[test]
        fn only_who_fails_too_often_waits(
            most in 1_u32..6, window in 1_u64..100, longest in 1_u64..100,
            steps in prop::collection::vec(0_u64..120, 1..60),
        ) {
            let rules = FailureRules { most, window: at(window), longest: at(longest) };
            let (mut failures, mut now, mut last) = (Failures::default(), at(1_000), Duration::ZERO);
            let (mut counted, mut quiet_since) = (Vec::new(), Duration::ZERO);
            for step in steps {
                now += at(step);
                let waited = failures.wait(now);
                failures.fail(&rules, now);
                let wait = failures.wait(now);
                prop_assert!(wait.unwrap_or_default() <= rules.longest);
                if waited.is_some() {
                    prop_assert_eq!(wait, waited, "who is waiting anyway waits no longer");
                    continue;
                }
                if now >= quiet_since + rules.window {
                    last = Duration::ZERO;
                }
                counted.push(now);
                if let Some(wait) = wait {
                    let lately = counted.len().checked_sub(most as usize).map(|first| &counted[first..]);
                    let close = |pair: &[Duration]| pair[1] < pair[0] + rules.window + rules.longest;
                    prop_assert!(lately.is_some_and(|all| all.windows(2).all(close)), "{counted:?}");
                    prop_assert!(wait >= last);
                    last = wait;
                }
                quiet_since = now + wait.unwrap_or_default();
            }
        }

        /// Fewer than that within each window never wait.
        #[test]
        fn who_fails_seldom_never_waits(most in 2_u32..6, pauses in prop::collection::vec(0_u64..50, 1..100)) {
            let rules = FailureRules { most, ..RULES };
            let (mut failures, mut now) = (Failures::default(), at(0));
            for pause in pauses {
                for _ in 1..most {
                    failures.fail(&rules, now);
                    prop_assert_eq!(failures.wait(now), None);
                }
                now += rules.window + at(pause);
            }
        }
    }
}
