//! People: `channel_data` of a presence channel and `user_data` of a sign-in, as the application signed them.

use std::{fmt, sync::Arc};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{json, object};

/// Longest user id, in bytes: the hosted service's limit.
pub const MAX_USER_ID: usize = 128;
/// Most users of a watchlist that are kept: the hosted service's limit.
pub const MAX_WATCHLIST: usize = 100;
/// Most bytes of `user_info` unless configured otherwise: the hosted service's limit.
pub const DEFAULT_MAX_INFO: usize = 1024;

/// Data about a user that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not a JSON object with the members that are expected.
    #[error("the user's data is not an object with an id")]
    Malformed,
    /// The id is empty, too long, has control characters, or is neither text nor a whole number.
    #[error("a user id is 1 to {MAX_USER_ID} bytes without control characters")]
    Id,
    /// `user_info` is above the limit, in bytes.
    #[error("user_info is above {0} bytes")]
    Info(usize),
}

/// The id of a user within the application, 1 to [`MAX_USER_ID`] bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks length and control characters.
    ///
    /// # Errors
    /// [`UserError::Id`] when it does not fit.
    pub fn new(id: &str) -> Result<Self, UserError> {
        if id.is_empty() || id.len() > MAX_USER_ID || id.chars().any(char::is_control) {
            return Err(UserError::Id);
        }
        Ok(Self(id.into()))
    }

    /// Text, or a whole number by its digits: never through a float, which would change long ones.
    fn of(value: &RawValue) -> Result<Self, UserError> {
        let text = value.get();
        if text.starts_with('"') {
            return Self::new(&serde_json::from_str::<String>(text).map_err(|_| UserError::Id)?);
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.bytes().all(|b| b.is_ascii_digit()) { Self::new(text) } else { Err(UserError::Id) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for UserId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

fn info(value: Option<&RawValue>, limit: usize) -> Result<Option<Box<RawValue>>, UserError> {
    if value.is_some_and(|value| value.get().len() > limit) {
        Err(UserError::Info(limit))
    } else {
        Ok(value.map(ToOwned::to_owned))
    }
}

/// One who is present on a channel.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who; several connections may be of one user, who is then one member.
    pub id: UserId,
    /// What other members see, raw.
    pub info: Option<Box<RawValue>>,
}

impl Member {
    /// Reads `channel_data`, whose signature has been checked. `max_info` is the limit of `user_info` in bytes.
    ///
    /// # Errors
    /// [`UserError`] says which part is not usable.
    pub fn parse(channel_data: &str, max_info: usize) -> Result<Self, UserError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            user_id: &'a RawValue,
            #[serde(borrow, default)]
            user_info: Option<&'a RawValue>,
        }
        let wire: Wire = object(channel_data).ok_or(UserError::Malformed)?;
        Ok(Self { id: UserId::of(wire.user_id)?, info: info(wire.user_info, max_info)? })
    }

    /// The member as `channel_data`: what the auth endpoint signs and hands to the client.
    #[must_use]
    pub fn channel_data(&self) -> String {
        let id = json(&self.id);
        match &self.info {
            Some(info) => format!("{{\"user_id\":{id},\"user_info\":{}}}", info.get()),
            None => format!("{{\"user_id\":{id}}}"),
        }
    }
}

/// One who has signed in on a connection.
#[derive(Debug, Clone)]
pub struct User {
    /// Who, and what members of presence channels see when `channel_data` says nothing else.
    pub member: Member,
    /// Whose coming and going the user wants to be told of: the first [`MAX_WATCHLIST`].
    pub watchlist: Vec<UserId>,
    /// The list was longer; the client is told by error 4302.
    pub watchlist_cut: bool,
}

