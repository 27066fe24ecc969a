//! Live traces of one user or channel: what sessions and shards of this node tell to those who follow them.
//!
//! Invariants: without a trace it costs one relaxed load for each batch of deliveries, command or end of a session; nobody who
//! tells ever waits; what does not fit the queue of a trace is counted, so that whoever reads it is told how much is missing.
//!
//! Not here: who may ask, how long a trace lasts, the way to the node that asks.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use dzvin_protocols::channels::{Happening, TraceEvent, TraceLine, TraceTarget, Word};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{Delivery, What};

/// Traces that one node follows, of all nodes that ask: each is looked at by every session that does something meanwhile.
const MAX_TRACES: usize = 32;
/// Lines that wait for the way to the node that asks: a burst of a busy channel, a few hundred KiB.
const QUEUE: usize = 1_024;

/// What is counted of traces.
#[derive(Debug, Clone, Default)]
pub struct TraceMetrics {
    /// Traces that this node follows.
    pub followed: Gauge,
    /// Traces that were asked for here.
    pub asked: Gauge,
    /// Lines that sessions and shards have told.
    pub lines: Counter,
    /// Lines for which there was no room.
    pub lost: Counter,
}

impl TraceMetrics {
    /// Shows them under `trace_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("trace");
        registry.register("followed", "Traces that this node follows", self.followed.clone());
        registry.register("asked", "Traces that were asked for at this node", self.asked.clone());
        registry.register("lines", "Lines told to traces", self.lines.clone());
        registry.register("lines_lost", "Lines of traces for which there was no room", self.lost.clone());
    }
}

/// Where sessions and shards tell what they do; cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Somebody follows something.
    on: AtomicBool,
    followed: RwLock<Vec<Arc<Followed>>>,
    metrics: TraceMetrics,
}

#[derive(Debug)]
struct Followed {
    target: TraceTarget,
    /// How much has happened, told or not. Held while a line is queued, so that lines have their numbers in order.
    happened: Mutex<u64>,
    queue: mpsc::Sender<Noted>,
}

/// A line, and how much had happened before it.
#[derive(Debug)]
pub struct Noted {
    /// How much had happened before.
    pub before: u64,
    /// The line.
    pub line: TraceLine,
}

/// Who does something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doer<'a> {
    pub(super) client: Option<&'a str>,
    pub(super) user: Option<&'a str>,
}

/// What is followed now: looked up once for each batch of deliveries.
#[derive(Debug, Default)]
pub(super) struct Targets {
    users: Vec<Arc<str>>,
    channels: Vec<Arc<str>>,
}

impl Targets {
    /// Whether what this user's session is given is told.
    pub(super) fn has_user(&self, user: Option<&str>) -> bool {
        user.is_some_and(|user| self.users.iter().any(|meant| **meant == *user))
    }

    /// Whether what comes on this channel is told.
    pub(super) fn has_channel(&self, channel: &str) -> bool {
        self.channels.iter().any(|meant| **meant == *channel)
    }
}

impl Tracer {
    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &TraceMetrics {
        &self.0.metrics
    }

    /// Whether anything is followed.
    pub(super) fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    /// What is followed, if anything is.
    pub(super) fn targets(&self) -> Option<Targets> {
        if !self.is_on() {
            return None;
        }
        let mut targets = Targets::default();
        for followed in self.followed().iter() {
            match &followed.target {
                TraceTarget::User(user) => targets.users.push(Arc::clone(user)),
                TraceTarget::Channel(channel) => targets.channels.push(Arc::clone(channel)),
            }
        }
        Some(targets)
    }

    /// Follows a target until what this answers is dropped; `None` when too many are followed already.
    #[must_use]
    pub fn follow(&self, target: TraceTarget) -> Option<Following> {
        let (queue, lines) = mpsc::channel(QUEUE);
        let followed = Arc::new(Followed { target, happened: Mutex::default(), queue });
        let mut all = self.0.followed.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_TRACES {
            return None;
        }
        all.push(Arc::clone(&followed));
        self.0.on.store(true, Ordering::Relaxed);
        self.0.metrics.followed.inc();
        Some(Following { tracer: self.clone(), followed, lines })
    }

    /// Tells it to whoever follows this user or this channel.
    pub(super) fn tell(&self, who: Doer<'_>, channel: Option<&str>, what: Happening<'_>) {
        self.tell_those(|target| target.is(who.user, channel), who, channel, what);
    }

    /// Tells it to whoever follows this user, though others may follow the channel.
    pub(super) fn tell_of_user(&self, who: Doer<'_>, channel: &str, what: Happening<'_>) {
        self.tell_those(|target| target.is(who.user, None), who, Some(channel), what);
    }

    /// Tells it to whoever follows this channel.
    fn tell_of_channel(&self, channel: &str, what: Happening<'_>) {
        let nobody = Doer { client: None, user: None };
        self.tell_those(|target| target.is(None, Some(channel)), nobody, Some(channel), what);
    }

