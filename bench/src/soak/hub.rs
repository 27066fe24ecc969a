//! `soak-hub`: clients of all wires come, go, sleep, read slowly, and lie, on two nodes that are killed, over a Redis that is emptied and
//! restarted, while the application publishes and entities change. Nothing may be lost, doubled or reordered; memory stays flat; of
//! those who have left nothing stays behind.

use super::chaos::{self, Blow};
use super::client::{Client, Mood};
use super::hostile::{Lies, lie};
use super::ledger::Plant;
use super::stage::{self, Crowd, Stage, Way, entities};
use super::verdict::{Bar, judge, show, show_counts};
use super::watch::{Life, Watch};
use super::words::Wire;
use crate::error::{BenchError, Fallible};
use crate::metrics::{Scrape, scrape};
use crate::report::{progress, say, table};
use crate::world::{Hub, WorldArgs};
use rand::Rng;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// What the hubs are told beside the defaults: lives that fit in a short run, and queues that a slow reader fills.
const LINES: [&str; 10] = [
    "channels.ping = \"10s\"",
    "channels.pong = \"8s\"",
    "channels.connect_timeout = \"5s\"",
    "channels.queue_bytes = \"256KiB\"",
    "channels.recovery_bytes = \"200KiB\"",
    "channels.max_history_bytes = \"200KiB\"",
    "channels.namespaces.default.history_count = 5000",
    "channels.namespaces.default.history_bytes = \"8MiB\"",
    "leases.ttl = \"3s\"",
    "log.level = \"warn\"",
];
/// What these `recovery_bytes` hold of changes as references, some 190 bytes each, with a tenth to spare. Those who read slower than things come
/// are further behind within a minute.
const REACH: u64 = 950;
/// Above a ping and its answer's time.
const SILENCE: Duration = Duration::from_secs(25);
/// How long a publication may take to a client that reads and has no positions, if its connection is not closed instead: the five seconds
/// within which every subscriber is to know what it lost, for a lost or emptied Redis among other things, and as much again for a
/// machine that does everything itself.
const DUE: Duration = Duration::from_secs(10);
/// Channels of the application, and how many of them each client has beside the entities'.
const CHANNELS: (usize, usize) = (20, 2);
/// How long what was of clients may take to go when they have gone: above the ping and its answer's time, and above the time for which an
/// idle subscription of the bus is kept.
const LEAVING: Duration = Duration::from_secs(60);
/// What must be zero when nobody is left.
const EMPTY: [&str; 7] = [
    "dzvin_sessions",
    "dzvin_subscriptions",
    "dzvin_channels",
    "dzvin_mailboxes",
    "dzvin_queue_bytes",
    "dzvin_shard_backlog",
    "dzvin_presence_clients",
];
/// Tasks and descriptors that may be more than before anybody came: connections that HTTP keeps, roles that were taken over.
const MORE: (f64, f64) = (12.0, 24.0);

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Clients that mean well.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Clients that do not.
    #[arg(long, default_value_t = 20)]
    liars: usize,
    /// Changes of entities a second.
    #[arg(long, default_value_t = 20)]
    changes: u32,
    /// Publications a second to all channels of the application together.
    #[arg(long, default_value_t = 60.0)]
    publications: f64,
    /// What everything that is random begins with; a new one each time if none.
    #[arg(long)]
    seed: Option<u64>,
    /// Makes this fault in one client, or in a publisher, so that the run must fail.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    #[command(flatten)]
    world: WorldArgs,
}

impl Args {
    /// What the hubs are told.
    pub(crate) fn settings(&self, redis: &str) -> Vec<String> {
        stage::settings(&self.world, &LINES, redis)
    }
}

