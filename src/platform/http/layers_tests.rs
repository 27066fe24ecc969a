use axum::{Extension, Json, http::Request, routing::get};
use dzvin_protocols::platform::problem::ProblemDetails;
use tower::ServiceExt;

use super::{super::ClientAddress, *};

fn plumbing() -> Plumbing {
    let config = Http { max_body: 1000, request_timeout: Duration::from_millis(300), ..Http::default() };
    Plumbing::new(&Http { allowed_origins: vec!["https://a.example".into()], ..config }, HttpMetrics::default())
}

fn router() -> Router {
    async fn json(Json(value): Json<serde_json::Value>) -> Json<serde_json::Value> {
        Json(value)
    }
    async fn panics() {
        panic!("hunter2");
    }
    Router::new()
        .route("/things/{id}", get(|| async { "thing" }).post(json))
        .route("/panics", get(panics))
        .route("/never", get(std::future::pending::<()>))
        .route("/broken", get(|| async { (StatusCode::BAD_GATEWAY, "hunter2") }))
        .route("/trace", get(|trace: Extension<TraceContext>| async move { trace.traceparent() }))
}

async fn ask(plumbing: &Plumbing, request: Request<Body>) -> (Response<()>, String) {
    let response = plumb(router(), plumbing.clone()).oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 65_536).await.expect("body");
    (Response::from_parts(parts, ()), String::from_utf8_lossy(&body).into_owned())
}

fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    request.header("content-length", body.len()).body(Body::from(body.to_owned())).expect("request")
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let plumbing = plumbing();
    let large = "x".repeat(1001);
    for (method, path, body, status, code) in [
        ("GET", "/nothing?token=x", "", 404, "not_found"),
        ("DELETE", "/things/1", "", 405, "method_not_allowed"),
        ("POST", "/things/1", "{", 400, "bad_request"),
        ("POST", "/things/1", &large, 413, "body_too_large"),
        ("GET", "/panics", "", 500, "internal"),
        ("GET", "/never", "", 503, "request_timeout"),
        ("GET", "/broken", "", 502, "internal"),
    ] {
        let (response, body) = ask(&plumbing, request(method, path, body)).await;
        let problem: ProblemDetails = serde_json::from_str(&body).expect(&body);
        assert_eq!((response.status().as_u16(), problem.status, &*problem.code), (status, status, code), "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert!(!body.contains("hunter2") && !body.contains("token"), "{body}");
        assert_eq!(response.headers().contains_key("allow"), status == 405);
    }
    assert_eq!(plumbing.metrics.panics.get(), 1);
    assert_eq!(plumbing.metrics.in_flight.get(), 0);
    assert_eq!(plumbing.metrics.count("other", "GET", 404), 1);
    assert_eq!(plumbing.metrics.count("/things/{id}", "DELETE", 405), 1);
}

#[tokio::test]
async fn a_streamed_body_is_limited_as_well() {
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let request = Request::post("/things/1").header("content-type", "application/json");
    let (response, body) = ask(&plumbing(), request.body(Body::from_stream(chunks)).expect("request")).await;
    assert!(response.status() == 413 && body.contains("body_too_large"), "{body}");
}

#[tokio::test]
async fn answers_carry_the_id_and_safe_defaults() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("/trace").header("traceparent", trace).header("x-request-id", "abc-1");
    let (response, body) = ask(&plumbing(), request.body(Body::empty()).expect("request")).await;
    assert!(body.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && body != trace, "{body}");
    assert_eq!(response.headers()["x-request-id"], "abc-1");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(response.headers().contains_key("content-security-policy"));
}

#[tokio::test]
async fn only_allowed_origins_may_call() {
    for (origin, expected) in [("https://a.example", true), ("https://b.example", false), ("null", false)] {
        let request = Request::options("/things/1").header("origin", origin);
        let request = request.header("access-control-request-method", "GET").body(Body::empty()).expect("request");
        let (response, _) = ask(&plumbing(), request).await;
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), expected, "{origin}");
    }
}

#[tokio::test]
async fn labels_are_a_closed_set() {
    let plumbing = plumbing();
    for i in 0..50 {
        let (_, _) = ask(&plumbing, request(&format!("M{i}"), &format!("/x{i}"), "")).await;
    }
    assert_eq!(plumbing.metrics.count("other", "other", 404), 50);
}

#[tokio::test]
async fn handlers_know_the_client_behind_trusted_proxies() {
    let config = Http { trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")], ..Http::default() };
    let show = get(|client: Option<Extension<ClientAddress>>| async move {
        client.map_or_else(|| "nobody".to_owned(), |client| client.to_string())
    });
    let router = plumb(Router::new().route("/", show), Plumbing::new(&config, HttpMetrics::default()));
    for (peer, claim, expected) in [
        (Some("10.0.0.1:5"), "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        (Some("198.51.100.9:5"), "1.1.1.1", "198.51.100.9"),
        (Some("[::ffff:10.0.0.1]:5"), "198.51.100.7", "198.51.100.7"),
        (None, "198.51.100.7", "nobody"),
    ] {
        let mut request = request("GET", "/", "");
        request.headers_mut().insert("x-forwarded-for", claim.parse().expect("a value"));
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().expect("an address")));
        }
        let response = router.clone().oneshot(request).await.expect("infallible");
        let body = to_bytes(response.into_body(), 1024).await.expect("body");
        assert_eq!(body, expected, "{peer:?} {claim}");
    }
}

#[tokio::test]
async fn xml_goes_in_and_comes_out() {
    let plumbing = plumbing();
    let xml = |method: &str, path: &str, body: &str| {
        let mut request = request(method, path, body);
        request.headers_mut().insert("content-type", "application/xml".parse().expect("value"));
        request.headers_mut().insert("accept", "application/xml".parse().expect("value"));
        request
    };
    let map = r#"<map xmlns="http://www.w3.org/2005/xpath-functions"><number key="a">1</number></map>"#;
    let (response, body) = ask(&plumbing, xml("POST", "/things/1", map)).await;
    assert_eq!((response.status().as_u16(), body), (200, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{map}")));
    assert_eq!(response.headers()["content-type"], "application/xml; charset=utf-8");
    let mut json = xml("POST", "/things/1", map);
    json.headers_mut().remove("accept");
    assert_eq!(ask(&plumbing, json).await.1, r#"{"a":1}"#);
    for (path, body, status, code) in [
        ("/things/1", "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>", 400, "bad_xml"),
        ("/things/1", &"x".repeat(1001), 413, "body_too_large"),
        ("/nothing", map, 404, "not_found"),
    ] {
        let (response, body) = ask(&plumbing, xml("POST", path, body)).await;
        assert_eq!(response.status().as_u16(), status);
        assert!(body.contains(&format!("<string key=\"code\">{code}</string>")), "problems as well: {body}");
    }
}
