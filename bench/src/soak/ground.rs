//! What all clients of a soak share: where they connect, what is true, and what came of them.

use super::client::Channel;
use super::ledger::{Counts, Faults, Position, SharedTruth};
use super::line::Tls;
use super::returns::{Blows, Returns};
use super::words::{Signed, Wire};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a signature may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of what cannot be read is shown.
const SHOWN: usize = 200;

/// Where a soak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everybody does as is its mood.
    Run,
    /// All become steady, come back and catch up.
    Settle,
    /// All go for good.
    Leave,
}

/// The common ground.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The servers; clients choose one at random each time.
    pub(crate) addresses: Vec<SocketAddr>,
    /// For servers behind TLS.
    pub(crate) tls: Option<Tls>,
    /// Silence after which a client takes its connection for dead: above the ping and its answer's time.
    pub(crate) silence: Duration,
    /// How long a publication may take to a client that reads: one that has not come by then is lost, or told to be by an end of its
    /// connection.
    pub(crate) due: Duration,
    /// What stands where.
    pub(crate) truth: SharedTruth,
    /// What came of the clients.
    pub(crate) tally: Tally,
    /// For requests beside the sockets.
    pub(crate) http: reqwest::Client,
}

impl Ground {
    /// Has the hub sign for a channel of Pusher's; `None` when nobody answers.
    pub(crate) async fn sign(&self, socket: &str, channel: &str, token: &str) -> Option<Signed> {
        let form = format!("socket_id={socket}&channel_name={channel}");
        for address in &self.addresses {
            let request = self.http.post(format!("http://{address}/pusher/auth")).bearer_auth(token).timeout(PATIENCE);
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form.clone());
            if let Ok(answer) = request.send().await
                && answer.status().is_success()
                && let Ok(signed) = answer.json().await
            {
                return Some(signed);
            }
        }
        None
    }
}

/// How far a client has come on its way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Step {
    /// It waits before its next attempt.
    Away,
    /// It asks for a connection.
    Connecting,
    /// It has one and waits to be let in.
    Greeting,
    /// It waits for its channels.
    Joining,
    /// It has them all.
    Present,
}

/// All of them, by their numbers.
const STEPS: [Step; 5] = [Step::Away, Step::Connecting, Step::Greeting, Step::Joining, Step::Present];

/// One client's place in the tally.
#[derive(Debug)]
struct Place {
    step: AtomicU8,
    /// Since when it wants to be there and is not.
    missing: Mutex<Option<Instant>>,
    reached: Vec<AtomicU64>,
}

impl Place {
    fn step(&self) -> Step {
        STEPS.get(usize::from(self.step.load(Ordering::Relaxed))).copied().unwrap_or(Step::Away)
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a client stood on one of its channels when it left for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stand {
    /// The stream.
    pub(crate) stream: String,
    /// Whether its wire has positions.
    pub(crate) positions: bool,
    /// Whether it had the channel then.
    pub(crate) subscribed: bool,
    /// Where it was; without positions the offset is the last number.
    pub(crate) at: Option<Position>,
}

/// What came of the clients.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: Instant,
    places: Vec<Place>,
    inner: Mutex<Inner>,
}

/// The part that is counted seldom.
#[derive(Debug, Default, Clone)]
pub(crate) struct Inner {
    /// Durable streams with positions.
    pub(crate) durable: Side,
    /// Streams of the application with positions.
    pub(crate) application: Side,
    /// Both without positions.
    pub(crate) pusher: Side,
    /// Closed connections by wire and code; zero without a close frame.
    pub(crate) closes: BTreeMap<(&'static str, u16), u64>,
    /// Of them those whose code sends a client away for good.
    pub(crate) sent_away: u64,
    /// Connections that did not come to be, by what was met.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Subscriptions that were ended, by code.
    pub(crate) unsubscribed: BTreeMap<u32, u64>,
    /// Refusals by code.
    pub(crate) refused: BTreeMap<u32, u64>,
    /// What clients could not read, and the first of it.
    pub(crate) unreadable: (u64, String),
    /// Connections that were given up for silence.
    pub(crate) silent: u64,
    /// Connections begun in each second.
    pub(crate) arrivals: Vec<u64>,
    /// Where clients stood when they left.
    pub(crate) ends: Vec<Stand>,
    /// How they came back when they were not there.
    pub(crate) returns: Returns,
    blows: Blows,
}

/// Sums over ledgers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Side {
    /// What may not be.
    pub(crate) faults: Faults,
    /// What was.
    pub(crate) counts: Counts,
}

impl Side {
    fn add(&mut self, faults: &Faults, counts: &Counts) {
        self.faults.add(faults);
        self.counts.add(counts);
    }
}

fn named(wire: Wire) -> &'static str {
    match wire {
        Wire::Json => "json",
        Wire::Protobuf => "protobuf",
        Wire::Pusher => "pusher",
    }
}

