//! Outbound HTTP to the central database.
//!
//! Every request passes the governor of its egress address, carries the version header, has a time and a size limit, follows
//! no redirect, and is logged with its status and the upstream's request id. Repeating is the caller's business; nothing is
//! repeated here. The token is read at each request, so a new one needs no restart.

mod client;

pub use client::{CdbClient, CdbConfig, CdbLimits, CdbSetupError};
