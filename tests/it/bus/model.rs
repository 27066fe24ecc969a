//! Random orders of everything that may happen to a stream, against a few lines that say what should come of it.
//! A cut connection leaves two possible worlds; the bus has to be in one of them.

use std::sync::atomic::{AtomicU64, Ordering};

use dzvin::channels::bus::HistoryLimits;
use dzvin_actors::platform::ports::{Appended, Bus, ReadLimit};
use dzvin_protocols::{
    channels::{Position, Publication},
    platform::StreamName,
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Runtime;

use super::kit::{InMemory, InRedis, Kit, World, at, epoch, far, publication};
use crate::support::{eventually::eventually, proxy::Proxy};

const KEPT: usize = 12;

fn limits() -> HistoryLimits {
    HistoryLimits { count: KEPT, ..HistoryLimits::default() }
}

#[derive(Debug, Clone)]
enum Step {
    /// A run that begins so far from top + 1, in one of two epochs.
    Append {
        from: i64,
        length: u64,
        epoch: u8,
    },
    Reset {
        to: u64,
        epoch: u8,
    },
    Read {
        back: u64,
        count: usize,
    },
    /// The connection is cut while the next run is on its way.
    CutAppend {
        length: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop_oneof![5 => Just(0_i64), 1 => -3_i64..4], 1_u64..6, prop_oneof![9 => Just(0_u8), 1 => Just(1)])
            .prop_map(|(from, length, epoch)| Step::Append { from, length, epoch }),
        1 => (0_u64..40, 0_u8..2).prop_map(|(to, epoch)| Step::Reset { to, epoch }),
        3 => (0_u64..20, 1_usize..20).prop_map(|(back, count)| Step::Read { back, count }),
        1 => (1_u64..4).prop_map(|length| Step::CutAppend { length }),
    ]
}

/// What a stream should be.
#[derive(Debug, Clone, Default)]
struct Model {
    position: Option<Position>,
    kept: Vec<u64>,
}

impl Model {
    fn append(&mut self, epoch: &str, run: &[Publication]) -> Appended {
        let Some(position) = &mut self.position else { return Appended::Gap { position: None } };
        let (top, first) = (position.offset, run[0].offset);
        if position.epoch.as_str() != epoch || first > top + 1 {
            return Appended::Gap { position: Some(position.clone()) };
        }
        if first <= top {
            return Appended::Duplicate { top };
        }
        position.offset = run[run.len() - 1].offset;
        self.kept.extend(run.iter().map(|p| p.offset));
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        Appended::Accepted { top: position.offset }
    }

    fn reset(&mut self, to: &Position) {
        if self.position.as_ref().is_some_and(|now| now.epoch == to.epoch && now.offset >= to.offset) {
            return;
        }
        *self = Self { position: Some(to.clone()), kept: Vec::new() };
    }

    fn top(&self) -> u64 {
        self.position.as_ref().map_or(0, |p| p.offset)
    }
}

async fn play<B: Bus>(bus: &B, proxy: Option<&Proxy>, stream: &StreamName, steps: &[Step]) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append { from, length, epoch: name } => {
                let first = (model.top() + 1).saturating_add_signed(*from).max(1);
                let run: Vec<_> = (first..first + length).map(publication).collect();
                let name = format!("e{name}");
                let answer = bus.append(stream, &epoch(&name), &run).await.expect("appended");
                assert_eq!(answer, model.append(&name, &run), "{step:?}");
            }
            Step::Reset { to, epoch } => {
                let to = at(&format!("e{epoch}"), *to);
                bus.reset(stream, &to).await.expect("reset");
                model.reset(&to);
            }
            Step::Read { back, count } => check(bus, stream, &model, model.top().saturating_sub(*back), *count).await,
            Step::CutAppend { length } => {
                let Some(name) = model.position.as_ref().map(|p| p.epoch.clone()) else { continue };
                let run: Vec<_> = (model.top() + 1..=model.top() + length).map(publication).collect();
                let append = bus.append(stream, &name, &run);
                let cut = async {
                    tokio::task::yield_now().await;
                    proxy.inspect(|proxy| proxy.cut());
                };
                let (answer, ()) = tokio::join!(append, cut);
                let now = eventually("the bus is back", || async { bus.position(stream).await.ok() }).await;
                let before = model.clone();
                let expected = model.append(name.as_str(), &run);
                match answer {
                    Ok(answer) => assert_eq!(answer, expected),
                    // Nobody knows, but half a run is not an answer.
                    Err(_) if now == before.position => model = before,
                    Err(_) => {}
                }
                assert_eq!(now, model.position, "{step:?}");
            }
        }
    }
    check(bus, stream, &model, 0, 1000).await;
}

async fn check<B: Bus>(bus: &B, stream: &StreamName, model: &Model, after: u64, count: usize) {
    let slice = bus.read(stream, after, ReadLimit { count, bytes: 1 << 20 }).await.expect("read");
    let Some(position) = &model.position else { return assert_eq!(slice, None) };
    let slice = slice.expect("known");
    let expected: Vec<_> = model.kept.iter().filter(|o| **o > after).take(count).map(|o| publication(*o)).collect();
    let first = position.offset + 1 - model.kept.len() as u64;
    assert_eq!((&slice.position, slice.complete), (position, after + 1 >= first));
    assert_eq!(slice.publications, expected);
}

/// Each case has a stream of its own on one bus.
fn many<B: Bus>(cases: u32, runtime: &Runtime, bus: &B, proxy: Option<&Proxy>) {
    static CASE: AtomicU64 = AtomicU64::new(0);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(step(), 1..40), |steps| {
            let stream = StreamName::from_checked(&format!("entities.k{}", CASE.fetch_add(1, Ordering::Relaxed)));
            runtime.block_on(play(bus, proxy, &stream, &steps));
            Ok(())
        })
        .expect("the bus is what the model is");
}

#[test]
fn in_memory() {
    let runtime = Runtime::new().expect("a runtime");
    let World { bus, events: _events, .. } = runtime.block_on(InMemory::start(limits()));
    many(200, &runtime, &bus, None);
}

#[test]
fn in_redis() {
    let runtime = Runtime::new().expect("a runtime");
    let (bus, proxy, _keep) = runtime.block_on(async {
        let world = InRedis::start(limits()).await;
        let server = world.server.expect("a server");
        let (proxy, bus, events) = far(&server, limits()).await;
        (bus, proxy, (server, events))
    });
    many(40, &runtime, &bus, Some(&proxy));
}
