//! `cluster`: two hubs over one Redis, a steady rate of publications to channels with subscribers on both: how long a delivery
//! takes, and what Redis does for a publication beside a bare `PUBLISH`.

use super::Common;
use super::bars::{Bar, judge};
use super::orders::{Answer, Api, Dialect, Names, Order, Plan};
use super::pinned::{self, Own};
use super::redis::Redis;
use crate::error::{BenchError, Fallible};
use crate::host;
use crate::report::{grouped, progress, rounded, say, table};
use crate::sample::median;
use crate::world::{Cluster, Hub, Setup, binary, on_redis};
use serde_json::json;
use std::fs;
use std::time::Instant;

/// How long a delivery may take, of the slowest percent, in milliseconds.
const BAR_P99_MS: f64 = 10.0;
/// Redis' processor time for a publication over that of a bare one.
const BAR_REDIS: f64 = 5.0;
/// What the hub's message on the bus has beside the payload, about.
const ENVELOPE: usize = 64;
/// Seconds of publishing that are not counted.
const WARM_UP_S: f64 = 2.0;
/// Connections that are begun at a time.
const GENTLE: usize = 100;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Publications a second, in turn to both nodes.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// Channels, in turn.
    #[arg(long, default_value_t = 20)]
    in_channels: usize,
    /// Subscribers of each, half of them on each node.
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    common: Common,
}

impl Args {
    /// What the hubs are told.
    pub(crate) fn settings(&self, redis: &str) -> Vec<String> {
        let mut all = self.common.settings();
        all.push(on_redis(redis));
        all
    }
}

/// Two hubs, what they stand on, and the generator.
struct World {
    generator: Own,
    hubs: [Hub; 2],
    redis: Redis,
    cluster: Cluster,
    begun: (Instant, f64),
}

/// What was measured.
struct Outcome {
    rounds: Vec<Answer>,
    bare_us: f64,
    environment: String,
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let clients = args.in_channels * args.subscribers;
    if clients == 0 || args.rate <= 0.0 || args.seconds <= 0.0 {
        return Err(BenchError::new("rate, channels, subscribers and seconds are above zero"));
    }
    pinned::fit(args.common.server_core.max(args.common.generator_core), clients)?;
    let mut world = World::start(args).await?;
    let rounds = world.measure(args, clients).await?;
    progress("bare publications");
    let bare_us = world.redis.bare_publish_us(args.common.payload + ENVELOPE, args.rate, args.seconds).await?;
    let environment = format!(
        "{}; {}",
        host::environment(world.cluster.version(), world.cluster.folder()),
        host::stolen_since(world.begun)
    );
    world.stop().await?;
    Ok(show(args, &Outcome { rounds, bare_us, environment }))
}

impl World {
    async fn start(args: &Args) -> Fallible<Self> {
        let common = &args.common;
        progress("building the hub");
        let binary = binary(common.world.hub.clone()).await?;
        progress("starting PostgreSQL, Redis and two hubs");
        let cluster = Cluster::start(&common.world.dir, common.world.keep).await?;
        // Both hubs share the core of the server: Redis is on the generator's.
        let redis = Redis::start(common.generator_core, cluster.folder()).await?;
        let extra = args.settings(&redis.url());
        let core = Some(common.server_core);
        let setup = Setup { cluster: &cluster, name: "one", mirror: None, core, extra: &extra, secret: None };
        let one = Hub::start(&binary, setup).await?;
        let two = Hub::start(&binary, Setup { name: "two", secret: Some(one.secret()), ..setup }).await?;
        let generator = Own::start(common.generator_core, &["drive".to_owned()])?;
        let begun = (Instant::now(), host::stolen_seconds());
        Ok(Self { generator, hubs: [one, two], redis, cluster, begun })
    }

