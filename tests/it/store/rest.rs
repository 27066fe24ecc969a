//! The resources over REST, and rule 4.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, header},
};
use dzvin::{
    entities::{Entities, queries::StoredQueries},
    identity::{SigningKey, TokenRules, Verifier},
    mirror::{MirrorsState, Resume, Resumed},
    platform::{
        config::Http,
        http::{AnswerRoom, HttpMetrics},
    },
};
use dzvin_actors::platform::ports::{MirrorStatus, MirrorStore};
use dzvin_protocols::{
    identity::Claims,
    mirror::{MirrorBatch, MirrorOp},
};
use serde_json::Value;
use tower::ServiceExt;

use super::{Store, batch, id, kind, raw, upsert, upsert_raw};

struct OneLink;

impl Resume for OneLink {
    fn resume<'a>(
        &'a self,
        mirror: &'a str,
        _: Option<Arc<str>>,
    ) -> Pin<Box<dyn Future<Output = Resumed> + Send + 'a>> {
        Box::pin(async move { if mirror == "held" { Resumed::Told } else { Resumed::NotHere } })
    }
}

pub struct Api {
    router: Router,
    verifier: Arc<Verifier>,
}

pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("json")
    }
}

impl Api {
    fn new(store: &Store) -> Self {
        Self::over(&store.entities, store)
    }

    /// The same of a node that sees the store by declarations of its own.
    pub fn over(entities: &Entities, store: &Store) -> Self {
        let key = SigningKey::new("k1", &[7; 32]).expect("key");
        let verifier = Arc::new(Verifier::new(vec![key], TokenRules::default()).expect("verifier"));
        let mirrors =
            MirrorsState { mirrors: store.mirrors.clone(), owner: "node-a".into(), resume: Arc::new(OneLink) };
        let room = AnswerRoom::new(&Http::default(), HttpMetrics::default());
        let queries = StoredQueries::new(entities.for_readers());
        let router = dzvin::entities::router(entities.for_readers(), room.clone())
            .merge(dzvin::entities::queries::router(queries, Arc::new(()), room))
            .merge(dzvin::mirror::router(mirrors))
            .layer(Extension(Arc::clone(&verifier)));
        Self { router, verifier }
    }

    async fn ask(&self, method: &str, path: &str, permissions: &[&str], tag: Option<&str>) -> Answer {
        self.ask_as("olha", method, path, permissions, tag, None).await
    }

    /// The same of a user, with a body.
    pub async fn ask_as(
        &self,
        user: &str,
        method: &str,
        path: &str,
        permissions: &[&str],
        tag: Option<&str>,
        body: Option<String>,
    ) -> Answer {
        let exp = time::OffsetDateTime::now_utc().unix_timestamp() + 60;
        let permissions = permissions.iter().map(ToString::to_string).collect();
        let claims = Claims { sub: user.into(), exp: Some(exp), permissions, ..Claims::default() };
        let token = self.verifier.sign(&claims).expect("token");
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = self
            .router
            .clone()
            .oneshot(request.body(body.map_or(Body::empty(), Body::from)).expect("request"))
            .await
            .expect("answer");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("body").to_vec();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &["*"], None).await
    }
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().expect("items").iter().map(|item| item["id"].as_str().expect("id").to_owned()).collect()
}

