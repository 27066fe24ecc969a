//! The compact form of a signed token, and the names of algorithms.
//!
//! Invariants: a header is decoded once; a header that asks for what we do not know (`crit`) is refused; whatever a header
//! says of keys (`jwk`, `jku`, `x5u`, `x5c`) is not read at all. What is here decides nothing: an algorithm that a token
//! names is only compared with those that a key is configured for.

use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest token: it must fit beside other headers into the 16 KiB that proxies commonly allow.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Longest id of a key.
pub const MAX_KEY_ID: usize = 256;
/// Most bytes of a signature: RSA with 8192 bits.
pub const MAX_SIGNATURE: usize = 1024;

/// A way to sign that we know. `none` is none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

/// What kind of key an algorithm works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A secret that both sides have.
    Hmac,
    /// RSA, in either padding.
    Rsa,
    /// A point on one certain curve.
    Ec,
    /// Ed25519.
    Ed,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// Its name in tokens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// What kind of key it works with.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => Family::Hmac,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => Family::Rsa,
            Self::Es256 | Self::Es384 | Self::Es512 => Family::Ec,
            Self::EdDsa => Family::Ed,
        }
    }

    /// Least bytes of a secret: RFC 7518, 3.2, as many as the hash has. 0 for what has no secret.
    #[must_use]
    pub fn min_secret(self) -> usize {
        match self {
            Self::Hs256 => 32,
            Self::Hs384 => 48,
            Self::Hs512 => 64,
            _ => 0,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no algorithm that is known here")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        // RFC 9864 calls the only curve that we take by its own name.
        let name = if name == "Ed25519" { "EdDSA" } else { name };
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or(UnknownAlgorithm)
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = Cow::<'de, str>::deserialize(from)?;
        name.parse().map_err(|_| de::Error::custom("expected HS256, RS256, PS256, ES256 (or 384, 512) or EdDSA"))
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// Above [`MAX_TOKEN`].
    #[error("longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of base64url with a header in the first.
    #[error("not three parts of base64url, the first of them a header")]
    Malformed,
    /// An algorithm that we do not know; `none` is one of them.
    #[error(transparent)]
    Algorithm(#[from] UnknownAlgorithm),
    /// The header asks for something that we do not do.
    #[error("the header asks for something that is not known here")]
    Critical,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(default)]
    crit: Option<de::IgnoredAny>,
}

/// A token taken apart, and nothing of it believed yet.
#[derive(Debug, Clone)]
pub struct Compact<'a> {
    /// What its header calls the algorithm.
    pub algorithm: Algorithm,
    /// What its header calls the key.
    pub key: Option<Box<str>>,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`CompactError`].
    pub fn parse(token: &'a str) -> Result<Self, CompactError> {
        if token.len() > MAX_TOKEN {
            return Err(CompactError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(CompactError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(CompactError::Malformed)?;
        // A fourth dot is no base64url and is found when the payload is decoded; here it is cheaper.
        if payload.contains('.') {
            return Err(CompactError::Malformed);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| CompactError::Malformed)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| CompactError::Malformed)?;
        if header.crit.is_some() {
            return Err(CompactError::Critical);
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(CompactError::Malformed);
        }
        let key = header.kid.map(|kid| Box::from(&*kid));
        Ok(Self { algorithm: header.alg.parse()?, key, message, payload, signature })
    }

    /// What was signed.
    #[must_use]
    pub fn message(&self) -> &'a [u8] {
        self.message.as_bytes()
    }

    /// The signature, in a buffer of the caller.
    ///
    /// # Errors
    /// It is no base64url, or longer than any signature.
    pub fn signature<'b>(&self, into: &'b mut [u8; MAX_SIGNATURE]) -> Result<&'b [u8], CompactError> {
        let len = URL_SAFE_NO_PAD.decode_slice(self.signature, into).map_err(|_| CompactError::Malformed)?;
        Ok(&into[..len])
    }

    /// The claims as text.
    ///
    /// # Errors
    /// It is no base64url.
    pub fn payload(&self) -> Result<Vec<u8>, CompactError> {
        URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| CompactError::Malformed)
    }

    /// `iss` of a payload whose signature was not checked: only to find the keys to check it with.
    #[must_use]
    pub fn claimed_issuer(payload: &[u8]) -> Option<Cow<'_, str>> {
        #[derive(Deserialize)]
        struct Claimed<'a> {
            #[serde(borrow)]
            iss: Cow<'a, str>,
        }
        serde_json::from_slice::<Claimed<'_>>(payload).ok().map(|claimed| claimed.iss)
    }
}

