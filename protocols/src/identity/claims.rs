//! The claims of a token of ours, and when they hold. Signatures are checked elsewhere; here is no clock and no key.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::subscription::{SubscriptionOptions, info_bytes};

/// Longest user id: it names channels and log fields.
pub const MAX_SUBJECT: usize = 256;
/// Longest id of a token: by it a token is revoked, and one that could not be is not taken.
pub const MAX_JTI: usize = 256;
/// Most bytes of `info`, which goes to other clients with presence.
pub const MAX_INFO: usize = 4096;
/// Most channels that a token may subscribe its bearer to, by `channels` and by `subs`: as many as a client may have.
pub const MAX_TOKEN_CHANNELS: usize = 128;

/// Who the bearer is and until when. Unknown claims are ignored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claims {
    /// The user's id; empty for nobody.
    #[serde(default)]
    pub sub: String,
    /// End, in seconds since 1970; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub exp: Option<i64>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub iat: Option<i64>,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub nbf: Option<i64>,
    /// The token's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom; the RFC allows one text or a list.
    #[serde(default, skip_serializing_if = "Audience::is_empty")]
    pub aud: Audience,
    /// What other clients may see of the user, raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info: Option<Box<RawValue>>,
    /// The same in base64, for bytes that are no JSON; it goes before `info`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub b64info: Option<String>,
    /// What the hub keeps with the session and shows to the application only, raw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Box<RawValue>>,
    /// End of the session when it is another than the token's, in seconds since 1970; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub expire_at: Option<i64>,
    /// Channels to which the server subscribes the bearer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// The same, with options.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subs: BTreeMap<String, SubscriptionOptions>,
    /// Only a subscription's token names a channel, and such a token connects nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Names that the configuration turns into permissions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Permissions beyond those of the roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
}

/// One text or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// `"aud": "dzvin"`.
    One(String),
    /// `"aud": ["dzvin", "else"]`.
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Audience {
    /// Whether the token names nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Many(all) if all.is_empty())
    }

    /// Whether the token is for this one.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(all) => all.iter().any(|one| one == name),
        }
    }
}

/// What a token must satisfy besides its signature.
#[derive(Debug, Clone, Default)]
pub struct ClaimRules {
    /// Seconds by which clocks may differ.
    pub leeway: i64,
    /// When set, `iss` must be this.
    pub issuer: Option<String>,
    /// When set, `aud` must contain this.
    pub audience: Option<String>,
}

/// Why claims do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// Another issuer.
    #[error("the token is of another issuer")]
    Issuer,
    /// For another audience.
    #[error("the token is for another audience")]
    Audience,
    /// A claim above its limit or with forbidden characters.
    #[error("the claim {0} is not usable")]
    Unusable(&'static str),
    /// A subscription's token of somebody else.
    #[error("the token is of another user")]
    User,
    /// A subscription's token for something else, or given to connect with.
    #[error("the token is for another channel")]
    Channel,
}

/// The claims that every token has.
pub(super) struct Registered<'a> {
    pub(super) sub: &'a str,
    pub(super) jti: Option<&'a str>,
    pub(super) iss: Option<&'a str>,
    pub(super) aud: &'a Audience,
    pub(super) nbf: Option<i64>,
    pub(super) exp: Option<i64>,
    pub(super) expire_at: Option<i64>,
}

