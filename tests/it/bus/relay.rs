//! The relay over a memory bus, with everything around it breaking.

use std::{sync::Arc, time::Duration};

use dzvin::channels::bus::{HistoryLimits, MemoryBus};
use dzvin_actors::{
    entities::{Relay, RelayArgs, RelayConfig, RelayHandle, RelayMessage, RelayMetrics, Role},
    platform::ports::{Bus, BusEvent, ReadLimit},
    supervise::{Cause, Settings, Supervisor, SupervisorMetrics},
};
use dzvin_protocols::{channels::Publication, platform::EntityId};
use ractor::{Actor, ActorRef};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    fakes::{FakeLeases, FakeLog, kind},
    follower::Follower,
    kit::{ALL, at, next_run},
};
use crate::support::eventually::eventually;

/// Impatient; runs are short, so that a backlog takes many.
pub fn impatient() -> RelayConfig {
    RelayConfig {
        lease_ttl: Duration::from_millis(600),
        poll: Duration::from_millis(50),
        step_in: Duration::from_millis(150),
        run: ReadLimit { count: 20, bytes: 1 << 20 },
        history_window: 50,
        ask_every: 1,
    }
}

/// A running relay.
pub struct Running {
    pub handle: RelayHandle,
    pub metrics: RelayMetrics,
    pub actor: ActorRef<RelayMessage>,
    pub task: JoinHandle<()>,
}

pub async fn relay<B: Bus>(bus: &Arc<B>, log: &FakeLog, leases: FakeLeases, config: RelayConfig) -> Running {
    let (handle, metrics) = (RelayHandle::default(), RelayMetrics::default());
    let args = RelayArgs {
        config,
        bus: Arc::clone(bus),
        log: Arc::new(log.clone()),
        leases: Arc::new(leases),
        metrics: metrics.clone(),
        handle: handle.clone(),
    };
    let (actor, task) = Actor::spawn(None, Relay::default(), args).await.expect("started");
    Running { handle, metrics, actor, task }
}

impl Running {
    pub async fn is(&self, role: Role) {
        eventually(&format!("the relay is {role:?}"), || async { self.handle.status().role == role }).await;
    }

    pub async fn stop(self) {
        self.actor.stop(None);
        self.task.await.expect("an orderly stop");
    }
}

struct Scene {
    bus: Arc<MemoryBus>,
    log: FakeLog,
    leases: FakeLeases,
    follower: Follower,
}

/// A log with a kind, a bus that knows it, so that nothing comes from the log but by recovery, and a follower from the
/// very beginning.
async fn scene() -> Scene {
    let (sender, events) = mpsc::channel(64);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["tender"]);
    bus.reset(&kind("tender").stream(), &at("e0", 0)).await.expect("reset");
    let follower = follow(&bus, events, &log).await;
    Scene { bus, log, leases: FakeLeases::default(), follower }
}

async fn follow(bus: &Arc<MemoryBus>, events: mpsc::Receiver<BusEvent>, log: &FakeLog) -> Follower {
    Follower::start(Arc::clone(bus), events, log.clone(), kind("tender").stream(), at("e0", 0)).await
}

async fn bus_reaches(bus: &MemoryBus, log: &FakeLog, name: &str) {
    let stream = kind(name).stream();
    eventually("the bus is where the log is", || async {
        bus.position(&stream).await.expect("asked") == Some(log.top(name))
    })
    .await;
}

#[tokio::test]
async fn what_is_committed_is_published_in_order() {
    let Scene { bus, log, leases, follower } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    relay.is(Role::Holder).await;
    for _ in 0..50 {
        log.commit("tender", 3);
        relay.handle.wake();
    }
    follower.reaches(1, 150).await;
    bus_reaches(&bus, &log, "tender").await;
    assert_eq!(relay.metrics.published.get(), 150);
    assert_eq!(relay.metrics.epoch_renewals.get(), 0);
    log.commit("tender", 1);
    follower.reaches(1, 151).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_wake_up_is_a_publication_at_once() {
    let (sender, mut events) = mpsc::channel(64);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["tender"]);
    let config = RelayConfig { poll: Duration::from_secs(3600), ..RelayConfig::default() };
    let relay = relay(&bus, &log, FakeLeases::default(), config).await;
    relay.is(Role::Holder).await;
    bus_reaches(&bus, &log, "tender").await;
    bus.subscribe(&kind("tender").stream()).await.expect("subscribed");
    let mut best = Duration::MAX;
    for offset in 1..=50 {
        let begun = Instant::now();
        log.commit("tender", 1);
        relay.handle.wake();
        assert_eq!(next_run(&mut events).await.2[0].offset, offset);
        best = best.min(begun.elapsed());
    }
    // The best of fifty, so that a busy machine does not count.
    assert!(best < Duration::from_millis(1), "{best:?}");
}

