//! The audit: who did what, and what was refused to whom.
//!
//! Invariants: what changes something in the database is told in the same transaction, so neither is there without the other, and a
//! replay under an idempotency key, which changes nothing, is not told; refusals, and deeds that have no transaction of ours, are counted
//! in memory within limits and written each second, equal ones of a minute as one row; whoever is not known takes no room of those who
//! are; what had no room is counted and told. A row has names, ids and codes, never a document, a token or a secret.
//!
//! Not here: what Mirrors bring, which no person did (the change log has it), publications and whatever else servers call over `/api`
//! and `/apps` and is done, for it comes at a rate at which nobody reads, and reads that were allowed.

mod actions;
mod fold;
mod http;
mod layer;
mod metrics;
mod notes;
mod store;

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::http::Extensions;

pub use http::router;
pub use layer::{Slot, note};
pub use notes::Notes;
pub use store::{AuditStore, Deed, write, write_of_each};

use crate::platform::http::{ClientAddress, TraceContext};

/// The outcome of what was done.
pub const DONE: &str = "done";
/// Longest name of what something was done to: a kind and an id have less; the rest is what somebody made up.
const MAX_OBJECT: usize = 256;
/// Longest user and id of a token: those of tokens have no more.
const MAX_NAME: usize = 256;

/// Who asks, as the audit tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The user; empty for nobody.
    pub user: Arc<str>,
    /// By what the token may be revoked.
    pub token: Option<Arc<str>>,
    /// From where.
    pub address: Option<IpAddr>,
    /// The request's id, as in the logs.
    pub request: Option<Arc<str>>,
}

impl Who {
    /// From where a request comes, of whoever it may be.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        Self {
            address: extensions.get::<ClientAddress>().map(|address| address.ip()),
            request: extensions.get::<TraceContext>().map(|trace| Arc::clone(&trace.request_id)),
            ..Self::default()
        }
    }

    /// The same, once it is known who it is.
    #[must_use]
    pub fn known_as(self, user: &Arc<str>, token: Option<&Arc<str>>) -> Self {
        Self { user: Arc::clone(user), token: token.map(Arc::clone), ..self }
    }
}

/// Somebody of this name, wherever they may be.
impl From<&str> for Who {
    fn from(user: &str) -> Self {
        Self { user: user.into(), ..Self::default() }
    }
}

/// A text as a row may have it: up to so many bytes, and nothing that a terminal or the database takes for an order.
fn clean(text: &str, most: usize) -> Cow<'_, str> {
    let text = text.get(..text.floor_char_boundary(most)).unwrap_or_default();
    if text.chars().any(char::is_control) {
        text.chars().map(|it| if it.is_control() { char::REPLACEMENT_CHARACTER } else { it }).collect()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_made_up_is_short_and_plain() {
        assert_eq!(clean("deal/42", MAX_OBJECT), "deal/42");
        assert_eq!(clean("a\0b\u{1b}[2Jc\u{85}", MAX_OBJECT), "a\u{fffd}b\u{fffd}[2Jc\u{fffd}");
        let long = "щ".repeat(MAX_OBJECT);
        assert_eq!(clean(&long, MAX_OBJECT - 1), "щ".repeat(MAX_OBJECT / 2 - 1));
    }
}
