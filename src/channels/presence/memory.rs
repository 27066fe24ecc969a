//! Presence of a single node. Others may stand beside it on the same memory, as the nodes of a cluster do on Redis.
//!
//! Invariant: one lock guards everything and is never held across an await. What is kept is bounded by what nodes entered;
//! answers that may be asked for again are the newest of all, up to a number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dzvin_actors::platform::ports::{
    Buried, BusError, Changed, Counts, Crowd, Entered, Exited, Grave, Life, Member, MemberChange, MemberPage, Occupied,
    Outcome, Presence,
};
use dzvin_protocols::{channels::ONLINE_PREFIX, platform::StreamName};
use tokio::time::Instant;

use super::{BEHIND_ONLINE, Lapsed, Overtaken, PresenceSettings};

/// Answers that are remembered. In memory none is lost but to a caller that gave up waiting.
const MAX_ANSWERS: usize = 4_096;

/// One node's view of presence in memory.
#[derive(Debug)]
pub struct MemoryPresence {
    world: Arc<Mutex<World>>,
    node: u64,
    life: AtomicU64,
    settings: PresenceSettings,
}

/// A node, and which of its lives.
type LifeId = (u64, u64);

#[derive(Debug, Default)]
struct World {
    nodes: u64,
    channels: BTreeMap<StreamName, Seats>,
    lives: BTreeMap<LifeId, Estate>,
    answers: Answers,
    /// What burials removed and nobody has told yet, by number.
    graves: BTreeMap<u64, Buried>,
    dug: u64,
}

/// What a life has entered.
#[derive(Debug)]
struct Estate {
    until: Instant,
    /// Somebody has begun to bury it.
    dead: bool,
    channels: BTreeSet<StreamName>,
}

/// One channel.
#[derive(Debug, Default)]
struct Seats {
    /// In order of arrival: a place to go on from.
    members: BTreeMap<u64, Seat>,
    places: HashMap<Arc<str>, u64>,
    users: HashMap<Arc<str>, u64>,
    subscribers: BTreeMap<LifeId, u64>,
    crowded: bool,
    next: u64,
    /// When somebody may tell the count again.
    turn: Option<Instant>,
}

#[derive(Debug)]
struct Seat {
    member: Arc<Member>,
    life: LifeId,
}

#[derive(Debug, Default)]
struct Answers {
    known: HashMap<(LifeId, StreamName), (u64, Answer)>,
    order: VecDeque<(LifeId, StreamName)>,
}

#[derive(Debug, Clone)]
enum Answer {
    Changed(Changed),
    Occupied(Occupied),
}

impl MemoryPresence {
    /// Nobody is anywhere.
    #[must_use]
    pub fn new(settings: PresenceSettings) -> Self {
        Self { world: Arc::default(), node: 0, life: AtomicU64::new(0), settings }
    }

    /// Another node on the same memory.
    #[must_use]
    pub fn beside(&self, settings: PresenceSettings) -> Self {
        let mut world = self.world();
        world.nodes += 1;
        Self { world: Arc::clone(&self.world), node: world.nodes, life: AtomicU64::new(0), settings }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // Nothing panics while it is held.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> LifeId {
        (self.node, self.life.load(Ordering::Acquire))
    }
}

impl Presence for MemoryPresence {
    fn begin(&self) {
        self.life.fetch_add(1, Ordering::AcqRel);
    }

