//! For whom the hub itself has signed, as it stands in `channel_data`.
//!
//! A signature of this protocol says neither for whom it was made nor until when, and the client may show it for as long as its
//! socket lives. So where the hub's own endpoint signs a channel of the application for the bearer of a token, it signs along
//! what that token may be ended by: its user, its id, when it was made and when it ends. Whichever node the client shows that to
//! reads it, and no node has to remember anything.
//!
//! Invariants: what is written here makes a signature worth less, never more, so an application's server that writes the same
//! bounds itself alone; the token is not among it; what cannot be read is an error, never a signature without an end.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{json, object};

/// The member of `channel_data`.
const MEMBER: &str = "hub_bearer";

/// The bearer of a token, for whom the hub has signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bearer {
    /// The token's user; empty for nobody.
    pub sub: String,
    /// When what the token allows ends, in seconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When the token was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// The token's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Signed data that names a bearer in a way that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bearer in channel_data cannot be read")]
pub struct BearerError;

impl Bearer {
    /// The bearer in signed `channel_data`; `None` where there is none: an application's server has signed.
    ///
    /// # Errors
    /// [`BearerError`] when one is named and cannot be read.
    pub fn read(channel_data: &str) -> Result<Option<Self>, BearerError> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow, default)]
            hub_bearer: Option<&'a RawValue>,
        }
        let Some(wire) = object::<Wire<'_>>(channel_data) else {
            // Not an object, or one that names a bearer twice: data of others may be anything, so long as it does not speak of one.
            return if channel_data.contains(MEMBER) { Err(BearerError) } else { Ok(None) };
        };
        wire.hub_bearer.map(|raw| object(raw.get()).ok_or(BearerError)).transpose()
    }

    /// This bearer in `channel_data`: in the text of an object, or in one of its own.
    #[must_use]
    pub fn written_into(&self, object: Option<&str>) -> String {
        let inside = object.map(str::trim).and_then(|text| text.strip_prefix('{')?.strip_suffix('}')).map(str::trim);
        let before = inside.filter(|inside| !inside.is_empty()).map_or_else(String::new, |inside| format!("{inside},"));
        format!("{{{before}\"{MEMBER}\":{}}}", json(self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn olha() -> Bearer {
        Bearer { sub: "olha".to_owned(), exp: Some(20), iat: Some(10), jti: Some("t".to_owned()) }
    }

    #[test]
    fn a_bearer_stands_beside_what_the_protocol_knows() {
        assert_eq!(olha().written_into(None), r#"{"hub_bearer":{"sub":"olha","exp":20,"iat":10,"jti":"t"}}"#);
        assert_eq!(
            Bearer { sub: "\"ї".to_owned(), ..Bearer::default() }.written_into(Some(r#"{"user_id":"7"}"#)),
            r#"{"user_id":"7","hub_bearer":{"sub":"\"ї"}}"#
        );
        assert_eq!(olha().written_into(Some(" { } ")), olha().written_into(None));
    }

    #[test]
    fn what_names_no_bearer_is_anybodys_and_what_cannot_be_read_is_refused() {
        for none in
            ["", "x", "{}", "[1]", r#"{"user_id":"7"}"#, r#"{"user_id":"7","user_id":8}"#, r#"{"hub_bearer":null}"#]
        {
            assert_eq!(Bearer::read(none), Ok(None), "{none}");
        }
        let (spelled, all) =
            (r#"{"hub\u005fbearer":{"sub":"olha"}}"#, Bearer { sub: "olha".into(), ..Bearer::default() });
        assert_eq!(Bearer::read(spelled), Ok(Some(all)), "spelled otherwise it is the same name");
        for bad in [
            r#"{"hub_bearer":[]}"#,
            r#"{"hub_bearer":"olha"}"#,
            r#"{"hub_bearer":{"sub":7}}"#,
            r#"{"hub_bearer":{"exp":"20"}}"#,
            r#"{"hub_bearer":{"exp":1e99}}"#,
            r#"{"hub_bearer":{"exp":20},"hub_bearer":{}}"#,
            r#"{"hub_bearer":{"exp":20}"#,
            r#"[{"hub_bearer":{"exp":20}}]"#,
        ] {
            assert_eq!(Bearer::read(bad), Err(BearerError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_bearer_reads_back(sub: String, jti: Option<String>, exp: Option<i64>, iat: Option<i64>, member in any::<bool>()) {
            let it = Bearer { sub, exp, iat, jti };
            let written = it.written_into(member.then_some(r#"{"user_id":"7","user_info":{"n":1.50}}"#));
            prop_assert_eq!(Bearer::read(&written), Ok(Some(it)));
        }
    }
}
