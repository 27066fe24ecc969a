//! The relay: the actor that tells the bus what the log has committed.
//!
//! One node of the cluster holds the lease `relay` and publishes as soon as it is woken. The others look every poll
//! interval whether the bus keeps up with the log; when it does not for [`RelayConfig::step_in`], they publish as well:
//! a holder that was killed must not cost its lease's time. That is safe because the bus takes each offset once.
//!
//! Invariants: wake-ups carry no data; errors of log, bus and leases are values, only a panic ends the actor.
//!
//! Not here: how a run is read and appended (`pump`), who tells that a transaction was committed.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use super::{
    holding::Holding,
    metrics::RelayMetrics,
    pump::{Fresh, Pump},
};
use crate::{
    platform::{
        beat,
        ports::{Bus, ChangeLog, Leases, ReadLimit, StoreError},
    },
    supervise::{ChildSpec, Progress, Spawner},
};

/// Name of the lease.
const LEASE: &str = "relay";
/// How long a stop waits for the append that is under way and for the lease to be given back.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A turn of one kind asks log and bus a few times, each within a timeout of a few seconds: longer is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// The first pause after the log was away; it doubles up to the poll interval.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// The relay's numbers.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Life of the lease; renewed at a third, given up at two thirds.
    pub lease_ttl: Duration,
    /// How often positions are compared without being woken: a notice may be lost.
    pub poll: Duration,
    /// Of how many of those times one asks the bus and the log although nobody has told of a commit: each where other nodes commit, or where
    /// the bus may lose what it had.
    pub ask_every: u32,
    /// How long the bus may stay behind before a node without the lease publishes: as nodes look in a beat, perhaps up to half a look less.
    pub step_in: Duration,
    /// Most of one run: small enough that kinds take turns and that one run is well below what may wait for a session,
    /// large enough that a backlog goes in few steps.
    pub run: ReadLimit,
    /// How far below the log's top an empty bus starts again: what it would keep anyway.
    pub history_window: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            ask_every: 1,
            step_in: Duration::from_secs(2),
            run: ReadLimit { count: 500, bytes: 256 * 1024 },
            history_window: 1_000,
        }
    }
}

/// What a relay is made of. Cloning shares everything, so that a restarted relay goes on where the old one was.
pub struct RelayArgs<B, L, S> {
    /// The numbers.
    pub config: RelayConfig,
    /// Where to.
    pub bus: Arc<B>,
    /// Where from.
    pub log: Arc<L>,
    /// Who may.
    pub leases: Arc<S>,
    /// What is counted.
    pub metrics: RelayMetrics,
    /// The other end is with whoever wakes and asks.
    pub handle: RelayHandle,
}

impl<B: Bus, L: ChangeLog, S: Leases> RelayArgs<B, L, S> {
    /// The relay as a permanent child of a supervisor.
    #[must_use]
    pub fn child(self) -> ChildSpec {
        let factory = move |spawner: Spawner| {
            let (args, relay) = (self.clone(), Relay { progress: spawner.progress, ports: PhantomData });
            async move {
                let (actor, _) = Actor::spawn_linked(None, relay, args, spawner.supervisor).await?;
                Ok(actor.get_cell())
            }
        };
        ChildSpec::new(LEASE, factory).stuck_after(STUCK_AFTER)
    }
}

impl<B, L, S> Clone for RelayArgs<B, L, S> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            bus: Arc::clone(&self.bus),
            log: Arc::clone(&self.log),
            leases: Arc::clone(&self.leases),
            metrics: self.metrics.clone(),
            handle: self.handle.clone(),
        }
    }
}

/// Wakes the relay and shows its state; made before the relay and valid across its restarts.
#[derive(Debug, Clone)]
pub struct RelayHandle {
    wake: Arc<Notify>,
    /// The log has to be asked: something was committed elsewhere.
    elsewhere: Arc<AtomicBool>,
    status: Arc<watch::Sender<RelayStatus>>,
}

impl Default for RelayHandle {
    fn default() -> Self {
        Self { wake: Arc::default(), elsewhere: Arc::default(), status: Arc::new(watch::Sender::default()) }
    }
}

impl RelayHandle {
    /// Says that something was committed, wherever. Calls while the relay works are coalesced into one more pass.
    pub fn wake(&self) {
        self.elsewhere.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Says that this node committed something that [`ChangeLog::fresh`] tells of.
    pub fn wake_here(&self) {
        self.wake.notify_one();
    }

    /// The relay's state now.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        self.status.borrow().clone()
    }

