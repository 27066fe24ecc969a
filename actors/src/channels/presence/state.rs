//! What the actor knows, and when it calls the store.
//!
//! Not here: what is asked of it (`asking`), lives and burials (`lives`), and the orderly end (`end`).

mod asking;
mod end;
mod lives;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ractor::ActorRef;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    PresenceArgs, PresenceMessage,
    channel::Channel,
    job::{Job, Report, run},
    limits::{AWAY_AFTER, MAX_DOUBTS, MAX_QUESTIONS, READERS, WORD_TRIES, WRITERS},
    questions::Question,
    servers,
    tell::{Context, Tell, give_up},
};
use crate::{
    platform::ports::{Bus, Member, Presence},
    supervise::Progress,
};

/// How often a store that is away is asked whether it is back, at the latest.
const BACK: Duration = Duration::from_secs(1);

/// Channels with the places that they have been given; one whose place is another by now has left this one behind.
type Waiting = VecDeque<(u64, Arc<str>)>;

pub(super) struct State<P, B> {
    args: PresenceArgs<P, B>,
    myself: ActorRef<PresenceMessage>,
    channels: HashMap<Arc<str>, Channel>,
    /// Questions that wait for what was entered before them.
    questions: HashMap<Arc<str>, VecDeque<Question>>,
    /// Channels that want a call, in the order in which they began to.
    ready: Waiting,
    /// Those whose last call failed: they are ready again when the store has answered.
    failed: Waiting,
    listed: u64,
    /// When channels are to be looked at again: one moment for each at most.
    due: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    /// Which of this node's lives in the store this is, and whether the end of the last was told by others.
    life: u64,
    told: bool,
    /// Until when whom the store does not know may be there all the same.
    unsettled: Option<Instant>,
    ticket: u64,
    /// The store is only asked whether it is back.
    away: bool,
    failures_in_a_row: usize,
    doubts: usize,
    /// Words that wait, those that are with a call aside.
    unsaid: usize,
    clients: usize,
    /// Goodbyes that are held.
    held: usize,
    /// Graves that are this node's to tell, and whether there was more than one burial removes.
    graves: usize,
    unburied: bool,
    /// When the store was last asked to renew this node's life, and whether it has still to answer.
    renewed: Option<Instant>,
    renewing: bool,
    burying: bool,
    writers: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// This node goes: nothing new begins.
    going: Arc<AtomicBool>,
    /// The next tick, and when it comes.
    tick: Option<(Instant, AbortHandle)>,
    /// What became of calls. Not in the mailbox: a stop would pass over it, and with it over what is to be told of them.
    reports: mpsc::Receiver<Report>,
    reporting: mpsc::Sender<Report>,
    /// Calls, and all else; they end with the actor.
    calls: JoinSet<()>,
    tasks: JoinSet<()>,
}

