//! The pages for those who come from elsewhere, done as they say: their configuration, and their boxes of code by
//! `tests/clients/from-pusher.mjs` and `from-centrifugo.mjs`.

use std::{fs, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::support::{
    eventually::patience,
    hub::{Hub, World},
    ports::free_address,
};

/// The configuration that a page gives, without what it is indented by.
fn configuration(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(path).expect("the page");
    let toml = text.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a box of TOML");
    toml.lines().map(|line| line.trim_start().to_owned() + "\n").collect()
}

async fn report(script: &str, hub: &Hub, more: &[&str]) -> Value {
    let (url, millis) = (format!("http://{}", hub.addr), patience().as_millis().to_string());
    let mut command = Command::new("node");
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients")).args([script, "--url", &url]);
    command.args(["--timeout", &millis]).args(more).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(patience() * 5, command.output()).await.expect("in time").expect("node runs");
    serde_json::from_slice(&output.stdout).expect("a report")
}

#[tokio::test]
async fn who_comes_from_pusher_gets_there_by_the_page() {
    let application = free_address();
    let rules = configuration("FROM-PUSHER.md").replace("https://app.example", &format!("http://{application}"));
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules).await;
    let hello = json!([{"text": "вітаю"}]);
    assert_eq!(
        report("from-pusher.mjs", &hub, &["--hooks", &application.port().to_string()]).await,
        json!({
            "heard": {"public": hello, "private": hello, "echo": hello, "whispers": [{"who": "echo"}]},
            "joined": [1], "told": [], "agrees": true,
        })
    );
}

#[tokio::test]
async fn who_comes_from_centrifugo_gets_there_by_the_page() {
    let rules = configuration("FROM-CENTRIFUGO.md");
    let secret = rules.split("id = \"centrifugo\"\nsecret = \"").nth(1).and_then(|rest| rest.split('"').next());
    let world = World::new(1, false).await;
    let hub = world.hub_with("a", &rules).await;
    assert_eq!(
        report("from-centrifugo.mjs", &hub, &["--signing", secret.expect("a secret")]).await,
        json!({
            "heard": [[{"text": "вітаю"}, 1], [{"text": "і вам"}, 2]], "published": [1, 1], "users": ["olha"],
            "history": 2, "delta": 2,
        })
    );
}
