//! The endpoints of channels, the API by which servers publish, and the bus between nodes.

pub mod api;
pub mod bus;
mod endpoint;
mod transports;

pub use endpoint::{Endpoint, router};
pub use transports::Transports;