impl<P: Presence, B: Bus> State<P, B> {
    pub(super) fn new(myself: ActorRef<PresenceMessage>, args: PresenceArgs<P, B>) -> Self {
        // There are no more than places, which a report gives back when it has been heard.
        let (reporting, reports) = mpsc::channel(WRITERS);
        Self {
            args,
            myself,
            channels: HashMap::new(),
            questions: HashMap::new(),
            ready: Waiting::new(),
            failed: Waiting::new(),
            listed: 0,
            due: BinaryHeap::new(),
            life: 0,
            told: true,
            unsettled: None,
            ticket: 0,
            // Until this node's life has begun there.
            away: true,
            failures_in_a_row: 0,
            doubts: 0,
            unsaid: 0,
            clients: 0,
            held: 0,
            graves: 0,
            unburied: false,
            renewed: None,
            renewing: false,
            burying: false,
            writers: Arc::new(Semaphore::new(WRITERS)),
            readers: Arc::new(Semaphore::new(READERS)),
            places: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            going: Arc::default(),
            tick: None,
            reports,
            reporting,
            calls: JoinSet::new(),
            tasks: JoinSet::new(),
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.args.progress
    }

    /// A client is on a channel.
    pub(super) fn enter(&mut self, name: &Arc<str>, shard: usize, member: Arc<Member>) {
        let heard = self.args.events.is_some() && (self.args.heard)(name);
        let silent = heard.then(|| servers::silent(&member));
        self.change(name, |channel| {
            channel.heard |= heard;
            channel.enter(shard, member);
        });
        if let Some(silent) = silent {
            self.change(&servers::stream(name), |channel| channel.enter(shard, silent));
        }
    }

    /// A client of that shard is there no longer.
    pub(super) fn exit(&mut self, name: &Arc<str>, shard: usize, client: &str) {
        let now = Instant::now();
        let heard = self.channels.get(name).is_some_and(|channel| channel.heard);
        self.change(name, |channel| channel.exit(shard, client, now));
        if heard {
            self.change(&servers::stream(name), |channel| channel.exit(shard, client, now));
        }
    }

    /// Changes what is known of a channel, and what follows from it.
    pub(super) fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Channel)) {
        let hold = self.args.limits.hold;
        let new = || Channel::new(servers::channel(name).map(|_| hold));
        let channel = self.channels.entry(Arc::clone(name)).or_insert_with(new);
        let (clients, doubts, unsaid) = (channel.clients(), channel.is_in_doubt(), channel.unsaid.len());
        let held = channel.held();
        change(channel);
        self.clients = self.clients + channel.clients() - clients;
        self.held = self.held + channel.held() - held;
        self.doubts = self.doubts + usize::from(channel.is_in_doubt()) - usize::from(doubts);
        self.unsaid = self.unsaid + channel.unsaid.len() - unsaid;
        self.settle(name);
    }

    /// Puts a channel where it belongs.
    fn settle(&mut self, name: &Arc<str>) {
        let (now, limits) = (Instant::now(), &self.args.limits);
        let Some(channel) = self.channels.get_mut(name) else { return };
        if let Some(due) = channel.due(now, limits)
            && channel.alarm.is_none_or(|alarm| due < alarm)
        {
            channel.alarm = Some(due);
            self.due.push(Reverse((due, Arc::clone(name))));
        }
        let wants = !channel.busy && channel.wants(now, limits);
        if !wants {
            channel.listed = None;
        } else if channel.listed.is_none() {
            self.listed += 1;
            channel.listed = Some(self.listed);
            let waiting = if channel.failed { &mut self.failed } else { &mut self.ready };
            waiting.push_back((self.listed, Arc::clone(name)));
            // What wants nothing any more leaves its place behind.
            if waiting.len() > 2 * self.channels.len() + 16 {
                let channels = &self.channels;
                waiting.retain(|(place, name)| channels.get(name).is_some_and(|it| it.listed == Some(*place)));
            }
        }
        let Some(channel) = self.channels.get(name) else { return };
        if channel.is_over() {
            self.channels.remove(name);
        }
        self.answer(name);
    }

    pub(super) fn began(&mut self, shard: usize) {
        let names: Vec<_> = self.channels.keys().cloned().collect();
        let now = Instant::now();
        names.iter().for_each(|name| self.change(name, |channel| channel.forget(shard, now)));
    }

    /// Makes as many calls as may be made at the same time.
    pub(super) fn pump(&mut self) {
        while !self.away && !self.ready.is_empty() {
            let Ok(place) = Arc::clone(&self.writers).try_acquire_owned() else { return };
            let Some((listed, name)) = self.ready.pop_front() else { return };
            if self.channels.get(&name).is_none_or(|channel| channel.listed != Some(listed)) {
                continue;
            }
            self.call(name, place);
        }
    }

    /// Does what is next on a channel, beside the actor.
    fn call(&mut self, name: Arc<str>, place: OwnedSemaphorePermit) {
        let Some(job) = self.job(name, place) else { return };
        let (store, bus) = (Arc::clone(&self.args.store), Arc::clone(&self.args.bus));
        let (myself, limits, reporting) = (self.myself.clone(), self.args.limits.clone(), self.reporting.clone());
        self.calls.spawn(async move {
            let report = run(job, store, bus, &limits).await;
            let _ = reporting.try_send(report);
            let _ = myself.cast(PresenceMessage::Called);
        });
    }

    /// What is next on a channel; `None` when that has come to nothing meanwhile.
    fn job(&mut self, name: Arc<str>, place: OwnedSemaphorePermit) -> Option<Job> {
        let (mut ticket, going) = (self.ticket, self.going.load(Relaxed));
        let limits = self.args.limits.clone();
        let mut next = None;
        self.change(&name, |channel| {
            channel.listed = None;
            let work = if going { None } else { channel.work(Instant::now(), &limits, &mut ticket) };
            let unsaid = std::mem::take(&mut channel.unsaid);
            channel.busy = work.is_some() || !unsaid.is_empty();
            next = channel.busy.then_some((work, unsaid));
        });
        self.ticket = ticket;
        let going = Arc::clone(&self.going);
        next.map(|(work, unsaid)| Job { channel: name, life: self.life, unsaid, work, going, place })
    }

    /// Hears of every call that is over.
    pub(super) fn reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.called(report);
        }
    }

    fn called(&mut self, report: Report) {
        let Report { channel: name, life, mut unsaid, said, graves, work, answer, failed, place } = report;
        drop(place);
        self.args.metrics.words.inc_by(said);
        let mut closed = graves;
        let (context, current, told) = (self.context(&name), self.life, self.told);
        let Some(channel) = self.channels.get_mut(&name) else { return };
        channel.busy = false;
        channel.failed = failed;
        if said > 0 || graves > 0 || unsaid.is_empty() {
            channel.tries = 0;
        }
        if failed && !unsaid.is_empty() {
            channel.tries += 1;
            if channel.tries >= WORD_TRIES {
                channel.tries = 0;
                closed += usize::from(give_up(&mut unsaid));
                self.args.metrics.words_lost.inc();
            }
        }
        let mut tell = Vec::new();
        self.change(&name, |channel| {
            unsaid.append(&mut channel.unsaid);
            channel.unsaid = unsaid;
            match (work, answer) {
                (Some(work), Some(answer)) => tell = channel.answered(&work, &answer, &context),
                (Some(work), None) => channel.doubt(work, context.now),
                (None, _) => {}
            }
            if life != current {
                channel.lost(told);
            }
        });
        self.tell(&name, tell);
        if failed {
            self.has_failed();
            self.refuse(&name);
        } else {
            self.failures_in_a_row = 0;
        }
        self.graves -= closed.min(self.graves);
        if self.graves == 0 && !self.away && std::mem::take(&mut self.unburied) {
            self.bury();
        }
    }

    fn has_failed(&mut self) {
        self.args.metrics.failures.inc();
        self.failures_in_a_row += 1;
        if self.away {
            return;
        }
        // Of a life that is given up nothing could be resigned.
        if self.doubts > MAX_DOUBTS && !self.going.load(Relaxed) {
            tracing::warn!(channels = self.doubts, "presence is entered again: too much of it is in doubt");
            self.args.store.begin();
            self.goes_away();
        } else if self.failures_in_a_row >= AWAY_AFTER {
            tracing::warn!("the store of presence is away");
            self.goes_away();
        }
    }

    fn goes_away(&mut self) {
        self.away = true;
        self.renewed = None;
        let names: Vec<_> = self.questions.keys().cloned().collect();
        names.iter().for_each(|name| self.refuse(name));
    }

    fn context(&self, name: &Arc<str>) -> Context {
        Context {
            channel: Arc::clone(name),
            counted: (self.args.counted)(name),
            now: Instant::now(),
            count_every: self.args.limits.count_every,
        }
    }

    /// Words go to the channel, events to whoever wants them.
    fn tell(&mut self, name: &Arc<str>, tell: Vec<Tell>) {
        if tell.is_empty() {
            return;
        }
        if let Some(events) = &self.args.events {
            for event in tell.iter().filter_map(|tell| tell.event(name)) {
                if events.try_send(event).is_err() {
                    self.args.metrics.events_lost.inc();
                }
            }
        }
        self.change(name, |channel| channel.unsaid.extend(tell.into_iter().filter(Tell::is_said)));
    }

    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, _))) = self.due.peek()
            && *due <= now
        {
            let Some(Reverse((_, name))) = self.due.pop() else { break };
            if self.channels.contains_key(&name) {
                self.change(&name, |channel| {
                    channel.alarm = None;
                    channel.part(now);
                });
            }
        }
        let every = if self.away { self.args.limits.renew.min(BACK) } else { self.args.limits.renew };
        if !self.renewing && self.renewed.is_none_or(|renewed| renewed + every <= now) {
            self.renew();
        }
        while self.tasks.try_join_next().is_some() {}
        while self.calls.try_join_next().is_some() {}
        self.measure();
    }

    /// Has the next tick come: within a step of whatever happens, and then, once all is quiet, when something is due. Nothing is asked of a
    /// node four times a second that has nothing to do.
    pub(super) fn wind(&mut self, ticked: bool) {
        let now = Instant::now();
        let soon = now + self.args.limits.step;
        let next = if ticked && self.is_quiet() { self.next_due(now).max(soon) } else { soon };
        if !ticked && self.tick.as_ref().is_some_and(|(at, _)| *at <= next) {
            return;
        }
        let tick = self.myself.send_after(next - now, || PresenceMessage::Tick).abort_handle();
        // One at a time, also where the last one is on its way already.
        if let Some((_, earlier)) = self.tick.replace((next, tick)) {
            earlier.abort();
        }
    }

    /// Nothing is under way, and nothing waits for more than its time.
    fn is_quiet(&self) -> bool {
        let nothing_waits = self.ready.is_empty() && self.failed.is_empty() && self.questions.is_empty();
        let nothing_runs = self.writers.available_permits() == WRITERS && !self.renewing && !self.burying;
        let nothing_is_owed = self.doubts + self.unsaid + self.graves == 0 && !self.unburied;
        nothing_waits && nothing_runs && nothing_is_owed && !self.away
    }

    /// When the first of what waits for its time is due.
    fn next_due(&self, now: Instant) -> Instant {
        let renewal = self.renewed.map_or(now, |at| at + self.args.limits.renew);
        self.due.peek().map_or(renewal, |Reverse((due, _))| renewal.min(*due))
    }

    fn measure(&self) {
        let metrics = &self.args.metrics;
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.channels.set(gauge(self.channels.len()));
        metrics.clients.set(gauge(self.clients));
        metrics.waiting.set(gauge(self.ready.len() + self.failed.len()));
        metrics.writing.set(gauge(WRITERS - self.writers.available_permits()));
        metrics.doubts.set(gauge(self.doubts));
        metrics.unsaid.set(gauge(self.unsaid));
        metrics.questions.set(gauge(MAX_QUESTIONS - self.places.available_permits()));
        metrics.due.set(gauge(self.due.len()));
        metrics.held.set(gauge(self.held));
        metrics.graves.set(gauge(self.graves));
        metrics.away.set(i64::from(self.away));
    }
}
