//! What every room of actors shares: the ports to the world.

pub mod beat;
pub mod ports;
