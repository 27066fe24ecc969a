//! Unmodified `pusher-js`, `laravel-echo` and `@laravel/echo-react`.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use super::{KEY, MASTER_KEY, SECRET, assert_discreet, hub};
use crate::{
    hub::server::API_KEY,
    support::{
        eventually::patience,
        hub::{Hub, World},
    },
};

pub(super) async fn run(script: &str, hub: &Hub, more: &[&str]) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let url = format!("http://{}", hub.addr);
    let millis = patience().as_millis().to_string();
    let mut command = Command::new("node");
    command.current_dir(folder).args([script, "--url", &url, "--token", &World::token("viewer"), "--apikey", API_KEY]);
    command.args(["--key", KEY, "--secret", SECRET, "--timeout", &millis]).args(more);
    command.stderr(Stdio::inherit()).kill_on_drop(true);
    // Each of its conditions has the patience of one.
    let output = timeout(patience() * 10, command.output()).await.expect("in time").expect("node runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    println!("{report:#}");
    for (section, result) in report.as_object().expect("sections") {
        assert_eq!(result.get("error"), None, "{section}");
    }
    report
}

async fn pusher_js(world: &World) {
    let hub = hub(world).await;
    let control = format!("{}/control", world.sandbox.url());
    let more = ["--sandbox", &control, "--admin", &World::token("admin"), "--master", MASTER_KEY];
    let report = run("pusher.mjs", &hub, &more).await;
    assert_eq!(
        report["public"],
        json!({"heard": [{"text": "Їжак\n<b>", "n": 1.5}], "later": ["a text"], "socket": true, "failures": []})
    );
    assert_eq!(report["private"]["own"], json!(["a text"]));
    assert_eq!(report["private"]["other"], json!([{"n": 1}]));
    assert_eq!(report["private"]["failures"][0]["code"], 4301);
    assert_eq!(
        (&report["private"]["refused"][0]["status"], &report["private"]["open"]),
        (&json!(401), &json!("connected"))
    );
    let (one, two) = (json!({"name": "користувач 1"}), json!({"name": "користувач 2"}));
    let presence = &report["presence"];
    assert_eq!(presence["me"], json!({"id": "2", "info": two}));
    assert_eq!(presence["members"], json!({"1": one, "2": two}));
    assert_eq!(presence["count"], json!([1, 2]), "the first has seen the second leave");
    assert_eq!((&presence["added"], &presence["self"]), (&json!([{"id": "2", "info": two}]), &json!([])));
    assert_eq!(presence["whispers"], json!([{"data": {}, "user": "2"}]));
    assert_eq!((&presence["stayed"], &presence["removed"]), (&json!(0), &json!([{"id": "2", "info": two}])));
    assert_eq!(presence["failures"], json!([]));
    let secrets = json!({"heard": [{"text": "їжак"}], "opened": [{"text": "ключ"}], "refused": 403});
    assert_eq!(report["encrypted"], secrets);
    assert_eq!(report["cache"], json!({"misses": 1, "heard": [{"n": 1}, {"n": 2}, {"n": 2}]}));
    assert_eq!(report["signin"]["user"], json!({"id": "7", "user_info": {"name": "О"}}));
    assert_eq!(report["signin"]["own"], "#server-to-user-7");
    assert_eq!(report["signin"]["me"], json!({"id": "7", "info": {"name": "О"}}), "as whom it has signed in");
    assert_eq!(report["hub"]["user"], json!({"id": "viewer-1"}), "no token is sent back");
    assert_eq!(report["hub"]["refusals"], json!({"a bare signature": 401, "a bad token": 401}));
    assert_eq!(report["hub"]["revisions"], true);
    assert_eq!(report["reconnect"], json!([1]));
    assert_eq!(report["refused"], json!({"nobody": 4001, "switched-off": 4003}));
    assert_discreet(&hub);
}

#[tokio::test]
async fn pusher_js_has_all_that_it_knows_in_memory() {
    pusher_js(&World::new(1, false).await).await;
}

#[tokio::test]
async fn pusher_js_has_all_that_it_knows_over_redis() {
    pusher_js(&World::new(1, true).await).await;
}

#[tokio::test]
async fn echo_and_its_hooks_work_as_they_are() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let report = run("pusher-echo.mjs", &hub, &[]).await;
    assert_eq!(
        report["channels"],
        json!({
            "events": [{"id": 1}], "whispers": [{"who": 2}], "secrets": [{"n": 1}], "here": [[{"id": "1"}]],
            "joining": [{"id": "2"}], "leaving": [{"id": "2"}], "socket": true,
        })
    );
    assert_eq!(report["hub"], json!({"refused": 403}));
    assert_eq!(report["hook"], json!({"ordered": true, "after": 0}));
    let paid = json!({"id": "n1", "type": "App\\Notifications\\InvoicePaid", "amount": 1.5});
    assert_eq!(
        report["hooks"],
        json!({
            "shown": {
                "public": [{"id": 1}, {"id": 2}], "presence": [{"x": 1}], "model": [{"model": {"id": 7}}],
                "notices": [paid],
            },
            "here": ["4"], "joining": ["5"], "seen": {"here": ["4", "5"], "leaving": ["4"]},
        })
    );
    let heard = json!({"sender": [2], "other": [1, 2]});
    assert_eq!(report["toOthers"], json!({"heard": heard, "named": true, "hooked": 1}), "not to whose socket it names");
    assert_discreet(&hub);
}
