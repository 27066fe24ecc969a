//! One child of a supervisor: where it is in its lives, how it is spawned, and what its end is called.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use ractor::{ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SpawnErr};
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{
    Cause, ChildSpec, Progress, Spawner,
    supervisor::{Order, START_LIMIT, StartError},
};

/// Where a child is in its lives. Tasks and timers are aborted when their state is left.
#[expect(dead_code, reason = "tasks and timers are held for their drop")]
pub(super) enum Life {
    Starting(Abort),
    Running(Running),
    Waiting(Abort),
}

pub(super) struct Running {
    pub(super) cell: ActorCell,
    pub(super) seen: u64,
    pub(super) since: Instant,
    pub(super) killed: Option<Instant>,
}

pub(super) struct Abort(pub(super) AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Child {
    pub(super) key: u64,
    pub(super) spec: ChildSpec,
    pub(super) life: Life,
    pub(super) progress: Progress,
    /// Of the first start; gone once it was answered.
    pub(super) reply: Option<RpcReplyPort<Result<(), StartError>>>,
    /// Moments of the restarts within the window, never more than the budget.
    pub(super) restarts: VecDeque<Instant>,
}

impl Child {
    pub(super) fn cell(&self) -> Option<&ActorCell> {
        match &self.life {
            Life::Running(running) => Some(&running.cell),
            Life::Starting(_) | Life::Waiting(_) => None,
        }
    }

    pub(super) fn spawn(&mut self, myself: &ActorRef<Order>) {
        self.progress = Progress::default();
        self.life = spawn(myself, self.key, &self.spec, &self.progress);
    }
}

/// Runs the factory beside the supervisor, contained: whatever becomes of it is told as one outcome.
pub(super) fn spawn(myself: &ActorRef<Order>, key: u64, spec: &ChildSpec, progress: &Progress) -> Life {
    let spawner = Spawner { supervisor: myself.get_cell(), progress: progress.clone() };
    let (factory, myself) = (Arc::clone(&spec.factory), myself.clone());
    let task = tokio::spawn(async move {
        // The call of the factory is inside as well: it may panic before it gives its future.
        let guarded = AssertUnwindSafe(async move { factory(spawner).await }).catch_unwind();
        let outcome = match timeout(START_LIMIT, guarded).await {
            Ok(Ok(Ok(cell))) => Ok(cell),
            Ok(Ok(Err(SpawnErr::StartupFailed(error)))) => Err(chain(&*error)),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err("the factory panicked".to_owned()),
            Err(_) => Err(format!("not started within {START_LIMIT:?}")),
        };
        let _ = myself.cast(Order::Spawned(key, outcome));
    });
    Life::Starting(Abort(task.abort_handle()))
}

/// Our actors answer with typed errors; the library turns a panic into a bare text, and a bare text is written as its quote.
pub(super) fn failure(error: &ActorProcessingErr) -> (Cause, String) {
    let text = error.to_string();
    let bare = error.source().is_none() && format!("{error:?}") == format!("{text:?}");
    if bare { (Cause::Panic, text) } else { (Cause::Error, chain(&**error)) }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
