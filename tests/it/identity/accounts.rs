//! Service accounts and their API tokens, through running nodes.

use serde_json::{Value, json};

use super::{ask, token};
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    session::Client,
};

const ACCOUNTS: &str = "/api/v1/service-accounts";

async fn get(hub: &Hub, token: &str, path: &str) -> u16 {
    ask(hub, token, "GET", path, Value::Null).await.0
}

/// An account with a token of these scopes; answers its id and its text.
async fn issued(hub: &Hub, admin: &str, name: &str, scopes: &[&str]) -> (String, String) {
    let path = format!("{ACCOUNTS}/{name}/tokens");
    let (status, made) = ask(hub, admin, "POST", &path, json!({"label": "nightly", "scopes": scopes})).await;
    assert_eq!(status, 201, "{made}");
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("token"))
}

#[tokio::test]
async fn a_program_is_known_by_its_token_until_it_is_taken_back() {
    let world = World::new(0, true).await;
    let (a, b) = (world.hub("a").await, world.hub("b").await);
    let admin = token(&["*"]);
    let body = json!({"name": "import", "roles": ["viewer"], "description": "нічний імпорт"});
    let (status, made) = ask(&a, &admin, "POST", ACCOUNTS, body.clone()).await;
    assert_eq!((status, &made["user"], &made["created_by"]), (201, &json!("svc-import"), &json!("olha")), "{made}");
    assert_eq!(ask(&b, &admin, "POST", ACCOUNTS, body).await.1["code"], "account_exists");
    let (id, secret) = issued(&a, &admin, "import", &[]).await;
    assert!(secret.starts_with(&format!("dzv_{id}_")));
    for hub in [&a, &b] {
        assert_eq!(get(hub, &secret, "/api/v1/entities/procedure").await, 200);
        assert_eq!(get(hub, &secret, "/api/v1/revocations").await, 403, "what its role does not grant");
        let mut other = secret.clone();
        other.replace_range(other.len() - 1.., if other.ends_with('A') { "B" } else { "A" });
        assert_eq!(get(hub, &other, "/api/v1/entities/procedure").await, 401);
    }
    // A session lives on it as on any other token.
    let mut client = Client::new(&b).await;
    let connected = client.ask(&json!({"id": 1, "connect": {"token": secret}}).to_string()).await;
    assert!(connected["connect"]["client"].is_string(), "{connected}");

    let mut raw = world.db.raw().await;
    let stored: String =
        sqlx::query_scalar("SELECT row_to_json(t)::text FROM api_tokens t").fetch_one(&mut raw).await.expect("read");
    assert!(!stored.contains(&secret) && !stored.contains(&secret[17..]), "only a hash is stored");
    let (_, listed) = ask(&b, &admin, "GET", &format!("{ACCOUNTS}/import/tokens"), Value::Null).await;
    assert_eq!((&listed["items"][0]["prefix"], listed["items"][0].get("token")), (&json!(format!("dzv_{id}")), None));

    let (status, _) = ask(&a, &admin, "DELETE", &format!("{ACCOUNTS}/import/tokens/{id}"), Value::Null).await;
    assert_eq!(status, 204);
    for hub in [&a, &b] {
        eventually("it is refused everywhere", async || get(hub, &secret, "/api/v1/entities/procedure").await == 401)
            .await;
    }
    assert_eq!(client.receive().await, json!({"close": 3500}), "and its session ends");
    assert_eq!(
        ask(&a, &admin, "DELETE", &format!("{ACCOUNTS}/import/tokens/none"), Value::Null).await.1["code"],
        "unknown_token"
    );
}

#[tokio::test]
async fn scopes_narrow_and_accounts_end() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let admin = token(&["*"]);
    ask(&hub, &admin, "POST", ACCOUNTS, json!({"name": "shop", "roles": ["admin"]})).await;
    let (_, narrow) = issued(&hub, &admin, "shop", &["entities:read:other", "identity:revoke:*"]).await;
    assert_eq!(get(&hub, &narrow, "/api/v1/entities/procedure").await, 403);
    assert_eq!(get(&hub, &narrow, "/api/v1/revocations").await, 200);
    let (id, wide) = issued(&hub, &admin, "shop", &[]).await;
    assert_eq!(get(&hub, &wide, "/api/v1/entities/procedure").await, 200);

    // One that has ended is told so.
    let mut raw = world.db.raw().await;
    sqlx::query("UPDATE api_tokens SET expires_at = now() - interval '1 minute' WHERE id = $1")
        .bind(&id)
        .execute(&mut raw)
        .await
        .expect("aged");
    eventually("it has expired", async || {
        ask(&hub, &wide, "GET", "/api/v1/kinds", Value::Null).await.1["code"] == "token_expired"
    })
    .await;
    let mut client = Client::new(&hub).await;
    assert!(client.ask(&json!({"id": 1, "connect": {"token": narrow}}).to_string()).await["connect"].is_object());
    assert_eq!(ask(&hub, &admin, "DELETE", &format!("{ACCOUNTS}/shop"), Value::Null).await.0, 204);
    assert_eq!(client.receive().await, json!({"close": 3500}), "open sessions end as well");
    eventually("the account is out", async || get(&hub, &narrow, "/api/v1/revocations").await == 401).await;
    assert_eq!(
        ask(&hub, &admin, "POST", &format!("{ACCOUNTS}/shop/tokens"), json!({"label": "x"})).await.1["code"],
        "too_many_tokens"
    );
    assert_eq!(
        ask(&hub, &admin, "POST", ACCOUNTS, json!({"name": "shop", "roles": ["viewer"]})).await.1["code"],
        "account_exists"
    );
    assert_eq!(
        ask(&hub, &admin, "DELETE", &format!("{ACCOUNTS}/nobody"), Value::Null).await.1["code"],
        "unknown_account"
    );
}