#[tokio::test]
async fn a_list_is_newest_first_and_filtered() {
    let store = Store::new().await;
    let ops = (0..7).map(|n| upsert(&format!("e{n}"), "1", if n % 2 == 0 { "even" } else { "odd" }));
    store.apply(ops.collect()).await;
    let api = Api::new(&store);
    let page = api.get("/api/v1/entities/procedure?limit=3&total=true").await.json();
    assert_eq!(ids(&page), ["e6", "e5", "e4"]);
    assert_eq!((&page["total"], &page["channel"]), (&Value::from(7), &Value::from("entities.procedure")));
    assert_eq!(page["position"]["offset"], 7);
    let item = &page["items"][0];
    assert_eq!(
        (item["revision"].as_u64(), item["offset"].as_u64(), item["op"].as_str()),
        (Some(1), Some(7), Some("create"))
    );
    assert_eq!((&item["channel"], &item["version"]), (&Value::from("entity.procedure.e6"), &Value::from("1")));
    assert_eq!(item["doc"]["status"], "even");

    let page = api.get("/api/v1/entities/procedure?status=odd&value.amount=904.240&total=true").await.json();
    assert_eq!(
        (ids(&page), &page["total"], &page["next"]),
        (vec!["e5".into(), "e3".into(), "e1".into()], &Value::from(3), &Value::Null)
    );
    let none = api.get("/api/v1/entities/procedure?status=none").await.json();
    assert_eq!((ids(&none).len(), &none["position"]["offset"]), (0, &Value::from(7)));
}

#[tokio::test]
async fn wrong_questions_are_problems() {
    let store = Store::new().await;
    let api = Api::new(&store);
    for (path, status, code) in [
        ("/api/v1/entities/procedure?title=x", 400, "unknown_field"),
        ("/api/v1/entities/procedure?status=x&status=y", 400, "repeated_field"),
        ("/api/v1/entities/procedure?limit=0", 400, "bad_parameter"),
        ("/api/v1/entities/procedure?limit=201", 400, "bad_parameter"),
        ("/api/v1/entities/procedure?cursor=x", 400, "bad_parameter"),
        ("/api/v1/entities/procedure?status=%00", 400, "bad_parameter"),
        ("/api/v1/entities/procedure?total=maybe", 400, "bad_parameter"),
        ("/api/v1/entities/nope", 404, "unknown_kind"),
        ("/api/v1/entities/NOPE", 404, "unknown_kind"),
        ("/api/v1/entities/procedure/nobody", 404, "unknown_entity"),
        ("/api/v1/entities/procedure/a%00b", 404, "unknown_entity"),
        ("/api/v1/entities/procedure/nobody/history", 404, "unknown_entity"),
        ("/api/v1/entities/procedure/nobody/history?before=x", 400, "bad_parameter"),
    ] {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{path}");
    }
    let other = ["entities:read:registry-object"];
    for path in ["", "/a", "/a/history"] {
        let answer = api.ask("GET", &format!("/api/v1/entities/procedure{path}"), &other, None).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    // Kinds that may not be read are not told of.
    let kinds = api.ask("GET", "/api/v1/kinds", &other, None).await.json();
    assert_eq!(kinds["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        kinds["items"][0],
        serde_json::json!({"kind": "registry-object", "source": "mirrored", "mirror": "m", "fields": ["status", "value.amount"], "sorts": {}, "pending": [],
            "text": [], "title": {}, "display": [], "references": {}, "may": ["read"], "declared": "configuration", "version": 1,
            "channel": "entities.registry-object", "readable": true})
    );
    let nobody = api.ask("GET", "/api/v1/kinds", &["mirrors:read:*"], None).await.json();
    assert_eq!(nobody["items"].as_array().map(Vec::len), Some(0));
}

/// Pages stay put while entities move: nothing is shown twice, and what a later page lacks because it moved is in the log
/// after the first page's position.
#[tokio::test]
async fn pages_are_stable_while_entities_move() {
    let store = Store::new().await;
    store.apply((0..10).map(|n| upsert(&format!("e{n}"), "1", "x")).collect()).await;
    let api = Api::new(&store);
    let mut path = "/api/v1/entities/procedure?limit=4".to_owned();
    let (mut seen, mut positions) = (Vec::new(), Vec::new());
    for round in 0.. {
        let page = api.get(&path).await.json();
        seen.extend(ids(&page));
        positions.push(page["position"].clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/entities/procedure?limit=4&cursor={next}");
        store.apply(vec![upsert(&format!("e{round}"), "2", "y"), upsert("e9", "2", "y")]).await;
    }
    assert_eq!(seen, ["e9", "e8", "e7", "e6", "e5", "e4", "e3", "e2"]);
    assert!(positions.iter().all(|position| *position == positions[0]), "the first page's position counts");
    let after = positions[0]["offset"].as_u64().expect("offset");
    let moved: Vec<_> = store.log(after).await.changes.iter().map(|c| c.id.to_string()).collect();
    assert!(["e0", "e1"].iter().all(|id| moved.contains(&(*id).to_owned())), "{moved:?}");
}

/// Rule 4 under writers: list plus what the log holds after its position is exactly what is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_and_its_position_are_of_one_moment() {
    let store = Arc::new(Store::new().await);
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for n in 0..150u32 {
                store.apply(vec![upsert(&format!("e{}", n % 7), &format!("{n:04}"), &format!("s{n}"))]).await;
            }
        }
    });
    let api = Api::new(&store);
    let mut lists = 0;
    while !writer.is_finished() || lists == 0 {
        let page = api.get("/api/v1/entities/procedure").await.json();
        let position = page["position"]["offset"].as_u64().expect("offset");
        // Every item is what the log says up to the position, no older and no newer.
        let mut expected = BTreeMap::new();
        for change in store.log(0).await.changes.into_iter().filter(|change| change.offset <= position) {
            expected.insert(change.id.to_string(), (change.revision, change.offset));
        }
        let number = |item: &Value, name: &str| item[name].as_u64().expect("number");
        let items = page["items"].as_array().expect("items").iter();
        let got: BTreeMap<_, _> = items
            .map(|item| {
                (item["id"].as_str().expect("id").to_owned(), (number(item, "revision"), number(item, "offset")))
            })
            .collect();
        assert_eq!(got, expected, "at {position}");
        lists += 1;
    }
    writer.await.expect("writer");
}

