//! Channels: streams with positions, what is published on them, and the client protocols spoken over them.

pub mod centrifuge;
mod position;
mod publication;
pub mod websocket;

pub use position::{Epoch, Position};
pub use publication::{Publication, PublicationError};
