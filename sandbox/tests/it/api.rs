//! The HTTP API and the control API over HTTP.

use crate::client::{Client, Memory, PROCEDURE, sandbox, some_id};
use dzvin_sandbox::{Fault, Generate, Generator, SandboxHandle};
use reqwest::{Method, Response};
use serde_json::{Value, json};

async fn get(handle: &SandboxHandle, path: &str) -> Response {
    let request = reqwest::Client::new().get(format!("{}{path}", handle.api_url()));
    request.header("platform-version", "2.0").send().await.unwrap()
}

async fn control(handle: &SandboxHandle, method: Method, path: &str, body: impl ToString) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("{}{path}", handle.control_url()));
    let response = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn one_object_comes_without_an_envelope() {
    let (handle, c) = sandbox(3, |_| {}).await;
    let id = some_id(&c);
    let response = get(&handle, &format!("/procedures/{id}?acc_token=secret")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"].len(), 36);
    assert_eq!(response.text().await.unwrap(), c.document(PROCEDURE, &id).unwrap().unwrap());
    let missing = get(&handle, "/procedures/000000000000000000000000").await;
    assert_eq!(missing.status(), 404);
    assert!(missing.json::<Value>().await.unwrap()["message"].is_string());
    c.put("registry-object", &Generator::new(9).registry_object()).unwrap();
    let registry = c.truth("registry-object").unwrap()[0].id.clone();
    assert_eq!(get(&handle, &format!("/registry/objects/{registry}")).await.status(), 200);
    c.turn(|k| k.api.last_modified = false);
    let bare: Value = get(&handle, &format!("/procedures/{id}")).await.json().await.unwrap();
    assert!(bare["_lastModified"].is_null() && bare["_id"] == id);
    assert_eq!(get(&handle, "/ping").await.json::<Value>().await.unwrap(), json!({"text":"pong"}));
    for doubled in
        [format!("/api/procedures/{id}"), "/api/search/byDateModified/2020-01-01".to_owned(), "/api".to_owned()]
    {
        assert_eq!(get(&handle, &doubled).await.status(), 404, "{doubled} under /api");
    }
    assert!(get(&handle, "").await.json::<Value>().await.unwrap()["api_version"].is_string());
}

#[tokio::test]
async fn the_feed_is_inclusive_ascending_and_bounded() {
    let (handle, c) = sandbox(0, |_| {}).await;
    let order = |count, date: &str, seed| Generate {
        collection: PROCEDURE.to_owned(),
        count,
        seed,
        same_date: Some(date.to_owned()),
        ..Generate::default()
    };
    let feed = "/search/byDateModified/";
    assert_eq!(get(&handle, &format!("{feed}2020-01-01")).await.status(), 204);
    c.generate(&order(130, "2026-01-01T10:00:00.005000Z", 1)).unwrap();
    c.generate(&order(2, "2026-01-01T10:00:00.006000Z", 2)).unwrap();
    let page = async |query: &str| {
        let response = get(&handle, &format!("{feed}{query}")).await;
        if response.status() == 204 { Vec::new() } else { response.json::<Vec<Value>>().await.unwrap() }
    };
    let all = page("2026-01-01T10:00:00.005000Z?limit=1000").await;
    assert_eq!(all.len(), 100, "no page is larger, even of one and the same time");
    assert!(all.iter().all(|doc| doc["dateModified"] == "2026-01-01T10:00:00.005000Z"));
    assert_eq!(page("2026-01-01T10:00:00.006000Z").await.len(), 2);
    assert_eq!(page("2026-01-01T12:00:00.006000%2B02:00").await.len(), 2);
    assert_eq!(page("2026-01-01T10:00:00.007000Z").await.len(), 0);
    let back = page("2026-01-01T10:00:00.006000Z?limit=3&backward=true").await;
    assert_eq!(back.iter().filter(|d| d["dateModified"] == "2026-01-01T10:00:00.006000Z").count(), 2);
    assert_eq!(back.len(), 3);
    assert_eq!(get(&handle, &format!("{feed}yesterday")).await.status(), 400);
    assert_eq!(get(&handle, &format!("/registry/objects{feed}2020-01-01")).await.status(), 204);
}

#[tokio::test]
async fn the_other_searches_and_the_dictionaries() {
    let (handle, c) = sandbox(0, |_| {}).await;
    let object = |n: u32, method: &str, code: &str| {
        let organiser = format!(r#"{{"identifier":{{"id":"{code}"}}}}"#);
        let related = if n.is_multiple_of(2) {
            format!(r#""sellingEntity":{organiser}"#)
        } else {
            format!(r#""relatedOrganizations":{{"sellingEntity":{organiser}}}"#)
        };
        format!(
            r#"{{"_id":"{n:024x}","auctionId":"LLE00{n}-UA-20261101-{n:05}","sellingMethod":"{method}",{related}}}"#
        )
    };
    for (n, (method, code)) in (1..).zip([("timber-english", "11"), ("land-english", "22"), ("land-english", "11")]) {
        let date = format!("2026-01-0{n}T10:00:00.000000Z");
        c.put_dated(PROCEDURE, &object(n, method, code), Some(&date)).unwrap();
    }
    let ask = async |path: &str| {
        let response = get(&handle, path).await;
        match response.status().as_u16() {
            200 => response.json::<Value>().await.unwrap(),
            status => json!(status),
        }
    };
    let ids = |answer: &Value| {
        answer.as_array().unwrap().iter().map(|doc| doc["_id"].as_str().unwrap()[23..].to_owned()).collect::<String>()
    };
    assert_eq!(ids(&ask("/search/bySellingMethod/land-english?limit=100").await), "32", "newest first");
    assert_eq!(ids(&ask("/search/bySellingMethod/land-english?limit=1").await), "3");
    assert_eq!(ask("/search/bySellingMethod/none").await, 204);
    assert_eq!(ask("/search/byAuctionId/LLE002-UA-20261101-00002").await["_id"], format!("{:024x}", 2));
    assert_eq!(ask("/search/byAuctionId/none").await, 404);
    assert_eq!(ids(&ask("/search/byAuctionOrganizer/11").await), "13", "in both shapes");
    assert_eq!(ids(&ask("/search/byAuctionOrganizer/11?date_modified=2026-01-02").await), "3");
    assert_eq!(ids(&ask("/search/byAuctionOrganizer/11?date_modified=2026-01-02&backward=true").await), "1");
    assert_eq!(ids(&ask("/search/large_announcement/bySystemDateModified/2020-01-01").await), "123");
    assert_eq!(ask("/search/large_announcement/bySystemDateModified/2999-01-01").await, 204);
    assert_eq!(ask("/search/nobody/bySystemDateModified/2020-01-01").await, 404);
    c.turn(|k| k.api.groups = [("large_announcement".to_owned(), vec!["land".to_owned()])].into());
    assert_eq!(ids(&ask("/search/large_announcement/bySystemDateModified/2020-01-01").await), "23");
    assert_eq!(ids(&ask("/search/procedures/byDateModified/2026-01-03").await), "3", "an older spelling");
    assert_eq!(ask("/legal_names").await, json!(["land-english", "timber-english"]));
    assert_eq!(ask("/auction_prefixes").await, json!({"land-english": "LLE003", "timber-english": "LLE001"}));
    assert!(ask("/classifiers/ua_identifiers").await["UA-EDR"].is_object());
    assert_eq!(ask("/classifiers/none").await, 404);
}

#[tokio::test]
async fn a_token_is_taken_from_the_vpn_alone() {
    let (handle, _) = sandbox(1, |k| {
        k.access.vpn = Some(vec!["10.8.0.0/16".to_owned()]);
        k.nginx.address_header = Some("x-test-address".to_owned());
    })
    .await;
    let send = async |address: &str, token: bool| {
        let request = reqwest::Client::new().get(format!("{}/ping", handle.api_url()));
        let request = request.header("platform-version", "1.0").header("x-test-address", address);
        let request = if token { request.header("authorization", dzvin_sandbox::DEFAULT_TOKEN) } else { request };
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("10.8.3.4", true).await, 200);
    assert_eq!(send("192.0.2.1", true).await, 403);
    assert_eq!(send("192.0.2.1", false).await, 200, "a public read");
}

#[tokio::test]
async fn rights_versions_and_failures() {
    let (handle, c) = sandbox(1, |_| {}).await;
    let url = format!("{}/procedures", handle.api_url());
    let http = reqwest::Client::new();
    let send = async |method: Method, token: Option<&str>, version: Option<&str>| {
        let path = if method == Method::GET { format!("{url}/{}", some_id(&c)) } else { url.clone() };
        let mut request = http.request(method, path).body("{\"title\":{\"uk_UA\":\"нове\"}}");
        for (name, value) in [("authorization", token), ("platform-version", version)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send(Method::GET, None, Some("1.0")).await, 200);
    assert_eq!(send(Method::GET, None, None).await, 400);
    assert_eq!(send(Method::GET, None, Some("0.1")).await, 400);
    assert_eq!(send(Method::GET, Some("nobody"), Some("1.0")).await, 403);
    c.turn(|k| k.api.public_reads = false);
    assert_eq!(send(Method::GET, None, Some("1.0")).await, 403);
    c.set_token("reader", ["api"]);
    assert_eq!(send(Method::GET, Some("reader"), Some("1.0")).await, 200);
    assert_eq!(send(Method::POST, Some("reader"), Some("1.0")).await, 403);
    c.set_token("reader", ["write"]);
    assert_eq!(send(Method::POST, Some("reader"), Some("1.0")).await, 201);
    assert_eq!(send(Method::DELETE, Some("reader"), Some("1.0")).await, 405);
    c.fault(Fault::Http { percent: 100, status: 502 });
    assert_eq!(send(Method::GET, Some("reader"), Some("1.0")).await, 502);
    c.fault(Fault::Http { percent: 100, status: 500 });
    let failed = get(&handle, "/ping").await;
    assert!(failed.headers().contains_key("x-request-id"));
    assert!(failed.json::<Value>().await.unwrap()["message"].is_string());
}

#[tokio::test]
async fn the_control_over_http_does_what_the_typed_one_does() {
    let (handle, c) = sandbox(1, |_| {}).await;
    let mut client = Client::connect(&handle, Memory::new("full")).await;
    client.until_equal(&c).await;
    let object = r#"{"_id":"aaaaaaaaaaaaaaaaaaaaaaaa","n":904.240}"#;
    let at = "/collections/procedure/objects";
    assert_eq!(control(&handle, Method::POST, at, object).await.0, 200);
    assert_eq!(control(&handle, Method::PATCH, &format!("{at}/aaaaaaaaaaaaaaaaaaaaaaaa"), "{\"m\":1}").await.0, 200);
    client.until_equal(&c).await;
    let (_, truth) = control(&handle, Method::GET, "/truth/procedure", "").await;
    let row = truth.as_array().unwrap().iter().find(|row| row["id"] == "aaaaaaaaaaaaaaaaaaaaaaaa").unwrap();
    assert!(row["raw"].as_str().unwrap().contains("\"n\":904.240"));
    assert_eq!(control(&handle, Method::DELETE, &format!("{at}/aaaaaaaaaaaaaaaaaaaaaaaa"), "").await.0, 200);
    assert_eq!(control(&handle, Method::DELETE, &format!("{at}/aaaaaaaaaaaaaaaaaaaaaaaa"), "").await.0, 404);
    let sized = json!({"frame_bytes": 3_000_000});
    assert_eq!(control(&handle, Method::POST, "/collections/procedure/sized", sized).await.0, 200);
    let made = control(&handle, Method::POST, "/generate", json!({"collection":"procedure","count":5,"seed":3})).await;
    assert_eq!(made.1["written"], 5);
    client.until_equal(&c).await;
    let (status, faults) =
        control(&handle, Method::POST, "/faults/cut", json!({"after":0,"manner":{"close":1009},"times":1})).await;
    assert_eq!((status, faults[0]["fault"].as_str(), faults[0]["times"].as_u64()), (200, Some("cut"), Some(1)));
    assert_eq!(control(&handle, Method::POST, "/faults/nonsense", "{}").await.0, 404);
    assert_eq!(control(&handle, Method::POST, "/faults/cut", "{\"manner\":\"often\"}").await.0, 400);
    assert_eq!(control(&handle, Method::POST, "/faults/cut", "{\"on\":false}").await.1, json!([]));
    let (status, knobs) = control(&handle, Method::PATCH, "/knobs", json!({"mirror":{"noop_ms":15}})).await;
    assert_eq!((status, knobs["mirror"]["noop_ms"].as_u64()), (200, Some(15)));
    assert_eq!(control(&handle, Method::PATCH, "/knobs", json!({"mirror":{"nop_ms":15}})).await.0, 400);
    assert_eq!(control(&handle, Method::POST, "/tokens", json!({"token":"t","permissions":["api"]})).await.0, 200);
    let (_, ended) = control(&handle, Method::POST, "/collections/procedure/disconnect", json!({"manner":"rst"})).await;
    assert_eq!(ended["links"], 1);
    client.ending().await;
    let (_, stats) = control(&handle, Method::GET, "/stats", "").await;
    assert_eq!(stats["collections"]["procedure"]["frames"]["delete"], 1);
}

#[tokio::test]
async fn a_world_that_plays_moves_and_stops() {
    let (handle, c) = sandbox(20, |_| {}).await;
    assert_eq!(control(&handle, Method::POST, "/play", json!({"rate_per_s":500.0})).await.0, 200);
    let mut client = Client::connect(&handle, Memory::new("simple")).await;
    client.until(|m| m.count("upsert") > 120).await;
    c.play(&dzvin_sandbox::Play::default()).unwrap();
    let order = json!({"collection":"procedure","count":30,"seed":5,"rate_per_s":3000});
    assert_eq!(control(&handle, Method::POST, "/generate", order).await.1["coming"], 30);
    client.until(|m| m.docs.len() == 50).await;
    client.until_equal(&c).await;
    assert_eq!(control(&handle, Method::POST, "/play", json!({"rate_per_s":-1})).await.0, 400);
    let address = handle.address();
    handle.stop().await;
    assert!(tokio::net::TcpListener::bind(address).await.is_ok(), "the port is free again");
}
