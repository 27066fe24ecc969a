//! The Mirror when nothing goes wrong.

use crate::client::{Client, GOOD, LIMIT, Memory, PROCEDURE, open, open_at, sandbox, some_id, truth};
use dzvin_sandbox::{Knobs, NullSpelling, Phase};
use serde_json::json;
use tokio_tungstenite::tungstenite;

#[tokio::test]
async fn a_newcomer_gets_the_snapshot_then_the_tail() {
    let (handle, control) = sandbox(30, |_| {}).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    assert_eq!((client.memory.count("upsert"), client.memory.count("noop")), (30, 1));
    let id = some_id(&control);
    control.patch(PROCEDURE, &id, r#"{"status":"complete","value.amount":7.10}"#).unwrap();
    client.until_equal(&control).await;
    assert_eq!(client.memory.count("upsert"), 31);
    assert!(control.document(PROCEDURE, &id).unwrap().unwrap().contains(r#""amount":7.10"#));
    assert!(control.wait_sent(PROCEDURE, LIMIT).await);
    let stats = control.stats();
    assert_eq!(stats.links[0].phase, Phase::Tail);
    assert_eq!(stats.collection(PROCEDURE).snapshots_done, 1);
    handle.stop().await;
}

#[tokio::test]
async fn a_simple_client_never_hears_of_deletes_and_a_full_one_does() {
    let (handle, control) = sandbox(3, |_| {}).await;
    let mut simple = Client::connect(&handle, Memory::new("simple")).await;
    let mut full = Client::connect(&handle, Memory::new("full")).await;
    simple.until_equal(&control).await;
    full.until_equal(&control).await;
    let id = some_id(&control);
    control.delete(PROCEDURE, &id).unwrap();
    let other = some_id(&control);
    control.patch(PROCEDURE, &other, r#"{"status":"complete"}"#).unwrap();
    full.until_equal(&control).await;
    assert_eq!((full.memory.count("update"), full.memory.count("delete")), (1, 1));
    simple.until(|m| m.docs[&other]["status"] == "complete").await;
    assert!(simple.memory.docs.contains_key(&id));
    assert_eq!(simple.memory.count("update") + simple.memory.count("delete"), 0);
}

#[tokio::test]
async fn dotted_sets_add_up_too() {
    let (handle, control) = sandbox(3, |k| k.world.dotted_set = true).await;
    let mut full = Client::connect(&handle, Memory::new("full")).await;
    full.until_equal(&control).await;
    control.patch(PROCEDURE, &some_id(&control), r#"{"value.amount":1.5}"#).unwrap();
    full.until_equal(&control).await;
}

#[tokio::test]
async fn a_known_cursor_goes_on_without_a_snapshot() {
    let (handle, control) = sandbox(5, |_| {}).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    let memory = client.memory.clone();
    drop(client);
    for n in 0..10 {
        control.patch(PROCEDURE, &some_id(&control), &format!("{{\"n\":{n}}}")).unwrap();
    }
    let mut again = Client::connect(&handle, Memory { kinds: Vec::new(), ..memory.clone() }).await;
    again.until_equal(&control).await;
    assert_eq!(again.memory.count("upsert"), 10);
    assert_eq!(json!(control.stats().collection(PROCEDURE).last_cursor), memory.cursor);
    assert_eq!(control.stats().collection(PROCEDURE).snapshots, 1);
}

#[tokio::test]
async fn an_unknown_cursor_falls_back_to_the_init_point_inclusively() {
    let (handle, control) = sandbox(20, |_| {}).await;
    let mut rows = control.truth(PROCEDURE).unwrap();
    rows.sort_by(|a, b| a.last_modified.cmp(&b.last_modified));
    let point = rows[15].last_modified.clone();
    for cursor in [json!([1, 1]), json!([4_000_000_000u32, 1]), json!(null), json!("")] {
        let memory = Memory { cursor, point: json!(point), ..Memory::new("simple") };
        let mut client = Client::connect(&handle, memory).await;
        client.until(|m| m.count("noop") == 1).await;
        assert_eq!(client.memory.docs.len(), 5);
        let times: Vec<_> = client.memory.docs.values().map(|d| d["_lastModified"].as_str().unwrap()).collect();
        assert!(times.iter().all(|time| *time >= point.as_str()));
    }
}

#[tokio::test]
async fn history_is_lost_by_switch_by_truncation_and_by_a_short_oplog() {
    let (handle, control) = sandbox(4, |k| k.world.oplog_entries = 3).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    let known = client.memory.clone();
    let snapshots = || control.stats().collection(PROCEDURE).snapshots;
    control.forget_history(PROCEDURE).unwrap();
    let mut client = Client::connect(&handle, known.clone()).await;
    client.until_equal(&control).await;
    assert_eq!(snapshots(), 2);
    let known = client.memory.clone();
    control.fault(dzvin_sandbox::Fault::HistoryLost);
    let mut client = Client::connect(&handle, known.clone()).await;
    client.until(|m| m.count("noop") > known.count("noop")).await;
    assert_eq!(snapshots(), 3);
    control.clear_all();
    for _ in 0..4 {
        control.noop(PROCEDURE).unwrap();
    }
    let mut client = Client::connect(&handle, known).await;
    client.until_equal(&control).await;
    assert_eq!(snapshots(), 4);
    assert_eq!(control.oplog_kept(PROCEDURE).unwrap().0, 3);
}

#[tokio::test]
async fn requests_come_in_every_order_and_more_than_once() {
    let (handle, control) = sandbox(0, |k| k.mirror.repeat_requests = 3).await;
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut client = Client::connect(&handle, Memory::new("simple")).await;
        client.until(|m| m.count("noop") == 1).await;
        orders.insert(client.memory.asked.clone());
    }
    let first: std::collections::BTreeSet<_> = orders.iter().map(|order| order[0].clone()).collect();
    assert_eq!(first.len(), 3, "each kind comes first at times");
    assert!(orders.iter().any(|order| order.len() > 5));
    control.turn(|k| {
        k.mirror.shuffle_requests = false;
        k.mirror.repeat_requests = 1;
        k.mirror.pipeline_requests = true;
    });
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until(|m| m.count("noop") == 1).await;
    assert_eq!(client.memory.asked, ["protocol-request", "timestamp-request", "init-point-request"]);
}

#[tokio::test]
async fn the_same_seed_asks_in_the_same_order() {
    let mut seen = Vec::new();
    for seed in [5, 5, 6] {
        let (handle, _) = sandbox(0, |k: &mut Knobs| {
            k.mirror.seed = seed;
            k.mirror.repeat_requests = 4;
        })
        .await;
        let mut client = Client::connect(&handle, Memory::new("simple")).await;
        client.until(|m| m.count("noop") == 1).await;
        seen.push(client.memory.asked);
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

#[tokio::test]
async fn a_full_client_is_asked_for_ids_and_told_how_they_stand() {
    let (handle, control) = sandbox(3, |_| {}).await;
    let mut full = Client::connect(&handle, Memory::new("full")).await;
    full.until_equal(&control).await;
    let mut memory = full.memory.clone();
    drop(full);
    memory.docs.insert("ffffffffffffffffffffffff".to_owned(), json!({"_id":"ffffffffffffffffffffffff"}));
    memory.ids = vec!["ffffffffffffffffffffffff".to_owned(), some_id(&control)];
    memory.kinds.clear();
    control.noop(PROCEDURE).unwrap();
    let mut full = Client::connect(&handle, memory).await;
    full.until_equal(&control).await;
    assert_eq!((full.memory.count("delete"), full.memory.count("upsert")), (1, 1));
    assert!(full.memory.asked.contains(&"ids-since-timestamp-request".to_owned()));
}

#[tokio::test]
async fn the_cursor_is_asked_for_again_while_the_tail_flows() {
    let (handle, control) = sandbox(1, |k| k.mirror.reask_every = 2).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
    let before = client.memory.count("timestamp-request");
    for _ in 0..6 {
        control.noop(PROCEDURE).unwrap();
    }
    client.until(|m| m.count("timestamp-request") == before + 3).await;
    let (top, _) = control.top(PROCEDURE).unwrap();
    assert!(control.wait_until(LIMIT, |s| s.collection(PROCEDURE).last_cursor == Some(top)).await);
}

#[tokio::test]
async fn noops_come_when_it_is_quiet() {
    let (handle, control) = sandbox(1, |k| k.mirror.noop_ms = 20).await;
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until(|m| m.count("noop") >= 4).await;
    assert!(control.top(PROCEDURE).unwrap().1 >= 3);
}

#[tokio::test]
async fn drifted_names_and_nulls_reach_the_wire() {
    let (handle, control) = sandbox(2, |k| {
        k.mirror.null = NullSpelling::Empty;
        k.mirror.strict_null = true;
        k.mirror.envelope.ts = "oplogTs".to_owned();
        k.world.last_modified = Some("_last_modified".to_owned());
    })
    .await;
    let strict = Memory { cursor: json!(""), point: json!(""), ..Memory::new("simple") };
    let mut client = Client::connect(&handle, strict).await;
    client.until(|m| m.count("noop") == 1).await;
    assert!(client.memory.docs.values().all(|doc| doc["_last_modified"].is_string() && doc["_lastModified"].is_null()));
    let mut wrong = Client::connect(&handle, Memory::new("simple")).await;
    wrong.ending().await;
    assert_eq!(wrong.memory.kinds.last().unwrap(), "close 1008");
    assert_eq!(truth(&control).len(), 2);
}

#[tokio::test]
async fn the_door_checks_token_version_and_collection() {
    let (handle, control) = sandbox(0, |_| {}).await;
    let status = |result: Result<_, tungstenite::Error>| match result {
        Err(tungstenite::Error::Http(response)) => {
            let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
            (response.status().as_u16(), body.contains("message"))
        }
        Ok(_) => (101, false),
        Err(other) => panic!("{other}"),
    };
    let version = GOOD[1];
    assert_eq!(status(open(&handle, &GOOD).await), (101, false));
    assert_eq!(status(open(&handle, &[version]).await), (403, true));
    assert_eq!(status(open(&handle, &[version, ("authorization", "nobody")]).await), (403, true));
    assert_eq!(status(open(&handle, &GOOD[..1]).await), (400, true));
    assert_eq!(status(open(&handle, &[GOOD[0], ("platform-version", "0.9")]).await), (400, true));
    let url = handle.mirror_url("nothing");
    assert_eq!(status(open_at(&url, &GOOD).await), (404, true));
    assert_eq!(status(open_at(&format!("ws://{}/ws", handle.address()), &GOOD).await), (101, false));
    // Rights change without a new token.
    control.set_token("narrow", ["api"]);
    let narrow = [("authorization", "narrow"), version];
    assert_eq!(status(open(&handle, &narrow).await), (403, true));
    control.set_token("narrow", ["mirror:procedure"]);
    assert_eq!(status(open(&handle, &narrow).await), (101, false));
    assert_eq!(status(open_at(&handle.mirror_url("registry-object"), &narrow).await), (403, true));
    control.turn(|k| k.access.scheme = "Bearer ".to_owned());
    assert_eq!(status(open(&handle, &GOOD).await), (403, true));
    assert_eq!(status(open(&handle, &[("authorization", "Bearer sandbox-token"), version]).await), (101, false));
}

#[tokio::test]
async fn real_tenders_keep_their_text_and_reach_the_client() {
    let seed = dzvin_sandbox::fixtures::subset().unwrap();
    let config = dzvin_sandbox::SandboxConfig {
        collections: vec![dzvin_sandbox::CollectionConfig {
            seed: seed.clone(),
            ..dzvin_sandbox::CollectionConfig::new(PROCEDURE, "procedures")
        }],
        knobs: Knobs::unlimited(),
        ..Default::default()
    };
    let handle = dzvin_sandbox::Sandbox::start(config).await.unwrap();
    let control = handle.control();
    let rows = control.truth(PROCEDURE).unwrap();
    assert_eq!(rows.len(), seed.len());
    for text in seed.iter().take(50) {
        // All but the opening brace of the original text stands in the row, byte by byte.
        assert!(rows.iter().any(|row| row.raw.ends_with(&text[1..])), "{}", &text[..60]);
    }
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until_equal(&control).await;
}
