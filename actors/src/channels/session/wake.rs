//! How a shard wakes a session's task: one task waits, so a flag and its waker are enough.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Set by anybody, taken by the session's task alone.
#[derive(Debug, Default)]
pub(super) struct Wake {
    set: AtomicBool,
    waker: AtomicWaker,
}

impl Wake {
    /// Wakes the task, now or as soon as it waits.
    pub(super) fn set(&self) {
        self.set.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it was set since it was last taken.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        // Looked at after registering: who sets it in between finds the waker.
        if self.set.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until it is set.
    pub(super) async fn taken(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_word_is_lost() {
        let (there, back) = (Arc::new(Wake::default()), Arc::new(Wake::default()));
        let (here, answer) = (Arc::clone(&there), Arc::clone(&back));
        let echo = tokio::spawn(async move {
            for _ in 0..10_000 {
                here.taken().await;
                answer.set();
            }
        });
        for _ in 0..10_000 {
            there.set();
            back.taken().await;
        }
        echo.await.expect("echoed");
    }
}
