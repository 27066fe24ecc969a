//! Who somebody is: tokens of ours and of issuers, the permissions behind their roles, what was revoked, and the extractor
//! of handlers.
//!
//! Invariants: the algorithm is the key's, never read from a token; keys are replaced as a whole, so a rotation is seen by
//! the next request; neither a key nor a token is ever logged.

pub mod accounts;
mod api_keys;
pub mod audit;
mod caller;
mod claims;
#[cfg(test)]
mod doubles;
mod fetch;
pub mod guard;
mod issuer;
mod keys;
pub mod login;
mod metrics;
mod origin;
pub mod revocations;
mod setup;
mod tokens;
mod views;

pub use api_keys::ApiKeys;
pub use caller::{Caller, Token, bearer};
pub(crate) use fetch::is_allowed as may_be_fetched;
pub use keys::SigningKey;
pub use metrics::IdentityMetrics;
pub use origin::Origin;
pub use setup::{Grants, Setup, verifier};
pub use tokens::{IdentityError, MAX_KEYS, MAX_TOKEN, MIN_KEY, TokenRules, Verifier};
pub use views::{RoleViews, ViewError};
