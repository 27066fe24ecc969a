//! Who fails to sign in too often, through a running node.

use serde_json::{Value, json};

use super::{ask, token_of};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

const KINDS: &str = "/api/v1/kinds";
/// The client is whoever the proxy before the hub says.
const BEHIND_A_PROXY: &str = "[identity.guard]\nfailures = 20\ntoken_failures = 3\nlongest_wait = \"2s\"\n";

async fn world() -> World {
    World::new(0, false).await
}

async fn hub(world: &World) -> Hub {
    let mut hub = world.unstarted("a");
    let trusted = "[http]\ntrusted_proxies = [\"127.0.0.1\"]";
    hub.reconfigure(|text| text.replacen("[http]", trusted, 1) + BEHIND_A_PROXY);
    hub.start().await;
    hub
}

/// Asks from somewhere; answers the status, the code, and when to come again.
async fn from(hub: &Hub, address: &str, token: &str) -> (u16, String, Option<u64>) {
    let request = reqwest::Client::new().get(format!("http://{}{KINDS}", hub.addr));
    let answer = request.bearer_auth(token).header("x-forwarded-for", address).send().await.expect("answered");
    let (status, wait) = (answer.status().as_u16(), answer.headers().get("retry-after").cloned());
    let wait = wait.map(|wait| wait.to_str().expect("a number").parse().expect("a number"));
    let body: Value = answer.json().await.unwrap_or_default();
    (status, body["code"].as_str().unwrap_or_default().to_owned(), wait)
}

#[tokio::test]
async fn one_wrong_client_of_an_office_waits_alone() {
    let world = world().await;
    let hub = hub(&world).await;
    let office = "192.0.2.1";
    for _ in 0..3 {
        assert_eq!(from(&hub, office, "wrong").await.0, 401);
    }
    let wait = eventually("it waits", async || {
        let (status, code, wait) = from(&hub, office, "wrong").await;
        wait.filter(|_| (status, &*code) == (429, "too_many_failures"))
    })
    .await;
    assert!((1..=2).contains(&wait), "{wait}");
    for _ in 0..100 {
        from(&hub, office, "wrong").await;
    }
    // A neighbour who was never here, and the same token from elsewhere.
    assert_eq!(from(&hub, office, &token_of("olha", &[])).await.0, 200);
    assert_eq!(from(&hub, "192.0.2.2", "wrong").await.0, 401);
    assert!(hub.metric("dzvin_guard_refused_total").await >= 50.0);
    // After the wait it is looked at again, once.
    eventually("it is looked at again", async || from(&hub, office, "wrong").await.0 == 401).await;
    let admin = token_of("boss", &["*"]);
    let path = "/api/v1/audit?outcome=too_many_failures&address=192.0.2.1";
    eventually("it is told", async || {
        ask(&hub, &admin, "GET", path, Value::Null).await.1["items"][0]["times"].is_u64()
    })
    .await;
}

#[tokio::test]
async fn who_guesses_waits_and_who_is_known_does_not() {
    let world = world().await;
    let hub = hub(&world).await;
    let known = token_of("olha", &[]);
    assert_eq!(from(&hub, "2001:db8:0:7::1", &known).await.0, 200);
    let mut refused = 0;
    for n in 0..60 {
        // All addresses of a line are one.
        refused += usize::from(from(&hub, &format!("2001:db8:0:7::{n:x}"), &format!("guess-{n}")).await.0 == 429);
    }
    assert!(refused > 20, "{refused}");
    // Not to be raced by the end of a wait: it grows to two seconds.
    let blocked = async || from(&hub, "2001:db8:0:7::ffff", &token_of("ihor", &[])).await;
    eventually("strangers wait", async || {
        from(&hub, "2001:db8:0:7::2", &format!("guess-{}", rand::random::<u64>())).await;
        blocked().await.1 == "too_many_failures"
    })
    .await;
    assert_eq!(from(&hub, "2001:db8:0:7::abc", &known).await.0, 200, "it was good here");
    assert_eq!(from(&hub, "2001:db8:0:8::1", &token_of("ihor", &[])).await.0, 200, "another line");
    eventually("the wait ends", async || blocked().await.0 == 200).await;
}

#[tokio::test]
async fn a_connection_is_told_to_come_back_later() {
    let world = world().await;
    let hub = world.hub_with("a", "[identity.guard]\ntoken_failures = 3\nlongest_wait = \"2s\"\n").await;
    let connect = |token: &str| json!({"id": 1, "connect": {"token": token}}).to_string();
    for _ in 0..3 {
        assert_eq!(Client::new(&hub).await.ask(&connect("wrong")).await, json!({"close": 3500}));
    }
    let (mut client, refused) = eventually("it waits", async || {
        let mut client = Client::new(&hub).await;
        let answer = client.ask(&connect("wrong")).await;
        answer["error"].is_object().then_some((client, answer))
    })
    .await;
    assert_eq!((&refused["error"]["code"], &refused["error"]["temporary"]), (&json!(111), &json!(true)), "{refused}");
    assert_eq!(client.receive().await, json!({"close": 3013}), "which lets it come back");
    assert!(Client::new(&hub).await.ask(&connect(&token_of("olha", &[]))).await["connect"].is_object());
}

/// Keys of servers are tried no faster than tokens, and a token that has expired is no guess.
#[tokio::test]
async fn keys_are_counted_and_old_tokens_are_not() {
    let world = world().await;
    let key =
        "[[identity.api_keys]]\nid = \"backend\"\nsecret = \"a key of a server, of more than thirty-two bytes\"\n";
    let hub = world.hub_with("a", &format!("{key}[identity.guard]\ntoken_failures = 3\n")).await;
    let call = async |key: &str| {
        let request = reqwest::Client::new().post(format!("http://{}/api/info", hub.addr)).header("x-api-key", key);
        request.body("{}").send().await.expect("answered").status().as_u16()
    };
    assert_eq!([call("wrong").await, call("wrong").await, call("wrong").await], [401, 401, 401]);
    eventually("it waits", async || call("wrong").await == 429).await;
    assert_eq!(call("a key of a server, of more than thirty-two bytes").await, 200);
    let old = World::token_for("viewer", -60);
    for _ in 0..10 {
        assert_eq!(ask(&hub, &old, "GET", KINDS, Value::Null).await.1["code"], "token_expired");
    }
}
