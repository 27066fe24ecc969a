//! Published keys over HTTP, or from a file.
//!
//! Invariants: only `https`, or plain HTTP where the configuration says so or the host is this machine; redirects are not
//! followed, so nobody sends us elsewhere; an answer has a limit in bytes and in time. Errors never hold an address: it may
//! hold a password.

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use bytes::BytesMut;
use reqwest::{
    Response, Url,
    header::{ACCEPT, CACHE_CONTROL, HeaderMap},
    redirect::Policy,
};
use serde::Deserialize;
use tokio::io::AsyncReadExt;

/// TCP and TLS.
const CONNECT: Duration = Duration::from_secs(3);
/// From the request to the last byte.
const TOTAL: Duration = Duration::from_secs(5);
/// Largest answer: a hundred keys with their certificates.
pub(super) const MAX_BODY: usize = 512 * 1024;
/// How long a set is good when the issuer does not say, and the bounds of what it may say: below it asks too much of it,
/// above it a key that was taken back would live too long.
pub(super) const REFRESH: Duration = Duration::from_secs(600);
const REFRESH_BOUNDS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// A file is looked at again so often: that is cheap.
const FILE_REFRESH: Duration = Duration::from_secs(60);
/// Where an OpenID provider describes itself, after its issuer.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Where an issuer's keys are.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// In the configuration; they never change.
    Fixed,
    /// A file.
    File(PathBuf),
    /// An address.
    Url(String),
    /// At the address that the issuer's own description names.
    Discovery(String),
}

/// What was fetched, and how long it is good.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    pub(super) good_for: Duration,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// Not `https`, and not allowed.
    #[error("the address is not https")]
    Insecure,
    /// No answer, or it broke off.
    #[error("no answer: {0}")]
    Away(&'static str),
    /// Another status than 200; redirects are among them.
    #[error("it answered with status {0}")]
    Status(u16),
    /// Above [`MAX_BODY`].
    #[error("the answer is above {MAX_BODY} bytes")]
    TooLarge,
    /// The description of an OpenID provider that is none, or is another's.
    #[error("the issuer's description does not fit: {0}")]
    Description(&'static str),
    /// The file cannot be read.
    #[error("the file cannot be read")]
    File(#[source] std::io::Error),
    /// TLS or the resolver.
    #[error("the HTTP client could not be made")]
    Client,
}

/// Whether keys may be fetched from here.
pub(crate) fn is_allowed(url: &str, insecure: bool) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match url.scheme() {
        "https" => url.host_str().is_some(),
        "http" => insecure || is_this_machine(&url),
        _ => false,
    }
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Source {
    /// Brings the set as text. `insecure` allows plain HTTP.
    pub(super) async fn fetch(&self, insecure: bool) -> Result<Fetched, FetchError> {
        match self {
            Self::Fixed => Err(FetchError::Away("keys of the configuration are not fetched")),
            Self::File(path) => {
                let read = async {
                    let mut body = Vec::new();
                    let file = tokio::fs::File::open(path).await?;
                    file.take(MAX_BODY as u64 + 1).read_to_end(&mut body).await?;
                    Ok(body)
                };
                let body = read.await.map_err(FetchError::File)?;
                if body.len() > MAX_BODY {
                    Err(FetchError::TooLarge)
                } else {
                    Ok(Fetched { body, good_for: FILE_REFRESH })
                }
            }
            Self::Url(url) => get(url, insecure).await,
            Self::Discovery(issuer) => {
                let url = describe(issuer, insecure).await?.jwks_uri;
                let local = |url: &str| Url::parse(url).is_ok_and(|url| is_this_machine(&url));
                // Whoever is asked from afar must not send us to a neighbour on this machine.
                if local(&url) && !local(issuer) {
                    return Err(FetchError::Description("jwks_uri is on this machine"));
                }
                get(&url, insecure).await
            }
        }
    }
}

/// What an OpenID provider says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Provider {
    issuer: String,
    pub(super) jwks_uri: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: Option<String>,
    pub(super) code_challenge_methods_supported: Option<Vec<String>>,
}

/// Asks an issuer for its description.
pub(super) async fn describe(issuer: &str, insecure: bool) -> Result<Provider, FetchError> {
    let told = get(&format!("{}{DISCOVERY}", issuer.trim_end_matches('/')), insecure).await?;
    described(&told.body, issuer)
}

/// A description, which must be of this very issuer.
fn described(json: &[u8], issuer: &str) -> Result<Provider, FetchError> {
    let provider: Provider = serde_json::from_slice(json).map_err(|_| FetchError::Description("not a description"))?;
    if provider.issuer == issuer { Ok(provider) } else { Err(FetchError::Description("another issuer")) }
}

/// One client for all issuers of the process.
fn client() -> Result<&'static reqwest::Client, FetchError> {
    static CLIENT: OnceLock<Option<reqwest::Client>> = OnceLock::new();
    let make = || {
        let client = reqwest::Client::builder().redirect(Policy::none()).connect_timeout(CONNECT).timeout(TOTAL);
        // Minutes lie between two requests: an idle connection would be closed by then.
        client.pool_max_idle_per_host(0).build().ok()
    };
    CLIENT.get_or_init(make).as_ref().ok_or(FetchError::Client)
}

