//! Finding the server that has a key, and following the key when it is moved.
//!
//! A server that no longer has a slot says so (MOVED): then who has what is asked anew before the next try, for what
//! is vouched for must agree with where commands go. While a slot is on its way its old owner sends us on for what has
//! gone ahead (ASK), and asks for patience where a stream has gone by halves (TRYAGAIN). So does the next owner where a key is missing,
//! though it may be missing everywhere: a stream that begins, or whose history has ended, or its first publisher's key. When nothing is
//! left at the old place the step is taken at the new one all the same; until then it is waited for, within the time of a command.
//!
//! What the client library awaits takes seven kilobytes, and whatever may wait for it would hold as much, down to the commands of
//! sessions: so here it is put on the heap for as long as it is on its way.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dzvin_actors::platform::ports::BusError;
use fred::{
    error::Error,
    types::{Key, Value},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    Shared, cluster, failed,
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
pub(super) struct Moving;

/// One step on one server.
#[derive(Debug)]
pub(super) enum Command<'a> {
    /// Runs a script.
    Script(&'a Script, Vec<Key>, Vec<Value>),
    /// Says something to whoever listens where the slot is owned now.
    Publish(String, Bytes),
}

impl Command<'_> {
    async fn run(self, link: &Link, at: At) -> Result<Value, Error> {
        match self {
            Self::Script(script, keys, args) if at == At::Owner => link.eval(script, keys, args).await,
            Self::Script(script, keys, args) => link.eval_asking(script, keys, args, at == At::AheadAlone).await,
            Self::Publish(channel, message) => link.publish(channel, message).await,
        }
    }
}

/// Where a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// To who has the slot.
    Owner,
    /// To who is about to get it.
    Ahead,
    /// The same, when nothing of what it asks for is anywhere else.
    AheadAlone,
}

/// Is counted for as long as it lives.
struct Held<'a>(&'a Gauge);

