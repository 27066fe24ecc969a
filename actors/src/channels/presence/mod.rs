//! Presence: who is on which channel, as this node's sessions say, told to the store and to those who listen.
//!
//! Invariants: the store is told of the changes of one channel one call at a time and in order, different channels beside
//! each other; what came of them is said on the channel before the next call. What this node's sessions have entered is known
//! here whatever becomes of the store: while it is away nothing waits but the difference to what it last knew, which no client
//! that comes and goes meanwhile makes greater. What a dead node left is told by whoever removed it.
//!
//! Words are said at least once while the store answers, and where an attempt failed perhaps twice; nothing keeps them for a
//! node that is away. What a burial removed stays in the store until it has been told: if who tells it dies in the middle, or never
//! heard what it removed, another tells all of it.
//!
//! Not here: who may see whom, what a client or a server of the application is sent, the store itself.

mod channel;
mod job;
mod limits;
mod metrics;
mod questions;
mod servers;
mod state;
mod tell;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::mpsc;

use crate::{
    platform::ports::{Buried, Bus, BusError, Counts, Life, Member, MemberPage, Presence},
    supervise::{Progress, Slot},
};

pub use limits::PresenceLimits;
pub use metrics::PresenceMetrics;
pub use questions::{Looked, PresenceError, Roster};
use state::State;

/// What the servers of the application may be told: each edge once over all nodes, by the node that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceEvent {
    /// A channel has its first subscriber.
    Occupied {
        /// The channel.
        channel: Arc<str>,
    },
    /// The last one has left, and none has come for a while.
    Vacated {
        /// The channel.
        channel: Arc<str>,
    },
    /// A channel has so many subscribers; of large ones only now and then.
    Count {
        /// The channel.
        channel: Arc<str>,
        /// On all nodes.
        subscribers: u64,
    },
    /// The first client of a user has come, and its last one had not just left. Told of crowded channels as of others.
    MemberAdded {
        /// The channel.
        channel: Arc<str>,
        /// The user.
        user: Arc<str>,
    },
    /// The last client of a user has left, and none has come for a while. Told of crowded channels as of others.
    MemberRemoved {
        /// The channel.
        channel: Arc<str>,
        /// The user.
        user: Arc<str>,
    },
}

/// What presence is told. A channel's words are said on the stream of its own name: of the application, or of a kind.
#[derive(Debug)]
pub enum PresenceMessage {
    /// A client has joined a channel; said again, others see something else of it.
    Enter {
        /// The channel.
        channel: Arc<str>,
        /// The shard that owns the client.
        shard: usize,
        /// Who.
        member: Arc<Member>,
    },
    /// It has left, or never came to be there.
    Exit {
        /// The channel.
        channel: Arc<str>,
        /// The shard that owns the client.
        shard: usize,
        /// Who.
        client: Arc<str>,
    },
    /// A shard begins a life: everything that it had entered has left.
    Began {
        /// The shard.
        shard: usize,
    },
    /// So many subscribers channels of a shard have now. What is not named is as it was.
    Counts {
        /// The shard.
        shard: usize,
        /// Channels and subscribers; 0 when none is left.
        counts: Vec<(Arc<str>, u32)>,
    },
    /// Who is on a channel; answered after everything that was entered here before.
    Members {
        /// The channel.
        channel: Arc<str>,
        /// Where the last part ended; 0 for the first.
        from: u64,
        /// About how many.
        limit: usize,
        /// The part.
        reply: RpcReplyPort<Result<MemberPage, PresenceError>>,
    },
    /// Which users are on a channel, each once; answered as the above.
    Roster {
        /// The channel.
        channel: Arc<str>,
        /// Most users.
        most: usize,
        /// They.
        reply: RpcReplyPort<Result<Roster, PresenceError>>,
    },
    /// How many are on a channel; answered as the above.
    Stats {
        /// The channel.
        channel: Arc<str>,
        /// The numbers.
        reply: RpcReplyPort<Result<Counts, PresenceError>>,
    },
    /// How many clients are on each of these channels, as the store has it now: not held up by what is still to be entered, and beside
    /// all other questions. For one asker on the node, who waits for the answer.
    Look {
        /// The channels.
        channels: Vec<Arc<str>>,
        /// What was found.
        reply: RpcReplyPort<Result<Looked, PresenceError>>,
    },
    /// Time has gone on.
    Tick,
    /// A call is over; its report lies ready.
    Called,
    /// The store was told that this node lives.
    Renewed(Option<Life>),
    /// A burial is over.
    Buried(Vec<Buried>),
}

