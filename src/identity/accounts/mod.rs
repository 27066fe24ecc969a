//! Callers that are programs: service accounts, and the API tokens by which they are known.
//!
//! Invariants: a token is shown once, stored as a hash and compared in constant time; what it may do is what its account's roles grant,
//! and of that only its scopes where it has any; one that is taken back, and every token of an account that is disabled, is refused on
//! every node within a second, sessions included, by the same revocations as any other token. Nobody hands out a role that they may not grant.
//!
//! Not here: tokens in the name of people. Those are the issuer's.

mod http;
mod known;
mod store;
mod token;

pub use http::router;
pub use store::Accounts;
pub(super) use token::{id_of as api_token_id, is_api_token};

use std::sync::Arc;

use dzvin_protocols::identity::Permissions;
use time::OffsetDateTime;

/// Most accounts, those that are disabled included: a list is one page.
const MAX_ACCOUNTS: i64 = 1_000;
/// Most tokens of an account whose end has not come, those taken back included, for they are revocations in every node's memory: a
/// rotation needs two, a fleet some dozens.
const MAX_TOKENS: i64 = 100;

/// The user that an account is: in channels, in the log, in row filters. Issuers' users cannot be called so.
#[must_use]
pub fn user_of(account: &str) -> String {
    format!("{}{account}", dzvin_protocols::identity::ACCOUNT_PREFIX)
}

/// A token as it is checked.
#[derive(Debug)]
pub(super) struct ApiToken {
    pub(super) id: Arc<str>,
    pub(super) user: String,
    pub(super) roles: Vec<String>,
    /// `None`: all that the roles grant.
    pub(super) scopes: Option<Permissions>,
    digest: Vec<u8>,
    pub(super) created_at: OffsetDateTime,
    pub(super) expires_at: OffsetDateTime,
}
