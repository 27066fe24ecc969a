//! `GET /apps/{id}/channels...`: which attributes may be asked of which channels, and the answers.

use serde::{Serialize, Serializer};

use super::{ApiError, Query};
use crate::channels::pusher::{Name, UserId, json};

/// What may be asked about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// How many users are present; presence channels only.
    UserCount,
    /// How many connections are subscribed.
    SubscriptionCount,
    /// The last event; cache channels only.
    Cache,
}

impl Attribute {
    const ALL: [Self; 3] = [Self::UserCount, Self::SubscriptionCount, Self::Cache];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserCount => "user_count",
            Self::SubscriptionCount => "subscription_count",
            Self::Cache => "cache",
        }
    }

    /// Whether channels of this name's kind have it.
    #[must_use]
    pub fn is_of(self, name: &Name) -> bool {
        match self {
            Self::UserCount => name.is_presence(),
            Self::SubscriptionCount => true,
            Self::Cache => name.kind().cache,
        }
    }
}

/// A set of attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info(u8);

impl Info {
    /// Reads names separated by commas; an empty text asks for nothing.
    ///
    /// # Errors
    /// [`ApiError::UnknownAttribute`].
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut info = Self::default();
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = Attribute::ALL.into_iter().find(|attribute| attribute.as_str() == name);
            info.0 |= 1 << known.ok_or_else(|| ApiError::UnknownAttribute(name.to_owned()))? as u8;
        }
        Ok(info)
    }

    /// Whether this one was asked for.
    #[must_use]
    pub const fn has(self, attribute: Attribute) -> bool {
        self.0 & 1 << attribute as u8 != 0
    }

    /// Whether nothing was asked for.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The parameters of `GET /apps/{id}/channels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelsQuery {
    /// What the names of the channels begin with; empty for all.
    pub prefix: String,
    /// What is asked about each.
    pub info: Info,
}

impl ChannelsQuery {
    /// Reads the parameters.
    ///
    /// # Errors
    /// [`ApiError`] when an attribute does not exist, or not for every channel that is asked for.
    pub fn parse(query: &Query) -> Result<Self, ApiError> {
        let prefix = query.get("filter_by_prefix").unwrap_or_default();
        let info = Info::parse(query.get("info").unwrap_or_default())?;
        if info.has(Attribute::UserCount) && !prefix.starts_with("presence-") {
            return Err(ApiError::NotPresence);
        }
        if info.has(Attribute::Cache) {
            return Err(ApiError::Attribute(Attribute::Cache.as_str()));
        }
        Ok(Self { prefix: prefix.to_owned(), info })
    }
}

/// Reads the parameters of `GET /apps/{id}/channels/{name}`.
///
/// # Errors
/// [`ApiError`] when an attribute does not exist, or not for this kind of channel.
pub fn channel_info(query: &Query, name: &Name) -> Result<Info, ApiError> {
    let info = Info::parse(query.get("info").unwrap_or_default())?;
    match Attribute::ALL.into_iter().find(|attribute| info.has(*attribute) && !attribute.is_of(name)) {
        Some(attribute) => Err(ApiError::Attribute(attribute.as_str())),
        None => Ok(info),
    }
}

/// Checks that `GET /apps/{id}/channels/{name}/users` has a meaning.
///
/// # Errors
/// [`ApiError::NotPresence`].
pub fn users_of(name: &Name) -> Result<(), ApiError> {
    if name.is_presence() { Ok(()) } else { Err(ApiError::NotPresence) }
}

/// The last event of a cache channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cached<'a> {
    /// Its data, as text.
    pub data: &'a str,
    /// Seconds until it is forgotten.
    pub ttl: u32,
}

/// What an answer tells of one channel; what was not asked for is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChannelInfo<'a> {
    /// How many users are present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_count: Option<u64>,
    /// How many connections are subscribed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_count: Option<u64>,
    /// The last event; the inner `None` is written as null and says that there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(clippy::option_option, reason = "not asked for, and asked for in vain, are two things on the wire")]
    pub cache: Option<Option<Cached<'a>>>,
}

