//! Unmodified clients forced onto each transport.

use super::*;

/// What unmodified clients saw on this transport: everything that they should.
async fn clients(url: &str, transport: &[&str], more: &[&str], certificate: Option<&Path>) {
    let (short, next) = (World::token_for("viewer", 4), World::token("viewer"));
    let mut command = node("transports.mjs", certificate);
    command.args(["--url", url, "--key", API_KEY, "--token", &short, "--next", &next, "--transport"]);
    command.args(transport).args(more);
    let output = timeout(patience() * 2, command.output()).await.expect("in time").expect("node runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    println!("{transport:?} {report}");
    assert_eq!(report["errors"], json!([]));
    for key in ["lost", "doubled", "wrong", "unrecovered", "reconnected"] {
        assert_eq!(report[key], 0, "{key} in {report}");
    }
    assert_eq!(
        (&report["received"], &report["many"], &report["after"]),
        (&json!(200), &json!(50), &json!(5)),
        "{report}"
    );
    assert!(report["recovered"].as_u64() > Some(0) && report["asked"].as_u64() > Some(0), "{report}");
    let hello = |n| json!({"data": {"hello": n}, "user": "viewer-1"});
    assert_eq!(report["heard"], json!([hello(1), hello(1), hello(2), hello(2), hello(3)]));
    assert_eq!(report["history"], json!([1, 2]));
    assert_eq!(report["refused"], 103);
}

/// The same on each of them, one after the other.
async fn on_each(url: &str, more: &[&str], certificate: Option<&Path>) {
    for (n, transport) in [&["http_stream"][..], &["http_stream", "--protobuf"], &["sse"]].into_iter().enumerate() {
        clients(url, transport, &[more, &["--n", &n.to_string()]].concat(), certificate).await;
    }
}

#[tokio::test]
async fn unmodified_clients_on_each_transport() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    on_each(&format!("http://{}", hub.addr), &[], None).await;
    nobody_left(&hub).await;
    // A stream is counted when its headers have left, and not by how long it lasts.
    assert!(hub.metric("dzvin_http_request_seconds_sum").await < 5.0);
}

#[tokio::test]
async fn unmodified_clients_through_nginx() {
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules()).await;
    let nginx = Nginx::start(&[&hub], &[]).await;
    on_each(&nginx.url(""), &[], Some(&nginx.ca())).await;
    nobody_left(&hub).await;
}

#[tokio::test]
async fn commands_find_the_stream_on_another_node() {
    let world = World::new(1, true).await;
    let (a, b) = (world.hub_with("a", &rules()).await, world.hub_with("b", &rules()).await);
    on_each(&format!("http://{}", a.addr), &["--emulation", &format!("http://{}", b.addr)], None).await;
    nobody_left(&a).await;
    let posted = async |hub: &Hub| {
        let (_, text) = hub.get("/metrics").await.expect("metrics");
        let lines =
            text.lines().filter(|line| line.starts_with("dzvin_http_requests_total") && line.contains("/emulation"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(posted(&a).await, [""; 0], "all went to the other node");
    let b = posted(&b).await;
    assert!(b.len() == 1 && b[0].contains("204"), "and none was refused: {b:?}");
}
