//! Keys: secrets of ours that sign and verify, and public keys of others that only verify.
//!
//! Invariants: what a key may be used for comes from its configuration, or for a published key from its own kind and the
//! issuer's allowed algorithms; an algorithm that a token names is compared with that and decides nothing. Keys are parsed
//! once. Secrets are never printed.

use aws_lc_rs::{
    hmac,
    rsa::{self, PublicKeyComponents},
    signature::{self, ParsedPublicKey, RsaParameters, VerificationAlgorithm},
};
use dzvin_protocols::identity::{Algorithm, Compact, Family, JwkSet, MAX_SIGNATURE, Material, PublicJwk};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use super::IdentityError;

/// Longest id of a key of ours.
pub(super) const MAX_KEY_ID: usize = 64;
/// Most signatures that are computed for one token: without `kid` a set with many keys must not cost a hundred.
const MAX_TRIES: usize = 4;

/// One secret of ours.
#[derive(Clone)]
pub struct SigningKey {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) key: hmac::Key,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A key for HS256.
    ///
    /// # Errors
    /// As [`SigningKey::with_algorithm`].
    pub fn new(id: &str, secret: &[u8]) -> Result<Self, IdentityError> {
        Self::with_algorithm(id, secret, Algorithm::Hs256)
    }

    /// A key for one algorithm of the HMAC family.
    ///
    /// # Errors
    /// An unusable id, a key that is too short for the algorithm, or an algorithm of another family.
    pub fn with_algorithm(id: &str, secret: &[u8], algorithm: Algorithm) -> Result<Self, IdentityError> {
        if id.is_empty() || id.len() > MAX_KEY_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(IdentityError::KeyId);
        }
        let hash = match algorithm {
            Algorithm::Hs256 => hmac::HMAC_SHA256,
            Algorithm::Hs384 => hmac::HMAC_SHA384,
            Algorithm::Hs512 => hmac::HMAC_SHA512,
            _ => return Err(IdentityError::NotSymmetric(id.to_owned())),
        };
        let least = algorithm.min_secret();
        if secret.len() < least {
            return Err(IdentityError::ShortKey { id: id.to_owned(), least });
        }
        Ok(Self { id: id.to_owned(), algorithm, key: hmac::Key::new(hash, secret) })
    }

    pub(super) fn sign(&self, message: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, message)
    }
}

/// Whether one of these signed the token. A token that names a key is checked against that key only.
pub(super) fn signed_by_us(keys: &[SigningKey], token: &Compact<'_>) -> bool {
    let mut buffer = [0; MAX_SIGNATURE];
    let Ok(signature) = token.signature(&mut buffer) else { return false };
    let fits = |key: &&SigningKey| {
        key.algorithm == token.algorithm && token.key.as_deref().is_none_or(|named| named == key.id)
    };
    keys.iter().filter(fits).any(|key| hmac::verify(&key.key, token.message(), signature).is_ok())
}

/// One public key of an issuer, parsed for each algorithm that it may be used with.
struct PublicKey {
    id: Option<Box<str>>,
    uses: Vec<(Algorithm, ParsedPublicKey)>,
}

/// The public keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet(Vec<PublicKey>);

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// What a set says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of its keys signed it.
    Signed,
    /// None of them did, and a newer set would not say otherwise.
    Refused,
    /// The key that it names is not here: a newer set may have it.
    Unknown,
}

impl KeySet {
    /// The usable keys of a published set.
    pub(super) fn of(set: &JwkSet) -> Self {
        Self(set.keys.iter().filter_map(PublicKey::of_jwk).collect())
    }

    /// Adds a key of the configuration: one `PUBLIC KEY` section, for one algorithm.
    pub(super) fn add_pem(&mut self, id: Option<&str>, pem: &str, algorithm: Algorithm) -> Result<(), IdentityError> {
        let unusable = || IdentityError::PublicKey(id.unwrap_or("without id").to_owned());
        let mut sections = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes());
        let (Some(Ok(der)), None) = (sections.next(), sections.next()) else { return Err(unusable()) };
        if algorithm.family() == Family::Rsa {
            // Bounds are checked by the library with each signature; here it is told at once.
            let key = rsa::PublicKey::from_der(&der).map_err(|_| unusable())?;
            if !(2048 / 8..=8192 / 8).contains(&key.modulus_len()) {
                return Err(unusable());
            }
        }
        let verifies = verification(algorithm).ok_or_else(unusable)?;
        let parsed = ParsedPublicKey::new(verifies, &*der).map_err(|_| unusable())?;
        self.0.push(PublicKey { id: id.map(Box::from), uses: vec![(algorithm, parsed)] });
        Ok(())
    }

    /// How tokens call them.
    pub(super) fn ids(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|key| key.id.as_deref())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Checks a signature. A key without an id may be the one that a token names.
    pub(super) fn check(&self, token: &Compact<'_>) -> Verdict {
        let mut buffer = [0; MAX_SIGNATURE];
        let Ok(signature) = token.signature(&mut buffer) else { return Verdict::Refused };
        let named = token.key.as_deref();
        let may_be = |key: &&PublicKey| match (named, key.id.as_deref()) {
            (Some(named), Some(id)) => named == id,
            _ => true,
        };
        let candidates = self.0.iter().filter(may_be).flat_map(|key| &key.uses);
        let mut fitting = candidates.filter(|(algorithm, _)| *algorithm == token.algorithm).take(MAX_TRIES);
        if fitting.any(|(_, key)| key.verify_sig(token.message(), signature).is_ok()) {
            return Verdict::Signed;
        }
        // A token that names no key may be of a newer one.
        let settled = named.is_some() && self.0.iter().any(|key| key.id.as_deref() == named);
        if settled { Verdict::Refused } else { Verdict::Unknown }
    }
}

impl PublicKey {
    fn of_jwk(jwk: &PublicJwk) -> Option<Self> {
        let uses = jwk.algorithms.iter().filter_map(|algorithm| {
            let parsed = match &jwk.material {
                Material::Rsa { n, e } => {
                    PublicKeyComponents { n, e }.to_parsed_public_key(rsa_parameters(*algorithm)?)
                }
                Material::Ec(point) => ParsedPublicKey::new(verification(*algorithm)?, point),
                Material::Ed(key) => ParsedPublicKey::new(verification(*algorithm)?, key),
            };
            Some((*algorithm, parsed.ok()?))
        });
        let uses: Vec<_> = uses.collect();
        (!uses.is_empty()).then(|| Self { id: jwk.id.clone(), uses })
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

/// How a public key is used; `None` for algorithms that have none.
fn verification(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        Algorithm::EdDsa => &signature::ED25519,
        other => rsa_parameters(other)?,
    })
}
