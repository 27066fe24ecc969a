//! Who may have a session on this node, before anything is built for it.
//!
//! Three limits, each with an answer of its own: sessions of the node, sessions of one client address, new sessions in a
//! second. What was taken is a [`Permit`], given back when it is dropped, wherever that happens. An address is kept only while
//! it has a session, so there are never more of them than sessions. A refusal takes nothing from anybody: who is over one limit
//! does not use up another.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::StatusCode;
use dzvin_actors::channels::Permit;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{sync::Semaphore, time::Instant};

use crate::platform::{
    config::Channels,
    http::{ClientAddress, Problem},
};

/// When an address that is full should ask again: its sessions last for minutes and hours, not for seconds.
const ADDRESS_RETRY: Duration = Duration::from_secs(30);

/// The limits of a node and what is taken of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    refused: Family<Reason, Counter>,
    addresses: Gauge,
}

#[derive(Debug)]
struct State {
    /// 0: any number.
    per_address: usize,
    /// How many sessions each address has. Empty while there is no such limit.
    held: HashMap<IpAddr, usize>,
    connects: Bucket,
}

/// Which limit it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    limit: &'static str,
}

impl Admission {
    /// From the configuration.
    #[must_use]
    pub fn new(config: &Channels) -> Self {
        let state = State {
            per_address: config.max_sessions_per_address,
            held: HashMap::new(),
            connects: Bucket::new(config.max_connects_per_second, Instant::now()),
        };
        Self(Arc::new(Inner {
            places: Arc::new(Semaphore::new(config.max_sessions)),
            state: Mutex::new(state),
            refused: Family::default(),
            addresses: Gauge::default(),
        }))
    }

    /// Names the metrics under `dzvin_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("admission");
        registry.register("refused", "Sessions that were refused, by the limit", self.0.refused.clone());
        registry.register("addresses", "Client addresses that are counted", self.0.addresses.clone());
    }

    /// Puts other limits into force, for those who come from now on. The number of places stays.
    pub fn update(&self, config: &Channels) {
        let mut state = self.0.lock();
        state.per_address = config.max_sessions_per_address;
        state.connects.set_rate(config.max_connects_per_second);
    }

    /// A place for a session, held as long as the permit is.
    ///
    /// # Errors
    /// 503 `too_many_sessions`, 429 `too_many_from_address`, 503 `too_many_connects`; each says when to come again.
    pub fn admit(&self, client: Option<ClientAddress>) -> Result<Permit, Problem> {
        self.admit_at(client, Instant::now())
    }

    /// The same; who gets none here asks [`Admission::admit`] next, so it is not counted.
    pub(super) fn try_admit(&self, client: ClientAddress) -> Option<Permit> {
        self.place(Some(client), Instant::now()).ok()
    }

    fn admit_at(&self, client: Option<ClientAddress>, now: Instant) -> Result<Permit, Problem> {
        self.place(client, now).map_err(|(limit, problem)| {
            self.0.refused.get_or_create(&Reason { limit }).inc();
            problem
        })
    }

    /// A refusal has the name of its limit.
    fn place(&self, client: Option<ClientAddress>, now: Instant) -> Result<Permit, (&'static str, Problem)> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let detail = "this node has all the connections that it may have; try again soon";
            ("node", Problem::unavailable("too_many_sessions", detail))
        })?;
        let mut state = self.0.lock();
        let address = match client.map(ClientAddress::counted).filter(|_| state.per_address > 0) {
            Some(address) if state.held.get(&address).is_some_and(|held| *held >= state.per_address) => {
                let detail = "this address has all the connections that it may have";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_from_address", detail);
                return Err(("address", problem.retry_after(ADDRESS_RETRY)));
            }
            address => address,
        };
        if let Err(wait) = state.connects.take(now) {
            let detail = "this node takes no more connections in this second; try again";
            return Err(("rate", Problem::unavailable("too_many_connects", detail).retry_after(wait)));
        }
        let permit = Permit::from(place).of_address(client.map(ClientAddress::ip));
        let Some(address) = address else { return Ok(permit) };
        *state.held.entry(address).or_default() += 1;
        self.0.count(&state);
        Ok(permit.with(Share { of: Arc::clone(&self.0), address }))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &State) {
        self.addresses.set(i64::try_from(state.held.len()).unwrap_or(i64::MAX));
    }
}

/// One session of an address.
struct Share {
    of: Arc<Inner>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        if let Entry::Occupied(mut held) = state.held.entry(self.address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        // Room that a storm has made is given back.
        if state.held.capacity() > 4 * state.held.len().max(256) {
            state.held.shrink_to_fit();
        }
        self.of.count(&state);
    }
}

