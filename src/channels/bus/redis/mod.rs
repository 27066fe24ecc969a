//! The bus over Redis: what every node of a cluster shares.
//!
//! A stream is two keys and a channel under one hash tag, so that a cluster keeps them together:
//! `{prefix:stream}:position` (hash: epoch, top, bytes), `{prefix:stream}:history` (list), `{prefix:stream}:events`.
//! The history is a list and not a Redis stream: offsets have no gaps, so the place of an offset is arithmetic, and
//! popping the oldest hands it back, which keeps the count of bytes exact. Every change is one Lua script, atomic with
//! the event that tells it.
//!
//! Invariants: nothing waits for a lost connection (commands fail at once while there is none, and have a timeout
//! while there is); every interruption after which events may be missing ends with `Lost`.
//!
//! Epochs of application streams begin with eight digits of the primary's replication id: a replica that took over may lack
//! what was published last, so it begins every such stream anew. A stream that was moved to another primary of a cluster
//! goes on: its origin is still among the primaries, and vouches for it.
//!
//! Not here: a client of a cluster. Each server has a link of its own, with a life of its own (`keeper`); `cluster` says which
//! there are, `route` finds the one to ask. With one server, or one behind Sentinel, there is one.

mod cluster;
mod config;
mod keeper;
mod link;
mod nodes;
mod put;
mod route;
mod script;
mod sentinel;
mod server;
mod shard;
mod shared;
mod topology;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use dzvin_actors::platform::ports::{
    Appended, Bus, BusError, BusEvent, Conditions, HistoryLimits, Offer, Published, ReadLimit, Slice, UserPace,
};
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication},
    platform::StreamName,
};
use fred::{
    interfaces::HashesInterface,
    types::{Key, Value},
};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use self::{
    config::Deployment,
    keeper::AbortOnDrop,
    link::Link,
    route::{Command, NotConnected},
    shard::{Routes, Shard, Site, slot},
    shared::Shared,
};
use super::{BusMetrics, check_run, check_told, check_word};

pub use self::config::{RedisConfig, RedisConfigError, word_patience};
pub(in crate::channels) use self::{script::Script, server::Server};

/// A script that counts how often something is done.
macro_rules! counting {
    ($lua:literal) => {
        Script::new(concat!(include_str!("../lua/bucket.lua"), include_str!($lua)))
    };
}

static APPEND: Script = counting!("../lua/append.lua");
static PACE: Script = counting!("../lua/pace.lua");
static READ: Script = Script::new(include_str!("../lua/read.lua"));
static RESET: Script = Script::new(include_str!("../lua/reset.lua"));
static OPEN: Script = Script::new(include_str!("../lua/open.lua"));
static FORGET: Script = Script::new(include_str!("../lua/forget.lua"));

/// Most publications in one script call: far below the 8,000 values that Lua unpacks.
const CHUNK_COUNT: usize = 128;
/// Most bytes in one script call and so in one event, a single greater publication aside: 256 of these, which is what
/// the client buffers for a reader that lags, are 16 MB.
const CHUNK_BYTES: usize = 64 * 1024;
/// Streams that one round trip asks the positions of: a few hundred microseconds of the server's time.
const POSITIONS: usize = 512;
/// Lua counts in doubles: offsets above this would lose their last digit.
const MAX_OFFSET: u64 = 1 << 53;

/// Streams in one call for positions that are taken over from another primary: what is left has time until the next.
const ADOPTIONS: usize = 256;

/// A bus shared by every node that is given the same Redis and prefix.
#[derive(Debug)]
pub struct RedisBus {
    shared: Arc<Shared>,
    /// Keeps the connection, or all of them.
    _keeper: AbortOnDrop,
}

/// What a script is asked of a stream.
struct Asked<'a> {
    doing: &'static str,
    script: &'static Script,
    stream: &'a StreamName,
    /// Which of its keys it takes.
    keys: &'a [&'a str],
}

/// An offset that Lua cannot count.
#[derive(Debug, thiserror::Error)]
#[error("an offset above 2^53")]
struct OffsetTooLarge;