#[tokio::test]
async fn nobody_hands_out_what_they_may_not_grant() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let admin = token(&["*"]);
    let team = token(&["identity:accounts:team-*", "identity:grant:viewer"]);
    let make = async |who: &str, name: &str, role: &str| {
        ask(&hub, who, "POST", ACCOUNTS, json!({"name": name, "roles": [role]})).await
    };
    assert_eq!(make(&team, "team-a", "viewer").await.0, 201);
    assert_eq!(make(&team, "team-b", "admin").await.1["code"], "forbidden", "a role that is not theirs to give");
    assert_eq!(make(&team, "other", "viewer").await.1["code"], "forbidden", "a name that is not theirs");
    assert_eq!(make(&admin, "team-root", "admin").await.0, 201);
    let mint = format!("{ACCOUNTS}/team-root/tokens");
    assert_eq!(
        ask(&hub, &team, "POST", &mint, json!({"label": "x"})).await.1["code"],
        "forbidden",
        "nor one that is there"
    );
    let (_, seen) = ask(&hub, &team, "GET", ACCOUNTS, Value::Null).await;
    assert_eq!(seen["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(ask(&hub, &token(&[]), "GET", ACCOUNTS, Value::Null).await.1, json!({"items": []}));
    // Who has scopes could make more of themselves.
    let (_, scoped) = issued(&hub, &admin, "team-root", &["identity:*:*"]).await;
    assert_eq!(make(&scoped, "team-c", "viewer").await.1["code"], "forbidden");
    assert_eq!(ask(&hub, &scoped, "POST", &mint, json!({"label": "x"})).await.1["code"], "forbidden");
    for odd in ["%00", ".", "Shop"] {
        let path = format!("{ACCOUNTS}/x{odd}/tokens");
        assert_eq!(get(&hub, &admin, &path).await, 404, "{odd}");
    }
    let path = format!("{mint}/%00");
    assert_eq!(ask(&hub, &admin, "DELETE", &path, Value::Null).await.1["code"], "unknown_token");
    for (path, body) in [
        (ACCOUNTS.to_owned(), json!({"name": "Bad", "roles": ["viewer"]})),
        (ACCOUNTS.to_owned(), json!({"name": "x", "roles": []})),
        (ACCOUNTS.to_owned(), json!({"name": "x", "roles": ["nonsense"]})),
        (ACCOUNTS.to_owned(), json!({"name": "x", "roles": ["viewer"], "description": "\u{0}"})),
        (mint.clone(), json!({"label": "x".repeat(101)})),
        (mint.clone(), json!({"label": "x", "scopes": ["nonsense"]})),
        (mint.clone(), json!({"label": "x", "scopes": ["a:b:\u{0}"]})),
        (mint.clone(), json!({"label": "x", "expires_at": "2020-01-01T00:00:00Z"})),
        (mint, json!({"label": "x", "expires_at": "2120-01-01T00:00:00Z"})),
    ] {
        let (status, answer) = ask(&hub, &admin, "POST", &path, body.clone()).await;
        assert_eq!((status, &answer["code"]), (422, &json!("bad_account")), "{body}: {answer}");
    }
}

/// Whoever was here lately goes on while the database is away; whoever was not has to wait.
#[tokio::test]
async fn a_token_that_is_known_outlives_the_database_for_a_while() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let admin = token(&["*"]);
    ask(&hub, &admin, "POST", ACCOUNTS, json!({"name": "shop", "roles": ["viewer"]})).await;
    let (_, known) = issued(&hub, &admin, "shop", &[]).await;
    let (_, new) = issued(&hub, &admin, "shop", &[]).await;
    let connect = |token: &str| json!({"id": 1, "connect": {"token": token}}).to_string();
    assert!(Client::new(&hub).await.ask(&connect(&known)).await["connect"].is_object());
    let mut raw = world.db.raw().await;
    sqlx::query("ALTER TABLE api_tokens RENAME TO away").execute(&mut raw).await.expect("away");
    assert!(Client::new(&hub).await.ask(&connect(&known)).await["connect"].is_object());
    assert_eq!(ask(&hub, &new, "GET", "/api/v1/kinds", Value::Null).await.1["code"], "token_unchecked");
    sqlx::query("ALTER TABLE away RENAME TO api_tokens").execute(&mut raw).await.expect("back");
    assert_eq!(get(&hub, &new, "/api/v1/kinds").await, 200);
}