impl Tally {
    /// For so many clients with so many channels each.
    pub(crate) fn new(clients: usize, channels: usize) -> Self {
        let place = |_| Place {
            step: AtomicU8::new(Step::Away as u8),
            missing: Mutex::new(None),
            reached: (0..channels).map(|_| AtomicU64::new(0)).collect(),
        };
        let places = (0..clients).map(place).collect();
        Self { begun: Instant::now(), places, inner: Mutex::new(Inner::default()) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A copy of all counts.
    pub(crate) fn look(&self) -> Inner {
        self.with(|inner| inner.clone())
    }

    /// Seconds since the beginning: where in `arrivals` now is.
    pub(crate) fn second(&self) -> usize {
        usize::try_from(self.begun.elapsed().as_secs()).unwrap_or(usize::MAX)
    }

    /// A connection is begun.
    pub(crate) fn arriving(&self) {
        let second = self.second();
        self.with(|inner| {
            if inner.arrivals.len() <= second {
                inner.arrivals.resize(second + 1, 0);
            }
            inner.arrivals[second] += 1;
        });
    }

    /// One did not come to be.
    pub(crate) fn failed(&self, why: &str) {
        self.with(|inner| *inner.failures.entry(why.to_owned()).or_default() += 1);
    }

    /// One was closed by the server.
    pub(crate) fn closed(&self, wire: Wire, code: u16) {
        self.with(|inner| *inner.closes.entry((named(wire), code)).or_default() += 1);
    }

    /// A code that sends away.
    pub(crate) fn sent_away(&self) {
        self.with(|inner| inner.sent_away += 1);
    }

    /// A subscription was ended.
    pub(crate) fn unsubscribed(&self, code: u32) {
        self.with(|inner| *inner.unsubscribed.entry(code).or_default() += 1);
    }

    /// Something was refused.
    pub(crate) fn refused(&self, code: u32) {
        self.with(|inner| *inner.refused.entry(code).or_default() += 1);
    }

    /// Something could not be read.
    pub(crate) fn unreadable(&self, why: &str, what: &[u8]) {
        let shown = String::from_utf8_lossy(&what[..what.len().min(SHOWN)]).into_owned();
        self.with(|inner| {
            inner.unreadable.0 += 1;
            if inner.unreadable.1.is_empty() {
                inner.unreadable.1 = format!("{why}: {shown}");
            }
        });
    }

    /// A connection was given up for silence.
    pub(crate) fn silent(&self) {
        self.with(|inner| inner.silent += 1);
    }

    /// Something of the servers' is about to go.
    pub(crate) fn blow_begins(&self, now: Instant) {
        self.with(|inner| inner.blows.begin(now));
    }

    /// It is back.
    pub(crate) fn blow_ends(&self, now: Instant) {
        self.with(|inner| inner.blows.end(now));
    }

    /// A client is not there and wants to be.
    pub(crate) fn misses(&self, n: usize, now: Instant) {
        self.places[n].missing().get_or_insert(now);
    }

    /// A client is on its way.
    pub(crate) fn steps(&self, n: usize, step: Step) {
        self.places[n].step.store(step as u8, Ordering::Relaxed);
    }

    /// A client has all its channels; `within` is how long it may have taken while nothing was broken, where that is judged.
    pub(crate) fn present(&self, n: usize, wire: Wire, within: Option<Duration>, now: Instant) {
        let before = self.places[n].step.swap(Step::Present as u8, Ordering::Relaxed);
        if before != Step::Present as u8 {
            self.judge(n, wire, within, now);
        }
    }

    /// A client has ended its life; one that was not back by then is judged as if it were now.
    pub(crate) fn gone(&self, n: usize, wire: Wire, within: Option<Duration>, now: Instant) {
        self.steps(n, Step::Away);
        self.judge(n, wire, within, now);
    }

    fn judge(&self, n: usize, wire: Wire, within: Option<Duration>, now: Instant) {
        let since = self.places[n].missing().take();
        if let Some((since, within)) = since.zip(within) {
            self.with(|inner| inner.returns.judge(named(wire), (since, now), within, &inner.blows));
        }
    }

    /// How all came to be there at the beginning is no return.
    pub(crate) fn forget_returns(&self) {
        self.with(|inner| inner.returns = Returns::default());
    }

    /// Clients that have all their channels.
    pub(crate) fn everybody_present(&self) -> usize {
        self.places.iter().filter(|place| place.step() == Step::Present).count()
    }

    /// What the others are about, in words.
    pub(crate) fn absent(&self) -> String {
        let mut counts: BTreeMap<Step, usize> = BTreeMap::new();
        for step in self.places.iter().map(Place::step).filter(|step| *step != Step::Present) {
            *counts.entry(step).or_default() += 1;
        }
        let words: Vec<String> = counts.iter().map(|(step, count)| format!("{step:?}: {count}")).collect();
        words.join(", ")
    }

    /// How far a client has come on one of its channels.
    pub(crate) fn reached(&self, n: usize, channel: usize, offset: u64) {
        self.places[n].reached[channel].store(offset, Ordering::Relaxed);
    }

    /// The same, asked.
    pub(crate) fn where_is(&self, n: usize, channel: usize) -> u64 {
        self.places[n].reached[channel].load(Ordering::Relaxed)
    }

    /// A client has gone for good.
    pub(crate) fn settle(&self, channels: &[Channel], wire: Wire) {
        self.with(|inner| {
            for channel in channels {
                let positions = wire != Wire::Pusher;
                let (subscribed, at) = if positions {
                    let side = if channel.app { &mut inner.application } else { &mut inner.durable };
                    side.add(&channel.ledger.faults, &channel.ledger.counts);
                    (channel.ledger.is_subscribed(), channel.ledger.position().cloned())
                } else {
                    inner.pusher.add(&channel.feed.faults, &channel.feed.counts);
                    let number = |offset| Position { epoch: String::new(), offset };
                    (channel.feed.is_subscribed(), channel.feed.last().map(number))
                };
                inner.ends.push(Stand { stream: channel.stream.clone(), positions, subscribed, at });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_come_back_is_seen() {
        let (tally, begun) = (Tally::new(3, 1), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        let within = Some(Duration::from_secs(11));
        for n in 0..3 {
            tally.misses(n, begun);
            tally.present(n, Wire::Pusher, within, after(1));
        }
        tally.blow_begins(after(10));
        for n in 0..3 {
            tally.steps(n, Step::Away);
            tally.misses(n, after(10));
        }
        tally.blow_ends(after(14));
        tally.steps(1, Step::Joining);
        assert_eq!((tally.everybody_present(), tally.absent()), (0, "Away: 2, Joining: 1".to_owned()));
        tally.present(0, Wire::Pusher, within, after(20));
        tally.present(0, Wire::Pusher, within, after(200));
        assert_eq!(tally.look().returns.late, 0, "once is enough");
        tally.present(1, Wire::Pusher, within, after(26));
        assert_eq!(tally.look().returns.late, 1);
        // The last one never comes; those who were there are nothing of the kind.
        for n in 0..3 {
            tally.gone(n, Wire::Pusher, within, after(100));
        }
        let returns = tally.look().returns;
        assert_eq!((returns.count, returns.late, returns.longest["pusher"]), (6, 2, Duration::from_secs(86)));
        // Whoever reads slowly is judged by where it is at the end.
        tally.misses(0, begun);
        tally.gone(0, Wire::Pusher, None, after(100));
        assert_eq!(tally.look().returns.count, 6);
        tally.forget_returns();
        assert_eq!(tally.look().returns, Returns::default());
    }
}
