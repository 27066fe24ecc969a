//! Channels of the application: unmodified clients of both forms, the server API, and what it refuses.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use super::{
    server::{API_KEY, with_key},
    talk::subscribe,
};
use crate::support::{
    eventually::patience,
    hub::{Hub, World},
    session::Client,
};

fn rules() -> String {
    with_key(
        "[channels.namespaces.chat]\nsubscribe = \"signed_in\"\n\
         [channels.namespaces.room]\nsubscribe = \"signed_in\"\npublish = \"signed_in\"\n",
    )
}

/// What the clients saw.
async fn clients(hub: &Hub, more: &[&str]) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let url = format!("http://{}", hub.addr);
    let mut command = Command::new("node");
    command.current_dir(folder).args(["channels.mjs", "--url", &url, "--token", &World::token("viewer")]);
    command.args(["--key", API_KEY]).args(more).stderr(Stdio::inherit()).kill_on_drop(true);
    // Hundreds of publications, one after the other: more than one condition.
    let output = timeout(patience() * 3, command.output()).await.expect("in time").expect("node runs");
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn assert_all(report: &Value, received: u64) {
    println!("{report}");
    assert_eq!(report["errors"], json!([]));
    for key in ["lost", "doubled", "wrong", "unrecovered"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert_eq!(report["received"], received);
    assert!(report["recovered"].as_u64() > Some(0), "{report}");
    let hello = |n| json!({"data": {"hello": n}, "user": "viewer-1"});
    assert_eq!(report["heard"], json!([hello(1), hello(1), hello(2), hello(2)]));
    assert_eq!(report["history"], json!([1, 2]));
    assert_eq!(report["refused"], 103, "this channel is not open for clients' publications");
    assert_eq!(report["batch"], json!([1, 103, 104]));
    assert_eq!(report["broadcast"], json!([2, 1, 107]));
    assert_eq!(report["api_history"], json!([1, {}]));
}

#[tokio::test]
async fn what_is_published_reaches_clients_of_both_forms_in_memory() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    assert_all(&clients(&hub, &[]).await, 10 * 500);
}

#[tokio::test]
async fn what_is_published_reaches_clients_of_both_forms_over_redis() {
    let world = World::new(1, true).await;
    let hub = world.hub_with("a", &rules()).await;
    assert_all(&clients(&hub, &[]).await, 10 * 500);
}

