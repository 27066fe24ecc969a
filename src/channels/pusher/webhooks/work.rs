//! Telling one receiver: a batch at a time, in order, until it has been taken or given up.

use std::{ops::ControlFlow, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::{
    line::{Batch, Line},
    metrics::Lost,
    post::{Failure, Poster},
};

/// Runs until `farewell` comes true; then everything that waits is tried once more.
pub(super) async fn work(line: Arc<Line>, poster: Poster, mut farewell: watch::Receiver<bool>) {
    loop {
        let batch = tokio::select! {
            batch = line.next() => batch,
            () = told_to_end(&mut farewell) => break,
        };
        if deliver(&line, &poster, &batch, &mut farewell).await.is_break() {
            break;
        }
    }
    while let Some(batch) = line.last() {
        if let Err(failure) = attempt(&line, &poster, &batch).await {
            let lost = line.give_up_all(Lost::Stopped);
            tracing::warn!(app = %line.app(), host = line.host(), %failure, lost, "the node stops before a webhook was told");
            return;
        }
        line.told();
    }
}

async fn told_to_end(farewell: &mut watch::Receiver<bool>) {
    // Whoever would tell is gone: that ends it as well.
    let _ = farewell.wait_for(|end| *end).await;
}

/// Breaks when it was told to end in the middle: the batch is still in hand.
async fn deliver(line: &Line, poster: &Poster, batch: &Batch, farewell: &mut watch::Receiver<bool>) -> ControlFlow<()> {
    for failures in 0.. {
        let Err(failure) = attempt(line, poster, batch).await else {
            if failures > 0 {
                tracing::info!(app = %line.app(), host = line.host(), failures, "the receiver of a webhook answers again");
            }
            line.told();
            break;
        };
        if failures == 0 {
            tracing::warn!(app = %line.app(), host = line.host(), %failure, "the receiver of a webhook does not take it");
        }
        let wait = line.limits.backoff.delay(failures);
        if batch.since.elapsed() + wait >= line.limits.patience {
            let lost = line.give_up(Lost::GaveUp);
            tracing::error!(app = %line.app(), host = line.host(), %failure, attempts = failures + 1, lost, "a webhook is given up");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = told_to_end(farewell) => return ControlFlow::Break(()),
        }
    }
    ControlFlow::Continue(())
}

async fn attempt(line: &Line, poster: &Poster, batch: &Batch) -> Result<(), Failure> {
    // Nobody closes it.
    let _turn = line.turn.acquire().await;
    let begun = Instant::now();
    let result = poster.post(line.url.clone(), &batch.webhook).await;
    line.metrics.attempted(result.err().map_or("ok", Failure::label), begun.elapsed());
    result
}
