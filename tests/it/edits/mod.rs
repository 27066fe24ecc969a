//! Entities of a local kind, written over REST as people and programs do it.

mod bulk;
mod conflicts;
mod expand;
mod exports;
mod hammer;
mod kinds;
mod lists;
mod matrix;
mod past;
mod rights;
mod search;
mod together;

use dzvin::identity::{SigningKey, TokenRules, Verifier};
use dzvin_protocols::identity::Claims;
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::hub::{Hub, KEY, World};

const DEALS: &str = "/api/v1/entities/deal";

/// Kinds, and roles that see and do different things.
const KINDS: &str = r#"
[kinds.deal]
source = "local"
fields = ["status", "owner"]
[kinds.task]
source = "local"
fields = ["title", "sum", "due", "owner", "secret"]
sorts = { title = "text", sum = "number", due = "time", secret = "text" }
[kinds.note]
source = "local"
trash_retention = "30d"
[kinds.careful]
source = "local"
require_if_match = true
[identity.roles]
boss = ["entities:*:*"]
desk = ["entities:read:*", "entities:create:*", "entities:update:*", "entities:trash:*", "entities:restore:*"]
clerk = ["entities:read:*", "entities:create:*", "entities:update:*", "entities:trash:*", "entities:restore:*"]
reader = ["entities:read:*"]
guest = ["entities:read:*"]
[identity.views.desk.deal]
mask = ["phone", "contacts.email"]
[identity.views.desk.task]
mask = ["secret"]
[identity.views.guest.task]
rows = '{"not": {"owner": "olha"}}'
[identity.views.clerk.task]
rows = '{"owner": "$user"}'
[identity.views.clerk.deal]
rows = '{"owner": "$user"}'
"#;

async fn world(redis: bool) -> World {
    let mut world = World::new(0, redis).await;
    world.mirrors.push_str(KINDS);
    world
}

fn token(user: &str, permissions: &[&str], roles: &[&str]) -> String {
    let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
    let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
    let own = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    let exp = Some(OffsetDateTime::now_utc().unix_timestamp() + 3600);
    let claims =
        Claims { sub: user.into(), exp, roles: own(roles), permissions: own(permissions), ..Claims::default() };
    verifier.sign(&claims).expect("signed")
}

/// What a request came to.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// A refusal with this code.
    fn refused(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.body);
        self
    }

    fn tag(&self) -> String {
        self.headers["etag"].to_str().expect("text").to_owned()
    }
}

/// Somebody at one node.
struct Writer<'a> {
    hub: &'a Hub,
    token: String,
    http: reqwest::Client,
}

impl<'a> Writer<'a> {
    fn new(hub: &'a Hub, user: &str, role: &str) -> Self {
        Self::with(hub, token(user, &[], &[role]))
    }

    fn with(hub: &'a Hub, token: String) -> Self {
        Self { hub, token, http: reqwest::Client::new() }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let request = self.http.request(method, format!("http://{}{path}", self.hub.addr)).bearer_auth(&self.token);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.body(body).send().await.expect("answered");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.expect("read");
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], String::new()).await
    }

    async fn create(&self, doc: &Value) -> Answer {
        self.send(Method::POST, DEALS, &[("content-type", "application/json")], doc.to_string()).await
    }

    async fn put(&self, id: &str, doc: &Value, condition: Option<(&str, &str)>) -> Answer {
        let headers: Vec<_> = [("content-type", "application/json")].into_iter().chain(condition).collect();
        self.send(Method::PUT, &format!("{DEALS}/{id}"), &headers, doc.to_string()).await
    }

    async fn merge(&self, id: &str, patch: &Value, seen: Option<&str>) -> Answer {
        let kind = ("content-type", "application/merge-patch+json");
        let headers: Vec<_> = [kind].into_iter().chain(seen.map(|tag| ("if-match", tag))).collect();
        self.send(Method::PATCH, &format!("{DEALS}/{id}"), &headers, patch.to_string()).await
    }

    async fn patch(&self, id: &str, patch: &Value) -> Answer {
        let kind = ("content-type", "application/json-patch+json");
        self.send(Method::PATCH, &format!("{DEALS}/{id}"), &[kind], patch.to_string()).await
    }

    async fn delete(&self, id: &str, more: &str) -> Answer {
        self.send(Method::DELETE, &format!("{DEALS}/{id}{more}"), &[], String::new()).await
    }

    async fn restore(&self, id: &str) -> Answer {
        self.send(Method::POST, &format!("{DEALS}/{id}/restore"), &[], String::new()).await
    }
}

