//! Kinds declared over REST and from files: documents are judged by their schema, on every node from the moment on at which it is declared.

use tokio::task::JoinSet;

use super::*;
use crate::support::eventually::eventually;

const KIND: &str = "/api/v1/kinds/customer";
const CUSTOMERS: &str = "/api/v1/entities/customer";

fn schema() -> Value {
    json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 2}, "phone": {"type": "string", "pattern": "^\\+380[0-9]{9}$"}},
    })
}

fn declaration() -> Value {
    json!({"title": {"uk": "Клієнт", "en": "Customer"}, "schema": schema(), "fields": ["name"], "sorts": {"name": "text"}, "display": ["name"]})
}

impl Writer<'_> {
    fn declarer(hub: &Hub) -> Writer<'_> {
        Writer::with(hub, token("olha", &["kinds:declare:*", "entities:*:*"], &[]))
    }

    async fn declare(&self, more: &str, declaration: &Value, seen: Option<&str>) -> Answer {
        let kind = ("content-type", "application/json");
        let headers: Vec<_> = [kind].into_iter().chain(seen.map(|tag| ("if-match", tag))).collect();
        self.send(Method::PUT, &format!("{KIND}{more}"), &headers, declaration.to_string()).await
    }

    async fn customer(&self, id: &str, doc: &Value) -> Answer {
        let kind = [("content-type", "application/json")];
        self.send(Method::PUT, &format!("{CUSTOMERS}/{id}"), &kind, doc.to_string()).await
    }
}

