//! An issuer whose server rotates, sleeps, lies and floods.

use std::{sync::Arc, time::Duration};

use dzvin_protocols::identity::Algorithm;
use serde_json::{Value, json};

use super::*;
use crate::identity::doubles::{Mood, Publisher, Signer, issuer, set_of};

/// Two fetches follow each other as fast as one can wait for.
const QUICK: Pace = Pace { pause: Duration::from_millis(150), patience: Duration::from_secs(20) };
/// There is no second fetch within the test.
const SLOW: Pace = Pace { pause: Duration::from_secs(3600), patience: Duration::from_millis(300) };

fn claims() -> Value {
    json!({"iss": "me", "sub": "olha"})
}

/// An issuer whose keys are kept; it ends with the guard.
async fn kept(config: &IssuerConfig, pace: Pace) -> (Arc<Issuer>, Guard) {
    let issuer = Arc::new(Issuer::new(config, 5, pace).expect("an issuer"));
    let keeping = Arc::clone(&issuer);
    let task = tokio::spawn(async move { keeping.keep(&IdentityMetrics::default()).await });
    (issuer, Guard(task))
}

struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn at(publisher: &Publisher, pace: Pace) -> (Arc<Issuer>, Guard) {
    kept(&issuer("me", &format!("jwks_url = '{}/keys'", publisher.url)), pace).await
}

/// What a caller is told in the end.
async fn told(issuer: &Issuer, token: &str) -> Result<(), AuthError> {
    let compact = Compact::parse(token).expect("a token");
    match issuer.check(&compact) {
        Now::Signed => Ok(()),
        Now::Refused => Err(AuthError::Invalid),
        Now::Later => issuer.settle(&compact).await,
    }
}

#[tokio::test]
async fn keys_rotate_and_the_first_token_of_a_new_one_waits_for_it() {
    let (old, new) = (Signer::new("old", Algorithm::Es256), Signer::new("new", Algorithm::EdDsa));
    let publisher = Publisher::new(Mood::Says(set_of(&[&old]))).await;
    let (issuer, _guard) = at(&publisher, QUICK).await;
    assert_eq!(told(&issuer, &old.token(&claims())).await, Ok(()), "the first fetch is waited for");
    publisher.publishes(&[&new, &old]);
    assert_eq!(told(&issuer, &new.token(&claims())).await, Ok(()));
    assert_eq!(told(&issuer, &old.token(&claims())).await, Ok(()), "both are published");
    let nameless = Signer::new("nameless", Algorithm::Es256);
    publisher.publishes(&[&new, &old, &nameless]);
    let token = nameless.with_header(&json!({"alg": "ES256"}), &claims());
    assert_eq!(told(&issuer, &token).await, Ok(()), "a token that names no key may be of a newer one");
    publisher.publishes(&[&new]);
    let unknown = Signer::new("nobody", Algorithm::Es256);
    assert_eq!(told(&issuer, &unknown.token(&claims())).await, Err(AuthError::Invalid), "asked, and not there");
    let forged = Signer::new("new", Algorithm::EdDsa);
    let hits = publisher.hits();
    assert_eq!(
        told(&issuer, &forged.token(&claims())).await,
        Err(AuthError::Invalid),
        "a known key's name is no fetch"
    );
    assert_eq!(publisher.hits(), hits);
    assert_ne!(told(&issuer, &old.token(&claims())).await, Ok(()), "what is no longer published is no longer good");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_request() {
    let known = Signer::new("known", Algorithm::Es256);
    let publisher = Publisher::new(Mood::Says(set_of(&[&known]))).await;
    let (issuer, _guard) = at(&publisher, SLOW).await;
    assert_eq!(told(&issuer, &known.token(&claims())).await, Ok(()));
    let flood = (0..200).map(|n| {
        let (issuer, token) =
            (Arc::clone(&issuer), known.with_header(&json!({"alg": "ES256", "kid": format!("k{n}")}), &claims()));
        tokio::spawn(async move { told(&issuer, &token).await })
    });
    for one in flood.collect::<Vec<_>>() {
        assert_eq!(one.await.expect("told"), Err(AuthError::Unavailable), "nobody knows yet");
    }
    assert_eq!((publisher.hits(), issuer.fetches.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(told(&issuer, &known.token(&claims())).await, Ok(()), "and harms nobody");
}

#[tokio::test]
async fn while_the_issuer_is_away_known_keys_stay_good() {
    let (old, new) = (Signer::new("old", Algorithm::Es256), Signer::new("new", Algorithm::Es256));
    let publisher = Publisher::new(Mood::Says(set_of(&[&old]))).await;
    let (issuer, _guard) = at(&publisher, QUICK).await;
    assert_eq!(told(&issuer, &old.token(&claims())).await, Ok(()));
    let oct = json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "new"}]}).to_string();
    let many: Vec<Value> = (0..10_000).map(|_| new.jwk.clone()).collect();
    let huge = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(1024 * 1024));
    for mood in [
        Mood::Status(500),
        Mood::Status(204),
        Mood::Says("<html>garbage</html>".to_owned()),
        Mood::Says(String::new()),
        Mood::Says(r#"{"keys":[]}"#.to_owned()),
        Mood::Says(oct),
        Mood::Says(json!({ "keys": many }).to_string()),
        Mood::Says(json!({ "keys": &many[..101] }).to_string()),
        Mood::Says(huge),
        Mood::Redirects(set_of(&[&new])),
    ] {
        publisher.becomes(mood);
        assert_eq!(told(&issuer, &new.token(&claims())).await, Err(AuthError::Unavailable), "nobody can tell");
        assert_eq!(told(&issuer, &old.token(&claims())).await, Ok(()), "the last good set stays");
    }
    publisher.publishes(&[&new]);
    assert_eq!(told(&issuer, &new.token(&claims())).await, Ok(()), "and it heals by itself");
}