impl Registered<'_> {
    /// Whether they can be used at all.
    pub(super) fn usable(&self) -> Result<(), ClaimError> {
        let plain = |text: &str, most| text.len() <= most && !text.chars().any(char::is_control);
        if !plain(self.sub, MAX_SUBJECT) {
            return Err(ClaimError::Unusable("sub"));
        }
        if self.jti.is_some_and(|jti| !plain(jti, MAX_JTI)) { Err(ClaimError::Unusable("jti")) } else { Ok(()) }
    }

    /// Whether they hold at the moment `now`.
    pub(super) fn hold(&self, now: i64, rules: &ClaimRules) -> Result<(), ClaimError> {
        if rules.issuer.is_some() && rules.issuer.as_deref() != self.iss {
            return Err(ClaimError::Issuer);
        }
        if rules.audience.as_ref().is_some_and(|name| !self.aud.contains(name)) {
            return Err(ClaimError::Audience);
        }
        if self.nbf.is_some_and(|nbf| nbf > now.saturating_add(rules.leeway)) {
            return Err(ClaimError::NotYet);
        }
        let ends = [self.exp, self.expire_at.filter(|at| *at != 0)];
        if ends.into_iter().flatten().any(|end| end <= now.saturating_sub(rules.leeway)) {
            return Err(ClaimError::Expired);
        }
        Ok(())
    }

    /// When what the token allows ends, in seconds since 1970.
    pub(super) fn ends_at(&self) -> Option<i64> {
        self.expire_at.map_or(self.exp, |at| Some(at).filter(|at| *at != 0))
    }
}

impl Claims {
    /// Checks everything but the signature at the moment `now` (seconds since 1970). Being expired is said only of a token
    /// that is good otherwise: a client may react to it by asking for another.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, now: i64, rules: &ClaimRules) -> Result<(), ClaimError> {
        self.registered().usable()?;
        if self.info.as_ref().is_some_and(|info| info.get().len() > MAX_INFO) {
            return Err(ClaimError::Unusable("info"));
        }
        info_bytes(self.info.as_deref(), self.b64info.as_deref())?;
        if self.meta.as_ref().is_some_and(|meta| meta.get().len() > MAX_INFO) {
            return Err(ClaimError::Unusable("meta"));
        }
        if self.channels.len() + self.subs.len() > MAX_TOKEN_CHANNELS {
            return Err(ClaimError::Unusable("channels"));
        }
        self.subs.values().try_for_each(SubscriptionOptions::check)?;
        if self.channel.is_some() {
            return Err(ClaimError::Channel);
        }
        self.registered().hold(now, rules)
    }

    /// What other clients may see of the user: the text of a JSON value, or bytes out of base64.
    #[must_use]
    pub fn info_bytes(&self) -> Option<Bytes> {
        info_bytes(self.info.as_deref(), self.b64info.as_deref()).ok().flatten()
    }

    /// When the session ends, in seconds since 1970; `None`: never.
    #[must_use]
    pub fn ends_at(&self) -> Option<i64> {
        self.registered().ends_at()
    }

    fn registered(&self) -> Registered<'_> {
        let Self { sub, aud, nbf, exp, expire_at, .. } = self;
        let (jti, iss) = (self.jti.as_deref(), self.iss.as_deref());
        Registered { sub, jti, iss, aud, nbf: *nbf, exp: *exp, expire_at: *expire_at }
    }
}

