//! `dzvin token`: a token for a script or a person, signed with the configured key, or that of `dzvin dev`.

use std::{collections::BTreeMap, time::Duration};

use dzvin_protocols::{
    identity::{Claims, Permissions, SubscriptionClaims, SubscriptionOptions},
    platform::units::parse_duration,
};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{Exit, Failure, TokenArgs};
use crate::{
    identity::{self, Verifier},
    platform::{config::Config, dev},
};

/// Longest life of a token: nobody remembers for longer to take it back.
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// `30m`, `1h`, `7d`.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).filter(|ttl| !ttl.is_zero() && *ttl <= MAX_TTL);
    ttl.ok_or_else(|| "expected up to a year, such as 30m, 1h or 7d".to_owned())
}

/// The same, for as long as one likes.
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let lasting = parse_duration(text).filter(|lasting| !lasting.is_zero());
    lasting.ok_or_else(|| "expected a time such as 12h or 30d".to_owned())
}

/// What signs, as `serve` or `dev` would.
pub(super) fn signer(config: &Config) -> Result<Verifier, Failure> {
    let mut identity = config.identity.clone();
    if identity.keys.is_empty() {
        identity.keys.extend(dev::existing_key(&config.dev));
    }
    if identity.keys.is_empty() {
        let text = "there is no key: set identity.keys, or run dzvin dev once, which makes one";
        return Err(Failure::new(Exit::Config, text));
    }
    // Others sign for themselves.
    identity.issuers.clear();
    identity::verifier(&identity).map_err(Failure::config)
}

pub(super) fn print(config: &Config, args: &TokenArgs) -> Result<(), Failure> {
    let verifier = signer(config)?;
    let known = &config.identity.roles;
    if let Some(unknown) = args.role.iter().find(|role| !known.contains_key(*role)) {
        let known: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(Failure::new(Exit::Usage, format!("no role {unknown:?}; there are {}", known.join(", "))));
    }
    Permissions::parse(args.permission.iter().map(String::as_str)).map_err(|e| Failure::of(Exit::Usage, &e))?;
    let now = OffsetDateTime::now_utc();
    let sub = args.sub.clone().unwrap_or_default();
    let info: Option<Box<RawValue>> = json("--info", args.info.as_deref())?;
    let jti = Some(args.jti.clone().unwrap_or_else(random_id));
    let (iat, exp) = (Some(now.unix_timestamp()), Some((now + args.ttl).unix_timestamp()));
    if let Some(channel) = &args.subscription {
        let claims =
            SubscriptionClaims { sub, channel: channel.clone(), iat, exp, jti, info, ..SubscriptionClaims::default() };
        println!("{}", verifier.sign_subscription(&claims).map_err(Failure::config)?);
        return Ok(());
    }
    let subs: Option<BTreeMap<String, SubscriptionOptions>> = json("--subs", args.subs.as_deref())?;
    let claims = Claims {
        sub,
        iat,
        exp,
        jti,
        info,
        channels: args.channel.clone(),
        subs: subs.unwrap_or_default(),
        roles: args.role.clone(),
        permissions: args.permission.clone(),
        ..Claims::default()
    };
    println!("{}", signed(&verifier, &claims, now)?);
    Ok(())
}

fn json<T: serde::de::DeserializeOwned>(name: &str, text: Option<&str>) -> Result<Option<T>, Failure> {
    let read = |text| serde_json::from_str(text).map_err(|e| Failure::new(Exit::Usage, format!("{name}: {e}")));
    text.map(read).transpose()
}

/// 128 random bits.
fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Signs a token of `dzvin dev` and checks that it is taken.
pub(super) fn sign(verifier: &Verifier, sub: &str, roles: &[String], ttl: Duration) -> Result<String, Failure> {
    let now = OffsetDateTime::now_utc();
    let claims = Claims {
        sub: sub.to_owned(),
        iat: Some(now.unix_timestamp()),
        exp: Some((now + ttl).unix_timestamp()),
        jti: Some(random_id()),
        roles: roles.to_vec(),
        ..Claims::default()
    };
    signed(verifier, &claims, now)
}

/// Signs and checks that what was signed is taken.
fn signed(verifier: &Verifier, claims: &Claims, now: OffsetDateTime) -> Result<String, Failure> {
    let token = verifier.sign(claims).map_err(Failure::config)?;
    let refused = |_| {
        let text = "the token would not be taken: one of its claims is too long, or --sub has control characters";
        Failure::new(Exit::Usage, text)
    };
    verifier.verify(&token, now).map(drop).map_err(refused)?;
    Ok(token)
}
