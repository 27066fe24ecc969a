//! `fanout`: one channel, many subscribers, a steady rate of publications: processor time of each delivery, and how long it takes.

use super::Common;
use super::bars::{Bar, judge};
use super::orders::{Answer, Spread};
use super::rig::{Flow, Rig};
use super::target::Kind;
use crate::error::{BenchError, Fallible};
use crate::report::{grouped, rounded, say, table};
use crate::sample::median;
use serde_json::{Value, json};

/// The hub's processor time per delivery, over the floor's.
const BAR_RATIO: f64 = 1.25;
/// Deliveries a second that the usual rate aims at, and the most publications.
const USUAL: (f64, f64) = (25_000.0, 20.0);

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Subscribers of the one channel; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    subscribers: Vec<usize>,
    /// Publications a second; by default 20, and fewer for more than 1,250 subscribers.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What one server did with one number of subscribers.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The server.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Option<Kind>,
    /// Clients.
    pub(crate) subscribers: usize,
    /// Microseconds of processor time for each delivery.
    pub(crate) us: f64,
    /// The same, round by round.
    pub(crate) us_of_rounds: Vec<f64>,
    /// Deliveries a second while they lasted.
    pub(crate) per_second: f64,
    /// How long they took.
    pub(crate) spread: Spread,
    /// Deliveries that did not come.
    pub(crate) lost: usize,
    /// Clients that were cut off, or publications that were not accepted.
    pub(crate) failed: usize,
    /// Resident memory of each connection.
    pub(crate) kib: f64,
    /// How late the generator was, of the slowest percent.
    pub(crate) late: f64,
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    let most = args.subscribers.iter().copied().max().unwrap_or(0);
    if most == 0 || args.seconds <= 0.0 {
        return Err(BenchError::new("subscribers and seconds are above zero"));
    }
    let mut rig = Rig::start(&args.common, most).await?;
    let mut rows = Vec::new();
    for subscribers in &args.subscribers {
        rows.extend(measure(&mut rig, &[*subscribers], args.rate, args.seconds).await?);
    }
    let environment = rig.environment();
    rig.stop().await?;
    say(&format!("\nfanout: one channel, payloads of {} bytes, {} s", args.common.payload, args.seconds));
    say(&format!("{environment}\n"));
    for subscribers in &args.subscribers {
        show(&rows, *subscribers);
    }
    let bars: Vec<Bar> = args.subscribers.iter().flat_map(|subscribers| bars(&rows, *subscribers)).collect();
    Ok(judge(&args.common, "fanout", &environment, rows.iter().map(Row::json).collect(), &bars))
}

/// Measures all servers in turn, round by round; where there are several numbers of subscribers, each server with all of them before the
/// next, so that they stand beside each other in time as well. Rows are by server, then by number.
pub(crate) async fn measure(rig: &mut Rig, numbers: &[usize], rate: Option<f64>, seconds: f64) -> Fallible<Vec<Row>> {
    let mut rounds: Vec<Vec<Vec<(Answer, f64)>>> = vec![vec![Vec::new(); numbers.len()]; rig.targets.len()];
    for round in 1..=rig.common.rounds.max(1) {
        for (n, rounds_of) in rounds.iter_mut().enumerate() {
            for (subscribers, rounds_of) in numbers.iter().zip(rounds_of) {
                let rate = rate.unwrap_or_else(|| (USUAL.0 / *subscribers as f64).clamp(1.0, USUAL.1));
                rig.progress(n, &format!("{subscribers} subscribers, {rate:.1} publications/s, round {round}"));
                let empty = rig.base(n).await?;
                rig.open(n, *subscribers, 1, None).await?;
                let answer = rig.flow(n, Flow { channels: 1, batch: 1, in_flight: 4, rate, seconds }).await?;
                let kib = (answer.server().rss_kib - empty) / *subscribers as f64;
                rig.close().await?;
                rounds_of.push((answer, kib));
            }
        }
    }
    let rows = rounds.iter().zip(&rig.targets).flat_map(|(rounds, target)| {
        numbers.iter().zip(rounds).map(|(subscribers, rounds)| Row::of(target, *subscribers, rounds))
    });
    Ok(rows.collect())
}

