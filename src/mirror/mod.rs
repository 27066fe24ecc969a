//! What is kept of a Mirror: its cursor, its state, what was put aside; and what is told of it over REST.
//!
//! Invariants: rows and the cursor that covers them commit together, under the term of the lease; an older term writes
//! nothing. The link itself is an actor's; entities and their log are `crate::entities`.

mod http;
mod quarantine;
mod store;

pub use http::{MirrorsState, Resume, Resumed, router};
pub use quarantine::{MAX_QUARANTINED, MAX_RAW_BYTES};
pub use store::{MirrorRow, Mirrors};
