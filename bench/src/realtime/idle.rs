//! `idle`: many connections with one subscription each to which nothing is published: memory of each, and the processor time of
//! keeping them alive, beside a loop that only pings.

use super::Common;
use super::bars::{Bar, judge};
use super::orders::Answer;
use super::rig::Rig;
use super::target::Kind;
use crate::error::{BenchError, Fallible};
use crate::report::{rounded, say, table};
use crate::sample::median;
use serde_json::{Value, json};

/// Resident memory of a connection, in KiB.
const BAR_KIB: f64 = 8.0;
/// Processor time over that of the bare loop.
const BAR_RATIO: f64 = 1.3;
/// How long the empty server is looked at.
const EMPTY_S: f64 = 5.0;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// A channel for each connection instead of one for all.
    #[arg(long)]
    own_channels: bool,
    /// Seconds before anything is counted.
    #[arg(long, default_value_t = 30.0)]
    settle: f64,
    /// Seconds that are counted: some times the interval of pings.
    #[arg(long, default_value_t = 50.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

struct Row {
    name: String,
    kind: Option<Kind>,
    /// The empty server.
    empty_kib: f64,
    empty_us_per_s: f64,
    kib: f64,
    /// Of each round.
    us_per_s: Vec<f64>,
    pings_per_s: f64,
    cut: usize,
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.connections == 0 || args.seconds <= 0.0 {
        return Err(BenchError::new("connections and seconds are above zero"));
    }
    let mut rig = Rig::start(&args.common, args.connections).await?;
    let channels = if args.own_channels { args.connections } else { 1 };
    let mut rows = Vec::new();
    for n in 0..rig.targets.len() {
        let empty = rig.rest(n, EMPTY_S).await?;
        let idle = look(&mut rig, n, channels, args).await?;
        rows.push(Row {
            name: rig.targets[n].name.clone(),
            kind: rig.targets[n].kind,
            empty_kib: empty.server().rss_kib,
            empty_us_per_s: empty.server().cpu_us / empty.seconds,
            kib: (idle.server().rss_kib - empty.server().rss_kib) / args.connections as f64,
            us_per_s: vec![idle.server().cpu_us / idle.seconds],
            pings_per_s: idle.pings as f64 / idle.seconds,
            cut: idle.cut,
        });
    }
    // Memory is that of a server which has never been used. Of processor time those are looked at again that are judged by it, in turn:
    // from one minute to the next it differs by a tenth.
    for _ in 1..args.common.rounds {
        for (n, row) in rows.iter_mut().enumerate().filter(|(_, row)| matches!(row.kind, Some(Kind::Hub | Kind::Floor)))
        {
            let idle = look(&mut rig, n, channels, args).await?;
            row.us_per_s.push(idle.server().cpu_us / idle.seconds);
            row.cut += idle.cut;
        }
    }
    let environment = rig.environment();
    rig.stop().await?;
    say(&format!(
        "\nidle: {} connections, {}, a ping every {} s, {} s after {} s",
        args.connections,
        if args.own_channels { "each with a channel of its own" } else { "all on one channel" },
        args.common.ping,
        args.seconds,
        args.settle
    ));
    say(&format!("{environment}\n"));
    show(&rows);
    let of = |kind: Kind| rows.iter().find(|row| row.kind == Some(kind));
    let hub = of(Kind::Hub);
    let ratio = hub.zip(of(Kind::Floor)).map(|(hub, floor)| hub.over(floor));
    let bars = [
        Bar::new("idle, KiB of each connection", hub.map(|row| row.kib), BAR_KIB),
        Bar::new("idle, CPU over a bare ping loop's", ratio, BAR_RATIO).beside(Kind::Floor),
        Bar::new("idle, connections that were cut off", hub.map(|row| row.cut as f64), 0.0),
    ];
    Ok(judge(&args.common, "idle", &environment, rows.iter().map(Row::json).collect(), &bars))
}

/// The server with all its clients, after they have settled.
async fn look(rig: &mut Rig, n: usize, channels: usize, args: &Args) -> Fallible<Answer> {
    rig.progress(n, &format!("{} connections", args.connections));
    rig.open(n, args.connections, channels, None).await?;
    rig.rest(n, args.settle).await?;
    let idle = rig.rest(n, args.seconds).await?;
    rig.close().await?;
    Ok(idle)
}

impl Row {
    /// Its processor time over another's, of the same round each; the middle of the rounds.
    fn over(&self, other: &Self) -> f64 {
        let each = self.us_per_s.iter().zip(&other.us_per_s).map(|(mine, its)| mine / its);
        median(&each.collect::<Vec<_>>())
    }

    fn json(&self) -> Value {
        json!({
            "target": self.name,
            "kib_per_connection": rounded(self.kib, 2),
            "cpu_us_per_s": rounded(median(&self.us_per_s), 0),
            "cpu_us_per_s_of_rounds": self.us_per_s.iter().map(|it| rounded(*it, 0)).collect::<Vec<_>>(),
            "pings_per_s": rounded(self.pings_per_s, 1),
            "empty_mib": rounded(self.empty_kib / 1024.0, 1),
            "empty_cpu_us_per_s": rounded(self.empty_us_per_s, 0),
            "cut": self.cut,
        })
    }
}

fn show(rows: &[Row]) {
    let floor = rows.iter().find(|row| row.kind == Some(Kind::Floor));
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            format!("{:.2}", row.kib),
            format!("{:.2}", median(&row.us_per_s) / 1e3),
            floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", row.over(floor))),
            format!("{:.1}", row.pings_per_s),
            if row.pings_per_s > 0.0 {
                format!("{:.1}", median(&row.us_per_s) / row.pings_per_s)
            } else {
                "-".to_owned()
            },
            format!("{:.1}", row.empty_kib / 1024.0),
            format!("{:.2}", row.empty_us_per_s / 1e3),
            row.cut.to_string(),
        ]
    };
    let head =
        ["", "KiB each", "ms CPU/s", "of floor", "pings/s", "us CPU/ping", "empty MiB", "empty ms CPU/s", "cut off"];
    table(&head, &rows.iter().map(cells).collect::<Vec<_>>());
    say("");
}
