//! NGINX in front: of the API and of the Mirror alike.

use crate::client::{Client, GOOD, LIMIT, Memory, PROCEDURE, open, sandbox};
use dzvin_sandbox::NginxKnobs;
use tokio_tungstenite::tungstenite;

fn status(result: Result<crate::client::Socket, tungstenite::Error>) -> u16 {
    match result {
        Ok(_) => 101,
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_rate_is_shared_by_upgrades_and_requests() {
    let (handle, control) = sandbox(1, |k| {
        k.nginx = NginxKnobs { rate_per_m: Some(1), burst_factor: 2, rate_per_s: None, ..NginxKnobs::default() };
    })
    .await;
    let ping = || async { reqwest::get(format!("{}/ping", handle.api_url())).await.unwrap() };
    assert_eq!(ping().await.status(), 400, "no platform version, but nginx let it through");
    assert_eq!(status(open(&handle, &GOOD).await), 101);
    assert_eq!(ping().await.status(), 400);
    let refused = ping().await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["content-type"], "text/html");
    for absent in ["retry-after", "x-request-id"] {
        assert!(refused.headers().get(absent).is_none());
    }
    assert!(refused.text().await.unwrap().contains("<h1>429 Too Many Requests</h1>"));
    assert_eq!(status(open(&handle, &GOOD).await), 429);
    assert_eq!(control.stats().requests["429 nginx"], 2);
    let index = reqwest::get(handle.control_url()).await.unwrap();
    assert_eq!(index.status(), 200, "the control is not limited");
}

#[tokio::test]
async fn a_mirror_connection_holds_its_place_for_life() {
    let (handle, control) = sandbox(1, |k| k.nginx.conn_per_ip = Some(2)).await;
    let mut first = Client::connect(&handle, Memory::new("simple")).await;
    first.until_equal(&control).await;
    let second = Client::connect(&handle, Memory::new("simple")).await;
    assert_eq!(status(open(&handle, &GOOD).await), 429);
    control.turn(|k| k.nginx.conn_status = 503);
    assert_eq!(status(open(&handle, &GOOD).await), 503);
    let api = reqwest::get(format!("{}/ping", handle.api_url())).await.unwrap();
    assert_eq!(api.status(), 503);
    drop(second);
    assert!(control.wait_until(LIMIT, |s| s.open(PROCEDURE) == 1).await);
    assert_eq!(status(open(&handle, &GOOD).await), 101);
}

#[tokio::test]
async fn addresses_are_apart() {
    let (handle, _) = sandbox(0, |k| {
        k.nginx.rate_per_m = Some(1);
        k.nginx.burst_factor = 0;
        k.nginx.address_header = Some("x-test-address".to_owned());
    })
    .await;
    let client = reqwest::Client::new();
    let from = |address: &'static str| {
        client
            .get(format!("{}/ping", handle.api_url()))
            .header("x-test-address", address)
            .header("platform-version", "1.0")
            .send()
    };
    assert_eq!(from("10.0.0.1").await.unwrap().status(), 200);
    assert_eq!(from("10.0.0.1").await.unwrap().status(), 429);
    assert_eq!(from("10.0.0.2").await.unwrap().status(), 200);
}
