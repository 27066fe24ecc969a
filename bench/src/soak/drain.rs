//! `soak-drain`: two nodes behind the shipped nginx are restarted one after the other, as an upgrade does it, under thousands of
//! clients while the application publishes and entities change. Nothing may be lost, everybody is told to come back and does, and
//! nobody storms.

use super::client::{Client, Mood};
use super::line::Tls;
use super::nginx::Nginx;
use super::stage::{self, Crowd, Stage, Way, entities};
use super::verdict::{Bar, judge, show, show_counts};
use super::words::Wire;
use crate::error::{BenchError, Fallible};
use crate::report::{progress, say, table};
use crate::world::WorldArgs;
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What the hubs are told beside the defaults.
const LINES: [&str; 2] = ["leases.ttl = \"3s\"", "log.level = \"warn\""];
/// Of so many clients one speaks Pusher's protocol, and one follows the entities besides.
const ONE_IN: (usize, usize) = (10, 4);
/// Channels of the application; a client has one.
const CHANNELS: usize = 100;
/// Clients that enter in each tenth of a second: this is not about a storm at the beginning.
const ENTERING: usize = 25;
/// How long all may take to be there at the beginning.
const BEGINNING: Duration = Duration::from_secs(180);
/// How long all may take to be back after a node has ended: the longest first pause of a client, a handshake, and some room.
const BACK: Duration = Duration::from_secs(10);
/// From one restart to the next.
const BETWEEN: Duration = Duration::from_secs(5);
/// Above the ping and its answer's time.
const SILENCE: Duration = Duration::from_secs(45);
/// How long a publication may take to a client that reads, if its connection is not closed instead: no server of the bus goes away here.
const DUE: Duration = Duration::from_secs(3);
/// What the busiest second may have over a quite even spread over half of the grace, which is what a node promises (OPERATIONS): clients
/// wait up to half a second of their own before they come, so that one second may get a part of its neighbours'.
const UNEVEN: f64 = 2.0;
/// Connections a second that are no storm for any server, however few the clients and whatever the number of cores: with a handshake of
/// TLS and a token, about a tenth of one core. A node with few sessions is done before half of its grace is over.
const CALM: f64 = 100.0;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Clients.
    #[arg(long, default_value_t = 5_000)]
    clients: usize,
    /// `shutdown.grace` of the hubs, in seconds.
    #[arg(long, default_value_t = 25)]
    grace: u64,
    /// Publications a second to all channels of the application together.
    #[arg(long, default_value_t = 50.0)]
    publications: f64,
    /// Changes of entities a second.
    #[arg(long, default_value_t = 2)]
    changes: u32,
    #[command(flatten)]
    world: WorldArgs,
}

impl Args {
    /// What the hubs are told.
    pub(crate) fn settings(&self, redis: &str) -> Vec<String> {
        let grace = format!("shutdown.grace = \"{}s\"", self.grace);
        stage::settings(&self.world, &[&LINES[..], &[&*grace]].concat(), redis)
    }
}

/// One restart.
#[derive(Debug)]
struct Restart {
    /// Sessions of the node before.
    sessions: f64,
    /// How long the stop took.
    stop: Duration,
    /// Connections begun in each second from the word to stop until all were back.
    arrivals: Vec<u64>,
    /// From the node's end until all were back, or what the others were about when they were not in time.
    back: Result<Duration, String>,
}

impl Restart {
    /// Connections in the busiest second.
    fn busiest(&self) -> u64 {
        self.arrivals.iter().copied().max().unwrap_or(0)
    }

    /// Seconds from the first to the last second with connections.
    fn spread(&self) -> usize {
        let some = |count: &u64| *count > 0;
        let (first, last) = (self.arrivals.iter().position(some), self.arrivals.iter().rposition(some));
        first.zip(last).map_or(0, |(first, last)| last - first + 1)
    }

    /// Connections that the busiest second may have.
    fn most(&self, grace: f64) -> f64 {
        (self.sessions / (grace / 2.0) * UNEVEN).max(CALM)
    }

    /// Whether it has no more.
    fn is_calm(&self, grace: f64) -> bool {
        self.busiest() as f64 <= self.most(grace)
    }
}