#[tokio::test]
async fn a_kind_is_declared_and_its_documents_are_judged() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::declarer(&hub);
    olha.customer("a", &json!({"name": "Оля"})).await.refused(404, "unknown_kind");
    olha.get(KIND).await.refused(404, "unknown_kind");
    let made = olha.declare("", &declaration(), None).await;
    let told = &made.is(201).body;
    assert_eq!(
        (&told["kind"], &told["source"], &told["declared"]),
        (&json!("customer"), &json!("local"), &json!("api"))
    );
    assert_eq!((&told["version"], made.tag().as_str(), &told["schema"]), (&json!(1), "\"1\"", &schema()));
    assert_eq!(told["may"], json!(["read", "create", "update", "trash", "restore", "purge"]));

    olha.customer("a", &json!({"name": "Оля", "phone": "+380441234567"})).await.is(201);
    let refused = olha.customer("b", &json!({"name": "x", "phone": "044"})).await;
    let errors = refused.refused(422, "schema_mismatch").body["errors"].as_array().expect("a list").clone();
    let places: Vec<_> = errors.iter().map(|it| (it["pointer"].as_str(), it["keyword"].as_str())).collect();
    assert_eq!(places, [(Some("/name"), Some("minLength")), (Some("/phone"), Some("pattern"))]);
    assert!(!refused.body.to_string().contains("044"), "no value is told");
    let patch = [("content-type", "application/merge-patch+json")];
    let patched = |body: &'static str| olha.send(Method::PATCH, "/api/v1/entities/customer/a", &patch, body.to_owned());
    patched(r#"{"name":null}"#).await.refused(422, "schema_mismatch");
    assert_eq!(patched(r#"{"name":"Ольга"}"#).await.is(200).body["revision"], 2);
    let items = json!({"atomic": false, "items": [
        {"op": "create", "id": "c", "doc": {"name": "Петро"}}, {"op": "create", "id": "d", "doc": {}},
    ]});
    let kind = [("content-type", "application/json")];
    let bulk = olha.send(Method::POST, &format!("{CUSTOMERS}/bulk"), &kind, items.to_string()).await;
    assert_eq!(bulk.is(200).body["items"][1]["errors"][0]["keyword"], "required", "{}", bulk.body);
    let sorted = async || olha.get(&format!("{CUSTOMERS}?sort=name&name=Ольга")).await;
    eventually("it is sorted by its fields", async || sorted().await.status == 200).await;
    assert_eq!(sorted().await.body["items"][0]["id"], "a");

    let listed = olha.get("/api/v1/kinds").await;
    let items = listed.is(200).body["items"].as_array().expect("a list");
    let customer = items.iter().find(|it| it["kind"] == "customer").expect("listed");
    assert_eq!((&customer["title"]["uk"], &customer["display"]), (&json!("Клієнт"), &json!(["name"])));
    let deal = items.iter().find(|it| it["kind"] == "deal").expect("listed");
    assert_eq!((&deal["declared"], &deal["version"]), (&json!("configuration"), &json!(1)));
}

#[tokio::test]
async fn declarations_have_versions_and_conditions() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::declarer(&hub);
    let first = olha.declare("", &declaration(), None).await.is(201).tag();
    assert_eq!(olha.declare("", &declaration(), None).await.is(200).tag(), first, "the same is no new version");
    let mut other = declaration();
    other["fields"] = json!(["name", "phone"]);
    olha.declare("", &other, Some("\"7\"")).await.refused(412, "revision_conflict");
    let second = olha.declare("", &other, Some(&first)).await;
    assert_eq!(second.is(200).body["version"], 2);
    assert_eq!(
        olha.declare("", &declaration(), Some(&first)).await.refused(412, "revision_conflict").body["revision"],
        2
    );
    let new = [("content-type", "application/json"), ("if-none-match", "*")];
    olha.send(Method::PUT, KIND, &new, declaration().to_string()).await.refused(412, "revision_conflict");

    let versions = olha.get(&format!("{KIND}/versions?limit=1")).await;
    let newest = &versions.is(200).body["items"][0];
    assert_eq!(
        (&newest["version"], &newest["by"], &newest["declaration"]["fields"]),
        (&json!(2), &json!("olha"), &other["fields"])
    );
    let next = versions.body["next"].as_str().expect("more");
    let older = olha.get(&format!("{KIND}/versions?limit=1&cursor={next}")).await;
    assert_eq!((&older.body["items"][0]["version"], &older.body["next"]), (&json!(1), &json!(null)));

    for (bad, code) in [
        (json!({"fields": ["a..b"]}), "bad_declaration"),
        (json!({"field": []}), "bad_declaration"),
        (json!({"references": {"owner": "nobody"}}), "bad_declaration"),
        (json!({"schema": {"type": "text"}}), "bad_schema"),
        (json!({"schema": {"$ref": "https://example.com/x"}}), "bad_schema"),
        (json!({"schema": {"properties": {"a": {"pattern": "(a+)+\\1"}}}}), "bad_schema"),
        (json!({"schema": {"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}}), "bad_schema"),
    ] {
        olha.declare("", &bad, None).await.refused(422, code);
    }
}

#[tokio::test]
async fn what_is_stored_has_its_say() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::declarer(&hub);
    let loose = json!({"fields": ["name"]});
    olha.declare("", &loose, None).await.is(201);
    for n in 0..30 {
        let doc = if n % 3 == 0 { json!({"title": n}) } else { json!({"name": format!("n{n}")}) };
        olha.customer(&format!("c{n:02}"), &doc).await.is(201);
    }
    let mut strict = declaration();
    strict["fields"] = json!(["name", "phone"]);
    let dry = olha.declare("?dry_run=true", &strict, None).await;
    let told = &dry.is(200).body;
    assert_eq!((&told["checked"], &told["unfit"], &told["derives"]), (&json!(30), &json!(10), &json!(["phone"])));
    assert_eq!(
        (&told["examples"][0]["id"], &told["examples"][0]["errors"][0]["keyword"]),
        (&json!("c00"), &json!("required"))
    );
    assert_eq!(told["indexes"], json!(["name"]));
    assert_eq!(olha.get(KIND).await.body["version"], 1, "nothing was changed");
    let refused = olha.declare("", &strict, None).await;
    assert_eq!(refused.refused(409, "entities_unfit").body["errors"][0]["pointer"], "/c00");
    // Who does not see the entities hears how many, and of none of them.
    let blind = Writer::with(&hub, token("petro", &["kinds:declare:customer"], &[]));
    let dry = blind.declare("?dry_run=true", &strict, None).await;
    assert_eq!((&dry.is(200).body["unfit"], &dry.body["examples"]), (&json!(10), &json!([])));
    assert_eq!(blind.declare("", &strict, None).await.refused(409, "entities_unfit").body["errors"], json!(null));

    assert_eq!(olha.declare("?force=true", &strict, None).await.is(200).body["version"], 2);
    assert_eq!(
        olha.get(&format!("{CUSTOMERS}/c00")).await.is(200).body["doc"],
        json!({"title": 0}),
        "they stay as they are"
    );
    olha.customer("c00", &json!({"title": 1})).await.refused(422, "schema_mismatch");
    olha.customer("c00", &json!({"name": "Ольга"})).await.is(200);
}

#[tokio::test]
async fn who_may_declare_what() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::declarer(&hub);
    let of = |permissions: &[&str]| Writer::with(&hub, token("petro", permissions, &[]));
    of(&["entities:*:*"]).declare("", &declaration(), None).await.refused(403, "forbidden");
    of(&["kinds:declare:deal"]).declare("", &declaration(), None).await.refused(403, "forbidden");
    of(&["kinds:declare:custo*"]).declare("", &declaration(), None).await.is(201);
    of(&["kinds:declare:*"]).get(KIND).await.is(200);
    of(&["entities:read:deal"]).get(KIND).await.refused(403, "forbidden");
    of(&["entities:read:customer"]).get(KIND).await.is(200);
    let kind = [("content-type", "application/json")];
    for name in ["deal", "procedure"] {
        let path = format!("/api/v1/kinds/{name}");
        olha.send(Method::PUT, &path, &kind, declaration().to_string()).await.refused(409, "configured_kind");
    }
    olha.send(Method::PUT, "/api/v1/kinds/No", &kind, declaration().to_string()).await.refused(400, "bad_kind");
    let audit = Writer::with(&hub, token("auditor", &["audit:read:*"], &[]));
    eventually("what was done and refused is told", async || {
        let told = audit.get("/api/v1/audit?action=kinds.declare").await;
        let items = told.is(200).body["items"].as_array().expect("a list").clone();
        ["done", "forbidden"].iter().all(|outcome| items.iter().any(|it| it["outcome"] == *outcome))
    })
    .await;
}

/// A kind is of no use to roles that do not know of it: what they may do comes with the declaration, and goes with it.
#[tokio::test]
async fn a_declaration_grants_roles_what_they_may_do() {
    let world = world(true).await;
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let olha = Writer::declarer(&a);
    let petro = Writer::with(&b, token("petro", &[], &["visitor"]));
    let mut granting = declaration();
    granting["grants"] = json!({"visitor": ["read", "create"]});
    olha.declare("", &granting, None).await.is(201);
    eventually("the other node has heard", async || petro.get(KIND).await.status == 200).await;
    petro.customer("b", &json!({"name": "Оля"})).await.refused(403, "forbidden");
    let create = async || {
        petro
            .send(Method::POST, CUSTOMERS, &[("content-type", "application/json")], json!({"name": "Оля"}).to_string())
            .await
    };
    create().await.is(201);
    let told = petro.get(KIND).await;
    assert_eq!((&told.is(200).body["may"], &told.body["grants"]), (&json!(["read", "create"]), &json!(null)));
    assert_eq!(olha.get(KIND).await.body["grants"], granting["grants"]);
    olha.declare("", &declaration(), None).await.is(200);
    eventually("it is taken back", async || create().await.status == 403).await;
    for bad in [json!({"visitor": ["declare"]}), json!({"": ["read"]}), json!({"visitor": "read"})] {
        granting["grants"] = bad;
        olha.declare("", &granting, None).await.refused(422, "bad_declaration");
    }
}

/// While writers of both nodes write what only the first declaration allows, one node declares the second: whatever is stored when that is
/// answered, or later, fits it.
#[tokio::test]
async fn no_node_writes_by_an_earlier_declaration() {
    let world = world(true).await;
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let olha = Writer::declarer(&a);
    olha.declare("", &json!({"fields": ["n"]}), None).await.is(201);
    let there = Writer::declarer(&b);
    eventually("the other node knows the kind", async || there.customer("first", &json!({"n": 0})).await.status == 201)
        .await;

    let mut writers = JoinSet::new();
    for (n, hub) in [&a, &b, &a, &b].into_iter().enumerate() {
        let (addr, token) = (hub.addr, there.token.clone());
        writers.spawn(async move {
            let http = reqwest::Client::new();
            let (mut done, mut refused) = (0, 0);
            // Until it has been refused a few times: then the second is in force wherever it writes.
            while refused < 5 {
                let path = format!("http://{addr}{CUSTOMERS}/w{n}-{done}");
                let request = http.put(path).bearer_auth(&token).header("content-type", "application/json");
                match request.body(r#"{"n":1}"#).send().await.expect("answered").status().as_u16() {
                    201 if refused == 0 => done += 1,
                    422 => refused += 1,
                    status => panic!("{status} behind {refused} refusals"),
                }
            }
            done
        });
    }
    let strict = json!({"fields": ["n"], "schema": {"properties": {"n": {"const": 0}}}});
    // What is there does not fit: whoever declares insists.
    let there_are =
        async || olha.get(&format!("{CUSTOMERS}?limit=200")).await.body["items"].as_array().map_or(0, Vec::len);
    eventually("they write", async || there_are().await > 50).await;
    let declared = olha.declare("?force=true", &strict, None).await;
    assert_eq!(declared.is(200).body["version"], 2);
    let top = olha.get(&format!("{CUSTOMERS}?limit=1")).await.body["position"]["offset"].clone();
    let written = writers.join_all().await;
    assert!(written.iter().all(|done| *done > 0), "{written:?}");
    let after = there.get(&format!("{CUSTOMERS}?limit=1")).await.body["position"]["offset"].clone();
    assert_eq!(after, top, "nothing was written by the first once the second was declared");
}

#[tokio::test]
async fn a_file_declares_it_and_nodes_hear_of_it() {
    let world = world(false).await;
    let hub = world.hub("a").await;
    let olha = Writer::declarer(&hub);
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("customer.json");
    std::fs::write(&file, declaration().to_string()).expect("written");
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dzvin"));
        let done = command.arg("-c").arg(&hub.config).arg("kinds").args(arguments).arg(&file).output();
        let done = done.expect("run");
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr),
        )
    };
    let (code, told) = run(&["apply", "--dry-run"]);
    assert!(code == Some(0) && told.contains("0 entities were looked at"), "{told}");
    olha.get(KIND).await.refused(404, "unknown_kind");
    let (code, told) = run(&["apply"]);
    assert!(code == Some(0) && told.contains("customer: version 1"), "{told}");
    eventually("the node has heard", async || olha.customer("a", &json!({"name": "Оля"})).await.status == 201).await;
    olha.customer("a", &json!({})).await.refused(422, "schema_mismatch");
    std::fs::write(&file, json!({"schema": {"required": ["email"]}}).to_string()).expect("written");
    let (code, told) = run(&["apply"]);
    assert!(code == Some(64) && told.contains("1 of 1 entities do not fit") && told.contains("a : "), "{told}");
}