#[tokio::test]
async fn the_server_api_refuses_whom_it_does_not_know() {
    let mut world = World::new(1, true).await;
    let hub = world.hub_with("a", &rules()).await;
    let client = reqwest::Client::new();
    let ask = async |headers: &[(&str, &str)], method: &str, body: &str| {
        let mut request = client.post(format!("http://{}/api/{method}", hub.addr)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("json"))
    };
    let (publish, key) = (r#"{"channel":"chat.1","data":{}}"#, ("x-api-key", API_KEY));
    let apikey = format!("apikey {API_KEY}");
    let (bearer, viewer) = (format!("Bearer {}", World::token("admin")), format!("Bearer {}", World::token("viewer")));
    for (headers, status) in [
        (vec![], 401),
        (vec![("x-api-key", "wrong")], 401),
        (vec![("x-api-key", ""), ("authorization", bearer.as_str())], 401),
        (vec![("authorization", viewer.as_str())], 200),
        (vec![("authorization", bearer.as_str())], 200),
        (vec![("authorization", apikey.as_str())], 200),
        (vec![key], 200),
    ] {
        let (got, answer) = ask(&headers, "publish", publish).await;
        assert_eq!(got, status, "{headers:?} {answer}");
        if headers == [("authorization", viewer.as_str())] {
            assert_eq!(answer["error"]["code"], 103, "a token without the permission");
        }
    }
    for (method, body, status, code) in [
        ("publish", "{", 400, json!("bad_request")),
        ("publish", r#"{"channel":"chat.1"}"#, 400, json!("bad_request")),
        ("publish", r#"{"channel":"a b","data":1}"#, 200, json!(107)),
        ("publish", r#"{"channel":"query.1","data":1}"#, 200, json!(107)),
        ("publish", r#"{"channel":"entity.procedure.x","data":1}"#, 200, json!(103)),
        ("nonsense", "{}", 200, json!(104)),
        ("batch", r#"{"commands":[{"batch":{"commands":[]}}]}"#, 200, Value::Null),
    ] {
        let (got, answer) = ask(&[key], method, body).await;
        let found = if got == 200 { answer["error"]["code"].clone() } else { answer["code"].clone() };
        assert_eq!((got, found), (status, code), "{method} {body} {answer}");
    }
    let large = format!("{{\"channel\":\"chat.1\",\"data\":\"{}\"}}", "x".repeat(65 * 1024));
    assert_eq!(ask(&[key], "publish", &large).await.1["error"]["code"], 106);
    // Acknowledged is what the bus has: without it, nothing is.
    world.redis.as_mut().expect("redis").kill();
    let (status, answer) = ask(&[key], "publish", publish).await;
    assert_eq!((status, &answer["code"]), (503, &json!("bus_unavailable")), "{answer}");
    // Of many the one answer where there is no other, or each its own.
    let one = json!({"publish": {"channel": "chat.1", "data": {}}});
    let (none, some) = (json!({"commands": [one, one]}), json!({"commands": [one, {"nonsense": {}}]}));
    for (method, body) in [("broadcast", json!({"channels": ["chat.1", "chat.2"], "data": 1})), ("batch", none)] {
        let (status, answer) = ask(&[key], method, &body.to_string()).await;
        assert_eq!((status, &answer["code"]), (503, &json!("bus_unavailable")), "{method} {answer}");
    }
    let (status, answer) = ask(&[key], "batch", &some.to_string()).await;
    assert_eq!((status, &answer["replies"][0]["error"]["code"]), (200, &json!(100)), "{answer}");
    assert_eq!(answer["replies"].as_array().map(Vec::len), Some(2), "{answer}");
}

#[tokio::test]
async fn the_python_library_of_centrifugo_reads_every_answer() {
    let world = World::new(1, false).await;
    let rules = with_key(
        "[channels]\noccupancy = true\n[channels.namespaces.chat]\nsubscribe = \"signed_in\"\npresence = true\n",
    );
    let hub = world.hub_with("a", &rules).await;
    let mut client = Client::connected(&hub, "viewer").await;
    assert!(subscribe(&mut client, "chat.1", json!({})).await["subscribe"].is_object());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let mut command = Command::new("python3");
    command.current_dir(folder).args(["server-api.py", &format!("http://{}", hub.addr), API_KEY]);
    command.env("PYTHONPATH", "python_modules").stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(patience() * 3, command.output()).await.expect("in time").expect("python runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report; scripts/test installs the library");
    let expected = json!({
        "same": true, "offset": 1, "told": [2, 1, 107], "published": 3, "history": [{"n": 1}, 2, 3], "tags": {"lot": "7"},
        "clients": 1, "members": 1, "latest": [3, 3], "channels": ["chat.1"], "nodes": 1, "refused": 107,
    });
    assert_eq!(report, expected);
}

/// What the manual's ten lines have heard, run by this script while something is published all the time.
async fn ten_lines(script: &str, hub: &Hub) -> Value {
    let (url, token) = (format!("http://{}", hub.addr), World::token("viewer"));
    let mut command = Command::new("node");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients")).arg(script);
    command.args(["--url", &url, "--token", &token, "--channel", "chat.1"]).stderr(Stdio::inherit()).kill_on_drop(true);
    command.env("DZVIN_TIMEOUT_MS", patience().as_millis().to_string());
    let listening = command.output();
    let publishing = async {
        let client = reqwest::Client::new();
        for n in 1.. {
            let body = json!({"channel": "chat.1", "data": {"n": n}}).to_string();
            let request = client.post(format!("{url}/api/publish")).header("x-api-key", API_KEY).body(body);
            assert_eq!(request.send().await.expect("an answer").status(), 200);
        }
    };
    let output = tokio::select! {
        output = timeout(patience() * 3, listening) => output.expect("in time").expect("node runs"),
        () = publishing => unreachable!("it goes on for ever"),
    };
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let seen: Vec<u64> = serde_json::from_value(report["seen"].clone()).expect("numbers");
    assert!(seen.len() == 5 && seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{report}");
    report
}

/// The manual's ten lines hear what is published, in order.
#[tokio::test]
async fn the_ten_lines_of_the_manual_work() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    ten_lines("bare.mjs", &hub).await;
}

/// In a page of another origin, and longer than a client may leave pings unanswered.
#[tokio::test]
async fn the_ten_lines_of_the_manual_work_in_a_browser() {
    let world = World::new(1, false).await;
    let pings = "[channels]\nping = \"3s\"\npong = \"2900ms\"\n";
    let mut hub = world.hub_with("a", &format!("{pings}{}", rules())).await;
    hub.reconfigure(|text| text.replace("[http]", "[http]\nallowed_origins = [\"http://127.0.0.1:*\"]"));
    hub.kill().await;
    hub.start().await;
    let report = ten_lines("bare.browser.mjs", &hub).await;
    assert_eq!((&report["sockets"], &report["closed"], &report["pongs"]), (&json!(1), &json!(0), &json!(true)));
}
