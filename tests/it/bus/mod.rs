//! The bus, the relay and recovery. `contract`, `application`, `put` and `words` hold both buses to one suite, `over_redis` one of them, `model` compares them with a few lines of
//! plain code under random orders, `faults` breaks a real Redis under a relay and a follower, `relay` breaks everything
//! else, `since` is the table of recovery.

mod application;
mod cluster;
mod contract;
mod fakes;
mod faults;
mod follower;
mod kit;
mod model;
mod over_redis;
mod put;
mod relay;
mod scene;
mod sentinel;
pub mod servers;
mod since;
mod tls;
mod words;
