//! What a shard is told.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::channels::{ConnectionInfo, Control, Whose};
use ractor::RpcReplyPort;

use crate::{
    channels::session::{ClientId, Incoming, Seat, Session, SessionId},
    platform::ports::Member,
};

/// A session as others carry it.
#[derive(Debug, Clone)]
pub struct Joining(pub(super) Arc<Session>);

impl From<Arc<Session>> for Joining {
    fn from(session: Arc<Session>) -> Self {
        Self(session)
    }
}

/// What a shard is told.
#[derive(Debug)]
pub enum ShardMessage {
    /// A new connection.
    Accept(Incoming),
    /// A session wants a channel.
    Join {
        /// The channel.
        channel: Arc<str>,
        /// The session.
        session: Joining,
        /// Answered once every later delivery will be offered.
        reply: RpcReplyPort<()>,
    },
    /// A session that has the channel hears all that is said there: others may see it from now on.
    Enter {
        /// The channel.
        channel: Arc<str>,
        /// The session.
        session: Joining,
        /// What they see of it.
        member: Arc<Member>,
        /// Answered once presence will be told before it is asked.
        reply: RpcReplyPort<()>,
    },
    /// A session no longer wants it.
    Leave(Left, RpcReplyPort<()>),
    /// The user of a session is online. Answered once that is noted.
    Online(Joining, RpcReplyPort<()>),
    /// Batches wait.
    Deliver,
    /// A session has to be looked at by then, earlier than it was armed for.
    Arm(u64, u64),
    /// Time has gone on.
    Tick,
    /// Topics have begun a new life: tell them the channels.
    Announce,
    /// Presence has begun a new life: tell it who is on which channel.
    Present,
    /// A session's task has ended.
    Ended(u64),
    /// Closes every session, spread over the time, with the code that lets clients come back.
    Drain {
        /// The time.
        within: Duration,
        /// Answered with how many were closed.
        reply: RpcReplyPort<usize>,
    },
    /// Says which connections there are, in the order of their clients' ids, at most so many; and whether there are more.
    Survey {
        /// Whose.
        whose: Whose,
        /// Behind this client; absent: from the first on.
        after: Option<ClientId>,
        /// At most so many.
        limit: usize,
        /// The answer.
        reply: RpcReplyPort<(Vec<ConnectionInfo>, bool)>,
    },
    /// Says which users are connected and on which channels somebody is, each once.
    Count(RpcReplyPort<Counted>),
    /// An order that concerns some sessions, perhaps of this shard.
    Control(Arc<Control>),
    /// Until they end, the sessions of now are shown nothing of the hub's own channels.
    Hush,
    /// Closes the sessions of now, spread over the time, with the code that makes clients connect again at once.
    Recall {
        /// The time.
        within: Duration,
    },
}

/// Users, and channels, of one shard.
pub type Counted = (Vec<Arc<str>>, Vec<Arc<str>>);

/// Whose seat is free; the question is answered once nothing more will be offered.
#[derive(Debug)]
pub struct Left {
    pub(in crate::channels) session: SessionId,
    pub(in crate::channels) seat: Seat,
}
