//! Finding the server that has a key, and following the key when it is moved.
//!
//! A server that no longer has a slot says so (MOVED): then who has what is asked anew before the next try, for what
//! is vouched for must agree with where commands go. While a slot is on its way its old owner sends us on for what has
//! gone ahead (ASK), and asks for patience where a stream has gone by halves (TRYAGAIN).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_actors::platform::ports::BusError;
use fred::{
    error::Error,
    types::{Key, Value},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Shared, failed,
    link::Link,
    script::Script,
    shard::{Shard, slot},
};

/// How often one command follows a key: a slot is moved once in a while, and seldom twice.
const MAX_TRIES: usize = 16;
/// How long a stream that has gone by halves is waited for between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// There is no connection now to the server that has it; one is being made.
#[derive(Debug, thiserror::Error)]
#[error("not connected to redis")]
pub(super) struct NotConnected;

/// A key that nobody has, or that was not caught up with.
#[derive(Debug, thiserror::Error)]
#[error("what was asked for is being moved between servers of the redis cluster")]
struct Moving;

/// One step on one server.
#[derive(Debug)]
pub(super) enum Command<'a> {
    /// Runs a script.
    Script(&'a Script, Vec<Key>, Vec<Value>),
    /// Says something to whoever listens where the slot is owned now.
    Publish(String, Bytes),
}

impl Command<'_> {
    async fn run(self, link: &Link, asking: bool) -> Result<Value, Error> {
        match self {
            Self::Script(script, keys, args) if asking => link.eval_asking(script, keys, args).await,
            Self::Script(script, keys, args) => link.eval(script, keys, args).await,
            Self::Publish(channel, message) => link.publish(channel, message).await,
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) value: Value,
    /// The stream has gone ahead of its slot: those who listen do so elsewhere still.
    pub(super) ahead: bool,
}

impl Shared {
    /// Runs what is made for the connection that it goes to, wherever the key is.
    pub(super) async fn run<'a>(
        &self,
        doing: &'static str,
        key: &str,
        command: impl Fn(&Link) -> Command<'a> + Send + Sync,
    ) -> Result<Answered, BusError> {
        let slot = slot(key);
        let until = Instant::now() + self.config.command_timeout;
        let mut ahead: Option<Arc<Shard>> = None;
        for attempt in 0..MAX_TRIES {
            let asking = ahead.is_some();
            let link = match ahead.take().or_else(|| self.routes().of(slot).cloned()) {
                Some(shard) => self.linked(doing, &shard, attempt > 0, until).await?,
                None if !self.is_cluster() => return Err(failed(doing)(NotConnected)),
                None => {
                    self.looked_again(doing, until).await?;
                    continue;
                }
            };
            let error = match command(&link).run(&link, asking).await {
                Ok(value) => return Ok(Answered { value, ahead: asking }),
                Err(error) => error,
            };
            match error.details().split(' ').collect::<Vec<_>>()[..] {
                _ if !self.is_cluster() => return Err(failed(doing)(error)),
                ["MOVED", ..] => self.looked_again(doing, until).await?,
                ["ASK", _, address, ..] => {
                    ahead = self.routes().at(address).cloned();
                    if ahead.is_none() {
                        self.looked_again(doing, until).await?;
                    }
                }
                ["TRYAGAIN", ..] if Instant::now() + PAUSE < until => sleep(PAUSE).await,
                _ => return Err(failed(doing)(error)),
            }
        }
        Err(failed(doing)(Moving))
    }

    /// Asks for a channel's messages wherever its slot is.
    pub(super) async fn listen(&self, doing: &'static str, channel: &str) -> Result<(), BusError> {
        let slot = slot(channel);
        let until = Instant::now() + self.config.command_timeout;
        for attempt in 0..MAX_TRIES {
            let Some(shard) = self.routes().of(slot).cloned() else {
                self.looked_again(doing, until).await?;
                continue;
            };
            let link = self.linked(doing, &shard, attempt > 0, until).await?;
            match link.subscribe(channel.to_owned()).await {
                // Moved between the two: the one before the last may have taken it.
                Ok(()) if self.routes().of(slot).is_some_and(|now| Arc::ptr_eq(now, &shard)) => return Ok(()),
                Ok(()) => {}
                Err(error) if self.is_cluster() && error.is_moved() => self.looked_again(doing, until).await?,
                Err(error) => return Err(failed(doing)(error)),
            }
        }
        Err(failed(doing)(Moving))
    }

    /// The connection to a server. Nothing waits for one that was lost, only for one to a server that has just come into view.
    async fn linked(
        &self,
        doing: &'static str,
        shard: &Shard,
        patient: bool,
        until: Instant,
    ) -> Result<Arc<Link>, BusError> {
        let link = match shard.link() {
            None if patient => timeout_at(until, shard.linked()).await.ok().flatten(),
            link => link,
        };
        link.ok_or_else(|| failed(doing)(NotConnected))
    }

    /// Returns when who has what was asked anew.
    async fn looked_again(&self, doing: &'static str, until: Instant) -> Result<(), BusError> {
        let mut looks = self.looks.subscribe();
        looks.mark_unchanged();
        self.refresh.notify_one();
        match timeout_at(until, looks.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(failed(doing)(Moving)),
        }
    }
}
