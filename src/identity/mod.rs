//! Who somebody is: tokens of ours (HS256), the permissions behind their roles, and the extractor of handlers.
//!
//! Invariants: the algorithm is pinned, never read from a token; keys are replaced as a whole, so a rotation is seen by the
//! next request; neither a key nor a token is ever logged.

mod api_keys;
mod caller;
mod tokens;

pub use api_keys::ApiKeys;
pub use caller::Caller;
pub use tokens::{IdentityError, MAX_KEYS, MAX_TOKEN, MIN_KEY, SigningKey, TokenRules, Verifier, keys, verifier};
