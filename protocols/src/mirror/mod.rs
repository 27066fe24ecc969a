//! The Mirror: frames, their dialect, and the rules of the cursor.

mod batch;

pub use batch::{MirrorBatch, MirrorOp, Quarantined, VersionedDoc};
