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
//! what was published last, so it begins every such stream anew.
//!
//! Not here: Sentinel, Cluster.

mod config;
mod link;
mod nodes;
mod script;
mod wire;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use dzvin_actors::platform::ports::{Appended, Bus, BusError, BusEvent, HistoryLimits, ReadLimit, Slice};
use dzvin_protocols::{
    channels::{Epoch, Message, Position, Publication},
    platform::{EntityId, StreamName},
};
use fred::{
    interfaces::HashesInterface,
    types::{Key, Value},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::link::Link;
use super::{BusMetrics, Unnamed, check_run, check_word, new_node};

pub use self::config::{RedisConfig, RedisConfigError};
pub(in crate::channels) use self::script::Script;

static APPEND: Script = Script::new(include_str!("../lua/append.lua"));
static READ: Script = Script::new(include_str!("../lua/read.lua"));
static RESET: Script = Script::new(include_str!("../lua/reset.lua"));
static OPEN: Script = Script::new(include_str!("../lua/open.lua"));

/// Most publications in one script call: far below the 8,000 values that Lua unpacks.
const CHUNK_COUNT: usize = 128;
/// Most bytes in one script call and so in one event, a single greater publication aside: 256 of these, which is what
/// the client buffers for a reader that lags, are 16 MB.
const CHUNK_BYTES: usize = 64 * 1024;
/// Streams that one round trip asks the positions of: a few hundred microseconds of the server's time.
const POSITIONS: usize = 512;
/// Lua counts in doubles: offsets above this would lose their last digit.
const MAX_OFFSET: u64 = 1 << 53;

/// A bus shared by every node that is given the same Redis and prefix.
#[derive(Debug)]
pub struct RedisBus {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

/// What the bus shares with the task that keeps its connection.
#[derive(Debug)]
struct Shared {
    config: RedisConfig,
    metrics: BusMetrics,
    /// The connection while there is one.
    link: watch::Sender<Option<Arc<Link>>>,
    /// What this node wants to be told of, whether or not there is a connection.
    subscribed: Mutex<HashSet<StreamName>>,
    /// The name of this node.
    node: Arc<str>,
}

/// There is no connection now; one is being made.
#[derive(Debug, thiserror::Error)]
#[error("not connected to redis")]
struct NotConnected;

/// An offset that Lua cannot count.
#[derive(Debug, thiserror::Error)]
#[error("an offset above 2^53")]
struct OffsetTooLarge;

impl RedisBus {
    /// Starts to connect, and goes on for as long as the bus lives. Needs a runtime. The receiver of `events` may be
    /// slow: what it misses is replaced by `Lost`.
    #[must_use]
    pub fn new(config: RedisConfig, events: mpsc::Sender<BusEvent>) -> Self {
        let shared = Arc::new(Shared {
            config,
            metrics: BusMetrics::default(),
            link: watch::Sender::new(None),
            subscribed: Mutex::default(),
            node: new_node(),
        });
        let keeper = tokio::spawn(link::keep(Arc::clone(&shared), events));
        Self { shared, keeper }
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &BusMetrics {
        &self.shared.metrics
    }

    /// True while commands can be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.link.borrow().is_some()
    }

    /// Returns once there is a connection; the caller sets the time limit.
    pub async fn connected(&self) {
        // The sender lives as long as we do: the wait cannot fail.
        let _ = self.shared.link.subscribe().wait_for(Option::is_some).await;
    }

    fn link(&self, doing: &'static str) -> Result<Arc<Link>, BusError> {
        let link = self.shared.link.borrow().clone();
        link.ok_or_else(|| BusError { doing, source: Box::new(NotConnected) })
    }

    fn keys(&self, stream: &StreamName) -> Vec<Key> {
        let tag = self.shared.config.tag(stream);
        vec![format!("{tag}:position").into(), format!("{tag}:history").into()]
    }

    /// Runs a script. All keys must begin with one tag, of [`RedisConfig::tag`] or [`RedisConfig::nodes_tag`]; a script that
    /// publishes does so to a channel with that tag.
    pub(in crate::channels) async fn eval(
        &self,
        doing: &'static str,
        script: &Script,
        keys: Vec<Key>,
        args: Vec<Value>,
    ) -> Result<Value, BusError> {
        self.link(doing)?.eval(script, keys, args).await.map_err(failed(doing))
    }

    /// How it was configured; it names keys.
    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.shared.config
    }

    async fn append_chunk(
        &self,
        stream: &StreamName,
        epoch: &Epoch,
        first: u64,
        chunk: &[Bytes],
    ) -> Result<Appended, BusError> {
        let args = self.run(stream, epoch, first, &self.shared.config.limits, chunk);
        let answer = self.eval("append", &APPEND, self.keys(stream), args).await?;
        wire::appended(answer).map_err(failed("append"))
    }

    /// The arguments of the script that appends.
    fn run(
        &self,
        stream: &StreamName,
        epoch: &Epoch,
        first: u64,
        keep: &HistoryLimits,
        publications: &[Bytes],
    ) -> Vec<Value> {
        let config = &self.shared.config;
        let head = [
            config.channel(stream).into(),
            epoch.as_str().into(),
            wire::number(first),
            wire::number(keep.count as u64),
            wire::number(keep.bytes as u64),
            wire::millis(keep.age),
            wire::millis(config.keep_position),
        ];
        head.into_iter().chain(publications.iter().cloned().map(Value::Bytes)).collect()
    }

    /// Whether what the server holds of the stream is of its own: an application's stream of another primary counts as unknown.
    fn stands(link: &Link, stream: &StreamName, epoch: &Epoch) -> bool {
        stream.kind().is_some() || epoch.as_str().starts_with(&link.primary)
    }
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
            answer = self.append_chunk(stream, epoch, head.offset, &chunk).await?;
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
        let args = vec![
            config.channel(stream).into(),
            position.epoch.as_str().into(),
            wire::number(position.offset),
            wire::millis(config.keep_position),
        ];
        self.eval("reset", &RESET, self.keys(stream), args).await?;
        Ok(())
    }

    async fn publish(&self, stream: &StreamName, message: Message, keep: &HistoryLimits) -> Result<Position, BusError> {
        let id = EntityId::new(stream.as_str()).map_err(|_| failed("publish")(Unnamed))?;
        let link = self.link("publish")?;
        let args = self.run(stream, &link.new_epoch(), 0, keep, &[wire::headless(message, id)]);
        let answer = link.eval(&APPEND, self.keys(stream), args).await.map_err(failed("publish"))?;
        let position = wire::published(answer).map_err(failed("publish"))?;
        self.shared.metrics.appended.inc();
        Ok(position)
    }

    async fn open(&self, stream: &StreamName) -> Result<Position, BusError> {
        let config = &self.shared.config;
        let link = self.link("open")?;
        let epoch = link.new_epoch();
        let args = vec![config.channel(stream).into(), epoch.as_str().into(), wire::millis(config.keep_position)];
        let answer = link.eval(&OPEN, self.keys(stream), args).await.map_err(failed("open"))?;
        let position = wire::position(answer).map_err(failed("open"))?;
        position.ok_or_else(|| failed("open")(wire::Malformed("answer of open")))
    }

    async fn positions(&self, streams: &[StreamName]) -> Result<Vec<Option<Position>>, BusError> {
        let link = self.link("positions")?;
        let mut all = Vec::with_capacity(streams.len());
        for chunk in streams.chunks(POSITIONS) {
            let pipeline = link.commands.pipeline();
            for stream in chunk {
                let key = format!("{}:position", self.shared.config.tag(stream));
                pipeline.hmget::<(), _, _>(key, vec!["epoch", "top"]).await.map_err(failed("positions"))?;
            }
            let answers: Vec<Value> = pipeline.all().await.map_err(failed("positions"))?;
            for (stream, answer) in chunk.iter().zip(answers) {
                let position = wire::position(answer).map_err(failed("positions"))?;
                all.push(position.filter(|at| Self::stands(&link, stream, &at.epoch)));
            }
        }
        Ok(all)
    }

    async fn position(&self, stream: &StreamName) -> Result<Option<Position>, BusError> {
        Ok(self.positions(std::slice::from_ref(stream)).await?.pop().flatten())
    }

    async fn read(&self, stream: &StreamName, after: u64, limit: ReadLimit) -> Result<Option<Slice>, BusError> {
        let args = vec![
            wire::number(after.min(MAX_OFFSET)),
            wire::number(limit.count.max(1) as u64),
            wire::number(limit.bytes as u64),
            // What an application's stream keeps, its own rules have trimmed.
            if stream.kind().is_some() {
                wire::millis(self.shared.config.limits.age)
            } else {
                wire::number(MAX_OFFSET)
            },
        ];
        let link = self.link("read")?;
        let answer = link.eval(&READ, self.keys(stream), args).await.map_err(failed("read"))?;
        let slice = wire::slice(answer, after, &self.shared.metrics).map_err(failed("read"))?;
        Ok(slice.filter(|slice| Self::stands(&link, stream, &slice.position.epoch)))
    }

    /// After an error the wish stands: the next connection subscribes, and `Lost` tells when. Calls for one stream must
    /// not race each other.
    async fn subscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.shared.change_subscribed(|all| all.insert(stream.clone()));
        let channels = vec![self.shared.config.channel(stream)];
        self.link("subscribe")?.subscribe(channels).await.map_err(failed("subscribe"))
    }

    async fn unsubscribe(&self, stream: &StreamName) -> Result<(), BusError> {
        self.shared.change_subscribed(|all| all.remove(stream));
        let channel = self.shared.config.channel(stream);
        self.link("unsubscribe")?.unsubscribe(channel).await.map_err(failed("unsubscribe"))
    }

    async fn whisper(&self, stream: &StreamName, word: Bytes) -> Result<(), BusError> {
        check_word("whisper", &word)?;
        let channel = self.shared.config.channel(stream);
        self.link("whisper")?.publish(channel, wire::word(&word)).await.map_err(failed("whisper"))
    }

    async fn tell(&self, node: Option<&str>, word: Bytes) -> Result<bool, BusError> {
        check_word("tell", &word)?;
        let channel = self.shared.config.node_channel(node);
        let mut args = vec![channel.into(), Value::Bytes(wire::word(&word))];
        args.extend(node.map(Value::from));
        let heard = self.eval("tell", &nodes::TELL, vec![nodes::key(&self.shared.config)], args).await?;
        Ok(heard.as_u64() == Some(1))
    }

    fn node(&self) -> &str {
        &self.shared.node
    }

    async fn nodes(&self) -> Result<Vec<Arc<str>>, BusError> {
        let args = vec![wire::number(nodes::MAX_NODES)];
        let answer = self.eval("nodes", &nodes::ALIVE, vec![nodes::key(&self.shared.config)], args).await?;
        wire::names(answer).map_err(failed("nodes"))
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    fn subscribed(&self) -> MutexGuard<'_, HashSet<StreamName>> {
        // Nothing panics while it is held.
        self.subscribed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_subscribed(&self, change: impl FnOnce(&mut HashSet<StreamName>) -> bool) {
        let mut all = self.subscribed();
        change(&mut all);
        self.metrics.subscriptions.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> BusError {
    move |e| BusError { doing, source: Box::new(e) }
}
