//! `soak`: the hub's resident memory over a million small changes, or over large objects in a row.
//!
//! One subscriber follows to the end: it must not be closed and must get every change in order, of the large ones references. Memory is
//! flat when the end is no higher than what the first fifth of the run came to, with some allowance.

use crate::error::{BenchError, Fallible};
use crate::feed::{COLLECTION, Order};
use crate::floor;
use crate::host;
use crate::report::{progress, say, table};
use crate::subscriber::Subscribers;
use crate::world::{World, WorldArgs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Distinct objects among the small changes: enough that no cache of the hub holds one object alone.
const OBJECTS: usize = 10_000;
/// Bytes of a large object: the most that the Mirror promises.
const LARGE_BYTES: usize = 7_500_000;
/// Large objects a second: about what a socket of a slow upstream gives.
const LARGE_RATE: u32 = 2;
/// What peak resident memory may be with large objects, in MiB.
const LARGE_BAR: f64 = 256.0;
/// The part of the run that warms up.
const WARM_UP: f64 = 0.2;
/// Growth that counts as flat: this part, or this many MiB.
const FLAT: (f64, f64) = (0.1, 16.0);
/// Samples whose mean is the value at a moment.
const AROUND: usize = 5;
/// How long the hub may take for what is left when the Mirror has sent all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Small changes in all.
    #[arg(long, default_value_t = 1_000_000)]
    changes: usize,
    /// Small changes a second.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// So many objects of 7.5 MB instead.
    #[arg(long, conflicts_with = "changes")]
    large: Option<usize>,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

/// Runs it; answers whether the bar is reached.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let count = args.large.unwrap_or(args.changes);
    if count == 0 {
        return Err(BenchError::new("at least one change"));
    }
    let mut world = World::start(&args.world).await?;
    let mut db = world.cluster.connect().await?;
    let begun = floor::top(&mut db, COLLECTION).await?;
    let channel = format!("entities.{COLLECTION}");
    let last = begun + i64::try_from(count).unwrap_or(i64::MAX);
    let subscriber = Subscribers::start(&world.hub.socket_url(), &world.hub.token()?, &channel, 1, last).await?;
    let (rate, prepare) = match args.large {
        Some(count) => (LARGE_RATE, Order::Padded { count, bytes: LARGE_BYTES }),
        None => (args.rate, Order::Padded { count: OBJECTS.min(count), bytes: 0 }),
    };
    world.feeder.tell(&prepare).await?;
    progress(&format!("{count} changes at {rate}/s"));
    let started = Instant::now();
    let watch = Watch::start(world.hub.pid());
    world.feeder.tell(&Order::Flow { rate, count }).await?;
    let top = until_top(&mut db, begun, count).await?;
    let receipts = subscriber.collect(PATIENCE).await?;
    let samples = watch.stop();
    let peak = host::peak_rss_mib(world.hub.pid());
    let environment = world.environment();
    drop(db);
    world.stop().await?;

    say(&format!("\nsoak: {count} changes in {:.0} s, one subscriber", started.elapsed().as_secs_f64()));
    say(&format!("{environment}\n"));
    let all = top == count;
    let offsets: Vec<_> = receipts.iter().flatten().map(|receipt| receipt.offset).collect();
    let ordered = offsets.len() == count && offsets.windows(2).all(|w| w[1] == w[0] + 1);
    let memory = Memory::of(&samples);
    let row = [memory.start, memory.warm, memory.end, peak].map(|mib| format!("{mib:.1}"));
    table(&["start MiB", "after a fifth", "end", "peak"], &[row.to_vec()]);
    say(&format!("\nslope after the first fifth: {:.2} MiB an hour over {} samples", memory.slope, samples.len()));
    say(&format!("committed: {top} of {count}; the subscriber got {} in order: {ordered}", offsets.len()));
    let bar = if args.large.is_some() { peak < LARGE_BAR } else { memory.flat() };
    let what = if args.large.is_some() { "peak below 256 MiB" } else { "flat: within 10 % or 16 MiB" };
    say(&format!("the bar: {what}: {}", if bar && all && ordered { "reached" } else { "MISSED" }));
    Ok(bar && all && ordered)
}

async fn until_top(db: &mut sqlx::PgConnection, begun: i64, count: usize) -> Fallible<usize> {
    let since = Instant::now();
    loop {
        let done = usize::try_from(floor::top(db, COLLECTION).await? - begun).unwrap_or_default();
        if done >= count || since.elapsed() > PATIENCE {
            return Ok(done);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Resident memory once a second.
pub(crate) struct Watch {
    samples: Arc<Mutex<Vec<f64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Begins.
    pub(crate) fn start(pid: u32) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let own = samples.clone();
        let task = tokio::spawn(async move {
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                own.lock().unwrap_or_else(PoisonError::into_inner).push(host::rss_mib(pid));
            }
        });
        Self { samples, task }
    }

    /// Ends, and answers the samples in MiB.
    pub(crate) fn stop(self) -> Vec<f64> {
        self.task.abort();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the samples say, in MiB.
#[derive(Debug, PartialEq)]
pub(crate) struct Memory {
    /// The first one.
    pub(crate) start: f64,
    /// After the warm-up.
    pub(crate) warm: f64,
    /// The last ones.
    pub(crate) end: f64,
    /// An hour, by least squares over what follows the warm-up.
    pub(crate) slope: f64,
}

impl Memory {
    /// Of one sample a second.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let (_, steady) = samples.split_at((samples.len() as f64 * WARM_UP) as usize);
        let (middle, level) = ((steady.len() as f64 - 1.0) / 2.0, mean(steady));
        let across: f64 = (0..steady.len()).map(|n| (n as f64 - middle).powi(2)).sum();
        let along: f64 = steady.iter().enumerate().map(|(n, y)| (n as f64 - middle) * (y - level)).sum();
        Self {
            start: samples.first().copied().unwrap_or_default(),
            warm: mean(&steady[..AROUND.min(steady.len())]),
            end: mean(&steady[steady.len().saturating_sub(AROUND)..]),
            slope: if across > 0.0 { along / across * 3600.0 } else { 0.0 },
        }
    }

    /// Zero is no measurement.
    pub(crate) fn flat(&self) -> bool {
        self.warm > 0.0 && self.end > 0.0 && self.end <= (self.warm * (1.0 + FLAT.0)).max(self.warm + FLAT.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_after_the_warm_up_is_seen() {
        let grown = |by: f64| -> Vec<f64> { (0..500).map(|n| 80.0 + f64::from(n) * by).collect() };
        let (steady, leak) = (Memory::of(&grown(0.0)), Memory::of(&grown(0.1)));
        assert!(steady.flat() && steady.slope.abs() < 1e-6);
        assert!(!leak.flat() && (leak.slope - 360.0).abs() < 1e-6, "{leak:?}");
        let warming: Vec<f64> = (0..100).map(|n| 20.0 + f64::from(n)).chain([120.0; 400]).collect();
        assert!(Memory::of(&warming).flat());
        assert!(!Memory::of(&[]).flat());
    }
}
