//! A node whose users come from an issuer that rotates its keys.

use std::sync::{Arc, Mutex};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use axum::{Router, routing::get};
use dzvin_protocols::identity::base64url;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

/// A key of the issuer, made and used by another implementation of tokens.
struct Key {
    id: &'static str,
    signs: EncodingKey,
    jwk: Value,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let of = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(of, &SystemRandom::new()).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(of, pkcs8.as_ref()).expect("the key");
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": base64url(x), "y": base64url(y)});
        Self { id, signs: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk }
    }

    fn token(&self, more: &Value) -> String {
        let exp = OffsetDateTime::now_utc().unix_timestamp() + 600;
        let mut claims = json!({"iss": "https://id.test", "aud": "dzvin", "sub": "olha", "exp": exp,
            "realm_access": {"roles": ["readers"]}});
        more.as_object().expect("claims").iter().for_each(|(name, value)| claims[name] = value.clone());
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.signs).expect("signed")
    }
}

/// Where the issuer publishes its keys.
struct Issuer {
    url: String,
    set: Arc<Mutex<String>>,
}

impl Issuer {
    async fn new(keys: &[&Key]) -> Self {
        let set = Arc::new(Mutex::new(String::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("address"));
        let served = Arc::clone(&set);
        let app = Router::new().route("/keys", get(move || async move { served.lock().expect("set").clone() }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let it = Self { url, set };
        it.publishes(keys);
        it
    }

    fn publishes(&self, keys: &[&Key]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
        *self.set.lock().expect("set") = json!({ "keys": keys }).to_string();
    }

    fn config(&self) -> String {
        format!(
            "[[identity.issuers]]\nissuer = 'https://id.test'\naudience = 'dzvin'\njwks_url = '{}'\n\
             roles_claim = 'realm_access.roles'\nsubject_prefix = 'id-'\n[identity.issuers.roles]\nreaders = 'viewer'\n",
            self.url
        )
    }
}

/// What `connect` with this token comes to: the reply, or the close.
async fn connect(hub: &Hub, token: &str) -> Value {
    let mut client = Client::new(hub).await;
    client.ask(&json!({"id": 1, "connect": {"token": token}}).to_string()).await
}

#[tokio::test]
async fn a_key_that_is_rotated_opens_the_hub_without_a_restart() {
    let (old, new, stranger) = (Key::new("old"), Key::new("new"), Key::new("new"));
    let issuer = Issuer::new(&[&old]).await;
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &issuer.config()).await;

    let mut client = Client::new(&hub).await;
    let connected = client.ask(&json!({"id": 1, "connect": {"token": old.token(&json!({}))}}).to_string()).await;
    assert!(connected["connect"]["client"].is_string(), "{connected}");
    let subscribed = client.ask(r#"{"id":2,"subscribe":{"channel":"entities.procedure"}}"#).await;
    assert!(subscribed["subscribe"].is_object(), "a reader is a viewer here: {subscribed}");

    // Not for us, not of the issuer, forged: sent away for good.
    for bad in [
        old.token(&json!({"aud": "another"})),
        old.token(&json!({"iss": "https://id.test/"})),
        Key::new("old").token(&json!({})),
    ] {
        assert_eq!(connect(&hub, &bad).await, json!({"close": 3500}));
    }

    // Until the issuer may be asked again nobody is sent away for good: a client tries again, and comes in.
    issuer.publishes(&[&new]);
    let token = new.token(&json!({"roles": ["admin"], "permissions": ["*"]}));
    eventually("the new key opens the hub", async || {
        let reply = connect(&hub, &token).await;
        assert!(reply["connect"].is_object() || reply["error"]["code"] == 100, "{reply}");
        reply["connect"].is_object()
    })
    .await;
    assert_eq!(connect(&hub, &stranger.token(&json!({}))).await, json!({"close": 3500}));
    assert_eq!(hub.metric("dzvin_identity_keys").await, 1.0);

    // Over REST as well, and an issuer that is not trusted does not speak of permissions.
    let url = format!("http://{}/api/v1", hub.addr);
    let ask = async |path: &str| {
        let request = reqwest::Client::new().get(format!("{url}{path}")).bearer_auth(&token);
        request.send().await.expect("answered").status().as_u16()
    };
    assert_eq!((ask("/kinds").await, ask("/revocations").await), (200, 403));
    assert!(hub.log().contains("\"user\":\"id-olha\""), "the user has the prefix");
}

#[tokio::test]
async fn whoever_has_no_token_is_let_in_only_where_that_is_wanted() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    assert_eq!(connect(&hub, "").await, json!({"close": 3500}));
    hub.reload(|text| text + "[identity]\nanonymous = true\nanonymous_role = \"viewer\"\n");
    eventually("read again", async || hub.log().contains("the configuration was read again")).await;
    let mut client = Client::new(&hub).await;
    let connected = client.ask(r#"{"id":1,"connect":{}}"#).await;
    assert!(connected["connect"]["client"].is_string(), "{connected}");
    let subscribed = client.ask(r#"{"id":2,"subscribe":{"channel":"entities.procedure"}}"#).await;
    assert!(subscribed["subscribe"].is_object(), "{subscribed}");
    let without = reqwest::get(format!("http://{}/api/v1/kinds", hub.addr)).await.expect("answered");
    assert_eq!(without.status(), 401, "REST wants a token");
}