/// Runs it; answers whether the bars are reached.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.clients == 0 || args.minutes <= 0.0 || args.publications <= 0.0 {
        return Err(BenchError::new("clients, minutes and publications are above zero"));
    }
    let (seed, whole) =
        (args.seed.unwrap_or_else(|| rand::rng().random()), Duration::from_secs_f64(args.minutes * 60.0));
    progress(&format!("seed {seed}"));
    let mut stage = Stage::start(&args.world, |redis| args.settings(redis)).await?;
    let channels: Vec<String> = (0..CHANNELS.0).map(|n| format!("soak.{n}")).collect();
    let way = Way { addresses: stage.addresses()?, tls: None, http: reqwest::Client::new() };
    let mut crowd = Crowd::new(way, [SILENCE, DUE], args.clients, CHANNELS.1 + 1);
    let before = scrapes(&crowd, &stage.hubs).await?;
    let watch = Watch::start(&[stage.hubs[0].pid(), stage.hubs[1].pid()]);
    let servers = stage.hubs.each_ref().map(|hub| format!("http://{}", hub.address()));
    let every = Duration::from_secs_f64(channels.len() as f64 / args.publications);
    crowd.publish(&servers, &stage.hubs[0].token()?, &channels, every, args.plant);
    let flow = stage.flow(args.changes, whole)?;
    for n in 0..args.clients {
        let streams =
            [vec![entities()], (0..CHANNELS.1).map(|k| channels[(n + k * 7) % channels.len()].clone()).collect()];
        let streams = streams.concat();
        let token = stage.hubs[0].token_of(&format!("soak-{n}"))?;
        let plant = args.plant.filter(|plant| plant.victim() == Some(n));
        let client = Client::new(n, wire(n), mood(n), token, &streams, seed).reaching(REACH).planting(plant);
        crowd.enter(client, streams);
    }
    let (lies, silence, mut liars) = (Arc::new(Lies::default()), watch::Sender::new(false), JoinSet::new());
    for n in 0..args.liars {
        let token = stage.hubs[0].token_of("liar")?;
        let seed = seed.wrapping_add(1_000_000 + n as u64);
        liars.spawn(lie(Arc::clone(&crowd.ground), Arc::clone(&lies), token, seed, silence.subscribe()));
    }
    let blows = torment(&mut stage, &crowd, &watch, seed, whole).await?;
    stage.flowed(flow).await?;
    progress("all come to rest");
    silence.send_replace(true);
    while liars.join_next().await.is_some() {}
    let disagreed = crowd.hush().await;
    let tops = stage.tops(&crowd.ground, &channels).await?;
    crowd.settle(&tops).await?;
    let left = left_behind(&crowd, &stage.hubs, &before).await?;
    let lives = watch.stop();
    let environment = stage.environment();
    let panics = stage.hubs.iter().flat_map(|hub| hub.lines_with(" panic")).count();
    stage.stop().await?;

    let inner = crowd.ground.tally.look();
    say(&format!(
        "\nsoak-hub: {} clients and {} liars for {:.0} minutes on two nodes, seed {seed}",
        args.clients, args.liars, args.minutes
    ));
    say(&format!("{environment}\n"));
    say(&format!("blows: {}", told(&blows)));
    let (published, given_up) = crowd.ground.truth.published();
    let changes = tops.get(&entities()).map_or(0, |(top, _)| top.offset);
    say(&format!("published: {published}, of which {given_up} were not acknowledged; changes of entities: {changes}"));
    show_counts(&inner);
    let unpunished = show_lies(&lies);
    show_lives(&lives);
    let mut bars = judge(&inner, &tops, crowd.published(disagreed));
    bars.push(Bar::none("liars that were not shown the door", unpunished));
    bars.extend(flatness(&lives));
    bars.push(Bar::none("panics in the logs", panics as u64));
    bars.extend(left);
    Ok(show(&bars))
}

/// Half of them JSON, a third Protobuf, the others Pusher.
fn wire(n: usize) -> Wire {
    [Wire::Json, Wire::Protobuf, Wire::Json, Wire::Pusher, Wire::Json, Wire::Protobuf][n % 6]
}

/// Every wire has clients of every mood, most of them steady or visitors.
fn mood(n: usize) -> Mood {
    [Mood::Steady, Mood::Visitor, Mood::Sleeper, Mood::Steady, Mood::Slow, Mood::Visitor, Mood::Sleeper][n % 7]
}

/// Does what the plan says, and waits for the end.
async fn torment(stage: &mut Stage, crowd: &Crowd, watch: &Watch, seed: u64, whole: Duration) -> Fallible<Vec<Blow>> {
    let begun = Instant::now();
    let mut done = Vec::new();
    for (at, blow) in chaos::plan(seed, whole) {
        sleep_until((begun + at).into()).await;
        progress(&format!("{:.0} s: {blow:?}", begun.elapsed().as_secs_f64()));
        let now = Instant::now();
        crowd.ground.tally.blow_begins(now);
        if !matches!(blow, Blow::Kill(..)) {
            crowd.ground.truth.bus_loses(now);
        }
        match blow {
            Blow::Kill(node, away) => {
                let hub = &mut stage.hubs[node];
                hub.kill().await?;
                watch.is_now(node, 0);
                tokio::time::sleep(away).await;
                hub.again().await?;
                watch.is_now(node, hub.pid());
            }
            Blow::Empty => stage.redis.empty().await?,
            Blow::Restart(away) => stage.redis.restart(true, away).await?,
            Blow::RestartEmpty(away) => stage.redis.restart(false, away).await?,
        }
        crowd.ground.tally.blow_ends(Instant::now());
        done.push(blow);
    }
    sleep_until((begun + whole).into()).await;
    Ok(done)
}

