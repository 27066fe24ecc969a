//! Forgeries, and what every kind of token grants.

mod issuers;

use std::time::Duration;

use dzvin_protocols::identity::{Algorithm as Alg, MAX_TOKEN_CHANNELS, Permissions};
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    identity::{
        doubles::{Mood, Publisher, Signer, part, set_of, with_keys},
        issuer::Pace,
    },
    platform::config::IssuerConfig,
};

fn key(id: &str, byte: u8) -> SigningKey {
    SigningKey::new(id, &[byte; 32]).expect("key")
}

fn verifier(keys: Vec<SigningKey>) -> Verifier {
    Verifier::new(keys, TokenRules::default()).expect("verifier")
}

fn claims(sub: &str) -> Claims {
    Claims { sub: sub.into(), exp: Some(2_000), ..Claims::default() }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).expect("in range")
}

/// Another implementation of the compact form, so that forgeries are made by hand.
fn forge(header: &serde_json::Value, body: &serde_json::Value, algorithm: Algorithm, secret: &[u8]) -> String {
    let part = |value: &serde_json::Value| base64url(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(body));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).expect("signed");
    format!("{message}.{signature}")
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |i: usize| bytes.get(i / 8).map_or(0, |b| b >> (7 - i % 8) & 1);
    let six = |i: usize| (0..6).fold(0, |n, j| n << 1 | usize::from(bit(i + j)));
    (0..bytes.len() * 8).step_by(6).map(|i| char::from(ALPHABET[six(i)])).collect()
}

#[test]
fn keys_rotate_without_a_restart() {
    let hub = verifier(vec![key("old", 1)]);
    let old = hub.sign(&claims("a")).expect("signed");
    hub.replace(vec![key("new", 2), key("old", 1)], TokenRules::default()).expect("two keys");
    let new = hub.sign(&claims("b")).expect("signed");
    assert_eq!(hub.verify(&old, at(1_000)).expect("still good").sub, "a");
    assert_eq!(hub.verify(&new, at(1_000)).expect("good").sub, "b");
    hub.replace(vec![key("new", 2)], TokenRules::default()).expect("one key");
    assert_eq!(hub.verify(&old, at(1_000)).map(drop), Err(AuthError::Invalid));
    assert_eq!(hub.verify(&new, at(1_000)).expect("good").sub, "b");
}

#[test]
fn a_named_key_is_the_only_one_tried() {
    let hub = verifier(vec![key("a", 1), key("b", 2)]);
    let body = json!({"sub": "u"});
    let token = |kid, byte| forge(&json!({"alg": "HS256", "kid": kid}), &body, Algorithm::HS256, &[byte; 32]);
    assert!(hub.verify(&token("b", 2), at(0)).is_ok());
    assert!(hub.verify(&token("a", 2), at(0)).is_err());
    assert!(hub.verify(&token("c", 1), at(0)).is_err());
    let unnamed = forge(&json!({"alg": "HS256"}), &body, Algorithm::HS256, &[2; 32]);
    assert!(hub.verify(&unnamed, at(0)).is_ok(), "without kid every key is tried");
}

#[test]
fn the_algorithm_is_pinned() {
    let hub = verifier(vec![key("a", 1)]);
    let body = json!({"sub": "u"});
    for (header, algorithm) in [("HS384", Algorithm::HS384), ("HS512", Algorithm::HS512)] {
        let token = forge(&json!({"alg": header}), &body, algorithm, &[1; 64][..32]);
        assert_eq!(hub.verify(&token, at(0)).map(drop), Err(AuthError::Invalid), "{header}");
    }
    for alg in ["none", "None", "", "RS256", "ES256"] {
        let token = forge(&json!({"alg": alg}), &body, Algorithm::HS256, &[1; 32]);
        assert_eq!(hub.verify(&token, at(0)).map(drop), Err(AuthError::Invalid), "{alg}");
        let unsigned = token.rsplit_once('.').expect("dots").0;
        assert_eq!(hub.verify(&format!("{unsigned}."), at(0)).map(drop), Err(AuthError::Invalid), "{alg}");
    }
}

