//! `growth`: the fan-out of few and of many connections: what a delivery and a connection cost must not grow with their number.

use super::Common;
use super::bars::{Bar, judge};
use super::fanout::{self, Row};
use super::rig::Rig;
use super::steer::Steered;
use super::target::Kind;
use crate::error::{BenchError, Fallible};
use crate::report::{say, table};
use crate::sample::median;

/// The cost with many over that with few.
const BAR: f64 = 1.15;

/// Options of the scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Few connections.
    #[arg(long, default_value_t = 1_000)]
    few: usize,
    /// Many.
    #[arg(long, default_value_t = 15_000)]
    many: usize,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Runs it; answers whether the bars are reached, where that was asked for.
pub(crate) async fn run(args: &Args) -> Fallible<bool> {
    if args.few == 0 || args.many <= args.few || args.seconds <= 0.0 {
        return Err(BenchError::new("few is above zero, many above few, seconds above zero"));
    }
    // The clients' half of the kernel's work grows with their number, and is not the server's.
    let steered = Steered::between([args.common.server_core, args.common.generator_core]);
    let how = match &steered {
        Ok(_) => "each end of a connection on its process's core".to_owned(),
        Err(error) => format!("the clients' half of loopback counts as the server's: {error}"),
    };
    let mut rig = Rig::start(&args.common, args.many).await?;
    let rows = fanout::measure(&mut rig, &[args.few, args.many], None, args.seconds).await?;
    let environment = format!("{}; {how}", rig.environment());
    rig.stop().await?;
    drop(steered);
    say(&format!("\ngrowth: fan-out from {} to {} connections, {} s each", args.few, args.many, args.seconds));
    say(&format!("{environment}\n"));
    let grown: Vec<Grown> = rows.chunks_exact(2).map(|pair| Grown { few: &pair[0], many: &pair[1] }).collect();
    show(&grown);
    let hub = grown.iter().find(|grown| grown.few.kind == Some(Kind::Hub));
    // Of too few connections the memory is lost in what the server does by itself.
    let memory = hub.filter(|hub| hub.few.kib > 0.0).map(|hub| hub.many.kib / hub.few.kib);
    let bars = [
        Bar::new("growth, CPU per delivery", hub.map(Grown::us), BAR),
        Bar::new("growth, memory per connection", memory, BAR),
    ];
    Ok(judge(&args.common, "growth", &environment, rows.iter().map(Row::json).collect(), &bars))
}

struct Grown<'a> {
    few: &'a Row,
    many: &'a Row,
}

impl Grown<'_> {
    /// Of the processor's time: the middle of what each round came to, whose halves were measured one after the other. What a host takes
    /// of its machine comes and goes in minutes.
    fn us(&self) -> f64 {
        let rounds = self.few.us_of_rounds.iter().zip(&self.many.us_of_rounds);
        median(&rounds.map(|(few, many)| many / few).collect::<Vec<_>>())
    }
}

fn show(grown: &[Grown<'_>]) {
    let cells = |it: &Grown<'_>| {
        vec![
            it.few.name.clone(),
            format!("{:.2}", it.few.us),
            format!("{:.2}", it.many.us),
            format!("{:.2}", it.us()),
            format!("{:.1}", it.few.kib),
            format!("{:.1}", it.many.kib),
            format!("{:.2}", it.many.kib / it.few.kib),
            (it.few.lost + it.many.lost).to_string(),
        ]
    };
    let head = ["", "us CPU each, few", "many", "grown", "KiB each, few", "many", "grown", "lost"];
    table(&head, &grown.iter().map(cells).collect::<Vec<_>>());
    say("");
}
