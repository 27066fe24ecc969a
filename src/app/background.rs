//! What runs beside the actors: servers, listeners, maintenance.
//!
//! Invariant: each of them ends with its phase, so that a node has stopped when all have.

use std::future::Future;

use tokio::{sync::watch, task::JoinSet};

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Clients are no longer accepted.
    Closing,
    /// Everything ends.
    Ending,
}

/// The tasks, and what they are told.
#[derive(Debug)]
pub(super) struct Background {
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
}

impl Background {
    pub(super) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Running), tasks: JoinSet::new() }
    }

    /// Ready when the phase has come.
    pub(super) fn reached(&self, wanted: Phase) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.phase.subscribe();
        async move {
            // A sender that is gone ends everything as well.
            let _ = phase.wait_for(|now| *now >= wanted).await;
        }
    }

    /// Runs what ends by itself when its phase has come.
    pub(super) fn run(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Runs what has no end of its own: it is dropped wherever it waits when everything ends.
    pub(super) fn keep(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.reached(Phase::Ending);
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = over => {}
            }
        });
    }

    /// Tells all that a phase has come.
    pub(super) fn begin(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Ready when all have ended.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
