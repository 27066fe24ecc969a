//! One call to the store, beside the actor: first what is still to be said on the channel, with the graves that are told by it, then the call.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use dzvin_protocols::platform::StreamName;
use futures_util::FutureExt;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{
    PresenceLimits,
    channel::{Answer, Work},
    tell::{Tell, leave_grave},
};
use crate::platform::ports::{Bus, Presence};

/// What is to be done.
pub(super) struct Job {
    pub(super) channel: Arc<str>,
    /// In which of the node's lives it began.
    pub(super) life: u64,
    pub(super) unsaid: VecDeque<Tell>,
    pub(super) work: Option<Work>,
    /// This node goes: no call begins any more.
    pub(super) going: Arc<AtomicBool>,
    pub(super) place: OwnedSemaphorePermit,
}

/// What became of it.
pub(super) struct Report {
    pub(super) channel: Arc<str>,
    pub(super) life: u64,
    /// What could not be said; then nothing was called.
    pub(super) unsaid: VecDeque<Tell>,
    pub(super) said: u64,
    /// Graves that are no longer this node's to tell: closed, or left to others.
    pub(super) graves: usize,
    pub(super) work: Option<Work>,
    pub(super) answer: Option<Answer>,
    /// A word or the call failed.
    pub(super) failed: bool,
    /// Its place among the calls, given back when the actor has heard of it: so many reports wait at most.
    pub(super) place: OwnedSemaphorePermit,
}

/// Does it; whatever fails, the actor hears of it.
pub(super) async fn run<P: Presence, B: Bus>(job: Job, store: Arc<P>, bus: Arc<B>, limits: &PresenceLimits) -> Report {
    let Job { channel, life, unsaid, work, going, place } = job;
    let mut report = Report { channel, life, unsaid, said: 0, graves: 0, work, answer: None, failed: true, place };
    // A panic of the store's is a failed call. What it had written of the report is whole.
    let done = AssertUnwindSafe(act(&mut report, &going, store.as_ref(), bus.as_ref(), limits)).catch_unwind().await;
    if done.is_err() {
        tracing::error!(channel = &*report.channel, "a call to the store of presence panicked");
    }
    report
}

async fn act<P: Presence, B: Bus>(
    report: &mut Report,
    going: &AtomicBool,
    store: &P,
    bus: &B,
    limits: &PresenceLimits,
) {
    let stream = StreamName::from_checked(&report.channel);
    while let Some(tell) = report.unsaid.front() {
        match tell {
            Tell::Open(grave) if grave.until <= Instant::now() => {
                leave_grave(&mut report.unsaid);
                report.graves += 1;
                continue;
            }
            Tell::Close(grave) => {
                if !matches!(timeout(limits.command, store.close(&stream, grave)).await, Ok(Ok(()))) {
                    return;
                }
                report.graves += 1;
            }
            _ => {}
        }
        if let Some(word) = tell.word() {
            if !matches!(timeout(limits.say, bus.whisper(&stream, word)).await, Ok(Ok(()))) {
                return;
            }
            report.said += 1;
        }
        report.unsaid.pop_front();
    }
    // What a call removes that begins now might not be told any more; what it leaves another node buries, and tells.
    if let Some(work) = report.work.as_ref().filter(|_| !going.load(Relaxed)) {
        let within = limits.command;
        let called = timeout(within, call(store, &stream, work)).await;
        match called {
            Ok(Ok(answer)) => report.answer = Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "presence was not stored");
                return;
            }
            Err(_) => {
                tracing::debug!(?within, "the store of presence did not answer in time");
                return;
            }
        }
    }
    report.failed = false;
}

async fn call<P: Presence>(
    store: &P,
    stream: &StreamName,
    work: &Work,
) -> Result<Answer, crate::platform::ports::BusError> {
    Ok(match work {
        Work::Change { ticket, changes } => Answer::Changed(store.change(stream, *ticket, changes).await?),
        Work::Occupy { ticket, subscribers } => Answer::Occupied(store.occupy(stream, *ticket, *subscribers).await?),
        Work::Turn { every } => Answer::Turn(store.turn(stream, *every).await?),
    })
}
