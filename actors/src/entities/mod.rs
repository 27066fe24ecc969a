//! From the change log to the bus, and back from both for whoever lost its place.

pub mod gap;
