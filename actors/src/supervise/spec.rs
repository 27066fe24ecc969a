//! What a supervisor must know of a child.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use ractor::{ActorCell, ActorRef, Message, SpawnErr};

use super::{Backoff, Progress, Slot};

/// What happens when a child ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It is started again, whatever ended it.
    Permanent,
    /// It was needed once.
    Temporary,
}

/// How a child is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopManner {
    /// After the message in hand; what waits is dropped.
    Stop,
    /// After all messages that wait; later ones are refused.
    Drain,
}

/// How many restarts are bearable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many...
    pub restarts: usize,
    /// ...in such a time.
    pub window: Duration,
}

impl Default for Budget {
    /// Ten in five minutes: with the default back-off a lasting fault uses it up within about a minute.
    fn default() -> Self {
        Self { restarts: 10, window: Duration::from_secs(300) }
    }
}

/// What a factory gets: whom to link the child to, and the counters of this incarnation.
#[derive(Debug, Clone)]
pub struct Spawner {
    /// The supervisor: pass it to `Actor::spawn_linked`.
    pub supervisor: ActorCell,
    /// For the child's state, if it shows its progress.
    pub progress: Progress,
}

impl Spawner {
    /// The usual end of a factory: puts the new child into its slot.
    #[must_use]
    pub fn fill<M: Message>(self, slot: &Slot<M>, actor: &ActorRef<M>) -> ActorCell {
        slot.fill(actor.clone(), self.progress);
        actor.get_cell()
    }
}

type Spawning = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;
pub(super) type Factory = Arc<dyn Fn(Spawner) -> Spawning + Send + Sync>;

/// One child: how it is made, and what is done when it dies.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) restart: Restart,
    pub(super) budget: Budget,
    pub(super) backoff: Backoff,
    pub(super) stuck_after: Option<Duration>,
    pub(super) stop: StopManner,
    pub(super) factory: Factory,
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSpec").field("name", &self.name).field("restart", &self.restart).finish_non_exhaustive()
    }
}

impl ChildSpec {
    /// A permanent child. The factory spawns the actor *linked* to `Spawner::supervisor`; its `pre_start` must not dial.
    /// The name is a metric label: one of a closed set.
    pub fn new<F, Fut>(name: impl Into<Arc<str>>, factory: F) -> Self
    where
        F: Fn(Spawner) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<ActorCell, SpawnErr>> + Send + 'static,
    {
        Self {
            name: name.into(),
            restart: Restart::Permanent,
            budget: Budget::default(),
            backoff: Backoff::default(),
            stuck_after: None,
            stop: StopManner::Stop,
            factory: Arc::new(move |spawner| Box::pin(factory(spawner))),
        }
    }

    /// The child may end.
    #[must_use]
    pub fn temporary(self) -> Self {
        Self { restart: Restart::Temporary, ..self }
    }

    /// Another budget.
    #[must_use]
    pub fn budget(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Another back-off.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Kill and restart the child when it is busy and makes no progress for so long. It must use its [`Progress`].
    #[must_use]
    pub fn stuck_after(self, limit: Duration) -> Self {
        Self { stuck_after: Some(limit), ..self }
    }

    /// At the orderly stop, let it work off its mailbox.
    #[must_use]
    pub fn draining(self) -> Self {
        Self { stop: StopManner::Drain, ..self }
    }
}