    async fn renew(&self) -> Result<Life, BusError> {
        let mut world = self.world();
        let until = Instant::now() + self.settings.lease;
        if let Some(estate) = world.lives.get_mut(&self.life())
            && !estate.dead
        {
            estate.until = until;
            return Ok(Life::Same);
        }
        self.begin();
        world.lives.insert(self.life(), Estate { until, dead: false, channels: BTreeSet::new() });
        Ok(Life::Anew { told: true })
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn resign(&self, hold: Duration) -> Result<(), BusError> {
        let life = self.life();
        self.begin();
        if let Some(estate) = self.world().lives.get_mut(&life) {
            estate.until = Instant::now() + hold.min(self.settings.lease);
        }
        Ok(())
    }

    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        let (life, crowd) = (self.life(), self.settings.crowd);
        let answer = self.world().once(life, channel, ticket, |seats| {
            let outcomes = changes.iter().map(|change| seats.change(life, change)).collect();
            Answer::Changed(Changed { outcomes, counts: seats.count(crowd) })
        })?;
        match answer {
            Answer::Changed(changed) => Ok(changed),
            Answer::Occupied(_) => Err(failed(Overtaken)),
        }
    }

    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        let life = self.life();
        let answer = self.world().once(life, channel, ticket, |seats| {
            let before = seats.occupied();
            // What earlier lives of this node said no longer holds.
            seats.subscribers.retain(|(node, at), _| *node != life.0 || *at > life.1);
            if subscribers > 0 {
                seats.subscribers.insert(life, subscribers);
            }
            Answer::Occupied(Occupied { before, now: seats.occupied() })
        })?;
        match answer {
            Answer::Occupied(occupied) => Ok(occupied),
            Answer::Changed(_) => Err(failed(Overtaken)),
        }
    }

    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        Ok(self.world().channels.get(channel).map(Seats::counts).unwrap_or_default())
    }

    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        let world = self.world();
        let Some(seats) = world.channels.get(channel) else { return Ok(MemberPage::default()) };
        let mut rest = seats.members.range(from..);
        let members = rest.by_ref().take(limit.max(1)).map(|(_, seat)| Arc::clone(&seat.member)).collect();
        Ok(MemberPage { members, counts: seats.counts(), next: rest.next().map(|(place, _)| *place) })
    }

    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        let mut world = self.world();
        let Some(seats) = world.channels.get_mut(channel) else { return Ok(None) };
        let now = Instant::now();
        if seats.turn.is_some_and(|turn| turn > now) {
            return Ok(None);
        }
        seats.turn = Some(now + every);
        Ok(Some(seats.occupied()))
    }

    async fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        let world = self.world();
        let from = StreamName::from_checked(after.map_or(prefix, |after| after.max(prefix)));
        let [online, behind] =
            [ONLINE_PREFIX, BEHIND_ONLINE].map(|name| StreamName::from_checked(name).max(from.clone()));
        // Those of users who are watched are passed over, however many they are.
        let named = world.channels.range(from..online).chain(world.channels.range(behind..));
        let named = named.take_while(|(name, _)| name.as_str().starts_with(prefix));
        let named = named.filter(|(name, _)| Some(name.as_str()) != after);
        let occupied = named.map(|(name, seats)| (Arc::from(name.as_str()), seats.occupied()));
        Ok(occupied.filter(|(_, subscribers)| *subscribers > 0).take(limit).collect())
    }

    async fn bury(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        let mut world = self.world();
        let until = Instant::now() + self.settings.telling;
        let mut buried = world.left_untold(until);
        let mut room = limit.max(1);
        while room > 0 {
            let now = Instant::now();
            let Some((&life, estate)) = world.lives.iter_mut().find(|(_, estate)| estate.until <= now) else { break };
            estate.dead = true;
            let Some(channel) = estate.channels.first().cloned() else {
                world.lives.remove(&life);
                continue;
            };
            let grave = world.empty(life, channel, room, self.settings.crowd, until);
            room -= (grave.left.len() + 1).min(room);
            if !grave.left.is_empty() || grave.occupied.before != grave.occupied.now {
                let number = world.dug;
                world.graves.insert(number, grave.clone());
                buried.push(grave);
            }
        }
        Ok(buried)
    }

    async fn close(&self, _: &StreamName, grave: &Grave) -> Result<(), BusError> {
        if let Ok(number) = grave.name.parse() {
            self.world().graves.remove(&number);
        }
        Ok(())
    }
}

impl World {
    /// Does what has not been done under this ticket; answers what was answered then.
    fn once(
        &mut self,
        life: LifeId,
        channel: &StreamName,
        ticket: u64,
        act: impl FnOnce(&mut Seats) -> Answer,
    ) -> Result<Answer, BusError> {
        match self.answers.known.get(&(life, channel.clone())) {
            Some((known, answer)) if *known == ticket => return Ok(answer.clone()),
            Some((known, _)) if *known > ticket => return Err(failed(Overtaken)),
            _ => {}
        }
        let estate = self.lives.get_mut(&life).filter(|estate| !estate.dead).ok_or_else(|| failed(Lapsed))?;
        let seats = self.channels.entry(channel.clone()).or_default();
        let answer = act(seats);
        if seats.has(life) {
            estate.channels.insert(channel.clone());
        } else {
            estate.channels.remove(channel);
        }
        if seats.is_empty() {
            self.channels.remove(channel);
        }
        self.answers.keep((life, channel.clone()), ticket, answer.clone());
        Ok(answer)
    }