/// A bucket of tokens that fills with time. It holds what comes together in one second.
#[derive(Debug)]
struct Bucket {
    /// Tokens in a second; 0: no limit.
    rate: u32,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: u32, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate), filled: now }
    }

    fn set_rate(&mut self, rate: u32) {
        // Whoever had no limit begins with a full bucket.
        self.tokens = if self.rate == 0 { f64::from(rate) } else { self.tokens.min(f64::from(rate)) };
        self.rate = rate;
    }

    /// Takes one, or says how long it takes until there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate == 0 {
            return Ok(());
        }
        let rate = f64::from(self.rate);
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        (self.tokens, self.filled) = ((self.tokens + gained).min(rate), now);
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(change: impl FnOnce(&mut Channels)) -> Admission {
        let mut config = Channels::default();
        change(&mut config);
        Admission::new(&config)
    }

    fn from(text: &str) -> Option<ClientAddress> {
        Some(ClientAddress::new(text.parse().expect("an address")))
    }

    fn refusal(result: Result<Permit, Problem>) -> &'static str {
        result.map(drop).expect_err("refused").code()
    }

    #[tokio::test]
    async fn places_come_back() {
        let admission = admission(|config| config.max_sessions = 2);
        let first = admission.admit(None).expect("a place");
        let _second = admission.admit(from("192.0.2.1")).expect("a place");
        assert_eq!(refusal(admission.admit(None)), "too_many_sessions");
        drop(first);
        drop(admission.admit(None).expect("a place again"));
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_no_more() {
        let admission = admission(|config| config.max_sessions_per_address = 2);
        let mut held =
            vec![admission.admit(from("192.0.2.1")).expect("one"), admission.admit(from("192.0.2.1")).expect("two")];
        assert_eq!(refusal(admission.admit(from("192.0.2.1"))), "too_many_from_address");
        held.push(admission.admit(from("192.0.2.2")).expect("another address"));
        // All addresses of a line are one.
        held.push(admission.admit(from("2001:db8::1")).expect("one"));
        held.push(admission.admit(from("2001:db8::ffff:2")).expect("two"));
        assert_eq!(refusal(admission.admit(from("2001:db8::3"))), "too_many_from_address");
        held.push(admission.admit(from("2001:db8:0:1::3")).expect("another line"));
        // Who has no address of its own comes over a listener that knows none.
        held.push(admission.admit(None).expect("nobody's"));
        assert_eq!(admission.0.addresses.get(), 4);
        held.remove(0);
        held.push(admission.admit(from("192.0.2.1")).expect("again"));
        drop(held);
        assert_eq!((admission.0.addresses.get(), admission.0.lock().held.len()), (0, 0), "nobody is remembered");
        assert_eq!(admission.0.places.available_permits(), Channels::default().max_sessions);
    }

    #[tokio::test]
    async fn many_addresses_leave_no_room_behind() {
        let admission = admission(|config| config.max_sessions_per_address = 1);
        let held: Vec<_> = (0..20_000_u32)
            .map(|n| admission.admit(Some(ClientAddress::new(IpAddr::from(n.to_be_bytes())))).expect("a place"))
            .collect();
        assert_eq!(admission.0.addresses.get(), 20_000);
        drop(held);
        assert!(admission.0.lock().held.capacity() <= 4 * 256);
    }

    #[tokio::test]
    async fn connects_have_a_rate() {
        let admission = admission(|config| {
            config.max_connects_per_second = 10;
            config.max_sessions_per_address = 1;
        });
        // After the bucket was made, and the same for all.
        let now = Instant::now();
        let admit = |client, ms| admission.admit_at(client, now + Duration::from_millis(ms));
        let held: Vec<_> = (0..9).map(|_| admit(None, 0).expect("within the second")).collect();
        // Who is refused for another reason uses nothing up.
        let one = admit(from("192.0.2.1"), 0).expect("the tenth");
        assert_eq!(refusal(admit(from("192.0.2.1"), 0)), "too_many_from_address");
        assert_eq!(refusal(admit(None, 0)), "too_many_connects");
        assert_eq!(refusal(admit(from("192.0.2.2"), 0)), "too_many_connects");
        assert_eq!(admission.0.addresses.get(), 1, "who was refused is not counted");
        drop(admit(None, 101).expect("a tenth of a second, one more"));
        assert_eq!(refusal(admit(None, 101)), "too_many_connects");
        let many: usize = (0..100).filter(|_| admit(None, 3_600_000).is_ok()).count();
        assert_eq!(many, 10, "rest is not saved up");
        drop((held, one));
    }

    #[tokio::test]
    async fn limits_change_while_it_runs() {
        let admission = admission(|_| ());
        let now = Instant::now();
        let before = admission.admit_at(from("192.0.2.1"), now).expect("no limit");
        admission.update(&Channels { max_sessions_per_address: 1, max_connects_per_second: 2, ..Channels::default() });
        let after = admission.admit_at(from("192.0.2.1"), now).expect("counted from now on");
        assert_eq!(refusal(admission.admit_at(from("192.0.2.1"), now)), "too_many_from_address");
        drop((before, after));
        drop(admission.admit_at(from("192.0.2.1"), now).expect("the second of two"));
        assert_eq!(refusal(admission.admit_at(None, now)), "too_many_connects");
        admission.update(&Channels::default());
        drop(admission.admit_at(None, now).expect("no limit again"));
    }

    #[test]
    fn a_wait_is_as_long_as_it_takes() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1, now);
        assert_eq!(bucket.take(now), Ok(()));
        assert_eq!(bucket.take(now + Duration::from_millis(250)), Err(Duration::from_millis(750)));
        assert_eq!(bucket.take(now + Duration::from_secs(1)), Ok(()));
        // A clock that stands still gives nothing.
        assert!(bucket.take(now).is_err());
    }
}
