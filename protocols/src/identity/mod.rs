//! Who may do what: permissions as they stand in a token.

mod claims;
mod permissions;
mod subscription;

pub use claims::{Audience, ClaimError, ClaimRules, Claims, MAX_INFO, MAX_SUBJECT, MAX_TOKEN_CHANNELS};
pub use permissions::{MAX_PERMISSIONS, PermissionError, Permissions};
pub use subscription::{Overrides, SubscriptionClaims, SubscriptionOptions};
