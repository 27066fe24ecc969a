//! Permissions: `{area}:{action}:{object}`, where the object may end with `*`, which stands for any ending; `*` alone is everything.
//!
//! Known today: `entities:{read, create, update, trash, restore, purge}:{kind}`, `kinds:declare:{kind}`, `mirrors:read:*`, `mirrors:operate:*`, `channels:subscribe:{channel}`,
//! `channels:publish:{channel}`, `channels:operate:*`, `identity:revoke:*`,
//! `identity:accounts:{service account}`, `identity:grant:{role}`,
//! `trace:user:{user}`, `trace:channel:{channel}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    entities::{Sight, View},
    platform::Kind,
};

/// Most permissions one token may carry: a token is a header, and headers are bounded.
pub const MAX_PERMISSIONS: usize = 256;

/// A text that is not a permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a permission: {0:?} (expected area:action:object, or *)")]
pub struct PermissionError(pub String);

/// What somebody may do, and what of it they see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    granted: BTreeSet<String>,
    /// Nothing beyond these, whatever is granted.
    within: Option<Arc<BTreeSet<String>>>,
    /// Of kinds of which not everything is seen.
    views: BTreeMap<Kind, Arc<View>>,
}

impl Permissions {
    /// Checks the form of each.
    ///
    /// # Errors
    /// The first that is not of the form, or the first above [`MAX_PERMISSIONS`].
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, PermissionError> {
        Self::parse_up_to(MAX_PERMISSIONS, texts)
    }

    /// The same of what roles grant, which no token carries: there may be any number.
    ///
    /// # Errors
    /// The first that is not of the form.
    pub fn granted<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, PermissionError> {
        Self::parse_up_to(usize::MAX, texts)
    }

    fn parse_up_to<'a>(most: usize, texts: impl IntoIterator<Item = &'a str>) -> Result<Self, PermissionError> {
        let mut all = BTreeSet::new();
        for text in texts {
            let parts: Vec<&str> = text.split(':').collect();
            let formed = text == "*" || (parts.len() == 3 && parts.iter().all(|p| !p.is_empty() && p.len() <= 64));
            if !formed || all.len() >= most {
                return Err(PermissionError(text.chars().take(80).collect()));
            }
            all.insert(text.to_owned());
        }
        Ok(Self { granted: all, ..Self::default() })
    }

    /// Whether `{area}:{action}:{object}` is granted, by itself or by a star.
    #[must_use]
    pub fn allow(&self, area: &str, action: &str, object: &str) -> bool {
        let one_of = |all: &BTreeSet<String>| all.iter().any(|granted| grants(granted, area, action, object));
        one_of(&self.granted) && self.within.as_deref().is_none_or(one_of)
    }

    /// The same, and nothing beyond these; what they grant by themselves, or show, does not count.
    #[must_use]
    pub fn within(self, scopes: &Self) -> Self {
        Self { within: Some(Arc::new(scopes.granted.clone())), ..self }
    }

    /// Whether there are scopes: whoever has them is less than their roles.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        self.within.is_some()
    }

    /// Whether entities of the kind may be read, over REST or on a channel.
    #[must_use]
    pub fn may_read(&self, kind: &Kind) -> bool {
        self.allow("entities", "read", kind.as_str())
    }

    /// The permissions as they were given, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.granted.iter().map(String::as_str)
    }

    /// The same; of these kinds not everything is seen.
    #[must_use]
    pub fn with_views(self, views: BTreeMap<Kind, Arc<View>>) -> Self {
        Self { views, ..self }
    }

    /// What a user with these permissions sees of a kind; `None`: everything. It says nothing of whether the kind may be read.
    #[must_use]
    pub fn sight(&self, kind: &Kind, user: &str) -> Option<Sight> {
        self.views.get(kind).map(|view| view.sight(user))
    }
}

fn grants(granted: &str, area: &str, action: &str, object: &str) -> bool {
    let mut parts = granted.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("*"), None, None) => true,
        (Some(a), Some(b), Some(c)) => a == area && (b == action || b == "*") && stands_for(c, object),
        _ => false,
    }
}

fn stands_for(granted: &str, object: &str) -> bool {
    granted == object || granted.strip_suffix('*').is_some_and(|beginning| object.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_one_part() {
        let kind = Kind::new("procedure").expect("kind");
        for (granted, expected) in [
            ("*", true),
            ("entities:read:*", true),
            ("entities:*:procedure", true),
            ("entities:read:procedure", true),
            ("entities:read:proc*", true),
            ("entities:read:procedures*", false),
            ("entities:read:registry-object", false),
            ("entities:write:*", false),
        ] {
            assert_eq!(Permissions::parse([granted]).expect(granted).may_read(&kind), expected, "{granted}");
        }
        assert!(!Permissions::default().may_read(&kind));
    }

    #[test]
    fn scopes_only_narrow() {
        let of = |all: &[&str]| Permissions::parse(all.iter().copied()).expect("permissions");
        let narrow = of(&["entities:*:*", "mirrors:read:*"]).within(&of(&["entities:read:*", "identity:revoke:*"]));
        assert!(narrow.allow("entities", "read", "deal"));
        assert!(!narrow.allow("entities", "purge", "deal") && !narrow.allow("mirrors", "read", "m"));
        assert!(!narrow.allow("identity", "revoke", "*"), "a scope grants nothing");
        assert!(narrow.is_narrowed() && !of(&["*"]).is_narrowed());
        assert!(!of(&["*"]).within(&of(&[])).allow("entities", "read", "deal"));
    }

    #[test]
    fn forms_are_checked() {
        for bad in ["", "a", "a:b", "a:b:", ":b:c", "a:b:c:d"] {
            assert!(Permissions::parse([bad]).is_err(), "{bad}");
        }
    }
}
