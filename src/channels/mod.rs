//! The endpoints of channels, the API by which servers publish, and the bus between nodes.

pub mod api;
pub mod bus;
mod endpoint;
pub mod presence;

pub use endpoint::{Endpoint, router};
