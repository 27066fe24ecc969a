//! The login of the console: a real issuer (npm `oidc-provider`), a real hub, a real browser.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
    scenarios,
};

const OBJECTS: usize = 130;
/// All of `login.browser.mjs`.
const SCENARIOS: u32 = 13;

/// An issuer that lives as long as this.
struct Issuer {
    url: String,
    _process: Child,
}

impl Issuer {
    async fn start() -> Self {
        let mut process = Command::new("node")
            .current_dir(scenarios::clients())
            .arg("support/issuer.mjs")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        // It warns of keys and pages that are for tests before it says where it is.
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        while let Some(line) = lines.next_line().await.expect("read") {
            if let Ok(told) = serde_json::from_str::<Value>(&line) {
                // Whatever it says later has a reader.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Self { url: told["issuer"].as_str().expect("an address").to_owned(), _process: process };
            }
        }
        panic!("the issuer ended before it said where it is");
    }

    fn config(&self) -> String {
        format!(
            "[[identity.issuers]]\nissuer = '{0}'\naudience = 'dzvin'\ndiscovery = true\n\
             [identity.issuers.roles]\nreader = 'operator'\n\
             [identity.login]\nissuer = '{0}'\nclient_id = 'dzvin'\nscope = 'openid console'\nresource = 'https://hub.test'\n",
            self.url
        )
    }
}

#[tokio::test]
async fn operators_sign_in_at_the_issuer() {
    let issuer = Issuer::start().await;
    let world = World::new(OBJECTS, false).await;
    let hub = world.hub_with("login", &issuer.config()).await;
    scenarios::pass("login.browser.mjs", SCENARIOS, &world, &hub, &[("DZVIN_ISSUER", &issuer.url)]).await;
    for part in ["code=", "state="] {
        assert!(!hub.log().contains(part), "an answer of the issuer is in the log: {}", hub.log());
    }
}

/// What the page is told, and the last directive of its policy.
async fn told(hub: &Hub) -> (Value, String) {
    let login = reqwest::get(format!("http://{}/console/login.json", hub.addr)).await.expect("answered");
    assert_eq!(login.headers()["cache-control"], "no-store");
    assert_eq!(login.headers()["content-type"], "application/json");
    let page = reqwest::get(format!("http://{}/console/", hub.addr)).await.expect("answered");
    let policy = page.headers()["content-security-policy"].to_str().expect("text");
    let connect = policy.split("; ").find(|directive| directive.starts_with("connect-src")).expect("a directive");
    let connect = connect.to_owned();
    (login.json().await.expect("json"), connect)
}

#[tokio::test]
async fn the_page_is_told_where_to_sign_in_and_of_changes_without_a_restart() {
    let world = World::new(0, false).await;
    let issuer =
        "[[identity.issuers]]\nissuer = 'https://id.test/sales'\naudience = 'dzvin'\njwks_file = '/nonexistent'\n";
    let hub = world.hub_with("a", issuer).await;
    assert_eq!(told(&hub).await, (json!({"login": null}), "connect-src 'self' ws: wss:".to_owned()));

    let login = "[identity.login]\nissuer = 'https://id.test/sales'\nclient_id = 'console'\n";
    hub.reload(|text| text + login);
    let expected = json!({"issuer": "https://id.test/sales", "client_id": "console", "scope": "openid", "resource": null,
        "token": "access"});
    eventually("the login is told", async || {
        told(&hub).await == (json!({"login": expected}), "connect-src 'self' ws: wss: https://id.test".to_owned())
    })
    .await;

    // Of nobody that is known: nothing changes, and one line says why.
    hub.reload(|text| text.replace("'https://id.test/sales'\nclient_id", "'https://evil.test'\nclient_id"));
    eventually("the refusal in the log", async || {
        hub.log().contains("identity.login.issuer: there is no \\\"https://evil.test\\\" in identity.issuers")
    })
    .await;
    assert_eq!(told(&hub).await.0["login"], expected);
}
