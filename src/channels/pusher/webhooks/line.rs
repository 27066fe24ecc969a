//! What waits for one webhook: events in order, and the batch that is being told.
//!
//! Invariants: bounded in events and bytes, the oldest give way; a batch is formed once and stays, signature and all, until
//! the receiver has taken it or it is given up, whatever becomes of the task that tells it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use dzvin_actors::channels::{App, Webhook as Hook};
use dzvin_protocols::channels::pusher::{Webhook, WebhookEvent};
use reqwest::Url;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    WebhookLimits,
    metrics::{LineMetrics, Lost},
};

/// `{"time_ms":1795697843000,"events":[]}`, and some digits more.
const ENVELOPE: usize = 48;

/// One webhook of one application.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) url: Url,
    /// One request at a time to one address, whoever sends it.
    pub(super) turn: Arc<Semaphore>,
    pub(super) limits: WebhookLimits,
    pub(super) metrics: LineMetrics,
    target: Mutex<Target>,
    queue: Mutex<Queue>,
    news: Notify,
}

/// Whom it tells what, as it is configured now.
#[derive(Debug)]
struct Target {
    app: Arc<App>,
    hook: Hook,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Waiting>,
    bytes: usize,
    batch: Option<Arc<Batch>>,
}

#[derive(Debug)]
struct Waiting {
    event: WebhookEvent,
    size: usize,
    since: Instant,
}

/// Events that are told together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) webhook: Webhook,
    pub(super) events: usize,
    bytes: usize,
    /// When it was formed: from then on it is tried.
    pub(super) since: Instant,
}

impl Line {
    pub(super) fn new(
        app: Arc<App>,
        hook: Hook,
        url: Url,
        turn: Arc<Semaphore>,
        limits: WebhookLimits,
        metrics: LineMetrics,
    ) -> Self {
        let target = Mutex::new(Target { app, hook });
        Self { url, turn, limits, metrics, target, queue: Mutex::default(), news: Notify::new() }
    }

    /// What the log calls it. The rest of the address may hold a secret.
    pub(super) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The application.
    pub(super) fn app(&self) -> Arc<str> {
        Arc::clone(&lock(&self.target).app.id)
    }

    /// The configuration has changed: other keys, other events.
    pub(super) fn retarget(&self, app: &Arc<App>, hook: &Hook) {
        *lock(&self.target) = Target { app: Arc::clone(app), hook: hook.clone() };
    }

    /// Takes an event, on a channel as the hub names it, if this application may and wants to hear of it.
    pub(super) fn offer(&self, event: &WebhookEvent) {
        let target = lock(&self.target);
        let Target { app, hook } = &*target;
        // Counts may be made for another application that has the same channels.
        let counted = app.subscription_counts || !matches!(event, WebhookEvent::SubscriptionCount { .. });
        let wanted = app.enabled && counted && hook.wants(event);
        let Some(name) = app.name_of(event.channel()).filter(|_| wanted) else { return };
        // Users on a channel are called as their application calls them: it is the channel alone that has its prefix here.
        let event = event.clone().on(name);
        drop(target);
        self.push(event);
    }

    fn push(&self, event: WebhookEvent) {
        // With the comma.
        let size = event.size() + 1;
        let mut queue = lock(&self.queue);
        let before = queue.weigh();
        queue.bytes += size;
        queue.events.push_back(Waiting { event, size, since: Instant::now() });
        let mut lost = 0;
        while queue.events.len() > self.limits.waiting_events
            || (queue.bytes > self.limits.waiting_bytes && queue.events.len() > 1)
        {
            queue.bytes -= queue.events.pop_front().map_or(0, |oldest| oldest.size);
            lost += 1;
        }
        self.measure(before, &queue);
        drop(queue);
        if lost > 0 {
            self.metrics.lost(lost, Lost::Full);
        }
        self.news.notify_one();
    }

    /// The batch that is to be told next, once there is one and its events had time to gather.
    pub(super) async fn next(&self) -> Arc<Batch> {
        loop {
            if let Some(batch) = self.ready() {
                return batch;
            }
            let due = lock(&self.queue).events.front().map(|oldest| oldest.since + self.limits.gather);
            match due {
                Some(due) => drop(timeout_at(due, self.news.notified()).await),
                None => self.news.notified().await,
            }
        }
    }

    /// The same if it is time.
    fn ready(&self) -> Option<Arc<Batch>> {
        let queue = lock(&self.queue);
        let full = queue.events.len() >= self.limits.batch_events || queue.bytes >= self.limits.batch_bytes;
        let due = queue.events.front().is_some_and(|oldest| oldest.since.elapsed() >= self.limits.gather);
        if queue.batch.is_some() || full || due { self.take(queue) } else { None }
    }

    /// Whatever there is, now.
    pub(super) fn last(&self) -> Option<Arc<Batch>> {
        self.take(lock(&self.queue))
    }

    fn take(&self, mut queue: MutexGuard<'_, Queue>) -> Option<Arc<Batch>> {
        if let Some(batch) = &queue.batch {
            return Some(Arc::clone(batch));
        }
        let (mut events, mut bytes) = (Vec::new(), ENVELOPE);
        while let Some(next) = queue.events.front() {
            let fits = events.len() < self.limits.batch_events && bytes + next.size <= self.limits.batch_bytes;
            if !fits && !events.is_empty() {
                break;
            }
            let Some(Waiting { event, size, .. }) = queue.events.pop_front() else { break };
            queue.bytes -= size;
            bytes += size;
            events.push(event);
        }
        if events.is_empty() {
            return None;
        }
        let webhook = Webhook::new(now_ms(), &events, lock(&self.target).app.ring.signer());
        let bytes = bytes - ENVELOPE;
        let batch = Arc::new(Batch { webhook, events: events.len(), bytes, since: Instant::now() });
        queue.batch = Some(Arc::clone(&batch));
        Some(batch)
    }

    /// The receiver has the batch.
    pub(super) fn told(&self) {
        if let Some(events) = self.forget() {
            self.metrics.told(events);
        }
    }

    /// The receiver will not have the batch.
    pub(super) fn give_up(&self, why: Lost) -> usize {
        let events = self.forget().unwrap_or_default();
        self.metrics.lost(events, why);
        events
    }

    /// The receiver will hear nothing more.
    pub(super) fn give_up_all(&self, why: Lost) -> usize {
        let mut queue = lock(&self.queue);
        let before = queue.weigh();
        let lost = queue.events.len() + queue.batch.as_ref().map_or(0, |batch| batch.events);
        *queue = Queue::default();
        self.measure(before, &queue);
        drop(queue);
        if lost > 0 {
            self.metrics.lost(lost, why);
        }
        lost
    }

    fn forget(&self) -> Option<usize> {
        let mut queue = lock(&self.queue);
        let before = queue.weigh();
        let batch = queue.batch.take();
        self.measure(before, &queue);
        batch.map(|batch| batch.events)
    }

    fn measure(&self, before: (i64, i64), queue: &Queue) {
        let now = queue.weigh();
        self.metrics.waits(now.0 - before.0, now.1 - before.1);
    }
}

impl Queue {
    /// Events and bytes, those in hand included.
    fn weigh(&self) -> (i64, i64) {
        let (events, bytes) = self.batch.as_ref().map_or((0, 0), |batch| (batch.events, batch.bytes));
        let int = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        (int(self.events.len() + events), int(self.bytes + bytes))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
