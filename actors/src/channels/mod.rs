//! Channels on a node: `topics` follows the streams and builds each frame once, shards own the sessions and hand the
//! shared frames to them, a session is one client connection.
//!
//! Invariants: on one session the offsets of a channel go out in order, each once, or the session is told that it must
//! recover; a slow session is closed and slows nobody; nothing here writes to storage.

mod apps;
mod backwards;
mod delivery;
mod handlers;
mod limits;
mod mailbox;
mod metrics;
mod namespaces;
mod notices;
mod outbox;
pub mod presence;
mod reader;
mod roster;
mod session;
mod shard;
mod shards;
mod socket;
mod topics;
mod trace;
mod users;
mod viewer;
mod wheel;
mod wire;

pub use apps::{App, AppObserver, AppRules, Apps, AppsError, MAX_APP_ID, MasterKey, Webhook, outside};
pub use backwards::Backwards;
pub use delivery::{Delivery, Item, Spoken, What};
use handlers::Called;
pub use handlers::{Answered, Handler, Handlers};
pub use limits::Limits;
pub use mailbox::{MAX_POSTED, Mailbox, MailboxError, Mailboxes, Posted};
pub use metrics::Metrics;
pub use namespaces::{Access, ChannelRules, Namespaces, PaceRules, Publisher};
pub use notices::Notices;
pub use reader::{Over, Reader, ReaderArgs, ReaderState};
pub use session::{Admission, ClientId, Hub, Incoming, Permit};
pub use shard::{Counted, Left, Shard, ShardArgs, ShardMessage};
pub use shards::{ShardHandle, Shards};
pub use socket::Socket;
pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
pub use topics::{AttachError, Attached, Conflate, HoldRules, Numbers, Topics, TopicsArgs, TopicsMessage};
pub use trace::{Following, Noted, TraceMetrics, Tracer};
pub use users::Users;
pub use wire::{Alias, Wire};
