//! For tests: somebody who signs with public keys, and a web server that publishes them well or badly.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{self, KeySize},
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding},
};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use dzvin_protocols::identity::{Algorithm, base64url};
use serde_json::{Value, json};

use crate::platform::config::IssuerConfig;

/// A private key.
enum Private {
    Rsa(&'static rsa::KeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Somebody who signs.
pub(super) struct Signer {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    /// The public key as it is published.
    pub(super) jwk: Value,
    /// The same as PEM.
    pub(super) pem: String,
    private: Private,
}

/// Making one takes a second: all signers with RSA share it.
fn rsa_pair() -> &'static rsa::KeyPair {
    static PAIR: OnceLock<rsa::KeyPair> = OnceLock::new();
    PAIR.get_or_init(|| rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key"))
}

pub(super) fn pem(der: &[u8]) -> String {
    use base64_of::encode;
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", encode(der))
}

/// Base64 with padding, out of the other alphabet.
mod base64_of {
    pub(super) fn encode(bytes: &[u8]) -> String {
        let mut text = dzvin_protocols::identity::base64url(bytes).replace('-', "+").replace('_', "/");
        while !text.len().is_multiple_of(4) {
            text.push('=');
        }
        text
    }
}

impl Signer {
    pub(super) fn new(id: &str, algorithm: Algorithm) -> Self {
        let ec = |of: &'static EcdsaSigningAlgorithm, curve: &str| {
            let pair = EcdsaKeyPair::generate(of).expect("a key");
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let jwk = json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)});
            (jwk, pem(pair.public_key().as_der().expect("der").as_ref()), Private::Ec(pair))
        };
        let rsa = |padding: &'static dyn RsaEncoding| {
            let (pair, public) = (rsa_pair(), rsa_pair().public_key());
            let n = public.modulus().big_endian_without_leading_zero().to_vec();
            let e = public.exponent().big_endian_without_leading_zero().to_vec();
            let jwk = json!({"kty": "RSA", "n": base64url(&n), "e": base64url(&e)});
            (jwk, pem(public.as_der().expect("der").as_ref()), Private::Rsa(pair, padding))
        };
        let (mut jwk, pem, private) = match algorithm {
            Algorithm::Es256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::Es384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::Es512 => ec(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Algorithm::Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Algorithm::Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().expect("a key");
                let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())});
                (jwk, pem(pair.public_key().as_der().expect("der").as_ref()), Private::Ed(pair))
            }
            other => panic!("{other} has no public key"),
        };
        jwk["kid"] = id.into();
        Self { id: id.to_owned(), algorithm, jwk, pem, private }
    }

    /// A token whose header says what it should.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.with_header(&json!({"alg": self.algorithm.name(), "kid": self.id}), claims)
    }

    /// A token whose header says what it likes.
    pub(super) fn with_header(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let (random, bytes) = (SystemRandom::new(), message.as_bytes());
        let signature = match &self.private {
            Private::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, bytes, &mut signature).expect("signed");
                signature
            }
            Private::Ec(pair) => pair.sign(&random, bytes).expect("signed").as_ref().to_vec(),
            Private::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", base64url(&signature))
    }
}

pub(super) fn part(value: &Value) -> String {
    base64url(value.to_string().as_bytes())
}

/// How the server behaves.
#[derive(Clone)]
pub(super) enum Mood {
    /// Answers with this text.
    Says(String),
    /// Answers with this status.
    Status(u16),
    /// Sends the caller to another path, where this is said.
    Redirects(String),
    /// Says nothing.
    Hangs,
}

/// A server of keys.
#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) url: String,
    mood: Arc<Mutex<Mood>>,
    hits: Arc<AtomicUsize>,
}

pub(super) fn set_of(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|signer| &signer.jwk).collect::<Vec<_>>()}).to_string()
}

impl Publisher {
    pub(super) async fn new(mood: Mood) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let it = Self { url: url.clone(), mood: Arc::new(Mutex::new(mood)), hits: Arc::default() };
        let answering = it.clone();
        let app = Router::new().fallback(move |uri: Uri| {
            let it = answering.clone();
            async move { it.answer(&uri).await }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        it
    }

    async fn answer(&self, uri: &Uri) -> Response {
        self.hits.fetch_add(1, Ordering::SeqCst);
        if uri.path() == "/.well-known/openid-configuration" {
            return json!({"issuer": self.url, "jwks_uri": format!("{}/keys", self.url)}).to_string().into_response();
        }
        let mood = self.mood.lock().expect("mood").clone();
        match mood {
            Mood::Says(text) => {
                (HeaderMap::from_iter([(header::CACHE_CONTROL, "max-age=3600".parse().expect("value"))]), text)
                    .into_response()
            }
            Mood::Status(status) => StatusCode::from_u16(status).expect("status").into_response(),
            Mood::Redirects(text) if uri.path() == "/elsewhere" => text.into_response(),
            Mood::Redirects(_) => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
            Mood::Hangs => std::future::pending().await,
        }
    }

    pub(super) fn becomes(&self, mood: Mood) {
        *self.mood.lock().expect("mood") = mood;
    }

    pub(super) fn publishes(&self, signers: &[&Signer]) {
        self.becomes(Mood::Says(set_of(signers)));
    }

    pub(super) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// An issuer for tests; `more` is TOML.
pub(super) fn issuer(issuer: &str, more: &str) -> IssuerConfig {
    toml::from_str(&format!("issuer = '{issuer}'\naudience = 'dzvin'\n{more}")).expect("an issuer")
}

/// An issuer with these keys in the configuration.
pub(super) fn with_keys(name: &str, signers: &[&Signer], more: &str) -> IssuerConfig {
    let keys = signers
        .iter()
        .map(|it| format!("[[keys]]\nid = '{}'\nalgorithm = '{}'\npem = '''\n{}'''\n", it.id, it.algorithm, it.pem));
    issuer(name, &format!("{more}\n{}", keys.collect::<String>()))
}
