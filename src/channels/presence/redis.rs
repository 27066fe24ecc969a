//! Presence over Redis: what every node of a cluster shares.
//!
//! Of a channel, under the tag of its stream: `members` (hash: client to entry), `users` (hash: user to clients), `occupancy`
//! (hash: life to subscribers), `of:{life}` (set: clients that this life entered), `answers` (hash: life to its newest ticket and
//! answer), `grave:{life}` (list: what was removed of a dead life and is still to be told), and the marks `crowd` and `turn`. Of a life of a node: `{prefix:node:LIFE}:channels`, sorted by name, the channels in
//! which it has something. Of all: `{prefix:nodes}:presence`, `:left`, `:dying` and `:buried`, which say how far each life has gone.
//!
//! Invariants: every change of one channel is one script, and so is every edge that somebody hears of; the channels of a life
//! are noted before anything is entered and crossed out after everything has gone, by nobody but that life while it goes
//! on; a life that has lapsed by this node's own clock writes nothing.

mod burial;
mod roll;
mod wire;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dzvin_actors::platform::ports::{
    Buried, BusError, Changed, Counts, Grave, Life, MemberChange, MemberPage, Occupied, Presence,
};
use dzvin_protocols::{channels::ONLINE_PREFIX, platform::StreamName};
use fred::types::{Key, Value};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{
    super::bus::redis::{RedisBus, Script, Server},
    BEHIND_ONLINE, Lapsed, Overtaken, PresenceSettings,
};
use wire::{failed, millis, number};

/// A script that uses what several share.
macro_rules! shared {
    ($lua:literal) => {
        Script::new(concat!(include_str!("lua/shared.lua"), include_str!($lua)))
    };
}

static CHANGE: Script = shared!("lua/change.lua");
static OCCUPY: Script = shared!("lua/occupy.lua");
static OCCUPIED: Script = shared!("lua/occupied.lua");
static MEMBERS: Script = Script::new(include_str!("lua/members.lua"));
static TURN: Script = shared!("lua/turn.lua");
static RENEW: Script = shared!("lua/renew.lua");
static RESIGN: Script = shared!("lua/resign.lua");
static LIVES: Script = Script::new(include_str!("lua/lives.lua"));
static DEAD: Script = shared!("lua/dead.lua");
static BURY: Script = shared!("lua/bury.lua");
static CLOSE: Script = Script::new(include_str!("lua/close.lua"));
static REST: Script = shared!("lua/rest.lua");
static INDEX: Script = Script::new(include_str!("lua/index.lua"));
static ENROL: Script = Script::new(include_str!("lua/enrol.lua"));
static ADOPT: Script = shared!("lua/adopt.lua");

/// How long the answer to the newest ticket is kept: longer than any node that waits for it may live unrenewed.
const KEEP_ANSWERS: Duration = Duration::from_secs(600);
/// How long the buried are remembered, so that one who was cut off learns that its leavings were told.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Members in one call: a millisecond of the server's time.
const PAGE: usize = 512;
/// Names that are looked up in one go while channels are listed.
const NAMES: usize = 128;

/// Presence shared by every node on the same Redis and prefix.
#[derive(Debug)]
pub struct RedisPresence {
    server: Server,
    settings: PresenceSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many lives there have been.
    lives: u64,
    /// The present one, once it has begun.
    life: Option<Current>,
    /// The name of the last one.
    before: Option<Arc<str>>,
    /// A life has begun: what the list of lives has lost is still to be looked for.
    searching: bool,
    /// Graves that were to be dug: their names are this node's alone.
    graves: u64,
}

#[derive(Debug)]
struct Current {
    name: Arc<str>,
    /// When the renewal that last succeeded was asked for.
    renewed: Instant,
    /// The primaries of then: another one may lack what these had.
    primaries: BTreeSet<Arc<str>>,
    /// Channels that are noted as this life's.
    noted: HashSet<StreamName>,
}

/// What a call writes as.
struct Writer {
    life: Arc<str>,
    before: Arc<str>,
    noted: bool,
}

