//! The load generator: a process of its own with one thread and one `epoll`, so that thousands of clients cost little beside the
//! server that they measure.
//!
//! Orders are lines of JSON on standard input, each answered by one line; it ends when its input ends. Between orders it goes
//! on answering pings.

mod client;
mod publisher;
pub(in crate::realtime) mod seal;
mod speech;
mod swarm;
mod tally;
mod template;

use super::orders::{Answer, Order, Plan, Spread};
use super::stamp;
use super::usage::Look;
use crate::error::{BenchError, Fallible};
use crate::sample::Samples;
use mio::{Events, Poll, Token, Waker};
use publisher::{FIRST_TOKEN, Publisher};
use std::io::Write;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use swarm::Swarm;

/// The token of the thread that reads orders.
const WAKER: Token = Token(usize::MAX);
/// Events that are taken at a time: few, so that what is due to be sent does not wait behind them.
const EVENTS: usize = 256;
/// Bytes that are read at a time.
const BUFFER: usize = 64 * 1024;
/// Connections that are begun before others are looked at.
const STRIDE: usize = 32;
/// After so long without anything new, what is missing will not come.
const STALLED: Duration = Duration::from_secs(5);
/// The same for connections: above the kernel's first repeats of a request to connect.
const PATIENCE: Duration = Duration::from_secs(20);
/// The least for which `epoll` can wait.
const TICK: Duration = Duration::from_millis(1);
/// Above this rate a wait that is a tick too long is better than a core that spins.
const SPIN_BELOW: f64 = 500.0;