#[tokio::test]
async fn a_backlog_goes_in_runs_and_kinds_take_turns() {
    let (sender, mut events) = mpsc::channel(1000);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["a-large", "b-small"]);
    let config = RelayConfig { history_window: 5000, ..impatient() };
    for name in ["a-large", "b-small"] {
        bus.subscribe(&kind(name).stream()).await.expect("subscribed");
    }
    log.commit("a-large", 4000);
    log.commit("b-small", 30);
    let relay = relay(&bus, &log, FakeLeases::default(), config).await;
    let (mut large, mut large_when_small_was_done, mut small) = (0, None, 0);
    while large < 4000 {
        let (stream, _, run) = next_run(&mut events).await;
        assert!(run.len() <= 20);
        if stream == kind("a-large").stream() {
            assert_eq!(run[0].offset, large + 1);
            large += run.len() as u64;
        } else {
            small += run.len();
        }
        if small == 30 {
            large_when_small_was_done.get_or_insert(large);
        }
    }
    assert!(large_when_small_was_done.is_some_and(|large| large < 100), "{large_when_small_was_done:?}");
    assert_eq!(relay.metrics.published.get(), 4030);
}

#[tokio::test]
async fn a_poisoned_kind_waits_alone() {
    let (sender, _events) = mpsc::channel(64);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["bad", "good"]);
    log.poison(Some("bad"));
    log.commit("bad", 5);
    log.commit("good", 5);
    let relay = relay(&bus, &log, FakeLeases::default(), impatient()).await;
    bus_reaches(&bus, &log, "good").await;
    eventually("it was tried again", || async { relay.metrics.errors.get() >= 3 }).await;
    log.commit("good", 5);
    bus_reaches(&bus, &log, "good").await;
    assert_eq!(bus.position(&kind("bad").stream()).await.expect("asked"), None);
    log.poison(None);
    bus_reaches(&bus, &log, "bad").await;
}

#[tokio::test]
async fn the_log_may_go_away_and_come_back() {
    let Scene { bus, log, leases, follower } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    log.commit("tender", 5);
    follower.reaches(1, 5).await;
    log.away(true);
    log.commit("tender", 5);
    eventually("it says so", || async { relay.handle.status().last_error.is_some() }).await;
    let (calls, since) = (log.calls(), Instant::now());
    eventually("some time passes", || async { since.elapsed() > Duration::from_millis(300) }).await;
    assert!(log.calls() - calls < 60, "{} calls without a pause", log.calls() - calls);
    log.away(false);
    follower.reaches(1, 10).await;
    eventually("it forgets the error", || async { relay.handle.status().last_error.is_none() }).await;
}

#[tokio::test]
async fn a_lost_lease_ends_the_publishing_until_it_is_back() {
    let Scene { bus, log, leases, follower } = scene().await;
    let config = RelayConfig { step_in: Duration::from_secs(3600), ..impatient() };
    let relay = relay(&bus, &log, leases.clone(), config).await;
    log.commit("tender", 1);
    follower.reaches(1, 1).await;
    let term = relay.handle.status().term;
    leases.refuse(true);
    relay.is(Role::Standby).await;
    assert_eq!((relay.handle.status().term, relay.metrics.holder.get()), (None, 0));
    log.commit("tender", 1);
    relay.handle.wake();
    let passes = relay.handle.status().passes;
    eventually("it looks on", || async { relay.handle.status().passes > passes + 3 }).await;
    assert_eq!(bus.position(&kind("tender").stream()).await.expect("asked"), Some(at("e0", 1)));
    leases.refuse(false);
    follower.reaches(1, 2).await;
    assert!(relay.handle.status().term > term, "a new term");
}

#[tokio::test]
async fn of_two_relays_one_holds_and_the_other_takes_over_from_it() {
    let Scene { bus, log, leases, follower } = scene().await;
    let one = relay(&bus, &log, leases.node(1), impatient()).await;
    one.is(Role::Holder).await;
    let two = relay(&bus, &log, leases.node(2), impatient()).await;
    two.is(Role::Standby).await;
    log.commit("tender", 10);
    one.handle.wake();
    follower.reaches(1, 10).await;
    assert_eq!((two.metrics.published.get(), two.metrics.stepped_in.get()), (0, 0));
    one.stop().await;
    assert_ne!(leases.owner(), Some(1), "given back");
    log.commit("tender", 10);
    follower.reaches(1, 20).await;
    two.is(Role::Holder).await;
}

