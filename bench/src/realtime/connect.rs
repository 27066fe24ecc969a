//! `connect`: many clients that come, each with its upgrade, its token and its subscription in one go: a few hundred on their way
//! at a time, and all at once.

use super::Common;
use super::bars::{Bar, judge};
use super::orders::Answer;
use super::rig::Rig;
use super::target::{Kind, Target};
use crate::error::{BenchError, Fallible};
use crate::report::{grouped, rounded, say, table};
use crate::sample::median;
use serde_json::{Value, json};

/// Microseconds of processor time for each.
const BAR_US: f64 = 100.0;
/// How long a subscription may take in a storm, of the slowest percent, in milliseconds.
const BAR_P99_MS: f64 = 3_000.0;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Connections.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// How many are on their way at a time, in the first mode.
    #[arg(long, default_value_t = 500)]
    concurrency: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

struct Row {
    name: String,
    kind: Option<Kind>,
    storm: bool,
    us: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
    max: f64,
    refused: usize,
    why: Option<String>,
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.connections == 0 || args.concurrency == 0 {
        return Err(BenchError::new("connections and concurrency are above zero"));
    }
    let mut rig = Rig::start(&args.common, args.connections).await?;
    let mut rows = Vec::new();
    for storm in [false, true] {
        let mut rounds: Vec<Vec<Answer>> = vec![Vec::new(); rig.targets.len()];
        for round in 1..=args.common.rounds.max(1) {
            for (n, all) in rounds.iter_mut().enumerate() {
                let mode = if storm { "all at once".to_owned() } else { format!("{} at a time", args.concurrency) };
                rig.progress(n, &format!("{} connections, {mode}, round {round}", args.connections));
                let concurrency = if storm { 0 } else { args.concurrency };
                all.push(rig.open(n, args.connections, 1, Some(concurrency)).await?);
                rig.close().await?;
            }
        }
        rows.extend(rounds.iter().zip(&rig.targets).map(|(all, target)| Row::of(target, storm, all)));
    }
    let environment = rig.environment();
    rig.stop().await?;
    say(&format!("\nconnect: {} connections, upgrade, token and subscription in one go", args.connections));
    say(&format!("{environment}\n"));
    for storm in [false, true] {
        let title = if storm { "all at once".to_owned() } else { format!("{} at a time", args.concurrency) };
        show(&rows, storm, &title);
    }
    let hub = |storm: bool| rows.iter().find(|row| row.kind == Some(Kind::Hub) && row.storm == storm);
    let bars = [
        Bar::new("connect, us of CPU for each", hub(false).map(|row| row.us), BAR_US),
        Bar::new("storm, refused", hub(true).map(|row| row.refused as f64), 0.0),
        Bar::new("storm, p99 to the subscription in ms", hub(true).map(|row| row.p99), BAR_P99_MS),
    ];
    Ok(judge(&args.common, "connect", &environment, rows.iter().map(Row::json).collect(), &bars))
}

impl Row {
    fn of(target: &Target, storm: bool, rounds: &[Answer]) -> Self {
        let middle = |of: fn(&Answer) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
        Self {
            name: target.name.clone(),
            kind: target.kind,
            storm,
            us: middle(|it| it.server().cpu_us / it.subscribed.max(1) as f64),
            per_second: middle(|it| it.subscribed as f64 / it.seconds),
            p50: middle(|it| it.spread.p50),
            p99: middle(|it| it.spread.p99),
            max: middle(|it| it.spread.max),
            refused: rounds.iter().map(|it| it.refused + it.cut).sum(),
            why: rounds.iter().find_map(|it| it.why.clone()),
        }
    }

    fn json(&self) -> Value {
        json!({
            "target": self.name,
            "all_at_once": self.storm,
            "us_per_connect": rounded(self.us, 2),
            "connects_per_s": rounded(self.per_second, 0),
            "p50_ms": rounded(self.p50, 2),
            "p99_ms": rounded(self.p99, 2),
            "max_ms": rounded(self.max, 2),
            "refused": self.refused,
        })
    }
}

fn show(rows: &[Row], storm: bool, title: &str) {
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            grouped(row.per_second),
            format!("{:.1}", row.us),
            format!("{:.1}", row.p50),
            format!("{:.1}", row.p99),
            format!("{:.1}", row.max),
            row.refused.to_string(),
        ]
    };
    let chosen: Vec<&Row> = rows.iter().filter(|row| row.storm == storm).collect();
    let head = [title, "connects/s", "us CPU each", "p50 ms", "p99 ms", "max ms", "refused"];
    table(&head, &chosen.iter().map(|row| cells(row)).collect::<Vec<_>>());
    for row in chosen {
        if let Some(why) = &row.why {
            say(&format!("{}: {why}", row.name));
        }
    }
    say("");
}
