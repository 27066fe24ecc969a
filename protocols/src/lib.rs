//! What is said: wire formats and the pure rules about them.
//!
//! Invariants: no I/O, no clock but values passed in, no async. Every decoder takes hostile bytes and answers with a
//! value or an error, never a panic. JSON documents travel as the raw text in which they came, never through `f64`.

pub mod cdb;
pub mod channels;
pub mod entities;
pub mod identity;
pub mod mirror;
pub mod platform;
