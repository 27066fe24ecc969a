//! `dzvin token revoke`: over the API of a node that runs, with a token of a minute signed by the configured key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dzvin_protocols::identity::Claims;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Exit, Failure, RevokeArgs, token};
use crate::platform::config::Config;

/// Longest wait for the node.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long the token of this one request is good.
const GOOD_FOR: time::Duration = time::Duration::minutes(1);
/// Who the log says it was.
const WHO: &str = "dzvin-token-revoke";

pub(super) async fn run(config: &Config, args: &RevokeArgs) -> Result<(), Failure> {
    let verifier = token::signer(config)?;
    let now = OffsetDateTime::now_utc();
    let claims = Claims {
        sub: WHO.to_owned(),
        exp: Some((now + GOOD_FOR).unix_timestamp()),
        permissions: vec!["identity:revoke:*".to_owned()],
        ..Claims::default()
    };
    let token = verifier.sign(&claims).map_err(Failure::config)?;
    let base = args.url.clone().unwrap_or_else(|| format!("http://{}", reachable(config.http.listen)));
    let url = format!("{}/api/v1/revocations", base.trim_end_matches('/'));
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE);
    let client = client.build().map_err(Failure::internal)?;
    let answer = client.post(url).bearer_auth(token).json(&body(args, now)?).send().await;
    // The error's own text would show the whole address.
    let answer =
        answer.map_err(|_| Failure::new(Exit::Unavailable, format!("no node answers at {base}; see --url")))?;
    let status = answer.status().as_u16();
    let said: Value = answer.json().await.unwrap_or_default();
    if status == 201 {
        println!("{said}");
        return Ok(());
    }
    let detail = said["detail"].as_str().unwrap_or("no reason was given");
    let exit = if status == 503 { Exit::Unavailable } else { Exit::Usage };
    Err(Failure::new(exit, format!("the node refused with status {status}: {detail}")))
}

fn body(args: &RevokeArgs, now: OffsetDateTime) -> Result<Value, Failure> {
    let mut body = json!({});
    let expires_at = args.lasting.map(|lasting| (now + lasting).format(&Rfc3339)).transpose();
    let given = [
        ("token", args.jti.as_ref().map(|jti| json!(jti))),
        ("user", args.user.as_ref().map(|user| json!(user))),
        ("block", args.block.then_some(json!(true))),
        ("expires_at", expires_at.map_err(Failure::internal)?.map(|at| json!(at))),
        ("reason", args.reason.as_ref().map(|reason| json!(reason))),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    Ok(body)
}

/// Who listens on every address answers on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_everywhere_is_asked_here() {
        for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(listen.parse().expect("address")).to_string(), asked);
        }
    }
}
