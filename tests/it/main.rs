//! The one integration binary: real servers on free ports.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is a test: it has no outside, and a panic is its verdict"
)]

mod bus;
mod dev;
mod dev_postgres;
mod edits;
mod entity;
mod hub;
mod identity;
mod login;
mod masks;
mod mirror;
mod moving;
mod nginx;
mod page;
mod presence;
mod pusher;
mod reload;
mod scripts;
mod serve;
mod spine;
mod store;
mod support;
mod tls;
