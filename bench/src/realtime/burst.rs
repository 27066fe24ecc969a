//! `burst`: many channels with some subscribers each, publications as fast as they are accepted. A hub that lets frames that wait
//! together leave together comes below the floor, which writes once for each delivery.

use super::Common;
use super::bars::{Bar, judge};
use super::orders::Answer;
use super::rig::{Flow, Rig};
use super::target::Kind;
use crate::error::{BenchError, Fallible};
use crate::report::{grouped, rounded, say, table};
use crate::sample::median;
use serde_json::{Value, json};

/// Requests under way at a time to a server that takes only single publications.
const SINGLE_IN_FLIGHT: usize = 16;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Channels.
    #[arg(long, default_value_t = 100)]
    in_channels: usize,
    /// Subscribers of each.
    #[arg(long, default_value_t = 50)]
    subscribers: usize,
    /// Publications in one request, spread over the channels.
    #[arg(long, default_value_t = 500)]
    batch: usize,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

struct Row {
    name: String,
    kind: Option<Kind>,
    us: f64,
    per_second: f64,
    published: f64,
    p50: f64,
    p99: f64,
    lost: usize,
    failed: usize,
    why: Option<String>,
}

/// Runs it; answers whether the bar is reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let clients = args.in_channels * args.subscribers;
    if clients == 0 || args.batch == 0 || args.seconds <= 0.0 {
        return Err(BenchError::new("channels, subscribers, the batch and the seconds are above zero"));
    }
    let mut rig = Rig::start(&args.common, clients).await?;
    let mut rounds: Vec<Vec<Answer>> = vec![Vec::new(); rig.targets.len()];
    for round in 1..=args.common.rounds.max(1) {
        for (n, all) in rounds.iter_mut().enumerate() {
            rig.progress(
                n,
                &format!("{} channels of {} subscribers, round {round}", args.in_channels, args.subscribers),
            );
            rig.open(n, clients, args.in_channels, None).await?;
            // nchan takes one publication in a request.
            let single = rig.targets[n].kind == Some(Kind::Nchan);
            let (batch, in_flight) = if single { (1, SINGLE_IN_FLIGHT) } else { (args.batch, args.in_flight) };
            let flow = Flow { channels: args.in_channels, batch, in_flight, rate: 0.0, seconds: args.seconds };
            all.push(rig.flow(n, flow).await?);
            rig.close().await?;
        }
    }
    let rows: Vec<Row> = rounds.iter().zip(&rig.targets).map(|(all, target)| Row::of(target, all)).collect();
    let environment = rig.environment();
    rig.stop().await?;
    say(&format!(
        "\nburst: {} channels of {} subscribers, {} publications in a request, {} requests under way, {} s",
        args.in_channels, args.subscribers, args.batch, args.in_flight, args.seconds
    ));
    say(&format!("{environment}\n"));
    show(&rows);
    let of = |kind: Kind| rows.iter().find(|row| row.kind == Some(kind));
    let hub = of(Kind::Hub);
    let ratio = hub.zip(of(Kind::Floor)).map(|(hub, floor)| hub.us / floor.us);
    let bars = [
        Bar::new("burst, CPU per delivery over one write for each", ratio, 1.0).beside(Kind::Floor),
        Bar::new("burst, lost deliveries", hub.map(|row| row.lost as f64), 0.0),
    ];
    Ok(judge(&args.common, "burst", &environment, rows.iter().map(Row::json).collect(), &bars))
}

impl Row {
    fn of(target: &super::target::Target, rounds: &[Answer]) -> Self {
        let middle = |of: fn(&Answer) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
        Self {
            name: target.name.clone(),
            kind: target.kind,
            us: middle(Answer::us_per_delivery),
            per_second: middle(|it| it.deliveries as f64 / it.seconds),
            published: middle(|it| it.published as f64 / it.seconds),
            p50: middle(|it| it.spread.p50),
            p99: middle(|it| it.spread.p99),
            lost: rounds.iter().map(|it| it.expected.abs_diff(it.deliveries)).sum(),
            failed: rounds.iter().map(|it| it.cut + it.failed).sum(),
            why: rounds.iter().find_map(|it| it.why.clone()),
        }
    }

    fn json(&self) -> Value {
        json!({
            "target": self.name,
            "us_per_delivery": rounded(self.us, 3),
            "deliveries_per_s": rounded(self.per_second, 0),
            "publications_per_s": rounded(self.published, 0),
            "p50_ms": rounded(self.p50, 3),
            "p99_ms": rounded(self.p99, 3),
            "lost": self.lost,
            "failed": self.failed,
        })
    }
}

fn show(rows: &[Row]) {
    let floor = rows.iter().find(|row| row.kind == Some(Kind::Floor)).map(|row| row.us);
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            grouped(row.published),
            grouped(row.per_second),
            format!("{:.2}", row.us),
            floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", row.us / floor)),
            format!("{:.2}", row.p50),
            format!("{:.2}", row.p99),
            row.lost.to_string(),
            row.failed.to_string(),
        ]
    };
    let head = ["", "publications/s", "deliveries/s", "us CPU each", "of floor", "p50 ms", "p99 ms", "lost", "failed"];
    table(&head, &rows.iter().map(cells).collect::<Vec<_>>());
    for row in rows {
        if let Some(why) = &row.why {
            say(&format!("{}: {why}", row.name));
        }
    }
    say("");
}
