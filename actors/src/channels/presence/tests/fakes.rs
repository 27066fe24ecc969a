//! A store and a bus in memory, whose behaviour is changed in the middle of a test.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication, Word, centrifuge::ClientInfo},
    platform::StreamName,
};
use ractor::{Actor, ActorRef};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::super::{
    PresenceActor, PresenceArgs, PresenceEvent, PresenceLimits, PresenceMessage, PresenceMetrics,
    questions::PresenceError,
};
use crate::{
    platform::ports::{
        Appended, Buried, Bus, BusError, Changed, Conditions, Counts, Crowd, Entered, Exited, Grave, HistoryLimits,
        Life, Member, MemberChange, MemberPage, Occupied, Offer, Outcome, Presence, Published, ReadLimit, Slice,
        UserPace,
    },
    supervise::{Progress, Slot},
};

/// How a store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mood {
    #[default]
    Well,
    /// It does nothing and says so.
    Refuses,
    /// It does what it is asked, and the answer is lost.
    Mute,
    /// It does what it is asked, and never answers.
    Hangs,
    /// It does what it is asked, and answers half a second later.
    Slow,
    Panics,
}

#[derive(Debug, thiserror::Error)]
#[error("as the test wants")]
struct Wanted;

fn error() -> BusError {
    BusError { doing: "test", source: Box::new(Wanted) }
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) mood: Mood,
    pub(super) whispers: Mood,
    pub(super) crowd: Crowd,
    pub(super) members: BTreeMap<String, BTreeMap<String, Arc<Member>>>,
    pub(super) crowded: BTreeMap<String, bool>,
    pub(super) occupied: BTreeMap<String, u64>,
    answers: HashMap<String, (u64, Option<Changed>, Option<Occupied>)>,
    life: bool,
    /// This node's life is lost, and whether others told of it.
    lost: Option<bool>,
    graves: Vec<Buried>,
    /// Names of those that were closed.
    pub(super) closed: Vec<String>,
    /// The answers to so many more closings are lost.
    pub(super) unclosed: usize,
    pub(super) burials: usize,
    pub(super) calls: usize,
    pub(super) renewals: usize,
    pub(super) turns: usize,
    /// When the number of a channel was told last.
    turned: BTreeMap<String, Instant>,
    /// How many words had been said when this node resigned, and for how long what it left is held.
    pub(super) resigned: Option<(usize, Duration)>,
    busy: Vec<String>,
    /// What was said, in order: channel and word.
    pub(super) words: Vec<(String, Word)>,
}

/// What was answered before.
type Known = (Option<Changed>, Option<Occupied>);

/// Store and bus at once; cloning shares it.
#[derive(Debug, Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Kept>>);

impl Fake {
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn mood(&self, mood: Mood) {
        self.kept().mood = mood;
    }

    /// Everything is gone, and nobody tells.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        kept.members.clear();
        kept.occupied.clear();
        kept.crowded.clear();
        kept.answers.clear();
        kept.lost.get_or_insert(false);
    }

    /// Another node takes this one for dead, and says who is gone.
    pub(super) fn bury_us(&self) {
        let mut kept = self.kept();
        if kept.lost.is_some() {
            // A life that was forgotten nobody can bury.
            return;
        }
        let all = std::mem::take(&mut kept.members);
        for (channel, members) in all {
            for member in members.into_values() {
                kept.words.push((channel.clone(), Word::Leave { info: member.info.clone(), last: false }));
            }
        }
        kept.occupied.clear();
        kept.answers.clear();
        kept.lost = Some(true);
    }

    pub(super) fn grave(&self, buried: Buried) {
        self.kept().graves.push(buried);
    }

    /// What was said on a channel: `+client` and `-client`, `#count`.
    pub(super) fn said(&self, channel: &str) -> Vec<String> {
        let kept = self.kept();
        let words = kept.words.iter().filter(|(on, _)| on == channel);
        words
            .map(|(_, word)| match word {
                Word::Join { info, first } => format!("+{}{}", info.client, if *first { "!" } else { "" }),
                Word::Leave { info, last } => format!("-{}{}", info.client, if *last { "!" } else { "" }),
                Word::Count { subscribers } => format!("#{subscribers}"),
                Word::Anew { turn, turns, .. } => format!("anew {turn}/{turns}"),
                Word::Event { .. } | Word::Publication { .. } => "?".to_owned(),
            })
            .collect()
    }

    async fn behave<T>(&self, act: impl FnOnce(&mut Kept) -> Result<T, BusError>) -> Result<T, BusError> {
        let mood = self.kept().mood;
        // Others may come in between.
        tokio::task::yield_now().await;
        match mood {
            Mood::Refuses => Err(error()),
            Mood::Panics => panic!("as the test wants"),
            Mood::Well => act(&mut self.kept()),
            Mood::Mute => act(&mut self.kept()).and(Err(error())),
            Mood::Slow => {
                let done = act(&mut self.kept());
                tokio::time::sleep(Duration::from_millis(500)).await;
                done
            }
            Mood::Hangs => {
                let _ = act(&mut self.kept());
                pending().await
            }
        }
    }
}

