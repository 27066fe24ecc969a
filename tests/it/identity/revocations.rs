//! Tokens that are taken back, and users who are kept out.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use dzvin::identity::{
    IdentityMetrics, SigningKey, TokenRules, Verifier,
    revocations::{RevocationStore, Revocations},
};
use dzvin_protocols::identity::{Claims, SubscriptionClaims};
use serde_json::{Value, json};
use sqlx::Connection;
use time::OffsetDateTime;

use crate::support::{
    eventually::eventually,
    hub::{Hub, KEY, World},
    plans::plans,
    postgres::TestDb,
    proxy::{Proxy, Upstream},
    session::Client,
};

/// A viewer's token.
fn token(user: &str, jti: Option<&str>, age: i64) -> String {
    let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
    let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let claims = Claims {
        sub: user.to_owned(),
        jti: jti.map(str::to_owned),
        iat: Some(now - age),
        exp: Some(now + 3600),
        roles: vec!["viewer".to_owned()],
        ..Claims::default()
    };
    verifier.sign(&claims).expect("signed")
}

/// The status that REST gives to a token.
async fn status(hub: &Hub, token: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("http://{}/api/v1/kinds", hub.addr)).bearer_auth(token);
    request.send().await.expect("answered").status().as_u16()
}

async fn ask(hub: &Hub, role: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let url = format!("http://{}/api/v1/revocations{path}", hub.addr);
    let request = reqwest::Client::new().request(method.parse().expect("a method"), url);
    let mut request = request.bearer_auth(World::token(role));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("answered");
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn revoke(hub: &Hub, body: Value) -> Value {
    let (status, answer) = ask(hub, "admin", "POST", "", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
    answer
}

/// The promise is a second; machines that test are slow. That its parts fit into a second is asserted where they are set, and each
/// way by which a change comes is tested without the other below.
const FELT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn what_is_revoked_on_one_node_is_refused_on_all() {
    let world = World::new(0, true).await;
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let (mine, other) = (token("olha", Some("t-1"), 60), token("olha", Some("t-2"), 60));
    let connect = |token: &str| json!({"id": 1, "connect": {"token": token}}).to_string();
    // Of those who only listen, on the other node each time.
    let listens = async |hub: &Hub, token: &str| {
        let mut client = Client::new(hub).await;
        assert!(client.ask(&connect(token)).await["connect"].is_object());
        client
    };
    let ends = async |mut client: Client, begun: Instant| {
        assert_eq!(client.receive().await, json!({"close": 3500}));
        assert!(begun.elapsed() < FELT, "{:?}", begun.elapsed());
    };
    let by_token = listens(&b, &mine).await;

    revoke(&a, json!({"token": "t-1", "reason": "left in a taxi"})).await;
    let begun = Instant::now();
    eventually("the other node refuses the token", async || status(&b, &mine).await == 401).await;
    assert!(begun.elapsed() < FELT, "{:?}", begun.elapsed());
    eventually("this node as well", async || status(&a, &mine).await == 401).await;
    assert_eq!((status(&a, &other).await, status(&b, &other).await), (200, 200));
    ends(by_token, begun).await;
    assert_eq!(Client::new(&b).await.ask(&connect(&mine)).await, json!({"close": 3500}));

    // All that the user has, until now; who signs in again comes in again.
    let by_user = listens(&a, &other).await;
    let begun = Instant::now();
    revoke(&b, json!({"user": "olha"})).await;
    ends(by_user, begun).await;
    eventually("older tokens are refused", async || status(&a, &other).await == 401).await;
    assert_eq!(status(&a, &token("olha", None, -3)).await, 200);

    // And nothing at all.
    let blocked = listens(&b, &token("olha", None, -3)).await;
    let begun = Instant::now();
    let block = revoke(&a, json!({"user": "olha", "block": true})).await;
    ends(blocked, begun).await;
    eventually("the user is kept out", async || status(&b, &token("olha", None, -3)).await == 401).await;
    assert_eq!(status(&b, &token("ihor", None, 60)).await, 200);
    let path = format!("/{}", block["id"]);
    assert_eq!(ask(&b, "admin", "DELETE", &path, None).await.0, 204);
    eventually("the user is let in", async || status(&a, &token("olha", None, -3)).await == 200).await;
    assert_eq!(a.metric("dzvin_identity_revocations").await, 2.0);
    assert!(b.metric("dzvin_identity_tokens_total").await > 0.0);
}

/// A subscription lives on a token of its own, which may be taken back while the connection's is good.
#[tokio::test]
async fn a_subscription_ends_with_its_own_token() {
    let world = World::new(0, true).await;
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let opens = |channel: &str, jti: Option<&str>, age: i64| {
        let key = SigningKey::new("test", KEY.as_bytes()).expect("key");
        let verifier = Verifier::new(vec![key], TokenRules::default()).expect("verifier");
        let claims = SubscriptionClaims {
            sub: "olha".to_owned(),
            channel: channel.to_owned(),
            jti: jti.map(str::to_owned),
            iat: Some(OffsetDateTime::now_utc().unix_timestamp() - age),
            exp: Some(OffsetDateTime::now_utc().unix_timestamp() + 3600),
            ..SubscriptionClaims::default()
        };
        verifier.sign_subscription(&claims).expect("signed")
    };
    let mut client = Client::new(&b).await;
    // Made in a while, so that what is taken back of the user's does not concern it.
    let connection = token("olha", None, -4);
    assert!(client.ask(&json!({"id": 1, "connect": {"token": connection}}).to_string()).await["connect"].is_object());
    let mut subscribe = async |channel: &str, token: &str| {
        let ask = json!({"id": 2, "subscribe": {"channel": channel, "token": token}}).to_string();
        let mut reply = client.ask(&ask).await;
        while reply["id"] != 2 {
            reply = client.receive().await;
        }
        reply["error"]["code"].as_u64().unwrap_or(0)
    };
    for (channel, jti, age) in
        [("news.1", Some("s-1"), 60), ("news.2", Some("s-2"), 60), ("news.3", None, 60), ("news.4", Some("s-4"), -4)]
    {
        assert_eq!(subscribe(channel, &opens(channel, jti, age)).await, 0, "{channel}");
    }
    // It goes on with another token, and with the one before no more.
    let refresh = json!({"id": 3, "sub_refresh": {"channel": "news.2", "token": opens("news.2", Some("s-3"), 60)}});
    assert!(client.ask(&refresh.to_string()).await["sub_refresh"].is_object());

    let ended = async |client: &mut Client, body: Value| {
        let begun = Instant::now();
        revoke(&a, body).await;
        let push = client.receive().await["push"].take();
        assert!(begun.elapsed() < FELT, "{:?}", begun.elapsed());
        assert_eq!(push["unsubscribe"]["code"], 2000, "{push}");
        push["channel"].as_str().expect("a channel").to_owned()
    };
    revoke(&a, json!({"token": "s-2"})).await;
    assert_eq!(ended(&mut client, json!({"token": "s-1"})).await, "news.1");
    assert_eq!(ended(&mut client, json!({"token": "s-3"})).await, "news.2");
    assert_eq!(ended(&mut client, json!({"user": "olha"})).await, "news.3", "made before the moment");
    // The rest is well, and what was taken back opens nothing.
    let mut reply = client.ask(&json!({"id": 4, "ping": {}}).to_string()).await;
    assert_eq!(reply, json!({"id": 4, "ping": {}}), "nothing else has ended");
    let again = json!({"id": 5, "subscribe": {"channel": "news.1", "token": opens("news.1", Some("s-1"), 60)}});
    reply = client.ask(&again.to_string()).await;
    assert_eq!(reply["error"]["code"], 103, "{reply}");
}

/// A notification alone brings what another node has changed: the next look here is an hour away.
#[tokio::test]
async fn a_notification_is_enough() {
    let world = World::new(0, true).await;
    let hub = world.hub("a").await;
    let (known, metrics) = (Revocations::default(), IdentityMetrics::default());
    let store = RevocationStore::new(world.db.database(), known.clone(), metrics);
    let holds = |user: &str| known.holds(user, None, None, OffsetDateTime::now_utc().unix_timestamp());
    revoke(&hub, json!({"user": "before", "block": true})).await;
    let kept = tokio::spawn(store.looking_every(Duration::from_secs(3_600)).keep(std::future::pending()));
    eventually("the first look", async || holds("before")).await;
    // From now on nobody looks but when told to. Who does not listen yet when the first is told hears of the next.
    let mut told = Vec::new();
    eventually("a notification", async || {
        let user = format!("u-{}", told.len());
        told.push(revoke(&hub, json!({"user": user, "block": true})).await);
        holds("u-0")
    })
    .await;
    // And when one is lifted.
    let path = format!("/{}", told[0]["id"]);
    assert_eq!(ask(&hub, "admin", "DELETE", &path, None).await.0, 204);
    eventually("it is lifted", async || !holds("u-0")).await;
    assert!(holds("before"));
    kept.abort();
}

/// And where nobody notifies, the looks alone bring it.
#[tokio::test]
async fn a_look_is_enough() {
    let world = World::new(0, true).await;
    let hub = world.hub("a").await;
    let token = token("olha", None, 60);
    assert_eq!(status(&hub, &token).await, 200);
    let mut raw = world.db.raw().await;
    let silently = "WITH top AS (UPDATE revocation_state SET version = version + 1 RETURNING version)
        INSERT INTO revocations (kind, subject, created_by, version) SELECT 'block', 'olha', 'x', version FROM top";
    sqlx::raw_sql(silently).execute(&mut raw).await.expect("written");
    raw.close().await.expect("closed");
    eventually("the block", async || status(&hub, &token).await == 401).await;
}

/// Of many that come at once each is felt by everybody whom it names, those in the middle too, and by nobody else.
#[tokio::test]
async fn a_burst_ends_everybody_whom_it_names() {
    let world = World::new(0, true).await;
    let hub = world.hub("a").await;
    let connect = |user: &str| json!({"id": 1, "connect": {"token": token(user, None, 60)}}).to_string();
    let mut spared = Client::new(&hub).await;
    assert!(spared.ask(&connect("spared")).await["connect"].is_object());
    // Named one by one; more than are named so; more than may wait; and more than one read brings.
    for (round, count) in [(1, 20_usize), (2, 200), (3, 3_000)] {
        // The first, the last, and some between.
        let named: Vec<usize> = (0..20).map(|n| n * (count - 1) / 19).collect();
        let mut clients = Vec::new();
        for n in &named {
            let mut client = Client::new(&hub).await;
            assert!(client.ask(&connect(&format!("r{round}-{n}"))).await["connect"].is_object());
            clients.push((*n, client));
        }
        let mut raw = world.db.raw().await;
        let burst = format!(
            "BEGIN; WITH top AS (UPDATE revocation_state SET version = version + {count} RETURNING version - {count} AS version)
             INSERT INTO revocations (kind, subject, created_by, version)
             SELECT 'block', 'r{round}-' || n, 'x', top.version + n + 1 FROM top, generate_series(0, {last}) n; COMMIT",
            last = count - 1
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(burst)).execute(&mut raw).await.expect("written");
        raw.close().await.expect("closed");
        for (n, mut client) in clients {
            assert_eq!(client.receive().await, json!({"close": 3500}), "{n} of {count}");
        }
    }
    let reply = spared.ask(&json!({"id": 2, "ping": {}}).to_string()).await;
    assert_eq!(reply, json!({"id": 2, "ping": {}}), "nobody else");
}

#[tokio::test]
async fn revocations_are_for_those_who_may_and_are_listed() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    for (role, method, path) in [("viewer", "POST", ""), ("operator", "GET", ""), ("operator", "DELETE", "/1")] {
        let body = (method == "POST").then(|| json!({"token": "t"}));
        assert_eq!(ask(&hub, role, method, path, body).await.0, 403, "{role} {method}");
    }
    for (body, code) in [
        (json!({}), "bad_revocation"),
        (json!({"token": "t", "user": "u"}), "bad_revocation"),
        (json!({"user": "u", "expires_at": "2020-01-01T00:00:00Z"}), "bad_revocation"),
        (json!({"user": "u", "until": 1}), "unprocessable"),
    ] {
        let (status, answer) = ask(&hub, "admin", "POST", "", Some(body.clone())).await;
        assert_eq!((status, answer["code"].as_str()), (422, Some(code)), "{body} {answer}");
    }
    for path in ["/0", "/x", "/99999999999999999999"] {
        assert_eq!(ask(&hub, "admin", "DELETE", path, None).await.1["code"], "unknown_revocation", "{path}");
    }
    assert_eq!(ask(&hub, "admin", "GET", "?cursor=x", None).await.0, 400);

    // Asked for again it becomes stronger, never weaker.
    let moment = |at: &str| json!({"user": "olha", "issued_before": at, "expires_at": "2100-01-01T00:00:00Z"});
    let first = revoke(&hub, moment("2026-01-02T00:00:00Z")).await;
    let again = revoke(&hub, moment("2026-01-01T00:00:00Z")).await;
    assert_eq!((&first["id"], &first["issued_before"]), (&again["id"], &again["issued_before"]));
    let later = revoke(&hub, json!({"user": "olha", "issued_before": "2026-01-03T00:00:00.5Z"})).await;
    assert_eq!(later["issued_before"], "2026-01-03T00:00:01.000Z", "whole seconds, and all of them");
    assert_eq!(later["expires_at"], "2100-01-01T00:00:00.000Z");
    assert_eq!(later["created_by"], "admin-1");

    for n in 0..120 {
        revoke(&hub, json!({"token": format!("t{n}")})).await;
    }
    let (_, page) = ask(&hub, "admin", "GET", "", None).await;
    assert_eq!((page["items"].as_array().map(Vec::len), &page["items"][0]["token"]), (Some(100), &json!("t119")));
    let rest = format!("?cursor={}", page["next"].as_str().expect("more"));
    let (_, rest) = ask(&hub, "admin", "GET", &rest, None).await;
    assert_eq!((rest["items"].as_array().map(Vec::len), &rest["next"]), (Some(21), &Value::Null));
    let (_, of_user) = ask(&hub, "admin", "GET", "?user=olha", None).await;
    assert_eq!((of_user["items"].as_array().map(Vec::len), &of_user["items"][0]["block"]), (Some(1), &json!(false)));
    let (_, of_token) = ask(&hub, "admin", "GET", "?token=olha", None).await;
    assert_eq!(of_token["items"], json!([]));
}

/// Known ones stay in force while the database is away, and what an earlier state of it does not have is gone.
#[tokio::test]
async fn what_is_known_holds_while_the_database_is_away() {
    let mut world = World::new(0, false).await;
    let options = world.db.connect_options();
    let name = options.get_database().expect("a name");
    let socket = options.get_socket().expect("a unix socket").join(".s.PGSQL.5432");
    let proxy = Proxy::start(Upstream::Unix(socket)).await;
    world.database_url = Some(format!("postgres://dzvin@{}/{name}", proxy.addr));
    let hub = world.hub("a").await;
    let (blocked, free) = (token("olha", None, 60), token("ihor", None, 60));
    revoke(&hub, json!({"user": "olha", "block": true})).await;
    // Tokens are checked before the database is asked for anything.
    let connect = async |token: &str| {
        Client::new(&hub).await.ask(&json!({"id": 1, "connect": {"token": token}}).to_string()).await
    };
    eventually("the block", async || connect(&blocked).await == json!({"close": 3500})).await;

    proxy.refuse(true);
    proxy.cut();
    eventually("the trouble is counted", async || hub.metric("dzvin_identity_revocation_errors_total").await > 1.0)
        .await;
    assert_eq!(connect(&blocked).await, json!({"close": 3500}));
    assert!(connect(&free).await["connect"].is_object());

    // Meanwhile somebody restores a backup, in which another user is blocked.
    let mut raw = world.db.raw().await;
    let restore = "TRUNCATE revocations; UPDATE revocation_state SET version = 1;
        INSERT INTO revocations (kind, subject, created_by, version) VALUES ('block', 'ihor', 'x', 1)";
    sqlx::raw_sql(restore).execute(&mut raw).await.expect("restored");
    raw.close().await.expect("closed");
    proxy.refuse(false);
    eventually("the other user", async || connect(&free).await == json!({"close": 3500})).await;
    assert!(connect(&blocked).await["connect"].is_object(), "the database is the truth");
}

#[tokio::test]
async fn the_command_line_revokes() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let config = hub.config.display().to_string();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dzvin"));
        let output = command.args(["token", "--config", &config]).args(args).output().expect("starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).trim().to_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (code, made) =
        run(&["--sub", "olha", "--role", "viewer", "--jti", "t-9", "--channel", "news", "--subs", r#"{"chat":{}}"#]);
    assert_eq!((code, status(&hub, &made).await), (Some(0), 200), "{made}");
    let (code, other) = run(&["--sub", "olha", "--role", "viewer"]);
    assert_eq!(code, Some(0), "{other}");
    assert_eq!(run(&["--sub", "olha", "--subs", "[]"]).0, Some(64));
    let (code, opens) = run(&["--sub", "olha", "--subscription", "news"]);
    assert_eq!((code, status(&hub, &opens).await), (Some(0), 401), "a subscription's token is no key to REST");

    assert_eq!(run(&["--sub", "olha", "revoke", "--jti", "t-9"]).0, Some(64));
    let (code, said) = run(&["revoke", "--jti", "t-9", "--reason", "lost"]);
    assert!(code == Some(0) && said.contains("\"token\":\"t-9\""), "{said}");
    eventually("the token is refused", async || status(&hub, &made).await == 401).await;
    assert_eq!(status(&hub, &other).await, 200);
    let (code, said) = run(&["revoke", "--user", "olha", "--block", "--lasting", "30d"]);
    assert!(code == Some(0) && said.contains("\"block\":true"), "{said}");
    eventually("the user is kept out", async || status(&hub, &other).await == 401).await;
    let (code, said) = run(&["revoke", "--user", "olha", "--url", "http://127.0.0.1:1"]);
    assert!(code == Some(69) && said.contains("no node answers"), "{said}");
}

/// Every cached statement on revocations finds its rows by an index, as it is planned for any values.
#[tokio::test]
async fn no_statement_scans_all_revocations() {
    let db = TestDb::new().await;
    let mut raw = db.raw().await;
    let fill = "INSERT INTO revocations (kind, subject, issued_before, expires_at, created_by, version)
            SELECT 'user', 'u' || n, now(), now() + make_interval(mins => n - 2000), 'x', n FROM generate_series(1, 20000) n;
        SET plan_cache_mode = force_generic_plan";
    sqlx::raw_sql(fill).execute(&mut raw).await.expect("filled");
    sqlx::raw_sql("VACUUM ANALYZE revocations").execute(&mut raw).await.expect("analyzed");
    let plans = plans(&mut raw, |query| query.contains(" revocations")).await;
    for (query, plan) in &plans {
        assert!(!plan.contains("Seq Scan on revocations "), "{query}\n{plan}");
    }
    assert_eq!(plans.len(), 6, "add, lift, list, of, since, sweep");
}
