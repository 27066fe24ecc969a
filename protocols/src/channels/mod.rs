//! Channels: streams with positions, what is published on them, and the client protocols spoken over them.

mod position;
mod publication;

pub use position::{Epoch, Position};
pub use publication::{Publication, PublicationError};
