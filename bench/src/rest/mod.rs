//! `rest`: entities of a local kind read and written over HTTP, each request by itself as fast as it is answered, beside two floors of the
//! same run; then a mix of them at a steady rate.
//!
//! The floors: a bare handler of the hub's own web framework that answers as many bytes (`bare`), and the statements that nobody who
//! reads or writes these rows can leave out, by `pgbench` (`plain`). Hub and floors take turns, so what disturbs the machine disturbs
//! all; nothing is bound to a core, for the database works for every request.

pub(crate) mod bare;
mod line;
mod plain;
mod show;
mod work;

use crate::error::{BenchError, Fallible};
use crate::host;
use crate::realtime::{pinned::Own, usage::Look};
use crate::report::{progress, say};
use crate::sample::{Samples, median};
use crate::soak::{memory::Watch, verdict};
use crate::world::{Cluster, Hub, Setup, WorldArgs, binary};
use line::{Place, Timed};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use work::Work;

/// Seconds of each run that are not counted.
const WARM_UP: f64 = 1.0;
/// Lines of TOML for a kind that is written over REST. A header must come last, for what follows would belong to it.
const KIND: &str = "[kinds.deal]\nsource = \"local\"\nfields = [\"status\"]";

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Entities that are there.
    #[arg(long, default_value_t = 1_000)]
    entities: usize,
    /// Bytes of a document.
    #[arg(long, default_value_t = 1_024)]
    document: usize,
    /// Entities on a page of the list.
    #[arg(long, default_value_t = 20)]
    page: usize,
    /// Requests under way at a time, where they follow each other as fast as they are answered.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Seconds that are counted of each sort of request in each round; 0 leaves these runs out.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of these; the middle counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests a second of the mix.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Seconds of the mix.
    #[arg(long, default_value_t = 60)]
    mix_seconds: u64,
    /// Connections over which the mix comes.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Print one last line of JSON.
    #[arg(long)]
    json: bool,
    /// Leave with code 2 when a bar is missed.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    world: WorldArgs,
}

impl Args {
    /// What the hub is told.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut all = self.world.settings();
        all.push(KIND.to_owned());
        all
    }
}

/// Whoever is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Hub,
    Bare,
    Plain,
}

/// One run of one sort of request.
#[derive(Debug, Clone, Default)]
struct Run {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// Microseconds of the server's processor time for a request; none of the database's own.
    server_us: f64,
    /// The same of the database.
    database_us: f64,
    failed: usize,
}

/// A hub, its database, and the bare handler.
struct Stage {
    hub: Hub,
    bare: Own,
    /// The hub's, and the bare handler's.
    places: [Place; 2],
    cluster: Cluster,
    begun: (Instant, f64),
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.entities == 0 || args.page == 0 || args.in_flight == 0 || args.rate == 0 || args.connections == 0 {
        return Err(BenchError::new("entities, page, requests under way, rate and connections are above zero"));
    }
    let stage = Stage::start(args).await?;
    let mut runs = Vec::new();
    for work in Work::ALL.into_iter().filter(|_| args.seconds > 0.0) {
        runs.push((work, stage.rounds(args, work).await?));
    }
    progress(&format!("the mix: {} requests a second for {} s", args.rate, args.mix_seconds));
    let (watch, before) = (Watch::start(stage.hub.pid()), stage.look());
    let mix = line::open(&stage.places[0], args.rate, args.mix_seconds, args.connections).await?;
    let used = stage.since(before, mix.len());
    let (samples, environment) = (watch.stop(), stage.environment());
    stage.stop().await?;

    say(&format!(
        "\nrest: {} entities of {} bytes, {} requests under way",
        args.entities, args.document, args.in_flight
    ));
    say(&format!("{environment}\n"));
    runs.iter().for_each(|(work, sides)| show::runs(*work, sides));
    let bars = show::mix(args, &mix, used, &samples);
    let reached = verdict::show(&bars);
    if args.json {
        say(&show::json(&runs, &mix, &bars, &environment).to_string());
    }
    Ok(!args.check || reached)
}

