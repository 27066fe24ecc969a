//! The supervisor: one small actor, an exhaustive match on the ways to die, and timers that it owns.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SpawnErr, SupervisionEvent,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Cause, ChildSpec, Progress, Restart, Spawner, StopManner, SupervisorMetrics,
    child::{Abort, Child, Life, Running, failure, spawn},
};
use crate::platform::beat;

/// Longest start of a child: `pre_start` does not dial, so more than this is a fault.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);
/// From one look at the children's progress to the next; limits for stuck children are much longer, and each look wakes a quiet node.
const HEALTH_PERIOD: Duration = Duration::from_secs(2);
/// A killed child ends at its next await; one that does not blocks a thread, and only the end of the process helps.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// What a child gets for its stop even when those before it used the whole grace up.
const LAST_GRACE: Duration = Duration::from_millis(250);
/// Most children: they are services, not sessions.
const MAX_CHILDREN: usize = 256;

/// A supervisor's own name and patience.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For logs and as the `child` label of meltdowns.
    pub name: Arc<str>,
    /// For the orderly stop of all its children together.
    pub grace: Duration,
}

/// A child's restart budget is used up (or it cannot be killed): the process should exit and say this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{child} ended {deaths} times within {window:?}, at last by {}: {detail}", cause.as_str())]
pub struct Meltdown {
    /// Who.
    pub child: Arc<str>,
    /// How often.
    pub deaths: usize,
    /// In which time.
    pub window: Duration,
    /// What ended it at last.
    pub cause: Cause,
    /// The same in words.
    pub detail: String,
}

/// A child was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its first start failed; it is not tried again.
    #[error("{child} cannot be started: {detail}")]
    Failed {
        /// Who.
        child: Arc<str>,
        /// Why.
        detail: String,
    },
    /// The supervisor has a child of this name.
    #[error("there is a child {0} already")]
    Duplicate(Arc<str>),
    /// More than the limit.
    #[error("more than {MAX_CHILDREN} children")]
    TooMany,
    /// The supervisor has ended or melted down.
    #[error("the supervisor is not running")]
    NotRunning,
}

/// The owner's handle. Dropping it stops nothing; [`Supervisor::stop`] does.
#[derive(Debug, Clone)]
pub struct Supervisor {
    actor: ActorRef<Order>,
    meltdown: watch::Receiver<Option<Meltdown>>,
    grace: Duration,
}

impl Supervisor {
    /// The root: nobody above it, its owner watches [`Supervisor::meltdown`].
    ///
    /// # Errors
    /// The actor cannot be spawned.
    pub async fn root(settings: Settings, metrics: SupervisorMetrics) -> Result<Self, SpawnErr> {
        let (tell, meltdown) = watch::channel(None);
        let grace = settings.grace;
        let (actor, _) = Actor::spawn(None, Keeper { settings, metrics, nested: false }, tell).await?;
        Ok(Self { actor, meltdown, grace })
    }

    /// A supervisor among the children of another, with its first children started in order. For use in a factory.
    ///
    /// # Errors
    /// One of the children cannot be started; those before it are stopped again.
    pub async fn nested(
        spawner: &Spawner,
        settings: Settings,
        metrics: SupervisorMetrics,
        children: Vec<ChildSpec>,
    ) -> Result<ActorCell, SpawnErr> {
        let (tell, meltdown) = watch::channel(None);
        let grace = settings.grace;
        let keeper = Keeper { settings, metrics, nested: true };
        let (actor, _) = Actor::spawn_linked(None, keeper, tell, spawner.supervisor.clone()).await?;
        let supervisor = Self { actor, meltdown, grace };
        for child in children {
            if let Err(error) = supervisor.start(child).await {
                supervisor.stop().await;
                return Err(SpawnErr::StartupFailed(error.into()));
            }
        }
        Ok(supervisor.actor.get_cell())
    }

    /// Starts a child and waits until it has started. Children stop in the reverse order of these calls.
    ///
    /// # Errors
    /// The first start failed; only later ones are retried.
    pub async fn start(&self, child: ChildSpec) -> Result<(), StartError> {
        let order = |reply| Order::Start(Box::new(child), reply);
        match self.actor.call(order, Some(START_LIMIT + KILL_LIMIT)).await {
            Ok(ractor::rpc::CallResult::Success(outcome)) => outcome,
            Ok(_) | Err(_) => Err(StartError::NotRunning),
        }
    }

    /// Kills a child as if it were stuck, for drills: it ends at its next await, and is restarted as after every death.
    /// False when no such child runs.
    pub async fn kill(&self, child: &str) -> bool {
        let order = |reply| Order::Kill(child.to_owned(), reply);
        matches!(self.actor.call(order, Some(KILL_LIMIT)).await, Ok(ractor::rpc::CallResult::Success(true)))
    }

