//! docs/FROM-PUSHER.md, done as it says: `tests/clients/from-pusher.mjs`.

use std::{fs, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::support::{
    eventually::patience,
    hub::{World, free_address},
};

/// The box of this language on the page, without what it is indented by.
fn block(page: &str, language: &str) -> String {
    let start = format!("```{language}\n");
    let text = page.split(&start).nth(1).and_then(|rest| rest.split("```").next()).expect("such a box");
    text.lines().map(|line| line.trim_start().to_owned() + "\n").collect()
}

#[tokio::test]
async fn who_comes_from_pusher_gets_there_by_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/FROM-PUSHER.md")).expect("the page");
    let application = free_address();
    let rules = block(&page, "toml").replace("https://app.example", &format!("http://{application}"));
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules).await;
    let (url, port) = (format!("http://{}", hub.addr), application.port().to_string());
    let millis = patience().as_millis().to_string();
    let mut command = Command::new("node");
    command.current_dir(root.join("tests/clients")).args(["from-pusher.mjs", "--url", &url, "--hooks", &port]);
    command.args(["--timeout", &millis]).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(patience() * 5, command.output()).await.expect("in time").expect("node runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let hello = json!([{"text": "вітаю"}]);
    assert_eq!(
        report,
        json!({
            "heard": {"public": hello, "private": hello, "echo": hello, "whispers": [{"who": "echo"}]},
            "joined": [1], "told": [], "agrees": true,
        })
    );
}
