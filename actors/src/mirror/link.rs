//! The actor of one Mirror.
//!
//! It holds the task that lives the link's life and sees its end: a panic there is a death here, so the supervisor restarts
//! it within its budget. Frames never pass through a mailbox.

use std::{marker::PhantomData, sync::Arc};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

use super::{config::LinkConfig, context::Context, handle::LinkHandle, life, metrics::MirrorMetrics};
use crate::{
    cdb::Governor,
    platform::ports::{CdbApi, Leases, MirrorStore},
};

/// What a link stands on.
pub struct LinkParts<S, L, C> {
    /// The Mirror.
    pub config: LinkConfig,
    /// Rows and cursor.
    pub store: Arc<S>,
    /// The lease.
    pub leases: Arc<L>,
    /// HTTP; without it a gap ends with the next whole snapshot and over-limit objects stay in quarantine.
    pub cdb: Option<Arc<C>>,
    /// Shared by everything behind one egress address.
    pub governor: Arc<Governor>,
    /// The numbers.
    pub metrics: MirrorMetrics,
    /// What outlives restarts.
    pub handle: LinkHandle,
}

impl<S, L, C> Clone for LinkParts<S, L, C> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            store: Arc::clone(&self.store),
            leases: Arc::clone(&self.leases),
            cdb: self.cdb.clone(),
            governor: Arc::clone(&self.governor),
            metrics: self.metrics.clone(),
            handle: self.handle.clone(),
        }
    }
}

/// The actor. Spawn it with [`LinkParts`]; everything else goes through the [`LinkHandle`].
pub struct Link<S, L, C>(PhantomData<fn(S, L, C)>);

impl<S, L, C> Default for Link<S, L, C> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// Messages to the link.
#[derive(Debug)]
pub enum LinkMessage {
    /// The task ended, with the panic's text if it was one.
    Ended(Option<String>),
}

/// The link's task, aborted when the actor dies by whatever way.
pub struct LinkTask {
    stop: watch::Sender<bool>,
    done: Option<JoinHandle<()>>,
    abort: AbortHandle,
    patience: std::time::Duration,
}

impl Drop for LinkTask {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl<S: MirrorStore, L: Leases, C: CdbApi> Actor for Link<S, L, C> {
    type Msg = LinkMessage;
    type State = LinkTask;
    type Arguments = LinkParts<S, L, C>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        parts: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let limits = parts.config.limits;
        let context = Context {
            by: format!("mirror:{}", parts.config.name).into(),
            lease_name: format!("mirror.{}", parts.config.name).into(),
            metrics: parts.metrics.of(&parts.config.name, &parts.handle),
            config: parts.config,
            store: parts.store,
            leases: parts.leases,
            cdb: parts.cdb,
            governor: parts.governor,
            handle: parts.handle,
            budget: Arc::new(Semaphore::new(limits.budget_bytes)),
            place: Arc::new(Semaphore::new(1)),
        };
        let (stop, stopped) = watch::channel(false);
        let life = tokio::spawn(life::live(Arc::new(context), stopped));
        let abort = life.abort_handle();
        let done = tokio::spawn(async move {
            let ended = match life.await {
                Ok(()) => None,
                Err(error) if error.is_panic() => Some(panic_text(error.into_panic().as_ref())),
                Err(_) => return,
            };
            // A stopping actor no longer listens, and need not.
            let _ = myself.cast(LinkMessage::Ended(ended));
        });
        // Closing, draining the last batch and giving the lease back each have the limit.
        Ok(LinkTask { stop, done: Some(done), abort, patience: limits.stop * 4 })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        LinkMessage::Ended(panic): Self::Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Err(panic.map_or_else(
            || "the link's task ended by itself".into(),
            |text| format!("the link's task panicked: {text}").into(),
        ))
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.stop.send_replace(true);
        if let Some(done) = state.done.take() {
            let _ = timeout(state.patience, done).await;
        }
        Ok(())
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no text").chars().take(200).collect()
}
