//! One client that means well: it keeps its positions, comes back after every cut and recovers, and has a ledger of what it was
//! told. Some come and go, some sleep with their eyes open, some read slowly.

use super::attention::Attention;
use super::ground::{Ground, Phase, Step};
use super::ledger::{Feed, Joined, Ledger, Plant, Publication, Tamper, is_application};
use super::line::{self, Came, Line};
use super::words::{FIRST, Heard, Of, Signed, Wire};
use crate::realtime::wire::PONG;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

/// Back-off of the two client libraries: the first delay, doubling with full jitter, and the longest.
const BACK_OFF: (u64, u64) = (500, 20_000);
/// `pusher-js` waits so long after a failure, always.
const PUSHER_PAUSE: Duration = Duration::from_secs(1);
/// How long a client that has waited as long as its library does may take to have all its channels: the hub's own way back to a bus that
/// is there again (at most 2 s from one attempt to the next, 3 s for one), a refusal or two that are repeated within a second, and as
/// much again for a machine that does everything itself.
const BACK: Duration = Duration::from_secs(10);
/// The longest pause when things are to come to rest.
const SETTLING: Duration = Duration::from_millis(300);
/// A slow reader takes so much, so often: less than what comes.
const SLOW: (usize, Duration) = (1024, Duration::from_millis(500));
/// An end without a code.
const CUT: u16 = 0;
/// What the kernel may keep for one.
const SLOW_BUFFER: u32 = 4096;
/// How long something else than answering may take, in milliseconds.
const VISIT: std::ops::Range<u64> = 1_000..20_000;
/// How long a visitor stays away.
const AWAY: std::ops::Range<u64> = 100..15_000;
/// How long a sleeper does not read.
const NAP: std::ops::Range<u64> = 4_000..25_000;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Reads and answers.
    Steady,
    /// Comes, leaves, comes back.
    Visitor,
    /// Does not read for a while, then goes on as if nothing had been.
    Sleeper,
    /// Reads slower than things come.
    Slow,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    n: usize,
    wire: Wire,
    mood: Mood,
    token: String,
    channels: Vec<Channel>,
    tamper: Tamper,
    random: StdRng,
    failures: u32,
    socket: String,
    attention: Attention,
}

/// One of its channels.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Its name, as this wire spells it.
    pub(crate) name: String,
    /// Its name in the hub.
    pub(crate) stream: String,
    /// Whether it is the application's.
    pub(crate) app: bool,
    /// With positions.
    pub(crate) ledger: Ledger,
    /// Without.
    pub(crate) feed: Feed,
    again: Option<Instant>,
}

/// How a connection ended.
enum End {
    /// By the server, or cut.
    Closed(u16),
    /// The client left for a while.
    Left,
    /// For good.
    Over,
}

impl Client {
    /// One of this number, wire and mood, for these streams.
    pub(crate) fn new(n: usize, wire: Wire, mood: Mood, token: String, streams: &[String], seed: u64) -> Self {
        let channel = |stream: &String| {
            let app = is_application(stream);
            let private = wire == Wire::Pusher && !app;
            let name = if private { format!("private-{stream}") } else { stream.clone() };
            let (ledger, feed) = (Ledger::default(), Feed::default());
            Channel { name, stream: stream.clone(), app, ledger, feed, again: None }
        };
        let random = StdRng::seed_from_u64(seed.wrapping_add(n as u64));
        let channels = streams.iter().map(channel).collect();
        let (tamper, socket, attention) = (Tamper::default(), String::new(), Attention::default());
        Self { n, wire, mood, token, channels, tamper, random, failures: 0, socket, attention }
    }

    /// Makes a fault on purpose.
    pub(crate) fn planting(mut self, plant: Option<Plant>) -> Self {
        self.tamper = Tamper::new(plant);
        self
    }

    /// May be told that what it missed is lost if that is more than so many publications.
    pub(crate) fn reaching(mut self, reach: u64) -> Self {
        self.channels.iter_mut().for_each(|channel| channel.ledger.reach = Some(reach));
        self
    }