    /// Waits for the meltdown of a child; for ever when there is none.
    pub async fn meltdown(&self) -> Meltdown {
        let mut watch = self.meltdown.clone();
        loop {
            if let Some(meltdown) = watch.borrow_and_update().clone() {
                return meltdown;
            }
            if watch.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops the children, the last started first, and then the supervisor; within the grace period.
    pub async fn stop(&self) {
        let limit = self.grace + LAST_GRACE * u32::try_from(MAX_CHILDREN).unwrap_or(u32::MAX);
        if self.actor.stop_and_wait(None, Some(limit)).await.is_err() && self.is_running() {
            tracing::error!(supervisor = ?self.actor.get_name(), "the supervisor does not stop");
        }
    }

    /// Whether the supervisor lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.actor.get_status() < ActorStatus::Stopping
    }
}

pub(super) type Outcome = Result<ActorCell, String>;

pub(super) enum Order {
    Start(Box<ChildSpec>, RpcReplyPort<Result<(), StartError>>),
    Spawned(u64, Outcome),
    Restart(u64),
    Kill(String, RpcReplyPort<bool>),
    CheckHealth,
}

struct Keeper {
    settings: Settings,
    metrics: SupervisorMetrics,
    nested: bool,
}

struct State {
    children: Vec<Child>,
    next_key: u64,
    /// Deaths that were told before the start was: a child may die in the very moment of its birth. Bounded by the starts.
    early: HashMap<ActorId, (Cause, String)>,
    tell: watch::Sender<Option<Meltdown>>,
    _health: Abort,
}

impl Actor for Keeper {
    type Msg = Order;
    type State = State;
    type Arguments = watch::Sender<Option<Meltdown>>;

    async fn pre_start(&self, myself: ActorRef<Order>, tell: Self::Arguments) -> Result<State, ActorProcessingErr> {
        let health = beat::tell(myself, HEALTH_PERIOD, || Order::CheckHealth).abort_handle();
        let (children, early) = (Vec::new(), HashMap::new());
        Ok(State { children, next_key: 0, early, tell, _health: Abort(health) })
    }