/// Channels by their names.
pub(super) struct ByName<'a>(pub(super) &'a [(&'a Name, ChannelInfo<'a>)]);

impl Serialize for ByName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, info)| (name.as_str(), info)))
    }
}

/// The answer with all occupied channels.
#[must_use]
pub fn encode_channels(channels: &[(&Name, ChannelInfo<'_>)]) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        channels: ByName<'a>,
    }
    json(&Answer { channels: ByName(channels) })
}

/// The answer about one channel; `occupied` says that somebody is subscribed.
#[must_use]
pub fn encode_channel(occupied: bool, info: ChannelInfo<'_>) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        occupied: bool,
        #[serde(flatten)]
        info: ChannelInfo<'a>,
    }
    json(&Answer { occupied, info })
}

/// The answer with the users who are present.
#[must_use]
pub fn encode_users<'a>(ids: impl IntoIterator<Item = &'a UserId>) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        users: Vec<User<'a>>,
    }
    #[derive(Serialize)]
    struct User<'a> {
        id: &'a UserId,
    }
    json(&Answer { users: ids.into_iter().map(|id| User { id }).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).expect(text)
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect(text)
    }

    #[test]
    fn users_are_counted_only_where_all_channels_have_them() {
        let channels = |text| ChannelsQuery::parse(&query(text));
        let all = channels("").expect("no filter");
        assert!(all.prefix.is_empty() && all.info.is_empty());
        let some = channels("filter_by_prefix=presence-a&info=user_count").expect("presence");
        assert!(some.prefix == "presence-a" && some.info.has(Attribute::UserCount));
        for bad in [
            "info=user_count",
            "info=user_count&filter_by_prefix=presence",
            "info=user_count&filter_by_prefix=private-",
        ] {
            assert_eq!(channels(bad), Err(ApiError::NotPresence), "{bad}");
        }
        assert_eq!(channels("info=cache&filter_by_prefix=cache-"), Err(ApiError::Attribute("cache")));
        assert_eq!(channels("info=x"), Err(ApiError::UnknownAttribute("x".into())));
    }

    #[test]
    fn attributes_belong_to_kinds() {
        for (channel, info, error) in [
            ("presence-x", "user_count,subscription_count", None),
            ("presence-cache-x", "user_count, cache,", None),
            ("x", "subscription_count", None),
            ("x", "", None),
            ("private-x", "user_count", Some("user_count")),
            ("private-x", "subscription_count,cache", Some("cache")),
        ] {
            let got = channel_info(&query(&format!("info={info}")), &name(channel));
            assert_eq!(got.err(), error.map(ApiError::Attribute), "{channel} {info}");
        }
        assert_eq!(users_of(&name("presence-x")), Ok(()));
        assert_eq!(users_of(&name("private-x")).map_err(|error| error.status()), Err(400));
    }

    /// The wire form is a contract: the files under `tests/fixtures/pusher` stay as they are for ever.
    #[test]
    fn answers_equal_their_golden_files() {
        let (x, y) = (name("presence-x"), name("presence-y"));
        let none = ChannelInfo::default();
        let cached = Cached { data: r#"{"a":1.50}"#, ttl: 1800 };
        let users = [UserId::new("1").expect("id"), UserId::new("оля").expect("id")];
        let got = [
            encode_channels(&[]),
            encode_channels(&[(&x, ChannelInfo { user_count: Some(2), ..none }), (&y, none)]),
            encode_channel(false, none),
            encode_channel(true, ChannelInfo { user_count: Some(1), subscription_count: Some(2), ..none }),
            encode_channel(true, ChannelInfo { cache: Some(Some(cached)), ..none }),
            encode_channel(true, ChannelInfo { cache: Some(None), ..none }),
            encode_users(&users),
            encode_users([]),
        ]
        .join("\n");
        assert_eq!(got, include_str!("../../../../../tests/fixtures/pusher/answers.jsonl").trim_end());
    }
}