impl RedisBus {
    /// Starts to connect, and goes on for as long as the bus lives. Needs a runtime. The receiver of `events` may be
    /// slow: what it misses is replaced by `Lost`.
    #[must_use]
    pub fn new(config: RedisConfig, events: mpsc::Sender<BusEvent>) -> Self {
        let site = match &config.deployment {
            Deployment::One(server) => Some(Site::At(server.clone())),
            Deployment::Watched(_) => Some(Site::Watched),
            Deployment::Cluster(_) => None,
        };
        let shared = Arc::new(Shared::new(config));
        let keeper = match site.map(|site| Shard::new(site, Vec::new())) {
            Some(shard) => {
                shared.set_routes(Routes::one(Arc::clone(&shard)));
                tokio::spawn(keeper::keep(Arc::clone(&shared), shard, events))
            }
            None => tokio::spawn(cluster::follow(Arc::clone(&shared), events)),
        };
        Self { shared, _keeper: AbortOnDrop(keeper) }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &BusMetrics {
        &self.shared.metrics
    }

    /// True while commands can be sent, to one server of a cluster at least.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.routes().shards.iter().any(|shard| shard.is_linked())
    }

    /// Returns once everything can be asked for: a cluster when every slot has a primary and every primary a connection. The
    /// caller sets the time limit.
    pub async fn connected(&self) {
        let mut changes = self.shared.changes.subscribe();
        while !self.shared.routes().whole() {
            // The sender lives as long as we do: the wait cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// How it was configured; it names keys.
    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.shared.config
    }

    /// Runs a script on a stream, with what is made for the connection that it goes to.
    async fn on(
        &self,
        doing: &'static str,
        script: &'static Script,
        stream: &StreamName,
        args: impl Fn(&Link) -> Vec<Value> + Send + Sync,
    ) -> Result<Value, BusError> {
        self.on_keys(Asked { doing, script, stream, keys: &["position", "history"] }, args).await
    }

    /// The same with some of the stream's keys.
    async fn on_keys(
        &self,
        asked: Asked<'_>,
        args: impl Fn(&Link) -> Vec<Value> + Send + Sync,
    ) -> Result<Value, BusError> {
        let Asked { doing, script, stream, keys } = asked;
        let keys = self.keys(stream, keys);
        let command = |link: &Link| Command::Script(script, keys.clone(), args(link));
        let answer = self.shared.run(doing, &self.shared.config.tag(stream), false, command).await?;
        if answer.ahead {
            // The event was told where the slot is going to be; who listens does so where it still is.
            let channel = self.shared.config.channel(stream);
            let check = |_: &Link| Command::Publish(channel.clone(), wire::check());
            let _ = self.shared.run(doing, &channel, false, check).await;
        }
        Ok(answer.value)
    }

    /// Some of a stream's keys.
    fn keys(&self, stream: &StreamName, which: &[&str]) -> Vec<Key> {
        let tag = self.shared.config.tag(stream);
        which.iter().map(|key| format!("{tag}:{key}").into()).collect()
    }

    /// The positions of streams that one server has, in their order.
    async fn positions_at(&self, link: &Link, streams: &[&StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let vouched = self.shared.routes().vouched();
        let mut all = Vec::with_capacity(streams.len());
        let mut adoptions = ADOPTIONS;
        for chunk in streams.chunks(POSITIONS) {
            let pipeline = link.commands.pipeline();
            for stream in chunk {
                let key = format!("{}:position", self.shared.config.tag(stream));
                pipeline.hmget::<(), _, _>(key, vec!["epoch", "top", "keeper"]).await.map_err(failed("positions"))?;
            }
            let answers = pipeline.try_all::<Value>().await;
            if answers.len() != chunk.len() {
                let error = answers.into_iter().find_map(Result::err);
                return Err(
                    error.map_or_else(|| failed("positions")(wire::Malformed("positions")), failed("positions"))
                );
            }
            for (stream, answer) in chunk.iter().zip(answers) {
                all.push(match answer {
                    Ok(answer) => match wire::held(answer).map_err(failed("positions"))? {
                        Some(held) if stream.kind().is_some() || held.keeper().starts_with(&link.primary) => {
                            Some(held.position)
                        }
                        // It was moved here: this primary's from now on, whatever becomes of the one before.
                        Some(held) if is_vouched(&vouched, held.keeper()) && adoptions > 0 => {
                            adoptions -= 1;
                            Some(self.open(stream).await?)
                        }
                        Some(held) => is_vouched(&vouched, held.keeper()).then_some(held.position),
                        None => None,
                    },
                    Err(error) if self.shared.is_cluster() && error.is_cluster() => self.position_moved(stream).await?,
                    Err(error) => return Err(failed("positions")(error)),
                });
            }
        }
        Ok(all)
    }

    /// The position of a stream that is not where it was.
    async fn position_moved(&self, stream: &StreamName) -> Result<Option<Position>, BusError> {
        let slice = self.read(stream, MAX_OFFSET, ReadLimit { count: 1, bytes: 0 }).await?;
        Ok(slice.map(|slice| slice.position))
    }
}

/// Whether it begins with one of these ids.
fn is_vouched(vouched: &str, keeper: &str) -> bool {
    vouched.split(' ').any(|id| !id.is_empty() && keeper.starts_with(id))
}

impl Bus for RedisBus {
    /// A long run goes in chunks, each atomic: after an error or a lost race its beginning may be there.
    async fn append(&self, stream: &StreamName, epoch: &Epoch, run: &[Publication]) -> Result<Appended, BusError> {
        check_run(run)?;
        let Some(last) = run.last() else {
            return Ok(match self.position(stream).await? {
                Some(position) if position.epoch == *epoch => Appended::Accepted { top: position.offset },
                position => Appended::Gap { position },
            });
        };
        if last.offset >= MAX_OFFSET {
            return Err(failed("append")(OffsetTooLarge));
        }
        let mut answer = Appended::Gap { position: None };
        let mut rest = run;
        while let [head, ..] = rest {
            let (chunk, count) = wire::chunk(rest, CHUNK_COUNT, CHUNK_BYTES);
            let limits = &self.shared.config.limits;
            let args = |_: &Link| self.run(stream, epoch, head.offset, limits, Vec::new(), &chunk);
            let appended = self.on("append", &APPEND, stream, args).await?;
            answer = wire::appended(appended).map_err(failed("append"))?;
            if !matches!(answer, Appended::Accepted { .. }) {
                break;
            }
            self.shared.metrics.appended.inc_by(count as u64);
            rest = &rest[count..];
        }
        Ok(answer)
    }

    async fn reset(&self, stream: &StreamName, position: &Position) -> Result<(), BusError> {
        if position.offset >= MAX_OFFSET {
            return Err(failed("reset")(OffsetTooLarge));
        }
        let config = &self.shared.config;
        let args = |_: &Link| {
            vec![
                config.channel(stream).into(),
                position.epoch.as_str().into(),
                wire::number(position.offset),
                wire::millis(config.keep_position),
            ]
        };
        self.on("reset", &RESET, stream, args).await.map(drop)
    }

    async fn publish(&self, stream: &StreamName, message: Message, keep: &HistoryLimits) -> Result<Position, BusError> {
        let published = self.put(stream, Offer::Kept(message, *keep), &Conditions::default()).await?;
        published.position().cloned().ok_or_else(|| failed("publish")(wire::Malformed("answer of publish")))
    }

    async fn put(&self, stream: &StreamName, offer: Offer, on: &Conditions) -> Result<Published, BusError> {
        self.put_on(stream, offer, on).await
    }

    async fn pace_user(&self, user: &str, pace: UserPace) -> Option<Duration> {
        self.pace_of(user, pace).await
    }

    async fn forget(&self, stream: &StreamName) -> Result<(), BusError> {
        self.on("forget", &FORGET, stream, |_| Vec::new()).await.map(drop)
    }

    async fn open(&self, stream: &StreamName) -> Result<Position, BusError> {
        let config = &self.shared.config;
        let args = |link: &Link| {
            vec![
                config.channel(stream).into(),
                link.new_epoch().as_str().into(),
                wire::millis(config.keep_position),
                self.shared.routes().vouched().into(),
            ]
        };
        let answer = self.on("open", &OPEN, stream, args).await?;
        let position = wire::position(answer).map_err(failed("open"))?;
        position.ok_or_else(|| failed("open")(wire::Malformed("answer of open")))
    }

    /// Fails as soon as one of the servers that have them cannot be asked; [`Bus::parts`] are those that fail together.
    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let indices = streams.iter().enumerate().map(|(index, stream)| (slot(&self.shared.config.tag(stream)), index));
        let asked = self.shared.routes().by_owner(indices).into_iter().map(|(owner, indices)| async move {
            let link = owner.and_then(|owner| owner.link()).ok_or_else(|| failed("positions")(NotConnected))?;
            let names: Vec<&StreamName> = indices.iter().map(|index| &streams[*index]).collect();
            Ok::<_, BusError>((self.positions_at(&link, &names).await?, indices))
        });
        let mut all = vec![None; streams.len()];
        for (positions, indices) in try_join_all(asked).await? {
            for (index, position) in indices.into_iter().zip(positions) {
                all[index] = position;
            }
        }
        Ok(all)
    }

    async fn position(&self, stream: &StreamName) -> Result<Option<Position>, BusError> {
        Ok(self.positions(std::slice::from_ref(stream)).await?.pop().flatten())
    }

    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        // What an application's stream keeps, its own rules have trimmed.
        let durable = stream.kind().is_some();
        let age = if durable { wire::millis(self.shared.config.limits.age) } else { wire::number(MAX_OFFSET) };
        let args = |link: &Link| {
            let vouched =
                if durable { String::new() } else { format!("{} {}", link.primary, self.shared.routes().vouched()) };
            vec![
                wire::number(after.min(MAX_OFFSET)),
                wire::number(limit.count.max(1) as u64),
                wire::number(limit.bytes as u64),
                age.clone(),
                vouched.into(),
            ]
        };
        let answer = self.on("read", &READ, stream, args).await?;
        wire::slice(answer, after, &self.shared.metrics).map_err(failed("read"))
    }