impl Kept {
    fn counts(&mut self, channel: &str) -> Counts {
        let members = self.members.get(channel);
        let clients = members.map_or(0, BTreeMap::len) as u64;
        let crowded = self.crowded.entry(channel.to_owned()).or_default();
        let before = *crowded;
        *crowded = clients > self.crowd.above || before && clients >= self.crowd.below;
        let ended = before && !*crowded;
        let users: std::collections::BTreeSet<_> =
            members.into_iter().flat_map(|all| all.values().map(|it| Arc::clone(&it.info.user))).collect();
        Counts { clients, users: users.len() as u64, crowded: *crowded, ended }
    }

    fn has_user(&self, channel: &str, user: &str) -> bool {
        self.members.get(channel).is_some_and(|all| all.values().any(|it| &*it.info.user == user))
    }

    fn apply(&mut self, channel: &str, change: &MemberChange) -> Outcome {
        match change {
            MemberChange::Enter(member) => {
                let all = self.members.entry(channel.to_owned()).or_default();
                let new = all.insert(member.info.client.to_string(), Arc::clone(member)).is_none();
                let first_of_user = all.values().filter(|it| it.info.user == member.info.user).count() == 1;
                Outcome::Entered(Entered { first_of_user, new })
            }
            MemberChange::Exit { client, user } => {
                let gone = self.members.get_mut(channel).is_some_and(|all| all.remove(&**client).is_some());
                Outcome::Exited(Exited { gone, last_of_user: !self.has_user(channel, user) })
            }
        }
    }

