//! Sets of public keys (RFC 7517), as issuers publish them. No cryptography here: what a key says of itself is read, checked
//! for form, and narrowed to the algorithms that the configuration allows.
//!
//! Invariants: a secret in a published set (`oct`) is no key; one key that cannot be used does not spoil the others; a set
//! without any usable key, or with more than [`MAX_SET_KEYS`], is none.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::jose::{Algorithm, Family, MAX_KEY_ID};

/// Most keys of a set: issuers have two or three, large ones a dozen; each costs memory and, without ids, time for every token.
pub const MAX_SET_KEYS: usize = 100;
/// Least and most bits of an RSA modulus: below it is breakable, above it a verification costs too much.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The usable keys of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwkSet {
    /// In the order of the set.
    pub keys: Vec<PublicJwk>,
    /// Those that were left out: secrets, keys for encryption, unknown curves, malformed ones.
    pub skipped: usize,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicJwk {
    /// How tokens call it.
    pub id: Option<Box<str>>,
    /// What it may be used for; never empty.
    pub algorithms: Vec<Algorithm>,
    /// The key itself.
    pub material: Material,
}

/// Numbers of a public key, well formed but not yet known to be a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// An uncompressed point, `04 x y`.
    Ec(Vec<u8>),
    /// The 32 bytes of an Ed25519 key.
    Ed(Vec<u8>),
}

/// Why a text is no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkSetError {
    /// Not JSON with a list `keys`.
    #[error("not a set of keys")]
    Malformed,
    /// More than [`MAX_SET_KEYS`].
    #[error("more than {MAX_SET_KEYS} keys")]
    TooMany,
    /// No key that could verify anything.
    #[error("none of its keys can be used")]
    Empty,
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Jwk<'a> {
    #[serde(borrow)]
    kty: Cow<'a, str>,
    #[serde(borrow, default, rename = "use")]
    purpose: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    key_ops: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    crv: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    n: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    e: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    x: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    y: Option<Cow<'a, str>>,
}

impl JwkSet {
    /// Reads a set, and of each key only what is `allowed`.
    ///
    /// # Errors
    /// [`JwkSetError`].
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<Self, JwkSetError> {
        let set: Set<'_> = serde_json::from_slice(json).map_err(|_| JwkSetError::Malformed)?;
        if set.keys.len() > MAX_SET_KEYS {
            return Err(JwkSetError::TooMany);
        }
        let all = set.keys.len();
        let keys: Vec<PublicJwk> = set.keys.into_iter().filter_map(|raw| PublicJwk::parse(raw, allowed)).collect();
        if keys.is_empty() {
            return Err(JwkSetError::Empty);
        }
        let skipped = all - keys.len();
        Ok(Self { keys, skipped })
    }
}

impl PublicJwk {
    fn parse(raw: &RawValue, allowed: &[Algorithm]) -> Option<Self> {
        let jwk: Jwk<'_> = serde_json::from_str(raw.get()).ok()?;
        let signs = jwk.purpose.is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.is_none_or(|all| all.iter().any(|op| op == "verify"));
        if !signs || jwk.kid.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID) {
            return None;
        }
        let id = jwk.kid.as_deref().map(Box::from);
        let of = |text: &Option<Cow<'_, str>>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        // Coordinates have the size of their field, RFC 7518, 6.2.1.2.
        let coordinate = |text, size| of(text).filter(|bytes| bytes.len() == size);
        let point = |size| {
            let (x, y) = (coordinate(&jwk.x, size)?, coordinate(&jwk.y, size)?);
            Some(Material::Ec([&[4], &*x, &*y].concat()))
        };
        let (material, fits): (_, fn(Algorithm) -> bool) = match (&*jwk.kty, jwk.crv.as_deref()) {
            ("RSA", _) => (rsa(of(&jwk.n)?, of(&jwk.e)?)?, |algorithm| algorithm.family() == Family::Rsa),
            ("EC", Some("P-256")) => (point(32)?, |algorithm| algorithm == Algorithm::Es256),
            ("EC", Some("P-384")) => (point(48)?, |algorithm| algorithm == Algorithm::Es384),
            ("EC", Some("P-521")) => (point(66)?, |algorithm| algorithm == Algorithm::Es512),
            ("OKP", Some("Ed25519")) => {
                (Material::Ed(coordinate(&jwk.x, 32)?), |algorithm| algorithm == Algorithm::EdDsa)
            }
            _ => return None,
        };
        let named = match jwk.alg.as_deref() {
            // An algorithm that we do not know is for something else.
            Some(name) => Some(name.parse::<Algorithm>().ok()?),
            None => None,
        };
        let algorithms: Vec<Algorithm> =
            allowed.iter().copied().filter(|one| fits(*one) && named.is_none_or(|named| named == *one)).collect();
        (!algorithms.is_empty()).then_some(Self { id, algorithms, material })
    }
}