async fn get(url: &str, insecure: bool) -> Result<Fetched, FetchError> {
    if !is_allowed(url, insecure) {
        return Err(FetchError::Insecure);
    }
    let request = client()?.get(url).header(ACCEPT, "application/jwk-set+json, application/json");
    let answer = request.send().await.map_err(|error| away(&error))?;
    if answer.status().as_u16() != 200 {
        return Err(FetchError::Status(answer.status().as_u16()));
    }
    let good_for = good_for(answer.headers());
    Ok(Fetched { body: body(answer).await?, good_for })
}

async fn body(mut answer: Response) -> Result<Vec<u8>, FetchError> {
    if answer.content_length().is_some_and(|length| length > MAX_BODY as u64) {
        return Err(FetchError::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| away(&error))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.to_vec())
}

/// What happened, without the address that the error's own text holds.
fn away(error: &reqwest::Error) -> FetchError {
    FetchError::Away(if error.is_timeout() {
        "in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "it broke off"
    })
}

/// `max-age` within bounds.
fn good_for(headers: &HeaderMap) -> Duration {
    let words = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut words = words.flat_map(|value| value.split(',')).map(|word| word.trim().to_ascii_lowercase());
    let told = words.find_map(|word| match word.as_str() {
        "no-store" | "no-cache" => Some(Duration::ZERO),
        word => word.strip_prefix("max-age=")?.trim_matches('"').parse().ok().map(Duration::from_secs),
    });
    told.unwrap_or(REFRESH).clamp(REFRESH_BOUNDS.0, REFRESH_BOUNDS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine() {
        for (url, plain, insecure) in [
            ("https://id.example/keys", true, true),
            ("http://id.example/keys", false, true),
            ("http://127.0.0.1:8080/keys", true, true),
            ("http://[::1]/keys", true, true),
            ("http://localhost/keys", true, true),
            ("http://localhost.evil.example/keys", false, true),
            ("http://127.0.0.1@evil.example/keys", false, true),
            ("http://127.0.0.1.evil.example/keys", false, true),
            ("file:///etc/passwd", false, false),
            ("ftp://127.0.0.1/", false, false),
            ("//id.example", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_allowed(url, false), is_allowed(url, true)), (plain, insecure), "{url}");
        }
    }

    #[test]
    fn how_long_a_set_is_good_is_bounded() {
        for (value, seconds) in [
            ("max-age=300", 300),
            ("public, Max-Age=300, must-revalidate", 300),
            ("max-age=1", 60),
            ("max-age=99999999999", 3600),
            ("max-age=-5", 600),
            ("max-age=99999999999999999999999", 600),
            ("no-store", 60),
            ("", 600),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.parse().expect("a value"))]);
            assert_eq!(good_for(&headers), Duration::from_secs(seconds), "{value}");
        }
        assert_eq!(good_for(&HeaderMap::new()), REFRESH);
    }

    #[test]
    fn a_description_is_of_its_own_issuer() {
        let me = "https://id.example";
        let good = br#"{"issuer":"https://id.example","jwks_uri":"https://keys.example/jwks","x":1}"#;
        assert_eq!(described(good, me).expect("a description").jwks_uri, "https://keys.example/jwks");
        assert!(described(good, "https://id.example/").is_err(), "compared as it is written");
        assert!(described(b"{}", me).is_err() && described(b"<html>", me).is_err());
    }
}
