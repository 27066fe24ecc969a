//! What came of it, and the bars.

use super::{Args, Run, Side, Timed, Work};
use crate::report::{grouped, rounded, say, table};
use crate::sample::Samples;
use crate::soak::memory::Memory;
use crate::soak::verdict::Bar;
use serde_json::{Value, json};

/// Of the mix, in milliseconds: 99 of 100, and each.
const P99_MS: f64 = 50.0;
const MOST_MS: f64 = 500.0;
/// Seconds from which on memory is judged.
const LONG: u64 = 120;

fn name(side: Side) -> &'static str {
    match side {
        Side::Hub => "hub",
        Side::Bare => "bare handler",
        Side::Plain => "pgbench",
    }
}

/// The table of one sort of request.
pub(super) fn runs(work: Work, sides: &[(Side, Run)]) {
    let row = |(side, run): &(Side, Run)| {
        let us = |value: f64, shown: bool| if shown { format!("{value:.1}") } else { "-".to_owned() };
        vec![
            name(*side).to_owned(),
            grouped(run.per_second),
            format!("{:.2}", run.p50),
            format!("{:.2}", run.p99),
            us(run.server_us, *side != Side::Plain),
            us(run.database_us, *side != Side::Bare),
            run.failed.to_string(),
        ]
    };
    let head = [work.name(), "requests/s", "p50 ms", "p99 ms", "us CPU each", "us PostgreSQL each", "failed"];
    table(&head, &sides.iter().map(row).collect::<Vec<_>>());
    if let Some(ratio) = ratio(sides) {
        say(&format!("the hub's processor time of the bare handler's: {ratio:.2}"));
    }
    say("");
}

/// The hub's processor time for a request, of the bare handler's.
fn ratio(sides: &[(Side, Run)]) -> Option<f64> {
    let of = |wanted| sides.iter().find(|(side, _)| *side == wanted).map(|(_, run)| run.server_us);
    of(Side::Hub).zip(of(Side::Bare).filter(|us| *us > 0.0)).map(|(hub, bare)| hub / bare)
}

/// The tables and the bars of the mix. `used`: microseconds of the hub and of the database for a request; memory once a second.
pub(super) fn mix(args: &Args, all: &[Timed], used: [f64; 2], memory: &[f64]) -> Vec<Bar> {
    let took = |of: &dyn Fn(&Timed) -> bool| all.iter().filter(|it| of(it)).map(|it| it.took_us).collect::<Samples>();
    let row = |name: &str, of: &dyn Fn(&Timed) -> bool| {
        let took = took(of);
        let ms = [50.0, 99.0, 99.9, 100.0].map(|percentile| format!("{:.1}", took.ms(percentile)));
        [vec![name.to_owned(), grouped(took.len() as f64)], ms.to_vec()].concat()
    };
    let mut rows = vec![row("all", &|_| true)];
    rows.extend(Work::ALL.map(|work| row(work.name(), &move |it| it.work == work)));
    say(&format!(
        "the mix: {} requests a second for {} s over {} connections, nine of ten read; from when each was due",
        args.rate, args.mix_seconds, args.connections
    ));
    table(&["", "requests", "p50 ms", "p99 ms", "p99.9 ms", "most ms"], &rows);
    say(&format!("us CPU each: hub {:.1}, PostgreSQL {:.1}\n", used[0], used[1]));
    bars(args, all, memory)
}

fn bars(args: &Args, all: &[Timed], memory: &[f64]) -> Vec<Bar> {
    let took: Samples = all.iter().map(|it| it.took_us).collect();
    let (p99, most, due) = (took.ms(99.0), took.ms(100.0), args.rate * args.mix_seconds);
    let failed = all.iter().filter(|it| !it.done).count() as u64;
    let mut bars = vec![
        Bar::new(format!("p99: below {P99_MS} ms"), format!("{p99:.1}"), p99 < P99_MS && !all.is_empty()),
        Bar::new(format!("no request above {MOST_MS} ms"), format!("{most:.1}"), most <= MOST_MS),
        Bar::none("requests that failed", failed),
        Bar::new("every request was made", format!("{} of {due}", all.len()), all.len() as u64 == due),
    ];
    if args.mix_seconds >= LONG {
        let of = Memory::of(memory);
        let value = format!("{:.1} after a fifth, {:.1} at the end", of.warm, of.end);
        bars.push(Bar::new("memory of the hub is flat (within 10 % or 16 MiB)", value, of.flat()));
    }
    bars
}

/// The last line.
pub(super) fn json(runs: &[(Work, Vec<(Side, Run)>)], mix: &[Timed], bars: &[Bar], environment: &str) -> Value {
    let run = |(side, run): &(Side, Run)| {
        json!({
            "target": name(*side), "requests_per_s": rounded(run.per_second, 0), "p50_ms": rounded(run.p50, 3),
            "p99_ms": rounded(run.p99, 3), "us_each": rounded(run.server_us, 1),
            "database_us_each": rounded(run.database_us, 1), "failed": run.failed,
        })
    };
    let rows: Vec<_> = runs
        .iter()
        .map(|(work, sides)| {
            let ratio = ratio(sides).map(|ratio| rounded(ratio, 2));
            json!({"work": work.name(), "of_bare": ratio, "sides": sides.iter().map(run).collect::<Vec<_>>()})
        })
        .collect();
    let took: Samples = mix.iter().map(|it| it.took_us).collect();
    let bar = |bar: &Bar| json!({"name": bar.what, "value": bar.value, "reached": bar.reached});
    json!({
        "scenario": "rest", "rows": rows, "mix_p50_ms": rounded(took.ms(50.0), 2), "mix_p99_ms": rounded(took.ms(99.0), 2),
        "mix_max_ms": rounded(took.ms(100.0), 2), "bars": bars.iter().map(bar).collect::<Vec<_>>(), "environment": environment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Told {
        #[command(flatten)]
        args: Args,
    }

    /// Which of the bars a run misses: `slow` of 1000 requests take so many milliseconds.
    fn missed(slow: usize, ms: i64, failed: bool, lost: usize) -> Vec<bool> {
        let args = Told::parse_from(["rest", "--mix-seconds", "1"]).args;
        let of =
            |n| Timed { work: Work::One, took_us: if n < slow { ms * 1000 } else { 2000 }, done: !(failed && n == 0) };
        let all: Vec<_> = (0..1000 - lost).map(of).collect();
        bars(&args, &all, &[]).iter().map(|bar| !bar.reached).collect()
    }

    #[test]
    fn each_bar_can_be_missed() {
        assert_eq!(missed(9, 400, false, 0), [false; 4]);
        assert_eq!(missed(11, 60, false, 0), [true, false, false, false]);
        assert_eq!(missed(1, 501, false, 0), [false, true, false, false]);
        assert_eq!(missed(0, 0, true, 0), [false, false, true, false]);
        assert_eq!(missed(0, 0, false, 1), [false, false, false, true]);
        let args = Told::parse_from(["rest", "--mix-seconds", "600"]).args;
        assert!(!bars(&args, &[], &[]).last().unwrap().reached, "no measurement");
    }
}
