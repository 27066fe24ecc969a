//! The bus reader: hands what the bus tells to `topics`, all that waits at once.
//!
//! Invariant: the next events are taken when the last have been dealt with, so the bus's own bounded queue is the only one;
//! what does not fit there the bus replaces by `Lost`. While topics are between two lives events are dropped, for topics
//! begin each life by reading every stream on.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use super::{Metrics, topics::TopicsMessage};
use crate::{
    platform::ports::BusEvent,
    supervise::{Progress, Slot},
};

/// Topics that do not answer for so long are stuck; their supervisor acts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Events that are handed over at once: enough for frames to leave together, few enough to be a small batch of frames.
const AT_ONCE: usize = 512;

/// The actor.
pub struct Reader;

/// What the reader starts with; the receiver outlives it.
#[derive(Clone)]
pub struct ReaderArgs {
    /// What the bus tells.
    pub events: Arc<Mutex<mpsc::Receiver<BusEvent>>>,
    /// Who is told.
    pub topics: Slot<TopicsMessage>,
    /// What is counted.
    pub metrics: Metrics,
    /// What it shows its supervisor.
    pub progress: Progress,
}

/// The task that reads.
pub struct ReaderState(JoinHandle<()>);

impl Drop for ReaderState {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The reading task is over: the bus is gone.
#[derive(Debug)]
pub struct Over;

impl Actor for Reader {
    type Msg = Over;
    type State = ReaderState;
    type Arguments = ReaderArgs;

    async fn pre_start(&self, myself: ActorRef<Over>, args: ReaderArgs) -> Result<ReaderState, ActorProcessingErr> {
        let ReaderArgs { events, topics, metrics, progress } = args;
        Ok(ReaderState(tokio::spawn(async move {
            let mut events = events.lock().await;
            let mut batch = Vec::with_capacity(AT_ONCE);
            while events.recv_many(&mut batch, AT_ONCE).await > 0 {
                let _busy = progress.work();
                metrics.bus_backlog.set(i64::try_from(events.len()).unwrap_or(i64::MAX));
                let news = std::mem::take(&mut batch);
                if let Err(error) = topics.call(|reply| TopicsMessage::Events(news, reply), PATIENCE).await {
                    tracing::warn!(%error, "topics took no event from the bus");
                }
            }
            let _ = myself.cast(Over);
        })))
    }

    async fn handle(&self, _: ActorRef<Over>, Over: Over, _: &mut ReaderState) -> Result<(), ActorProcessingErr> {
        Err("the bus tells nothing any more".into())
    }
}