    fn parts(&self, streams: Vec<StreamName>) -> Vec<Vec<StreamName>> {
        let streams = streams.into_iter().map(|stream| (slot(&self.shared.config.tag(&stream)), stream));
        self.shared.routes().by_owner(streams).into_iter().map(|(_, streams)| streams).collect()
    }

    /// After an error the wish stands: the next connection subscribes, and `Lost` tells when. Calls for one stream must
    /// not race each other.
    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.shared.change_subscribed(|all| all.insert(stream.clone()));
        self.shared.listen("subscribe", &self.shared.config.channel(stream)).await
    }

    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.shared.change_subscribed(|all| all.remove(stream));
        let channel = self.shared.config.channel(stream);
        let link = self.shared.routes().of(slot(&channel)).and_then(|owner| owner.link());
        let link = link.ok_or_else(|| failed("unsubscribe")(NotConnected))?;
        Box::pin(link.unsubscribe(channel)).await.map_err(failed("unsubscribe"))
    }

    async fn whisper(&self, stream: &StreamName, word: Bytes) -> Result<(), BusError> {
        check_word("whisper", &word)?;
        self.shared.say("whisper", &self.shared.config.channel(stream), wire::word(&word)).await.map(drop)
    }

    async fn tell(&self, node: Option<&str>, word: Bytes) -> Result<bool, BusError> {
        check_told(node, &word)?;
        let (channel, message) = (self.shared.config.node_channel(node), wire::word(&word));
        let key = nodes::key(&self.shared.config);
        let mut args = vec![channel.as_str().into(), Value::Bytes(message.clone())];
        args.extend(node.map(Value::from));
        let said = |_: &Link| Command::Script(&nodes::TELL, vec![key.as_str().into()], args.clone());
        let answer = self.shared.run("tell", &key, true, said).await?;
        if answer.ahead {
            // As of a stream: who listens does so where the slot still is, and only who lives does.
            return Ok(self.shared.say("tell", &channel, message).await? > 0 || node.is_none());
        }
        Ok(answer.value.as_u64() == Some(1))
    }

    fn node(&self) -> &str {
        &self.shared.node
    }

    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        let args = vec![wire::number(nodes::MAX_NODES)];
        let answer =
            self.shared.eval("nodes", &nodes::ALIVE, vec![nodes::key(&self.shared.config).into()], args).await?;
        wire::names(answer).map_err(failed("nodes"))
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> BusError {
    move |e| BusError { doing, source: Box::new(e) }
}
