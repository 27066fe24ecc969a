//! Who is let in: the platform's version and the token's permissions. Permissions are looked up for every request, because they
//! may change at any time without a new token.

use crate::answers::Refusal;
use crate::config::AccessKnobs;
use crate::shared::{Shared, lock};
use axum::http::{HeaderMap, StatusCode, header};
use std::cmp::Ordering;
use std::net::IpAddr;

/// Checks `Platform-Version`.
pub(crate) fn version(knobs: &AccessKnobs, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(required) = &knobs.platform_version else { return Ok(()) };
    let refuse = |message: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    match headers.get("platform-version").map(|value| value.to_str().unwrap_or("")) {
        None => refuse("the header Platform-Version is required"),
        Some(given) => match compare(given, required) {
            None => refuse("Platform-Version is not a version"),
            Some(Ordering::Less) => refuse(&format!("Platform-Version must be {required} or higher")),
            Some(_) => Ok(()),
        },
    }
}

/// Checks that a request with a token comes from inside the VPN. Public reads need none and may come from anywhere.
pub(crate) fn vpn(knobs: &AccessKnobs, headers: &HeaderMap, address: IpAddr) -> Result<(), Refusal> {
    let Some(networks) = knobs.vpn.as_ref().filter(|_| headers.contains_key(header::AUTHORIZATION)) else {
        return Ok(());
    };
    if networks.iter().any(|network| holds(network, address)) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::FORBIDDEN, "authorised requests are accepted from the VPN only"))
}

/// Whether an address is in a network; none is in what is not a network.
fn holds(network: &str, address: IpAddr) -> bool {
    let (base, length) = network.split_once('/').unwrap_or((network, "128"));
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let (a, b, bits) = match (base, address.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    (a ^ b).checked_shr(bits - length.min(bits)).unwrap_or(0) == 0
}

/// Checks that the token of the request has one of the permissions.
pub(crate) fn permit(shared: &Shared, headers: &HeaderMap, any: &[String]) -> Result<(), Refusal> {
    let scheme = &shared.knobs().access.scheme;
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|given| given.strip_prefix(scheme.as_str()));
    let tokens = lock(&shared.tokens);
    let granted = token.and_then(|token| tokens.get(token));
    if granted.is_some_and(|granted| granted.contains("*") || any.iter().any(|need| granted.contains(need))) {
        return Ok(());
    }
    let message =
        if granted.is_some() { "the token has no permission for this" } else { "the token is missing or unknown" };
    Err(Refusal::new(StatusCode::FORBIDDEN, message))
}

/// Compares versions of dotted numbers; a missing part is zero, and a pre-release (`-rc1`) stands before its release.
fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (parts(a)?, parts(b)?);
    Some(
        (0..a.0.len().max(b.0.len()))
            .map(|n| a.0.get(n).unwrap_or(&0).cmp(b.0.get(n).unwrap_or(&0)))
            .find(|o| o.is_ne())
            .unwrap_or_else(|| b.1.cmp(&a.1)),
    )
}

fn parts(version: &str) -> Option<(Vec<u64>, bool)> {
    let version = version.trim().trim_start_matches('v');
    let (numbers, rest) = version.split_once('-').map_or((version, None), |(numbers, rest)| (numbers, Some(rest)));
    let numbers: Result<Vec<u64>, _> = numbers.split('+').next()?.split('.').take(8).map(str::parse).collect();
    Some((numbers.ok()?, rest.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |network, address: &str| holds(network, address.parse().unwrap());
        assert!(holds("10.8.0.0/16", "10.8.255.1") && !holds("10.8.0.0/16", "10.9.0.1"));
        assert!(holds("10.8.0.1", "10.8.0.1") && !holds("10.8.0.1", "10.8.0.2"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1") && !holds("nonsense", "127.0.0.1"));
    }

    #[test]
    fn versions_compare_by_number() {
        use Ordering::{Equal, Greater, Less};
        let cases = [("1.0", "1.0.0", Equal), ("1.10", "1.9", Greater), ("v2", "10", Less), ("1.0-rc1", "1.0", Less)];
        for (a, b, expected) in cases {
            assert_eq!(compare(a, b), Some(expected), "{a} {b}");
        }
        assert_eq!(compare("", "1"), None);
        assert_eq!(compare("one", "1"), None);
    }
}