    /// Whether its wire has positions.
    pub(crate) fn has_positions(&self) -> bool {
        self.wire != Wire::Pusher
    }

    /// How long it may take to be back while nothing is broken: the longest pause of its library, and the way. Whoever reads slowly is
    /// judged at the end, when it no longer does: to be told where it stands may take it minutes.
    fn back_within(&self) -> Option<Duration> {
        let pause = if self.wire == Wire::Pusher { PUSHER_PAUSE } else { Duration::from_millis(BACK_OFF.1) };
        (self.mood != Mood::Slow).then_some(pause + BACK)
    }

    /// Lives until it is told to leave; its ledgers go to the tally.
    pub(crate) async fn live(mut self, ground: Arc<Ground>, mut phase: watch::Receiver<Phase>) {
        while *phase.borrow() != Phase::Leave {
            let end = match self.arrive(&ground).await {
                Ok(line) => {
                    let end = self.stay(line, &ground, &mut phase).await;
                    self.ended(&end, &ground, Instant::now());
                    end
                }
                Err(why) => {
                    ground.tally.failed(&why);
                    ground.tally.steps(self.n, Step::Away);
                    self.failures += 1;
                    End::Closed(0)
                }
            };
            if self.tamper.is_gone() && !matches!(end, End::Over) {
                let _ = phase.wait_for(|phase| *phase == Phase::Leave).await;
                break;
            }
            let pause = match end {
                End::Over => break,
                End::Left => self.between(AWAY),
                End::Closed(code) => {
                    if !self.wire.comes_back(code) {
                        ground.tally.sent_away();
                    }
                    self.back_off(code)
                }
            };
            // Whoever is to settle comes back soon.
            let settles = *phase.borrow_and_update() != Phase::Run;
            let pause = if settles { pause.min(SETTLING) } else { pause };
            tokio::select! { () = sleep(pause) => {} _ = phase.changed() => {} }
        }
        ground.tally.gone(self.n, self.wire, self.back_within(), Instant::now());
        ground.tally.settle(&self.channels, self.wire);
    }

    /// A connection has ended.
    fn ended(&mut self, end: &End, ground: &Ground, now: Instant) {
        ground.tally.steps(self.n, Step::Away);
        let read_until = self.attention.read_until(now, ground.due);
        for channel in &mut self.channels {
            channel.feed.ended(&ground.truth, &channel.stream, read_until, ground.due);
        }
        // What stands in the ledgers of those who leave for good is judged as it is.
        if !matches!(end, End::Over) {
            self.cut();
        }
        if matches!(end, End::Closed(_)) {
            ground.tally.misses(self.n, now);
        }
    }

