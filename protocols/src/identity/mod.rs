//! Who may do what: permissions as they stand in a token.

mod claims;
mod permissions;

pub use claims::{Audience, ClaimError, ClaimRules, Claims, MAX_INFO, MAX_SUBJECT};
pub use permissions::{MAX_PERMISSIONS, PermissionError, Permissions};