/// One part of a token: base64url without padding.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()), base64url(b"sig"))
    }

    #[test]
    fn a_token_is_taken_apart_once() {
        let text = token(r#"{"alg":"ES256","kid":"a\/b","typ":"JWT","jku":"https://evil.example"}"#, r#"{"iss":"me"}"#);
        let compact = Compact::parse(&text).expect("a token");
        assert_eq!((compact.algorithm, compact.key.as_deref()), (Algorithm::Es256, Some("a/b")));
        assert_eq!(compact.message(), text.rsplit_once('.').expect("dots").0.as_bytes());
        assert_eq!(compact.signature(&mut [0; MAX_SIGNATURE]), Ok(&b"sig"[..]));
        assert_eq!(Compact::claimed_issuer(&compact.payload().expect("payload")).as_deref(), Some("me"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for (header, error) in [
            (r#"{"alg":"none"}"#, CompactError::Algorithm(UnknownAlgorithm)),
            (r#"{"alg":"None"}"#, CompactError::Algorithm(UnknownAlgorithm)),
            (r#"{"alg":"hs256"}"#, CompactError::Algorithm(UnknownAlgorithm)),
            (r#"{"alg":""}"#, CompactError::Algorithm(UnknownAlgorithm)),
            (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, CompactError::Critical),
            (r#"{"alg":"HS256","crit":[]}"#, CompactError::Critical),
            (r#"{"alg":["HS256"]}"#, CompactError::Malformed),
            (r#"{"alg":"HS256","alg":"none"}"#, CompactError::Malformed),
            (r#"{"alg":"HS256","kid":1}"#, CompactError::Malformed),
            (r#"{"kid":"a"}"#, CompactError::Malformed),
            ("[]", CompactError::Malformed),
            ("", CompactError::Malformed),
        ] {
            assert_eq!(Compact::parse(&token(header, "{}")).map(drop), Err(error), "{header}");
        }
        let long_kid = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(MAX_KEY_ID + 1));
        assert_eq!(Compact::parse(&token(&long_kid, "{}")).map(drop), Err(CompactError::Malformed));
        assert_eq!(Compact::parse(&"a".repeat(MAX_TOKEN + 1)).map(drop), Err(CompactError::TooLong));
        let good = token(r#"{"alg":"HS256"}"#, "{}");
        for bad in ["", ".", "..", "...", &format!("{good}.x"), &format!("x.{good}"), &good.replace('.', "=.")] {
            assert!(Compact::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_signature_has_one_spelling() {
        let text = token(r#"{"alg":"HS256"}"#, "{}");
        let (message, _) = text.rsplit_once('.').expect("dots");
        for (bad, why) in [("c2ln=", "padding"), ("c2lnQR", "bits beyond the last byte"), ("c2l+", "another alphabet")]
        {
            let text = format!("{message}.{bad}");
            let compact = Compact::parse(&text).expect("a token");
            assert_eq!(compact.signature(&mut [0; MAX_SIGNATURE]), Err(CompactError::Malformed), "{why}");
        }
        let text = format!("{message}.{}", base64url(&[1; MAX_SIGNATURE + 1]));
        assert!(Compact::parse(&text).expect("a token").signature(&mut [0; MAX_SIGNATURE]).is_err());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(serde_json::from_value(serde_json::json!(algorithm)).ok(), Some(algorithm));
            assert_eq!(algorithm.min_secret() > 0, algorithm.family() == Family::Hmac);
        }
        assert_eq!("Ed25519".parse(), Ok(Algorithm::EdDsa));
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "\\PC{0,200}", header in "\\PC{0,60}", payload in "\\PC{0,60}") {
            let _ = Compact::parse(&text);
            let _ = Compact::claimed_issuer(text.as_bytes());
            if let Ok(compact) = Compact::parse(&token(&header, &payload)) {
                prop_assert_eq!(compact.payload(), Ok(payload.into_bytes()));
            }
        }
    }
}