/// Lives until its input ends.
pub(crate) fn run() -> Fallible<()> {
    let poll = Poll::new().map_err(BenchError::because("opening epoll"))?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(BenchError::because("opening epoll"))?;
    let orders = input(Arc::new(waker));
    let mut drive = Drive::new(poll);
    loop {
        match orders.try_recv() {
            Ok(line) => {
                let order = serde_json::from_str(&line).map_err(BenchError::because("reading an order"))?;
                let done = drive.obey(order);
                drive.publisher = None;
                answer(&done.unwrap_or_else(|error| Answer { error: Some(error.chain()), ..Answer::default() }))?;
            }
            Err(mpsc::TryRecvError::Empty) => drive.turn(None)?,
            Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// The lines of standard input, read on a thread that wakes ours.
fn input(waker: Arc<Waker>) -> mpsc::Receiver<String> {
    let (lines_in, lines) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines_in.send(line).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(lines_in);
        let _ = waker.wake();
    });
    lines
}

fn answer(answer: &Answer) -> Fallible<()> {
    let line = serde_json::to_string(answer).map_err(BenchError::because("writing an answer"))?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(BenchError::because("writing an answer"))
}

fn looks(pids: &[u32]) -> Vec<Look> {
    pids.iter().map(|pid| Look::at(*pid)).collect()
}

/// What each process used since.
fn used(pids: &[u32], before: &[Look]) -> Vec<Look> {
    looks(pids).into_iter().zip(before).map(|(now, before)| now.since(*before)).collect()
}

struct Drive {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    swarm: Swarm,
    publisher: Option<Publisher>,
}

impl Drive {
    fn new(poll: Poll) -> Self {
        let (events, buffer) = (Events::with_capacity(EVENTS), vec![0; BUFFER]);
        Self { poll, events, buffer, swarm: Swarm::new(), publisher: None }
    }

    fn obey(&mut self, order: Order) -> Fallible<Answer> {
        self.swarm.reset();
        match order {
            Order::Open { addresses, dialect, names, count, tokens, concurrency, pids } => {
                self.swarm.prepare(&addresses, dialect, names, tokens.as_deref())?;
                self.open(count, concurrency, &pids)
            }
            Order::Flow { plan, rate, seconds, pids } => self.flow(&plan, rate, seconds, &pids),
            Order::Rest { seconds, pids } => self.rest(seconds, &pids),
            Order::Close => {
                self.swarm.close();
                Ok(Answer::default())
            }
        }
    }

    /// Waits for events and handles them.
    fn turn(&mut self, wait: Option<Duration>) -> Fallible<()> {
        match self.poll.poll(&mut self.events, wait) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(BenchError::because("waiting for events")(error));
            }
            _ => {}
        }
        for event in &self.events {
            match event.token() {
                WAKER => {}
                Token(n) if n >= FIRST_TOKEN => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.ready(n - FIRST_TOKEN, &mut self.buffer)?;
                    }
                }
                Token(n) => self.swarm.ready(n, &mut self.buffer),
            }
        }
        Ok(())
    }

    fn open(&mut self, count: usize, concurrency: usize, pids: &[u32]) -> Fallible<Answer> {
        let (before, begun, started) = (looks(pids), stamp::now_us(), Instant::now());
        let limit = if concurrency == 0 { count } else { concurrency };
        let (mut next, mut known, mut moved) = (0, 0, Instant::now());
        while self.swarm.settled() < count {
            let room = limit.saturating_sub(next - self.swarm.settled()).min(count - next).min(STRIDE);
            for _ in 0..room {
                // In a storm all are due at once; else each when its turn comes.
                let due = if concurrency == 0 { begun } else { stamp::now_us() };
                self.swarm.connect(self.poll.registry(), due)?;
                next += 1;
            }
            self.turn(Some(if room > 0 { Duration::ZERO } else { TICK * 100 }))?;
            if self.swarm.settled() + next > known {
                (known, moved) = (self.swarm.settled() + next, Instant::now());
            } else if moved.elapsed() > PATIENCE {
                self.swarm.give_up();
            }
        }
        let tally = self.swarm.tally();
        let spread = Spread::from(&tally.join_times());
        let seconds = started.elapsed().as_secs_f64();
        Ok(self.answer(Answer { spread, seconds, used: used(pids, &before), ..Answer::default() }))
    }

    fn flow(&mut self, plan: &Plan, rate: f64, seconds: f64, pids: &[u32]) -> Fallible<Answer> {
        let audience = self.swarm.audience(plan.names.count);
        self.publisher = Some(Publisher::start(plan, audience, self.poll.registry())?);
        let before = looks(pids);
        let (begun, begun_us) = (Instant::now(), stamp::now_us());
        let count = if rate > 0.0 { (rate * seconds) as usize } else { usize::MAX };
        let due = |n: usize| Duration::from_secs_f64(if rate > 0.0 { n as f64 / rate } else { 0.0 });
        let (mut next, mut known, mut moved) = (0, 0, Instant::now());
        loop {
            let elapsed = begun.elapsed();
            let ended = if rate > 0.0 { next >= count } else { elapsed.as_secs_f64() >= seconds };
            let Some(publisher) = &mut self.publisher else { break };
            if rate > 0.0 {
                while next < count && due(next) <= elapsed {
                    publisher.due(begun_us + i64::try_from(due(next).as_micros()).unwrap_or(i64::MAX));
                    next += 1;
                }
            } else if !ended {
                (0..publisher.free()).for_each(|_| publisher.due(stamp::now_us()));
            }
            publisher.pump()?;
            let progress = publisher.published + publisher.failed + self.swarm.tally().deliveries() + next;
            if ended && publisher.idle() && self.swarm.tally().deliveries() >= publisher.expected {
                break;
            }
            if progress != known {
                (known, moved) = (progress, Instant::now());
            } else if ended && moved.elapsed() > STALLED {
                break;
            }
            let left = if next < count && rate > 0.0 { due(next).saturating_sub(begun.elapsed()) } else { TICK * 100 };
            // The last part of a tick is spent turning round, unless that would be always.
            let wait = if left >= TICK { left.min(TICK * 100) - TICK } else { Duration::ZERO };
            self.turn(Some(if rate > SPIN_BELOW { TICK } else { wait }))?;
        }
        let used = used(pids, &before);
        let Some(publisher) = self.publisher.take() else { return Err(BenchError::new("nobody publishes")) };
        let tally = self.swarm.tally();
        let last = if tally.deliveries() > 0 { tally.last } else { stamp::now_us() };
        Ok(self.answer(Answer {
            why: publisher.why,
            published: publisher.published,
            failed: publisher.failed,
            expected: publisher.expected,
            deliveries: tally.deliveries(),
            seconds: (last - begun_us) as f64 / 1e6,
            spread: Spread::from(&tally.receipt_times()),
            accepted: Spread::from(&publisher.took.into_iter().collect::<Samples>()),
            late: Spread::from(&publisher.late.into_iter().collect::<Samples>()),
            used,
            ..Answer::default()
        }))
    }

    fn rest(&mut self, seconds: f64, pids: &[u32]) -> Fallible<Answer> {
        let (before, begun) = (looks(pids), Instant::now());
        let whole = Duration::from_secs_f64(seconds.max(0.0));
        while let Some(left) = whole.checked_sub(begun.elapsed()).filter(|left| *left >= TICK) {
            self.turn(Some(left))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(self.answer(Answer { seconds, used: used(pids, &before), ..Answer::default() }))
    }

    /// Adds what is known of the clients.
    fn answer(&self, answer: Answer) -> Answer {
        let tally = self.swarm.tally();
        Answer {
            why: answer.why.or_else(|| tally.why.clone()),
            subscribed: self.swarm.subscribed(),
            refused: tally.refused,
            cut: tally.cut,
            pings: tally.pings,
            ..answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realtime::floor::Floor;
    use crate::realtime::orders::{Api, Dialect, Names};

    #[test]
    fn the_floor_delivers_everything_and_pings() {
        let (floor, address) = Floor::bind().unwrap();
        std::thread::spawn(move || floor.serve(200, 10));
        let mut drive = Drive::new(Poll::new().unwrap());
        let (addresses, own) = (vec![address.to_string()], vec![std::process::id()]);
        let names = Names { pattern: "bench.{n}".to_owned(), count: 4 };
        let open = |concurrency| Order::Open {
            addresses: addresses.clone(),
            dialect: Dialect::Raw,
            names: names.clone(),
            count: 40,
            tokens: None,
            concurrency,
            pids: own.clone(),
        };
        let flow = |batch, rate| Order::Flow {
            plan: Plan {
                addresses: addresses.clone(),
                api: Api::Raw,
                authorization: None,
                names: names.clone(),
                payload: 128,
                batch,
                in_flight: 2,
            },
            rate,
            seconds: 0.2,
            pids: own.clone(),
        };
        for concurrency in [5, 0] {
            let opened = drive.obey(open(concurrency)).unwrap();
            assert_eq!((opened.subscribed, opened.refused), (40, 0), "{opened:?}");
        }
        let steady = drive.obey(flow(1, 100.0)).unwrap();
        assert_eq!((steady.published, steady.expected, steady.deliveries), (20, 200, 200), "{steady:?}");
        assert!(steady.spread.p50 > 0.0 && steady.used.len() == 1);
        let burst = drive.obey(flow(8, 0.0)).unwrap();
        assert!(burst.published >= 8 && burst.expected == burst.published * 10, "{burst:?}");
        assert_eq!(burst.deliveries, burst.expected);
        let rest = drive.obey(Order::Rest { seconds: 0.5, pids: own.clone() }).unwrap();
        assert!(rest.pings >= 40 && rest.subscribed == 40 && rest.cut == 0, "{rest:?}");
        drive.obey(Order::Close).unwrap();
    }

    #[test]
    fn nobody_listens() {
        let free = crate::world::free_address().unwrap();
        let mut drive = Drive::new(Poll::new().unwrap());
        let names = Names { pattern: "a".to_owned(), count: 1 };
        let (addresses, dialect) = (vec![free], Dialect::Centrifuge);
        let order = Order::Open { addresses, dialect, names, count: 3, tokens: None, concurrency: 1, pids: Vec::new() };
        let answer = drive.obey(order).unwrap();
        assert_eq!((answer.subscribed, answer.refused), (0, 3));
        assert!(answer.why.is_some());
    }
}
