//! What a token says of one subscription: in a token of its own, or within a connection's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::claims::{Audience, ClaimError, ClaimRules, MAX_INFO, Registered, seconds};

/// A choice as it stands in a token: `{"value":true}`.
mod choice {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::channels::centrifuge::or_default;

    #[derive(Serialize, Deserialize)]
    struct Choice {
        #[serde(default, deserialize_with = "or_default")]
        value: bool,
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(choice: &Option<bool>, to: S) -> Result<S::Ok, S::Error> {
        choice.map(|value| Choice { value }).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
        Ok(Option::<Choice>::deserialize(from)?.map(|choice| choice.value))
    }
}

/// Choices of one subscription; what is absent is left to the configuration of the channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Whether the subscriber is shown in the channel's presence.
    #[serde(with = "choice", skip_serializing_if = "Option::is_none")]
    pub presence: Option<bool>,
    /// Whether others are told that the subscriber comes and leaves.
    #[serde(with = "choice", skip_serializing_if = "Option::is_none")]
    pub join_leave: Option<bool>,
    /// Whether the subscription can be recovered without having asked for it.
    #[serde(with = "choice", skip_serializing_if = "Option::is_none")]
    pub force_recovery: Option<bool>,
    /// Whether its offsets are checked without having asked for it.
    #[serde(with = "choice", skip_serializing_if = "Option::is_none")]
    pub force_positioning: Option<bool>,
    /// Whether the subscriber is told of joins and leaves without having asked for it.
    #[serde(with = "choice", skip_serializing_if = "Option::is_none")]
    pub force_push_join_leave: Option<bool>,
}

/// A subscription that a connection's token makes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionOptions {
    /// What other subscribers may see of this one, raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Box<RawValue>>,
    /// The same in base64; it goes before `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64info: Option<String>,
    /// What the client is told when it is subscribed, raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The same in base64; it goes before `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64data: Option<String>,
    /// Choices that go before the configuration's.
    #[serde(rename = "override")]
    pub overrides: Overrides,
}

impl SubscriptionOptions {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`ClaimError::Unusable`] with the name of the claim.
    pub fn check(&self) -> Result<(), ClaimError> {
        info_bytes(self.info.as_deref(), self.b64info.as_deref())?;
        bytes("data", self.data.as_deref(), self.b64data.as_deref()).map(drop)
    }

    /// What other subscribers may see: the text of a JSON value, or bytes out of base64.
    #[must_use]
    pub fn info_bytes(&self) -> Option<Bytes> {
        info_bytes(self.info.as_deref(), self.b64info.as_deref()).ok().flatten()
    }

    /// What the client is told, in the same forms.
    #[must_use]
    pub fn data_bytes(&self) -> Option<Bytes> {
        bytes("data", self.data.as_deref(), self.b64data.as_deref()).ok().flatten()
    }
}

/// The claims of a token for one channel. Unknown claims are ignored.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionClaims {
    /// The user's id, which must be the connection's; empty for nobody.
    pub sub: String,
    /// The channel.
    pub channel: String,
    /// End, in seconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub exp: Option<i64>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub iat: Option<i64>,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub nbf: Option<i64>,
    /// The token's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom.
    #[serde(skip_serializing_if = "Audience::is_empty")]
    pub aud: Audience,
    /// What other subscribers may see of this one, raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Box<RawValue>>,
    /// The same in base64; it goes before `info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64info: Option<String>,
    /// End of the subscription when it is another than the token's, in seconds since 1970; 0: never.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    pub expire_at: Option<i64>,
    /// Choices that go before the configuration's.
    #[serde(rename = "override")]
    pub overrides: Overrides,
}

impl SubscriptionClaims {
    /// Checks everything but the signature at the moment `now` (seconds since 1970), for the connection's user and the channel
    /// that is asked for. Being expired is said only of a token that is good otherwise.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, user: &str, channel: &str, now: i64, rules: &ClaimRules) -> Result<(), ClaimError> {
        self.registered().usable()?;
        info_bytes(self.info.as_deref(), self.b64info.as_deref())?;
        if self.sub != user {
            return Err(ClaimError::User);
        }
        if self.channel != channel || channel.is_empty() {
            return Err(ClaimError::Channel);
        }
        self.registered().hold(now, rules)
    }

    /// What other subscribers may see: the text of a JSON value, or bytes out of base64.
    #[must_use]
    pub fn info_bytes(&self) -> Option<Bytes> {
        info_bytes(self.info.as_deref(), self.b64info.as_deref()).ok().flatten()
    }

    /// When the subscription ends, in seconds since 1970; `None`: never.
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