impl RedisPresence {
    /// Presence on the bus's server, over its connection.
    #[must_use]
    pub fn new(bus: &RedisBus, settings: PresenceSettings) -> Self {
        Self { server: bus.server(), settings, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life to write as: one that every other node still takes for alive, with a third of the lease to spare.
    fn writer(&self, channel: &StreamName) -> Result<Writer, BusError> {
        let state = self.state();
        let fresh = |current: &&Current| current.renewed.elapsed() < self.settings.lease * 2 / 3;
        let current = state.life.as_ref().filter(fresh).ok_or_else(|| failed(Lapsed))?;
        let before = state.before.clone().unwrap_or_else(|| "".into());
        Ok(Writer { life: Arc::clone(&current.name), before, noted: current.noted.contains(channel) })
    }

    fn key(&self, channel: &StreamName, name: &str) -> Key {
        format!("{}:{name}", self.server.config().tag(channel)).into()
    }

    fn nodes(&self, name: &str) -> Key {
        format!("{}:{name}", self.server.config().nodes_tag()).into()
    }

    fn index(&self, life: &str) -> Key {
        format!("{{{}:node:{life}}}:channels", self.server.config().prefix).into()
    }

    async fn run(&self, script: &'static Script, keys: Vec<Key>, args: Vec<Value>) -> Result<Value, BusError> {
        self.server.eval("presence", script, keys, args).await
    }

    /// Notes the channel as one in which this life has something, before it has.
    async fn note(&self, writer: &Writer, channel: &StreamName) -> Result<(), BusError> {
        if writer.noted {
            return Ok(());
        }
        self.run(&INDEX, vec![self.index(&writer.life)], vec!["+".into(), channel.as_str().into()]).await?;
        if let Some(current) = self.state().life.as_mut().filter(|current| current.name == writer.life) {
            current.noted.insert(channel.clone());
        }
        Ok(())
    }

    /// Crosses it out, after it has nothing there any more.
    async fn cross_out(&self, writer: &Writer, channel: &StreamName) {
        if let Some(current) = self.state().life.as_mut().filter(|current| current.name == writer.life) {
            current.noted.remove(channel);
        }
        // What stays noted for nothing costs a look when this life is buried.
        let _ = self.cross_out_of(&writer.life, channel.as_str()).await;
    }

    /// A channel in which a life has nothing any more.
    async fn cross_out_of(&self, life: &str, channel: &str) -> Result<(), BusError> {
        self.run(&INDEX, vec![self.index(life)], vec!["-".into(), channel.into()]).await.map(drop)
    }

    async fn occupied(&self, channel: &str) -> Result<u64, BusError> {
        let channel = StreamName::from_checked(channel);
        wire::count(&self.run(&OCCUPIED, vec![self.key(&channel, "occupancy")], Vec::new()).await?)
    }

    /// Names of a life's channels in a range, in order.
    async fn names(&self, life: &str, from: &[u8], to: &[u8], most: usize) -> Result<Vec<String>, BusError> {
        let range = |bytes: &[u8]| Value::Bytes(bytes.to_vec().into());
        let args = vec!["?".into(), range(from), range(to), number(most as u64)];
        wire::names(self.run(&INDEX, vec![self.index(life)], args).await?)
    }

    async fn page(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        let keys = ["members", "users", "crowd"].map(|name| self.key(channel, name)).to_vec();
        // As text: a place to go on from may be any number of 64 bits.
        wire::page(self.run(&MEMBERS, keys, vec![from.to_string().into(), number(limit as u64)]).await?)
    }
}

impl Presence for RedisPresence {
    fn begin(&self) {
        let mut state = self.state();
        if let Some(current) = state.life.take() {
            state.before = Some(current.name);
        }
    }

    async fn renew(&self) -> Result<Life, BusError> {
        let asked = Instant::now();
        let primaries = self.server.primaries();
        let (life, next, begins) = {
            let state = self.state();
            let next: Arc<str> = format!("{}.{}", self.server.node(), state.lives + 1).into();
            let lost = state.life.as_ref().is_some_and(|current| !current.primaries.is_subset(&primaries));
            let life = state.life.as_ref().map(|current| Arc::clone(&current.name));
            (life, next, lost)
        };
        let keys = ["presence", "dying", "buried", "left"].map(|name| self.nodes(name)).to_vec();
        let args = vec![
            life.as_deref().unwrap_or_default().into(),
            next.as_ref().into(),
            millis(self.settings.lease),
            millis(REMEMBERED),
            number(u64::from(begins)),
        ];
        let answer = wire::count(&self.run(&RENEW, keys, args).await?)?;
        if answer != 0 {
            self.enrol(&next).await?;
        }
        let mut state = self.state();
        if answer == 0 {
            // Unless it was ended meanwhile.
            if let Some(current) = state.life.as_mut().filter(|current| Some(&current.name) == life.as_ref()) {
                current.renewed = asked;
                current.primaries = primaries;
            }
            return Ok(Life::Same);
        }
        state.lives += 1;
        state.before = life.or_else(|| state.before.take());
        state.searching = true;
        state.life = Some(Current { name: next, renewed: asked, primaries, noted: HashSet::new() });
        Ok(Life::Anew { told: answer == 2 })
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn resign(&self, hold: Duration) -> Result<(), BusError> {
        let life = self.state().life.take().map(|current| current.name);
        let Some(life) = life else { return Ok(()) };
        self.state().before = Some(Arc::clone(&life));
        let hold = u64::try_from(hold.min(self.settings.lease).as_millis()).unwrap_or(0);
        self.run(&RESIGN, vec![self.nodes("presence")], vec![life.as_ref().into(), number(hold)]).await.map(drop)
    }

    async fn change(&self, channel: &StreamName, ticket: u64, changes: &[MemberChange]) -> Result<Changed, BusError> {
        let writer = self.writer(channel)?;
        self.note(&writer, channel).await?;
        let (mine, before) = (format!("of:{}", writer.life), format!("of:{}", writer.before));
        let keys = ["members", "users", &mine, &before, "answers", "crowd", "occupancy"];
        let keys = keys.map(|name| self.key(channel, name)).to_vec();
        let crowd = self.settings.crowd;
        let mut args = vec![
            writer.life.as_ref().into(),
            number(ticket),
            number(crowd.above),
            number(crowd.below),
            millis(KEEP_ANSWERS),
        ];
        args.extend(changes.iter().flat_map(wire::change));
        let answer = self.run(&CHANGE, keys, args).await?;
        let (changed, left) = wire::changed(changes, answer)?.ok_or_else(|| failed(Overtaken))?;
        if left {
            self.cross_out(&writer, channel).await;
        }
        Ok(changed)
    }

    async fn occupy(&self, channel: &StreamName, ticket: u64, subscribers: u64) -> Result<Occupied, BusError> {
        let writer = self.writer(channel)?;
        self.note(&writer, channel).await?;
        let mine = format!("of:{}", writer.life);
        let keys = ["occupancy", "answers", &mine].map(|name| self.key(channel, name)).to_vec();
        let args = vec![
            writer.life.as_ref().into(),
            writer.before.as_ref().into(),
            number(ticket),
            number(subscribers),
            millis(KEEP_ANSWERS),
        ];
        let answer = wire::occupied(self.run(&OCCUPY, keys, args).await?)?;
        let (occupied, left) = answer.ok_or_else(|| failed(Overtaken))?;
        if left {
            self.cross_out(&writer, channel).await;
        }
        Ok(occupied)
    }

    async fn counts(&self, channel: &StreamName) -> Result<Counts, BusError> {
        Ok(self.page(channel, 0, 0).await?.counts)
    }

    async fn members(&self, channel: &StreamName, from: u64, limit: usize) -> Result<MemberPage, BusError> {
        self.page(channel, from, limit.clamp(1, PAGE)).await
    }

    async fn turn(&self, channel: &StreamName, every: Duration) -> Result<Option<u64>, BusError> {
        let keys = ["turn", "occupancy"].map(|name| self.key(channel, name)).to_vec();
        match self.run(&TURN, keys, vec![millis(every)]).await? {
            Value::Null => Ok(None),
            subscribers => wire::count(&subscribers).map(Some),
        }
    }

    /// Each life's own channels are asked for and merged: only that life writes them, so no race of two nodes can lose one.
    async fn channels(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Arc<str>, u64)>, BusError> {
        let keys = ["presence", "dying", "left"].map(|name| self.nodes(name)).to_vec();
        let lives = wire::names(self.run(&LIVES, keys, Vec::new()).await?)?;
        let mut from = match after {
            Some(after) if after >= prefix => [b"(", after.as_bytes()].concat(),
            _ => [b"[", prefix.as_bytes()].concat(),
        };
        // No byte of a name is 255.
        let to = if prefix.is_empty() { b"+".to_vec() } else { [b"(", prefix.as_bytes(), b"\xff"].concat() };
        let mut found = Vec::new();
        while found.len() < limit {
            let most = (limit - found.len()).min(NAMES);
            let parts = try_join_all(lives.iter().map(|life| self.names(life, &from, &to, most))).await?;
            // Beyond the last name of a part that is full that life may have others.
            let names: BTreeSet<String> = parts.into_iter().flatten().collect();
            let mut names: Vec<String> = names.into_iter().take(most).collect();
            let Some(last) = names.last() else { break };
            // Those of users who are watched are passed over, however many they are.
            from = if last.starts_with(ONLINE_PREFIX) {
                [b"[", BEHIND_ONLINE.as_bytes()].concat()
            } else {
                [b"(", last.as_bytes()].concat()
            };
            names.retain(|name| !name.starts_with(ONLINE_PREFIX));
            let counts = try_join_all(names.iter().map(|name| self.occupied(name))).await?;
            let occupied = names.iter().zip(counts).filter(|(_, subscribers)| *subscribers > 0);
            found.extend(occupied.map(|(name, subscribers)| (Arc::from(name.as_str()), subscribers)));
        }
        Ok(found)
    }

    async fn bury(&self, limit: usize) -> Result<Vec<Buried>, BusError> {
        if std::mem::take(&mut self.state().searching)
            && let Err(error) = self.search().await
        {
            tracing::debug!(%error, "not all lives could be looked for");
            self.state().searching = true;
        }
        self.bury_dead(limit).await
    }

    async fn close(&self, channel: &StreamName, grave: &Grave) -> Result<(), BusError> {
        self.close_grave(channel, grave).await
    }
}
