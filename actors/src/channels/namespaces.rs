//! Rules of the application's channels: by the word before a channel's first dot, with one set for the rest. And what of each kind's
//! is held back.

use std::collections::HashMap;

use dzvin_protocols::platform::Kind;

use super::HoldRules;
use crate::platform::ports::{ChannelPace, HistoryLimits, Identity};

/// Who may do something on a channel beside those whom a permission grants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Nobody else.
    #[default]
    Granted,
    /// Every user whose token names one.
    SignedIn,
    /// Every connection.
    Anyone,
}

impl Access {
    /// Whether this alone lets somebody in.
    #[must_use]
    pub fn admits(self, identity: &Identity) -> bool {
        match self {
            Self::Granted => false,
            Self::SignedIn => !identity.user.is_empty(),
            Self::Anyone => true,
        }
    }
}

/// What holds for the channels of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChannelRules {
    /// What the bus keeps for those who come back.
    pub keep: HistoryLimits,
    /// Who may listen.
    pub subscribe: Access,
    /// Which clients may publish.
    pub publish: Access,
    /// Who may see who is there, and whether subscribers are shown there at all: not, when nobody may.
    pub presence: Option<Access>,
    /// Subscribers may hear who comes and who leaves.
    pub join_leave: bool,
    /// Subscribers may have patches instead of whole publications.
    pub deltas: bool,
    /// What is held back before it goes out.
    pub hold: Option<HoldRules>,
    /// Whoever comes back gets the latest publication and nothing else of the past.
    pub latest_only: bool,
    /// How often something may be published on one channel.
    pub pace: Option<PaceRules>,
}

/// Who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publisher {
    /// A client.
    Client,
    /// A server of the application.
    Server,
}

/// How often something may be published on one channel, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceRules {
    /// How often.
    pub pace: ChannelPace,
    /// Who is counted and refused; `None`: everybody, together.
    pub only: Option<Publisher>,
}

impl ChannelRules {
    /// What holds for a publication of somebody.
    #[must_use]
    pub fn pace_of(&self, publisher: Publisher) -> Option<ChannelPace> {
        let rules = self.pace.filter(|rules| rules.only.is_none_or(|only| only == publisher))?;
        Some(rules.pace)
    }
}

/// The rules of every channel of the application.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    rest: ChannelRules,
    named: HashMap<String, ChannelRules>,
    kinds: HashMap<Kind, HoldRules>,
}

impl Namespaces {
    /// `named` by the first word of channels, `rest` for every other.
    #[must_use]
    pub fn new(rest: ChannelRules, named: HashMap<String, ChannelRules>) -> Self {
        Self { rest, named, kinds: HashMap::new() }
    }

    /// The same, with what is held back of the hub's own channels.
    #[must_use]
    pub fn with_kinds(self, kinds: HashMap<Kind, HoldRules>) -> Self {
        Self { kinds, ..self }
    }

    /// What is held back of a kind's channels.
    #[must_use]
    pub fn of_kind(&self, kind: &Kind) -> Option<&HoldRules> {
        self.kinds.get(kind)
    }

    /// The rules of a channel whose namespace is named, and does not only fall under the rest.
    #[must_use]
    pub fn named(&self, channel: &str) -> Option<&ChannelRules> {
        let first = channel.split_once('.').map_or(channel, |(first, _)| first);
        self.named.get(first)
    }

    /// The rules of a channel.
    #[must_use]
    pub fn of(&self, channel: &str) -> &ChannelRules {
        let first = channel.split_once('.').map_or(channel, |(first, _)| first);
        self.named.get(first).unwrap_or(&self.rest)
    }

    /// Whether somebody may listen to a channel of the application.
    #[must_use]
    pub fn may_subscribe(&self, channel: &str, identity: &Identity) -> bool {
        (!is_guarded(channel) && self.of(channel).subscribe.admits(identity))
            || identity.permissions.allow("channels", "subscribe", channel)
    }

    /// Whether a client may publish there.
    #[must_use]
    pub fn may_publish(&self, channel: &str, identity: &Identity) -> bool {
        (!is_guarded(channel) && self.of(channel).publish.admits(identity))
            || identity.permissions.allow("channels", "publish", channel)
    }

    /// Whether a client may see who is on a channel; `None` where nobody is shown. `subscribed`: it has been let in there.
    #[must_use]
    pub fn may_see(&self, channel: &str, identity: &Identity, subscribed: bool) -> Option<bool> {
        let access = self.of(channel).presence?;
        let open = subscribed || !is_guarded(channel);
        Some((open && access.admits(identity)) || identity.permissions.allow("channels", "presence", channel))
    }
}

/// Whether the Pusher protocol has the channel opened by a signature: what a namespace lets everybody do is not meant for it.
fn is_guarded(channel: &str) -> bool {
    channel.starts_with("private-") || channel.starts_with("presence-")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dzvin_protocols::identity::Permissions;

    use super::*;

    #[test]
    fn the_first_word_chooses_and_a_permission_opens() {
        let chat = ChannelRules { subscribe: Access::SignedIn, publish: Access::Anyone, ..ChannelRules::default() };
        let all = Namespaces::new(ChannelRules::default(), HashMap::from([("chat".to_owned(), chat)]));
        let who = |user: &str, granted: &[&str]| {
            Identity::new(user, Arc::new(Permissions::parse(granted.iter().copied()).expect("permissions")))
        };
        for (channel, identity, subscribe, publish) in [
            ("chat.1", who("olha", &[]), true, true),
            ("chat", who("olha", &[]), true, true),
            ("chat.1", who("", &[]), false, true),
            ("chats.1", who("olha", &[]), false, false),
            ("news", who("", &["channels:subscribe:news"]), true, false),
            ("news.1", who("", &["channels:*:news.*"]), true, true),
            ("new", who("", &["channels:*:news.*"]), false, false),
        ] {
            assert_eq!(all.may_subscribe(channel, &identity), subscribe, "{channel} {identity:?}");
            assert_eq!(all.may_publish(channel, &identity), publish, "{channel} {identity:?}");
        }
    }

    /// What is open to everybody is not meant for channels that Pusher's clients need a signature for.
    #[test]
    fn a_signature_is_not_replaced_by_an_open_namespace() {
        let open = ChannelRules {
            subscribe: Access::Anyone,
            publish: Access::Anyone,
            presence: Some(Access::Anyone),
            ..ChannelRules::default()
        };
        let all = Namespaces::new(open, HashMap::new());
        let anybody = Identity::new("olha", Arc::new(Permissions::default()));
        for (channel, may) in [("board", true), ("private-board", false), ("presence-board", false)] {
            assert_eq!(all.may_subscribe(channel, &anybody), may, "{channel}");
            assert_eq!(all.may_publish(channel, &anybody), may, "{channel}");
            assert_eq!(all.may_see(channel, &anybody, false), Some(may), "{channel}");
            assert_eq!(all.may_see(channel, &anybody, true), Some(true), "whoever has been let in");
            let granted = Permissions::parse(["channels:*:*"]).expect("permissions");
            let granted = Identity::new("olha", Arc::new(granted));
            assert!(all.may_subscribe(channel, &granted) && all.may_publish(channel, &granted));
            assert_eq!(all.may_see(channel, &granted, false), Some(true), "{channel}");
        }
    }
}
