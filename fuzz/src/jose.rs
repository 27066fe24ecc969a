//! Tokens taken apart, and sets of public keys, before anything is believed of them.

use dzvin_protocols::identity::{
    Algorithm, Compact, Family, JwkSet, MAX_KEY_ID, MAX_SET_KEYS, MAX_SIGNATURE, MAX_TOKEN, Material,
};

use super::text;

/// The whole input is a token, and a set of keys; and what stands before the first newline is a token by itself.
pub fn jose(data: &[u8]) {
    let all = text(data);
    let (first, rest) = all.split_once('\n').unwrap_or((&all, ""));
    token(first);
    token(&all);
    keys(data);
    keys(rest.as_bytes());
}

/// What is taken apart is within its limits and put together is the same; nothing names an algorithm that is none.
fn token(token: &str) {
    let Ok(compact) = Compact::parse(token) else { return };
    assert!(token.len() <= MAX_TOKEN && compact.key.as_ref().is_none_or(|key| key.len() <= MAX_KEY_ID));
    assert_eq!(compact.algorithm.name().parse(), Ok(compact.algorithm));
    assert_eq!(token.matches('.').count(), 2, "three parts");
    assert!(token.as_bytes().starts_with(compact.message()), "what is signed is what was sent");
    let mut room = [0; MAX_SIGNATURE];
    if let Ok(signature) = compact.signature(&mut room) {
        assert!(signature.len() <= MAX_SIGNATURE);
    }
    if let Ok(payload) = compact.payload() {
        let issuer = Compact::claimed_issuer(&payload);
        assert!(issuer.is_none_or(|issuer| issuer.len() <= payload.len()));
    }
}

/// Keys that are taken fit the algorithms that they are for, and are never for one that was not allowed.
fn keys(json: &[u8]) {
    let Ok(set) = JwkSet::parse(json, &Algorithm::ALL) else {
        return assert!(JwkSet::parse(json, &[Algorithm::EdDsa]).is_err(), "fewer allowed, no more taken");
    };
    assert!(!set.keys.is_empty() && set.keys.len() + set.skipped <= MAX_SET_KEYS);
    for key in &set.keys {
        assert!(!key.algorithms.is_empty() && key.id.as_ref().is_none_or(|id| id.len() <= MAX_KEY_ID));
        let family = match &key.material {
            Material::Rsa { n, e } => {
                assert!((256..=1024).contains(&n.len()) && n[0] != 0 && e.last().is_some_and(|last| last % 2 == 1));
                Family::Rsa
            }
            Material::Ec(point) => {
                assert!(matches!(point.len(), 65 | 97 | 133) && point[0] == 4);
                Family::Ec
            }
            Material::Ed(point) => {
                assert_eq!(point.len(), 32);
                Family::Ed
            }
        };
        assert!(key.algorithms.iter().all(|algorithm| algorithm.family() == family));
    }
    assert!(JwkSet::parse(json, &[]).is_err(), "nothing is allowed, nothing is taken");
    for allowed in [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es512, Algorithm::EdDsa] {
        if let Ok(some) = JwkSet::parse(json, &[allowed]) {
            assert!(some.keys.iter().all(|key| key.algorithms == [allowed]) && some.keys.len() <= set.keys.len());
        }
    }
}
