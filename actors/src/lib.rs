//! Who lives: supervised actors, and the ports through which they reach the world.
//!
//! Invariants: an actor reaches storage, bus and upstreams only through [`platform::ports`]; errors of peers are values,
//! not deaths; whatever must survive a restart lives in the store.

pub mod cdb;
pub mod channels;
pub mod entities;
pub mod mirror;
pub mod platform;
pub mod supervise;
