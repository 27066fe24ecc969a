//! One life of the connection to a server.
//!
//! Two sockets, so that events do not wait behind a recovery's megabyte. The client library's own reconnection is not
//! used: it retries resubscription once at most, holds commands while it waits, and never gives up a socket that
//! stopped taking bytes. Here a life ends when a socket ends or a heartbeat fails, and everything is made anew. For the
//! same reason it is told of one server at a time, of a cluster too.

use std::{
    collections::HashSet,
    future::poll_fn,
    pin::pin,
    sync::{Mutex, PoisonError},
    task::Poll,
};

use bytes::Bytes;
use dzvin_protocols::channels::Epoch;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface, KeysInterface, PubsubInterface},
    types::{ConnectHandle, CustomCommand, InfoKind, Key, Message, Value, config::ServerConfig},
};
use futures_util::future::join_all;
use tokio::sync::broadcast;

use super::{
    super::new_epoch,
    config::{Deployment, RedisConfig},
    script::{Script, command},
};

/// Digits of the replication id at the beginning of an epoch; the scripts compare as many.
const PRIMARY_DIGITS: usize = 8;

/// Channels that are asked for at once when many are: far below what the client may have in flight.
const SUBSCRIBE_CHUNK: usize = 512;

const CLUSTER: CustomCommand = command("CLUSTER");
const CLIENT: CustomCommand = command("CLIENT");

/// A connection that was good when it was made.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) commands: Client,
    /// Names the primary: the beginning of every epoch that this life of it began. After a failover it is another.
    pub(super) primary: String,
    subscriber: Client,
    /// The server is of a cluster: what is published goes to its own subscribers alone.
    sharded: bool,
    taken: Mutex<Taken>,
}

/// Channels that a server of a cluster has taken, as far as we know: it ends subscriptions when their slot is set anew, and
/// the library keeps that to itself.
#[derive(Debug, Default)]
struct Taken {
    channels: HashSet<String>,
    /// Grows with every change.
    changes: u64,
    /// Asked for and not answered.
    pending: usize,
}

/// The task that drives a socket; it ends with this.
pub(super) struct Socket(ConnectHandle);

impl Socket {
    pub(super) async fn connect(client: &Client) -> Result<Self, Error> {
        let mut ready = pin!(client.wait_for_connect());
        // Polled once before the task starts: its answer cannot come before we listen.
        let early = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
        // Owned from here on: if connecting is given up, no task stays behind.
        let socket = Self(client.connect());
        if early.is_pending() {
            ready.await?;
        }
        Ok(socket)
    }