#[tokio::test]
async fn a_killed_holder_costs_less_than_its_lease() {
    let Scene { bus, log, leases, follower } = scene().await;
    let config = RelayConfig { lease_ttl: Duration::from_secs(3600), ..impatient() };
    let one = relay(&bus, &log, leases.node(1), config.clone()).await;
    one.is(Role::Holder).await;
    let two = relay(&bus, &log, leases.node(2), config).await;
    one.actor.kill();
    one.is(Role::Stopped).await;
    log.commit("tender", 10);
    follower.reaches(1, 10).await;
    assert_eq!(two.handle.status().role, Role::SteppedIn);
    // From now on it is woken as the holder would be.
    log.commit("tender", 10);
    two.handle.wake();
    follower.reaches(1, 20).await;
    assert_eq!((two.metrics.stepped_in.get(), leases.owner()), (1, Some(1)));
}

#[tokio::test]
async fn two_relays_at_once_do_no_harm() {
    let Scene { bus, log, follower, .. } = scene().await;
    let one = relay(&bus, &log, FakeLeases::default(), impatient()).await;
    let two = relay(&bus, &log, FakeLeases::default(), impatient()).await;
    for _ in 0..100 {
        log.commit("tender", 7);
        one.handle.wake();
        two.handle.wake();
        tokio::task::yield_now().await;
    }
    follower.reaches(1, 700).await;
    bus_reaches(&bus, &log, "tender").await;
    assert_eq!(log.renewals("tender"), 0);
    assert_eq!(one.metrics.published.get() + two.metrics.published.get(), 700, "each was taken once");
}

#[tokio::test]
async fn a_bus_of_another_life_starts_again_below_the_top() {
    let Scene { bus, log, leases, follower } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    let stream = kind("tender").stream();
    log.commit("tender", 100);
    follower.reaches(1, 100).await;
    bus.reset(&stream, &at("foreign", 3)).await.expect("reset");
    log.commit("tender", 5);
    bus_reaches(&bus, &log, "tender").await;
    let slice = bus.read(&stream, 0, ALL).await.expect("read").expect("known");
    assert_eq!(slice.publications.first().map(|p| p.offset), Some(105 - 50 + 1), "one window");
    follower.reaches(1, 105).await;
    assert_eq!((relay.metrics.gaps_healed.get(), log.renewals("tender")), (1, 0));
}

#[tokio::test]
async fn a_log_that_went_back_gets_a_new_epoch() {
    let Scene { bus, log, leases, follower } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    log.commit("tender", 10);
    follower.reaches(1, 10).await;
    log.rewind("tender", 7);
    eventually("the epoch is new", || async { log.renewals("tender") == 1 }).await;
    eventually("the follower knows", || async { follower.seen().reloads == [at("e1", 7)] }).await;
    log.commit("tender", 2);
    eventually("it goes on", || async { follower.seen().all.last() == Some(&(at("e1", 9).epoch, 9)) }).await;
    assert_eq!(relay.metrics.epoch_renewals.get(), 1, "once is enough");
}

#[tokio::test]
async fn a_log_that_went_back_and_then_beyond_is_found_out() {
    let Scene { bus, log, leases, follower } = scene().await;
    let first = relay(&bus, &log, leases.node(1), impatient()).await;
    log.commit("tender", 10);
    follower.reaches(1, 10).await;
    first.stop().await;
    log.rewind("tender", 7);
    log.commit("tender", 20);
    let _second = relay(&bus, &log, leases.node(2), impatient()).await;
    eventually("the epoch is new", || async { log.renewals("tender") == 1 }).await;
    eventually("the follower reloads", || async { follower.seen().reloads == [at("e1", 27)] }).await;
    assert_eq!(follower.seen().all.len(), 10, "nothing of the other life was taken for its own");
}

#[tokio::test]
async fn what_retention_cut_before_it_was_told_is_known_to_be_lost() {
    let Scene { bus, log, leases, follower } = scene().await;
    let first = relay(&bus, &log, leases.node(1), impatient()).await;
    log.commit("tender", 10);
    follower.reaches(1, 10).await;
    first.stop().await;
    log.commit("tender", 90);
    log.cut("tender", 60);
    let second = relay(&bus, &log, leases.node(2), impatient()).await;
    bus_reaches(&bus, &log, "tender").await;
    let slice = bus.read(&kind("tender").stream(), 60, ALL).await.expect("read").expect("known");
    assert!(slice.complete && slice.publications.len() == 40 && slice.position == at("e1", 100), "{slice:?}");
    assert_eq!((second.metrics.epoch_renewals.get(), log.renewals("tender")), (1, 1));
    log.commit("tender", 1);
    follower.comes_to(101).await;
    assert_eq!(follower.seen().reloads.len(), 1);
}

