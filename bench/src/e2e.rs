//! `e2e`: from the Mirror's send to a client's receipt at a steady rate of changes, and where the time goes.
//!
//! Open loop: each write has its due time by the schedule and is counted from there, so a stall is paid for by every change that
//! had to wait. All times are of one host's clock: of the Mirror (in the object), of the database (the change's `at`, read
//! from the log afterwards) and of the client.

use crate::error::{BenchError, Fallible};
use crate::feed::{COLLECTION, Order};
use crate::floor;
use crate::host;
use crate::metrics::Scrape;
use crate::report::{progress, rounded, say, table};
use crate::sample::Samples;
use crate::subscriber::{Receipt, Subscribers};
use crate::world::{World, WorldArgs};
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// The bar for one subscriber, in milliseconds.
const BAR_P99_MS: f64 = 20.0;
/// How long after the last commit what is on its way may come.
const TAIL: Duration = Duration::from_secs(10);
/// Objects that are changed in turn: enough for no two versions of one to meet in a batch.
const OBJECTS: usize = 1_000;
/// How fast they are put there first.
const FILL_RATE: u32 = 2_000;
/// A clock that was set by more than this during a run makes it worthless.
const MAX_DRIFT: Duration = Duration::from_millis(1);
/// The hub's own histograms: what they are called here, and there.
const HISTOGRAMS: [(&str, &str); 3] = [
    ("a batch's transaction", "mirror_commit_seconds"),
    ("commit to bus", "relay_commit_to_bus_seconds"),
    ("commit to socket", "commit_to_write_seconds"),
];

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Changes a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Seconds before them that are not.
    #[arg(long, default_value_t = 5)]
    warm_up: u32,
    /// Subscribers of the additional run; 0 for none.
    #[arg(long, default_value_t = 100)]
    subscribers: usize,
    /// Print one last line of JSON.
    #[arg(long)]
    json: bool,
    /// Leave with code 2 when the bar is missed.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

/// What one run came to.
struct Outcome {
    subscribers: usize,
    /// Name for people, name in JSON, samples; the first is the whole way.
    parts: Vec<(&'static str, &'static str, Samples)>,
    /// Changes that a client did not get, or got twice or out of order.
    wrong: usize,
    own: Vec<Vec<String>>,
    hub_cpu: f64,
}

/// Runs it; answers whether the bar is reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.rate == 0 || args.seconds == 0 {
        return Err(BenchError::new("the rate and the seconds are above zero"));
    }
    let mut world = World::start(&args.world).await?;
    let mut db = world.cluster.connect().await?;
    world.feeder.tell(&Order::Prepare { count: OBJECTS, whole: true }).await?;
    world.feeder.tell(&Order::Flow { rate: FILL_RATE, count: OBJECTS }).await?;
    floor::until_top(&mut db, COLLECTION, i64::try_from(OBJECTS).unwrap_or(i64::MAX)).await?;
    let mut outcomes = Vec::new();
    for subscribers in [1, args.subscribers] {
        if subscribers > 0 && outcomes.iter().all(|it: &Outcome| it.subscribers != subscribers) {
            progress(&format!("{} s at {}/s, subscribers: {subscribers}", args.warm_up + args.seconds, args.rate));
            outcomes.push(measure(args, &mut world, &mut db, subscribers).await?);
        }
    }
    let (rss, environment) = (host::peak_rss_mib(world.hub.pid()), world.environment());
    drop(db);
    world.stop().await?;
    say(&format!(
        "\ne2e: {} changes/s for {} s, from the Mirror's send to a client's receipt",
        args.rate, args.seconds
    ));
    say(&format!("{environment}\n"));
    for outcome in &outcomes {
        outcome.show();
    }
    say(&format!("peak resident memory of the hub: {rss:.0} MiB"));
    let reached = outcomes.first().is_some_and(Outcome::reached) && outcomes.iter().all(|it| it.wrong == 0);
    say(&format!(
        "the bar: p99 below {BAR_P99_MS} ms with one subscriber, nothing lost: {}",
        if reached { "reached" } else { "MISSED" }
    ));
    if args.json {
        say(&line(args, &outcomes, rss, &environment).to_string());
    }
    Ok(!args.check || reached)
}

async fn measure(args: &Args, world: &mut World, db: &mut PgConnection, subscribers: usize) -> Fallible<Outcome> {
    let begun = floor::top(db, COLLECTION).await?;
    let count = (args.warm_up + args.seconds) as usize * args.rate as usize;
    let last = begun + i64::try_from(count).unwrap_or(i64::MAX);
    let (url, token) = (world.hub.socket_url(), world.hub.token()?);
    let channel = format!("entities.{COLLECTION}");
    let clients = Subscribers::start(&url, &token, &channel, subscribers, last).await?;
    let clock = (Instant::now(), SystemTime::now());
    let (before, used) = (world.hub.metrics().await?, world.usage());
    world.feeder.tell(&Order::Flow { rate: args.rate, count }).await?;
    // All that was written has to be committed, or the next run would begin among the changes of this one.
    floor::until_top(db, COLLECTION, last).await?;
    let mut received = clients.collect(TAIL).await?;
    // What was committed before may still have been on its way when they came.
    received.iter_mut().for_each(|all| all.retain(|receipt| receipt.offset > begun));
    let (after, used) = (world.hub.metrics().await?, world.usage().since(used));
    check_clock(clock)?;
    let committed = commits(db, begun).await?;
    let wrong = received.iter().map(|all| faults(all, begun, count)).sum();
    let first = received.iter().flatten().map(|receipt| receipt.due).filter(|due| *due > 0).min().unwrap_or(0);
    let counted_from = first + i64::from(args.warm_up) * 1_000_000;
    let counted: Vec<(Receipt, i64)> = received
        .into_iter()
        .flatten()
        .filter(|receipt| receipt.due >= counted_from)
        .filter_map(|receipt| committed.get(&receipt.offset).map(|at| (receipt, *at)))
        .collect();
    let part = |f: fn(&(Receipt, i64)) -> i64| counted.iter().map(f).collect::<Samples>();
    let parts = vec![
        ("whole way", "", part(|(it, _)| it.came - it.due)),
        ("due -> written in the Mirror", "mirror_late_", part(|(it, _)| it.done - it.due)),
        ("written -> commit begins", "mirror_to_commit_", part(|(it, at)| at - it.done)),
        ("commit begins -> receipt", "commit_to_receipt_", part(|(it, at)| it.came - at)),
    ];
    let hub_cpu = used.hub / clock.0.elapsed().as_secs_f64();
    Ok(Outcome { subscribers, parts, wrong, own: own(&before, &after), hub_cpu })
}

