//! What an operator sees and may do: the list, the word to go on, the recorder.

use std::fs;

use dzvin_sandbox::DEFAULT_TOKEN;
use serde_json::Value;

use crate::support::{eventually::eventually, hub::World};

#[tokio::test]
async fn the_mirror_tells_how_it_is() {
    let world = World::new(3, false).await;
    let hub = world.hub("a").await;
    let control = world.sandbox.control();
    control.noop("procedure").expect("the collection");
    let (top, _) = control.top("procedure").expect("the collection");
    let cursor = Value::from(top.to_string());
    let mirror = eventually("the mirror is live", async || {
        let list = hub.api("viewer", "/api/v1/mirrors").await;
        let mirror = list["items"][0].clone();
        (mirror["state"] == "live" && mirror["cursor"] == cursor && mirror["last_frame_at"].is_string())
            .then_some(mirror)
    })
    .await;
    for (key, value) in [("name", "procedure"), ("kind", "procedure")] {
        assert_eq!(mirror[key], value);
    }
    assert_eq!((&mirror["objects"], &mirror["here"], &mirror["applied"]), (&3.into(), &true.into(), &3.into()));
    assert!(mirror["lag_ms"].is_u64() && mirror["newest_version"].is_string(), "{mirror}");
    assert!(!mirror.to_string().contains(DEFAULT_TOKEN), "{mirror}");
}

#[tokio::test]
async fn only_an_operator_resumes() {
    let world = World::new(1, false).await;
    let hub = world.hub("a").await;
    let path = "/api/v1/mirrors/procedure/resume";
    eventually("it holds its mirror", async || {
        hub.api("operator", "/api/v1/mirrors").await["items"][0]["here"] == true
    })
    .await;
    let (status, said) = hub.post("viewer", path).await;
    assert_eq!(status, 403, "{said}");
    let said: Value = serde_json::from_str(&said).expect("a problem");
    assert!(said["code"].is_string(), "{said}");
    assert_eq!(hub.post("operator", path).await.0, 202);
    assert_eq!(hub.post("operator", "/api/v1/mirrors/nothing/resume").await.0, 404);
    hub.reconfigure(|text| text.replace("platform_version", "platform_vision"));
    let (status, said) = hub.post("operator", path).await;
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("bad_configuration") && said.contains("platform_vision"), "{said}");
    assert!(!said.contains(DEFAULT_TOKEN), "{said}");
}

#[tokio::test]
async fn the_recorder_masks_secrets() {
    let mut world = World::new(1, false).await;
    let frames = world.dir.path().join("frames");
    world.mirrors += &format!("tap = {{ path = \"{}\", frames = 40 }}\n", frames.display());
    let control = world.sandbox.control();
    let hub = world.hub("a").await;
    let doc = r#"{"_id":"s","acc_token":"s3cret-one","ownerToken":"s3cret-two","url":"https://x/y?acc_token=s3cret-three&z=1"}"#;
    control.put("procedure", doc).expect("an object");
    let text = eventually("it is recorded", async || {
        let text = fs::read_to_string(&frames).unwrap_or_default();
        text.lines().any(|line| line.contains("acc_token")).then_some(text)
    })
    .await;
    assert!(!text.contains("s3cret") && !text.contains(DEFAULT_TOKEN), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    for (direction, what) in [("in", "timestamp-request"), ("out", "timestamp-request"), ("in", "upsert")] {
        let found = |line: &Value| line["direction"] == direction && line["text"].as_str().unwrap_or("").contains(what);
        assert!(lines.iter().any(found), "{direction} {what} in {text}");
    }
    assert!(lines.len() <= 40 && lines.iter().all(|line| line["at"].is_string() && line["bytes"].is_u64()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&frames).expect("file").permissions());
    assert_eq!(mode & 0o777, 0o600);

    // Nor is it kept where documents are: rows, their history, and what REST shows of both.
    control.patch("procedure", "s", r#"{"acc_token":"s3cret-four","status":"x"}"#).expect("an edit");
    let path = "/api/v1/entities/procedure/s";
    let shown = eventually("the edit is shown", async || {
        let shown = hub.api("viewer", path).await;
        (shown["doc"]["status"] == "x").then_some(shown)
    })
    .await;
    let history = hub.api("viewer", &format!("{path}/history")).await;
    let stored: Vec<String> = sqlx::query_scalar(
        "SELECT e::text FROM entities AS e WHERE id = 's' UNION ALL SELECT c::text FROM changes AS c WHERE id = 's'",
    )
    .fetch_all(&mut world.db.raw().await)
    .await
    .expect("rows");
    assert!(stored.len() >= 3 && stored.iter().all(|row| row.contains("***")), "{stored:?}");
    assert_eq!((&shown["doc"]["acc_token"], &shown["doc"]["ownerToken"]), (&"***".into(), &"***".into()));
    for place in [shown.to_string(), history.to_string(), stored.concat()] {
        for secret in ["s3cret-one", "s3cret-two", "s3cret-four"] {
            assert!(!place.contains(secret), "{secret} in {place}");
        }
    }
}
