//! The endpoints of channels, the API by which servers publish, and the bus between nodes.

mod admission;
pub mod api;
pub mod bus;
mod connections;
mod endpoint;
pub mod presence;
pub mod pusher;
mod transports;

pub use admission::Admission;
pub use connections::{Connections, router as connections_router};
pub use endpoint::{Endpoint, router};
pub use transports::{Refusals, Transports};