impl Row {
    fn of(target: &super::target::Target, subscribers: usize, rounds: &[(Answer, f64)]) -> Self {
        let middle = |of: fn(&Answer) -> f64| median(&rounds.iter().map(|(answer, _)| of(answer)).collect::<Vec<_>>());
        let sum = |of: fn(&Answer) -> usize| rounds.iter().map(|(answer, _)| of(answer)).sum();
        Self {
            name: target.name.clone(),
            kind: target.kind,
            subscribers,
            us: middle(Answer::us_per_delivery),
            us_of_rounds: rounds.iter().map(|(answer, _)| answer.us_per_delivery()).collect(),
            per_second: middle(|it| it.deliveries as f64 / it.seconds),
            spread: Spread {
                p50: middle(|it| it.spread.p50),
                p99: middle(|it| it.spread.p99),
                p999: middle(|it| it.spread.p999),
                max: middle(|it| it.spread.max),
            },
            lost: sum(|it| it.expected.abs_diff(it.deliveries)),
            failed: sum(|it| it.cut + it.failed),
            // Later rounds live in what the first has left.
            kib: rounds.first().map_or(f64::NAN, |(_, kib)| *kib),
            late: middle(|it| it.late.p99),
        }
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        json!({
            "target": self.name,
            "subscribers": self.subscribers,
            "us_per_delivery": rounded(self.us, 3),
            "deliveries_per_s": rounded(self.per_second, 0),
            "p50_ms": rounded(self.spread.p50, 3),
            "p99_ms": rounded(self.spread.p99, 3),
            "p999_ms": rounded(self.spread.p999, 3),
            "kib_per_connection": rounded(self.kib, 2),
            "lost": self.lost,
            "failed": self.failed,
            "generator_late_p99_ms": rounded(self.late, 3),
        })
    }
}

/// The row of a kind with so many subscribers.
pub(crate) fn of(rows: &[Row], kind: Kind, subscribers: usize) -> Option<&Row> {
    rows.iter().find(|row| row.kind == Some(kind) && row.subscribers == subscribers)
}

fn show(rows: &[Row], subscribers: usize) {
    let floor = of(rows, Kind::Floor, subscribers).map(|row| row.us);
    let cells = |row: &Row| {
        vec![
            row.name.clone(),
            grouped(row.per_second),
            format!("{:.2}", row.us),
            floor.map_or_else(|| "-".to_owned(), |floor| format!("{:.2}", row.us / floor)),
            format!("{:.2}", row.spread.p50),
            format!("{:.2}", row.spread.p99),
            format!("{:.2}", row.spread.p999),
            format!("{:.1}", row.kib),
            row.lost.to_string(),
            row.failed.to_string(),
            format!("{:.2}", row.late),
        ]
    };
    let rows: Vec<_> = rows.iter().filter(|row| row.subscribers == subscribers).map(cells).collect();
    let title = format!("{subscribers} subscribers");
    let head = ["deliveries/s", "us CPU each", "of floor", "p50 ms", "p99 ms", "p99.9 ms", "KiB", "lost", "failed"];
    let head: Vec<&str> = [title.as_str()].into_iter().chain(head).chain(["late p99 ms"]).collect();
    table(&head, &rows);
    say("");
}

fn bars(rows: &[Row], subscribers: usize) -> Vec<Bar> {
    let (hub, floor) = (of(rows, Kind::Hub, subscribers), of(rows, Kind::Floor, subscribers));
    let nchan = of(rows, Kind::Nchan, subscribers);
    let sockudo = of(rows, Kind::Sockudo, subscribers);
    let to = |what: &str| format!("fan-out to {subscribers}, {what}");
    let ratio = |of: fn(&Row) -> f64, over: Option<&Row>| hub.zip(over).map(|(hub, over)| of(hub) / of(over));
    vec![
        Bar::new(to("CPU per delivery over the floor's"), ratio(|row| row.us, floor), BAR_RATIO).beside(Kind::Floor),
        Bar::new(to("CPU per delivery over nchan's"), ratio(|row| row.us, nchan), 1.0).beside(Kind::Nchan),
        Bar::new(to("CPU per delivery over sockudo's"), ratio(|row| row.us, sockudo), 1.0).beside(Kind::Sockudo),
        Bar::new(to("p99 over nchan's"), ratio(|row| row.spread.p99, nchan), 1.0).beside(Kind::Nchan),
        Bar::new(to("lost deliveries"), hub.map(|row| row.lost as f64), 0.0),
    ]
}
