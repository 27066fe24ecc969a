//! The bus, the relay and recovery. `contract`, `application`, `put` and `words` hold both buses to one suite, `over_redis` and `keys`
//! one of them, `model` compares them with a few lines of plain code under random orders, `faults` breaks a real Redis under a relay
//! and a follower, `sentinel`, `cluster` and `moving` change what Redis is made of, `relay` breaks everything else, `since` is the table
//! of recovery, and `versions` has nodes of the versions before and after beside one of today. `failover` has whole hubs and their clients
//! meet what the buses were tested for.

mod application;
mod cluster;
mod contract;
mod failover;
mod fakes;
mod faults;
mod follower;
mod keys;
mod kit;
mod model;
mod moving;
mod offers;
mod over_redis;
mod put;
mod relay;
mod scene;
mod sentinel;
pub mod servers;
mod since;
pub mod slots;
mod tls;
mod versions;
mod words;