impl<'a> Held<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.dec();
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
    /// Runs what is made for the connection that it goes to, wherever the key is. What `says` something that nothing keeps waits
    /// while a slot has come to another server and not everybody may listen there yet.
    pub(super) async fn run<'a>(
        &self,
        doing: &'static str,
        key: &str,
        says: bool,
        command: impl Fn(&Link) -> Command<'a> + Send + Sync,
    ) -> Result<Answered, BusError> {
        let (slot, begun) = (slot(key), Instant::now());
        let settled_by = begun + cluster::longest_settling(self.config.heartbeat);
        let mut until = begun + self.config.command_timeout;
        let (mut ahead, mut tries): (Option<(Arc<Shard>, At)>, usize) = (None, 0);
        while tries < MAX_TRIES {
            if says && ahead.is_none() && self.settled(doing, slot, settled_by).await? {
                until = Instant::now() + self.config.command_timeout;
            }
            let (shard, at) = match ahead.take().or_else(|| Some((self.routes().of(slot).cloned()?, At::Owner))) {
                Some(place) => place,
                None if !self.is_cluster() => return Err(failed(doing)(NotConnected)),
                None => {
                    tries += 1;
                    self.looked_again(doing, until).await?;
                    continue;
                }
            };
            let link = self.linked(doing, &shard, tries > 0 || at != At::Owner, until).await?;
            let error = match Box::pin(command(&link).run(&link, at)).await {
                Ok(value) => return Ok(Answered { value, ahead: at != At::Owner }),
                Err(error) => error,
            };
            if !self.is_cluster() {
                return Err(failed(doing)(error));
            }
            match error.details().split(' ').collect::<Vec<_>>()[..] {
                ["MOVED", ..] => {
                    tries += 1;
                    self.looked_again(doing, until).await?;
                }
                // Not one of the tries: it leads to an answer there, or back here after a pause.
                ["ASK", _, address, ..] => {
                    ahead = self.routes().at(address).cloned().map(|shard| (shard, At::Ahead));
                    if ahead.is_none() {
                        self.looked_again(doing, until).await?;
                    }
                }
                // What the next owner lacks may be missing everywhere, as of a stream that begins: then it need not be waited for.
                ["TRYAGAIN", ..] if at == At::Ahead && self.is_given_away(slot, command(&link)).await => {
                    ahead = Some((shard, At::AheadAlone));
                }
                ["TRYAGAIN", ..] if Instant::now() + PAUSE < until => sleep(PAUSE).await,
                ["TRYAGAIN", ..] => return Err(failed(doing)(Moving)),
                _ => return Err(failed(doing)(error)),
            }
        }
        Err(failed(doing)(Moving))
    }

    /// Says something that nothing keeps to whoever listens on a channel; answers how many did, where it was said.
    pub(super) async fn say(&self, doing: &'static str, channel: &str, message: Bytes) -> Result<u64, BusError> {
        let said = |_: &Link| Command::Publish(channel.to_owned(), message.clone());
        let answer = self.run(doing, channel, true, said).await?;
        Ok(answer.value.as_u64().unwrap_or_default())
    }

    /// Returns when everybody has had the time to listen where the slot is now; whether that had to be waited for. Refuses what will
    /// not come to that in time, or for which there is no room.
    async fn settled(&self, doing: &'static str, slot: u16, by: Instant) -> Result<bool, BusError> {
        let Some(mut until) = self.routes().settles(slot) else { return Ok(false) };
        let room = self.waiting.try_acquire();
        let _held = Held::new(&self.metrics.words_held);
        while room.is_ok() && until <= by {
            sleep_until(until).await;
            // It may have gone on meanwhile.
            match self.routes().settles(slot) {
                Some(later) => until = later,
                None => return Ok(true),
            }
        }
        self.metrics.words_refused.inc();
        Err(failed(doing)(Moving))
    }

    /// Whether nothing of what a command is about is with the owner of the slot any more.
    async fn is_given_away(&self, slot: u16, command: Command<'_>) -> bool {
        let Command::Script(_, keys, _) = command else { return false };
        let Some(owner) = self.routes().of(slot).and_then(|owner| owner.link()) else { return false };
        Box::pin(owner.has_given_away(&keys)).await
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
            match Box::pin(link.subscribe(channel.to_owned())).await {
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            RedisConfig,
            shard::{Routes, Site},
        },
        *,
    };

    /// All slots have come to another server, and settle by that moment.
    fn moved(by: Instant) -> Routes {
        let mut routes = Routes::one(Shard::new(Site::Watched, Vec::new()));
        routes.settle(&Routes::one(Shard::new(Site::Watched, Vec::new())), by);
        routes
    }

    #[tokio::test]
    async fn what_goes_on_is_waited_for_so_long_and_no_longer() {
        const STEP: Duration = Duration::from_millis(50);
        let shared = Shared::new(RedisConfig::new("redis-cluster://h", "dz").expect("a url"));
        let refused = || shared.metrics.words_refused.get();
        let begun = Instant::now();
        assert!(!shared.settled("say", 7, begun).await.expect("nothing has moved"));
        // It goes on once while it is waited for, and has come to rest in time.
        shared.set_routes(moved(begun + STEP));
        let by = begun + 4 * STEP;
        let (settled, ()) = tokio::join!(shared.settled("say", 7, by), async {
            sleep(STEP / 2).await;
            shared.set_routes(moved(begun + 2 * STEP));
        });
        assert!(settled.expect("it has settled") && begun.elapsed() >= 2 * STEP);
        assert_eq!(refused(), 0);
        // It goes on for ever.
        let begun = Instant::now();
        let by = begun + 4 * STEP;
        shared.set_routes(moved(begun + STEP));
        let goes_on = async {
            loop {
                sleep(STEP / 2).await;
                shared.set_routes(moved(Instant::now() + STEP));
            }
        };
        tokio::select! {
            settled = shared.settled("say", 7, by) => drop(settled.expect_err("it never settles")),
            () = goes_on => {}
            () = sleep(20 * STEP) => panic!("it is waited for without an end"),
        }
        assert!(begun.elapsed() >= STEP);
        assert_eq!((refused(), shared.metrics.words_held.get()), (1, 0));
    }
}