    /// What was not told in its time, without those who came back meanwhile; it is the caller's until then.
    fn left_untold(&mut self, until: Instant) -> Vec<Buried> {
        let (now, channels) = (Instant::now(), &self.channels);
        let late = self.graves.values_mut().filter(|buried| buried.grave.until <= now);
        let again = late.map(|buried| {
            buried.grave.until = until;
            let mut again = buried.clone();
            let nobody = Seats::default();
            let seats = channels.get(&buried.channel).unwrap_or(&nobody);
            again.left.retain(|(member, _)| !seats.places.contains_key(&member.info.client));
            for (member, last) in &mut again.left {
                *last &= !seats.users.contains_key(&member.info.user);
            }
            // What others have made of the subscribers since they have told.
            let (known, subscribers) = (buried.occupied, seats.occupied());
            let ours = known.before != known.now && (subscribers > 0 || known.now == 0);
            again.occupied = Occupied { before: if ours { known.before } else { subscribers }, now: subscribers };
            again.counts = Counts { ended: buried.counts.ended, ..seats.counts() };
            again
        });
        again.collect()
    }

    /// Removes a part of what a dead life left on a channel.
    fn empty(&mut self, life: LifeId, channel: StreamName, room: usize, crowd: Crowd, until: Instant) -> Buried {
        let seats = self.channels.entry(channel.clone()).or_default();
        let theirs = seats.members.values().filter(|seat| seat.life == life).take(room);
        let dead: Vec<_> = theirs.map(|seat| Arc::clone(&seat.member)).collect();
        let left = dead.into_iter().map(|member| {
            let exited = seats.exit(&member.info.client, &member.info.user);
            (member, exited.last_of_user)
        });
        let left = left.collect();
        let before = seats.occupied();
        if !seats.members.values().any(|seat| seat.life == life) {
            seats.subscribers.remove(&life);
        }
        let (counts, occupied) = (seats.count(crowd), Occupied { before, now: seats.occupied() });
        let (has, empty) = (seats.has(life), seats.is_empty());
        self.dug += 1;
        let name = self.dug.to_string().into();
        let grave =
            Buried { channel, left, counts, occupied, grave: Grave { life: "".into(), name, until, more: has } };
        if !has && let Some(estate) = self.lives.get_mut(&life) {
            estate.channels.remove(&grave.channel);
        }
        if empty {
            self.channels.remove(&grave.channel);
        }
        grave
    }
}

impl Seats {
    fn change(&mut self, life: LifeId, change: &MemberChange) -> Outcome {
        match change {
            MemberChange::Enter(member) => Outcome::Entered(self.enter(life, member)),
            MemberChange::Exit { client, user } => Outcome::Exited(self.exit(client, user)),
        }
    }

    fn enter(&mut self, life: LifeId, member: &Arc<Member>) -> Entered {
        let seat = Seat { member: Arc::clone(member), life };
        if let Some(known) = self.places.get(&member.info.client).and_then(|place| self.members.get_mut(place)) {
            *known = seat;
            return Entered { first_of_user: self.users.get(&member.info.user) == Some(&1), new: false };
        }
        self.next += 1;
        self.places.insert(Arc::clone(&member.info.client), self.next);
        self.members.insert(self.next, seat);
        let clients = self.users.entry(Arc::clone(&member.info.user)).or_default();
        *clients += 1;
        Entered { first_of_user: *clients == 1, new: true }
    }

    fn exit(&mut self, client: &str, user: &str) -> Exited {
        let seat = self.places.remove(client).and_then(|place| self.members.remove(&place));
        let user = seat.as_ref().map_or(user, |seat| &seat.member.info.user);
        if seat.is_some()
            && let Some(clients) = self.users.get_mut(user)
        {
            *clients -= 1;
            if *clients == 0 {
                self.users.remove(user);
            }
        }
        Exited { gone: seat.is_some(), last_of_user: !self.users.contains_key(user) }
    }

    /// Judges whether it is crowded.
    fn count(&mut self, crowd: Crowd) -> Counts {
        let (clients, before) = (self.members.len() as u64, self.crowded);
        self.crowded = clients > crowd.above || before && clients >= crowd.below;
        Counts { ended: before && !self.crowded, ..self.counts() }
    }

    fn counts(&self) -> Counts {
        Counts {
            clients: self.members.len() as u64,
            users: self.users.len() as u64,
            crowded: self.crowded,
            ended: false,
        }
    }

    fn occupied(&self) -> u64 {
        self.subscribers.values().sum()
    }

    fn has(&self, life: LifeId) -> bool {
        self.subscribers.contains_key(&life) || self.members.values().any(|seat| seat.life == life)
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.subscribers.is_empty()
    }
}

impl Answers {
    fn keep(&mut self, whose: (LifeId, StreamName), ticket: u64, answer: Answer) {
        if self.known.insert(whose.clone(), (ticket, answer)).is_some() {
            return;
        }
        self.order.push_back(whose);
        if self.order.len() > MAX_ANSWERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError { doing: "presence", source: Box::new(source) }
}
