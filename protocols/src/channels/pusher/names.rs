//! Names of channels as they stand on the Pusher wire: what the prefix asks for, and which hub's channel it is.
//!
//! For the application `x` and `private-x` are two channels. The hub's own have no public form here: `private-` before one
//! of them is an alias, granted by the permissions of the user who has signed in, never to a bare signature.

use std::{fmt, sync::Arc};

use super::user::UserId;
use crate::channels::{Channel, RESERVED};

/// Longest name of a channel, in bytes: what the server libraries allow; the protocol's page says 164.
pub const MAX_NAME: usize = 200;
pub use crate::channels::names::USER_PREFIX;

/// A name that is no channel here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, above [`MAX_NAME`] bytes, or with characters outside `[A-Za-z0-9_=@,.;-]`.
    #[error("a channel name is 1 to {MAX_NAME} characters of A-Z a-z 0-9 _ - = @ , . ;")]
    Malformed,
    /// It begins as the hub's own channels do and is none of them, or lacks the `private-` under which they are asked for.
    #[error("channel names of this prefix are reserved")]
    Reserved,
}

/// Who is let in, and what is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Anybody.
    Public,
    /// Whom the application lets in.
    Private,
    /// As private; the hub relays what it cannot read.
    Encrypted,
    /// As private, and members see each other.
    Presence,
    /// The one user whose id is in the name.
    User,
}

/// The kind of a channel, which its prefix decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelKind {
    /// Who is let in.
    pub guard: Guard,
    /// Whether the last event of the API is sent to whoever subscribes.
    pub cache: bool,
}

/// What a socket must show to subscribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Nothing.
    Open,
    /// `auth` over socket and channel.
    Signature,
    /// `auth` over socket, channel and `channel_data`; without the latter, the user who has signed in is the member.
    Membership,
    /// A signed-in user: whose permissions grant the hub's channel, or whose own channel it is.
    SignIn,
}

/// Longer prefixes before those that begin them.
const PREFIXES: [(&str, Guard, bool); 7] = [
    ("private-encrypted-cache-", Guard::Encrypted, true),
    ("private-encrypted-", Guard::Encrypted, false),
    ("private-cache-", Guard::Private, true),
    ("private-", Guard::Private, false),
    ("presence-cache-", Guard::Presence, true),
    ("presence-", Guard::Presence, false),
    ("cache-", Guard::Public, true),
];

/// Which channel of the hub a name means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// The application's, under its whole name, or one of the hub's own.
    Channel(Channel),
    /// What the application sends to one user, on whatever connections.
    User(UserId),
}

/// A name that has passed its check.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    text: Arc<str>,
    kind: ChannelKind,
    target: Target,
}

impl Name {
    /// Reads a name as it stands on the Pusher wire.
    ///
    /// # Errors
    /// [`NameError`] when it is no name, or a reserved one that names nothing.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if let Some(id) = name.strip_prefix(USER_PREFIX) {
            return UserId::new(id).map(Self::of_user).map_err(|_| NameError::Malformed);
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-=@,.;".contains(&b);
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(legal) {
            return Err(NameError::Malformed);
        }
        let (kind, rest) = split(name);
        let text: Arc<str> = name.into();
        let reserved = RESERVED.contains(&rest.split('.').next().unwrap_or_default());
        // Behind the other prefixes stand names of the application, as on the Centrifuge wire.
        let target = match kind {
            ChannelKind { guard: Guard::Private, .. } if reserved => {
                Channel::parse(rest).map_err(|_| NameError::Reserved)?
            }
            ChannelKind { guard: Guard::Public, cache: false } if reserved => return Err(NameError::Reserved),
            _ => Channel::Application(text.clone()),
        };
        Ok(Self { text, kind, target: Target::Channel(target) })
    }

    /// The channel of one user.
    #[must_use]
    pub fn of_user(id: UserId) -> Self {
        let kind = ChannelKind { guard: Guard::User, cache: false };
        Self { text: format!("{USER_PREFIX}{id}").into(), kind, target: Target::User(id) }
    }

    /// The name as text, as the client spells it in every frame.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> ChannelKind {
        self.kind
    }

    /// Which channel of the hub is meant.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is one of the hub's own, on which nobody else publishes.
    #[must_use]
    pub const fn is_reserved(&self) -> bool {
        !matches!(self.target, Target::User(_) | Target::Channel(Channel::Application(_)))
    }

    /// Whether members see each other.
    #[must_use]
    pub fn is_presence(&self) -> bool {
        self.kind.guard == Guard::Presence
    }

    /// What a socket must show to subscribe.
    #[must_use]
    pub const fn grant(&self) -> Grant {
        match self.kind.guard {
            _ if self.is_reserved() => Grant::SignIn,
            Guard::Public => Grant::Open,
            Guard::Private | Guard::Encrypted => Grant::Signature,
            Guard::Presence => Grant::Membership,
            Guard::User => Grant::SignIn,
        }
    }

    /// Whether its subscribers may send events to each other. Not on encrypted channels: the clients refuse it there, for
    /// only the application's servers encrypt.
    #[must_use]
    pub const fn carries_client_events(&self) -> bool {
        !self.is_reserved() && matches!(self.kind.guard, Guard::Private | Guard::Presence)
    }
}