#[tokio::test]
async fn nobody_waits_for_long() {
    let signer = Signer::new("a", Algorithm::Es256);
    let publisher = Publisher::new(Mood::Hangs).await;
    let (issuer, _guard) = at(&publisher, SLOW).await;
    assert_eq!(told(&issuer, &signer.token(&claims())).await, Err(AuthError::Unavailable));
    let waiting: Vec<_> = (0..MAX_WAITING + 50)
        .map(|_| {
            let (issuer, token) = (Arc::clone(&issuer), signer.token(&claims()));
            tokio::spawn(async move { told(&issuer, &token).await })
        })
        .collect();
    for one in waiting {
        assert_eq!(one.await.expect("told"), Err(AuthError::Unavailable));
    }
    assert_eq!(issuer.waiting.available_permits(), MAX_WAITING, "every place is given back");
}

#[tokio::test]
async fn an_issuer_describes_itself() {
    let signer = Signer::new("a", Algorithm::Es384);
    let publisher = Publisher::new(Mood::Says(set_of(&[&signer]))).await;
    let (described, _guard) = kept(&issuer(&publisher.url, "discovery = true"), QUICK).await;
    assert_eq!(told(&described, &signer.token(&claims())).await, Ok(()));
    assert_eq!(described.try_once().await, Ok(1));
    let (other, _other) = kept(&issuer(&format!("{}/", publisher.url), "discovery = true"), SLOW).await;
    assert_eq!(told(&other, &signer.token(&claims())).await, Err(AuthError::Unavailable), "a description of another");
    assert!(other.try_once().await.expect_err("no keys").contains("another issuer"));
}

#[tokio::test]
async fn a_file_is_read_again() {
    let (dir, old, new) =
        (tempfile::tempdir().expect("dir"), Signer::new("old", Algorithm::Es256), Signer::new("new", Algorithm::Rs256));
    let path = dir.path().join("keys.json");
    let (issuer, _guard) = kept(&issuer("me", &format!("jwks_file = '{}'", path.display())), QUICK).await;
    assert!(issuer.try_once().await.is_err(), "it is not there yet");
    std::fs::write(&path, set_of(&[&old])).expect("written");
    assert_eq!(told(&issuer, &old.token(&claims())).await, Ok(()));
    std::fs::write(&path, set_of(&[&new])).expect("written");
    assert_eq!(told(&issuer, &new.token(&claims())).await, Ok(()));
    assert!(told(&issuer, &old.token(&claims())).await.is_err());
}