#[test]
fn expired_is_told_from_invalid() {
    let hub = verifier(vec![key("a", 1)]);
    let token = hub.sign(&claims("u")).expect("signed");
    assert!(hub.verify(&token, at(2_000 + LEEWAY_SECONDS - 1)).is_ok());
    assert_eq!(hub.verify(&token, at(2_000 + LEEWAY_SECONDS)).map(drop), Err(AuthError::Expired));
    let stranger = verifier(vec![key("a", 2)]).sign(&claims("u")).expect("signed");
    assert_eq!(
        hub.verify(&stranger, at(9_000)).map(drop),
        Err(AuthError::Invalid),
        "a bad signature outweighs its age"
    );
}

#[test]
fn roles_become_permissions() {
    let hub = verifier(vec![key("a", 1)]);
    let granted = |roles: &[&str], permissions: &[&str]| {
        let own = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        let token = hub.sign(&Claims { roles: own(roles), permissions: own(permissions), ..Claims::default() });
        hub.authenticate(&token.expect("signed")).now_or_never().expect("at once").map(|identity| identity.permissions)
    };
    let operator = granted(&["operator", "stranger"], &["entities:read:call"]).expect("good");
    assert!(operator.allow("mirrors", "operate", "x") && !operator.allow("entities", "write", "x"));
    assert!(!granted(&["viewer"], &[]).expect("good").allow("mirrors", "operate", "x"));
    assert!(granted(&["admin"], &[]).expect("good").allow("any", "thing", "x"));
    assert_eq!(granted(&[], &["nonsense"]), Err(AuthError::Invalid));
}

#[test]
fn unusable_keys_and_rules_are_refused() {
    assert!(SigningKey::new("a", &[1; 31]).is_err());
    assert!(SigningKey::new("", &[1; 32]).is_err());
    assert!(Verifier::new(vec![], TokenRules::default()).is_err());
    assert!(Verifier::new(vec![key("a", 1), key("a", 2)], TokenRules::default()).is_err());
    assert!(Verifier::new(vec![key("a", 1), key("b", 2), key("c", 3)], TokenRules::default()).is_err());
    let roles = BTreeMap::from([("r".to_owned(), vec!["bad".to_owned()])]);
    assert!(Verifier::new(vec![key("a", 1)], TokenRules { roles, ..TokenRules::default() }).is_err());
    assert!(!format!("{:?}", verifier(vec![key("a", 65)])).contains("65"), "keys are not printed");
}

#[test]
fn long_tokens_are_neither_made_nor_read() {
    let hub = verifier(vec![key("a", 1)]);
    let permissions = vec!["entities:read:procedure".to_owned(); 400];
    assert!(matches!(hub.sign(&Claims { permissions, ..Claims::default() }), Err(IdentityError::Sign)));
    let body = json!({"sub": "u", "pad": "x".repeat(MAX_TOKEN)});
    let token = forge(&json!({"alg": "HS256"}), &body, Algorithm::HS256, &[1; 32]);
    assert_eq!(hub.verify(&token, at(0)).map(drop), Err(AuthError::Invalid));
}

proptest! {
    #[test]
    fn what_is_signed_is_verified(sub in "[^\\p{Cc}]{0,60}", exp in 1_000_i64..100_000, now in 0_i64..200_000) {
        let hub = verifier(vec![key("a", 1)]);
        let token = hub.sign(&Claims { sub: sub.clone(), exp: Some(exp), ..Claims::default() }).expect("signed");
        match hub.verify(&token, at(now)) {
            Ok(claims) => prop_assert!(claims.sub == sub && now < exp + LEEWAY_SECONDS),
            Err(error) => prop_assert!(error == AuthError::Expired && now >= exp + LEEWAY_SECONDS),
        }
    }

    #[test]
    fn a_changed_token_is_never_good(at_byte in 0_usize..1_000, new in 0_u8..128) {
        let hub = verifier(vec![key("a", 1)]);
        let good = hub.sign(&claims("u")).expect("signed");
        let mut bytes = good.clone().into_bytes();
        let i = at_byte % bytes.len();
        bytes[i] = new;
        let changed = String::from_utf8(bytes).expect("ascii");
        prop_assert!(changed == good || hub.verify(&changed, at(0)).is_err(), "{changed}");
    }

    #[test]
    fn hostile_text_is_invalid(text in "\\PC{0,300}", dots in prop::collection::vec("[A-Za-z0-9_-]{0,80}", 0..5)) {
        let hub = verifier(vec![key("a", 1)]);
        prop_assert_eq!(hub.verify(&text, at(0)).map(drop), Err(AuthError::Invalid));
        prop_assert_eq!(hub.verify(&dots.join("."), at(0)).map(drop), Err(AuthError::Invalid));
    }
}
