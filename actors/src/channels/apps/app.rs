//! One application: its credentials, what its clients may, and what its channels and users are called inside the hub.
//!
//! Invariant: of an isolated application nothing inside the hub has a name that anybody else can give.

use std::{fmt, num::NonZeroU16, sync::Arc, time::Duration};

use dzvin_protocols::channels::{
    Channel, ISOLATED,
    pusher::{Credentials, CredentialsError, Keyring, Name, Target, USER_PREFIX, UserId},
};

use super::{AppsError, Webhook};

/// What stands around the id of an isolated application before the ids of its users inside the hub. A control character, which
/// neither a token's `sub` nor an id of this protocol may have: nobody else's user is ever called so, whatever characters ids
/// are made of.
const OF_APP: char = '\u{1f}';

/// Longest id: it stands before the names of an isolated application's channels, which streams bound.
pub const MAX_APP_ID: usize = 32;

/// What one client of the protocol may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppRules {
    /// The silence after which clients ping, in seconds.
    pub activity_timeout: NonZeroU16,
    /// Events of one client to others in a second.
    pub client_events_per_second: u32,
    /// Largest data of such an event, in bytes.
    pub max_client_event: usize,
    /// Largest `user_info` of a member, in bytes.
    pub max_user_info: usize,
    /// How long a cache channel keeps its last event.
    pub cache_age: Duration,
}

impl Default for AppRules {
    /// Those of the hosted service.
    fn default() -> Self {
        Self {
            activity_timeout: NonZeroU16::MIN.saturating_add(119),
            client_events_per_second: 10,
            max_client_event: 10 * 1024,
            max_user_info: 1024,
            cache_age: Duration::from_secs(1800),
        }
    }
}

/// What an application's keys of encrypted channels are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// As the application's server libraries have it.
    ///
    /// # Errors
    /// [`AppsError::MasterKey`] for anything but 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, AppsError> {
        bytes.try_into().map(Self).map_err(|_| AppsError::MasterKey)
    }

    /// The bytes; nobody but who derives a channel's key has a use for them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// One application.
#[derive(Debug, Clone)]
pub struct App {
    /// What the HTTP API and logs call it.
    pub id: Arc<str>,
    /// The keys alive; the first signs.
    pub keys: Vec<Credentials>,
    /// The same, to verify with.
    pub ring: Keyring,
    /// Switched off, its clients are refused for good.
    pub enabled: bool,
    /// Its channels are its own.
    pub isolated: bool,
    /// Clients that come without TLS are sent to it.
    pub tls_only: bool,
    /// Clients may send events to each other.
    pub client_events: bool,
    /// Clients are told how many subscribe.
    pub subscription_counts: bool,
    /// Clients that sign in are told which users of their watchlist are online.
    pub watchlists: bool,
    /// Members of a presence channel.
    pub max_members: usize,
    /// Where it hears of its channels.
    pub webhooks: Vec<Webhook>,
    /// What a client may cost.
    pub rules: AppRules,
    /// With it the hub hands out the keys of encrypted channels.
    pub master_key: Option<MasterKey>,
}

impl App {
    /// One with these keys, and the rest as usual.
    ///
    /// # Errors
    /// A malformed id, or no key.
    pub fn new(id: &str, keys: Vec<Credentials>) -> Result<Self, AppsError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if !(1..=MAX_APP_ID).contains(&id.len()) || !id.bytes().all(legal) {
            return Err(AppsError::Id);
        }
        let (first, others) = keys.split_first().ok_or(AppsError::Credentials(CredentialsError::Key))?;
        Ok(Self {
            id: id.into(),
            ring: Keyring::new(first.clone(), others.to_vec()),
            keys,
            enabled: true,
            isolated: false,
            tls_only: false,
            client_events: false,
            subscription_counts: false,
            watchlists: false,
            max_members: 100,
            webhooks: Vec::new(),
            rules: AppRules::default(),
            master_key: None,
        })
    }

    /// What stands before the names of its channels inside the hub.
    #[must_use]
    pub fn prefix(&self) -> String {
        if self.isolated { format!("{ISOLATED}{}{ISOLATED}", self.id) } else { String::new() }
    }

    /// The channel that its clients and servers mean by a name; `None` for what is not in its set: an isolated application
    /// has nothing of the hub's own.
    #[must_use]
    pub fn channel(&self, name: &Name) -> Option<Channel> {
        Some(match name.target() {
            Target::Channel(Channel::Application(name)) if self.isolated => self.own(name),
            Target::Channel(_) if self.isolated => return None,
            Target::Channel(channel) => channel.clone(),
            Target::User(user) => self.user_channel(user),
        })
    }

    /// The channel on which one user is sent something.
    #[must_use]
    pub fn user_channel(&self, user: &UserId) -> Channel {
        if self.isolated { self.own(&format!("{USER_PREFIX}{user}")) } else { Channel::User(user.as_str().into()) }
    }

    fn own(&self, name: &str) -> Channel {
        Channel::Application([&self.prefix(), name].concat().into())
    }

    /// What sessions of a user are known by, to end them and to count them: users of an isolated application are nobody else's.
    #[must_use]
    pub fn user(&self, user: &UserId) -> Arc<str> {
        if self.isolated { format!("{OF_APP}{}{OF_APP}{user}", self.id).into() } else { user.as_str().into() }
    }

    /// The channel on which it is said whether one of its users is online.
    #[must_use]
    pub fn online_channel(&self, user: &UserId) -> Channel {
        let own = if self.isolated { &*self.id } else { "" };
        Channel::Online(format!("{own}/{user}").into())
    }

    /// A channel inside the hub as this application knows it; `None` when it is not in its set. The hub's own are not named so.
    #[must_use]
    pub fn name_of<'a>(&self, channel: &'a str) -> Option<&'a str> {
        if self.isolated {
            channel.strip_prefix(&self.prefix())
        } else {
            Some(channel).filter(|it| !it.starts_with(ISOLATED))
        }
    }
}