    /// Tells what came on a channel to whoever follows it: to so many sessions of one shard.
    pub(super) fn tell_delivered(&self, delivery: &Delivery, sessions: u64) {
        let channel = &delivery.channel;
        match &delivery.what {
            What::Items(items) => items.iter().for_each(|item| {
                let (epoch, bytes) = (delivery.epoch.as_str(), item.publication.data.len() as u64);
                let sessions = Some(sessions);
                self.tell_of_channel(channel, Happening::Publication { epoch, offset: item.offset, bytes, sessions });
            }),
            What::Word(spoken) => {
                let word = match &spoken.word {
                    Word::Join { .. } => "join",
                    Word::Leave { .. } => "leave",
                    Word::Event { .. } => "event",
                    Word::Count { .. } => "count",
                    Word::Anew { .. } => "anew",
                    // Of what nothing keeps: it is delivered without an offset.
                    Word::Publication { .. } => "publication",
                };
                self.tell_of_channel(channel, Happening::Word { word, sessions });
            }
            What::Passing(_) => self.tell_of_channel(channel, Happening::Word { word: "publication", sessions }),
            What::Top(_) | What::Passed { .. } | What::Reset => {}
        }
    }

    fn tell_those(
        &self,
        meant: impl Fn(&TraceTarget) -> bool,
        Doer { client, user }: Doer<'_>,
        channel: Option<&str>,
        what: Happening<'_>,
    ) {
        let all = self.followed();
        let mut meant = all.iter().filter(|followed| meant(&followed.target)).peekable();
        if meant.peek().is_none() {
            return;
        }
        let line = TraceEvent { at: OffsetDateTime::now_utc(), client, user, channel, what }.line();
        for followed in meant {
            self.0.metrics.lines.inc();
            if !followed.take(line.clone()) {
                self.0.metrics.lost.inc();
            }
        }
    }

    fn followed(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Followed>>> {
        // Nothing panics while it is held.
        self.0.followed.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn happened(&self) -> MutexGuard<'_, u64> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there was no room for it.
    fn take(&self, line: TraceLine) -> bool {
        let mut happened = self.happened();
        let noted = Noted { before: *happened, line };
        *happened += 1;
        self.queue.try_send(noted).is_ok()
    }
}

/// A target that is followed.
#[derive(Debug)]
pub struct Following {
    tracer: Tracer,
    followed: Arc<Followed>,
    lines: mpsc::Receiver<Noted>,
}

impl Following {
    /// The next line. Cancelled it loses none.
    pub async fn next(&mut self) -> Option<Noted> {
        self.lines.recv().await
    }

    /// The next line, if there is one already.
    pub fn ready(&mut self) -> Option<Noted> {
        self.lines.try_recv().ok()
    }

    /// How much has happened, if all of it that had room has been taken.
    #[must_use]
    pub fn settled(&self) -> Option<u64> {
        let happened = self.followed.happened();
        self.lines.is_empty().then_some(*happened)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut all = self.tracer.0.followed.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|followed| !Arc::ptr_eq(followed, &self.followed));
        self.tracer.0.on.store(!all.is_empty(), Ordering::Relaxed);
        self.tracer.0.metrics.followed.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Doer<'static> {
        Doer { client: Some("c"), user: Some("u") }
    }

    #[tokio::test]
    async fn those_hear_it_who_follow_it_and_nobody_costs_anything() {
        let tracer = Tracer::default();
        assert!(!tracer.is_on() && tracer.targets().is_none());
        let mut of_user = tracer.follow(TraceTarget::User("u".into())).expect("room");
        let mut of_channel = tracer.follow(TraceTarget::Channel("x".into())).expect("room");
        let targets = tracer.targets().expect("two");
        assert!(targets.has_user(Some("u")) && !targets.has_user(Some("x")) && !targets.has_user(None));
        assert!(targets.has_channel("x") && !targets.has_channel("u"));
        let what = || Happening::Unsubscribe { code: 1 };
        tracer.tell(user(), Some("x"), what());
        tracer.tell(user(), Some("y"), what());
        tracer.tell_of_user(user(), "x", what());
        tracer.tell_of_channel("x", what());
        let told = |following: &mut Following| {
            std::iter::from_fn(|| following.ready()).map(|noted| noted.before).collect::<Vec<_>>()
        };
        assert_eq!((told(&mut of_user), told(&mut of_channel)), (vec![0, 1, 2], vec![0, 1]));
        drop(of_user);
        assert!(tracer.is_on());
        drop(of_channel);
        assert!(!tracer.is_on() && tracer.metrics().followed.get() == 0);
    }

    #[test]
    fn what_has_no_room_is_counted_and_traces_are_few() {
        let tracer = Tracer::default();
        let mut following = tracer.follow(TraceTarget::User("u".into())).expect("room");
        for _ in 0..QUEUE + 5 {
            tracer.tell(user(), None, Happening::Disconnect { code: 0 });
        }
        assert_eq!(following.settled(), None, "there is more to take");
        assert_eq!(std::iter::from_fn(|| following.ready()).count(), QUEUE);
        assert_eq!(following.settled(), Some(QUEUE as u64 + 5), "what was lost is known");
        assert_eq!(tracer.metrics().lost.get(), 5);
        let more: Vec<_> = (0..MAX_TRACES).map(|_| tracer.follow(TraceTarget::User("u".into()))).collect();
        assert_eq!(more.iter().flatten().count(), MAX_TRACES - 1);
    }
}
