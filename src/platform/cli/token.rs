//! `dzvin token`: a token for a script or a person, signed with the configured key, or that of `dzvin dev`.

use std::time::Duration;

use dzvin_protocols::identity::{Claims, Permissions};
use time::OffsetDateTime;

use super::{Exit, Failure, TokenArgs};
use crate::{
    identity::{self, Verifier},
    platform::{config::Config, dev},
};

/// Longest life of a token: it cannot be called back but by retiring its key.
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// `30m`, `1h`, `7d`.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = crate::platform::config::parse_duration(text).filter(|ttl| !ttl.is_zero() && *ttl <= MAX_TTL);
    ttl.ok_or_else(|| "expected up to a year, such as 30m, 1h or 7d".to_owned())
}

pub(super) fn print(config: &Config, args: &TokenArgs) -> Result<(), Failure> {
    let mut identity = config.identity.clone();
    if identity.keys.is_empty() {
        identity.keys.extend(dev::existing_key(&config.dev));
    }
    if identity.keys.is_empty() {
        let text = "there is no key: set identity.keys, or run dzvin dev once, which makes one";
        return Err(Failure::new(Exit::Config, text));
    }
    if let Some(unknown) = args.role.iter().find(|role| !identity.roles.contains_key(*role)) {
        let known: Vec<&str> = identity.roles.keys().map(String::as_str).collect();
        return Err(Failure::new(Exit::Usage, format!("no role {unknown:?}; there are {}", known.join(", "))));
    }
    Permissions::parse(args.permission.iter().map(String::as_str)).map_err(|e| Failure::of(Exit::Usage, &e))?;
    let verifier = identity::verifier(&identity).map_err(Failure::config)?;
    println!("{}", sign(&verifier, &args.sub, &args.role, &args.permission, args.ttl)?);
    Ok(())
}

/// Signs and checks that what was signed is taken.
pub(super) fn sign(
    verifier: &Verifier,
    sub: &str,
    roles: &[String],
    permissions: &[String],
    ttl: Duration,
) -> Result<String, Failure> {
    let now = OffsetDateTime::now_utc();
    let claims = Claims {
        sub: sub.to_owned(),
        iat: Some(now.unix_timestamp()),
        exp: Some((now + ttl).unix_timestamp()),
        roles: roles.to_vec(),
        permissions: permissions.to_vec(),
        ..Claims::default()
    };
    let token = verifier.sign(&claims).map_err(Failure::config)?;
    let refused =
        |_| Failure::new(Exit::Usage, "the token would not be taken: --sub is too long or has control characters");
    verifier.verify(&token, now).map(drop).map_err(refused)?;
    Ok(token)
}