impl User {
    /// Reads `user_data`, whose signature has been checked. `max_info` is the limit of `user_info` in bytes. The id must be
    /// text here: pusher-js takes nothing else.
    ///
    /// # Errors
    /// [`UserError`] says which part is not usable; the sign-in fails with error 4009.
    pub fn parse(user_data: &str, max_info: usize) -> Result<Self, UserError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            id: String,
            #[serde(borrow, default)]
            user_info: Option<&'a RawValue>,
            #[serde(borrow, default)]
            watchlist: Option<Vec<&'a RawValue>>,
        }
        let wire: Wire = object(user_data).ok_or(UserError::Malformed)?;
        let watchlist = wire.watchlist.unwrap_or_default();
        Ok(Self {
            member: Member { id: UserId::new(&wire.id)?, info: info(wire.user_info, max_info)? },
            watchlist_cut: watchlist.len() > MAX_WATCHLIST,
            watchlist: watchlist.into_iter().take(MAX_WATCHLIST).map(UserId::of).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(data: &str) -> Result<(String, Option<String>), UserError> {
        Member::parse(data, 20).map(|m| (m.id.to_string(), m.info.map(|info| info.get().to_owned())))
    }

    #[test]
    fn a_members_id_may_be_a_number_and_info_stays_as_written() {
        let cases = [
            (r#"{"user_id":"a","user_info":{"n": 1.50}}"#, "a", Some(r#"{"n": 1.50}"#)),
            (r#" {"user_id":10,"x":[]}"#, "10", None),
            (r#"{"user_id":123456789012345678901,"user_info":null}"#, "123456789012345678901", None),
            (r#"{"user_id":-1}"#, "-1", None),
            (r#"{"user_id":"\u0434"}"#, "д", None),
        ];
        for (data, id, info) in cases {
            assert_eq!(member(data), Ok((id.to_owned(), info.map(ToOwned::to_owned))), "{data}");
        }
    }

    #[test]
    fn unusable_members_are_refused() {
        for data in ["", "x", "null", "[1,2]", "{}", r#"{"user_info":{}}"#, r#"{"user_id":1,"user_id":2}"#] {
            assert_eq!(member(data), Err(UserError::Malformed), "{data}");
        }
        let long = format!("{{\"user_id\":\"{}\"}}", "x".repeat(129));
        for data in [
            r#"{"user_id":""}"#,
            r#"{"user_id":1.5}"#,
            r#"{"user_id":1e3}"#,
            r#"{"user_id":true}"#,
            r#"{"user_id":null}"#,
            r#"{"user_id":"\n"}"#,
            &long,
        ] {
            assert_eq!(member(data), Err(UserError::Id), "{data}");
        }
        assert_eq!(member(r#"{"user_id":1,"user_info":"more than 20 bytes"}"#).err(), None);
        assert_eq!(member(r#"{"user_id":1,"user_info":"more than 20 bytes!"}"#), Err(UserError::Info(20)));
    }

    #[test]
    fn a_watchlist_keeps_its_first_hundred() {
        let list = |n: usize| (0..n).map(|i| format!("\"u{i}\"")).collect::<Vec<_>>().join(",");
        let user = |n| User::parse(&format!("{{\"id\":\"a\",\"watchlist\":[{}]}}", list(n)), 0).expect("a user");
        assert_eq!((user(100).watchlist.len(), user(100).watchlist_cut), (100, false));
        assert_eq!((user(101).watchlist.len(), user(101).watchlist_cut), (100, true));
        assert_eq!(user(101).watchlist[99].as_str(), "u99");
        assert!(User::parse(r#"{"id":"a"}"#, 0).expect("a user").watchlist.is_empty());
    }

    #[test]
    fn who_signs_in_has_a_text_for_an_id() {
        for (data, error) in [
            (r#"{"id":1}"#, UserError::Malformed),
            ("{}", UserError::Malformed),
            (r#"{"id":""}"#, UserError::Id),
            (r#"{"id":"a","watchlist":[{}]}"#, UserError::Id),
            (r#"{"id":"a","user_info":1}"#, UserError::Info(0)),
        ] {
            assert_eq!(User::parse(data, 0).err(), Some(error), "{data}");
        }
    }

    proptest! {
        #[test]
        fn a_member_reads_back(id in "[^\\p{Cc}]{1,30}", info in proptest::option::of("[a-z\"\\\\é]{0,9}")) {
            let info = info.map(|text| serde_json::value::to_raw_value(&text).unwrap());
            let it = Member { id: UserId::new(&id).unwrap(), info };
            let again = Member::parse(&it.channel_data(), 99).unwrap();
            prop_assert_eq!(again.id, it.id);
            prop_assert_eq!(again.info.map(|i| i.get().to_owned()), it.info.map(|i| i.get().to_owned()));
        }

        #[test]
        fn any_text_is_a_value(text in "\\PC{0,200}") {
            let _ = (member(&text), User::parse(&text, 10));
        }
    }
}