    /// Its changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RelayStatus> {
        self.status.subscribe()
    }
}

/// What this node's relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Not running.
    #[default]
    Stopped,
    /// Watches; another node holds the lease, or nobody can say.
    Standby,
    /// Publishes without the lease, because the bus was behind for too long.
    SteppedIn,
    /// Holds the lease and publishes.
    Holder,
}

/// What a relay says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelayStatus {
    /// What it does.
    pub role: Role,
    /// The lease's term while it holds it.
    pub term: Option<i64>,
    /// Passes since the process began: it is alive when this grows.
    pub passes: u64,
    /// The last failure, for people; `None` once a pass succeeded.
    pub last_error: Option<String>,
}

/// The actor. Permanent: its supervisor starts it again with the same arguments.
pub struct Relay<B, L, S> {
    /// Shows its supervisor that it is not stuck.
    progress: Progress,
    ports: PhantomData<Ports<B, L, S>>,
}

/// Only names the types: the actor itself holds nothing.
type Ports<B, L, S> = fn() -> (B, L, S);

impl<B, L, S> Default for Relay<B, L, S> {
    fn default() -> Self {
        Self { progress: Progress::default(), ports: PhantomData }
    }
}

/// Messages of the relay; nobody else sends any.
#[derive(Debug)]
pub enum RelayMessage {
    /// The working task ended though nobody stopped it.
    Ended(String),
}

/// The working task and how to end it.
pub struct RelayState {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for RelayState {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<B: Bus, L: ChangeLog, S: Leases> Actor for Relay<B, L, S> {
    type Msg = RelayMessage;
    type State = RelayState;
    type Arguments = RelayArgs<B, L, S>;

