//! Who tries tokens, and has to wait before the next one is looked at.
//!
//! What fails is counted twice. As this very token at this address: a client with a wrong one waits after a few attempts. And by the
//! address alone, above a far higher number, for whoever comes with another token each time. What has to wait is refused unseen, and is
//! not counted: so the one wrong client of an office never comes near the number at which its address would have to wait, and its
//! neighbours notice nothing. Should an address as a whole have to wait all the same, tokens that were good on this node lately are looked
//! at as ever: nobody has them who guesses.
//!
//! A token is known by a hash of all of it, never by what it says of itself (an API token's visible beginning, `kid` and `sub` of a JWT).
//! Those are no secrets, so anybody could keep its bearer out by failing in its name; and whoever has mended a token would wait for
//! what was wrong before. Nor would it keep anybody from guessing: an API token has 256 bits of chance, and a signature no less.
//!
//! Not counted: tokens that have expired, for their signature was good, and after a night a whole office comes with them; what could not be
//! checked; clients without any token; and a further token on a connection that has shown a good one. A node counts for itself. Maps are
//! bounded: who failed least recently is forgotten first.

mod metrics;
mod state;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dzvin_actors::platform::ports::AuthError;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

pub use self::state::GuardRules;
use self::{
    metrics::GuardMetrics,
    state::{Attempt, State},
};
use crate::platform::http::ClientAddress;

/// What a node knows of those who fail. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    state: Arc<Mutex<State>>,
    origin: Instant,
    metrics: GuardMetrics,
}

impl Default for Guard {
    fn default() -> Self {
        Self { state: Arc::default(), origin: Instant::now(), metrics: GuardMetrics::default() }
    }
}

/// One that may be looked at. What came of it is to be told.
#[derive(Debug)]
pub struct Try(Option<Attempt>);

impl Guard {
    /// Puts other rules into force; what was counted stays.
    pub fn replace(&self, rules: GuardRules) {
        self.lock().replace(rules);
    }

    /// Registers what is counted.
    pub(super) fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token, a key or a signature of this address may be looked at.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn admit(&self, address: Option<IpAddr>, secret: &str) -> Result<Try, Duration> {
        self.admit_at(address, secret, self.origin.elapsed())
    }

    fn admit_at(&self, address: Option<IpAddr>, secret: &str, now: Duration) -> Result<Try, Duration> {
        let Some(address) = address.filter(|_| !secret.is_empty()) else { return Ok(Try(None)) };
        let attempt = Attempt::new(ClientAddress::new(address).counted(), secret);
        let state = self.lock();
        if !state.is_on() {
            return Ok(Try(None));
        }
        let Some((source, wait)) = state.wait(&attempt, now).filter(|_| !state.knows(&attempt)) else {
            return Ok(Try(Some(attempt)));
        };
        drop(state);
        self.metrics.refused(source.name());
        Err(wait)
    }

    /// Says what came of one that was admitted.
    pub fn judge<T>(&self, tried: &Try, result: &Result<T, AuthError>) {
        match result {
            Ok(_) => self.passed(tried),
            Err(AuthError::Invalid) => self.failed(tried),
            Err(AuthError::Expired | AuthError::Unavailable | AuthError::TooMany(_)) => {}
        }
    }

    /// It was good.
    pub fn passed(&self, tried: &Try) {
        self.passed_at(tried, self.origin.elapsed());
    }

    fn passed_at(&self, Try(attempt): &Try, now: Duration) {
        if let Some(attempt) = attempt {
            self.lock().passed(attempt, now);
        }
    }

    /// It was wrong.
    pub fn failed(&self, tried: &Try) {
        self.failed_at(tried, self.origin.elapsed());
    }

    fn failed_at(&self, Try(attempt): &Try, now: Duration) {
        let Some(attempt) = attempt else { return };
        let mut state = self.lock();
        state.failed(attempt, now);
        self.metrics.sources(state.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFICE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));

    fn guard() -> Guard {
        let guard = Guard::default();
        guard.replace(GuardRules { failures: 20, token_failures: 3, ..GuardRules::default() });
        guard
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    fn fail(guard: &Guard, address: Option<IpAddr>, token: &str, now: Duration) -> bool {
        guard.admit_at(address, token, now).map(|tried| guard.failed_at(&tried, now)).is_ok()
    }

    #[test]
    fn one_wrong_client_does_not_shut_its_neighbours_out() {
        let guard = guard();
        let mut looked_at = 0;
        for second in 0..600 {
            for _ in 0..10 {
                looked_at += usize::from(fail(&guard, OFFICE, "a wrong token", at(second)));
            }
            assert!(guard.admit_at(OFFICE, "a new neighbour's", at(second)).is_ok(), "in second {second}");
        }
        assert!((4..20).contains(&looked_at), "of 6000 attempts {looked_at} were looked at");
        assert!(fail(&guard, OFFICE, "a wrong token", at(10_000)), "forgotten");
    }

    #[test]
    fn who_tries_many_tokens_waits_and_who_is_known_does_not() {
        let guard = guard();
        let known = guard.admit_at(OFFICE, "good", at(0)).expect("admitted");
        guard.passed_at(&known, at(0));
        let tried = (0..1_000).filter(|n| fail(&guard, OFFICE, &format!("guess {n}"), at(1))).count();
        assert_eq!(tried, 20);
        let wait = guard.admit_at(OFFICE, "another", at(1)).expect_err("refused");
        assert_eq!(wait, Duration::from_secs(1));
        let known = guard.admit_at(OFFICE, "good", at(1)).expect("was good here");
        assert!(guard.admit_at(Some([192, 0, 2, 2].into()), "another", at(1)).is_ok(), "another address");
        // It is good no more: from then on it waits like any other.
        guard.failed_at(&known, at(3));
        assert!(guard.admit_at(OFFICE, "good", at(3)).is_err());
        assert!(guard.admit_at(None, "guess", at(1)).is_ok() && guard.admit_at(OFFICE, "", at(1)).is_ok());
    }

    #[test]
    fn a_line_with_ipv6_is_one_source() {
        let guard = guard();
        let address = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 7, n, n, n, n]));
        let tried = (0..1_000).filter(|n| fail(&guard, address(*n), &format!("guess {n}"), at(0))).count();
        assert_eq!(tried, 20);
        let other = Some(IpAddr::from([0x2001, 0xdb8, 0, 8, 0, 0, 0, 1]));
        assert!(guard.admit_at(other, "guess", at(0)).is_ok());
    }

    #[test]
    fn what_is_no_guess_is_not_counted() {
        let guard = guard();
        for error in [AuthError::Expired, AuthError::Unavailable] {
            for _ in 0..100 {
                let tried = guard.admit(OFFICE, "token").expect("admitted");
                guard.judge::<()>(&tried, &Err(error));
            }
        }
        let off = Guard::default();
        off.replace(GuardRules { failures: 0, token_failures: 0, ..GuardRules::default() });
        assert!((0..1_000).all(|_| fail(&off, OFFICE, "guess", at(0))));
    }
}