    fn between(&mut self, milliseconds: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(milliseconds))
    }

    fn back_off(&mut self, code: u16) -> Duration {
        if self.wire == Wire::Pusher {
            return if (4200..4300).contains(&code) { Duration::ZERO } else { PUSHER_PAUSE };
        }
        let most = (BACK_OFF.0 << self.failures.min(10)).min(BACK_OFF.1);
        self.between(0..most)
    }

    async fn arrive(&mut self, ground: &Ground) -> Result<Line, String> {
        let at = self.random.random_range(0..ground.addresses.len());
        let address = ground.addresses[at];
        ground.tally.arriving();
        ground.tally.misses(self.n, Instant::now());
        ground.tally.steps(self.n, Step::Connecting);
        let buffer = (self.mood == Mood::Slow).then_some(SLOW_BUFFER);
        let stream = line::connect(address, ground.tls.as_ref(), buffer).await;
        let stream = stream.map_err(|error| error.kind().to_string())?;
        let mut line = Line::open(stream, address, &self.wire.path()).await?;
        if let Some(hello) = self.wire.hello(&self.token) {
            let said = line.say(self.wire.opcode(), &hello).await;
            said.map_err(|error| error.kind().to_string())?;
        }
        ground.tally.steps(self.n, Step::Greeting);
        Ok(line)
    }

    async fn stay(&mut self, mut line: Line, ground: &Ground, phase: &mut watch::Receiver<Phase>) -> End {
        let mut turn = Instant::now() + self.between(VISIT);
        let mut heard = Instant::now();
        self.attention = Attention::default();
        loop {
            let now = *phase.borrow_and_update();
            // It may have been said while the connection came to be.
            if now == Phase::Leave {
                line.leave(1000).await;
                return End::Over;
            }
            let mood = if now == Phase::Run { self.mood } else { Mood::Steady };
            if mood != Mood::Slow {
                self.attention.reads(Instant::now());
            }
            line.piece = if mood == Mood::Slow { SLOW.0 } else { 16 * 1024 };
            let again = self.channels.iter().filter_map(|it| it.again).min();
            let due = again.into_iter().chain([heard + ground.silence]);
            // Nobody leaves or sleeps before it is there: how long that takes is judged.
            let restless = matches!(mood, Mood::Visitor | Mood::Sleeper) && self.subscribed();
            let due = due.chain(restless.then_some(turn)).min();
            tokio::select! {
                biased;
                _ = phase.changed() => {}
                () = sleep_until(due.unwrap_or(heard).into()) => {
                    let now = Instant::now();
                    if again.is_some_and(|again| again <= now) {
                        if self.ask_again(&mut line, ground).await.is_err() {
                            return self.closed(0, ground);
                        }
                    } else if now >= heard + ground.silence {
                        ground.tally.silent();
                        return self.closed(0, ground);
                    } else if mood == Mood::Visitor {
                        if self.random.random_bool(0.5) {
                            line.leave(1000).await;
                        }
                        return End::Left;
                    } else {
                        let nap = self.between(NAP);
                        tokio::select! { () = sleep(nap) => {} _ = phase.changed() => {} }
                        heard = Instant::now();
                        self.attention.slept(now, heard, ground.due);
                        turn = heard + self.between(VISIT);
                    }
                }
                came = line.next() => {
                    heard = Instant::now();
                    match self.take(came, &mut line, ground).await {
                        Ok(()) => {}
                        Err(code) => return self.closed(code, ground),
                    }
                    if mood == Mood::Slow {
                        sleep(SLOW.1).await;
                    }
                }
            }
        }
    }

    fn closed(&self, code: u16, ground: &Ground) -> End {
        ground.tally.closed(self.wire, code);
        End::Closed(code)
    }

    async fn take(&mut self, came: Came, line: &mut Line, ground: &Ground) -> Result<(), u16> {
        let frame = match came {
            Came::Closed(code) => return Err(code),
            Came::Ping(payload) => return line.say(PONG, &payload).await.map_err(|_| CUT),
            Came::Message(frame) => frame,
        };
        let all = self.wire.hear(&frame).map_err(|why| {
            ground.tally.unreadable(&why, &frame);
            CUT
        })?;
        for heard in all {
            match heard {
                Heard::Ping(pong) => line.say(self.wire.opcode(), &pong).await.map_err(|_| CUT)?,
                Heard::Welcome(socket) => {
                    self.failures = 0;
                    self.socket = socket;
                    ground.tally.steps(self.n, Step::Joining);
                    let now = Instant::now();
                    self.channels.iter_mut().for_each(|channel| channel.again = Some(now));
                    self.ask_again(line, ground).await.map_err(|_| CUT)?;
                }
                Heard::Joined(of, answer) => self.joined(&of, &answer, ground),
                Heard::Refused { of, code } => self.refused(&of, code, ground)?,
                Heard::Publication(name, publication) => {
                    if let Some(at) = self.channels.iter().position(|it| it.name == name) {
                        for publication in self.tamper.pass(publication) {
                            self.took(at, publication, ground);
                        }
                    } else {
                        ground.tally.unreadable("a publication of another channel", name.as_bytes());
                    }
                }
                Heard::Unsubscribed(name, code) => {
                    ground.tally.unsubscribed(code);
                    let now = Instant::now();
                    let again = now + self.between(10..200);
                    ground.tally.steps(self.n, Step::Joining);
                    ground.tally.misses(self.n, now);
                    if let Some(channel) = self.channels.iter_mut().find(|it| it.name == name) {
                        channel.ledger.left();
                        channel.again = Some(again);
                    }
                }
                Heard::Other => {}
            }
        }
        if self.subscribed() {
            ground.tally.present(self.n, self.wire, self.back_within(), Instant::now());
        }
        Ok(())
    }

    /// Asks for the channels that are due.
    async fn ask_again(&mut self, line: &mut Line, ground: &Ground) -> std::io::Result<()> {
        let now = Instant::now();
        for (id, channel) in (FIRST..).zip(&mut self.channels) {
            if channel.again.take_if(|again| *again <= now).is_none() {
                continue;
            }
            let signed = if self.wire == Wire::Pusher && !channel.app {
                match ground.sign(&self.socket, &channel.name, &self.token).await {
                    Some(signed) => Some(signed),
                    None => {
                        channel.again = Some(now + PUSHER_PAUSE);
                        continue;
                    }
                }
            } else {
                None::<Signed>
            };
            let asked = self.wire.subscribe(id, &channel.name, channel.ledger.position(), signed.as_ref());
            line.say(self.wire.opcode(), &asked).await?;
        }
        Ok(())
    }

    fn find(&mut self, of: &Of) -> Option<usize> {
        match of {
            Of::Command(id) => usize::try_from(id.checked_sub(FIRST)?).ok().filter(|at| *at < self.channels.len()),
            Of::Channel(name) => self.channels.iter().position(|it| it.name == *name),
        }
    }

    fn joined(&mut self, of: &Of, answer: &Joined, ground: &Ground) {
        let Some(at) = self.find(of) else { return };
        let (channel, now) = (&mut self.channels[at], Instant::now());
        if self.wire == Wire::Pusher {
            let started = channel.app.then(|| ground.truth.started(&channel.stream));
            channel.feed.joined(started, now);
            ground.tally.reached(self.n, at, started.unwrap_or(0));
            return;
        }
        let asked = channel.ledger.position().cloned();
        let (truth, stream, epoch) = (&ground.truth, &channel.stream, &answer.position.epoch);
        truth.stands(stream, epoch, now);
        let bus_lost = asked.as_ref().is_some_and(|asked| truth.bus_lost(stream, &asked.epoch, epoch));
        channel.ledger.joined(asked.as_ref(), answer, bus_lost);
        ground.tally.reached(self.n, at, answer.position.offset);
        for publication in &answer.missed {
            self.took(at, *publication, ground);
        }
    }

    fn refused(&mut self, of: &Of, code: u32, ground: &Ground) -> Result<(), u16> {
        ground.tally.refused(code);
        let Some(at) = self.find(of) else {
            // The connection itself: it is begun again.
            return if self.wire == Wire::Pusher { Ok(()) } else { Err(0) };
        };
        // Temporary refusals are repeated, as the libraries do; the others are told by their code.
        let again = Instant::now() + self.between(200..1_000);
        self.channels[at].again = Some(again);
        Ok(())
    }

    fn took(&mut self, at: usize, publication: Publication, ground: &Ground) {
        let channel = &mut self.channels[at];
        let Publication { offset, number, .. } = publication;
        if self.wire == Wire::Pusher {
            let (stream, app) = (&channel.stream, channel.app);
            channel.feed.took(number, |number| !app || ground.truth.owed(stream, number));
            ground.tally.reached(self.n, at, channel.feed.last().unwrap_or(0));
            return;
        }
        channel.ledger.took(offset);
        if let Some(position) = channel.ledger.position() {
            let right = ground.truth.saw(&channel.stream, &position.epoch, publication, Instant::now());
            // A change carries its kind's offset, which is that of the channel.
            if !right || (!channel.app && number != offset) {
                channel.ledger.faults.differing += 1;
            }
        }
        ground.tally.reached(self.n, at, offset);
    }

    fn subscribed(&self) -> bool {
        let pusher = self.wire == Wire::Pusher;
        self.channels.iter().all(|it| if pusher { it.feed.is_subscribed() } else { it.ledger.is_subscribed() })
    }

    fn cut(&mut self) {
        for channel in &mut self.channels {
            channel.ledger.left();
            channel.feed.left();
            channel.again = None;
        }
    }
}