#[tokio::test]
async fn one_entity_is_its_raw_text_with_a_tag() {
    let store = Store::new().await;
    let doc = "{ \"b\":1.10, \"a\":\"<script>\",\n\"big\":12345678901234567890.5 }";
    store.apply(vec![upsert_raw("a/ї", "1", doc)]).await;
    let api = Api::new(&store);
    let path = "/api/v1/entities/procedure/a%2F%D1%97";
    let first = api.get(path).await;
    let text = String::from_utf8(first.body.clone()).expect("text");
    assert!(text.ends_with(&format!(",\"doc\":{doc}}}")), "{text}");
    assert_eq!(first.headers[header::CONTENT_LENGTH], text.len().to_string().as_str());
    let tag = first.headers[header::ETAG].to_str().expect("tag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
        let again = api.ask("GET", path, &["*"], Some(&known)).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{known}");
        assert_eq!(again.headers[header::ETAG], tag.as_str());
    }
    // The same content under a newer version is another text.
    store.apply(vec![upsert_raw("a/ї", "2", doc)]).await;
    let newer = api.ask("GET", path, &["*"], Some(&tag)).await;
    assert_eq!((newer.status, newer.json()["revision"].as_u64()), (200, Some(1)));
    let channel = newer.json()["channel"].as_str().expect("channel").to_owned();
    assert!(channel.starts_with("entity.procedure.h_"), "{channel}");
}

