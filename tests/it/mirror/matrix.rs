//! Every fault of the upstream while objects flow: at the end the database is the upstream's truth.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use dzvin_sandbox::{ActiveFault, Fault, Manner, NullSpelling, SandboxHandle, StaleTs};
use tokio::task::{JoinSet, LocalSet};

use super::{
    arena::{Arena, Setting, Site},
    faults as f,
    flow::{Flow, Life, real},
    truth::{Agreed, Gone, compare},
};

type Struck<'a> = Pin<Box<dyn Future<Output = u64> + 'a>>;
type Strike = Box<dyn for<'a> FnOnce(&'a Site, &'a mut Flow) -> Struck<'a>>;

/// 7.5 MB in the larger of its two meanings.
const LIMIT: usize = 7_864_320;
/// Only after a gap.
const AFTER_GAPS: &str = r#"{ interval = "0s", pause = "5ms", page = 20 }"#;
/// A dead connection is noticed within seconds.
const WATCHFUL: &str = "heartbeat = { ping_s = 1, any_frame_s = 3, idle_limit_s = 350 }";

struct Case {
    setting: Setting,
    gone: Gone,
    /// It strikes before the link was ever live.
    early: bool,
    strike: Strike,
}

/// A line of the table.
struct Line {
    name: &'static str,
    protocol: &'static str,
    struck: u64,
    operations: u64,
    connections: u64,
    agreed: Agreed,
    took: Duration,
}

fn case(setting: Setting, strike: impl for<'a> FnOnce(&'a Site, &'a mut Flow) -> Struck<'a> + 'static) -> Case {
    let gone = if setting.full { Gone::Trashed } else { Gone::Missing };
    Case { setting, gone, early: false, strike: Box::new(strike) }
}

fn full(name: &'static str) -> Setting {
    Setting::new(name, true)
}

fn simple(name: &'static str) -> Setting {
    Setting::new(name, false)
}

/// The simple protocol, and no comparison that would make good what the stream loses.
fn stream_alone(name: &'static str) -> Setting {
    Setting { reconcile: AFTER_GAPS.to_owned(), ..simple(name) }
}

fn watchful(name: &'static str) -> Setting {
    Setting { dialect: WATCHFUL, ..full(name) }
}

/// Faults of the stream itself.
fn stream() -> Vec<Case> {
    let noise = |setting, fault: Fault, counted: &'static str| {
        case(setting, move |site, _| Box::pin(f::noise(site, fault, counted)))
    };
    let manner = |setting, fault: Fault| case(setting, move |site, flow| Box::pin(f::manner(site, flow, fault)));
    let cuts = |setting, manner| case(setting, move |site, _| Box::pin(f::cuts(site, manner)));
    let idle = |setting, manner| case(setting, move |site, flow| Box::pin(f::idle(site, flow, manner)));
    let stale = |ts| Fault::Stale { percent: 70, ts };
    vec![
        case(full("no-fault"), |_, flow| {
            Box::pin(async {
                flow.further(40).await;
                0
            })
        }),
        case(simple("no-fault-simple"), |_, flow| {
            Box::pin(async {
                flow.further(40).await;
                0
            })
        }),
        case(Setting { stock: real, ..full("real-objects") }, |_, flow| {
            Box::pin(async {
                flow.further(40).await;
                40
            })
        }),
        case(Setting { stock: real, ..simple("real-objects-simple") }, |_, flow| {
            Box::pin(async {
                flow.further(40).await;
                40
            })
        }),
        case(Setting { knobs: |knobs| knobs.world.dotted_set = true, stock: real, ..full("dotted-set") }, |site, _| {
            Box::pin(f::edits(site))
        }),
        noise(stream_alone("malformed"), Fault::Malformed { every: 3 }, "malformed"),
        noise(full("unknown-type"), Fault::UnknownType { every: 3 }, "unknown"),
        noise(full("duplicates"), Fault::Duplicates { percent: 60 }, "duplicate"),
        noise(full("stale-old"), stale(StaleTs::Old), "stale"),
        noise(stream_alone("stale-same"), stale(StaleTs::Same), "stale"),
        noise(stream_alone("stale-null"), stale(StaleTs::Null), "stale"),
        manner(full("binary"), Fault::Binary),
        manner(full("fragments"), Fault::Fragments { bytes: 7 }),
        manner(full("slow"), Fault::Slow { bytes_per_s: 6_000 }),
        cuts(full("cut-close"), Manner::Close(1011)),
        cuts(stream_alone("cut-fin"), Manner::Fin),
        cuts(full("cut-rst"), Manner::Rst),
        cuts(full("cut-mid-frame"), Manner::MidFrame),
        cuts(watchful("cut-silent"), Manner::Silent),
        case(watchful("half-open"), |site, _| Box::pin(f::silence(site))),
        case(Setting { dialect: "heartbeat = { text_frame_s = 2 }", ..full("stuck") }, |site, _| {
            Box::pin(f::stuck(site))
        }),
        idle(full("idle-close"), Manner::Close(1001)),
        idle(full("idle-fin"), Manner::Fin),
        idle(Setting { dialect: "heartbeat = { ping_s = 2, any_frame_s = 5 }", ..full("idle-silent") }, Manner::Silent),
        case(watchful("idle-pinged"), |site, flow| Box::pin(f::kept_alive(site, flow))),
        case(
            Setting {
                knobs: |knobs| (knobs.mirror.null, knobs.mirror.strict_null) = (NullSpelling::Empty, true),
                dialect: "cursor = { null = \"empty\" }",
                ..full("null-empty")
            },
            |site, _| Box::pin(f::spelled_empty(site)),
        ),
        case(
            Setting {
                knobs: |knobs| {
                    (knobs.mirror.repeat_requests, knobs.mirror.pipeline_requests, knobs.mirror.reask_every) =
                        (5, true, 3);
                },
                ..full("questions")
            },
            |site, _| Box::pin(f::questions(site)),
        ),
    ]
}

