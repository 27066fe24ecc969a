//! Channels: streams with positions, what is published on them, and the client protocols spoken over them.

pub mod centrifuge;
mod control;
pub mod fossil;
mod names;
mod position;
mod publication;
pub mod pusher;
mod trace;
pub mod websocket;
mod whose;
mod word;

pub use control::{ConnectionInfo, Control, ControlError, NodeInfo, PostedBy, Since, Subscribing};
pub use names::{Channel, ChannelError, ISOLATED, IdKey, MAX_CHANNEL, MAX_PLAIN_KEY, ONLINE_PREFIX, QueryId, RESERVED};
pub use position::{Epoch, Position};
pub use publication::{Extra, Held, Message, Publication, PublicationError, in_one_line, now_micros};
pub use trace::{Happening, TraceEvent, TraceLine, TraceTarget};
pub use whose::{ClientName, SessionSecret, Whose};
pub use word::{Word, WordError};
