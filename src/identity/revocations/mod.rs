//! Tokens that are no longer good before their end, and users who are kept out.
//!
//! Invariants: the database is the truth, every node has all of it in memory and asks nobody when a token is checked; a
//! change is felt on every node within a second, by a notification or, without one, by the next look at the database; while
//! the database is away the last known set holds. Changes have versions that follow commits, so a node reads only what is
//! new; after any failure it reads all again, for the database may be an earlier one.
//!
//! Not here: closing the sessions of whom it concerns. [`Revocations::changes`] tells of them, and [`concerned`] whom to ask.

mod burst;
mod http;
mod keeper;
mod memory;
mod store;

pub use burst::concerned;
pub use http::router;
pub use memory::{MAX_REVOCATIONS, Revocations};
pub use store::RevocationStore;

use std::time::Duration;

use time::OffsetDateTime;

/// The channel on which nodes tell each other of changes.
const NOTIFY_CHANNEL: &str = "dzvin_revocations";
/// A change is felt on every node so soon.
const PROMISE: Duration = Duration::from_secs(1);
/// Longest reason.
const MAX_REASON: usize = 500;

/// What is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The token with this id.
    Token,
    /// Tokens of a user made before a moment.
    User,
    /// Every token of a user.
    Block,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::User => "user",
            Self::Block => "block",
        }
    }

    /// The column allows no other; what is unknown is a newer version's, and blocking is the safe side.
    fn of(name: &str) -> Self {
        match name {
            "token" => Self::Token,
            "user" => Self::User,
            _ => Self::Block,
        }
    }
}

/// A revocation as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: i64,
    version: i64,
    kind: Kind,
    subject: String,
    issued_before: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    reason: Option<String>,
    created_at: OffsetDateTime,
    created_by: String,
}

impl Row {
    /// The audit's name for it: `user/olha`.
    fn told(&self) -> String {
        format!("{}/{}", self.kind.name(), self.subject)
    }
}

/// A revocation that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    kind: Kind,
    subject: String,
    issued_before: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
    reason: Option<String>,
}
