//! Who hears of an event: sorts notices into the lines of the applications as they are configured now.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use dzvin_actors::channels::{App, Apps, Notices, outside};
use dzvin_protocols::channels::pusher::{Guard, Name, WebhookEvent};
use reqwest::Url;
use tokio::{sync::Semaphore, time::Instant};

use super::{WebhookLimits, WebhookMetrics, line::Line, metrics::Lost};

/// Channels whose missing last event is remembered as told: above it some are told again.
const MAX_MISSES: usize = 10_000;

/// An application's id and an address, the how manieth of it there.
type Key = (Arc<str>, Arc<str>, usize);

/// All webhooks of a node. What waits in them outlives the tasks that tell it.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    all: Arc<Mutex<HashMap<Key, Arc<Line>>>>,
    limits: WebhookLimits,
    metrics: WebhookMetrics,
}

impl Lines {
    pub(super) fn new(limits: WebhookLimits, metrics: WebhookMetrics) -> Self {
        Self { all: Arc::default(), limits, metrics }
    }

    /// Those that are there.
    pub(super) fn all(&self) -> Vec<Arc<Line>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Follows the configuration. What waits for a webhook that is no more is lost.
    fn follow(&self, apps: &[Arc<App>]) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *all);
        let mut turns: HashMap<Arc<str>, Arc<Semaphore>> =
            before.iter().map(|((_, url, _), line)| (Arc::clone(url), Arc::clone(&line.turn))).collect();
        for (app, n, hook) in
            apps.iter().flat_map(|app| app.webhooks.iter().enumerate().map(move |(n, it)| (app, n, it)))
        {
            let same = app.webhooks.iter().take(n).filter(|other| other.url == hook.url).count();
            let key = (Arc::clone(&app.id), Arc::clone(&hook.url), same);
            if let Some(line) = before.remove(&key) {
                line.retarget(app, hook);
                all.insert(key, line);
                continue;
            }
            // The configuration was checked; what is no address all the same is nobody's.
            let Ok(url) = Url::parse(&hook.url) else {
                tracing::error!(app = %app.id, "the address of a webhook is none");
                continue;
            };
            let turn = turns.entry(Arc::clone(&hook.url)).or_insert_with(|| Arc::new(Semaphore::new(1)));
            let metrics = self.metrics.of(&app.id);
            let line = Line::new(Arc::clone(app), hook.clone(), url, Arc::clone(turn), self.limits, metrics);
            all.insert(key, Arc::new(line));
        }
        drop(all);
        for line in before.into_values() {
            let lost = line.give_up_all(Lost::Stopped);
            tracing::info!(app = %line.app(), host = line.host(), lost, "a webhook is no longer configured");
        }
    }
}

/// Sorts. One of them at a time.
#[derive(Debug)]
pub(super) struct Sorter {
    apps: Apps,
    notices: Notices,
    lines: Lines,
    seen: Option<Arc<[Arc<App>]>>,
    known: Vec<Arc<Line>>,
    missed: Misses,
}

impl Sorter {
    pub(super) fn new(apps: Apps, notices: Notices, lines: Lines) -> Self {
        let missed = Misses { again: lines.limits.miss_again, told: HashMap::new() };
        Self { apps, notices, lines, seen: None, known: Vec::new(), missed }
    }

    /// Looks whether the configuration has changed; true when it has.
    pub(super) fn look(&mut self) -> bool {
        let now = self.apps.all();
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &now)) {
            return false;
        }
        self.lines.follow(&now);
        self.known = self.lines.all();
        self.notices.listen(!self.known.is_empty());
        self.seen = Some(now);
        true
    }

    /// Hands an event to everybody who is to hear of it.
    pub(super) fn sort(&mut self, event: &WebhookEvent) {
        if concerns_applications(event) && !self.missed.before(event, Instant::now()) {
            self.known.iter().for_each(|line| line.offer(event));
        }
    }
}

/// Whether servers of applications are told such a thing of such a channel: the hub's own channels and those of single users
/// are not theirs, members are only told where the protocol has them, and counts where it has no members.
fn concerns_applications(event: &WebhookEvent) -> bool {
    let Ok(name) = Name::parse(outside(event.channel())) else { return false };
    if name.is_reserved() || name.kind().guard == Guard::User {
        return false;
    }
    match event {
        WebhookEvent::MemberAdded { .. } | WebhookEvent::MemberRemoved { .. } => name.is_presence(),
        WebhookEvent::SubscriptionCount { .. } => !name.is_presence(),
        WebhookEvent::CacheMiss { .. } => name.kind().cache,
        _ => true,
    }
}

/// Cache channels whose missing last event was told lately, by this node.
#[derive(Debug)]
struct Misses {
    again: Duration,
    told: HashMap<String, Instant>,
}

impl Misses {
    /// Whether this is such a miss and was told; then it was now.
    fn before(&mut self, event: &WebhookEvent, now: Instant) -> bool {
        let WebhookEvent::CacheMiss { channel } = event else { return false };
        let again = self.again;
        if self.told.get(channel).is_some_and(|told| now.duration_since(*told) < again) {
            return true;
        }
        if self.told.len() >= MAX_MISSES {
            self.told.retain(|_, told| now.duration_since(*told) < again);
        }
        if self.told.len() < MAX_MISSES {
            self.told.insert(channel.clone(), now);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_hubs_own_is_not_told() {
        let occupied = |channel: &str| WebhookEvent::ChannelOccupied { channel: channel.into() };
        for (event, told) in [
            (occupied("x"), true),
            (occupied("private-entitiesx"), true),
            (occupied("/a/presence-x"), true),
            (occupied("entities.procedure"), false),
            (occupied("private-entities.procedure"), false),
            (occupied("#server-to-user-7"), false),
            (occupied("/a/#server-to-user-7"), false),
            (WebhookEvent::MemberAdded { channel: "presence-x".into(), user_id: "7".into() }, true),
            (WebhookEvent::MemberAdded { channel: "chat.1".into(), user_id: "7".into() }, false),
            (WebhookEvent::MemberRemoved { channel: "chat.1".into(), user_id: "7".into() }, false),
            (WebhookEvent::SubscriptionCount { channel: "x".into(), subscription_count: 1 }, true),
            (WebhookEvent::SubscriptionCount { channel: "presence-x".into(), subscription_count: 1 }, false),
            (WebhookEvent::CacheMiss { channel: "private-cache-x".into() }, true),
            (WebhookEvent::CacheMiss { channel: "x".into() }, false),
        ] {
            assert_eq!(concerns_applications(&event), told, "{event:?}");
        }
    }

    #[test]
    fn a_missing_event_is_told_once_in_a_while_and_others_always() {
        let mut misses = Misses { again: Duration::from_secs(10), told: HashMap::new() };
        let (miss, now) = (|n: usize| WebhookEvent::CacheMiss { channel: format!("cache-{n}") }, Instant::now());
        let later = now + Duration::from_secs(10);
        assert!(!misses.before(&miss(0), now) && misses.before(&miss(0), now) && !misses.before(&miss(1), now));
        assert!(!misses.before(&miss(0), later) && misses.before(&miss(0), later));
        let vacated = WebhookEvent::ChannelVacated { channel: "cache-0".into() };
        assert!(!misses.before(&vacated, later) && !misses.before(&vacated, later));
        for n in 0..2 * MAX_MISSES {
            assert!(!misses.before(&miss(n + 2), later));
        }
        assert!(misses.told.len() <= MAX_MISSES, "bounded");
    }
}
