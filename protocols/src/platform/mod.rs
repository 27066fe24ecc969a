//! Words that every room uses: names with their alphabets, and times, durations and sizes as they are written.

mod names;
pub mod problem;
pub mod time;
mod trace;
pub mod units;
pub mod xml;

pub use names::{EntityId, Kind, MAX_ENTITY_ID, MAX_KIND, NameError, StreamName};
pub use trace::trace_id;