impl Stage {
    async fn start(args: &Args) -> Fallible<Self> {
        progress("building the hub");
        let binary = binary(args.world.hub.clone()).await?;
        progress("starting PostgreSQL, the hub and the bare handler");
        let cluster = Cluster::start(&args.world.dir, args.world.keep).await?;
        let extra = args.settings();
        let setup = Setup { cluster: &cluster, name: "dzvin", mirror: None, core: None, extra: &extra, secret: None };
        let hub = Hub::start(&binary, setup).await?;
        let mut bare = Own::anywhere(&["bare".to_owned()])?;
        let sizes = [args.entities, args.document, args.page];
        let place = |address: &str, token: String| Place {
            address: address.to_owned(),
            token,
            sizes,
            next: Arc::new(AtomicU64::new(1)),
            answer: None,
        };
        let places = [place(hub.address(), hub.token()?), place(&bare.line().await?, hub.token()?)];
        let stage = Self { hub, bare, places, cluster, begun: (Instant::now(), host::stolen_seconds()) };
        stage.fill(args).await?;
        Ok(stage)
    }

    /// What is read and changed, for the hub and for the plain statements.
    async fn fill(&self, args: &Args) -> Fallible<()> {
        let all: Vec<usize> = (0..args.entities).collect();
        for part in all.chunks(work::BULK) {
            line::once(&self.places[0], &work::creating(&self.places[0], part)).await?;
        }
        let mut db = self.cluster.connect().await?;
        plain::prepare(&mut db, &self.cluster, args).await
    }

    /// Hub and floors in turn, so many rounds; `pgbench` where it is installed.
    async fn rounds(&self, args: &Args, work: Work) -> Fallible<Vec<(Side, Run)>> {
        let [hub, bare] = &self.places;
        // As long as the hub's answer: what it is about is all that the bare handler lacks.
        let bare = Place { answer: Some(line::once(hub, &work.request(hub, 0)).await?), ..bare.clone() };
        let sides = [Side::Hub, Side::Bare, Side::Plain].into_iter();
        let sides: Vec<_> = sides.filter(|side| *side != Side::Plain || plain::installed(&self.cluster)).collect();
        let mut all: Vec<Vec<Run>> = vec![Vec::new(); sides.len()];
        for round in 1..=args.rounds.max(1) {
            for (side, runs) in sides.iter().zip(&mut all) {
                progress(&format!("{} by {side:?}, round {round}", work.name()));
                runs.push(match side {
                    Side::Hub => self.closed(args, work, hub, self.hub.pid()).await?,
                    Side::Bare => self.closed(args, work, &bare, self.bare.pid()).await?,
                    Side::Plain => plain::run(&self.cluster, work, args.in_flight, args.seconds).await?,
                });
            }
        }
        Ok(sides.into_iter().zip(all.iter().map(|runs| Run::middle(runs))).collect())
    }

    async fn closed(&self, args: &Args, work: Work, place: &Place, pid: u32) -> Fallible<Run> {
        line::closed(place, work, args.in_flight, WARM_UP).await?;
        let before = (Look::at(pid), host::cpu_seconds(self.cluster.pid()));
        let (took, seconds) = line::closed(place, work, args.in_flight, args.seconds).await?;
        let server = Look::at(pid).since(before.0).cpu_us;
        let database = (host::cpu_seconds(self.cluster.pid()) - before.1) * 1e6;
        let done: Samples = took.iter().filter(|it| it.done).map(|it| it.took_us).collect();
        let each = |us: f64| us / done.len().max(1) as f64;
        Ok(Run {
            per_second: done.len() as f64 / seconds,
            p50: done.ms(50.0),
            p99: done.ms(99.0),
            server_us: each(server),
            database_us: each(database),
            failed: took.len() - done.len(),
        })
    }

    fn look(&self) -> (Look, f64) {
        (Look::at(self.hub.pid()), host::cpu_seconds(self.cluster.pid()))
    }

    /// Microseconds of the hub's and of the database's processor time for a request.
    fn since(&self, before: (Look, f64), requests: usize) -> [f64; 2] {
        let (now, each) = (self.look(), requests.max(1) as f64);
        [now.0.since(before.0).cpu_us / each, (now.1 - before.1) * 1e6 / each]
    }

    fn environment(&self) -> String {
        let environment = host::environment(self.cluster.version(), self.cluster.folder());
        format!("{environment}; {}", host::stolen_since(self.begun))
    }

    async fn stop(self) -> Fallible<()> {
        self.bare.stop().await;
        self.hub.stop().await?;
        drop(self.cluster);
        Ok(())
    }
}

impl Run {
    fn middle(runs: &[Self]) -> Self {
        let of = |value: fn(&Self) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
        Self {
            per_second: of(|it| it.per_second),
            p50: of(|it| it.p50),
            p99: of(|it| it.p99),
            server_us: of(|it| it.server_us),
            database_us: of(|it| it.database_us),
            failed: runs.iter().map(|it| it.failed).sum(),
        }
    }
}

/// The seconds of a run as the generator takes them.
fn for_seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.1))
}