    async fn measure(&mut self, args: &Args, clients: usize) -> Fallible<Vec<Answer>> {
        let [one, two] = &self.hubs;
        let addresses = vec![one.address().to_owned(), two.address().to_owned()];
        let names = Names { pattern: args.common.channels.clone(), count: args.in_channels };
        let tokens = self.cluster.folder().join("tokens");
        let all: Fallible<Vec<String>> = (0..clients).map(|n| one.token_of(&format!("bench-{n}"))).collect();
        fs::write(&tokens, all?.join("\n")).map_err(BenchError::because("writing tokens"))?;
        let open = Order::Open {
            addresses: addresses.clone(),
            dialect: Dialect::Centrifuge,
            names: names.clone(),
            count: clients,
            tokens: Some(tokens),
            concurrency: GENTLE,
            pids: Vec::new(),
        };
        let opened = self.generator.tell(&open).await?;
        if opened.subscribed < clients {
            let why = opened.why.unwrap_or_default();
            return Err(BenchError::new(format!("{} of {clients} clients are subscribed: {why}", opened.subscribed)));
        }
        let plan = Plan {
            addresses,
            api: Api::Centrifugo,
            authorization: Some(format!("Bearer {}", one.token()?)),
            names,
            payload: args.common.payload,
            batch: 1,
            in_flight: args.in_flight,
        };
        let pids = vec![self.redis.pid(), one.pid(), two.pid()];
        let flow = |seconds| Order::Flow { plan: plan.clone(), rate: args.rate, seconds, pids: pids.clone() };
        let warm = self.generator.tell(&flow(WARM_UP_S)).await?;
        if warm.published == 0 {
            return Err(BenchError::new(format!("no publication is accepted: {}", warm.why.unwrap_or_default())));
        }
        let mut rounds = Vec::new();
        for round in 1..=args.common.rounds.max(1) {
            progress(&format!("{} publications/s, round {round}", args.rate));
            rounds.push(self.generator.tell(&flow(args.seconds)).await?);
        }
        Ok(rounds)
    }

    async fn stop(self) -> Fallible<()> {
        let Self { generator, hubs: [one, two], redis, cluster, .. } = self;
        generator.stop().await;
        one.stop().await?;
        two.stop().await?;
        drop(redis);
        drop(cluster);
        Ok(())
    }
}

fn show(args: &Args, outcome: &Outcome) -> bool {
    let middle = |of: fn(&Answer) -> f64| median(&outcome.rounds.iter().map(of).collect::<Vec<_>>());
    let of_redis = middle(|it| it.server().cpu_us / it.published.max(1) as f64);
    let of_hubs = middle(|it| it.used.iter().skip(1).map(|it| it.cpu_us).sum::<f64>() / it.deliveries.max(1) as f64);
    let lost: usize = outcome.rounds.iter().map(|it| it.expected.abs_diff(it.deliveries)).sum();
    let failed: usize = outcome.rounds.iter().map(|it| it.failed + it.cut).sum();
    let [p50, p99, p999] = [middle(|it| it.spread.p50), middle(|it| it.spread.p99), middle(|it| it.spread.p999)];
    let late = middle(|it| it.late.p99);
    let per_second = middle(|it| it.deliveries as f64 / it.seconds);
    say(&format!(
        "\ncluster: two hubs over one Redis, {} publications/s to {} channels of {} subscribers, {} s",
        args.rate, args.in_channels, args.subscribers, args.seconds
    ));
    say(&format!("{}\n", outcome.environment));
    let head = ["deliveries/s", "p50 ms", "p99 ms", "p99.9 ms", "late p99 ms", "hubs' us CPU each", "lost", "failed"];
    let milliseconds = [p50, p99, p999, late, of_hubs].map(|value| format!("{value:.2}"));
    let row = [grouped(per_second)].into_iter().chain(milliseconds).chain([lost.to_string(), failed.to_string()]);
    table(&head, &[row.collect()]);
    say("");
    let ratio = of_redis / outcome.bare_us;
    table(
        &["Redis", "us CPU for a publication"],
        &[
            vec!["of the hubs".to_owned(), format!("{of_redis:.2}")],
            vec!["bare PUBLISH".to_owned(), format!("{:.2}", outcome.bare_us)],
            vec!["ratio".to_owned(), format!("{ratio:.2}")],
        ],
    );
    if let Some(why) = outcome.rounds.iter().find_map(|it| it.why.as_deref()) {
        say(why);
    }
    say("");
    let row = json!({
        "target": "hub",
        "deliveries_per_s": rounded(per_second, 0),
        "p50_ms": rounded(p50, 3),
        "p99_ms": rounded(p99, 3),
        "p999_ms": rounded(p999, 3),
        "generator_late_p99_ms": rounded(late, 3),
        "us_per_delivery": rounded(of_hubs, 3),
        "redis_us_per_publication": rounded(of_redis, 3),
        "bare_publish_us": rounded(outcome.bare_us, 3),
        "lost": lost,
        "failed": failed,
    });
    let bars = [
        Bar::new("cluster, p99 in ms", Some(p99), BAR_P99_MS),
        Bar::new("cluster, Redis' CPU over a bare PUBLISH", Some(ratio), BAR_REDIS),
        Bar::new("cluster, lost deliveries", Some(lost as f64), 0.0),
    ];
    judge(&args.common, "cluster", &outcome.environment, vec![row], &bars)
}