fn told(blows: &[Blow]) -> String {
    let count = |is: fn(&Blow) -> bool| blows.iter().filter(|blow| is(blow)).count();
    format!(
        "kill -9 of the first node {}, of the second {}; Redis emptied {}, restarted {}, restarted empty {}",
        count(|it| matches!(it, Blow::Kill(0, _))),
        count(|it| matches!(it, Blow::Kill(1, _))),
        count(|it| matches!(it, Blow::Empty)),
        count(|it| matches!(it, Blow::Restart(_))),
        count(|it| matches!(it, Blow::RestartEmpty(_))),
    )
}

async fn scrapes(crowd: &Crowd, hubs: &[Hub; 2]) -> Fallible<[Scrape; 2]> {
    let [one, two] = hubs;
    let http = &crowd.ground.http;
    Ok([scrape(http, one.internal()).await?, scrape(http, two.internal()).await?])
}

/// Waits until nothing of the clients is left; what stays is a missed bar.
async fn left_behind(crowd: &Crowd, hubs: &[Hub; 2], before: &[Scrape; 2]) -> Fallible<Vec<Bar>> {
    let most = |name: &str| before.iter().map(|it| it.value(name)).fold(0.0, f64::max);
    let (tasks, descriptors) = (most("process_tasks") + MORE.0, most("process_open_fds") + MORE.1);
    let begun = Instant::now();
    loop {
        let now = scrapes(crowd, hubs).await?;
        let mut bars = Vec::new();
        for name in EMPTY {
            let values = now.each_ref().map(|it| it.value(name));
            bars.push(Bar::new(format!("{name}: 0 on both nodes"), format!("{values:?}"), values == [0.0; 2]));
        }
        for (name, limit) in [("process_tasks", tasks), ("process_open_fds", descriptors)] {
            let values = now.each_ref().map(|it| it.value(name));
            let reached = values.iter().all(|value| *value > 0.0 && *value <= limit);
            bars.push(Bar::new(format!("{name}: at most {limit}"), format!("{values:?}"), reached));
        }
        if bars.iter().all(|bar| bar.reached) || begun.elapsed() > LEAVING {
            return Ok(bars);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn show_lies(lies: &Lies) -> u64 {
    let all = lies.look();
    let words: Vec<String> = all.iter().map(|(lie, (told, _))| format!("{lie:?} {told}")).collect();
    say(&format!("\nlies: {}", words.join(", ")));
    let unpunished: Vec<String> =
        all.iter().filter(|(_, (_, not))| *not > 0).map(|(lie, (_, not))| format!("{lie:?} {not}")).collect();
    if !unpunished.is_empty() {
        say(&format!("nobody minded: {}", unpunished.join(", ")));
    }
    all.values().map(|(_, unpunished)| unpunished).sum()
}

fn show_lives(lives: &[Life]) {
    let row = |life: &Life| {
        let memory = life.memory();
        let mib = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        vec![
            format!("node {}, life {}", life.node + 1, life.number + 1),
            life.seconds().to_string(),
            mib(memory.as_ref().map(|it| it.start)),
            mib(memory.as_ref().map(|it| it.warm)),
            mib(memory.as_ref().map(|it| it.end)),
            mib(Some(life.peak())),
            mib(memory.as_ref().map(|it| it.slope)),
        ]
    };
    say("");
    table(
        &["resident MiB", "seconds", "start", "after a fifth", "end", "peak", "MiB an hour"],
        &lives.iter().map(row).collect::<Vec<_>>(),
    );
}

fn flatness(lives: &[Life]) -> Vec<Bar> {
    let judged: Vec<_> = lives.iter().filter_map(|life| Some((life, life.memory()?))).collect();
    let grown = judged.iter().filter(|(_, memory)| !memory.flat()).count();
    let what = "memory is flat (within 10 % or 16 MiB) in every life of two minutes and more";
    vec![Bar::new(what, format!("{grown} of {} grew", judged.len()), grown == 0 && !judged.is_empty())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_has_every_mood() {
        for wanted in [Wire::Json, Wire::Protobuf, Wire::Pusher] {
            for with in [Mood::Steady, Mood::Visitor, Mood::Sleeper, Mood::Slow] {
                assert!((0..42).any(|n| wire(n) == wanted && mood(n) == with), "{wanted:?} {with:?}");
            }
        }
    }
}
