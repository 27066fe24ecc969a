//! Tokens of others and tokens that are taken back, who fails with them, and what is told of it all, through running nodes.

mod accounts;
mod audit;
mod guard;
mod issuers;
mod revocations;

use dzvin::identity::{SigningKey, TokenRules, Verifier};
use dzvin_protocols::identity::Claims;
use serde_json::Value;
use time::OffsetDateTime;

use crate::support::hub::{Hub, KEY};

/// Somebody with these permissions.
fn token(permissions: &[&str]) -> String {
    token_of("olha", permissions)
}

/// The same with another name.
fn token_of(user: &str, permissions: &[&str]) -> String {
    let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
    let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
    let claims = Claims {
        sub: user.to_owned(),
        exp: Some(OffsetDateTime::now_utc().unix_timestamp() + 3600),
        permissions: permissions.iter().map(ToString::to_string).collect(),
        ..Claims::default()
    };
    verifier.sign(&claims).expect("signed")
}

async fn ask(hub: &Hub, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let request =
        reqwest::Client::new().request(method.parse().expect("a method"), format!("http://{}{path}", hub.addr));
    let request = request.bearer_auth(token);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = request.send().await.expect("answered");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}
