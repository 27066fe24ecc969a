//! What every room of actors shares: the ports to the world, and the metrics.

pub mod metrics;
pub mod ports;
