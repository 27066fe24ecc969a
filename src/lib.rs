//! What Dzvin is made of: storage, bus, outbound HTTP, the web server, configuration, wiring and the command line.
//!
//! Inside, a room may use `platform` and another room's public service, never another room's SQL.

pub mod app;
pub mod cdb;
pub mod channels;
pub mod console;
pub mod entities;
pub mod identity;
pub mod mirror;
pub mod platform;