/// Runs it; answers whether the bars are reached.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let files = open_files(&fs::read_to_string("/proc/self/limits").unwrap_or_default());
    if args.clients == 0 || args.publications <= 0.0 || args.grace == 0 {
        return Err(BenchError::new("clients, publications and grace are above zero"));
    }
    if args.clients as u64 * 2 + 1_000 > files {
        return Err(BenchError::new(format!(
            "{} clients need twice as many open files; there are {files}",
            args.clients
        )));
    }
    let mut stage = Stage::start(&args.world, |redis| args.settings(redis)).await?;
    let hubs = stage.hubs.each_ref().map(|hub| hub.address().to_owned());
    let nginx = Nginx::start(stage.folder(), &hubs.each_ref().map(String::as_str)).await?;
    let way = way(&nginx)?;
    let mut crowd = Crowd::new(way, [SILENCE, DUE], args.clients, 2);
    let channels: Vec<String> = (0..CHANNELS).map(|n| format!("soak.{n}")).collect();
    let every = Duration::from_secs_f64(CHANNELS as f64 / args.publications);
    let server = format!("https://{}", nginx.address);
    crowd.publish(&[server], &stage.hubs[0].token()?, &channels, every, None);
    progress(&format!("{} clients come", args.clients));
    enter(&mut crowd, &stage, &channels, args.clients).await?;
    let there = crowd.complete(BEGINNING).await;
    if there < args.clients {
        let failures = crowd.ground.tally.look().failures;
        return Err(BenchError::new(format!("{there} of {} clients are there: {failures:?}", args.clients)));
    }
    // Long enough for both restarts; what is left of it is waited for.
    let whole = (Duration::from_secs(args.grace) + BACK + BETWEEN) * 2;
    let flow = stage.flow(args.changes, whole)?;
    crowd.ground.tally.forget_returns();
    let failed_before: u64 = crowd.ground.tally.look().failures.values().sum();
    let mut restarts = Vec::new();
    for node in 0..stage.hubs.len() {
        sleep(BETWEEN).await;
        restarts.push(restart(&mut stage, &crowd, node).await?);
    }
    stage.flowed(flow).await?;
    progress("all come to rest");
    let disagreed = crowd.hush().await;
    let tops = stage.tops(&crowd.ground, &channels).await?;
    crowd.settle(&tops).await?;
    let environment = stage.environment();
    drop(nginx);
    stage.stop().await?;

    let inner = crowd.ground.tally.look();
    say(&format!(
        "\nsoak-drain: {} clients behind nginx (TLS), both nodes restarted in turn, shutdown.grace {} s",
        args.clients, args.grace
    ));
    say(&format!("{environment}\n"));
    show_restarts(&restarts);
    let (published, given_up) = crowd.ground.truth.published();
    say(&format!("\npublished through nginx: {published}, of which {given_up} were not acknowledged"));
    show_counts(&inner);
    let mut bars = judge(&inner, &tops, crowd.published(disagreed));
    let others = inner.closes.iter().filter(|((_, code), _)| !matches!(code, 3001 | 4200));
    bars.push(Bar::none("closed with another code than 3001 and 4200", others.map(|(_, count)| count).sum()));
    let failed = inner.failures.values().sum::<u64>() - failed_before;
    bars.push(Bar::none("connections that did not come to be during the restarts", failed));
    for (n, it) in restarts.iter().enumerate() {
        let name = format!("restart {}", n + 1);
        let back =
            it.back.as_ref().map_or_else(|absent| format!("no: {absent}"), |it| format!("{:.1} s", it.as_secs_f64()));
        bars.push(Bar::new(format!("{name}: all are back {BACK:?} after the node's end"), back, it.back.is_ok()));
        let within = it.stop <= Duration::from_secs(args.grace);
        bars.push(Bar::new(
            format!("{name}: stops within its grace"),
            format!("{:.1} s", it.stop.as_secs_f64()),
            within,
        ));
        let most = it.most(args.grace as f64);
        let what = format!(
            "{name}: connections in the busiest second, at most {UNEVEN} times an even spread or {CALM} ({most:.0})"
        );
        let reached = it.is_calm(args.grace as f64) && it.sessions > 0.0;
        bars.push(Bar::new(what, it.busiest().to_string(), reached));
    }
    Ok(show(&bars))
}