fn check_clock((begun, at): (Instant, SystemTime)) -> Fallible<()> {
    let (steady, wall) = (begun.elapsed(), at.elapsed().unwrap_or_default());
    let drift = steady.abs_diff(wall);
    if drift > MAX_DRIFT {
        return Err(BenchError::new(format!(
            "the clock of this host was moved by {drift:?} during the run; run it again"
        )));
    }
    Ok(())
}

/// When each change moved the stream, in microseconds since 1970.
async fn commits(db: &mut PgConnection, after: i64) -> Fallible<HashMap<i64, i64>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        r#"SELECT "offset", (EXTRACT(EPOCH FROM at) * 1000000)::int8 FROM changes WHERE kind = $1 AND "offset" > $2"#,
    )
    .bind(COLLECTION)
    .bind(after)
    .fetch_all(db)
    .await
    .map_err(BenchError::because("reading the log"))?;
    Ok(rows.into_iter().collect())
}

/// How many of the offsets after `begun` are not where they belong.
fn faults(received: &[Receipt], begun: i64, count: usize) -> usize {
    let astray = (begun + 1..).zip(received).filter(|(offset, receipt)| receipt.offset != *offset).count();
    astray + count.abs_diff(received.len())
}

/// The hub's own view of the same time.
fn own(before: &Scrape, after: &Scrape) -> Vec<Vec<String>> {
    let seen = HISTOGRAMS.iter().filter_map(|(name, histogram)| Some((name, after.since(before, histogram)?)));
    let ms = |seconds: f64| if seconds.is_finite() { format!("{:.2}", seconds * 1e3) } else { "-".to_owned() };
    seen.map(|(name, spread)| {
        vec![(*name).to_owned(), format!("{:.0}", spread.count), ms(spread.mean), ms(spread.p99_below)]
    })
    .collect()
}

impl Outcome {
    fn reached(&self) -> bool {
        self.parts.first().is_some_and(|(_, _, way)| way.len() > 0 && way.ms(99.0) < BAR_P99_MS)
    }

    fn show(&self) {
        let row = |name: &str, samples: &Samples| {
            let mut row = vec![name.to_owned(), samples.len().to_string()];
            row.extend([50.0, 90.0, 99.0, 100.0].map(|p| format!("{:.2}", samples.ms(p))));
            row
        };
        let title = format!("subscribers: {}", self.subscribers);
        let rows: Vec<_> = self.parts.iter().map(|(name, _, samples)| row(name, samples)).collect();
        table(&[&title, "receipts", "p50 ms", "p90 ms", "p99 ms", "max ms"], &rows);
        say(&format!(
            "lost, doubled or out of order: {}; the hub used {:.0} % of a core\n",
            self.wrong,
            self.hub_cpu * 100.0
        ));
        table(&["the hub's own histograms", "seen", "mean ms", "99 % below ms"], &self.own);
        say("");
    }

    fn json(&self, into: &mut Map<String, Value>, prefix: &str) {
        for (_, name, samples) in &self.parts {
            for (suffix, p) in [("p50_ms", 50.0), ("p90_ms", 90.0), ("p99_ms", 99.0), ("max_ms", 100.0)] {
                into.insert(format!("{prefix}{name}{suffix}"), rounded(samples.ms(p), 3).into());
            }
        }
        into.insert(format!("{prefix}wrong"), self.wrong.into());
    }
}

fn line(args: &Args, outcomes: &[Outcome], rss: f64, environment: &str) -> Value {
    let mut all = Map::new();
    all.insert("scenario".to_owned(), "e2e".into());
    for outcome in outcomes {
        let prefix =
            if outcome.subscribers == 1 { String::new() } else { format!("subscribers_{}_", outcome.subscribers) };
        outcome.json(&mut all, &prefix);
    }
    all.extend([
        ("rate".to_owned(), json!(args.rate)),
        ("seconds".to_owned(), json!(args.seconds)),
        ("bar_p99_ms".to_owned(), json!(BAR_P99_MS)),
        ("hub_peak_rss_mib".to_owned(), json!(rounded(rss, 1))),
        ("environment".to_owned(), json!(environment)),
    ]);
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(offsets: &[i64]) -> Vec<Receipt> {
        offsets.iter().map(|offset| Receipt { offset: *offset, due: 0, done: 0, came: 0 }).collect()
    }

    #[test]
    fn whatever_is_not_in_its_place_counts() {
        assert_eq!(faults(&received(&[8, 9, 10]), 7, 3), 0);
        assert!(faults(&received(&[8, 10]), 7, 3) > 0, "lost");
        assert!(faults(&received(&[8, 8, 9, 10]), 7, 3) > 0, "doubled");
        assert!(faults(&received(&[9, 8, 10]), 7, 3) > 0, "out of order");
        assert!(faults(&[], 7, 3) > 0, "nothing came");
    }
}
