//! Applications of the Pusher protocol: credentials, what their clients may, and which channels are theirs.
//!
//! Applications are credentials to one set of channels, but for isolated ones: each of these has a set of its own, and the
//! hub's channels are not in it. Inside the hub its channels stand behind `/{id}/`, which no name that anybody can give begins
//! with; outside nobody sees that. The whole set is replaced at once, and sessions look theirs up by id, so that a secret
//! changes without a restart and an application that is switched off is off.

use std::{
    fmt,
    num::NonZeroU16,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use dzvin_protocols::channels::{
    Channel, ISOLATED,
    pusher::{Credentials, CredentialsError, Keyring, Name, Target, USER_PREFIX, UserId, WebhookEvent, is_cache},
};

use super::ChannelRules;
use crate::platform::ports::HistoryLimits;

/// What stands around the id of an isolated application before the ids of its users inside the hub. A control character, which
/// neither a token's `sub` nor an id of this protocol may have: nobody else's user is ever called so, whatever characters ids
/// are made of.
const OF_APP: char = '\u{1f}';

/// Longest id: it stands before the names of an isolated application's channels, which streams bound.
pub const MAX_APP_ID: usize = 32;

/// Applications that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppsError {
    /// The id is malformed.
    #[error("an application's id is 1 to {MAX_APP_ID} characters of A-Z a-z 0-9 _ -")]
    Id,
    /// Two have one id.
    #[error("two applications have this id")]
    SameId,
    /// A key or secret is malformed, or there is none.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Two have one key.
    #[error("this key is used twice")]
    SameKey,
    /// The master key is none.
    #[error("encryption_master_key is not 32 bytes in base64")]
    MasterKey,
}

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

/// Where an application hears of its channels.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The address. It may carry a secret.
    pub url: Arc<str>,
    /// Names of the events that are told; empty: all.
    pub events: Vec<&'static str>,
}

impl Webhook {
    /// Whether the event is told there.
    #[must_use]
    pub fn wants(&self, event: &WebhookEvent) -> bool {
        self.events.is_empty() || self.events.contains(&hook_name(event))
    }

    /// Whether it is told of members.
    fn hears_members(&self) -> bool {
        self.events.is_empty() || self.events.iter().any(|event| matches!(*event, "member_added" | "member_removed"))
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("events", &self.events).finish_non_exhaustive()
    }
}

/// The event's name on the wire.
const fn hook_name(event: &WebhookEvent) -> &'static str {
    match event {
        WebhookEvent::ChannelOccupied { .. } => "channel_occupied",
        WebhookEvent::ChannelVacated { .. } => "channel_vacated",
        WebhookEvent::MemberAdded { .. } => "member_added",
        WebhookEvent::MemberRemoved { .. } => "member_removed",
        WebhookEvent::ClientEvent { .. } => "client_event",
        WebhookEvent::CacheMiss { .. } => "cache_miss",
        WebhookEvent::SubscriptionCount { .. } => "subscription_count",
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

/// A channel inside the hub as clients of its application spell it.
#[must_use]
pub fn outside(channel: &str) -> &str {
    let own = channel.strip_prefix(ISOLATED).and_then(|rest| rest.split_once(ISOLATED));
    own.map_or(channel, |(_, name)| name)
}

/// The applications in force. Cheap to share.
#[derive(Clone, Default)]
pub struct Apps(Arc<RwLock<Arc<[Arc<App>]>>>);

impl fmt::Debug for Apps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().iter().map(|app| &app.id)).finish()
    }
}

