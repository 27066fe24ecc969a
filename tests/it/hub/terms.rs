//! All that an unmodified client may ask, in both forms, and what it does at every code: `tests/clients/terms.mjs` and `codes.mjs`.

use std::process::Stdio;

use dzvin_protocols::channels::centrifuge::{Disconnect, reconnects};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use super::server::{API_KEY, with_key};
use crate::support::{
    eventually::patience,
    hub::{Hub, KEY, World},
};

/// A namespace for each of the things that clients ask; `closed`, which is not named, is opened by tokens alone.
pub(super) fn rules(more: &str) -> String {
    with_key(&format!(
        "permissions = [\"channels:*:*\", \"connections:*:*\"]\n\
         [channels.namespaces.chat]\nsubscribe = \"signed_in\"\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n\
         presence = true\nsee_presence = \"signed_in\"\njoin_leave = true\n\
         [channels.namespaces.last]\nsubscribe = \"signed_in\"\nrecovery = \"latest\"\n{more}"
    ))
}

/// What a script says at its end.
pub(super) async fn script(script: &str, args: &[&str]) -> Value {
    let mut command = Command::new("node");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients"));
    command.args(["--experimental-eventsource", "--no-warnings", script]).args(args);
    command.env("DZVIN_TIMEOUT_MS", patience().as_millis().to_string());
    command.stderr(Stdio::inherit()).kill_on_drop(true);
    // Each of its conditions has the patience of one.
    let output = timeout(patience() * 10, command.output()).await.expect("in time").expect("node runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    println!("{report:#}");
    report
}

/// The same against a hub: every section has come to an end.
pub(super) async fn run(name: &str, hub: &Hub, more: &[&str]) -> Value {
    let (url, millis) = (format!("http://{}", hub.addr), patience().as_millis().to_string());
    let ours = ["--url", &url, "--apikey", API_KEY, "--signing", KEY, "--timeout", &millis];
    let report = script(name, &[&ours, more].concat()).await;
    for (section, result) in report.as_object().expect("sections") {
        assert_eq!(result.get("error"), None, "{section}");
    }
    report
}

async fn terms(form: &str) {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules("")).await;
    let report = run("terms.mjs", &hub, &["--form", form]).await;
    let info = json!({"name": "Їжак 😀"});
    assert_eq!(
        report["presence"],
        json!({
            "members": [{"user": "a", "info": info}, {"user": "a"}, {"user": "b", "seat": {"seat": 1}}],
            "stats": [3, 2, 3, 2], "keys": true, "joins": ["a", "b"], "leaves": ["a", "b"], "left": 1, "untold": 0,
            "none": 108, "stranger": 108,
        })
    );
    assert_eq!(
        report["filter"],
        json!({"heard": [[1, 1], [4, 4], [5, 5], [7, 7]], "recovered": true, "ended": [], "bad": [107], "gaps": []})
    );
    let subscription = &report["subscription"];
    assert!(subscription["asked"].as_u64() >= Some(3), "the first token and two more: {subscription}");
    assert_eq!(
        (&subscription["once"], &subscription["faults"], &subscription["heard"]),
        (&json!(1), &json!([]), &json!(["after"])),
        "a renewal is not noticed"
    );
    let refused = subscription["outcomes"].as_object().expect("outcomes");
    assert!(refused.len() == 5 && refused.values().all(|codes| *codes == json!([103])), "{refused:?}");
    assert_eq!((&subscription["late"], &subscription["lost"]), (&json!([[109], 1]), &json!([103])));
    let connection = &report["connection"];
    assert!(connection["asked"].as_u64() >= Some(3), "{connection}");
    assert_eq!(
        (&connection["connects"], &connection["once"], &connection["faults"]),
        (&json!(1), &json!(1), &json!([])),
        "a renewal is not noticed"
    );
    assert_eq!((&connection["late"], &connection["thief"]), (&json!(true), &json!(3500)));
    assert_eq!(
        report["server"],
        json!({
            "heard": [["later", 3, 1], ["news", 1, 1], ["news", 2, 2], ["own", "мій", 1]], "data": {"hello": "їжак"},
            "recovered": [true, true], "unsubscribed": 1, "ended": [],
        })
    );
    assert_eq!(report["latest"], json!({"heard": [[3, 3], [9, 9], [10, 10]], "recovered": [true, true, true]}));
    assert_eq!(report["state"], json!({"loads": [3, 6], "heard": [4, 5, 7], "errors": [], "ended": []}));
    assert_eq!(
        report["history"],
        json!({
            "top": 7, "all": [1, 2, 3, 4, 5, 6, 7], "first": [1, 2, 3], "after": [4, 5, 6], "back": [7, 6],
            "before": [3, 2], "other": 112, "whole": [{"n": 7, "їжак": "😀"}, {"n": "7"}], "closed": 103,
        })
    );
    assert_eq!(
        report["calls"],
        json!({"unknown": 108, "sent": 0, "after": 0}),
        "a channel on which nothing was ever said has an empty history"
    );
}

#[tokio::test]
async fn all_that_a_client_may_ask_in_json() {
    terms("json").await;
}

#[tokio::test]
async fn all_that_a_client_may_ask_in_protobuf() {
    terms("protobuf").await;
}

/// What has come of a client that was told this.
fn fate(code: u16, reason: &str, back: bool) -> Value {
    let end = if back { "back" } else { "gone" };
    json!({"code": code, "reason": reason, end: true})
}

#[tokio::test]
async fn a_client_does_at_every_code_what_the_tables_say() {
    let world = World::new(1, false).await;
    let views = "[identity.roles]\nadmin = [\"*\"]\nviewer = [\"entities:read:*\"]\nclerk = [\"entities:read:*\"]\n\
                 [identity.views.clerk.procedure]\nmask = [\"title\"]\n";
    let hub = world.hub_with("a", &rules(views)).await;
    // 3000 is what a connection is counted under that nobody closed.
    let all: Vec<_> = Disconnect::ALL.iter().filter(|why| **why != Disconnect::ConnectionClosed).collect();
    let codes: Vec<String> = all.iter().map(|why| why.code().to_string()).collect();
    let report = run("codes.mjs", &hub, &["--codes", &codes.join(",")]).await;
    for transport in ["json", "protobuf", "http_stream", "sse"] {
        for why in &all {
            let (code, is) = (why.code(), &report[transport][why.code().to_string()]);
            assert_eq!(*is, fate(code, why.reason(), why.reconnect()), "{transport} {why:?}");
        }
        for code in [4000, 4499, 4500, 4999] {
            let is = &report[transport][code.to_string()];
            assert_eq!(*is, fate(code, "the application says so", reconnects(code)), "{transport} {code}");
        }
        assert_eq!(report[transport].as_object().expect("fates").len(), all.len() + 4);
    }
    let refused = report["refused"].as_object().expect("answers");
    assert!(refused.len() > 8 && refused.values().all(|code| *code == 107), "{refused:?}");
    // 1 and 3 are this client's own words for a transport that has closed, and for a message that was too large.
    assert_eq!(
        report["framing"],
        json!({
            "a reserved opcode": fate(1, "transport closed", true),
            "text that is not UTF-8": fate(1, "transport closed", true),
            "binary": fate(3506, "inappropriate protocol", false),
            "above the limit": fate(3, "message size limit exceeded", false),
            "rubbish": fate(3501, "bad request", false),
            "a pong that nobody asked for": fate(3501, "bad request", false),
        })
    );
    let connecting = report["connecting"].as_object().expect("fates");
    assert_eq!(connecting.len(), 6);
    assert!(connecting.values().all(|is| *is == fate(3500, "invalid token", false)), "{connecting:?}");
    assert_eq!(
        report["unsubscribed"],
        json!({
            "ordered": {"code": 2000, "back": false, "state": "unsubscribed"},
            "seen": {"codes": [2502], "recovered": false, "ended": []},
        })
    );
    assert_eq!(report["expired"], json!({"subscription": [2501], "connection": 3005, "recovered": true}));
}

/// As pages load them: in a browser, from another origin, on every transport.
#[tokio::test]
async fn the_libraries_work_in_a_page_of_another_origin() {
    let world = World::new(1, false).await;
    let app =
        "[[pusher.apps]]\nid = \"main\"\nkeys = [{ key = \"app-key\", secret = \"an app secret of many bytes\" }]\n";
    let mut hub = world.hub_with("a", &rules(app)).await;
    hub.reconfigure(|text| text.replace("[http]", "[http]\nallowed_origins = [\"http://127.0.0.1:*\"]"));
    hub.kill().await;
    hub.start().await;
    let report = run("libraries.browser.mjs", &hub, &["--key", "app-key"]).await;
    for (what, transport) in [
        ("json websocket", "websocket"),
        ("protobuf websocket", "websocket"),
        ("json http_stream", "http_stream"),
        ("protobuf http_stream", "http_stream"),
        ("json sse", "sse"),
    ] {
        let is = json!({"transport": transport, "whole": true, "history": 4, "patches": 2});
        assert_eq!(report[what], is, "{what}");
    }
    assert_eq!(report["pusher"], json!({"status": "subscribed", "heard": ["вітаю"]}));
}
