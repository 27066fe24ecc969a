//! The endpoints of channels, the API by which servers publish, and the bus between nodes.

mod admission;
pub mod api;
pub mod bus;
mod endpoint;

pub use admission::Admission;
pub use endpoint::{Endpoint, router};