    async fn pre_start(
        &self,
        me: ActorRef<Self::Msg>,
        args: Self::Arguments,
    ) -> Result<RelayState, ActorProcessingErr> {
        let (stop, stopped) = watch::channel(false);
        let work = tokio::spawn(Worker::new(args, self.progress.clone(), stopped).work());
        let task = tokio::spawn(async move {
            let _work = AbortOnDrop(work.abort_handle());
            let cause = work.await.err().map_or_else(|| "it returned".to_owned(), |e| e.to_string());
            // Refused when the actor is stopping: then it was meant to end.
            let _ = me.cast(RelayMessage::Ended(cause));
        });
        Ok(RelayState { stop, task })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        RelayMessage::Ended(cause): Self::Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Err(format!("the relay's task ended: {cause}").into())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.stop.send_replace(true);
        if timeout(STOP_GRACE, &mut state.task).await.is_err() {
            tracing::warn!("the relay did not stop in time and was cut short");
        }
        Ok(())
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The loop behind the actor.
struct Worker<B, L, S> {
    args: RelayArgs<B, L, S>,
    progress: Progress,
    pump: Pump<B, L>,
    holding: Holding,
    stopped: watch::Receiver<bool>,
    /// Since when the bus is behind, as a node without the lease sees it.
    behind_since: Option<Instant>,
    /// Until when we publish without the lease.
    stepped_in_until: Option<Instant>,
    /// Pause after the last failure of the log or the leases.
    pause: Duration,
    /// The next round asks the log, whatever is in memory.
    ask_log: bool,
}

impl<B: Bus, L: ChangeLog, S: Leases> Worker<B, L, S> {
    fn new(args: RelayArgs<B, L, S>, progress: Progress, stopped: watch::Receiver<bool>) -> Self {
        let RelayArgs { config, bus, log, metrics, .. } = args.clone();
        let holding = Holding::new(LEASE, config.lease_ttl);
        Self {
            pump: Pump::new(bus, log, config, metrics, progress.clone()),
            args,
            progress,
            holding,
            stopped,
            behind_since: None,
            stepped_in_until: None,
            pause: Duration::ZERO,
            ask_log: true,
        }
    }

    async fn work(mut self) {
        let (mut poll, mut polls) = (beat::next(self.args.config.poll), 0_u32);
        self.pump.forget_tops();
        while !*self.stopped.borrow() {
            let next = match self.round().await {
                Ok(due) => {
                    self.pause = Duration::ZERO;
                    due.unwrap_or(poll).min(poll)
                }
                Err(error) => {
                    self.failed(&error);
                    Instant::now() + self.pause.mul_f64(rand::random_range(0.5..=1.0))
                }
            };
            self.wait(next).await;
            if Instant::now() >= poll {
                // Nobody tells us when the bus loses what it had: ask it now and then.
                poll = beat::next(self.args.config.poll);
                polls = polls.wrapping_add(1);
                if polls.is_multiple_of(self.args.config.ask_every.max(1)) {
                    self.pump.forget_tops();
                    self.ask_log = true;
                }
            }
        }
        self.end().await;
    }

    /// Waits for the moment, for a stop, and, as one who publishes, for a wake-up.
    async fn wait(&mut self, until: Instant) {
        let publishes = (self.holding.is_held() || self.has_stepped_in()) && self.pause.is_zero();
        tokio::select! {
            () = sleep_until(until) => {}
            () = self.args.handle.wake.notified(), if publishes => {}
            _ = self.stopped.changed() => {}
        }
    }

    /// What there is to do now. Answers when a kind that failed is due.
    async fn round(&mut self) -> Result<Option<Instant>, StoreError> {
        let _busy = self.progress.work();
        let kept = self.holding.keep(self.args.leases.as_ref()).await;
        let held = self.holding.is_held();
        self.args.metrics.holder.set(i64::from(held));
        // Without the lease service the bus may still be served by whoever sees it behind.
        let role = match (held, self.must_step_in(held).await) {
            (true, _) => Role::Holder,
            (false, true) => Role::SteppedIn,
            (false, false) => Role::Standby,
        };
        self.tell(|status| {
            status.role = role;
            status.passes += 1;
        });
        if role == Role::Standby {
            // Whoever publishes again begins with what the log has.
            self.ask_log = true;
            return kept.map(|_| None);
        }
        let asked = std::mem::take(&mut self.ask_log) | self.args.handle.elsewhere.swap(false, Ordering::AcqRel);
        if held && !asked {
            match self.pump.pass_fresh().await {
                Fresh::AskLog => {}
                Fresh::More => return kept.map(|_| Some(Instant::now())),
                Fresh::Done => return kept.map(|_| self.pump.due()),
            }
        }
        let (holding, stopped) = (&self.holding, &self.stopped);
        let may_go_on = || !*stopped.borrow() && (!held || holding.is_held());
        let clean = self.pump.pass(held, may_go_on).await?;
        kept?;
        if clean {
            self.tell(|status| status.last_error = None);
        }
        Ok(self.pump.due())
    }

    /// Whether the bus was behind for so long that the holder must be gone.
    async fn must_step_in(&mut self, held: bool) -> bool {
        if held {
            (self.behind_since, self.stepped_in_until) = (None, None);
            return false;
        }
        if self.has_stepped_in() {
            return true;
        }
        match self.pump.behind().await {
            Ok(0) => self.behind_since = None,
            Ok(_) => {
                let since = *self.behind_since.get_or_insert_with(Instant::now);
                // Looks come in a beat: one that is early by a hair is not to cost another.
                let RelayConfig { poll, step_in, .. } = self.args.config;
                if since.elapsed() + (poll / 2).min(step_in / 4) >= step_in {
                    self.args.metrics.stepped_in.inc();
                    tracing::warn!("the bus is behind and nobody publishes: stepping in");
                    self.pump.forget_tops();
                    // For as long as the lease of a holder that died may last.
                    self.stepped_in_until = Some(Instant::now() + self.args.config.lease_ttl);
                    self.behind_since = None;
                    return true;
                }
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "cannot compare log and bus"),
        }
        false
    }

    fn has_stepped_in(&self) -> bool {
        self.stepped_in_until.is_some_and(|until| Instant::now() < until)
    }

    fn failed(&mut self, error: &StoreError) {
        self.args.metrics.errors.inc();
        self.pump.forget_tops();
        self.ask_log = true;
        self.pause = (self.pause * 2).clamp(MIN_PAUSE, self.args.config.poll.max(MIN_PAUSE));
        tracing::warn!(error = error as &dyn std::error::Error, "relay cannot reach the log");
        self.tell(|status| status.last_error = Some(error.to_string()));
    }

    fn tell(&self, change: impl FnOnce(&mut RelayStatus)) {
        let term = self.holding.term();
        self.args.handle.status.send_modify(|status| {
            status.term = term;
            change(status);
        });
    }

    async fn end(mut self) {
        if let Err(error) = self.holding.release(self.args.leases.as_ref()).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the relay's lease runs out by itself");
        }
    }
}

impl<B, L, S> Drop for Worker<B, L, S> {
    fn drop(&mut self) {
        self.args.metrics.holder.set(0);
        self.args.handle.status.send_modify(|status| (status.role, status.term) = (Role::Stopped, None));
    }
}
