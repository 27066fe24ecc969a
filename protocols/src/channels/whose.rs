//! Whose sessions an order between nodes is about.
//!
//! Invariant: a secret of a session is shown by no `Debug`, and what comes from an address or a query is never read as one.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// What a client's name begins with where it is the secret of a session instead. A node that does not know of it finds nobody so.
const SESSION: &str = "session:";
/// What stands for a secret.
const MASK: &str = "***";

/// Whose sessions are meant: every condition that is given holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Whose {
    /// The user; absent for every user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// One client of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientName>,
    /// Clients that are left alone, by their ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Arc<str>>,
}

/// One client: by its id, which everybody may know, or by the secret of its session. Between nodes both are one text, and only there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientName(Arc<str>);

/// By what a client's commands find its session where they come by requests of their own. Whoever has it speaks for the client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionSecret(Arc<str>);

impl ClientName {
    /// The client of this id; `None` for what nodes would read as a secret, which no id is.
    #[must_use]
    pub fn id(id: &str) -> Option<Self> {
        (!id.starts_with(SESSION)).then(|| Self(id.into()))
    }

    /// The client of a session.
    #[must_use]
    pub fn of_session(secret: &SessionSecret) -> Self {
        Self([SESSION, &secret.0].concat().into())
    }

    /// Whether it names a client: by its id, or by a secret of which another has to say whether it is that of the session.
    pub fn is(&self, id: &str, is_secret: impl FnOnce(&str) -> bool) -> bool {
        self.0.strip_prefix(SESSION).map_or(*self.0 == *id, is_secret)
    }
}

impl SessionSecret {
    /// Hides a secret.
    #[must_use]
    pub fn new(secret: impl Into<Arc<str>>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for those who look for the session.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with(SESSION) { write!(f, "{SESSION}{MASK}") } else { write!(f, "{:?}", self.0) }
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_taken_for_a_secret_and_no_secret_is_shown() {
        for no_id in ["session:", "session:s3cret", "session:session:s3cret"] {
            assert_eq!(ClientName::id(no_id), None, "{no_id}");
        }
        let (secret, nobodys) = (SessionSecret::new("s3cret"), |_: &str| false);
        let by_secret = ClientName::of_session(&secret);
        assert!(by_secret.is("c", |said| said == "s3cret"));
        assert!(!by_secret.is("s3cret", nobodys) && !by_secret.is("session:s3cret", nobodys));
        for id in ["c", "1.2", "Session:s3cret", " session:s3cret", "sessions3cret", "дзвін", ""] {
            let by_id = ClientName::id(id).expect("an id");
            assert!(by_id.is(id, |_| panic!("{id} is no secret")) && !by_id.is("another", nobodys));
        }
        let whose = Whose { client: Some(by_secret), ..Whose::default() };
        let shown = format!("{whose:?} {whose:#?} {secret:?}");
        assert!(!shown.contains("s3cret") && shown.contains("session:***"), "{shown}");
        assert!(format!("{:?}", ClientName::id("a1")).contains("\"a1\""), "an id is");
    }
}
