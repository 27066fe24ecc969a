//! What every room of `src` stands on.

pub mod alone;
pub mod cli;
pub mod config;
pub mod contact;
pub mod db;
pub mod descriptors;
pub mod dev;
pub mod http;
pub mod lease;
mod lent;
pub mod telemetry;
mod warm;
