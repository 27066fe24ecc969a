//! A trace as a node follows it: what its sessions tell goes to the node that asked, in words of many lines.

use std::{sync::Arc, time::Duration};

use dzvin_actors::{
    channels::{Following, Noted},
    platform::ports::Bus,
};
use dzvin_protocols::channels::{Control, TraceLine, TraceTarget};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{MAX_WORD, Told, Traces};

/// How long a line waits for others, and so how many words a trace may cost in a second.
const TOGETHER: Duration = Duration::from_millis(50);

/// Follows, or goes on following until another lease has ended.
pub(super) fn follow(traces: &Traces, id: Arc<str>, from: Arc<str>, by: &str, target: &TraceTarget, lease: Duration) {
    let until = Instant::now() + lease;
    let mut followed = traces.followed();
    if let Some(known) = followed.get(&id) {
        known.send_replace(until);
        return;
    }
    let Some(following) = traces.0.tracer.follow(target.clone()) else {
        drop(followed);
        let refused = Follower { traces: traces.clone(), id, from };
        tokio::spawn(async move { refused.refuse().await });
        return;
    };
    let (renew, leases) = watch::channel(until);
    followed.insert(Arc::clone(&id), renew);
    drop(followed);
    tracing::info!(trace = &*id, by, what = ?target, asked_at = &*from, "a trace is followed");
    let follower = Follower { traces: traces.clone(), id, from };
    tokio::spawn(follower.run(following, leases));
}

struct Follower {
    traces: Traces,
    id: Arc<str>,
    /// The node that asks.
    from: Arc<str>,
}

/// It is followed no more, however that came.
impl Drop for Follower {
    fn drop(&mut self) {
        self.traces.followed().remove(&self.id);
    }
}

impl Follower {
    async fn run(self, mut following: Following, mut leases: watch::Receiver<Instant>) {
        let mut rest = None;
        // It has heard of the trace.
        let mut told = self.say(0, Vec::new(), false).await;
        while told != Told::Dead {
            let until = *leases.borrow_and_update();
            let first = async {
                match rest.take() {
                    Some(noted) => Some(noted),
                    None => following.next().await,
                }
            };
            told = tokio::select! {
                biased;
                () = sleep_until(until) => break,
                renewed = leases.changed() => match (renewed, following.settled()) {
                    // Nobody wants to hear of it any more.
                    (Err(_), _) => break,
                    (Ok(()), Some(happened)) => self.say(happened, Vec::new(), false).await,
                    (Ok(()), None) => Told::Heard,
                },
                first = first => {
                    let Some(first) = first else { break };
                    sleep(TOGETHER).await;
                    let (before, lines, next) = run_of(first, || following.ready());
                    rest = next;
                    self.say(before, lines, false).await
                }
            };
        }
        tracing::info!(trace = &*self.id, "a trace is followed no more");
    }

    async fn refuse(self) {
        tracing::warn!(trace = &*self.id, "a trace is not followed: there are too many");
        let _ = self.say(0, Vec::new(), true).await;
    }

    async fn say(&self, before: u64, lines: Vec<TraceLine>, refused: bool) -> Told {
        let (id, node) = (Arc::clone(&self.id), self.traces.0.bus.node().into());
        self.traces.tell(Some(&self.from), &Control::Traced { id, node, before, lines, refused }).await
    }
}

/// Lines that follow each other, as many as fit a word; and the first that does not belong to them.
fn run_of(first: Noted, mut next: impl FnMut() -> Option<Noted>) -> (u64, Vec<TraceLine>, Option<Noted>) {
    let (before, mut bytes, mut lines) = (first.before, first.line.get().len(), vec![first.line]);
    loop {
        let Some(noted) = next() else { return (before, lines, None) };
        bytes += noted.line.get().len() + 1;
        if noted.before != before + lines.len() as u64 || bytes > MAX_WORD {
            return (before, lines, Some(noted));
        }
        lines.push(noted.line);
    }
}