#[tokio::test]
async fn an_empty_bus_and_a_short_log_need_no_new_epoch() {
    let (sender, events) = mpsc::channel(64);
    let bus = Arc::new(MemoryBus::new(HistoryLimits::default(), sender));
    let log = FakeLog::with(&["tender"]);
    log.commit("tender", 100);
    log.cut("tender", 70);
    let _relay = relay(&bus, &log, FakeLeases::default(), impatient()).await;
    bus_reaches(&bus, &log, "tender").await;
    let slice = bus.read(&kind("tender").stream(), 70, ALL).await.expect("read").expect("known");
    assert!(slice.complete && slice.publications.len() == 30);
    assert_eq!(log.renewals("tender"), 0);
    drop(events);
}

#[tokio::test]
async fn a_hole_in_the_log_is_not_published_over() {
    let Scene { bus, log, leases, follower } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    log.commit("tender", 5);
    follower.reaches(1, 5).await;
    log.away(true);
    log.commit("tender", 10);
    log.lose("tender", 8);
    log.away(false);
    bus_reaches(&bus, &log, "tender").await;
    assert_eq!(log.renewals("tender"), 1);
    assert_eq!(relay.metrics.epoch_renewals.get(), 1);
    log.commit("tender", 1);
    follower.comes_to(16).await;
    let seen = follower.seen();
    assert!(!seen.reloads.is_empty() && seen.all.iter().all(|(_, offset)| *offset != 8));
}

#[tokio::test]
async fn a_panic_is_the_actors_death() {
    let Scene { bus, log, leases, .. } = scene().await;
    let relay = relay(&bus, &log, leases, impatient()).await;
    relay.is(Role::Holder).await;
    log.panic_once();
    eventually("it ends", || async { relay.task.is_finished() }).await;
    relay.is(Role::Stopped).await;
    assert_eq!(relay.metrics.holder.get(), 0);
}

#[tokio::test]
async fn its_supervisor_starts_it_again_and_stops_it_in_order() {
    let Scene { bus, log, leases, follower } = scene().await;
    let settings = Settings { name: "test".into(), grace: Duration::from_secs(5) };
    let metrics = SupervisorMetrics::default();
    let supervisor = Supervisor::root(settings, metrics.clone()).await.expect("a root");
    let handle = RelayHandle::default();
    let args = RelayArgs {
        config: impatient(),
        bus: Arc::clone(&bus),
        log: Arc::new(log.clone()),
        leases: Arc::new(leases.clone()),
        metrics: RelayMetrics::default(),
        handle: handle.clone(),
    };
    supervisor.start(args.child()).await.expect("started");
    log.commit("tender", 5);
    follower.reaches(1, 5).await;
    log.panic_once();
    eventually("its death is seen", || async { metrics.deaths("relay", Cause::Panic) == 1 }).await;
    log.commit("tender", 5);
    handle.wake();
    follower.reaches(1, 10).await;
    supervisor.stop().await;
    assert_eq!((leases.owner(), handle.status().role), (None, Role::Stopped), "the lease was given back");
}

#[tokio::test]
async fn the_checker_sees_a_planted_skip() {
    let Scene { bus, log, follower, .. } = scene().await;
    let stream = kind("tender").stream();
    // What is published is not what was committed: offset 2 is left out by a reset, and the log does not have it.
    log.commit("tender", 3);
    log.cut("tender", 3);
    bus.reset(&stream, &at("e0", 0)).await.expect("reset");
    let publication = |offset| Publication {
        offset,
        id: EntityId::new("x").expect("an id"),
        revision: 1,
        at: 0,
        data: "{}".into(),
        trace: None,
        extra: None,
    };
    bus.append(&stream, &at("e0", 0).epoch, &[publication(1)]).await.expect("appended");
    follower.comes_to(1).await;
    bus.reset(&stream, &at("e0", 2)).await.expect("reset");
    bus.append(&stream, &at("e0", 0).epoch, &[publication(3)]).await.expect("appended");
    eventually("it says that something is lost", || async { follower.seen().reloads.len() == 1 }).await;
    assert_eq!(follower.seen().all.len(), 1, "and does not take 3 for 2");
}
