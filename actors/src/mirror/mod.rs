//! The links to the Mirrors: one actor, one connection, one lease for each.
//!
//! The way of a frame: `socket` reads it within a byte budget -> `session` answers questions and gathers the rest ->
//! `apply` stores batch after batch in one transaction each, the cursor with its rows. Beside it `reconcile` compares with the
//! upstream over HTTP after a gap, after what could not be read, and now and then. `life` decides when to connect.
//!
//! Invariants: the cursor is answered only from what is committed; nothing is dropped between socket and store: when the
//! store is slow the budget fills and reading stops; without the lease there is no socket.
//! Deliberately absent: SQL, HTTP, and any knowledge of what a document means.

mod apply;
mod config;
mod context;
mod feed;
mod gather;
mod handle;
mod life;
mod link;
mod metrics;
mod reconcile;
mod session;
mod socket;
mod status;
mod tap;
mod tenure;
#[cfg(test)]
mod tests;

pub use config::{LinkConfig, LinkLimits, ReconcileRules, TapRules, Token};
pub use handle::LinkHandle;
pub use link::{Link, LinkMessage, LinkParts, LinkTask};
pub use metrics::MirrorMetrics;
pub use status::LinkState;
