//! The sandbox from outside: a Mirror client, an HTTP client and the control, against a running one.

// Helpers of a test binary stand outside of test functions, where the exception of clippy.toml does not reach.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod client;
mod faults;
mod limits;
mod mirror;
mod sizes;
