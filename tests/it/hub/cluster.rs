//! Two nodes over one Redis: who is there, what servers have connections do, and who is connected.

use futures_util::SinkExt;
use serde_json::{Value, json};

use super::server::{ask, with_key};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

fn rules() -> String {
    let rules = with_key(
        "[channels.namespaces.room]\nsubscribe = \"signed_in\"\npresence = true\nsee_presence = \"signed_in\"\njoin_leave = true\n",
    );
    format!("[channels]\noccupancy = true\n{rules}")
}

async fn nodes(world: &World) -> (Hub, Hub) {
    (world.hub_with("a", &rules()).await, world.hub_with("b", &rules()).await)
}

async fn subscribe(session: &mut Client, channel: &str) -> Value {
    let command = json!({"id": 9, "subscribe": {"channel": channel, "join_leave": true}});
    loop {
        let reply = session.ask(&command.to_string()).await;
        if reply["id"] == 9 {
            return reply["subscribe"].clone();
        }
    }
}

/// The next push of this name; others pass by.
async fn heard(session: &mut Client, name: &str) -> Value {
    loop {
        let mut message = session.receive().await;
        if message == json!({}) {
            // A ping, which wants an answer.
            session.0.send("{}".into()).await.expect("sent");
            continue;
        }
        let push = message["push"].take();
        if !push[name].is_null() {
            return push[name].clone();
        }
    }
}

#[tokio::test]
async fn who_is_on_a_channel_is_known_on_every_node_and_a_dead_node_leaves_no_ghosts() {
    let world = World::new(1, true).await;
    let (mut a, b) = nodes(&world).await;
    let mut olha = Client::connected(&b, "viewer").await;
    subscribe(&mut olha, "room.1").await;
    assert_eq!(heard(&mut olha, "join").await["info"]["user"], "viewer-1", "she hears of herself");
    let mut ivan = Client::connected(&a, "operator").await;
    subscribe(&mut ivan, "room.1").await;
    assert_eq!(heard(&mut olha, "join").await["info"]["user"], "operator-1");
    let mut stats = ivan.ask(&json!({"id": 5, "presence_stats": {"channel": "room.1"}}).to_string()).await;
    while stats["id"] != 5 {
        stats = ivan.receive().await;
    }
    assert_eq!(stats["presence_stats"], json!({"num_clients": 2, "num_users": 2}), "{stats}");
    let present = ask(&b, "presence", &json!({"channel": "room.1"})).await;
    let users: std::collections::BTreeSet<String> = present["result"]["presence"]
        .as_object()
        .expect("members")
        .values()
        .map(|info| info["user"].as_str().expect("a user").to_owned())
        .collect();
    assert_eq!(users.into_iter().collect::<Vec<_>>(), ["operator-1", "viewer-1"]);
    eventually("both nodes have counted", async || {
        let listed = ask(&b, "channels", &json!({"pattern": "room.*"})).await;
        (listed["result"]["channels"] == json!({"room.1": {"num_clients": 2}})).then_some(())
    })
    .await;
    // Without goodbye: within its lease the others are told, once.
    a.kill().await;
    assert_eq!(heard(&mut olha, "leave").await["info"]["user"], "operator-1");
    let stats = ask(&b, "presence_stats", &json!({"channel": "room.1"})).await;
    assert_eq!(stats["result"], json!({"num_clients": 1, "num_users": 1}));
    let pong = olha.ask(&json!({"id": 7, "ping": {}}).to_string()).await;
    assert_eq!(pong["id"], 7, "told once");
}

#[tokio::test]
async fn servers_and_operators_reach_connections_on_every_node() {
    let world = World::new(1, true).await;
    let (a, b) = nodes(&world).await;
    let mut olha = Client::connected(&b, "viewer").await;
    let user = json!({"user": "viewer-1", "channel": "news.1"});
    assert_eq!(ask(&a, "subscribe", &user).await, json!({"result": {}}));
    assert!(heard(&mut olha, "subscribe").await["epoch"].is_string());
    ask(&a, "publish", &json!({"channel": "news.1", "data": {"n": 1}})).await;
    assert_eq!(heard(&mut olha, "pub").await["data"], json!({"n": 1}));
    ask(&a, "unsubscribe", &user).await;
    assert_eq!(heard(&mut olha, "unsubscribe").await["code"], 2000);
    for (method, body, code) in [
        ("disconnect", json!({}), 107),
        ("disconnect", json!({"user": "u", "disconnect": {"code": 1000}}), 107),
        ("disconnect", json!({"user": "u", "disconnect": {"code": 4500, "reason": "true"}}), 107),
        ("subscribe", json!({"user": "u", "channel": "entities.procedure"}), 103),
        ("presence", json!({"channel": "news.1"}), 108),
        ("channels", json!({"pattern": "a*b"}), 107),
    ] {
        assert_eq!(ask(&a, method, &body).await["error"]["code"], code, "{method} {body}");
    }
    let seen = a.api("admin", "/api/v1/connections?user=viewer-1").await;
    assert_eq!((seen["items"].as_array().map(Vec::len), &seen["missing"]), (Some(1), &json!([])), "{seen}");
    assert_eq!(seen["items"][0]["wire"], "centrifuge-json");
    let client = seen["items"][0]["client"].as_str().expect("a client").to_owned();
    let end = |role: &str| {
        let url = format!("http://{}/api/v1/connections/{client}", a.addr);
        reqwest::Client::new().delete(url).bearer_auth(World::token(role)).send()
    };
    assert_eq!(end("viewer").await.expect("an answer").status(), 403);
    assert_eq!(end("admin").await.expect("an answer").status(), 204);
    assert_eq!(olha.receive().await["close"], 3503);
    let mut again = Client::connected(&b, "viewer").await;
    let body = json!({"user": "viewer-1", "disconnect": {"code": 4242, "reason": "moved"}});
    ask(&a, "disconnect", &body).await;
    assert_eq!(again.receive().await["close"], 4242);
}
