//! Every way to die, on a paused clock: time passes only when nobody has anything to do.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("broken")]
struct Broken(#[source] std::io::Error);

enum Ask {
    Panic,
    Fail,
    End,
    /// Busy for ever without a step.
    Hang,
    /// Busy for long, with a step a second.
    Long(u32),
    /// Idle until notified, and not busy.
    Work(u32),
}

/// Tells its birth, and what it did.
#[derive(Clone)]
struct Patient {
    births: mpsc::Sender<Instant>,
    deeds: mpsc::Sender<String>,
    name: &'static str,
    /// Fails to start while a permit is there.
    stillborn: Arc<Notify>,
}

impl Actor for Patient {
    type Msg = Ask;
    type State = Progress;
    type Arguments = Progress;

    async fn pre_start(&self, _: ActorRef<Ask>, progress: Progress) -> Result<Progress, ActorProcessingErr> {
        if timeout(Duration::ZERO, self.stillborn.notified()).await.is_ok() {
            return Err(Broken(std::io::Error::other("no bed")).into());
        }
        self.births.try_send(Instant::now())?;
        Ok(progress)
    }

    async fn handle(&self, me: ActorRef<Ask>, ask: Ask, progress: &mut Progress) -> Result<(), ActorProcessingErr> {
        let _busy = progress.begin();
        match ask {
            Ask::Panic => panic!("oh"),
            Ask::Fail => return Err(Broken(std::io::Error::other("cut")).into()),
            Ask::End => me.stop(None),
            Ask::Hang => std::future::pending().await,
            Ask::Long(seconds) => {
                for _ in 0..seconds {
                    sleep(Duration::from_secs(1)).await;
                    progress.tick();
                }
            }
            Ask::Work(n) => {
                sleep(Duration::from_millis(100)).await;
                self.deeds.try_send(format!("{} {n}", self.name))?;
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Ask>, _: &mut Progress) -> Result<(), ActorProcessingErr> {
        Ok(self.deeds.try_send(format!("{} stopped", self.name))?)
    }
}

struct Ward {
    root: Supervisor,
    metrics: SupervisorMetrics,
    patient: Patient,
    births: mpsc::Receiver<Instant>,
    deeds: mpsc::Receiver<String>,
    slot: Slot<Ask>,
}

impl Ward {
    async fn new() -> Self {
        let metrics = SupervisorMetrics::default();
        let settings = Settings { name: "root".into(), grace: Duration::from_secs(10) };
        let root = Supervisor::root(settings, metrics.clone()).await.expect("root");
        let ((births_in, births), (deeds_in, deeds)) = (mpsc::channel(1000), mpsc::channel(1000));
        let patient = Patient { births: births_in, deeds: deeds_in, name: "p", stillborn: Arc::default() };
        Self { root, metrics, patient, births, deeds, slot: Slot::default() }
    }

    fn spec(&self) -> ChildSpec {
        spec("p", &self.patient, &self.slot)
    }

    async fn start(&mut self, spec: ChildSpec) {
        self.root.start(spec).await.expect("started");
        self.births.recv().await.expect("born");
    }

    fn ask(&self, ask: Ask) {
        self.slot.cast(ask).expect("alive");
    }

    /// Waits for the next incarnation and until its supervisor knows it.
    async fn reborn(&mut self) -> Instant {
        let at = timeout(Duration::from_secs(600), self.births.recv()).await.expect("reborn in time").expect("born");
        until(|| self.metrics.is_alive("p")).await;
        at
    }

    /// Counts of deaths and restarts by a cause.
    fn counts(&self, cause: Cause) -> (u64, u64) {
        (self.metrics.deaths("p", cause), self.metrics.restarts("p", cause))
    }
}

fn spec(name: &'static str, patient: &Patient, slot: &Slot<Ask>) -> ChildSpec {
    let (patient, slot) = (Patient { name, ..patient.clone() }, slot.clone());
    ChildSpec::new(name, move |spawner| {
        let (patient, slot) = (patient.clone(), slot.clone());
        async move {
            let progress = spawner.progress.clone();
            let (actor, _) = Actor::spawn_linked(None, patient, progress, spawner.supervisor.clone()).await?;
            Ok(spawner.fill(&slot, &actor))
        }
    })
}

async fn until(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(600), waiting).await.expect("the condition comes true");
}

#[tokio::test(start_paused = true)]
async fn a_panic_an_error_and_a_normal_end_are_followed_by_a_new_life() {
    for (ask, cause) in [(Ask::Panic, Cause::Panic), (Ask::Fail, Cause::Error), (Ask::End, Cause::End)] {
        let mut ward = Ward::new().await;
        ward.start(ward.spec()).await;
        ward.ask(ask);
        ward.reborn().await;
        assert_eq!(ward.counts(cause), (1, 1), "{cause:?}");
        ward.ask(Ask::Work(1));
        until(|| ward.deeds.try_recv().is_ok_and(|deed| deed == "p 1")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_child_is_followed_by_a_new_life() {
    let mut ward = Ward::new().await;
    ward.start(ward.spec()).await;
    for _ in 0..2 {
        // Once while it waits, once in the middle of a message.
        ward.slot.get().expect("alive").kill();
        ward.reborn().await;
        ward.ask(Ask::Hang);
    }
    assert_eq!(ward.counts(Cause::Kill), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_busy_child_without_progress_is_stuck_and_one_with_progress_is_not() {
    let mut ward = Ward::new().await;
    ward.start(ward.spec().stuck_after(Duration::from_secs(30))).await;
    sleep(Duration::from_secs(100)).await;
    ward.ask(Ask::Long(100));
    ward.ask(Ask::Work(1));
    until(|| ward.deeds.try_recv().is_ok()).await;
    assert_eq!(ward.counts(Cause::Stuck), (0, 0), "neither idle nor slow is stuck");
    let from = Instant::now();
    ward.ask(Ask::Hang);
    let at = ward.reborn().await;
    assert_eq!(ward.counts(Cause::Stuck), (1, 1));
    let waited = at - from;
    assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(33), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn waits_double_and_are_random_and_the_budget_ends_in_a_meltdown() {
    let mut ward = Ward::new().await;
    let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(4) };
    let budget = Budget { restarts: 5, window: Duration::from_secs(300) };
    ward.start(ward.spec().backoff(backoff).budget(budget)).await;
    let mut total = Duration::ZERO;
    for bound in [1, 2, 4, 4, 4] {
        let died = Instant::now();
        ward.ask(Ask::Panic);
        let waited = ward.reborn().await - died;
        // A timer is a millisecond coarse.
        assert!(waited <= Duration::from_secs(bound) + Duration::from_millis(5), "{waited:?} of {bound}");
        total += waited;
    }
    assert!(total > Duration::from_millis(10), "five random waits in a row were nothing");
    ward.ask(Ask::Panic);
    let meltdown = ward.root.meltdown().await;
    assert_eq!((&*meltdown.child, meltdown.deaths, meltdown.cause), ("p", 6, Cause::Panic));
    assert_eq!(meltdown.to_string(), "p ended 6 times within 300s, at last by panic: oh");
    assert!(timeout(Duration::from_secs(60), ward.births.recv()).await.is_err(), "no life after it");
    assert!(matches!(ward.root.start(ward.spec()).await, Err(StartError::NotRunning)));
    assert!(!ward.metrics.is_alive("p"));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_window_fills_the_budget_again() {
    let mut ward = Ward::new().await;
    let budget = Budget { restarts: 2, window: Duration::from_secs(60) };
    ward.start(ward.spec().budget(budget)).await;
    for _ in 0..4 {
        for _ in 0..2 {
            ward.ask(Ask::Fail);
            ward.reborn().await;
        }
        sleep(Duration::from_secs(61)).await;
    }
    assert_eq!(ward.counts(Cause::Error), (8, 8));
    assert!(timeout(Duration::from_secs(1), ward.root.meltdown()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_ends_and_may_be_started_again() {
    let mut ward = Ward::new().await;
    for cause in [Cause::End, Cause::Panic] {
        ward.start(ward.spec().temporary()).await;
        ward.ask(if cause == Cause::End { Ask::End } else { Ask::Panic });
        until(|| !ward.metrics.is_alive("p")).await;
        assert_eq!(ward.counts(cause), (1, 0));
        assert!(ward.slot.get().is_none() && ward.slot.cast(Ask::End) == Err(NoActor));
    }
    assert!(timeout(Duration::from_secs(60), ward.births.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_is_told_and_a_later_one_is_tried_again() {
    let mut ward = Ward::new().await;
    ward.patient.stillborn.notify_one();
    let error = ward.root.start(ward.spec()).await.expect_err("stillborn");
    assert_eq!(error.to_string(), "p cannot be started: broken: no bed");
    ward.start(ward.spec()).await;
    assert!(matches!(ward.root.start(ward.spec()).await, Err(StartError::Duplicate(_))));
    ward.patient.stillborn.notify_one();
    ward.ask(Ask::Panic);
    ward.reborn().await;
    assert_eq!((ward.counts(Cause::Panic), ward.counts(Cause::Start)), ((1, 1), (2, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_or_hangs_is_a_failed_start_and_delays_nobody() {
    let mut ward = Ward::new().await;
    let panics = ChildSpec::new("panics", |_| async { panic!("oh") });
    let error = ward.root.start(panics).await.expect_err("panics");
    assert_eq!(error.to_string(), "panics cannot be started: the factory panicked");
    let hangs = ChildSpec::new("hangs", |_| std::future::pending::<Result<ActorCell, SpawnErr>>());
    let (root, from) = (ward.root.clone(), Instant::now());
    let hanging = tokio::spawn(async move { root.start(hangs).await });
    ward.start(ward.spec()).await;
    assert!(from.elapsed() < Duration::from_secs(1));
    let error = hanging.await.expect("joined").expect_err("hangs");
    assert_eq!(error.to_string(), "hangs cannot be started: not started within 30s");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_dies_in_the_moment_of_its_birth_is_seen() {
    let mut ward = Ward::new().await;
    let (patient, slot) = (ward.patient.clone(), ward.slot.clone());
    let spec = ChildSpec::new("p", move |spawner| {
        let (patient, slot) = (patient.clone(), slot.clone());
        async move {
            let progress = spawner.progress.clone();
            let (actor, handle) = Actor::spawn_linked(None, patient, progress, spawner.supervisor.clone()).await?;
            let cell = spawner.fill(&slot, &actor);
            // Only the first incarnation; it is dead, and its death told, before the factory answers.
            if slot.get().is_some_and(|a| a.get_id() == actor.get_id()) && FIRST.swap(false, Relaxed) {
                actor.cast(Ask::Fail).map_err(|error| SpawnErr::StartupFailed(error.into()))?;
                handle.await.map_err(|error| SpawnErr::StartupFailed(error.into()))?;
            }
            Ok(cell)
        }
    });
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    static FIRST: AtomicBool = AtomicBool::new(true);
    ward.start(spec).await;
    ward.reborn().await;
    assert_eq!(ward.counts(Cause::Error), (1, 1));
    ward.ask(Ask::Work(1));
    until(|| ward.deeds.try_recv().is_ok_and(|deed| deed == "p 1")).await;
}

#[tokio::test(start_paused = true)]
async fn children_stop_in_reverse_order_and_those_that_drain_finish_their_work() {
    let mut ward = Ward::new().await;
    let slots: [Slot<Ask>; 3] = Default::default();
    for (name, slot) in ["a", "b", "c"].into_iter().zip(&slots) {
        let spec = spec(name, &ward.patient, slot);
        ward.start(if name == "b" { spec.draining() } else { spec }).await;
    }
    for slot in &slots[..2] {
        (0..3).for_each(|n| slot.cast(Ask::Work(n)).expect("alive"));
    }
    ward.root.stop().await;
    let mut deeds = Vec::new();
    while let Ok(deed) = ward.deeds.try_recv() {
        deeds.push(deed);
    }
    let of = |name: &str| deeds.iter().filter(|deed| deed.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!(of("b"), ["b 0", "b 1", "b 2", "b stopped"], "all that waited was done");
    let at = |deed: &str| deeds.iter().position(|d| d == deed).expect(deed);
    assert!(at("c stopped") < at("b stopped") && at("b stopped") < at("a stopped"), "{deeds:?}");
    assert!(!ward.root.is_running() && !ward.metrics.is_alive("a"));
    assert_eq!(ward.metrics.deaths("a", Cause::End), 0, "an orderly stop is no death");
}

#[tokio::test(start_paused = true)]
async fn the_stop_is_over_within_the_grace_period() {
    let mut ward = Ward::new().await;
    let slots: [Slot<Ask>; 2] = Default::default();
    for (name, slot) in ["a", "b"].into_iter().zip(&slots) {
        ward.start(spec(name, &ward.patient, slot)).await;
    }
    slots[1].cast(Ask::Hang).expect("alive");
    until(|| ward.births.is_empty()).await;
    let from = Instant::now();
    ward.root.stop().await;
    let took = from.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{took:?}");
    assert_eq!(ward.deeds.try_recv().expect("stopped"), "a stopped", "those behind a stuck child still stop in order");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_waits_for_its_restart_does_not_come_back_after_the_stop() {
    let mut ward = Ward::new().await;
    let backoff = Backoff { base: Duration::from_secs(1000), cap: Duration::from_secs(1000) };
    ward.start(ward.spec().backoff(backoff)).await;
    ward.ask(Ask::Panic);
    until(|| ward.counts(Cause::Panic) == (1, 1)).await;
    ward.root.stop().await;
    assert!(timeout(Duration::from_secs(2000), ward.births.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_nested_meltdown_is_a_death_in_the_parents_budget() {
    let mut ward = Ward::new().await;
    let (patient, slot, metrics) = (ward.patient.clone(), ward.slot.clone(), ward.metrics.clone());
    let nested = ChildSpec::new("nested", move |spawner| {
        let none = Budget { restarts: 0, window: Duration::from_secs(60) };
        let children = vec![spec("p", &patient, &slot).budget(none)];
        let (settings, metrics) = (Settings { name: "nested".into(), grace: Duration::from_secs(1) }, metrics.clone());
        async move { Supervisor::nested(&spawner, settings, metrics, children).await }
    });
    ward.start(nested.budget(Budget { restarts: 1, window: Duration::from_secs(600) })).await;
    ward.ask(Ask::Panic);
    ward.reborn().await;
    assert_eq!((ward.metrics.deaths("nested", Cause::Error), ward.metrics.restarts("nested", Cause::Error)), (1, 1));
    until(|| ward.slot.get().is_some()).await;
    ward.ask(Ask::Panic);
    let meltdown = ward.root.meltdown().await;
    assert_eq!((&*meltdown.child, meltdown.deaths), ("nested", 2));
    assert!(meltdown.detail.contains("p ended 1 times"), "the root cause is named: {}", meltdown.detail);
}

#[tokio::test(start_paused = true)]
async fn metrics_are_written_with_a_closed_set_of_labels() {
    let mut ward = Ward::new().await;
    let mut registry = prometheus_client::registry::Registry::default();
    ward.metrics.register(&mut registry);
    ward.start(ward.spec()).await;
    ward.ask(Ask::Panic);
    ward.reborn().await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encoded");
    for line in [r#"actor_deaths_total{child="p",cause="panic"} 1"#, r#"actor_alive{child="p"} 1"#] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
