//! A client that is talked with, pings answered and what is not asked for passed over.

use futures_util::SinkExt;
use serde_json::{Value, json};

use crate::support::session::Client;

/// The reply to one command, whatever comes before it; or the close.
pub(super) async fn ask(client: &mut Client, mut command: Value, id: u32) -> Value {
    command["id"] = json!(id);
    client.0.send(command.to_string().into()).await.expect("sent");
    loop {
        let heard = receive(client).await;
        if heard["id"] == id || !heard["close"].is_null() {
            return heard;
        }
    }
}

/// What comes next, pings answered.
pub(super) async fn receive(client: &mut Client) -> Value {
    loop {
        let heard = client.receive().await;
        if heard != json!({}) {
            return heard;
        }
        client.0.send("{}".into()).await.expect("sent");
    }
}

/// The next push of this name.
pub(super) async fn pushed(client: &mut Client, name: &str) -> Value {
    loop {
        let mut heard = receive(client).await;
        let push = heard["push"][name].take();
        if !push.is_null() {
            return push;
        }
        assert!(heard["close"].is_null(), "{name}: {heard}");
    }
}

pub(super) async fn subscribe(client: &mut Client, channel: &str, more: Value) -> Value {
    let mut command = json!({"subscribe": more});
    command["subscribe"]["channel"] = json!(channel);
    ask(client, command, 100).await
}