#[tokio::test]
async fn the_life_of_an_entity() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let made = boss.create(&json!({"status": "new", "owner": "olha", "sum": 1})).await;
    let id = made.is(201).body["id"].as_str().expect("an id").to_owned();
    assert_eq!(made.headers["location"], format!("{DEALS}/{id}"));
    assert_eq!(
        (&made.body["revision"], &made.body["by"], &made.body["op"]),
        (&json!(1), &json!("olha"), &json!("create"))
    );
    let there = boss.get(&format!("{DEALS}/{id}")).await;
    assert_eq!((there.is(200).tag(), &there.body["doc"]), (made.tag(), &made.body["doc"]));
    let listed = boss.get(&format!("{DEALS}?status=new")).await;
    assert_eq!(listed.body["items"][0]["id"], made.body["id"], "it is found by its declared fields");
    assert_eq!(listed.body["position"], made.body["position"], "the answer says how far the channel has to be");

    let changed = boss.merge(&id, &json!({"status": "won", "sum": null}), Some(&made.tag())).await;
    assert_eq!(
        (&changed.is(200).body["revision"], &changed.body["doc"]),
        (&json!(2), &json!({"status": "won", "owner": "olha"}))
    );
    let late = boss.merge(&id, &json!({"status": "lost"}), Some(&made.tag())).await;
    assert_eq!(late.refused(412, "revision_conflict").body["revision"], 2);
    boss.merge(&id, &json!({"status": "won"}), Some("\"1\"")).await.refused(412, "revision_conflict");
    let same = boss.merge(&id, &json!({"status": "won"}), Some("2")).await;
    assert_eq!((same.is(200).tag(), &same.body["revision"]), (changed.tag(), &json!(2)), "nothing has changed");
    let patched = boss
        .patch(
            &id,
            &json!([{"op": "test", "path": "/status", "value": "won"}, {"op": "add", "path": "/n", "value": [1]}]),
        )
        .await;
    assert_eq!(patched.is(200).body["doc"], json!({"status": "won", "owner": "olha", "n": [1]}));
    boss.patch(&id, &json!([{"op": "test", "path": "/status", "value": "x"}])).await.refused(409, "patch_failed");
    boss.patch(&id, &json!([{"op": "jump"}])).await.refused(400, "bad_patch");

    let gone = boss.delete(&id, "").await;
    assert!(gone.is(200).body["trashed_at"].is_string() && gone.body["op"] == "trash");
    assert_eq!(boss.delete(&id, "").await.is(200).tag(), gone.tag(), "it is there already");
    boss.merge(&id, &json!({"n": 2}), None).await.refused(409, "in_trash");
    boss.put(&id, &json!({}), None).await.refused(409, "in_trash");
    let back = boss.restore(&id).await;
    assert_eq!((&back.is(200).body["op"], &back.body["trashed_at"]), (&json!("restore"), &json!(null)));
    assert_eq!(boss.restore(&id).await.is(200).tag(), back.tag());

    let purged = boss.delete(&id, "?purge=true").await;
    assert_eq!((purged.is(200).body.get("doc"), &purged.body["revision"]), (Some(&Value::Null), &json!(6)));
    let history = boss.get(&format!("{DEALS}/{id}/history")).await.is(200).body.to_string();
    assert!(!history.contains("won") && !history.contains("status"), "what was purged is gone from the log: {history}");
    let mut raw = world.db.raw().await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM changes WHERE kind = 'deal' AND (doc IS NOT NULL OR before IS NOT NULL OR changed <> '{}')")
        .fetch_one(&mut raw)
        .await
        .expect("counted");
    assert_eq!(left, 0, "nothing of it is left in the log");
    boss.merge(&id, &json!({"n": 2}), None).await.refused(404, "unknown_entity");
    let anew = boss.put(&id, &json!({"status": "anew"}), None).await;
    assert_eq!((&anew.is(201).body["revision"], &anew.body["op"]), (&json!(7), &json!("create")));
}

