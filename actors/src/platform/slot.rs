//! Where the current life of an actor is found. A restarted actor has a new mailbox, so nobody keeps its reference: they
//! keep its slot, and the actor puts itself there when it starts.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use ractor::{ActorRef, Message, RpcReplyPort, concurrency::oneshot};

/// An actor that did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It is not alive now; its supervisor brings it back.
    #[error("the actor is away")]
    Away,
    /// It did not answer in time.
    #[error("the actor did not answer in time")]
    Timeout,
}

/// The place of one actor.
#[derive(Debug)]
pub struct Slot<M>(Arc<RwLock<Option<ActorRef<M>>>>);

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Message> Slot<M> {
    /// Called by the actor itself when it starts.
    pub fn fill(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(actor);
    }

    /// The actor of this moment.
    #[must_use]
    pub fn get(&self) -> Option<ActorRef<M>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends and forgets; false when nobody is there.
    #[must_use]
    pub fn cast(&self, message: M) -> bool {
        self.get().is_some_and(|actor| actor.cast(message).is_ok())
    }

    /// Sends and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`] when the actor is away or slow.
    pub async fn call<T: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<T>) -> M,
        within: Duration,
    ) -> Result<T, CallError> {
        let (sender, receiver) = oneshot();
        if !self.cast(make(sender.into())) {
            return Err(CallError::Away);
        }
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Away),
            Err(_) => Err(CallError::Timeout),
        }
    }
}
