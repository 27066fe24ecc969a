//! From the change log to the bus, and back from both for whoever lost its place.

pub mod concerns;
pub mod gap;
mod holding;
mod metrics;
mod pump;
pub mod relay;

pub use metrics::RelayMetrics;
pub use relay::{Relay, RelayArgs, RelayConfig, RelayHandle, RelayMessage, RelayStatus, Role};