    /// The contract: one call for a channel at a time, tickets that grow, only while alive.
    fn once(&mut self, channel: &str, ticket: u64) -> Result<Option<Known>, BusError> {
        self.calls += 1;
        if !self.life || self.lost == Some(true) {
            return Err(error());
        }
        match self.answers.get(channel) {
            Some((known, changed, occupied)) if *known == ticket => Ok(Some((changed.clone(), *occupied))),
            Some((known, ..)) => {
                assert!(*known < ticket, "tickets grow");
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

impl Presence for Fake {
    fn begin(&self) {
        let mut kept = self.kept();
        kept.life = false;
    }

    /// Said again after its answer was lost, it answers the same.
    async fn renew(&self) -> Result<Life, BusError> {
        self.behave(|kept| {
            kept.renewals += 1;
            if kept.mood != Mood::Well {
                return Err(error());
            }
            if !kept.life || kept.lost.is_some() {
                kept.life = true;
                kept.answers.clear();
                return Ok(Life::Anew { told: kept.lost.take().unwrap_or(true) });
            }
            Ok(Life::Same)
        })
        .await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn resign(&self, hold: Duration) -> Result<(), BusError> {
        self.behave(|kept| {
            kept.resigned = Some((kept.words.len(), hold));
            Ok(())
        })
        .await
    }

    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        let channel = channel.as_str();
        let _alone = Alone::new(self, channel);
        self.behave(|kept| {
            if let Some((changed, _)) = kept.once(channel, ticket)? {
                return changed.ok_or_else(error);
            }
            let outcomes = changes.iter().map(|change| kept.apply(channel, change)).collect();
            let changed = Changed { outcomes, counts: kept.counts(channel) };
            kept.answers.insert(channel.to_owned(), (ticket, Some(changed.clone()), None));
            Ok(changed)
        })
        .await
    }

    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        let channel = channel.as_str();
        let _alone = Alone::new(self, channel);
        self.behave(|kept| {
            if let Some((_, occupied)) = kept.once(channel, ticket)? {
                return occupied.ok_or_else(error);
            }
            let before = kept.occupied.insert(channel.to_owned(), subscribers).unwrap_or(0);
            let occupied = Occupied { before, now: subscribers };
            kept.answers.insert(channel.to_owned(), (ticket, None, Some(occupied)));
            Ok(occupied)
        })
        .await
    }

    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        self.behave(|kept| Ok(kept.counts(channel.as_str()))).await
    }

    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        self.behave(|kept| {
            let counts = kept.counts(channel.as_str());
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            let all = kept.members.get(channel.as_str()).into_iter().flat_map(BTreeMap::values);
            let members: Vec<_> = all.skip(from).take(limit).cloned().collect();
            let end = from + members.len();
            Ok(MemberPage {
                members,
                counts,
                next: (end < usize::try_from(counts.clients).unwrap_or(0)).then_some(end as u64),
            })
        })
        .await
    }

    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        self.behave(|kept| {
            kept.turns += 1;
            let now = Instant::now();
            if kept.turned.get(channel.as_str()).is_some_and(|at| now.saturating_duration_since(*at) < every) {
                return Ok(None);
            }
            kept.turned.insert(channel.as_str().to_owned(), now);
            Ok(Some(kept.occupied.get(channel.as_str()).copied().unwrap_or(0)))
        })
        .await
    }

    async fn channels(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        Err(error())
    }

    async fn bury(&self, _: usize) -> Result<Vec<Buried>, BusError> {
        self.behave(|kept| {
            kept.burials += 1;
            Ok(std::mem::take(&mut kept.graves))
        })
        .await
    }

    async fn close(&self, _: &StreamName, grave: &Grave) -> Result<(), BusError> {
        self.behave(|kept| {
            kept.closed.push(grave.name.to_string());
            let lost = kept.unclosed > 0;
            kept.unclosed = kept.unclosed.saturating_sub(1);
            if lost { Err(error()) } else { Ok(()) }
        })
        .await
    }
}

/// Calls for one channel must not race each other.
struct Alone(Fake, String);

impl Alone {
    fn new(fake: &Fake, channel: &str) -> Self {
        let mut kept = fake.kept();
        assert!(!kept.busy.iter().any(|busy| busy == channel), "two calls at once for {channel}");
        kept.busy.push(channel.to_owned());
        Self(fake.clone(), channel.to_owned())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.kept().busy.retain(|busy| *busy != self.1);
    }
}