#[tokio::test]
async fn a_large_document_is_a_reference_in_a_list_and_whole_by_itself() {
    let store = Store::new().await;
    store.apply(vec![upsert_raw("big", "1", &format!(r#"{{"t":"{}"}}"#, "x".repeat(7_500_000)))]).await;
    let api = Api::new(&store);
    let page = api.get("/api/v1/entities/procedure").await;
    assert!(page.body.len() < 1_000);
    assert_eq!(page.json()["items"][0]["ref"], true);
    assert!(page.json()["items"][0].get("doc").is_none());
    let one = api.get("/api/v1/entities/procedure/big").await.json();
    assert_eq!(one["doc"]["t"].as_str().map(str::len), Some(7_500_000));
}

#[tokio::test]
async fn history_goes_back_in_pages() {
    let store = Store::new().await;
    for (n, status) in ["a", "b", "c", "d"].iter().enumerate() {
        store.apply(vec![upsert("e", &n.to_string(), status)]).await;
    }
    let api = Api::new(&store);
    let page = api.get("/api/v1/entities/procedure/e/history?limit=3").await.json();
    let item = &page["items"][0];
    assert_eq!((item["revision"].as_u64(), item["before"]["status"].as_str()), (Some(4), Some("c")));
    assert_eq!((&item["changed"], &item["kept"]), (&serde_json::json!(["dateModified", "status"]), &Value::Bool(true)));
    let next = page["next"].as_str().expect("more");
    let rest = api.get(&format!("/api/v1/entities/procedure/e/history?limit=3&before={next}")).await.json();
    assert_eq!((rest["items"].as_array().map(Vec::len), &rest["items"][0]["op"]), (Some(1), &Value::from("create")));
    assert!(rest["next"].is_null() && rest["items"][0]["before"].is_null());
}

#[tokio::test]
async fn mirrors_are_told_with_their_state() {
    let store = Store::new().await;
    let status = MirrorStatus { state: "live".into(), lag_ms: Some(3), applied: 1, ..MirrorStatus::default() };
    store.mirrors.note_state("m", &store.lease, &status).await.expect("noted");
    let it = MirrorBatch { cursor: Some(raw("[1,2]")), ..batch(vec![upsert("a", "v1", "x")]) };
    store.mirrors.apply("m", &kind(), &store.lease, it).await.expect("applied");
    let api = Api::new(&store);
    let item = api.get("/api/v1/mirrors").await.json()["items"][0].clone();
    for (name, value) in [
        ("name", Value::from("m")),
        ("kind", kind().as_str().into()),
        ("state", "live".into()),
        ("lag_ms", 3.into()),
        ("cursor", "[1,2]".into()),
        ("newest_version", "v1".into()),
        ("objects", 1.into()),
        ("owner", "node-a".into()),
        ("here", true.into()),
        ("last_error", Value::Null),
    ] {
        assert_eq!(item[name], value, "{name}");
    }
    let nobody = api.ask("GET", "/api/v1/mirrors", &["entities:read:*"], None).await.json();
    assert_eq!(nobody["items"].as_array().map(Vec::len), Some(0));

    for (name, permissions, status, code) in [
        ("held", ["mirrors:operate:*"], 202, None),
        ("m", ["mirrors:operate:*"], 409, Some("mirror_elsewhere")),
        ("nope", ["mirrors:operate:*"], 404, Some("unknown_mirror")),
        ("held", ["mirrors:read:*"], 403, Some("forbidden")),
    ] {
        let answer = api.ask("POST", &format!("/api/v1/mirrors/{name}/resume"), &permissions, None).await;
        let got = (!answer.body.is_empty()).then(|| answer.json()["code"].as_str().map(str::to_owned)).flatten();
        assert_eq!((answer.status, got.as_deref()), (status, code), "{name}");
    }
}

/// An upstream shows again what it had deleted, with another document, of which the log has none.
#[tokio::test]
async fn a_revision_is_not_told_by_the_document_of_another() {
    let store = Store::new().await;
    store.apply(vec![upsert("e", "1", "a")]).await;
    store.apply(vec![MirrorOp::Delete { id: id("e") }]).await;
    store.apply(vec![upsert_raw("e", "2", &format!(r#"{{"t":"{}"}}"#, "x".repeat(40_000)))]).await;
    let api = Api::new(&store);
    let at = async |revision: u64| api.get(&format!("/api/v1/entities/procedure/e/history/{revision}")).await;
    assert_eq!(at(1).await.json()["doc"]["status"], "a");
    let last = at(3).await;
    assert_eq!((last.status, last.json()["code"].as_str()), (409, Some("revision_not_kept")));
}