/// Lost history, refusals, limits and sizes.
fn refusals() -> Vec<Case> {
    let refused = |name, status| case(full(name), move |site, _| Box::pin(f::refused(site, status)));
    let lost = |setting: Setting, forget| Case {
        gone: if setting.full { Gone::Either } else { Gone::Missing },
        ..case(setting, move |site, flow| Box::pin(f::history_lost(site, flow, forget)))
    };
    let equal = |setting: Setting, stuck| Case {
        gone: Gone::Either,
        ..case(
            Setting {
                reconcile: AFTER_GAPS.to_owned(),
                objects: 150,
                same_date: Some("2024-01-01T06:15:49.086000Z"),
                ..setting
            },
            move |site, flow| Box::pin(f::equal_dates(site, flow, stuck)),
        )
    };
    vec![
        lost(full("history-forgotten"), true),
        lost(simple("history-lost-simple"), false),
        equal(Setting { knobs: |knobs| knobs.api.page_limit = 50, ..full("equal-dates") }, true),
        equal(Setting { knobs: |knobs| knobs.api.page_limit = 400, ..full("equal-dates-wide") }, false),
        Case {
            gone: Gone::Either,
            early: true,
            ..case(
                Setting {
                    knobs: |knobs| (knobs.mirror.snapshot_end_noop, knobs.mirror.snapshot_ordered) = (false, false),
                    reconcile: AFTER_GAPS.to_owned(),
                    at_start: vec![ActiveFault::new(Fault::Cut { after: 7, manner: Manner::MidFrame })],
                    ..full("snapshot-cut")
                },
                |site, _| Box::pin(f::cut_snapshot(site)),
            )
        },
        refused("handshake-500", 500),
        refused("handshake-503", 503),
        case(full("handshake-hang"), |site, _| Box::pin(f::hang(site))),
        case(full("handshake-403"), |site, flow| Box::pin(f::forbidden(site, flow))),
        case(simple("rights-change"), |site, flow| Box::pin(f::rights_change(site, flow))),
        case(full("version-too-low"), |site, flow| Box::pin(f::version(site, flow))),
        case(full("closed-1009"), |site, _| Box::pin(f::closed_1009(site))),
        case(
            Setting { dialect: "max_message_bytes = 7864320", reconcile: AFTER_GAPS.to_owned(), ..full("sizes") },
            |site, flow| Box::pin(f::sizes(site, flow, LIMIT)),
        ),
    ]
}