/// The actor.
pub struct PresenceActor<P, B>(PhantomData<fn() -> (P, B)>);

impl<P, B> Default for PresenceActor<P, B> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// What presence starts with.
pub struct PresenceArgs<P, B> {
    /// Where it is kept.
    pub store: Arc<P>,
    /// Where words are said.
    pub bus: Arc<B>,
    /// Where the actor is found.
    pub slot: Slot<PresenceMessage>,
    /// Called when a life begins: each shard is to enter again who is on its channels, and to tell their counts.
    pub announce: Arc<dyn Fn() + Send + Sync>,
    /// Channels whose number of subscribers is told to them and to the application.
    pub counted: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Channels of whose members servers of applications are told. When these are others, `announce` is to be called again.
    pub heard: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Who hears the events, if anybody. What does not fit is lost, and counted.
    pub events: Option<mpsc::Sender<PresenceEvent>>,
    /// Times.
    pub limits: PresenceLimits,
    /// What is counted.
    pub metrics: PresenceMetrics,
    /// What it shows its supervisor.
    pub progress: Progress,
}

/// What presence knows.
pub struct PresenceState<P, B>(State<P, B>);

impl<P, B> fmt::Debug for PresenceState<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresenceState")
    }
}

impl<P: Presence, B: Bus> Actor for PresenceActor<P, B> {
    type Msg = PresenceMessage;
    type State = PresenceState<P, B>;
    type Arguments = PresenceArgs<P, B>;

    async fn pre_start(
        &self,
        myself: ActorRef<PresenceMessage>,
        args: PresenceArgs<P, B>,
    ) -> Result<Self::State, ActorProcessingErr> {
        // What a life of this actor before this one entered, and nobody enters again, is buried when its lease ends.
        args.store.begin();
        args.slot.fill(myself.clone(), args.progress.clone());
        (args.announce)();
        myself.cast(PresenceMessage::Tick)?;
        Ok(PresenceState(State::new(myself, args)))
    }

    async fn handle(
        &self,
        _: ActorRef<PresenceMessage>,
        message: PresenceMessage,
        PresenceState(state): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // These do not come through the slot.
        let own = matches!(
            message,
            PresenceMessage::Tick | PresenceMessage::Called | PresenceMessage::Renewed(_) | PresenceMessage::Buried(_)
        );
        let ticks = matches!(message, PresenceMessage::Tick);
        let _busy = if own { state.progress().work() } else { state.progress().begin() };
        match message {
            PresenceMessage::Enter { channel, shard, member } => state.enter(&channel, shard, member),
            PresenceMessage::Exit { channel, shard, client } => state.exit(&channel, shard, &client),
            PresenceMessage::Began { shard } => state.began(shard),
            PresenceMessage::Counts { shard, counts } => {
                for (channel, subscribers) in counts {
                    state.change(&channel, |known| known.count(shard, subscribers));
                }
            }
            PresenceMessage::Members { channel, from, limit, reply } => {
                state.ask(&channel, questions::Asked::Members { from, limit, reply });
            }
            PresenceMessage::Roster { channel, most, reply } => {
                state.ask(&channel, questions::Asked::Roster { most, reply });
            }
            PresenceMessage::Stats { channel, reply } => state.ask(&channel, questions::Asked::Stats { reply }),
            PresenceMessage::Look { channels, reply } => state.look(channels, reply),
            PresenceMessage::Tick => state.tick(),
            PresenceMessage::Called => state.reports(),
            PresenceMessage::Renewed(life) => state.renewed(life),
            PresenceMessage::Buried(buried) => state.buried(buried),
        }
        state.pump();
        state.wind(ticks);
        Ok(())
    }

    /// The node stops in order: what it has begun it tells, and what is left of it need not wait for its lease.
    async fn post_stop(
        &self,
        _: ActorRef<PresenceMessage>,
        PresenceState(state): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.end().await;
        Ok(())
    }
}

/// An answer of the store that came in time.
fn in_time<T>(answer: Result<Result<T, BusError>, tokio::time::error::Elapsed>) -> Option<T> {
    match answer {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the store of presence failed");
            None
        }
        Err(_) => {
            tracing::debug!("the store of presence did not answer in time");
            None
        }
    }
}

/// A panic of the store's is an answer that did not come.
async fn unpanicked<T>(asking: impl Future<Output = T>) -> Option<T> {
    let asked = AssertUnwindSafe(asking).catch_unwind().await;
    asked.inspect_err(|_| tracing::error!("the store of presence panicked")).ok()
}
