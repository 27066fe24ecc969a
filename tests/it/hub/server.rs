//! A server of the application, as the API for servers knows it.

use serde_json::{Value, json};

use crate::support::hub::Hub;

/// Its key.
pub const API_KEY: &str = "an api key of thirty-two bytes and more";

/// These rules, and that this is its key.
pub fn with_key(rules: &str) -> String {
    format!("[[identity.api_keys]]\nid = \"backend\"\nsecret = \"{API_KEY}\"\n{rules}")
}

/// Calls a method; answers the status, when to come again, and what was said.
pub async fn call(hub: &Hub, method: &str, body: &Value) -> (u16, Option<String>, Value) {
    let url = format!("http://{}/api/{method}", hub.addr);
    let request = reqwest::Client::new().post(url).header("x-api-key", API_KEY).body(body.to_string());
    let answer = request.send().await.expect("an answer");
    let after = answer.headers().get("retry-after").map(|it| it.to_str().expect("text").to_owned());
    (answer.status().as_u16(), after, answer.json().await.expect("json"))
}

/// The same where only that matters what was said.
pub async fn ask(hub: &Hub, method: &str, body: &Value) -> Value {
    call(hub, method, body).await.2
}

/// That it may do everything.
pub fn with_every_right() -> String {
    with_key("permissions = [\"*\"]\n")
}

/// Publishes; answers the position.
pub async fn publish(hub: &Hub, channel: &str, data: &Value) -> Value {
    let answer = ask(hub, "publish", &json!({"channel": channel, "data": data})).await;
    assert!(answer["result"]["offset"].is_u64(), "{answer}");
    answer["result"].clone()
}
