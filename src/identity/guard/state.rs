//! Who has failed, and which tokens were good.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use dzvin_protocols::identity::{FailureRules, Failures};
use sha2::{Digest, Sha256};

/// Sources whose failures are counted: some megabytes. An address has no more than it may fail, and one of its own.
const MAX_SOURCES: usize = 20_000;
/// Tokens of each half of those that were good lately.
const MAX_KNOWN: usize = 32_768;
/// A token is known for so long at least, unless very many are, and twice as long at most.
const KNOWN: Duration = Duration::from_secs(1_800);

/// When attempts are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardRules {
    /// Failures of one address within the window; 0: any number.
    pub failures: u32,
    /// Failures of one token at one address within the window; 0: any number.
    pub token_failures: u32,
    /// The window.
    pub window: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for GuardRules {
    /// A page that tries again every few seconds waits within a minute; an office whose key was rotated stays below.
    fn default() -> Self {
        let (window, longest_wait) = (Duration::from_secs(60), Duration::from_secs(60));
        Self { failures: 300, token_failures: 10, window, longest_wait }
    }
}

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    /// From where, as limits count addresses.
    address: IpAddr,
    /// Half of a hash, which tells as many apart as there will ever be; the token itself is not remembered.
    print: u128,
}

impl Attempt {
    pub(super) fn new(address: IpAddr, secret: &str) -> Self {
        let digest = Sha256::digest(secret);
        Self { address, print: digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte)) }
    }
}

/// Whose failures are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Address(IpAddr),
    Token(IpAddr, u128),
}

impl Source {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Token(..) => "token",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    rules: GuardRules,
    failures: HashMap<Source, (Failures, u64)>,
    /// In the order in which they failed last.
    order: BTreeMap<u64, Source>,
    next: u64,
    /// Those that were good lately, the newer half first.
    known: [HashSet<u128>; 2],
    turned: Duration,
}

impl State {
    pub(super) fn replace(&mut self, rules: GuardRules) {
        self.rules = rules;
    }

    pub(super) const fn is_on(&self) -> bool {
        self.rules.failures > 0 || self.rules.token_failures > 0
    }

    pub(super) fn len(&self) -> usize {
        self.failures.len()
    }

    fn rules(&self, source: Source) -> FailureRules {
        let GuardRules { failures, token_failures, window, longest_wait: longest } = self.rules;
        let most = if matches!(source, Source::Address(_)) { failures } else { token_failures };
        FailureRules { most, window, longest }
    }

    /// Who has to wait, and how long: the token before its address.
    pub(super) fn wait(&self, attempt: &Attempt, now: Duration) -> Option<(Source, Duration)> {
        [Source::Token(attempt.address, attempt.print), Source::Address(attempt.address)].into_iter().find_map(
            |source| {
                let wait = self.failures.get(&source)?.0.wait(now)?;
                (self.rules(source).most > 0).then_some((source, wait))
            },
        )
    }

    /// Whether this very token was good lately.
    pub(super) fn knows(&self, attempt: &Attempt) -> bool {
        self.known.iter().any(|half| half.contains(&attempt.print))
    }

    pub(super) fn passed(&mut self, attempt: &Attempt, now: Duration) {
        let [newer, older] = &mut self.known;
        if newer.len() >= MAX_KNOWN || now.saturating_sub(self.turned) >= KNOWN {
            *older = std::mem::take(newer);
            self.turned = now;
        }
        newer.insert(attempt.print);
    }

    pub(super) fn failed(&mut self, attempt: &Attempt, now: Duration) {
        for half in &mut self.known {
            half.remove(&attempt.print);
        }
        for source in [Source::Token(attempt.address, attempt.print), Source::Address(attempt.address)] {
            let rules = self.rules(source);
            let place = self.next;
            self.next += 1;
            let (failures, last) = self.failures.entry(source).or_default();
            failures.fail(&rules, now);
            let before = std::mem::replace(last, place);
            // That of a new one is nobody's, or was another's who has failed since.
            if self.order.get(&before) == Some(&source) {
                self.order.remove(&before);
            }
            self.order.insert(place, source);
        }
        while self.failures.len() > MAX_SOURCES
            && let Some((_, source)) = self.order.pop_first()
        {
            self.failures.remove(&source);
        }
        self.forget_rested(now);
    }

    /// Looks at those that failed least recently: each failure at no more than it may have brought.
    fn forget_rested(&mut self, now: Duration) {
        for _ in 0..4 {
            let Some((place, source)) = self.order.first_key_value().map(|(place, source)| (*place, *source)) else {
                return;
            };
            let rules = self.rules(source);
            if self.failures.get(&source).is_some_and(|(failures, _)| !failures.is_over(&rules, now)) {
                return;
            }
            self.order.remove(&place);
            self.failures.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attempt(address: u16, token: u8) -> Attempt {
        let [a, b] = address.to_be_bytes();
        Attempt { address: [10, 0, a, b].into(), print: token.into() }
    }

    #[test]
    fn who_failed_least_recently_is_forgotten_first() {
        let mut state = State::default();
        let now = Duration::from_secs(1_000);
        (0..11_000).for_each(|address| {
            state.failed(&attempt(address, 1), now);
            state.failed(&attempt(0, 1), now);
        });
        assert_eq!((state.len(), state.order.len()), (MAX_SOURCES, MAX_SOURCES));
        assert!(state.wait(&attempt(0, 1), now).is_some(), "it goes on failing");
        let there = |state: &State, address| state.failures.contains_key(&Source::Address(attempt(address, 1).address));
        assert!(!there(&state, 1) && there(&state, 10_999));
        // And later whoever has rested.
        (0..11_000).for_each(|_| state.failed(&attempt(0, 1), now + Duration::from_secs(600)));
        assert_eq!(state.len(), 2);
    }

    #[test]
    fn tokens_are_known_for_a_while() {
        let mut state = State::default();
        let seconds = Duration::from_secs;
        state.passed(&attempt(1, 1), seconds(0));
        state.passed(&attempt(1, 2), seconds(1_800));
        assert!(state.knows(&attempt(9, 1)), "wherever it comes from");
        state.passed(&attempt(1, 3), seconds(3_600));
        assert!(!state.knows(&attempt(1, 1)) && state.knows(&attempt(1, 2)));
        state.failed(&attempt(1, 2), seconds(3_600));
        assert!(!state.knows(&attempt(1, 2)));
    }

    proptest! {
        /// Both maps say the same, whatever happens.
        #[test]
        fn what_is_counted_is_in_order(steps in prop::collection::vec((0_u16..20, 0_u8..5, 0_u64..90), 1..200)) {
            let (mut state, mut now) = (State::default(), Duration::from_secs(1));
            for (address, token, pause) in steps {
                now += Duration::from_secs(pause);
                state.failed(&attempt(address, token), now);
                prop_assert_eq!(state.order.len(), state.failures.len());
                for (place, source) in &state.order {
                    prop_assert_eq!(state.failures.get(source).map(|(_, at)| at), Some(place));
                }
            }
        }
    }
}
