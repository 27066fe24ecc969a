//! What a running hub writes down: who it was, and one trace from a request to what it led to.

use dzvin_sandbox::{Fault, Manner};
use serde_json::{Value, json};

use crate::support::session::Client;
use crate::{
    spine::caught_up,
    support::{
        eventually::eventually,
        hub::{Hub, World, small_object},
    },
};

/// Lines of the log with this message.
fn lines(hub: &Hub, message: &str) -> Vec<Value> {
    let log = hub.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

#[tokio::test]
async fn a_request_is_followed_from_its_user_to_what_was_published() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let world = World::new(3, false).await;
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| text.replace("dzvin_actors=debug", "dzvin=debug,dzvin_actors=debug"));
    hub.start().await;
    caught_up(&world, &hub).await;
    let mut client = Client::connected(&hub, "viewer").await;
    let reply = client.ask(&json!({"id": 2, "subscribe": {"channel": "entities.procedure"}}).to_string()).await;
    assert!(reply["subscribe"].is_object(), "{reply}");

    // The link waits for its operator, whose request leads to the next batch.
    let control = world.sandbox.control();
    control.fault(Fault::Handshake { status: 403 });
    control.disconnect("procedure", Manner::Rst);
    eventually("the link waits", async || {
        hub.api("viewer", "/api/v1/mirrors").await["items"][0]["state"] == "forbidden"
    })
    .await;
    control.put("procedure", &small_object(9)).expect("an object");
    control.clear("handshake");
    let resume = reqwest::Client::new().post(format!("http://{}/api/v1/mirrors/procedure/resume", hub.addr));
    let resume = resume.bearer_auth(World::token("operator"));
    let resume = resume.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"));
    assert_eq!(resume.send().await.expect("answered").status(), 202);

    // What was there before may still be on its way.
    let id = format!("{:024x}", 9);
    let push = loop {
        let push = client.receive().await;
        if push["push"]["pub"]["data"]["id"] == id {
            break push;
        }
    };
    let tag = push["push"]["pub"]["tags"]["traceparent"].as_str().expect("a tag");
    assert!(tag.starts_with(&format!("00-{TRACE}-")), "{push}");

    let of_trace = |line: &Value| line["trace_id"] == TRACE || line["span"]["trace_id"] == TRACE;
    for message in ["the link is told to go on", "request answered", "batch committed", "published"] {
        eventually(&format!("{message:?} with the trace"), async || lines(&hub, message).iter().any(of_trace)).await;
    }
    let told: Vec<Value> = lines(&hub, "request answered").into_iter().filter(of_trace).collect();
    assert_eq!((told.len(), &told[0]["span"]["user"]), (1, &json!("operator-1")), "{told:?}");

    // A session's lines say whose it is.
    drop(client);
    let ended = eventually("the session's end", async || lines(&hub, "session ended").pop()).await;
    assert_eq!(ended["user"], "viewer-1", "{ended}");
    assert_eq!(ended["client"], lines(&hub, "session connected")[0]["client"]);
}