impl Bus for Fake {
    async fn append(&self, _: &StreamName, _: &Epoch, _: &[Publication]) -> Result<Appended, BusError> {
        Err(error())
    }
    async fn reset(&self, _: &StreamName, _: &Position) -> Result<(), BusError> {
        Err(error())
    }
    async fn publish(&self, _: &StreamName, _: Message, _: &HistoryLimits) -> Result<Position, BusError> {
        Err(error())
    }
    async fn put(&self, _: &StreamName, _: Offer, _: &Conditions) -> Result<Published, BusError> {
        Err(error())
    }
    async fn pace_user(&self, _: &str, _: UserPace) -> Option<Duration> {
        None
    }
    async fn forget(&self, _: &StreamName) -> Result<(), BusError> {
        Err(error())
    }
    async fn open(&self, _: &StreamName) -> Result<Position, BusError> {
        Err(error())
    }
    async fn positions(&self, _: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        Err(error())
    }
    async fn position(&self, _: &StreamName) -> Result<Option<Position>, BusError> {
        Err(error())
    }
    async fn read(&self, _: &StreamName, _: u64, _: ReadLimit) -> Result<Option<Slice>, BusError> {
        Err(error())
    }
    async fn subscribe(&self, _: &StreamName) -> Result<(), BusError> {
        Err(error())
    }
    async fn unsubscribe(&self, _: &StreamName) -> Result<(), BusError> {
        Err(error())
    }
    async fn whisper(&self, stream: &StreamName, word: Bytes) -> Result<(), BusError> {
        let mood = self.kept().whispers;
        tokio::task::yield_now().await;
        match mood {
            Mood::Well | Mood::Slow => {
                if mood == Mood::Slow {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                let word = Word::decode(&word).expect("a word");
                self.kept().words.push((stream.as_str().to_owned(), word));
                Ok(())
            }
            Mood::Hangs => pending().await,
            _ => Err(error()),
        }
    }
    async fn tell(&self, _: Option<&str>, _: Bytes) -> Result<bool, BusError> {
        Err(error())
    }
    fn node(&self) -> &str {
        "node"
    }
    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        Err(error())
    }
}

pub(super) fn member(client: &str, user: &str) -> Arc<Member> {
    let info = ClientInfo { user: user.into(), client: client.into(), conn_info: None, chan_info: None };
    Arc::new(Member { info, told: true, shown: true })
}

/// An actor over a fake.
pub(super) struct Scene {
    pub(super) fake: Fake,
    pub(super) actor: ActorRef<PresenceMessage>,
    pub(super) slot: Slot<PresenceMessage>,
    pub(super) events: mpsc::Receiver<PresenceEvent>,
    pub(super) metrics: PresenceMetrics,
    pub(super) progress: Progress,
}

impl Scene {
    pub(super) async fn start(fake: Fake) -> Self {
        let (slot, metrics, progress) = (Slot::default(), PresenceMetrics::default(), Progress::default());
        let (sender, events) = mpsc::channel(100_000);
        let args = PresenceArgs {
            store: Arc::new(fake.clone()),
            bus: Arc::new(fake.clone()),
            slot: slot.clone(),
            announce: Arc::new(|| {}),
            counted: Arc::new(|channel| channel.starts_with("counted")),
            heard: Arc::new(|channel| channel.starts_with("room")),
            events: Some(sender),
            limits: PresenceLimits::default(),
            metrics: metrics.clone(),
            progress: progress.clone(),
        };
        let (actor, _) = Actor::spawn(None, PresenceActor::default(), args).await.expect("started");
        Self { fake, actor, slot, events, metrics, progress }
    }

    pub(super) fn tell(&self, message: PresenceMessage) {
        self.slot.cast(message).expect("it lives");
    }

    pub(super) fn enter(&self, channel: &str, client: &str, user: &str) {
        self.tell(PresenceMessage::Enter { channel: channel.into(), shard: 0, member: member(client, user) });
    }

    pub(super) fn exit(&self, channel: &str, client: &str) {
        self.tell(PresenceMessage::Exit { channel: channel.into(), shard: 0, client: client.into() });
    }

    pub(super) fn count(&self, channel: &str, subscribers: u32) {
        self.tell(PresenceMessage::Counts { shard: 0, counts: vec![(channel.into(), subscribers)] });
    }

    pub(super) async fn members(&self, channel: &str) -> Result<MemberPage, PresenceError> {
        let ask = |reply| PresenceMessage::Members { channel: channel.into(), from: 0, limit: 10_000, reply };
        timeout(Duration::from_secs(60), self.slot.call(ask, Duration::from_secs(50)))
            .await
            .expect("asked")
            .expect("it lives")
    }

    /// The clock is the test's: all that is due by then has happened.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(super) fn events(&mut self) -> Vec<PresenceEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.actor.stop(None);
    }
}
