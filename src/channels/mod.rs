//! The endpoints of channels, the API by which servers publish, and the bus between nodes.

mod admission;
pub mod api;
mod audience;
pub mod bus;
mod connections;
mod endpoint;
mod letters;
pub mod presence;
pub mod pusher;
mod trace;
mod transports;

pub use admission::Admission;
pub use audience::Audience;
pub use connections::{Connections, router as connections_router};
pub use endpoint::{Endpoint, express, router};
pub use letters::correspond;
pub use trace::{Traces, router as trace_router};
pub use transports::{Refusals, Transports};
