//! Who may do what: permissions and claims as they stand in a token, its form, and the sets of keys it is checked with.

mod claims;
mod failures;
mod jose;
mod jwks;
mod permissions;
mod subscription;

/// What the users of service accounts begin with. Issuers' users never do.
pub const ACCOUNT_PREFIX: &str = "svc-";

pub use claims::{Audience, ClaimError, ClaimRules, Claims, MAX_INFO, MAX_JTI, MAX_SUBJECT, MAX_TOKEN_CHANNELS};
pub use failures::{FailureRules, Failures};
pub use jose::{
    Algorithm, Compact, CompactError, Family, MAX_KEY_ID, MAX_SIGNATURE, MAX_TOKEN, UnknownAlgorithm, base64url,
};
pub use jwks::{JwkSet, JwkSetError, MAX_SET_KEYS, Material, PublicJwk};
pub use permissions::{MAX_PERMISSIONS, PermissionError, Permissions};
pub use subscription::{Overrides, SubscriptionClaims, SubscriptionOptions};
