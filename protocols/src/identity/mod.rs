//! Who may do what: permissions as they stand in a token.

mod permissions;

pub use permissions::{MAX_PERMISSIONS, PermissionError, Permissions};
