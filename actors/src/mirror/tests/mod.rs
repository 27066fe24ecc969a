//! The link against a Mirror, a store and leases in memory, over real sockets.

mod fakes;
mod faults;
mod flow;
mod gaps;
mod rig;
