//! Webhooks: what happens on channels, told to the servers of applications.
//!
//! Invariants: for one webhook events are told in order, each batch until it has been taken or five minutes have passed, so at
//! least once within that time and perhaps twice; what waits is bounded for each; a receiver that is slow or away delays no
//! other; addresses come from the configuration and from nowhere else, and are in no log.
//!
//! Each node tells what it saw itself. Nothing here outlives the process: what waits when a node is killed is lost. That a
//! vacated channel and a user who has left are told with a delay, and each edge once over all nodes, is the work of presence.

mod limits;
mod line;
mod metrics;
mod post;
mod sort;
#[cfg(test)]
mod tests;
mod work;

use std::{collections::HashMap, sync::Arc, time::Duration};

use dzvin_actors::{
    channels::{Apps, Notices},
    platform::beat,
    supervise::ChildSpec,
};
use dzvin_protocols::channels::pusher::WebhookEvent;
use prometheus_client::registry::Registry;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::timeout,
};

pub use limits::WebhookLimits;

use self::{
    metrics::{Lost, WebhookMetrics},
    post::Poster,
    sort::{Lines, Sorter},
};

/// Notices that are sorted at once.
const AT_ONCE: usize = 256;
/// How soon a changed configuration is in force where nothing happens, also for what is told again after a failure.
const LOOK: Duration = Duration::from_secs(2);

/// What the sender starts with. Cheap to clone; what waits in it outlives the actor.
#[derive(Debug, Clone)]
pub struct WebhookArgs {
    apps: Apps,
    notices: Notices,
    told: Arc<Mutex<mpsc::Receiver<WebhookEvent>>>,
    lines: Lines,
    poster: Poster,
    metrics: WebhookMetrics,
    farewell: Duration,
}

/// The sender cannot be made: TLS or the resolver.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client of webhooks could not be made")]
pub struct WebhookSetupError(#[from] reqwest::Error);

impl WebhookArgs {
    /// For these applications, whichever they will be. `notices` is where their events are handed in.
    ///
    /// # Errors
    /// [`WebhookSetupError`].
    pub fn new(
        apps: Apps,
        (notices, told): (Notices, mpsc::Receiver<WebhookEvent>),
        limits: WebhookLimits,
    ) -> Result<Self, WebhookSetupError> {
        let metrics = WebhookMetrics::new(notices.lost().clone());
        let (poster, farewell) = (Poster::new(&limits)?, limits.farewell);
        let lines = Lines::new(limits, metrics.clone());
        Ok(Self { apps, notices, told: Arc::new(Mutex::new(told)), lines, poster, metrics, farewell })
    }

    /// Names the metrics under `webhook_`.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// The supervised actor. Start it before whoever hands in events, so that it stops after them.
    #[must_use]
    pub fn child(self) -> ChildSpec {
        ChildSpec::new("webhooks", move |spawner| {
            let args = self.clone();
            async move { Ok(Actor::spawn_linked(None, WebhookSender, args, spawner.supervisor).await?.0.get_cell()) }
        })
    }
}

/// The actor: it owns the task that sorts, which owns those that tell.
#[derive(Debug)]
pub struct WebhookSender;

/// A task is over that should not be.
#[derive(Debug)]
pub struct Over(&'static str);

/// The tasks.
#[derive(Debug)]
pub struct WebhookState {
    sorting: JoinHandle<()>,
    end: watch::Sender<bool>,
    lines: Lines,
    farewell: Duration,
}

impl Drop for WebhookState {
    fn drop(&mut self) {
        self.sorting.abort();
    }
}

impl Actor for WebhookSender {
    type Msg = Over;
    type State = WebhookState;
    type Arguments = WebhookArgs;

    async fn pre_start(&self, myself: ActorRef<Over>, args: WebhookArgs) -> Result<WebhookState, ActorProcessingErr> {
        let (end, ending) = watch::channel(false);
        let (lines, farewell) = (args.lines.clone(), args.farewell);
        let sorting = tokio::spawn(async move {
            let why = tokio::spawn(Box::pin(run(args, ending)));
            let mut why = AbortOnDrop(why);
            let why = (&mut why.0).await.unwrap_or("sorting panicked");
            let _ = myself.cast(Over(why));
        });
        Ok(WebhookState { sorting, end, lines, farewell })
    }

    async fn handle(&self, _: ActorRef<Over>, Over(why): Over, _: &mut WebhookState) -> Result<(), ActorProcessingErr> {
        Err(why.into())
    }

    /// What waits is tried once more.
    async fn post_stop(&self, _: ActorRef<Over>, state: &mut WebhookState) -> Result<(), ActorProcessingErr> {
        state.end.send_replace(true);
        if timeout(state.farewell, &mut state.sorting).await.is_err() {
            let lost: usize = state.lines.all().iter().map(|line| line.give_up_all(Lost::Stopped)).sum();
            tracing::warn!(lost, "webhooks were not all told before the stop");
        }
        Ok(())
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sorts, and keeps a task for each line; answers why it is over.
async fn run(args: WebhookArgs, mut ending: watch::Receiver<bool>) -> &'static str {
    let mut told = args.told.lock().await;
    let mut sorter = Sorter::new(args.apps.clone(), args.notices.clone(), args.lines.clone());
    let (farewell, ended) = watch::channel(false);
    let mut workers = Workers { tasks: JoinSet::new(), by_line: HashMap::new(), poster: args.poster, ended };
    let mut look = beat::every(LOOK);
    let mut batch = Vec::with_capacity(AT_ONCE);
    loop {
        if sorter.look() {
            workers.follow(&args.lines);
        }
        tokio::select! {
            heard = told.recv_many(&mut batch, AT_ONCE) => {
                if heard == 0 {
                    return "nobody tells anything any more";
                }
                args.metrics.backlog(told.len());
                // What was configured before something happened holds for it.
                if sorter.look() {
                    workers.follow(&args.lines);
                }
                batch.drain(..).for_each(|event| sorter.sort(&event));
            }
            Some(ended) = workers.tasks.join_next() => {
                // Those that were no longer wanted were aborted.
                if !ended.is_err_and(|error| error.is_cancelled()) {
                    return "a task that tells is over";
                }
            }
            _ = look.tick() => {}
            _ = ending.wait_for(|end| *end) => break,
        }
    }
    while let Ok(event) = told.try_recv() {
        sorter.sort(&event);
    }
    farewell.send_replace(true);
    while workers.tasks.join_next().await.is_some() {}
    "the node stops"
}

/// The tasks that tell, one for each line.
struct Workers {
    tasks: JoinSet<()>,
    by_line: HashMap<usize, (Arc<line::Line>, AbortHandle)>,
    poster: Poster,
    ended: watch::Receiver<bool>,
}

impl Workers {
    fn follow(&mut self, lines: &Lines) {
        let mut before = std::mem::take(&mut self.by_line);
        for line in lines.all() {
            let id = Arc::as_ptr(&line) as usize;
            let task = before.remove(&id).unwrap_or_else(|| {
                let work = work::work(Arc::clone(&line), self.poster.clone(), self.ended.clone());
                (line, self.tasks.spawn(work))
            });
            self.by_line.insert(id, task);
        }
        before.into_values().for_each(|(_, task)| task.abort());
    }
}
