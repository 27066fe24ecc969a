//! What unmodified `pusher-js` does at every code: `tests/clients/pusher-codes.mjs`.

use dzvin_protocols::channels::{centrifuge::Disconnect, pusher::ClientAction};
use serde_json::{Value, json};

use super::{clients::run, hub};
use crate::support::hub::World;

/// Back-off of `pusher-js`: one second, less what its clock may be coarse by.
const BACKOFF_MS: u64 = 950;

/// The code with which an end is told on this wire.
fn told(code: u16) -> u16 {
    match code {
        3012 => 4201,
        // Of the application's own codes those are for good that are so on the other wire.
        3500 | 3503 | 3507 | 4500.. => 4009,
        3504 => 4004,
        3008 | 3013 | 3501 | 3502 | 3505 | 3506 | 3508 | 3509 => 4100,
        _ => 4200,
    }
}

fn assert_fate(what: &str, is: &Value, code: u16) {
    let action = ClientAction::of(code);
    assert_eq!(is["code"], code, "{what}: {is}");
    let (here, there) = if action.reconnects() { ("back", "gone") } else { ("gone", "back") };
    assert_eq!((&is[here], &is[there]), (&json!(true), &Value::Null), "{what}: {is}");
    if matches!(action, ClientAction::Backoff | ClientAction::Lost) {
        assert!(is["ms"].as_u64() >= Some(BACKOFF_MS), "{what}: {is}");
    }
}

#[tokio::test]
async fn pusher_js_does_at_every_code_what_the_table_says() {
    let world = World::new(1, false).await;
    let hub = hub(&world).await;
    let all = Disconnect::ALL.iter().filter(|why| **why != Disconnect::ConnectionClosed).map(|why| why.code());
    let all: Vec<String> = all.map(|code| code.to_string()).collect();
    let report = run("pusher-codes.mjs", &hub, &["--codes", &all.join(",")]).await;
    let ordered = report["ordered"].as_object().expect("fates");
    assert_eq!(ordered.len(), all.len() + 4);
    for (code, is) in ordered {
        assert_fate(code, is, told(code.parse().expect("a code")));
    }
    for (section, what, code) in [
        ("framing", "a reserved opcode", 1002),
        ("framing", "binary", 1003),
        ("framing", "text that is not UTF-8", 1007),
        ("framing", "above the limit", 1009),
        ("handshake", "no such key", 4001),
        ("handshake", "switched off", 4003),
        ("handshake", "a version that is none", 4006),
        ("handshake", "another protocol", 4007),
        ("handshake", "no protocol", 4008),
    ] {
        assert_fate(what, &report[section][what], code);
    }
    assert_fate("terminated", &report["terminated"], 4009);
    for what in ["rubbish", "a pong that nobody asked for"] {
        assert_eq!(report["framing"][what], json!({"code": null, "open": true}), "{what}");
    }
    assert_eq!(report["channel"], json!({"told": [403], "open": "connected"}));
}