    async fn handle(&self, myself: ActorRef<Order>, order: Order, state: &mut State) -> Result<(), ActorProcessingErr> {
        match order {
            Order::Start(spec, reply) => self.admit(&myself, *spec, reply, state),
            Order::Spawned(key, outcome) => self.spawned(&myself, key, outcome, state)?,
            Order::Restart(key) => {
                if let Some(child) = state.child(key) {
                    child.spawn(&myself);
                }
            }
            Order::Kill(name, reply) => {
                let cell = state.children.iter().find(|child| *child.spec.name == *name).and_then(Child::cell);
                if let Some(cell) = cell {
                    cell.kill();
                }
                let _ = reply.send(cell.is_some());
            }
            Order::CheckHealth => self.check_health(state)?,
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Order>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (who, cause, detail) = match event {
            SupervisionEvent::ActorFailed(who, error) => {
                let (cause, detail) = failure(&error);
                (who, cause, detail)
            }
            // The library's own word for a kill.
            SupervisionEvent::ActorTerminated(who, _, Some(reason)) if reason == "killed" => (who, Cause::Kill, reason),
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                (who, Cause::End, reason.unwrap_or_else(|| "stopped".to_owned()))
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let id = who.get_id();
        let found =
            state.children.iter().find(|child| matches!(&child.life, Life::Running(r) if r.cell.get_id() == id));
        match found.map(|child| child.key) {
            Some(key) => self.died(&myself, key, cause, detail, state),
            None if state.children.iter().any(|child| matches!(child.life, Life::Starting(_))) => {
                state.early.insert(id, (cause, detail));
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn post_stop(&self, _: ActorRef<Order>, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.stop_children(state).await;
        Ok(())
    }
}

impl Keeper {
    fn admit(
        &self,
        myself: &ActorRef<Order>,
        spec: ChildSpec,
        reply: RpcReplyPort<Result<(), StartError>>,
        state: &mut State,
    ) {
        let refusal = if state.children.iter().any(|child| child.spec.name == spec.name) {
            Some(StartError::Duplicate(spec.name.clone()))
        } else if state.children.len() >= MAX_CHILDREN {
            Some(StartError::TooMany)
        } else {
            state.tell.borrow().is_some().then_some(StartError::NotRunning)
        };
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        let key = state.next_key;
        state.next_key += 1;
        let progress = Progress::default();
        let life = spawn(myself, key, &spec, &progress);
        state.children.push(Child { key, spec, life, progress, reply: Some(reply), restarts: VecDeque::new() });
    }

    fn spawned(
        &self,
        myself: &ActorRef<Order>,
        key: u64,
        outcome: Outcome,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = state.child(key) else { return Ok(()) };
        let (cell, reply) = match (outcome, child.reply.take()) {
            (Ok(cell), reply) => (cell, reply),
            (Err(detail), None) => return self.died(myself, key, Cause::Start, detail, state),
            (Err(detail), Some(reply)) => {
                self.metrics.death(&child.spec.name, Cause::Start);
                let _ = reply.send(Err(StartError::Failed { child: child.spec.name.clone(), detail }));
                state.forget(key);
                return Ok(());
            }
        };
        let id = cell.get_id();
        let name = child.spec.name.clone();
        child.life = Life::Running(Running { cell, seen: 0, since: Instant::now(), killed: None });
        self.metrics.alive(&name, true);
        tracing::debug!(supervisor = %self.settings.name, child = %name, actor = %id, "actor started");
        if let Some(reply) = reply {
            let _ = reply.send(Ok(()));
        }
        let early = state.early.remove(&id);
        if !state.children.iter().any(|child| matches!(child.life, Life::Starting(_))) {
            state.early.clear();
        }
        early.map_or(Ok(()), |(cause, detail)| self.died(myself, key, cause, detail, state))
    }

    /// The one place where a death is counted, logged and answered.
    fn died(
        &self,
        myself: &ActorRef<Order>,
        key: u64,
        cause: Cause,
        detail: String,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Some(child) = state.child(key) else { return Ok(()) };
        let killed_by_us = matches!(&child.life, Life::Running(r) if r.killed.is_some());
        let cause = if killed_by_us { Cause::Stuck } else { cause };
        let name = child.spec.name.clone();
        self.metrics.death(&name, cause);
        self.metrics.alive(&name, false);
        self.metrics.mailbox(&name, 0);
        if child.spec.restart == Restart::Temporary {
            let quiet = cause == Cause::End;
            let supervisor = &*self.settings.name;
            if quiet {
                tracing::debug!(supervisor, child = %name, cause = cause.as_str(), detail, "actor ended");
            } else {
                tracing::error!(supervisor, child = %name, cause = cause.as_str(), detail, "actor died");
            }
            state.forget(key);
            return Ok(());
        }
        let now = Instant::now();
        let budget = child.spec.budget;
        child.restarts.retain(|at| now.duration_since(*at) < budget.window);
        let restarts = child.restarts.len();
        let delay = child.spec.backoff.delay(u32::try_from(restarts).unwrap_or(u32::MAX));
        tracing::error!(
            supervisor = %self.settings.name, child = %name, cause = cause.as_str(), detail, restarts,
            budget = budget.restarts, restart_in_ms = delay.as_millis() as u64, "actor died"
        );
        if restarts >= budget.restarts {
            let (deaths, window) = (restarts + 1, budget.window);
            return self.melt(Meltdown { child: name, deaths, window, cause, detail }, key, state);
        }
        child.restarts.push_back(now);
        self.metrics.restart(&name, cause);
        let timer = myself.send_after(delay, move || Order::Restart(key)).abort_handle();
        child.life = Life::Waiting(Abort(timer));
        Ok(())
    }

    /// The root tells its owner and goes on with the other children until it is stopped; a nested supervisor dies.
    fn melt(&self, meltdown: Meltdown, key: u64, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.metrics.meltdown(&self.settings.name);
        tracing::error!(supervisor = %self.settings.name, reason = %meltdown, "restart budget used up");
        state.forget(key);
        // A second meltdown does not hide the first, which is more likely the cause.
        state.tell.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(meltdown.clone());
            }
            first
        });
        if self.nested { Err(meltdown.into()) } else { Ok(()) }
    }

    fn check_health(&self, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        let mut unkillable = None;
        for child in &mut state.children {
            let Life::Running(running) = &mut child.life else { continue };
            self.metrics.mailbox(&child.spec.name, child.progress.waiting());
            if let Some(killed) = running.killed {
                if now.duration_since(killed) >= KILL_LIMIT {
                    unkillable = Some((child.key, child.spec.name.clone()));
                }
                continue;
            }
            let done = child.progress.done();
            if done != running.seen || !child.progress.is_busy() {
                (running.seen, running.since) = (done, now);
            } else if child.spec.stuck_after.is_some_and(|limit| now.duration_since(running.since) >= limit) {
                running.killed = Some(now);
                running.cell.kill();
            }
        }
        let Some((key, child)) = unkillable else { return Ok(()) };
        let detail = format!("stuck, and not dead {KILL_LIMIT:?} after it was killed");
        self.melt(Meltdown { child, deaths: 1, window: KILL_LIMIT, cause: Cause::Stuck, detail }, key, state)
    }

    async fn stop_children(&self, state: &mut State) {
        let deadline = Instant::now() + self.settings.grace;
        while let Some(Child { spec, life, .. }) = state.children.pop() {
            let Life::Running(Running { cell, .. }) = life else { continue };
            let limit = deadline.saturating_duration_since(Instant::now()).max(LAST_GRACE);
            let stopped = match spec.stop {
                StopManner::Stop => cell.stop_and_wait(Some("shutdown".to_owned()), Some(limit)).await.is_ok(),
                StopManner::Drain => cell.drain_and_wait(Some(limit)).await.is_ok(),
            };
            self.metrics.alive(&spec.name, false);
            if stopped || cell.get_status() == ActorStatus::Stopped {
                tracing::debug!(supervisor = %self.settings.name, child = %spec.name, "actor stopped");
            } else {
                tracing::warn!(supervisor = %self.settings.name, child = %spec.name, "actor did not stop in time, killed");
                cell.kill();
            }
        }
    }
}

impl State {
    fn child(&mut self, key: u64) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.key == key)
    }

    fn forget(&mut self, key: u64) {
        self.children.retain(|child| child.key != key);
    }
}