/// The bytes of `info`, of which there are at most [`MAX_INFO`].
pub(super) fn info_bytes(raw: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Bytes>, ClaimError> {
    bytes("info", raw, base64)
}

fn bytes(claim: &'static str, raw: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Bytes>, ClaimError> {
    let unusable = ClaimError::Unusable(claim);
    let bytes = match base64 {
        Some(text) if text.len() > MAX_INFO * 2 => return Err(unusable),
        Some(text) => Some(Bytes::from(STANDARD.decode(text).map_err(|_| unusable)?)),
        None => raw.map(|raw| Bytes::copy_from_slice(raw.get().as_bytes())),
    };
    if bytes.as_ref().is_some_and(|bytes| bytes.len() > MAX_INFO) { Err(unusable) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(json: &str) -> SubscriptionClaims {
        serde_json::from_str(json).expect("claims")
    }

    #[test]
    fn a_token_is_for_one_user_and_one_channel() {
        let rules = ClaimRules { leeway: 5, issuer: Some("me".into()), audience: None };
        for (json, expected) in [
            (r#"{"sub":"olha","channel":"news","iss":"me"}"#, Ok(())),
            (r#"{"sub":"olha","channel":"news","iss":"me","exp":96,"expire_at":0}"#, Ok(())),
            (r#"{"sub":"ihor","channel":"news","iss":"me","exp":1}"#, Err(ClaimError::User)),
            (r#"{"channel":"news","iss":"me"}"#, Err(ClaimError::User)),
            (r#"{"sub":"olha","channel":"new","iss":"me"}"#, Err(ClaimError::Channel)),
            (r#"{"sub":"olha","iss":"me"}"#, Err(ClaimError::Channel)),
            (r#"{"sub":"olha","channel":"news"}"#, Err(ClaimError::Issuer)),
            (r#"{"sub":"olha","channel":"news","iss":"me","nbf":106}"#, Err(ClaimError::NotYet)),
            (r#"{"sub":"olha","channel":"news","iss":"me","exp":95}"#, Err(ClaimError::Expired)),
            (r#"{"sub":"olha","channel":"news","iss":"me","expire_at":95}"#, Err(ClaimError::Expired)),
            (r#"{"sub":"olha","channel":"news","iss":"me","b64info":"x"}"#, Err(ClaimError::Unusable("info"))),
        ] {
            assert_eq!(claims(json).check("olha", "news", 100, &rules), expected, "{json}");
        }
        assert_eq!(SubscriptionClaims::default().check("", "", 0, &ClaimRules::default()), Err(ClaimError::Channel));
    }

    #[test]
    fn overrides_are_read() {
        let text = r#"{"presence":{"value":false},"force_recovery":{"value":true}}"#;
        let c = claims(&format!("{{\"override\":{text}}}"));
        let expected = Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() };
        assert_eq!(c.overrides, expected);
        assert_eq!(serde_json::to_string(&expected).expect("text"), text);
        assert_eq!(claims(r#"{"override":{"join_leave":{},"presence":null,"x":1}}"#).overrides.join_leave, Some(false));
    }

    #[test]
    fn base64_goes_first() {
        let c = claims(r#"{"info":{"n":1.10},"b64info":"e30="}"#);
        assert_eq!(c.info_bytes().as_deref(), Some(&b"{}"[..]));
        assert_eq!(claims(r#"{"info":{"n":1.10}}"#).info_bytes().as_deref(), Some(&br#"{"n":1.10}"#[..]));
        let long = STANDARD.encode(vec![0; MAX_INFO + 1]);
        let it = SubscriptionOptions { b64data: Some(long), ..SubscriptionOptions::default() };
        assert_eq!((it.check(), it.data_bytes()), (Err(ClaimError::Unusable("data")), None));
    }

    proptest! {
        #[test]
        fn any_json_is_claims_or_an_error(text in "\\PC{0,200}", info in "\\PC{0,20}", now: i64, at in -1i64..400_000_000_000) {
            let _ = serde_json::from_str::<SubscriptionClaims>(&text);
            let json = serde_json::json!({"sub": "u", "channel": "c", "b64info": info, "expire_at": at}).to_string();
            if let Ok(claims) = serde_json::from_str::<SubscriptionClaims>(&json) {
                let verdict = claims.check("u", "c", now, &ClaimRules::default());
                prop_assert!(verdict.is_err() || claims.ends_at().is_none_or(|end| end > now));
            }
        }
    }
}