/// The soft limit of open files, which is for the servers too.
fn open_files(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn way(nginx: &Nginx) -> Fallible<Way> {
    let tls = Tls::trusting(&nginx.certificate()).map_err(BenchError::new)?;
    let pem = fs::read(nginx.certificate()).map_err(BenchError::because("reading the certificate"))?;
    let known = reqwest::Certificate::from_pem(&pem).map_err(BenchError::because("reading the certificate"))?;
    let http = reqwest::Client::builder().tls_certs_only([known]).build();
    let http = http.map_err(BenchError::because("making a client"))?;
    Ok(Way { addresses: vec![nginx.address], tls: Some(tls), http })
}

async fn enter(crowd: &mut Crowd, stage: &Stage, channels: &[String], clients: usize) -> Fallible<()> {
    for n in 0..clients {
        let wire = if n % ONE_IN.0 == 0 { Wire::Pusher } else { Wire::Json };
        let mut streams = vec![channels[n % channels.len()].clone()];
        if n % ONE_IN.1 == 1 && wire == Wire::Json {
            streams.push(entities());
        }
        let token = stage.hubs[0].token_of(&format!("soak-{n}"))?;
        crowd.enter(Client::new(n, wire, Mood::Steady, token, &streams, n as u64), streams);
        if n % ENTERING == ENTERING - 1 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn restart(stage: &mut Stage, crowd: &Crowd, node: usize) -> Fallible<Restart> {
    let sessions = stage.hubs[node].metrics().await?.value("dzvin_sessions");
    progress(&format!("node {} with {sessions} sessions is told to stop", node + 1));
    let first = crowd.ground.tally.second();
    let stop = stage.hubs[node].terminate().await?;
    let ended = Instant::now();
    // They come back to the other node, however long this one takes to start. Who is absent is asked when the time is over, not when the
    // node is ready.
    let coming = async {
        let all = crowd.complete(BACK).await == crowd.len();
        if all { Ok(ended.elapsed()) } else { Err(crowd.ground.tally.absent()) }
    };
    let (again, back) = tokio::join!(stage.hubs[node].again(), coming);
    again?;
    let arrivals = crowd.ground.tally.look().arrivals.into_iter().skip(first).collect();
    Ok(Restart { sessions, stop, arrivals, back })
}

fn show_restarts(restarts: &[Restart]) {
    let row = |(n, it): (usize, &Restart)| {
        vec![
            format!("node {}", n + 1),
            format!("{:.0}", it.sessions),
            format!("{:.1}", it.stop.as_secs_f64()),
            it.arrivals.iter().sum::<u64>().to_string(),
            it.spread().to_string(),
            it.busiest().to_string(),
            it.back.as_ref().map_or_else(|_| "no".to_owned(), |back| format!("{:.1}", back.as_secs_f64())),
        ]
    };
    let head = ["restart", "sessions", "stop s", "connections", "over s", "in the busiest", "all back after s"];
    table(&head, &restarts.iter().enumerate().map(row).collect::<Vec<_>>());
    for (n, it) in restarts.iter().enumerate() {
        say(&format!("connections in each second of restart {}: {:?}", n + 1, it.arrivals));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_seen() {
        let with = |sessions, arrivals| Restart { sessions, stop: Duration::ZERO, arrivals, back: Err(String::new()) };
        let of = |arrivals: Vec<u64>| with(2_500.0, arrivals);
        let even = of([vec![0], vec![200; 12], vec![100]].concat());
        assert!(even.is_calm(25.0) && (even.busiest(), even.spread()) == (200, 13));
        assert!(of(vec![400, 100]).is_calm(25.0));
        // However many cores a node has: the bar knows none.
        assert!(!of(vec![2_500]).is_calm(25.0) && !of(vec![401, 100]).is_calm(25.0));
        // A few may come at once, but no more of them than would be calm anywhere.
        assert!(with(80.0, vec![80]).is_calm(25.0) && !with(250.0, vec![125, 125]).is_calm(25.0));
        assert_eq!(of(vec![]).spread(), 0);
        assert_eq!(open_files("Max open files            1024                 524288               files\n"), 1024);
    }
}
