//! The login of the console at an issuer: what the page is told of it, where it may ask, and whether the issuer is fit for it.
//!
//! The hub takes no part in the login itself. The browser is a public client (RFC 6749, 2.1): it gets its
//! tokens by the authorization code flow with PKCE, and brings one of them here as anybody would. So there is no secret, no
//! redirect through the hub, and nothing to be remembered between two requests.

use reqwest::Url;
use serde::Serialize;

use super::fetch::{FetchError, describe};
use crate::platform::config::{LoginConfig, LoginToken};

/// The method of PKCE that the console uses (RFC 7636).
const CHALLENGE: &str = "S256";

/// Why the console could not sign in at an issuer.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Its description could not be had.
    #[error("its description was not fetched: {0}")]
    Away(String),
    /// It describes itself without this.
    #[error("its description has no {0}: it is not an OpenID provider that a browser can sign in at")]
    Lacks(&'static str),
    /// The policy of the page would keep it from the tokens.
    #[error("its token_endpoint is at {0}: add that to identity.login.origins")]
    Origin(String),
    /// A code could be used by whoever sees it.
    #[error("it does not know PKCE with {CHALLENGE} (code_challenge_methods_supported)")]
    Pkce,
}

/// What the page is told: nothing of it is secret.
#[derive(Debug, Serialize)]
struct Told<'a> {
    login: Option<ToldLogin<'a>>,
}

#[derive(Debug, Serialize)]
struct ToldLogin<'a> {
    issuer: &'a str,
    client_id: &'a str,
    scope: &'a str,
    resource: Option<&'a str>,
    token: LoginToken,
}

/// The answer of `GET /console/login.json`.
#[must_use]
pub fn told(login: Option<&LoginConfig>) -> String {
    let login = login.map(|it| {
        let LoginConfig { issuer, client_id, scope, resource, token, origins: _ } = it;
        ToldLogin { issuer, client_id, scope, resource: resource.as_deref(), token: *token }
    });
    // Texts alone: they are always JSON.
    serde_json::to_string(&Told { login }).unwrap_or_default()
}

/// Where the page may ask beside the hub: the issuer's own origin and those of the configuration.
#[must_use]
pub fn origins(login: &LoginConfig) -> Vec<String> {
    let mut all: Vec<String> =
        std::iter::once(&login.issuer).chain(&login.origins).filter_map(|url| origin(url)).collect();
    all.dedup();
    all
}

/// The origin of an address as a policy spells it; `None` for what is no `http` or `https`, or has a host whose name would end the
/// directive that it stands in.
#[must_use]
pub fn origin(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let origin = url.origin().ascii_serialization();
    let plain = origin.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/[]".contains(&b));
    plain.then_some(origin)
}

/// Asks the issuer how it describes itself, for `dzvin check`: where its tokens come from.
///
/// # Errors
/// What would keep the console from signing in there.
pub async fn try_login(login: &LoginConfig, insecure: bool) -> Result<String, LoginError> {
    let away = |error: FetchError| LoginError::Away(error.to_string());
    let provider = describe(&login.issuer, insecure).await.map_err(away)?;
    provider.authorization_endpoint.ok_or(LoginError::Lacks("authorization_endpoint"))?;
    let tokens = provider.token_endpoint.ok_or(LoginError::Lacks("token_endpoint"))?;
    let tokens = origin(&tokens).ok_or(LoginError::Lacks("usable token_endpoint"))?;
    if !origins(login).contains(&tokens) {
        return Err(LoginError::Origin(tokens));
    }
    // Who does not say which methods it knows may know this one.
    if provider.code_challenge_methods_supported.is_some_and(|all| !all.iter().any(|one| one == CHALLENGE)) {
        return Err(LoginError::Pkce);
    }
    Ok(format!("tokens come from {tokens}, for the client {}", login.client_id))
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use serde_json::{Value, json};

    use super::*;

    fn login(issuer: &str, origins: &[&str]) -> LoginConfig {
        LoginConfig {
            issuer: issuer.to_owned(),
            client_id: "console".to_owned(),
            scope: "openid".to_owned(),
            resource: None,
            token: LoginToken::Access,
            origins: origins.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn an_origin_cannot_leave_its_directive() {
        for (url, expected) in [
            ("https://id.example/realms/sales", Some("https://id.example")),
            ("https://ID.example:443", Some("https://id.example")),
            ("https://u:p@id.example:8443/", Some("https://id.example:8443")),
            ("http://[::1]:8080/x", Some("http://[::1]:8080")),
            ("https://bücher.example", Some("https://xn--bcher-kva.example")),
            ("https://x.example;script-src/", None),
            ("https://x.example,y/", None),
            ("https://*.example", None),
            ("https://'self'", None),
            ("javascript:alert(1)", None),
            ("wss://id.example", None),
            ("crm", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
        let both = login("https://id.example/a", &["https://id.example", "https://token.example"]);
        assert_eq!(origins(&both), ["https://id.example", "https://token.example"]);
    }

    #[test]
    fn the_page_is_told_all_that_it_needs_and_no_more() {
        assert_eq!(told(None), r#"{"login":null}"#);
        let it =
            LoginConfig { resource: Some("https://hub".to_owned()), ..login("https://id.example", &["https://x"]) };
        let told: Value = serde_json::from_str(&told(Some(&it))).expect("json");
        let expected = json!({"issuer": "https://id.example", "client_id": "console", "scope": "openid",
            "resource": "https://hub", "token": "access"});
        assert_eq!(told, json!({ "login": expected }));
    }

    /// An issuer on this machine, which describes itself by this, with itself for `{me}`.
    async fn tried(description: &str, more: &[&str]) -> Result<String, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let me = format!("http://{}", listener.local_addr().expect("address"));
        let body = description.replace("{me}", &me);
        let app = Router::new().route("/.well-known/openid-configuration", get(move || async move { body }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let tried = try_login(&login(&me, more), false).await.map_err(|error| error.to_string());
        tried.map(|text| text.replace(&me, "{me}")).map_err(|text| text.replace(&me, "{me}"))
    }

    #[tokio::test]
    async fn check_says_what_keeps_the_console_from_its_tokens() {
        let with = |more: &str| {
            format!(r#"{{"issuer":"{{me}}","jwks_uri":"{{me}}/k","authorization_endpoint":"{{me}}/a"{more}}}"#)
        };
        let own = with(r#","token_endpoint":"{me}/t""#);
        assert_eq!(tried(&own, &[]).await.expect("fit"), "tokens come from {me}, for the client console");
        let s256 = with(r#","token_endpoint":"{me}/t","code_challenge_methods_supported":["plain","S256"]"#);
        assert!(tried(&s256, &[]).await.is_ok());
        let elsewhere = with(r#","token_endpoint":"https://token.example/t""#);
        assert!(tried(&elsewhere, &["https://token.example"]).await.is_ok());
        for (description, part) in [
            (elsewhere, "token_endpoint is at https://token.example: add that to identity.login.origins"),
            (with(r#","token_endpoint":"{me}/t","code_challenge_methods_supported":["plain"]"#), "PKCE with S256"),
            (with(""), "no token_endpoint"),
            (with(r#","token_endpoint":"ftp://x""#), "no usable token_endpoint"),
            (own.replace("{me}/a", "").replace("authorization_endpoint", "x"), "no authorization_endpoint"),
            (own.replace(r#""issuer":"{me}""#, r#""issuer":"https://other.example""#), "another issuer"),
            ("<html>".to_owned(), "not a description"),
        ] {
            let error = tried(&description, &[]).await.expect_err(&description);
            assert!(error.contains(part), "{description}: {error}");
        }
    }
}
