//! `ingest`: objects a second through a real Mirror socket, beside the floor of the same run.
//!
//! Each round: a new set of objects is written into the Mirror while it is held still, then it is let go and sends as fast as
//! the hub takes; then the floor writes the same rows; then the same with the set's objects changed. Hub and floor take turns, so
//! what disturbs the machine disturbs both; medians of the rounds are compared.

use crate::error::{BenchError, Fallible};
use crate::feed::{COLLECTION, MAX_OBJECTS, Order};
use crate::floor::{self, Pace};
use crate::host;
use crate::report::{grouped, progress, rounded, say, table};
use crate::sample::median;
use crate::world::{Usage, World, WorldArgs};
use serde_json::json;
use sqlx::PgConnection;

/// What the hub must reach of the floor.
const BAR: f64 = 0.6;
/// Objects of the round that warms up and is not counted, as a part of a round.
const WARM_UP_PART: usize = 5;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Objects in a round.
    #[arg(long, default_value_t = 50_000)]
    objects: usize,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print one last line of JSON.
    #[arg(long)]
    json: bool,
    /// Leave with code 2 when the bar is missed.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
}

/// The hub and its floor over the same rows.
#[derive(Debug, Clone, Copy)]
struct Pair {
    hub: Pace,
    floor: Pace,
}

/// The rounds of one sort of change.
#[derive(Debug, Default)]
struct Phase {
    pairs: Vec<Pair>,
    used: Vec<Usage>,
}

impl Phase {
    fn middle(&self, value: impl Fn(&Pair) -> f64) -> f64 {
        median(&self.pairs.iter().map(value).collect::<Vec<_>>())
    }

    fn hub(&self) -> f64 {
        self.middle(|pair| pair.hub.per_s)
    }

    fn floor(&self) -> f64 {
        self.middle(|pair| pair.floor.per_s)
    }

    fn ratio(&self) -> f64 {
        if self.floor() > 0.0 { self.hub() / self.floor() } else { 0.0 }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let used = |part: fn(&Usage) -> f64| {
            let objects = self.middle(|pair| pair.hub.rows as f64) / 1000.0;
            format!("{:.2}", median(&self.used.iter().map(part).collect::<Vec<_>>()) / objects.max(f64::MIN_POSITIVE))
        };
        let spread = self.pairs.iter().map(|pair| pair.hub.per_s / pair.floor.per_s.max(1.0));
        let (least, most) = spread.fold((f64::MAX, 0.0), |(a, b): (f64, f64), r| (a.min(r), b.max(r)));
        vec![
            name.to_owned(),
            grouped(self.hub()),
            grouped(self.floor()),
            format!("{:.3}", self.ratio()),
            format!("{least:.2}..{most:.2}"),
            format!("{:.0}", self.middle(|pair| pair.hub.mean_batch())),
            used(|usage| usage.hub),
            used(|usage| usage.postgres),
            used(|usage| usage.feeder),
        ]
    }
}

/// Runs it; answers whether the bar is reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let warm_up = (args.objects / WARM_UP_PART).max(1);
    let all = args.objects.saturating_mul(args.rounds).saturating_add(warm_up);
    if args.rounds == 0 || args.objects == 0 || all > MAX_OBJECTS {
        return Err(BenchError::new(format!(
            "at least one object and round, and at most {MAX_OBJECTS} objects in all"
        )));
    }
    let mut world = World::start(&args.world).await?;
    let mut db = world.cluster.connect().await?;
    floor::declare(&mut db).await?;
    let (mut created, mut updated, mut bytes) = (Phase::default(), Phase::default(), 0);
    progress("warming up");
    prepare(&mut world, warm_up).await?;
    pair(&mut world, &mut db, warm_up).await?;
    let before = world.hub.metrics().await?;
    for n in 1..=args.rounds {
        progress(&format!("round {n} of {}", args.rounds));
        bytes = prepare(&mut world, args.objects).await?;
        for phase in [&mut created, &mut updated] {
            let (pair, used) = pair(&mut world, &mut db, args.objects).await?;
            phase.pairs.push(pair);
            phase.used.push(used);
        }
    }
    let after = world.hub.metrics().await?;
    let (rss, environment) = (host::peak_rss_mib(world.hub.pid()), world.environment());
    drop(db);
    world.stop().await?;

    let mean_bytes = bytes as f64 / args.objects as f64;
    say(&format!("\ningest: {} objects a round, {} rounds, {mean_bytes:.0} bytes each", args.objects, args.rounds));
    say(&format!("{environment}\n"));
    let head = ["phase", "hub/s", "floor/s", "ratio", "of rounds", "batch", "hub ms", "postgres ms", "mirror ms"];
    table(&head, &[created.row("new objects"), updated.row("changed objects")]);
    say("\nhub ms, postgres ms, mirror ms: processor time for one object");
    if let Some(commit) = after.since(&before, "mirror_commit_seconds") {
        say(&format!(
            "a batch's transaction: mean {:.1} ms, 99 % below {:.0} ms",
            commit.mean * 1e3,
            commit.p99_below * 1e3
        ));
    }
    say(&format!("peak resident memory of the hub: {rss:.0} MiB"));
    let (hub, floor, ratio) = (created.hub(), created.floor(), created.ratio());
    say(&format!("the bar: at least {BAR} of the floor: {}", if ratio >= BAR { "reached" } else { "MISSED" }));
    if args.json {
        let line = json!({
            "scenario": "ingest", "objects_per_s": rounded(hub, 1), "floor_objects_per_s": rounded(floor, 1),
            "ratio": rounded(ratio, 3), "update_objects_per_s": rounded(updated.hub(), 1),
            "update_floor_objects_per_s": rounded(updated.floor(), 1), "update_ratio": rounded(updated.ratio(), 3),
            "mean_batch": rounded(created.middle(|pair| pair.hub.mean_batch()), 1), "hub_peak_rss_mib": rounded(rss, 1),
            "objects": args.objects, "rounds": args.rounds, "mean_object_bytes": rounded(mean_bytes, 0), "bar": BAR,
            "environment": environment,
        });
        say(&line.to_string());
    }
    Ok(!args.check || ratio >= BAR)
}

async fn prepare(world: &mut World, count: usize) -> Fallible<usize> {
    Ok(world.feeder.tell(&Order::Prepare { count, whole: false }).await?.bytes)
}

/// The prepared set through the hub, then through the floor.
async fn pair(world: &mut World, db: &mut PgConnection, count: usize) -> Fallible<(Pair, Usage)> {
    let begun = floor::top(db, COLLECTION).await?;
    let wanted = begun + i64::try_from(count).unwrap_or(i64::MAX);
    world.feeder.tell(&Order::Load).await?;
    floor::settle(db).await?;
    let used = world.usage();
    world.feeder.tell(&Order::Release).await?;
    floor::until_top(db, COLLECTION, wanted).await?;
    let used = world.usage().since(used);
    let hub = floor::pace(db, COLLECTION, begun).await?;
    if hub.rows != wanted - begun {
        return Err(BenchError::new(format!("{} changes were committed instead of {count}", hub.rows)));
    }
    let floor = floor::run(db, COLLECTION, begun, hub.mean_batch().round() as usize).await?;
    Ok((Pair { hub, floor }, used))
}