/// Limits of the upstream: a refusal holds back everything that the hub asks of it, so these have a hub of their own.
fn limits() -> Vec<Case> {
    vec![
        case(full("handshake-429"), |site, _| Box::pin(f::refused(site, 429))),
        case(
            Setting {
                knobs: |knobs| (knobs.nginx.rate_per_s, knobs.nginx.burst_factor) = (Some(3), 1),
                reconcile: r#"{ interval = "1s", pause = "5ms", page = 6 }"#.to_owned(),
                ..simple("rate-429")
            },
            |site, flow| Box::pin(f::hindered(site, flow, 429)),
        ),
        case(
            Setting {
                knobs: |knobs| {
                    (knobs.nginx.rate_per_s, knobs.nginx.burst_factor, knobs.nginx.rate_status) = (Some(2), 1, 503);
                },
                reconcile: r#"{ interval = "1s", pause = "5ms", page = 6 }"#.to_owned(),
                ..simple("rate-503")
            },
            |site, flow| Box::pin(f::hindered(site, flow, 503)),
        ),
        case(simple("crowded-429"), |site, flow| Box::pin(f::crowded(site, flow, 429))),
        case(simple("crowded-503"), |site, flow| Box::pin(f::crowded(site, flow, 503))),
        case(simple("http-failing"), |site, flow| Box::pin(f::failing_http(site, flow))),
    ]
}

async fn run(site: Site, life: Life, (gone, early, strike): (Gone, bool, Strike), seed: u64) -> Line {
    let begun = Instant::now();
    if !early {
        site.is("live").await;
    }
    let mut flow = Flow::start(site.control.clone(), site.name, life, seed);
    flow.further(5).await;
    let struck = strike(&site, &mut flow).await;
    flow.further(5).await;
    flow.pause();
    let operations = flow.count();
    site.control.turn(|knobs| knobs.mirror.noop_ms = 0);
    site.control.noop(site.name).expect("the collection");
    let agreed = site.until("the database is the upstream's truth", async || compare(&site, gone).await).await;
    Line {
        name: site.name,
        protocol: if site.full { "full" } else { "simple" },
        struck,
        operations,
        connections: site.connections(),
        agreed,
        took: begun.elapsed(),
    }
}

/// Starts the cases; `DZVIN_FAULTS=cut-fin,slow` leaves the others out.
async fn all(mut cases: Vec<Case>, runs: &mut JoinSet<Line>) -> Vec<SandboxHandle> {
    if let Ok(only) = std::env::var("DZVIN_FAULTS") {
        cases.retain(|case| only.split(',').any(|name| name == case.setting.name));
    }
    if cases.is_empty() {
        return Vec::new();
    }
    let (settings, rest): (Vec<Setting>, Vec<_>) =
        cases.into_iter().map(|Case { setting, gone, early, strike }| (setting, (gone, early, strike))).unzip();
    let (_, sites, upstreams) = Arena::start(&settings).await;
    let told = |setting: &Setting| setting.full || setting.reconcile != AFTER_GAPS;
    let lives = settings.iter().map(|setting| Life { stock: setting.stock, deletes: told(setting) });
    let sites = sites.into_iter().zip(lives);
    for (seed, ((site, life), rest)) in sites.zip(rest).enumerate() {
        runs.spawn_local(run(site, life, rest, seed as u64));
    }
    upstreams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_the_database_is_the_upstreams_truth() {
    let begun = Instant::now();
    let (mut lines, failures) = LocalSet::new()
        .run_until(async {
            let mut runs = JoinSet::new();
            let _stream = all(stream(), &mut runs).await;
            let _refusals = all(refusals(), &mut runs).await;
            let _limits = all(limits(), &mut runs).await;
            let (mut lines, mut failures) = (Vec::new(), Vec::new());
            while let Some(line) = runs.join_next().await {
                match line {
                    Ok(line) => lines.push(line),
                    Err(error) => failures.push(error.to_string().chars().take(200).collect::<String>()),
                }
            }
            (lines, failures)
        })
        .await;
    let cases = lines.len() + failures.len();
    println!(
        "{:<20} {:>8} {:>6} {:>10} {:>11} {:>7} {:>4} {:>7} {:>6}",
        "fault", "protocol", "struck", "operations", "connections", "objects", "gone", "changes", "s"
    );
    lines.sort_by_key(|line| line.name);
    for line in &lines {
        let Line { name, protocol, struck, operations, connections, agreed, took } = line;
        let Agreed { objects, gone, changes } = agreed;
        println!(
            "{name:<20} {protocol:>8} {struck:>6} {operations:>10} {connections:>11} {objects:>7} {gone:>4} {changes:>7} {:>6.1}",
            took.as_secs_f64()
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(lines.iter().all(|line| line.struck > 0 || line.name.starts_with("no-fault")));
    println!("{cases} faults in {:.1} s", begun.elapsed().as_secs_f64());
}
