//! On the Pusher wire, cached events included.

use futures_util::SinkExt;
use serde_json::{Value, json};

use super::{Deals, KIND, Raw, SECRET, deal, seen, token};
use crate::support::hub::Hub;

pub(super) const APP: &str =
    "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n";

/// A client of the Pusher protocol, with the channel that it asked for as the bearer of a token; and what it was answered.
pub(super) async fn on(hub: &Hub, token: &str, channel: &str) -> (Raw, Value) {
    let mut client = Raw::open(hub, "/app/app-key?protocol=7").await;
    let hello = client.next().await;
    let data: Value = serde_json::from_str(hello["data"].as_str().expect("text")).expect("json");
    let form = format!("socket_id={}&channel_name={channel}", data["socket_id"].as_str().expect("an id"));
    let request = reqwest::Client::new().post(format!("http://{}/pusher/auth", hub.addr)).bearer_auth(token);
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
    let mut ask: Value = request.send().await.expect("answered").json().await.expect("json");
    ask["channel"] = json!(channel);
    let subscribe = json!({"event": "pusher:subscribe", "data": ask}).to_string();
    client.socket.send(subscribe.into()).await.expect("sent");
    let answer = client.next().await;
    (client, answer)
}

async fn change(client: &mut Raw) -> Value {
    let event = client.next().await;
    assert_eq!(event["event"], "change", "{event}");
    match event["data"].as_str() {
        Some(text) => serde_json::from_str(text).expect("json"),
        None => event["data"].clone(),
    }
}

#[tokio::test]
async fn cached_and_live_events_show_what_is_seen() {
    let mut deals = Deals::new().await;
    deals.put("d1", &deal(1, "open", "olha")).await;
    // What changed last is hidden, and the state is shown all the same.
    let mut called = deal(1, "open", "olha");
    called["phone"] = json!(SECRET);
    deals.put("d1", &called).await;
    deals.put("d2", &deal(2, "open", "ihor")).await;
    let hub = deals.world.hub_with("a", APP).await;
    let channel = format!("private-cache-entity.{KIND}.d1");
    let mut all = Vec::new();
    for (user, role) in [("d", "desk"), ("olha", "clerk"), ("b", "boss")] {
        let (mut client, answer) = on(&hub, &token(user, &[role]), &channel).await;
        assert_eq!(answer["event"], "pusher_internal:subscription_succeeded", "{answer}");
        let state = change(&mut client).await;
        let expected = if role == "boss" { called.clone() } else { seen(1, "open", "olha") };
        assert_eq!((&state["doc"], &state["revision"]), (&expected, &json!(2)), "{role}");
        all.push((client, role));
    }
    deals.put("d1", &deal(3, "won", "olha")).await;
    for (client, role) in &mut all {
        let told = change(client).await;
        assert_eq!(told["doc"]["status"], "won");
        assert_eq!(client.secrets() > 0, *role == "boss", "{role}: {told}");
    }
    // Another's row: no channel of its own, and no last event on the kind's.
    let (_, refused) = on(&hub, &token("olha", &["clerk"]), &format!("private-cache-entity.{KIND}.d2")).await;
    assert_eq!(refused["event"], "pusher:subscription_error", "{refused}");
    deals.put("d2", &deal(4, "open", "ihor")).await;
    for (user, role, event) in [("olha", "clerk", "pusher:cache_miss"), ("d", "desk", "change")] {
        let (mut client, _) = on(&hub, &token(user, &[role]), &format!("private-cache-entities.{KIND}")).await;
        let mut last = client.next().await;
        // The change may be on its way.
        while last["data"].to_string().contains("\\\"revision\\\":3") && last["data"].to_string().contains("d1") {
            last = client.next().await;
        }
        assert_eq!(last["event"], event, "{role}: {last}");
        assert_eq!(client.secrets(), 0);
    }
}