impl Apps {
    /// Puts these into force instead of those before.
    ///
    /// # Errors
    /// Ids or keys that are used twice; then everything stays as it was.
    pub fn replace(&self, apps: Vec<App>) -> Result<(), AppsError> {
        for (n, app) in apps.iter().enumerate() {
            let before = apps.get(..n).unwrap_or_default();
            if before.iter().any(|other| other.id == app.id) {
                return Err(AppsError::SameId);
            }
            let of_others = before.iter().flat_map(|other| &other.keys);
            for (k, one) in app.keys.iter().enumerate() {
                let of_own = app.keys.get(..k).unwrap_or_default();
                if of_others.clone().chain(of_own).any(|other| other.key() == one.key()) {
                    return Err(AppsError::SameKey);
                }
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = apps.into_iter().map(Arc::new).collect();
        Ok(())
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<[Arc<App>]> {
        Arc::clone(&*self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the number of a channel's subscribers is told to them: where an application wants that, on channels whose
    /// members are not told anyway.
    #[must_use]
    pub fn counts(&self, channel: &str) -> bool {
        self.all().iter().filter(|app| app.subscription_counts).any(|app| {
            let name = app.name_of(channel).and_then(|name| Name::parse(name).ok());
            name.is_some_and(|name| !name.is_presence() && !name.is_reserved())
        })
    }

    /// Whether a server of an application is told who comes to this channel and who leaves it.
    #[must_use]
    pub fn hear_members(&self, channel: &str) -> bool {
        let all = self.all();
        let mut told = all.iter().filter(|app| app.enabled && app.webhooks.iter().any(Webhook::hears_members));
        told.any(|app| {
            let name = app.name_of(channel).and_then(|name| Name::parse(name).ok());
            name.is_some_and(|name| name.is_presence())
        })
    }

    /// What the bus keeps of a channel, as it is named inside the hub, when something is published there, whoever does: what its
    /// rules say, and of a cache channel at least the last publication, for as long as clients are shown it.
    #[must_use]
    pub fn keep(&self, channel: &str, rules: &ChannelRules) -> HistoryLimits {
        let keep = rules.keep;
        if !is_cache(outside(channel)) {
            return keep;
        }
        let Some(age) = self.all().iter().map(|app| app.rules.cache_age).max() else { return keep };
        HistoryLimits { count: keep.count.max(1), age: keep.age.max(age), ..keep }
    }

    /// Whether there are none, so that nobody is concerned.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The one that has this key, whether it is enabled or not.
    #[must_use]
    pub fn by_key(&self, key: &str) -> Option<Arc<App>> {
        self.all().iter().find(|app| app.ring.has(key)).cloned()
    }

    /// The one of this id, whether it is enabled or not.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<Arc<App>> {
        self.all().iter().find(|app| *app.id == *id).cloned()
    }
}

/// Who hears what happens on channels of an application, to tell its server. Must not wait: what there is no room for is
/// dropped and counted.
pub trait AppObserver: Send + Sync + 'static {
    /// Something has happened.
    fn observe(&self, app: &Arc<App>, event: WebhookEvent);
}

/// Nobody hears.
impl AppObserver for () {
    fn observe(&self, _: &Arc<App>, _: WebhookEvent) {}
}

#[cfg(test)]
mod tests {
    use dzvin_protocols::identity::{ClaimError, ClaimRules, Claims};

    use super::*;

    fn app(id: &str, keys: &[&str]) -> App {
        let keys = keys.iter().map(|key| Credentials::new(key, "a secret of sixteen").expect("key")).collect();
        App::new(id, keys).expect("app")
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect("name")
    }

    #[test]
    fn an_application_is_found_by_either_key_until_it_is_replaced() {
        let apps = Apps::default();
        assert!(apps.by_key("").is_none() && apps.by_key("k1").is_none());
        apps.replace(vec![app("a", &["k1", "k2"]), app("b", &["k3"])]).expect("apps");
        for (key, id) in [("k1", Some("a")), ("k2", Some("a")), ("k3", Some("b")), ("k", None), ("k11", None)] {
            assert_eq!(apps.by_key(key).map(|app| app.id.to_string()).as_deref(), id, "{key}");
        }
        for (bad, why) in [
            (vec![app("a", &["k1"]), app("a", &["k2"])], AppsError::SameId),
            (vec![app("a", &["k1"]), app("b", &["k2", "k1"])], AppsError::SameKey),
            (vec![app("a", &["k1", "k1"])], AppsError::SameKey),
        ] {
            assert_eq!(apps.replace(bad), Err(why));
            assert!(apps.by_id("b").is_some_and(|app| app.ring.has("k3")), "all stays");
        }
        apps.replace(vec![]).expect("none");
        assert!(apps.by_id("a").is_none());
    }

    #[test]
    fn ids_and_keys_are_checked_and_secrets_do_not_print() {
        for id in ["", "a/b", "a b", "ї", &"a".repeat(MAX_APP_ID + 1)] {
            assert_eq!(App::new(id, vec![]).map(drop), Err(AppsError::Id), "{id}");
        }
        assert!(App::new("a", vec![]).is_err());
        let mut one = app("a", &["k"]);
        one.webhooks = vec![Webhook { url: "https://hooks.example/?token=hunter2".into(), events: vec![] }];
        let shown = format!("{one:?}");
        assert!(!shown.contains("sixteen") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn applications_share_one_set_of_channels_unless_they_are_isolated() {
        let (open, mut own, mut other) = (app("a", &["k"]), app("b", &["l"]), app("c", &["m"]));
        (own.isolated, other.isolated) = (true, true);
        for text in ["x", "private-x", "presence-cache-x", "#server-to-user-7/8", "private-encrypted-x"] {
            let all = [&open, &own, &other].map(|app| app.channel(&name(text)).expect("theirs").to_string());
            assert_eq!(all[0], text);
            assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
            for (inside, app) in all.iter().zip([&open, &own, &other]) {
                assert_eq!((outside(inside), app.name_of(inside)), (text, Some(text)));
                assert_eq!(Channel::of_hub(inside).map(|it| it.to_string()).as_ref(), Ok(inside));
            }
            assert_eq!((own.name_of(&all[0]), own.name_of(&all[2]), open.name_of(&all[1])), (None, None, None));
        }
        let hubs = name("private-entities.procedure");
        assert_eq!(open.channel(&hubs).map(|it| it.to_string()).as_deref(), Some("entities.procedure"));
        assert_eq!(own.channel(&hubs), None);
    }

    #[test]
    fn users_of_an_isolated_application_are_nobody_elses() {
        let (open, mut own, mut other) = (app("a", &["k"]), app("b", &["l"]), app("b-c", &["m"]));
        (own.isolated, other.isolated) = (true, true);
        let user = |id: &str| UserId::new(id).expect("id");
        let seven = own.user(&user("7"));
        assert_eq!(&*open.user(&user("7")), "7");
        // Whatever somebody else is called, of the hub or of an application.
        for id in ["7", "/b/7", "//b/7", "b/7", "b7", "\\u001fb\\u001f7", "%1Fb%1F7", "␟b␟7"] {
            assert_ne!(open.user(&user(id)), seven, "{id}");
            assert_ne!(other.user(&user(id)), seven, "{id}");
            assert_ne!(open.online_channel(&user(id)), own.online_channel(&user("7")), "{id}");
            assert_ne!(open.user_channel(&user(id)), own.user_channel(&user("7")), "{id}");
        }
        // What would be the same is no id, here or in a token.
        assert!(UserId::new(&seven).is_err());
        let claims = Claims { sub: seven.to_string(), ..Claims::default() };
        assert_eq!(claims.check(0, &ClaimRules::default()), Err(ClaimError::Unusable("sub")));
        // Names of two applications do not run into each other either.
        assert_ne!(own.user(&user("-c")), other.user(&user("c")));
    }

    #[test]
    fn a_cache_channel_keeps_its_last_event_for_as_long_as_it_is_shown() {
        let (apps, mut own) = (Apps::default(), app("b", &["l"]));
        own.isolated = true;
        let brief = HistoryLimits { count: 0, bytes: 7, age: Duration::from_secs(1) };
        let long = HistoryLimits { count: 9, bytes: 7, age: Duration::from_secs(86_400) };
        let [brief, long] = [brief, long].map(|keep| ChannelRules { keep, ..ChannelRules::default() });
        assert_eq!(apps.keep("cache-x", &brief), brief.keep, "nobody is ever shown it");
        apps.replace(vec![app("a", &["k"]), own]).expect("apps");
        let shown = HistoryLimits { count: 1, bytes: 7, age: AppRules::default().cache_age };
        for cached in ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x", "/b/cache-x"] {
            assert_eq!((apps.keep(cached, &brief), apps.keep(cached, &long)), (shown, long.keep), "{cached}");
        }
        for other in ["private-x", "cache", "x.cache-x", "/b/x", "/cache-x/x", "#server-to-user-cache-x"] {
            assert_eq!(apps.keep(other, &brief), brief.keep, "{other}");
        }
    }

    #[test]
    fn of_members_hear_those_who_want_to_on_channels_that_have_some() {
        let hook = |events| Webhook { url: "https://hooks.example".into(), events };
        let with = |hook, isolated, enabled| {
            let apps = Apps::default();
            apps.replace(vec![App { webhooks: vec![hook], isolated, enabled, ..app("b", &["k"]) }]).expect("apps");
            apps
        };
        let hear = |apps: &Apps| {
            let names = ["presence-x", "/b/presence-x", "private-x", "/c/presence-x", "x", "#online-@presence-x"];
            names.into_iter().filter(|name| apps.hear_members(name)).collect::<Vec<_>>()
        };
        assert_eq!(hear(&with(hook(vec![]), false, true)), ["presence-x"]);
        assert_eq!(hear(&with(hook(vec!["member_removed"]), true, true)), ["/b/presence-x"]);
        assert_eq!(hear(&with(hook(vec!["channel_occupied", "member_added"]), false, true)), ["presence-x"]);
        assert!(hear(&with(hook(vec!["channel_occupied"]), false, true)).is_empty());
        assert!(hear(&with(hook(vec![]), false, false)).is_empty() && hear(&Apps::default()).is_empty());
    }

    #[test]
    fn a_webhook_wants_what_it_names() {
        let miss = WebhookEvent::CacheMiss { channel: "x".into() };
        let hook = |events| Webhook { url: "https://hooks.example".into(), events };
        assert!(
            hook(vec![]).wants(&miss)
                && hook(vec!["cache_miss"]).wants(&miss)
                && !hook(vec!["client_event"]).wants(&miss)
        );
        let written = serde_json::to_value(&miss).expect("json");
        assert_eq!(written["name"], hook_name(&miss), "the name is that of the wire");
    }
}
