//! How often one address may send commands for sessions that it does not have: it guesses, or it has not noticed an end.
//!
//! Only what is refused counts, so a whole office behind one address may send as much as its sessions take. What is for another
//! node is refused there, which tells this one; until then a few more have been looked at. An address is known until it is rested, and there are at most so many of them: beyond that nobody is counted, which is better than to
//! refuse those who do nothing wrong.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::time::Instant;

use crate::platform::http::{ClientAddress, Problem};

/// Addresses that are known at once: a megabyte.
const MAX_ADDRESSES: usize = 10_000;
/// Between two looks for those that are rested, while there is no room.
const SWEEP: Duration = Duration::from_millis(100);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// On average, and as many at once; 0: any number.
    per_second: f64,
    state: Mutex<State>,
    addresses: Gauge,
    refused: Counter,
}

#[derive(Debug, Default)]
struct State {
    /// How much each has left, and when that was.
    left: HashMap<IpAddr, (f64, Instant)>,
    swept: Option<Instant>,
}

impl Refusals {
    /// So many a second of one address; 0: any number.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self(Arc::new(Inner {
            per_second: per_second.into(),
            state: Mutex::default(),
            addresses: Gauge::default(),
            refused: Counter::default(),
        }))
    }

    /// Names the metrics under `dzvin_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("emulation");
        let addresses = "Client addresses whose refused commands are counted";
        registry.register("refusal_addresses", addresses, self.0.addresses.clone());
        let refused = "Requests that were not looked at because their address had too many refused before";
        registry.register("refused_unseen", refused, self.0.refused.clone());
    }

    /// Whether something of this address may be looked at.
    ///
    /// # Errors
    /// 429 `too_many_refused`, and when to come again.
    pub(super) fn admit(&self, client: Option<ClientAddress>) -> Result<(), Problem> {
        self.admit_at(client, Instant::now())
    }

    fn admit_at(&self, client: Option<ClientAddress>, now: Instant) -> Result<(), Problem> {
        let Some(address) = client.map(ClientAddress::counted).filter(|_| self.0.per_second > 0.0) else {
            return Ok(());
        };
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state.left.get(&address).map_or(1.0, |held| self.0.refilled(*held, now));
        drop(state);
        if left >= 1.0 {
            return Ok(());
        }
        self.0.refused.inc();
        let detail = "too many commands of this address were for sessions that are not there; connect again";
        let wait = Duration::from_secs_f64((1.0 - left) / self.0.per_second);
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_refused", detail).retry_after(wait))
    }

    /// Something of this address was refused.
    pub(super) fn count(&self, client: Option<ClientAddress>) {
        self.count_at(client, Instant::now());
    }

    /// Another node has refused something of this address, which it names as it was told it.
    pub(in crate::channels) fn count_address(&self, address: IpAddr) {
        self.count_at(Some(ClientAddress::new(address)), Instant::now());
    }

    fn count_at(&self, client: Option<ClientAddress>, now: Instant) {
        let Some(address) = client.map(ClientAddress::counted).filter(|_| self.0.per_second > 0.0) else { return };
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { left, swept } = &mut *state;
        if left.len() >= MAX_ADDRESSES && swept.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
            *swept = Some(now);
            left.retain(|_, held| self.0.refilled(*held, now) < self.0.per_second);
        }
        if left.len() < MAX_ADDRESSES || left.contains_key(&address) {
            let held = left.entry(address).or_insert((self.0.per_second, now));
            // Those that come at once may all have been looked at: what is owed is bounded.
            *held = ((self.0.refilled(*held, now) - 1.0).max(-self.0.per_second), now);
        }
        self.0.addresses.set(i64::try_from(left.len()).unwrap_or(i64::MAX));
    }
}

impl Inner {
    fn refilled(&self, (left, at): (f64, Instant), now: Instant) -> f64 {
        (left + now.saturating_duration_since(at).as_secs_f64() * self.per_second).min(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn from(n: u32) -> Option<ClientAddress> {
        Some(ClientAddress::new(Ipv4Addr::from_bits(n).into()))
    }

    #[test]
    fn only_what_is_refused_counts() {
        let (refusals, begun) = (Refusals::new(3), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        let admitted = |n: u32, millis| refusals.admit_at(from(n), at(millis)).is_ok();
        assert!((0..100).all(|_| admitted(1, 0)));
        for _ in 0..3 {
            assert!(admitted(1, 0) && admitted(2, 0));
            refusals.count_at(from(1), at(0));
        }
        assert!(!admitted(1, 0) && admitted(2, 0) && refusals.admit(None).is_ok(), "each address by itself");
        assert_eq!(refusals.admit_at(from(1), at(0)).expect_err("too many").code(), "too_many_refused");
        assert!(admitted(1, 334));
        // However many were under way when it was full.
        (0..100).for_each(|_| refusals.count_at(from(1), at(334)));
        assert!(admitted(1, 334 + 1334));
        assert_eq!(refusals.0.refused.get(), 2);
        refusals.count_address(Ipv4Addr::from_bits(9).into());
        assert_eq!(refusals.0.addresses.get(), 2);
        let free = Refusals::new(0);
        (0..100).for_each(|_| free.count(from(1)));
        assert!(free.admit(from(1)).is_ok());
    }

    #[test]
    fn many_addresses_take_no_more_room() {
        let (refusals, begun) = (Refusals::new(1), Instant::now());
        (0..20_000).for_each(|n| refusals.count_at(from(n), begun));
        assert_eq!(refusals.0.addresses.get(), 10_000);
        assert!(refusals.admit_at(from(0), begun).is_err() && refusals.admit_at(from(15_000), begun).is_ok());
        let later = begun + Duration::from_secs(5);
        refusals.count_at(from(15_000), later);
        assert_eq!(refusals.0.addresses.get(), 1);
        assert!(refusals.admit_at(from(15_000), later).is_err());
    }
}
