//! The Mirror's side, in a process of its own: the sandbox, and a player that writes into it when told to.
//!
//! Orders are lines of JSON on standard input, each answered by one line. It ends when its input ends, so it never outlives the
//! one who started it. Objects are the real ones of the sandbox's subset under ids of our own, and what is to be written is
//! ready before the clock runs.

use crate::error::{BenchError, Fallible};
use dzvin_sandbox::{
    CollectionConfig, Control, Fault, Knobs, NginxKnobs, Phase, Sandbox, SandboxConfig, WorldKnobs, fixtures,
};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// The collection that is fed, and the kind that it becomes.
pub(crate) const COLLECTION: &str = "procedure";
/// The member that carries when the write was due, in microseconds since 1970.
pub(crate) const DUE: &str = "x_benchDue";
/// The member that carries when it was done.
pub(crate) const DONE: &str = "x_benchDone";
/// Documents above the hub's limit come to clients as a reference, without their times: flows do without them. Some room is
/// left for the members that are added.
const MAX_FLOW_BYTES: usize = 30 * 1024;
/// Most objects: the sandbox's own limit.
pub(crate) const MAX_OBJECTS: usize = 200_000;
/// Most entries and bytes of the log: a few rounds of the most objects.
const OPLOG: (usize, usize) = (4_000_000, 8 << 30);
/// How long the hub may take to come, or to take what was sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the player is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Wait until the hub follows the log.
    AwaitTail,
    /// Make a new set of objects; only those that a client gets whole when `whole`.
    Prepare { count: usize, whole: bool },
    /// Make a new set of small objects, each with so many bytes of padding.
    Padded { count: usize, bytes: usize },
    /// Hold the Mirror still, write the whole set, and wait for the word.
    Load,
    /// Let the Mirror go.
    Release,
    /// Write one object after the other, so many a second in all, each when it is due.
    Flow { rate: u32, count: usize },
}

/// What it answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why it was not done.
    pub(crate) error: Option<String>,
    /// The Mirror's address; in the first answer, which is given unasked.
    pub(crate) mirror: Option<String>,
    /// The token for it.
    pub(crate) token: Option<String>,
    /// Bytes of the set.
    pub(crate) bytes: usize,
}

/// Microseconds since 1970, by the clock that the database on the same host reads too.
pub(crate) fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Lives until standard input ends.
pub(crate) async fn run() -> Fallible<()> {
    let knobs = Knobs {
        nginx: NginxKnobs { rate_per_s: None, conn_per_ip: None, ..NginxKnobs::default() },
        world: WorldKnobs {
            oplog_entries: OPLOG.0,
            oplog_bytes: OPLOG.1,
            max_objects: MAX_OBJECTS,
            ..WorldKnobs::default()
        },
        ..Knobs::default()
    };
    let collections = vec![CollectionConfig::new(COLLECTION, "procedures")];
    let config = SandboxConfig { collections, knobs, ..SandboxConfig::default() };
    let handle = Sandbox::start(config).await.map_err(BenchError::because("starting the sandbox"))?;
    let texts = tokio::task::spawn_blocking(fixtures::subset).await.map_err(BenchError::because("reading objects"))?;
    let texts = texts.map_err(BenchError::because("reading objects"))?;
    let mut player = Player { control: handle.control(), texts, set: Vec::new(), made: 0, writes: 0 };
    let (mirror, token) = (handle.mirror_url(COLLECTION), dzvin_sandbox::DEFAULT_TOKEN.to_owned());
    answer(&Answer { mirror: Some(mirror), token: Some(token), ..Answer::default() })?;
    let mut lines = input();
    while let Some(line) = lines.recv().await {
        let order = serde_json::from_str(&line).map_err(BenchError::because("reading an order"))?;
        let done = player.obey(order).await;
        answer(&done.unwrap_or_else(|error| Answer { error: Some(error.chain()), ..Answer::default() }))?;
    }
    handle.stop().await;
    Ok(())
}

