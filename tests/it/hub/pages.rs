//! Who is connected, in pages, over all nodes.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;

use crate::support::{
    eventually::patience,
    hub::{Hub, World},
    session::Client,
};

const APP: &str =
    "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n";

/// Clients of either protocol on a hub, so many of one and a few of the other; and what they are called.
async fn crowd(hub: &Hub, count: usize, ids: &mut BTreeSet<String>) -> Vec<Box<dyn Send>> {
    let mut all: Vec<Box<dyn Send>> = Vec::new();
    for _ in 0..count {
        let mut client = Client::new(hub).await;
        let reply = client.ask(&json!({"id": 1, "connect": {"token": World::token("viewer")}}).to_string()).await;
        ids.insert(reply["connect"]["client"].as_str().expect("a client").to_owned());
        all.push(Box::new(client));
    }
    for _ in 0..5 {
        let (mut socket, _) = connect_async(format!("ws://{}/app/app-key?protocol=7", hub.addr)).await.expect("a 101");
        let hello = timeout(patience(), socket.next()).await.expect("in time").expect("open").expect("well formed");
        let hello: Value = serde_json::from_str(hello.to_text().expect("text")).expect("json");
        let data: Value = serde_json::from_str(hello["data"].as_str().expect("text")).expect("json");
        ids.insert(data["socket_id"].as_str().expect("an id").to_owned());
        all.push(Box::new(socket));
    }
    all
}

#[tokio::test]
async fn pages_of_connections_show_everybody_once() {
    let world = World::new(0, true).await;
    let (a, b) = tokio::join!(world.hub_with("a", APP), world.hub_with("b", APP));
    let mut ids = BTreeSet::new();
    let _here = crowd(&a, 70, &mut ids).await;
    let _there = crowd(&b, 50, &mut ids).await;
    for (hub, limit, pages) in [(&a, 100, 2), (&b, 7, 19)] {
        let (mut seen, mut after, mut count) = (Vec::new(), String::new(), 0);
        loop {
            let page = hub.api("admin", &format!("/api/v1/connections?limit={limit}{after}")).await;
            assert_eq!((&page["missing"], &page["silent"]), (&json!([]), &json!([])), "{page}");
            let items = page["items"].as_array().expect("items");
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|it| it["client"].as_str().expect("a client").to_owned()));
            count += 1;
            assert_eq!(page["more"], json!(!page["next"].is_null()), "{page}");
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!((seen.len(), count), (ids.len(), pages), "everybody, and nobody twice");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ids);
    }
    // Of those who are meant alone.
    let page = a.api("admin", "/api/v1/connections?limit=100&user=viewer-1").await;
    let next = page["next"].as_str().expect("another page");
    let rest = a.api("admin", &format!("/api/v1/connections?limit=100&user=viewer-1&after={next}")).await;
    assert_eq!((rest["items"].as_array().map(Vec::len), &rest["next"]), (Some(20), &Value::Null), "{rest}");
    for wrong in ["", "x", "1", "1.x", "zz", "session:s3cret", "-1.2"] {
        let url = format!("http://{}/api/v1/connections?after={wrong}", a.addr);
        let refused =
            reqwest::Client::new().get(url).bearer_auth(World::token("admin")).send().await.expect("answered");
        let (status, told) = (refused.status().as_u16(), refused.json::<Value>().await.expect("json"));
        assert_eq!((status, &told["code"]), (400, &json!("bad_parameter")), "{wrong}: {told}");
    }
}
