//! Who gets a session, from which address, how often, and from which page.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, client::IntoClientRequest},
};

use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
};

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// A session, or the status of the refusal, its code and its `Retry-After`.
async fn knock(hub: &Hub, headers: &[(&str, &str)]) -> Result<Socket, (u16, String, Option<u64>)> {
    let mut request = format!("ws://{}/connection/websocket", hub.addr).into_client_request().expect("a request");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let body: serde_json::Value =
                serde_json::from_slice(response.body().as_deref().unwrap_or_default()).expect("a problem");
            let retry = |headers: &HeaderMap| headers.get("retry-after")?.to_str().ok()?.parse().ok();
            let code = body["code"].as_str().expect("a code").to_owned();
            Err((response.status().as_u16(), code, retry(response.headers())))
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn an_address_behind_a_proxy_has_its_share() {
    let world = World::new(0, false).await;
    let more = "[channels]\nmax_sessions_per_address = 2\n";
    let hub = world.unstarted("a");
    hub.reconfigure(|text| {
        text.replace("[http]\n", "[http]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n") + more
    });
    let mut hub = hub;
    hub.start().await;
    let of = async |address: &str| knock(&hub, &[("x-forwarded-for", address)]).await;
    let first = of("198.51.100.7").await.expect("one");
    let _second = of("1.1.1.1, 198.51.100.7").await.expect("two, whatever it claims");
    for claim in ["198.51.100.7", "2.2.2.2, 198.51.100.7", "3.3.3.3,198.51.100.7, 10.1.1.1"] {
        let (status, code, retry) = of(claim).await.expect_err("full");
        assert_eq!((status, &*code), (429, "too_many_from_address"), "{claim}");
        assert!(retry.is_some_and(|seconds| seconds > 0), "{claim}");
    }
    // Headers that are not the chosen one do not help.
    let full =
        knock(&hub, &[("forwarded", "for=9.9.9.9"), ("x-real-ip", "9.9.9.9"), ("x-forwarded-for", "198.51.100.7")]);
    assert_eq!(full.await.expect_err("full").0, 429);
    let _other = of("198.51.100.8").await.expect("another address");
    // A line of IPv6 is one client.
    let _six = [of("2001:db8::1").await.expect("one"), of("2001:db8::2:2").await.expect("two")];
    assert_eq!(of("2001:db8::3").await.expect_err("full").0, 429);
    let _line = of("2001:db8:0:1::1").await.expect("another line");
    assert_eq!(hub.metric("dzvin_admission_addresses").await, 4.0);
    assert_eq!(hub.metric("dzvin_admission_refused_total{limit=\"address\"}").await, 5.0);
    // Its share comes back with the end of the session.
    drop(first);
    eventually("a place is free", async || of("198.51.100.7").await.is_ok()).await;
}

/// Without trust in anybody a header is nothing: all are the peer.
#[tokio::test]
async fn nobody_is_believed_by_default() {
    let world = World::new(0, false).await;
    let hub = world.hub_with("a", "[channels]\nmax_sessions_per_address = 1\n").await;
    let first = knock(&hub, &[("x-forwarded-for", "198.51.100.7")]).await.expect("one");
    assert_eq!(knock(&hub, &[("x-forwarded-for", "198.51.100.8")]).await.expect_err("full").0, 429);
    // The limit changes without a restart.
    hub.reload(|text| text.replace("max_sessions_per_address = 1", "max_sessions_per_address = 2"));
    let second = async || knock(&hub, &[]).await.ok();
    let second = eventually("the new limit", second).await;
    assert_eq!(knock(&hub, &[]).await.expect_err("full").0, 429);
    drop((first, second));
    eventually("nobody is remembered", async || hub.metric("dzvin_admission_addresses").await == 0.0).await;
}

#[tokio::test]
async fn connects_have_a_rate() {
    let world = World::new(0, false).await;
    let hub = world.hub_with("a", "[channels]\nmax_connects_per_second = 3\n").await;
    let (mut taken, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        match knock(&hub, &[]).await {
            Ok(socket) => taken.push(socket),
            Err((status, code, retry)) => {
                assert_eq!((status, &*code, retry), (503, "too_many_connects", Some(1)));
                refused += 1;
            }
        }
    }
    assert!(taken.len() >= 3 && refused > 0, "{} taken", taken.len());
    assert_eq!(hub.metric("dzvin_admission_refused_total{limit=\"rate\"}").await, f64::from(refused));
    eventually("it fills again", async || knock(&hub, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn pages_of_allowed_origins_alone() {
    let world = World::new(0, false).await;
    let mut hub = world.unstarted("a");
    hub.reconfigure(|text| {
        text.replace("[http]\n", "[http]\nallowed_origins = [\"https://desk.example\", \"https://*.example.org\"]\n")
    });
    hub.start().await;
    let own = format!("http://{}", hub.addr);
    for (origin, allowed) in [
        (&*own, true),
        ("https://desk.example", true),
        ("https://a.example.org", true),
        ("https://a.b.example.org", true),
        ("https://example.org", false),
        ("https://a.example.org.evil.example", false),
        ("http://a.example.org", false),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let knocked = knock(&hub, &[("origin", origin)]).await;
        match knocked {
            Ok(_) => assert!(allowed, "{origin}"),
            Err((status, code, _)) => {
                assert_eq!((allowed, status, &*code), (false, 403, "origin_not_allowed"), "{origin}");
            }
        }
        // The same list answers pages that ask over HTTP.
        let ask = reqwest::Client::new().get(format!("http://{}/api/v1/kinds", hub.addr)).header("origin", origin);
        let answered = ask.bearer_auth(World::token("viewer")).send().await.expect("answered");
        let shown = answered.headers().get("access-control-allow-origin").and_then(|value| value.to_str().ok());
        assert_eq!(shown, (allowed && origin != own).then_some(origin), "{origin}");
    }
    assert!(knock(&hub, &[]).await.is_ok(), "a client that is no browser");
}