/// The lines of standard input, read on a thread that nobody has to wait for.
fn input() -> mpsc::Receiver<String> {
    let (lines_in, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines_in.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn answer(answer: &Answer) -> Fallible<()> {
    let line = serde_json::to_string(answer).map_err(BenchError::because("writing an answer"))?;
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(BenchError::because("writing an answer"))
}

struct Player {
    control: Control,
    texts: Vec<String>,
    set: Vec<String>,
    made: usize,
    writes: u64,
}

impl Player {
    async fn obey(&mut self, order: Order) -> Fallible<Answer> {
        match order {
            Order::AwaitTail => self.await_phase(Phase::Tail).await?,
            Order::Prepare { count, whole } => return self.prepare(count, whole),
            Order::Padded { count, bytes } => return Ok(self.padded(count, bytes)),
            Order::Load => self.load().await?,
            Order::Release => {
                self.control.clear("silence");
            }
            Order::Flow { rate, count } => return self.flow(rate, count).await,
        }
        Ok(Answer::default())
    }

    async fn await_phase(&self, phase: Phase) -> Fallible<()> {
        let seen = self.control.wait_until(PATIENCE, |stats| stats.links.iter().any(|link| link.phase == phase)).await;
        if seen { Ok(()) } else { Err(BenchError::new(format!("the hub's connection is not {phase:?} in time"))) }
    }

    fn prepare(&mut self, count: usize, whole: bool) -> Fallible<Answer> {
        let fitting: Vec<&String> = self.texts.iter().filter(|text| !whole || text.len() <= MAX_FLOW_BYTES).collect();
        if fitting.is_empty() || count + self.made > MAX_OBJECTS {
            return Err(BenchError::new(format!("at most {MAX_OBJECTS} objects can be written in all")));
        }
        // The id stands first and the rest follows, so that a version is made by joining two texts.
        let one = |n: usize| {
            format!("\"_id\":\"{:024x}\",{}", self.made + n, fitting[n % fitting.len()].trim_start_matches('{'))
        };
        self.set = (0..count).map(one).collect();
        self.made += count;
        Ok(Answer { bytes: self.set.iter().map(String::len).sum(), ..Answer::default() })
    }

    fn padded(&mut self, count: usize, bytes: usize) -> Answer {
        let one = |n| format!("\"_id\":\"{:024x}\",\"status\":\"active\",\"x_pad\":\"{}\"}}", n, "x".repeat(bytes));
        self.set = (self.made..self.made + count).map(one).collect();
        self.made += count;
        Answer { bytes: self.set.iter().map(String::len).sum(), ..Answer::default() }
    }

    /// The next version of an object: the same but for its times, which are new each time.
    fn version(&mut self, n: usize, due: i64) -> Fallible<String> {
        let rest = self.set.get(n).ok_or_else(|| BenchError::new("no objects were prepared"))?;
        self.writes += 1;
        Ok(format!("{{\"{DUE}\":{due},\"{DONE}\":{},\"x_benchWrite\":{},{rest}", now_micros(), self.writes))
    }

    fn put(&mut self, n: usize, due: i64) -> Fallible<()> {
        let text = self.version(n, due)?;
        self.control.put(COLLECTION, &text).map_err(BenchError::because("writing an object"))?;
        Ok(())
    }

    async fn load(&mut self) -> Fallible<()> {
        self.control.fault(Fault::Silence { after: 0 });
        for n in 0..self.set.len() {
            self.put(n, now_micros())?;
        }
        // The first operation after the fault is where it strikes.
        self.await_phase(Phase::Silent).await
    }

    /// Open loop: a write is due by the schedule, whatever became of the one before, and its due time is what is counted from.
    async fn flow(&mut self, rate: u32, count: usize) -> Fallible<Answer> {
        let set = std::mem::take(&mut self.set);
        let mut player = Self { control: self.control.clone(), texts: Vec::new(), set, made: 0, writes: self.writes };
        let flowing = std::thread::spawn(move || {
            let (begun, begun_micros) = (Instant::now(), now_micros());
            for n in 0..count {
                let due = Duration::from_secs_f64(n as f64 / f64::from(rate.max(1)));
                while let Some(left) = due.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
                    std::thread::park_timeout(left);
                }
                let due_micros = begun_micros + i64::try_from(due.as_micros()).unwrap_or(i64::MAX);
                player.put(n % player.set.len().max(1), due_micros)?;
            }
            Ok((player.set, player.writes))
        });
        let done = tokio::task::spawn_blocking(move || flowing.join()).await;
        let done = done.map_err(BenchError::because("waiting for the flow"))?;
        (self.set, self.writes) = done.map_err(|_| BenchError::new("the flow panicked"))??;
        Ok(Answer::default())
    }
}
