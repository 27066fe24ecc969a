//! The endpoints of channels, and the bus between nodes.

pub mod bus;
mod endpoint;

pub use endpoint::{Endpoint, router};