/// A modulus within bounds and an odd exponent of at least 3: with 1 every message is its own signature.
fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Material> {
    // Some issuers write a sign byte before the modulus.
    let trimmed = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (trimmed(n), trimmed(e));
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    let small = e.len() <= 4 && e.last().is_some_and(|last| last % 2 == 1) && e != [1];
    (RSA_BITS.contains(&bits) && small).then_some(Material::Rsa { n, e })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "kid": "a", "x": b64(&[1; 32]), "y": b64(&[2; 32])})
    }

    fn rsa_key() -> Value {
        json!({"kty": "RSA", "kid": "r", "n": b64(&[0x80; 256]), "e": "AQAB"})
    }

    fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
        key[name] = value.into();
        key
    }

    fn parse(keys: &[Value]) -> Result<JwkSet, JwkSetError> {
        JwkSet::parse(json!({"keys": keys, "more": 1}).to_string().as_bytes(), &Algorithm::ALL)
    }

    #[test]
    fn a_key_is_good_for_what_its_kind_allows() {
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(&[3; 32])});
        let set = parse(&[ec(), rsa_key(), ed, with(rsa_key(), "alg", "PS384")]).expect("a set");
        let names = |key: &PublicJwk| key.algorithms.iter().map(|one| one.name()).collect::<Vec<_>>().join(" ");
        let all: Vec<_> = set.keys.iter().map(|key| (key.id.as_deref(), names(key))).collect();
        let rsa = "RS256 RS384 RS512 PS256 PS384 PS512".to_owned();
        assert_eq!(
            all,
            [
                (Some("a"), "ES256".to_owned()),
                (Some("r"), rsa),
                (None, "EdDSA".to_owned()),
                (Some("r"), "PS384".to_owned())
            ]
        );
        let narrow = json!({"keys": [ec(), rsa_key()]}).to_string();
        let set = JwkSet::parse(narrow.as_bytes(), &[Algorithm::Rs256]).expect("a set");
        assert_eq!((set.keys.len(), set.skipped, &*set.keys[0].algorithms), (1, 1, &[Algorithm::Rs256][..]));
    }

    #[test]
    fn what_cannot_verify_is_left_out() {
        for bad in [
            json!({"kty": "oct", "kid": "s", "k": b64(&[7; 32]), "alg": "HS256"}),
            with(ec(), "use", "enc"),
            with(ec(), "key_ops", json!(["encrypt"])),
            with(ec(), "alg", "ES384"),
            with(ec(), "alg", "HS256"),
            with(ec(), "alg", "none"),
            with(ec(), "crv", "secp256k1"),
            with(ec(), "x", b64(&[1; 31])),
            with(ec(), "y", Value::Null),
            with(ec(), "kid", "k".repeat(MAX_KEY_ID + 1)),
            with(ec(), "kid", 7),
            with(rsa_key(), "n", b64(&[0x80; 128])),
            with(rsa_key(), "n", b64(&[0x80; 1025])),
            with(rsa_key(), "n", ""),
            with(rsa_key(), "e", b64(&[1])),
            with(rsa_key(), "e", b64(&[1, 0, 0])),
            with(rsa_key(), "e", b64(&[1, 0, 0, 0, 1])),
            with(rsa_key(), "e", "AQAB="),
            with(rsa_key(), "alg", "RSA-OAEP"),
            json!([]),
            json!("key"),
        ] {
            assert_eq!(parse(std::slice::from_ref(&bad)), Err(JwkSetError::Empty), "{bad}");
            let set = parse(&[bad.clone(), ec()]).expect("a set");
            assert_eq!((set.keys.len(), set.skipped), (1, 1), "{bad}");
        }
        let padded = [&[0][..], &[0x80; 256]].concat();
        assert!(parse(&[with(rsa_key(), "n", b64(&padded))]).is_ok(), "a sign byte is no fault");
    }

    #[test]
    fn sets_are_bounded() {
        assert_eq!(parse(&vec![ec(); MAX_SET_KEYS]).map(|set| set.keys.len()), Ok(MAX_SET_KEYS));
        assert_eq!(parse(&vec![ec(); MAX_SET_KEYS + 1]), Err(JwkSetError::TooMany));
        for bad in ["", "{}", "[]", r#"{"keys":{}}"#, "<html>"] {
            assert_eq!(JwkSet::parse(bad.as_bytes(), &Algorithm::ALL), Err(JwkSetError::Malformed), "{bad}");
        }
        assert_eq!(parse(&[]), Err(JwkSetError::Empty));
    }

    proptest! {
        #[test]
        fn any_json_is_a_set_or_an_error(text in "\\PC{0,200}", field in "kty|use|alg|kid|crv|x|y", value in "\\PC{0,20}") {
            let _ = JwkSet::parse(text.as_bytes(), &Algorithm::ALL);
            let _ = parse(&[with(ec(), &field, value)]);
        }
    }
}
