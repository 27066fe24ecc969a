//! Where a child's present incarnation is found: its address changes with every restart, the slot does not.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ractor::{ActorRef, ActorStatus, Message, RpcReplyPort, concurrency::oneshot};

use super::Progress;

/// The child is between two lives; what was meant for it is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor is not running")]
pub struct NoActor;

/// A question without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It is between two lives, or ended before it answered.
    #[error("the actor is not running")]
    Away,
    /// It did not answer in time.
    #[error("the actor did not answer in time")]
    Timeout,
}

/// A shared place for one child's address. The factory fills it, everybody else sends through it.
pub struct Slot<M>(Arc<RwLock<Option<Occupant<M>>>>);

struct Occupant<M> {
    actor: ActorRef<M>,
    progress: Progress,
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(None)))
    }
}

impl<M> std::fmt::Debug for Slot<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl<M: Message> Slot<M> {
    /// Puts the newest incarnation in.
    pub fn fill(&self, actor: ActorRef<M>, progress: Progress) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Occupant { actor, progress });
    }

    /// The incarnation that lives now.
    #[must_use]
    pub fn get(&self) -> Option<ActorRef<M>> {
        let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().map(|occupant| occupant.actor.clone()).filter(|actor| actor.get_status() < ActorStatus::Stopping)
    }

    /// Sends a message. The mailbox has no bound: only for senders whose rate has one.
    ///
    /// # Errors
    /// [`NoActor`] between two lives.
    pub fn cast(&self, message: M) -> Result<(), NoActor> {
        let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let occupant = slot.as_ref().ok_or(NoActor)?;
        occupant.actor.cast(message).map_err(|_| NoActor)?;
        occupant.progress.sent();
        Ok(())
    }

    /// Sends a question and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`] when there is none in time.
    pub async fn call<T: Send + 'static>(
        &self,
        question: impl FnOnce(RpcReplyPort<T>) -> M,
        within: Duration,
    ) -> Result<T, CallError> {
        let (port, answer) = oneshot();
        self.cast(question(port.into())).map_err(|NoActor| CallError::Away)?;
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer.map_err(|_| CallError::Away),
            Err(_) => Err(CallError::Timeout),
        }
    }
}