#[tokio::test]
async fn puts_create_and_replace_as_they_are_asked_to() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let (new, any) = (Some(("if-none-match", "*")), Some(("if-match", "*")));
    boss.put("a", &json!({"n": 1}), any).await.refused(404, "unknown_entity");
    boss.put("a", &json!({"n": 1}), Some(("if-match", "\"1\""))).await.refused(404, "unknown_entity");
    boss.put("a", &json!({"n": 1}), new).await.is(201);
    boss.put("a", &json!({"n": 2}), new).await.refused(412, "entity_exists");
    assert_eq!(boss.put("a", &json!({"n": 2}), any).await.is(200).body["revision"], 2);
    assert_eq!(boss.put("a", &json!({"n": 2}), None).await.is(200).body["revision"], 2, "the same is no change");
    assert_eq!(boss.put("a", &json!({"n": 3}), Some(("if-match", "\"9\", \"2\""))).await.is(200).body["revision"], 3);
    let other = Some(("if-match", "\"0123456789abcdef.3.d41d8cd9\""));
    boss.put("a", &json!({"n": 4}), other).await.refused(412, "revision_conflict");
    // Spelling is the writer's.
    let text = r#"{"n": 1.00, "big": 12345678901234567890.10}"#.to_owned();
    let kind = [("content-type", "application/json; charset=utf-8")];
    boss.send(Method::PUT, &format!("{DEALS}/b"), &kind, text.clone()).await.is(201);
    let read = reqwest::Client::new().get(format!("http://{}{DEALS}/b", hub.addr)).bearer_auth(&boss.token);
    assert!(read.send().await.expect("answered").text().await.expect("read").contains(&text));
}

#[tokio::test]
async fn what_cannot_be_written_is_refused() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let json = [("content-type", "application/json")];
    let post =
        async |headers: &[(&str, &str)], body: &str| boss.send(Method::POST, DEALS, headers, body.to_owned()).await;
    post(&[], "{}").await.refused(415, "unsupported_media_type");
    post(&[("content-type", "text/plain")], "{}").await.refused(415, "unsupported_media_type");
    post(&json, "{").await.refused(400, "bad_json");
    post(&json, "[]").await.refused(422, "unfit_document");
    post(&json, r#"{"a":"\u0000"}"#).await.refused(422, "unfit_document");
    post(&json, &format!(r#"{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200))).await.refused(422, "unfit_document");
    boss.create(&json!({"n": 1})).await.is(201);
    boss.put("a", &json!({"l": [1]}), None).await.is(201);
    let path = format!("{DEALS}/a");
    let odd = boss.send(Method::PATCH, &path, &json, "{}".to_owned()).await;
    assert!(
        odd.refused(415, "unsupported_media_type").headers["accept-patch"]
            .to_str()
            .expect("text")
            .contains("json-patch")
    );
    boss.merge("a", &json!([1]), None).await.refused(422, "unfit_document");
    boss.patch("a", &json!([{"op": "replace", "path": "", "value": 1}])).await.refused(422, "unfit_document");
    boss.patch("none", &json!([])).await.refused(404, "unknown_entity");
    let large = json!({"text": "x".repeat(700_000)});
    boss.put("large", &large, None).await.is(201);
    let double = json!([{"op": "copy", "from": "/text", "path": "/more"}]);
    assert_eq!(boss.get(&format!("{DEALS}/large")).await.body["doc"], large);
    boss.patch("large", &double).await.refused(409, "patch_failed");
    boss.merge("large", &json!({"more": "x".repeat(400_000)}), None).await.refused(413, "document_too_large");
    boss.send(Method::PUT, "/api/v1/entities/procedure/a", &json, "{}".to_owned()).await.refused(405, "read_only_kind");
    boss.send(Method::PUT, "/api/v1/entities/none/a", &json, "{}".to_owned()).await.refused(404, "unknown_kind");
    let bad = boss.send(Method::DELETE, &format!("{path}?purge=perhaps"), &[], String::new()).await;
    assert_eq!(bad.status, 400, "{}", bad.body);
}

#[tokio::test]
async fn a_kind_may_demand_that_writers_say_what_they_have_seen() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let boss = Writer::new(&hub, "olha", "boss");
    let path = "/api/v1/entities/careful/a";
    let (json, merge) = (("content-type", "application/json"), ("content-type", "application/merge-patch+json"));
    let put = async |condition: &[(&str, &str)]| {
        boss.send(Method::PUT, path, &[&[json], condition].concat(), "{}".to_owned()).await
    };
    put(&[]).await.refused(428, "precondition_required");
    let made = put(&[("if-none-match", "*")]).await;
    made.is(201);
    boss.send(Method::PATCH, path, &[merge], "{}".to_owned()).await.refused(428, "precondition_required");
    boss.send(Method::DELETE, path, &[], String::new()).await.refused(428, "precondition_required");
    boss.send(Method::DELETE, path, &[("if-match", &made.tag())], String::new()).await.is(200);
}
