//! The Mirror: frames, their dialect, and the rules of the cursor.

mod batch;
mod cursor;
mod dialect;
mod frame;
mod mask;
mod paths;
mod upstream;
mod version;

pub use batch::{MirrorBatch, MirrorOp, Quarantined, VersionedDoc};
pub use cursor::{Cursor, CursorKind, NullSpelling};
pub use dialect::{
    Ack, Compression, CursorSpelling, Dialect, DialectError, Envelope, FrameKind, Handshake, Heartbeat, Payload,
    Protocol, Types, UnknownType,
};
pub use frame::{Asked, Frame, FrameFault, Sought};
pub use mask::mask_secrets;
pub use paths::Paths;
pub use upstream::{Auth, HttpPaths, percent_encode};
pub use version::{VersionKind, format_time, parse_time};