/// NumericDate may carry a fraction; it is cut off. A number that is no time at all is an error.
pub(super) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    /// Year 9999, the last that RFC 3339 can write.
    const LAST: i64 = 253_402_300_799;
    let Some(number) = Option::<serde_json::Number>::deserialize(from)? else { return Ok(None) };
    #[expect(clippy::cast_possible_truncation, reason = "a saturating cast, checked against the range below")]
    let whole = number.as_i64().or_else(|| number.as_f64().map(|f| f.floor() as i64));
    match whole {
        Some(at) if (0..=LAST).contains(&at) => Ok(Some(at)),
        _ => Err(serde::de::Error::custom("not a time in seconds since 1970")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str(json).expect("claims")
    }

    #[test]
    fn reads_what_the_rfc_allows() {
        let c = claims(r#"{"sub":"u","exp":1700000000.9,"aud":"dzvin","info":{"n":1.10},"x":[1]}"#);
        assert_eq!((c.exp, c.aud.contains("dzvin"), c.aud.contains("d")), (Some(1_700_000_000), true, false));
        assert_eq!(c.info.expect("info").get(), r#"{"n":1.10}"#, "raw text is kept");
        assert!(claims(r#"{"aud":["a","b"]}"#).aud.contains("b"));
        for bad in [r#"{"exp":1e300}"#, r#"{"exp":-1}"#, r#"{"exp":"1"}"#, r#"{"sub":1}"#, r#"{"aud":{}}"#, "1"] {
            assert!(serde_json::from_str::<Claims>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_may_end_at_another_time_than_its_token() {
        for (json, ends, verdict) in [
            (r#"{"exp":200}"#, Some(200), Ok(())),
            (r#"{"exp":200,"expire_at":0}"#, None, Ok(())),
            (r#"{"exp":200,"expire_at":300}"#, Some(300), Ok(())),
            (r#"{"expire_at":300}"#, Some(300), Ok(())),
            (r#"{"expire_at":99}"#, Some(99), Err(ClaimError::Expired)),
            (r#"{"exp":99,"expire_at":0}"#, None, Err(ClaimError::Expired)),
        ] {
            let claims = claims(json);
            assert_eq!((claims.ends_at(), claims.check(100, &ClaimRules::default())), (ends, verdict), "{json}");
        }
    }

    #[test]
    fn what_a_token_subscribes_to_is_bounded() {
        let c = claims(
            r#"{"channels":["a"],"subs":{"b":{"data":[1.0],"override":{"presence":{"value":true}}}},"b64info":"AP8="}"#,
        );
        assert_eq!(c.check(0, &ClaimRules::default()), Ok(()));
        assert_eq!(c.info_bytes().as_deref(), Some(&[0, 255][..]));
        assert_eq!(c.subs["b"].overrides.presence, Some(true));
        let many: Vec<String> = (0..=MAX_TOKEN_CHANNELS).map(|n| n.to_string()).collect();
        let long = format!("\"{}\"", "a".repeat(MAX_INFO));
        for (json, claim) in [
            (format!("{{\"channels\":{many:?}}}"), "channels"),
            (format!("{{\"meta\":{long}}}"), "meta"),
            (format!("{{\"subs\":{{\"a\":{{\"data\":{long}}}}}}}"), "data"),
            (r#"{"b64info":"?"}"#.to_owned(), "info"),
        ] {
            assert_eq!(claims(&json).check(0, &ClaimRules::default()), Err(ClaimError::Unusable(claim)), "{json}");
        }
    }

    #[test]
    fn rules_hold_in_their_order() {
        let rules = ClaimRules { leeway: 5, issuer: Some("me".into()), audience: Some("dzvin".into()) };
        let good = r#""iss":"me","aud":"dzvin""#;
        for (json, expected) in [
            (format!("{{{good}}}"), Ok(())),
            (format!("{{{good},\"exp\":96}}"), Ok(())),
            (format!("{{{good},\"exp\":95}}"), Err(ClaimError::Expired)),
            (format!("{{{good},\"nbf\":105}}"), Ok(())),
            (format!("{{{good},\"nbf\":106}}"), Err(ClaimError::NotYet)),
            (r#"{"iss":"me","exp":1}"#.into(), Err(ClaimError::Audience)),
            (r#"{"aud":"dzvin","exp":1}"#.into(), Err(ClaimError::Issuer)),
            (format!("{{{good},\"channel\":\"news\"}}"), Err(ClaimError::Channel)),
            (format!("{{{good},\"sub\":\"a\\u0000\"}}"), Err(ClaimError::Unusable("sub"))),
            (format!("{{{good},\"sub\":\"{}\"}}", "a".repeat(257)), Err(ClaimError::Unusable("sub"))),
            (format!("{{{good},\"info\":\"{}\"}}", "a".repeat(4095)), Err(ClaimError::Unusable("info"))),
        ] {
            assert_eq!(claims(&json).check(100, &rules), expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_json_is_claims_or_an_error(text in "\\PC{0,200}", exp in any::<f64>(), now in any::<i64>()) {
            let _ = serde_json::from_str::<Claims>(&text);
            if let Ok(c) = serde_json::from_str::<Claims>(&format!("{{\"exp\":{exp},\"nbf\":{exp}}}")) {
                let _ = c.check(now, &ClaimRules { leeway: 5, ..ClaimRules::default() });
            }
        }
    }
}
