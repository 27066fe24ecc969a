//! `publish`: publications one in a request, as fast as they are accepted, to nobody and to a few: what accepting one costs, and how long it
//! takes.

use super::Common;
use super::bars::judge;
use super::orders::Answer;
use super::rig::{Flow, Rig};
use super::target::Target;
use crate::error::{BenchError, Fallible};
use crate::report::{grouped, rounded, say, table};
use crate::sample::median;
use serde_json::{Value, json};

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Subscribers of the one channel; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 10])]
    subscribers: Vec<usize>,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

struct Row {
    name: String,
    subscribers: usize,
    us: f64,
    per_second: f64,
    p50: f64,
    p99: f64,
    lost: usize,
    failed: usize,
}

/// Runs it. There is no bar.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.in_flight == 0 || args.seconds <= 0.0 {
        return Err(BenchError::new("requests under way and seconds are above zero"));
    }
    let most = args.subscribers.iter().copied().max().unwrap_or(0);
    let mut rig = Rig::start(&args.common, most + args.in_flight).await?;
    let flow = Flow { channels: 1, batch: 1, in_flight: args.in_flight, rate: 0.0, seconds: args.seconds };
    let mut rows = Vec::new();
    for subscribers in args.subscribers.iter().copied() {
        let mut rounds: Vec<Vec<Answer>> = vec![Vec::new(); rig.targets.len()];
        for round in 1..=args.common.rounds.max(1) {
            for (n, all) in rounds.iter_mut().enumerate() {
                rig.progress(n, &format!("publishing to {subscribers}, round {round}"));
                rig.open(n, subscribers, 1, None).await?;
                all.push(rig.flow(n, flow).await?);
                rig.close().await?;
            }
        }
        rows.extend(rounds.iter().zip(&rig.targets).map(|(all, target)| Row::of(target, subscribers, all)));
    }
    let environment = rig.environment();
    rig.stop().await?;
    say(&format!("\npublish: one in a request, {} requests under way, {} s", args.in_flight, args.seconds));
    say(&format!("{environment}\n"));
    for subscribers in &args.subscribers {
        show(&rows, *subscribers);
    }
    Ok(judge(&args.common, "publish", &environment, rows.iter().map(Row::json).collect(), &[]))
}

impl Row {
    fn of(target: &Target, subscribers: usize, rounds: &[Answer]) -> Self {
        let middle = |of: fn(&Answer) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
        Self {
            name: target.name.clone(),
            subscribers,
            us: middle(|it| it.server().cpu_us / it.published.max(1) as f64),
            per_second: middle(|it| it.published as f64 / it.seconds),
            p50: middle(|it| it.accepted.p50),
            p99: middle(|it| it.accepted.p99),
            lost: rounds.iter().map(|it| it.expected.abs_diff(it.deliveries)).sum(),
            failed: rounds.iter().map(|it| it.cut + it.failed).sum(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "target": self.name,
            "subscribers": self.subscribers,
            "us_per_publication": rounded(self.us, 2),
            "publications_per_s": rounded(self.per_second, 0),
            "p50_ms": rounded(self.p50, 3),
            "p99_ms": rounded(self.p99, 3),
            "lost": self.lost,
            "failed": self.failed,
        })
    }
}

fn show(rows: &[Row], subscribers: usize) {
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            grouped(row.per_second),
            format!("{:.1}", row.us),
            format!("{:.2}", row.p50),
            format!("{:.2}", row.p99),
            row.lost.to_string(),
            row.failed.to_string(),
        ]
    };
    let title = format!("{subscribers} subscribers");
    let rows: Vec<_> = rows.iter().filter(|row| row.subscribers == subscribers).map(cells).collect();
    table(&[&title, "publications/s", "us CPU each", "p50 ms", "p99 ms", "lost", "failed"], &rows);
    say("");
}
