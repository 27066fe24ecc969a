//! Presence: `contract` and `lives` hold both stores to one suite, `redis` breaks a real Redis under one, `cluster` is actors of several
//! nodes over one Redis, and a death, `paged` is a list of members as servers of applications are given it. The actor alone, with a store that fails as a test wants, is tested in its own crate.

mod cluster;
mod contract;
mod kit;
mod lives;
mod paged;
mod redis;
