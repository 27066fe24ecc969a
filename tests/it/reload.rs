//! What changes without a restart, by SIGHUP.

use serde_json::json;

use crate::support::{
    eventually::eventually,
    hub::{KEY, World},
    session::Client,
};

const OTHER: &str = "another key of thirty-two bytes, which comes later";

#[tokio::test]
async fn keys_rotate_and_message_limits_rise_without_a_restart() {
    let world = World::new(1, false).await;
    let hub = world.hub("a").await;
    let token = World::token("viewer");
    let status = async || {
        let request = reqwest::Client::new().get(format!("http://{}/api/v1/kinds", hub.addr)).bearer_auth(&token);
        request.send().await.expect("answered").status().as_u16()
    };
    assert_eq!(status().await, 200);

    // Wrong: nothing changes, and the log says why.
    hub.reload(|text| text.replace(KEY, "short"));
    eventually("the refusal in the log", async || hub.log().contains("the configuration was not taken over")).await;
    assert_eq!(status().await, 200);

    // Another key alone: tokens of the old one are worth nothing.
    hub.reload(|text| {
        text.replace("short", OTHER)
            .replace("platform_version", "dialect = { max_message_bytes = 33554432 }\nplatform_version")
    });
    eventually("the old token refused", async || status().await == 401).await;

    // Both: the old tokens are good again while new ones are signed with the other key.
    let both = format!("[[identity.keys]]\nid = \"old\"\nsecret = \"{KEY}\"\n[kinds.procedure]");
    hub.reload(|text| {
        text.replace("id = \"test\"", "id = \"new\"").replace("[kinds.procedure]", &both.replace("\"old\"", "\"test\""))
    });
    eventually("the old token accepted", async || status().await == 200).await;
    eventually("the new limit shown", async || {
        hub.api("operator", "/api/v1/mirrors").await["items"][0]["max_message_bytes"] == 33_554_432
    })
    .await;
}

/// Whoever was granted something by a role that no longer grants it does not keep it until the token ends.
#[tokio::test]
async fn a_right_that_is_taken_away_ends_with_the_reload() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let subscribe = r#"{"id":2,"subscribe":{"channel":"entities.procedure"}}"#;
    let mut client = Client::connected(&hub, "viewer").await;
    assert!(client.ask(subscribe).await["subscribe"].is_object());
    // A further key takes nothing from anybody.
    let further = format!("[[identity.keys]]\nid = \"further\"\nsecret = \"{OTHER}\"\n[leases]");
    hub.reload(|text| text.replace("[leases]", &further));
    eventually("read again", async || hub.log().contains("the configuration was read again")).await;
    assert_eq!(client.ask(r#"{"id":3,"ping":{}}"#).await["id"], 3, "nobody is bothered");

    hub.reload(|text| text.replace("[leases]", "[identity.roles]\nviewer = [\"mirrors:read:*\"]\n[leases]"));
    assert_eq!(client.receive().await, json!({"close": 3011}));
    let mut again = Client::connected(&hub, "viewer").await;
    assert_eq!(again.ask(subscribe).await["error"]["code"], 103);
}