    pub(super) async fn ended(&mut self) -> Error {
        match (&mut self.0).await {
            Ok(Err(error)) => error,
            _ => Error::new(ErrorKind::IO, "the connection ended"),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A question for a channel is on its way for as long as this lives.
struct Pending<'a>(&'a Link);

impl<'a> Pending<'a> {
    fn new(link: &'a Link) -> Self {
        link.taken(|taken| taken.pending += 1);
        Self(link)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.taken(|taken| taken.pending -= 1);
    }
}

impl Link {
    pub(super) async fn open(config: &RedisConfig, server: ServerConfig) -> Result<(Self, [Socket; 2]), Error> {
        let sharded = matches!(config.deployment, Deployment::Cluster(_));
        let builder = config.builder(server);
        let (commands, subscriber) = (builder.build()?, builder.build()?);
        let sockets = tokio::try_join!(Socket::connect(&commands), Socket::connect(&subscriber))?;
        let primary = primary(&commands).await?;
        Ok((Self { commands, primary, subscriber, sharded, taken: Mutex::default() }, sockets.into()))
    }

    /// A name for a new life of an application's stream on this primary.
    pub(super) fn new_epoch(&self) -> Epoch {
        Epoch::new(&format!("{}{}", self.primary, new_epoch().as_str()))
    }

    pub(super) async fn eval(&self, script: &Script, keys: Vec<Key>, args: Vec<Value>) -> Result<Value, Error> {
        script.run(&self.commands, self.sharded, keys, args).await
    }

    /// The same on a server that is about to get the slot and has the keys already; all that there are, when it is told of one `alone`.
    pub(super) async fn eval_asking(
        &self,
        script: &Script,
        keys: Vec<Key>,
        args: Vec<Value>,
        alone: bool,
    ) -> Result<Value, Error> {
        script.run_asking(&self.commands, self.sharded, keys, args, alone).await
    }

    /// Whether the server, which is giving their slot away, has none of these keys any more. It makes no new ones then, so what it
    /// lacks is at the new place or nowhere.
    pub(super) async fn has_given_away(&self, keys: &[Key]) -> bool {
        for key in keys {
            match self.commands.exists::<i64, _>(key.clone()).await {
                Err(error) if error.details().starts_with("ASK ") => {}
                _ => return false,
            }
        }
        true
    }

    pub(super) async fn publish(&self, channel: String, message: Bytes) -> Result<Value, Error> {
        let message = Value::Bytes(message);
        if self.sharded {
            self.commands.spublish(channel, message).await
        } else {
            self.commands.publish(channel, message).await
        }
    }

    /// What the server knows of its cluster.
    pub(super) async fn cluster_nodes(&self) -> Result<String, Error> {
        cluster_nodes(&self.commands).await
    }

    /// Messages of the channels that are asked for from here on.
    pub(super) fn messages(&self) -> broadcast::Receiver<Message> {
        self.subscriber.message_rx()
    }

    /// Returns when the server has taken it.
    pub(super) async fn subscribe(&self, channel: String) -> Result<(), Error> {
        if self.sharded {
            return self.take(&channel).await;
        }
        // The library answers as soon as it is written, so a ping follows on the same socket.
        self.subscriber.subscribe(channel).await?;
        self.subscriber.ping(None).await
    }

    /// All of them, but for those that the server refused because they are another's: these it answers.
    pub(super) async fn subscribe_own(&self, channels: &[String]) -> Result<Vec<String>, Error> {
        let mut refused = Vec::new();
        for chunk in channels.chunks(SUBSCRIBE_CHUNK) {
            if !self.sharded {
                self.subscriber.subscribe(chunk.to_vec()).await?;
                self.subscriber.ping::<()>(None).await?;
                continue;
            }
            // One command for each: the server answers each channel, and the library takes the first for the whole answer.
            let answers = join_all(chunk.iter().map(|channel| self.take(channel))).await;
            for (channel, answer) in chunk.iter().zip(answers) {
                match answer {
                    Ok(()) => {}
                    Err(error) if error.is_moved() => refused.push(channel.clone()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(refused)
    }

    pub(super) async fn unsubscribe(&self, channel: String) -> Result<(), Error> {
        if self.sharded {
            self.taken(|taken| taken.channels.remove(&channel));
            self.subscriber.sunsubscribe(channel).await
        } else {
            self.subscriber.unsubscribe(channel).await
        }
    }

    async fn take(&self, channel: &str) -> Result<(), Error> {
        let _pending = Pending::new(self);
        self.subscriber.ssubscribe(channel).await?;
        self.taken(|taken| taken.channels.insert(channel.to_owned()));
        Ok(())
    }

    fn taken<T>(&self, change: impl FnOnce(&mut Taken) -> T) -> T {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.changes += 1;
        change(&mut taken)
    }

    /// Whether the server still has all the subscriptions that it has taken, of those that are for it to have. After `false` none
    /// counts as taken.
    pub(super) async fn is_heard(&self, is_its: impl Fn(&str) -> bool) -> Result<bool, Error> {
        if !self.sharded {
            return Ok(true);
        }
        let (before, expected) = self.taken(|taken| {
            taken.channels.retain(|channel| is_its(channel));
            (taken.changes, taken.channels.len())
        });
        let info: String = self.subscriber.custom(CLIENT, vec!["INFO"]).await?;
        let count = info.split(' ').find_map(|field| field.strip_prefix("ssub=")?.trim().parse::<usize>().ok());
        // The first servers of version 7 do not count them.
        let Some(count) = count else { return Ok(true) };
        Ok(self.taken(|taken| {
            let disturbed = taken.changes != before + 1 || taken.pending > 0;
            if count == expected || disturbed {
                return true;
            }
            taken.channels.clear();
            false
        }))
    }

    pub(super) async fn ping(&self) -> Result<(), Error> {
        tokio::try_join!(self.commands.ping::<()>(None), self.subscriber.ping::<()>(None)).map(drop)
    }

    /// Whether the server is still who it was.
    pub(super) async fn check_primary(&self) -> Result<(), Error> {
        // It changes under a living connection when a first replica is attached: nodes must not name it differently.
        if primary(&self.commands).await? == self.primary {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Protocol, "the server has another replication id"))
    }
}

/// What a server that nobody keeps a connection to knows of its cluster.
pub(super) async fn look(config: &RedisConfig, server: ServerConfig) -> Result<String, Error> {
    let client = config.builder(server).build()?;
    let _socket = Socket::connect(&client).await?;
    cluster_nodes(&client).await
}

async fn cluster_nodes(client: &Client) -> Result<String, Error> {
    client.custom(CLUSTER, vec!["NODES"]).await
}

/// The first eight digits of the replication id, which a primary gets anew when it takes over or starts.
async fn primary(client: &Client) -> Result<String, Error> {
    let info: String = client.info(Some(InfoKind::Replication)).await?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    if field("role:") != "master" {
        return Err(Error::new(ErrorKind::Protocol, "the server is a replica"));
    }
    match field("master_replid:").get(..PRIMARY_DIGITS) {
        Some(id) if id.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(id.to_owned()),
        _ => Err(Error::new(ErrorKind::Protocol, "the server names no replication id")),
    }
}