/// Whether a channel of this name shows its last event to whoever comes.
#[must_use]
pub fn is_cache(name: &str) -> bool {
    split(name).0.cache
}

/// The kind, and what follows its prefix.
fn split(name: &str) -> (ChannelKind, &str) {
    let prefixed = PREFIXES.iter().find_map(|(prefix, guard, cache)| {
        Some((ChannelKind { guard: *guard, cache: *cache }, name.strip_prefix(prefix)?))
    });
    prefixed.unwrap_or((ChannelKind { guard: Guard::Public, cache: false }, name))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect(text)
    }

    #[test]
    fn the_prefix_decides() {
        for (text, guard, cache, grant, client_events) in [
            ("x", Guard::Public, false, Grant::Open, false),
            ("privately", Guard::Public, false, Grant::Open, false),
            ("cache-x", Guard::Public, true, Grant::Open, false),
            ("private-x", Guard::Private, false, Grant::Signature, true),
            ("private-encrypted", Guard::Private, false, Grant::Signature, true),
            ("private-cache-x", Guard::Private, true, Grant::Signature, true),
            ("private-encrypted-x", Guard::Encrypted, false, Grant::Signature, false),
            ("private-encrypted-cache-x", Guard::Encrypted, true, Grant::Signature, false),
            ("presence-x", Guard::Presence, false, Grant::Membership, true),
            ("presence-cache-x", Guard::Presence, true, Grant::Membership, true),
            ("#server-to-user-a b", Guard::User, false, Grant::SignIn, false),
        ] {
            let it = name(text);
            assert_eq!((it.kind().guard, it.kind().cache), (guard, cache), "{text}");
            assert_eq!(is_cache(text), cache, "{text}");
            assert_eq!((it.grant(), it.carries_client_events()), (grant, client_events), "{text}");
            assert!(!it.is_reserved() && it.to_string() == text);
        }
    }

    #[test]
    fn an_applications_channels_keep_their_prefix() {
        for text in ["x", "private-x", "cache-x", "presence-x", "private-App.Models.User.1", "private-entitiesx.y"] {
            assert_eq!(*name(text).target(), Target::Channel(Channel::Application(text.into())));
        }
        assert_eq!(*name("#server-to-user-7").target(), Target::User(UserId::new("7").expect("id")));
    }

    #[test]
    fn the_hubs_channels_are_asked_for_as_private() {
        for hubs in ["entities.procedure", "entity.procedure.a_1"] {
            let target = Target::Channel(Channel::parse(hubs).expect(hubs));
            for prefix in ["private-", "private-cache-"] {
                let it = name(&format!("{prefix}{hubs}"));
                assert_eq!((it.target(), it.grant()), (&target, Grant::SignIn));
                assert!(it.is_reserved() && !it.carries_client_events());
                assert_eq!(it.kind().cache, prefix == "private-cache-");
            }
            assert_eq!(Name::parse(hubs), Err(NameError::Reserved));
            for prefix in ["cache-", "presence-", "presence-cache-", "private-encrypted-", "private-encrypted-cache-"] {
                let it = name(&format!("{prefix}{hubs}"));
                assert_eq!(*it.target(), Target::Channel(Channel::Application(it.as_str().into())), "{prefix}");
            }
        }
        // Whatever word is reserved, the alias goes where the plain name goes.
        for word in RESERVED {
            for rest in ["", ".", ".a", ".a.b", ".A"] {
                let plain = format!("{word}{rest}");
                let alias = Name::parse(&format!("private-{plain}")).map(|it| it.target().clone());
                assert_eq!(alias.ok(), Channel::parse(&plain).ok().map(Target::Channel), "{plain}");
            }
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let (longest, longer) = ("x".repeat(MAX_NAME), "x".repeat(MAX_NAME + 1));
        assert!(Name::parse(&longest).is_ok());
        for bad in ["", "a b", "a:b", "#x", "#server-to-user-", "#server-to-user-\n", "дзвін", "a\n", &longer] {
            assert_eq!(Name::parse(bad), Err(NameError::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "(#server-to-user-|private-|presence-|cache-|encrypted-){0,3}(entities|entity)?[.]?[ -~é]{0,20}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(name.as_str(), text.as_str());
                prop_assert!(!(name.is_reserved() && name.grant() != Grant::SignIn));
            }
        }
    }
}
